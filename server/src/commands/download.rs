//! `paternoster download`.

use hub::Want;

use crate::args::inspect::DownloadArgs;
use crate::config::{Place, on_hub};
use crate::exit::{Exit, Failure};
use crate::hub_models;

/// Downloads a model and prints its folder.
pub(super) async fn run(args: DownloadArgs) -> Result<(), Failure> {
    let done = tokio::task::spawn_blocking(move || download(args)).await;
    done.map_err(Failure::system)?
}

fn download(args: DownloadArgs) -> Result<(), Failure> {
    let place = Place {
        revision: args.revision.as_deref(),
        pinned: args.hub.require_pinned,
    };
    let (model, revision) =
        on_hub(&args.model, place).map_err(|error| Failure::new(Exit::Config, error.message))?;
    let hub = hub_models::open(args.hub.huggingface_hub_cache)?;
    let snapshot = hub_models::fetch(&hub, (&model, &revision), Want::Everything)?;
    hub_models::say(&format!("{model}: complete at commit {}", snapshot.commit));
    answer(&snapshot.folder.display().to_string());
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the answer of a command")]
fn answer(line: &str) {
    println!("{line}");
}
