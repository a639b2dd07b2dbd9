//! `paternoster health`.

use crate::args::health::HealthArgs;
use crate::exit::Failure;
use crate::probe;

/// Asks once.
pub(super) async fn run(args: &HealthArgs) -> Result<(), Failure> {
    match probe::ask(args).await.code_and_text() {
        (0, _) => Ok(()),
        (exit_code, message) => Err(Failure { message, exit_code }),
    }
}
