//! `paternoster bench`.

use ::load::args::BenchArgs;
use ::load::command;
use tokio_util::sync::CancellationToken;

use crate::exit::Failure;

/// Puts a server under load. Ctrl-C ends the load, and what there is by then is reported.
pub(super) async fn run(args: BenchArgs) -> Result<(), Failure> {
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stopped.cancel();
        }
    });
    command::bench(args, stop).await.map_err(|error| Failure {
        message: error.to_string(),
        exit_code: error.exit_code(),
    })
}
