//! The binary `paternoster`: reads the command line, makes the runtime, ends with an exit code.

use std::process::ExitCode;

use server::args::{Args, ReadError};
use server::commands;
use server::config::Machine;
use server::exit::{Exit, Failure};
use tokio::runtime::Builder;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = match Args::read(std::env::args_os()) {
        Ok(args) => args,
        Err(ReadError::Typed(error)) => {
            // Nothing can be done if even the help cannot be printed.
            let _printed = error.print();
            let exit_code = if error.use_stderr() {
                Exit::Config.code()
            } else {
                0
            };
            return ExitCode::from(exit_code);
        }
        Err(ReadError::File(error)) => return fail(&Failure::new(Exit::Config, error)),
    };
    let machine = Machine::detect();
    let runtime = Builder::new_multi_thread()
        .worker_threads(edge_threads(machine))
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&Failure::system(error)),
    };
    let done = runtime.block_on(commands::run(args.command, machine));
    runtime.shutdown_background();
    done.map_or_else(|failure| fail(&failure), |()| ExitCode::SUCCESS)
}

/// Threads of the edge: half the cores, 2 to 4. It only moves bytes and small texts; the cores are
/// for --threads, which compute.
fn edge_threads(machine: Machine) -> usize {
    (machine.cores / 2).clamp(2, 4)
}

#[expect(
    clippy::print_stderr,
    reason = "the last words of a process that may have no logs"
)]
fn fail(failure: &Failure) -> ExitCode {
    eprintln!("paternoster: {}", failure.message);
    ExitCode::from(failure.exit_code)
}
