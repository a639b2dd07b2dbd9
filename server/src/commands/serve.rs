//! `paternoster serve`: the table of contents of a server's life.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use engine::clock::{Clock as _, SystemClock};
use futures_util::future::select_all;
use futures_util::stream::{self, Stream};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinError, JoinHandle};

use crate::app::App;
use crate::args::ServeArgs;
use crate::config::{Config, LogFormat, Machine};
use crate::exit::{Exit, Failure};
use crate::lifecycle::Lifecycle;
use crate::load::{self, EngineFailure, Started, StartedEngine};
use crate::trace::SpanSink;
use crate::{logs, metrics, serve};

/// Serves until it is told to stop, or until an engine is down for good.
pub(super) async fn run(args: ServeArgs, machine: Machine) -> Result<(), Failure> {
    let clock = SystemClock::default();
    let settings = logs::settings(&args.settings);
    let only_check = args.configuration.check_config;
    let config =
        Config::resolve(args, machine).map_err(|error| Failure::new(Exit::Config, error))?;
    if only_check {
        return check(&config);
    }
    let _logs = logs::install(config.log_format);
    settings.log();
    let lifecycle = Lifecycle::default();
    tokio::spawn(lifecycle.clone().follow(signals()));
    let recorder = metrics::install(config.metrics_compat);
    let (listener, address) = listen(&config).await?;
    logs::loading(address, config.models.len());
    let limits = config.limits.clone();
    let spans = spans(&config)?;
    let format = config.log_format;
    let started = tokio::select! {
        started = start(config) => started?,
        // Nobody was served yet, so nobody is waited for.
        () = lifecycle.drain_asked.cancelled() => return Ok(()),
    };
    let mut app = App::new(started.registry, limits, recorder);
    app.lifecycle = lifecycle;
    app.spans = spans.sink;
    let app = Arc::new(app);
    let ready = announce(Arc::clone(&app), format, address, clock);
    let mut engines = tokio::spawn(wait_all(started.engines));
    let mut serving = pin!(serve::serve(
        listener,
        Arc::clone(&app),
        std::future::pending()
    ));
    let ended = tokio::select! {
        served = serving.as_mut() => served.map_err(Failure::system),
        failed = &mut engines => {
            // Whoever is served by the other models may come to an end.
            if ready.is_finished() {
                app.lifecycle.drain_asked.cancel();
                serving.await.map_err(Failure::system)?;
            }
            Err(failure(failed))
        }
    };
    #[cfg(feature = "otlp")]
    if let Some(exporting) = spans.exporting {
        exporting.finish().await;
    }
    ended
}

/// Where calls that have ended are told of, if anywhere.
#[derive(Default)]
struct Spans {
    sink: Option<SpanSink>,
    #[cfg(feature = "otlp")]
    exporting: Option<crate::otlp::Exporting>,
}

#[cfg(feature = "otlp")]
fn spans(config: &Config) -> Result<Spans, Failure> {
    let Some(traces) = &config.traces else {
        return Ok(Spans::default());
    };
    let (sink, exporting) =
        crate::otlp::start(traces).map_err(|error| Failure::new(Exit::Config, error))?;
    Ok(Spans {
        sink: Some(sink),
        exporting: Some(exporting),
    })
}

#[cfg(not(feature = "otlp"))]
#[expect(clippy::unnecessary_wraps, reason = "the other build can fail")]
fn spans(_: &Config) -> Result<Spans, Failure> {
    Ok(Spans::default())
}

/// Says whether this configuration could be served, as far as that can be known without serving it.
#[expect(clippy::print_stdout, reason = "the answer of this command")]
fn check(config: &Config) -> Result<(), Failure> {
    load::check(config).map_err(|error| Failure::new(error.cause.exit(), error))?;
    println!("configuration ok");
    Ok(())
}

/// Takes the address before anything is loaded, so that a taken one is said at once.
async fn listen(config: &Config) -> Result<(TcpListener, SocketAddr), Failure> {
    let (hostname, port) = (config.hostname.as_str(), config.port);
    let listener = TcpListener::bind((hostname, port)).await;
    listener
        .and_then(|listener| listener.local_addr().map(|address| (listener, address)))
        .map_err(|error| {
            let message = format!("--hostname {hostname} --port {port}: {error}");
            Failure::new(Exit::Address, message)
        })
}

async fn start(config: Config) -> Result<Started, Failure> {
    let started = tokio::task::spawn_blocking(move || load::start(&config)).await;
    started
        .map_err(Failure::system)?
        .map_err(|error| Failure::new(error.cause.exit(), error))
}

/// Says what is served as soon as everything is.
fn announce(
    app: Arc<App>,
    format: LogFormat,
    address: SocketAddr,
    clock: SystemClock,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut readiness = app.readiness.subscribe();
        let ready = readiness.wait_for(|readiness| readiness.ready).await;
        if ready.is_ok() {
            logs::ready(format, address, &app.registry, clock.now().0 / 1000);
        }
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

fn failure(failed: Result<EngineFailure, JoinError>) -> Failure {
    match failed {
        Ok(failed) => Failure::new(failed.exit, failed.message),
        Err(error) => Failure::system(error),
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
