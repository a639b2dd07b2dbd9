//! The binary `paternoster`: the table of contents of a server's life.

use std::net::SocketAddr;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser as _;
use engine::clock::{Clock as _, SystemClock};
use futures_util::future::select_all;
use futures_util::stream::{self, Stream};
use server::app::App;
use server::args::{Args, Command, HealthArgs, ServeArgs};
use server::config::{Config, Machine};
use server::lifecycle::Lifecycle;
use server::load::{self, EngineFailure, StartedEngine};
use server::{logs, metrics, probe, serve};
use tokio::net::TcpListener;
use tokio::runtime::Builder;
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
    let machine = Machine::detect();
    let runtime = Builder::new_multi_thread()
        .worker_threads(edge_threads(machine))
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            return fail(&Failure {
                message: error.to_string(),
                exit_code: EXIT_OS,
            });
        }
    };
    let done = match args.command {
        Command::Serve(args) => runtime.block_on(run(*args, machine)),
        Command::Health(args) => runtime.block_on(health(&args)),
    };
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

async fn health(args: &HealthArgs) -> Result<(), Failure> {
    match probe::ask(args).await.code_and_text() {
        (0, _) => Ok(()),
        (exit_code, message) => Err(Failure { message, exit_code }),
    }
}

async fn run(args: ServeArgs, machine: Machine) -> Result<(), Failure> {
    let clock = SystemClock::default();
    let config = Config::resolve(args, machine).map_err(|error| Failure {
        message: error.to_string(),
        exit_code: EXIT_CONFIG,
    })?;
    let _logs = logs::install(config.log_format);
    let lifecycle = Lifecycle::default();
    tokio::spawn(lifecycle.clone().follow(signals()));
    let recorder = metrics::install(config.metrics_compat);
    let (listener, address) = listen(&config).await?;
    logs::loading(address, config.models.len());
    let limits = config.limits.clone();
    let format = config.log_format;
    let started = tokio::select! {
        started = tokio::task::spawn_blocking(move || load::start(&config)) => started,
        // Nobody was served yet, so nobody is waited for.
        () = lifecycle.drain_asked.cancelled() => return Ok(()),
    };
    let started = started.map_err(|error| Failure {
        message: error.to_string(),
        exit_code: EXIT_OS,
    })?;
    let started = started.map_err(|error| Failure {
        message: error.to_string(),
        exit_code: error.cause.exit_code(),
    })?;
    let mut app = App::new(started.registry, limits, recorder);
    app.lifecycle = lifecycle;
    let app = Arc::new(app);
    let announced = Arc::clone(&app);
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
    let mut serving = pin!(serve::serve(
        listener,
        Arc::clone(&app),
        std::future::pending()
    ));
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

/// Takes the address before anything is loaded, so that a taken one is said at once.
async fn listen(config: &Config) -> Result<(TcpListener, SocketAddr), Failure> {
    let listener = TcpListener::bind((config.hostname.as_str(), config.port)).await;
    listener
        .and_then(|listener| listener.local_addr().map(|address| (listener, address)))
        .map_err(|error| Failure {
            message: format!(
                "--hostname {} --port {}: {error}",
                config.hostname, config.port
            ),
            exit_code: EXIT_ADDRESS,
        })
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

/// An item for each SIGTERM and SIGINT.
fn signals() -> impl Stream<Item = ()> {
    let heard = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    );
    let heard = if let (Ok(terminate), Ok(interrupt)) = heard {
        Some((terminate, interrupt))
    } else {
        tracing::warn!("signals cannot be heard; only Control.Drain ends this server");
        None
    };
    stream::unfold(heard, async |heard| {
        let (mut terminate, mut interrupt) = heard?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Some(((), Some((terminate, interrupt))))
    })
}
