//! The simulator alone, without a server around it: the flags of `paternoster simulate`.

use std::process::ExitCode;

use clap::Parser;
use simulator::args::SimulateArgs;
use simulator::command::simulate;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    args: SimulateArgs,
}

fn main() -> ExitCode {
    match simulate(&Line::parse().args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
