//! `paternoster serve`: the table of contents of a server's life.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
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
use crate::clock::EdgeClock;
use crate::config::{Config, LogFormat, Machine};
use crate::exit::{Exit, Failure};
use crate::lifecycle::Lifecycle;
use crate::load::{self, EngineFailure, Started, StartedEngine};
use crate::manager::Manager;
use crate::security::{Security, SecurityConfig};
use crate::trace::SpanSink;
use crate::transport::{Listeners, UnixSocket};
use crate::{failpoints, logs, metrics, serve};

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
    let logs = logs::install(config.log_format);
    tokio::spawn(logs.reporting());
    settings.log(config.log_format);
    failpoints::check().map_err(|error| Failure::new(Exit::Config, error))?;
    let lifecycle = Lifecycle::default();
    tokio::spawn(lifecycle.clone().follow(signals()));
    let recorder = metrics::install(&config.metrics_compat);
    let security = secure(&config)?;
    let listeners = listen(&config).await?;
    let address = listeners.main.local_addr().map_err(Failure::system)?;
    logs::loading(address, config.models.len());
    let manager = Manager::of(|name| std::env::var_os(name));
    manager.loading();
    let limits = config.limits.clone();
    let spans = spans(&config)?;
    let format = config.log_format;
    let started = tokio::select! {
        started = start(config) => started?,
        // Nobody was served yet, so nobody is waited for.
        () = lifecycle.drain_asked.cancelled() => {
            manager.stopping();
            return Ok(());
        }
    };
    let mut app = App::new(started.registry, limits, recorder);
    app.lifecycle = lifecycle;
    app.manager = manager;
    app.security = security;
    app.spans = spans.sink;
    let app = Arc::new(app);
    let ready = announce(Arc::clone(&app), format, address, clock);
    let mut engines = tokio::spawn(wait_all(started.engines));
    let mut serving = pin!(serve::serve(
        listeners,
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
    load_security(config)?;
    let known = known(config, &mut |line| println!("{line}"))?;
    load::check(&known).map_err(|error| Failure::new(error.cause.exit(), error))?;
    println!("configuration ok");
    Ok(())
}

/// Reads certificates and keys, and reads them again at each SIGHUP.
fn secure(config: &Config) -> Result<Arc<Security>, Failure> {
    let security = Arc::new(load_security(config)?);
    if security.keys.is_some() && security.tls.is_none() && !config.is_local() {
        tracing::warn!("API keys without --tls-cert: whoever sees the network reads them");
    }
    let reloaded = Arc::clone(&security);
    tokio::spawn(async move {
        // Without it, files are still looked at again and again.
        let Ok(mut hangups) = signal(SignalKind::hangup()) else {
            return;
        };
        while hangups.recv().await.is_some() {
            reloaded.reload();
        }
    });
    Ok(security)
}

fn load_security(config: &Config) -> Result<Security, Failure> {
    let loaded = Security::load(config.security.clone(), EdgeClock::default());
    loaded.map_err(|error| {
        let flag = flag_of(&config.security, &error.path);
        Failure::new(Exit::Config, format!("--{flag} {error}"))
    })
}

/// Who named this file.
fn flag_of(security: &SecurityConfig, path: &Path) -> &'static str {
    match &security.tls {
        Some(files) if files.cert == path => "tls-cert",
        Some(files) if files.key == path => "tls-key",
        Some(files) if files.client_ca.as_deref() == Some(path) => "tls-client-ca",
        _ => "api-keys-file",
    }
}

/// Takes the addresses before anything is loaded, so that a taken one is said at once.
async fn listen(config: &Config) -> Result<Listeners, Failure> {
    let bind = async |flag: &str, port: u16| {
        let hostname = config.hostname.as_str();
        let listener = TcpListener::bind((hostname, port)).await;
        listener.map_err(|error| {
            let message = format!("--hostname {hostname} --{flag} {port}: {error}");
            Failure::new(Exit::Address, message)
        })
    };
    let bind_unix = |path: &PathBuf| {
        UnixSocket::bind(path).map_err(|error| {
            let message = format!("--uds-path {}: {error}", path.display());
            Failure::new(Exit::Address, message)
        })
    };
    Ok(Listeners {
        main: bind("port", config.port).await?,
        probes: match config.health_port {
            Some(port) => Some(bind("health-port", port).await?),
            None => None,
        },
        unix: config.uds_path.as_ref().map(bind_unix).transpose()?,
    })
}

async fn start(config: Config) -> Result<Started, Failure> {
    let started = tokio::task::spawn_blocking(move || {
        let config = with_folders(config)?;
        load::start(&config).map_err(|error| Failure::new(error.cause.exit(), error))
    });
    started.await.map_err(Failure::system)?
}

#[cfg(feature = "hub")]
fn with_folders(config: Config) -> Result<Config, Failure> {
    crate::hub_models::with_folders(config)
}

/// What can be known of the models without a download.
#[cfg(feature = "hub")]
fn known(config: &Config, say: &mut dyn FnMut(&str)) -> Result<Config, Failure> {
    crate::hub_models::cached(config.clone(), say)
}

#[cfg(not(feature = "hub"))]
#[expect(clippy::unnecessary_wraps, reason = "as of the other build")]
fn known(config: &Config, _: &mut dyn FnMut(&str)) -> Result<Config, Failure> {
    Ok(config.clone())
}

#[cfg(not(feature = "hub"))]
#[expect(
    clippy::unnecessary_wraps,
    reason = "the other build has models to get"
)]
fn with_folders(config: Config) -> Result<Config, Failure> {
    Ok(config)
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
