//! What each sub-command does: one file for each, named like it.

use crate::args::Command;
use crate::config::Machine;
use crate::exit::Failure;

mod bench;
mod health;
mod serve;

/// Does what was asked, to its end.
pub async fn run(command: Command, machine: Machine) -> Result<(), Failure> {
    match command {
        Command::Serve(args) => serve::run(*args, machine).await,
        Command::Health(args) => health::run(&args).await,
        Command::Bench(args) => bench::run(*args).await,
    }
}
