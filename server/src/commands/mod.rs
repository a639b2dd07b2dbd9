//! What each sub-command does: one file for each, named like it.

use crate::args::Command;
use crate::config::Machine;
use crate::exit::Failure;

mod bench;
#[cfg(feature = "hub")]
mod download;
mod health;
mod info;
mod serve;
mod simulate;
#[cfg(feature = "hub")]
mod verify;

/// Does what was asked, to its end.
pub async fn run(command: Command, machine: Machine) -> Result<(), Failure> {
    match command {
        Command::Serve(args) => serve::run(*args, machine).await,
        Command::Health(args) => health::run(&args).await,
        Command::Bench(args) => bench::run(*args).await,
        Command::Simulate(args) => simulate::run(*args).await,
        #[cfg(feature = "hub")]
        Command::Download(args) => download::run(args).await,
        #[cfg(feature = "hub")]
        Command::Verify(args) => verify::run(args).await,
        Command::Info(args) => info::run(*args, machine).await,
    }
}
