//! `paternoster verify`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use hub::display::human;
use hub::verify::{Report, Verdict, verify};

use crate::args::inspect::VerifyArgs;
use crate::config::{LogFormat, Place, on_hub};
use crate::exit::{Exit, Failure};
use crate::hub_models::{self, Watch};

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
    let mut bad = 0;
    for folder in &folders {
        let watch = Watch::new(&hub, "verify", LogFormat::Text, hub_models::say);
        let report = verify(folder, watch.observer());
        watch.end();
        let report = report.map_err(|error| hub_models::failed(&error))?;
        bad += report.bad().count();
        answer(&text(folder, &report));
    }
    match bad {
        0 => Ok(()),
        bad => {
            let message = format!("{}: {bad} files are not what they should be", args.model);
            Err(Failure::new(Exit::Data, message))
        }
    }
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
    text
}

#[expect(clippy::print_stdout, reason = "the answer of a command")]
fn answer(text: &str) {
    println!("{text}");
}
