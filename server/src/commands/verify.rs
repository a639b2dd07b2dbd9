//! `paternoster verify`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use hub::display::human;
use hub::verify::{Report, Verdict, verify};

use crate::args::inspect::VerifyArgs;
use crate::args::model::LoadFormat;
use crate::config::{Asked, Batching, Files, LogFormat, Place, on_hub};
use crate::exit::{Exit, Failure};
use crate::hub_models::{self, Watch};
use crate::load;

/// Hashes a model's files and says which are not what they should be.
pub(super) async fn run(args: VerifyArgs) -> Result<(), Failure> {
    let done = tokio::task::spawn_blocking(move || check(args)).await;
    done.map_err(Failure::system)?
}

fn check(args: VerifyArgs) -> Result<(), Failure> {
    let hub = hub_models::open(args.huggingface_hub_cache)?;
    let folders = if Path::new(&args.model).is_dir() {
        vec![PathBuf::from(&args.model)]
    } else {
        let place = Place {
            revision: args.revision.as_deref(),
            pinned: false,
        };
        let (model, revision) = on_hub(&args.model, place)
            .map_err(|error| Failure::new(Exit::Config, error.message))?;
        hub.snapshots(&model, args.revision.is_some().then_some(&revision))
    };
    if folders.is_empty() {
        let cache = hub.settings().cache.display();
        let message = format!("{} is not in the cache {cache}", args.model);
        return Err(Failure::new(Exit::Config, message));
    }
    let (mut bad, mut unverified) = (0, Vec::new());
    for folder in folders {
        let watch = Watch::new(&hub, "verify", LogFormat::Text, hub_models::say);
        let report = verify(&folder, watch.observer());
        watch.end();
        let report = report.map_err(|error| hub_models::failed(&error))?;
        bad += report.bad().count();
        answer(&text(&folder, &report));
        if !report.is_verified() {
            unverified.push((folder, report));
        }
    }
    if bad > 0 {
        let message = format!("{}: {bad} files are not what they should be", args.model);
        return Err(Failure::new(Exit::Data, message));
    }
    unverified
        .first()
        .map_or(Ok(()), |(folder, report)| Err(unverifiable(folder, report)))
}

/// What can be said where no hash is known of the weights: whether they are a model at all.
fn unverifiable(folder: &Path, report: &Report) -> Failure {
    let folder_name = folder.display();
    let architecture = match load::fits(&Files::Folder(folder.to_owned()), ASKED) {
        Ok(architecture) => architecture,
        Err(cause) => return Failure::new(cause.exit(), format!("{folder_name}: {cause}")),
    };
    let names: Vec<&str> = report.unknown().map(|file| file.name.as_str()).collect();
    let more = match names.len().saturating_sub(NAMES_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let names = names[..names.len().min(NAMES_MAX)].join(", ");
    let message = format!(
        "{folder_name}: nothing to verify against: no hash is known of {names}{more}. The files fit \
         together as {architecture}, but only a download from the hub leaves hashes: `paternoster \
         download`, or `hf download --local-dir`",
    );
    Failure::new(Exit::Config, message)
}

/// A line for each bad file, and one for the folder.
fn text(folder: &Path, report: &Report) -> String {
    let mut text = String::new();
    for file in report.bad() {
        let why = match &file.verdict {
            Verdict::Bad { expected, found } => format!("is {found}, should be {expected}"),
            Verdict::Missing => "is missing".to_owned(),
            Verdict::Unreadable(error) => error.to_string(),
            Verdict::Good | Verdict::Unknown => continue,
        };
        // Writing to a string cannot fail.
        let _ok = writeln!(text, "BAD {}: {why}", file.name);
    }
    let (all, good, bad) = (report.files.len(), report.good(), report.bad().count());
    let bytes = report.files.iter().map(|file| file.bytes).sum();
    let _ok = write!(
        text,
        "{}: {all} files, {}: {good} good, {bad} bad, {} of which no hash is known",
        folder.display(),
        human(bytes),
        all - good - bad,
    );
    if !report.has_weights() {
        text.push_str("; no weights among them");
    }
    text
}

/// Any flags: files fit together by themselves.
const ASKED: Asked = Asked {
    dtype: None,
    load_format: LoadFormat::Safetensors,
    pooling: None,
    batching: Batching {
        context_max: None,
        step_tokens_max: 1,
        running_max: 1,
        waiting_max: 1,
        encode_tokens_max: 1,
        encode_inputs_max: 1,
        // As much as any model's context takes.
        kv_cache_bytes: 1 << 40,
        threads: 1,
        tokenization_workers: 1,
    },
};
/// Names of files in a message.
const NAMES_MAX: usize = 4;

#[expect(clippy::print_stdout, reason = "the answer of a command")]
fn answer(text: &str) {
    println!("{text}");
}
