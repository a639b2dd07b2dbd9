//! The binary `paternoster`: the table of contents of a server's life.

use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser as _;
use engine::clock::{Clock as _, SystemClock};
use futures_util::future::select_all;
use server::app::App;
use server::args::{Args, Command, HealthArgs, ServeArgs};
use server::config::{Config, Machine};
use server::load::{self, EngineFailure, StartedEngine};
use server::{logs, metrics, probe, serve};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The command line or a configuration file is wrong.
const EXIT_CONFIG: u8 = 78;
/// The operating system refused something.
const EXIT_OS: u8 = 71;
/// The address is taken or cannot be listened on.
const EXIT_ADDRESS: u8 = 69;

/// Why the process ends early: what to print, and the exit code.
struct Failure {
    message: String,
    exit_code: u8,
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Nothing can be done if even the help cannot be printed.
            let _printed = error.print();
            let exit_code = if error.use_stderr() { EXIT_CONFIG } else { 0 };
            return ExitCode::from(exit_code);
        }
    };
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            return fail(&Failure {
                message: error.to_string(),
                exit_code: EXIT_OS,
            });
        }
    };
    let done = match args.command {
        Command::Serve(args) => runtime.block_on(run(*args)),
        Command::Health(args) => runtime.block_on(health(&args)),
    };
    runtime.shutdown_background();
    done.map_or_else(|failure| fail(&failure), |()| ExitCode::SUCCESS)
}

#[expect(
    clippy::print_stderr,
    reason = "the last words of a process that may have no logs"
)]
fn fail(failure: &Failure) -> ExitCode {
    eprintln!("paternoster: {}", failure.message);
    ExitCode::from(failure.exit_code)
}

async fn health(args: &HealthArgs) -> Result<(), Failure> {
    match probe::ask(args).await.code_and_text() {
        (0, _) => Ok(()),
        (exit_code, message) => Err(Failure { message, exit_code }),
    }
}

async fn run(args: ServeArgs) -> Result<(), Failure> {
    let clock = SystemClock::default();
    let config = Config::resolve(args, Machine::detect()).map_err(|error| Failure {
        message: error.to_string(),
        exit_code: EXIT_CONFIG,
    })?;
    let _logs = logs::install(config.log_format);
    let recorder = metrics::install();
    let listener = TcpListener::bind((config.hostname.as_str(), config.port)).await;
    let (listener, address) = listener
        .and_then(|listener| listener.local_addr().map(|address| (listener, address)))
        .map_err(|error| {
            let message = format!(
                "--hostname {} --port {}: {error}",
                config.hostname, config.port
            );
            Failure {
                message,
                exit_code: EXIT_ADDRESS,
            }
        })?;
    logs::loading(address, config.models.len());
    let started = load::start(&config).map_err(|error| Failure {
        message: error.to_string(),
        exit_code: error.cause.exit_code(),
    })?;
    let app = Arc::new(App::new(started.registry, config.limits.clone(), recorder));
    let announced = Arc::clone(&app);
    let format = config.log_format;
    let ready = tokio::spawn(async move {
        let mut readiness = announced.readiness.subscribe();
        if readiness
            .wait_for(|readiness| readiness.ready)
            .await
            .is_ok()
        {
            logs::ready(format, address, &announced.registry, clock.now().0 / 1000);
        }
    });
    let mut engines = tokio::spawn(wait_all(started.engines));
    let mut serving = pin!(serve::serve(listener, Arc::clone(&app), signals(&app)));
    let os = |error: std::io::Error| Failure {
        message: error.to_string(),
        exit_code: EXIT_OS,
    };
    tokio::select! {
        served = serving.as_mut() => served.map_err(os),
        failed = &mut engines => {
            // Whoever is served by the other models may come to an end.
            if ready.is_finished() {
                app.lifecycle.drain_asked.cancel();
                serving.await.map_err(os)?;
            }
            Err(failure(failed))
        }
    }
}

/// Returns with the first engine that fails; engines that end well are left out.
async fn wait_all(engines: Vec<StartedEngine>) -> EngineFailure {
    let mut waits: Vec<_> = engines
        .into_iter()
        .map(|engine| Box::pin(engine.wait()))
        .collect();
    while !waits.is_empty() {
        let (ended, _, rest) = select_all(waits).await;
        if let Err(failure) = ended {
            return failure;
        }
        waits = rest;
    }
    std::future::pending().await
}

fn failure(failed: Result<EngineFailure, tokio::task::JoinError>) -> Failure {
    match failed {
        Ok(failed) => Failure {
            message: failed.message,
            exit_code: failed.exit_code,
        },
        Err(error) => Failure {
            message: error.to_string(),
            exit_code: EXIT_OS,
        },
    }
}

/// Returns with the first SIGTERM or SIGINT; the second one aborts what still runs.
async fn signals(app: &Arc<App>) {
    let (Ok(mut terminate), Ok(mut interrupt)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        tracing::warn!("signals cannot be heard; only Control.Drain ends this server");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let app = Arc::clone(app);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        app.lifecycle.abort.cancel();
    });
}
