//! `paternoster simulate`.

use ::simulator::args::SimulateArgs;
use ::simulator::command::simulate;

use crate::exit::Failure;

/// The exit code of a run that ended in an error of ours.
const INTERNAL: u8 = 70;

/// Simulates on a thread that may be busy for long.
pub(super) async fn run(args: SimulateArgs) -> Result<(), Failure> {
    let done = tokio::task::spawn_blocking(move || simulate(&args)).await;
    let failure = match done {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => Failure {
            message: error.to_string(),
            exit_code: error.exit_code(),
        },
        Err(panicked) => Failure {
            message: format!("the simulation failed: {panicked}"),
            exit_code: INTERNAL,
        },
    };
    Err(failure)
}
