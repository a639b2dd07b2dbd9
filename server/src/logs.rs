//! Logs, and the few lines a person wants to see when the server comes up.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::time::Duration;

use metrics::counter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::args::settings::{Setting, Source};
use crate::clock::EdgeClock;
use crate::config::LogFormat;
use crate::metrics::LINES_LOST;
use crate::registry::{Registry, Served};
use crate::throttle::Throttle;

/// Lines that wait to be written; more are dropped.
const LINES_MAX: usize = 16 << 10;

/// Between two looks at lines that were held back or lost.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Writes what is left when it is dropped.
#[derive(Debug)]
#[must_use = "lines are written until this is dropped"]
pub struct Logs {
    throttle: Throttle,
    lost: ErrorCounter,
    _writer: WorkerGuard,
}

impl Logs {
    /// Says, again and again, how many lines were held back or lost. Run as a task of its own.
    pub(crate) fn reporting(&self) -> impl Future<Output = ()> + use<> {
        let (throttle, lost) = (self.throttle.clone(), self.lost.clone());
        async move {
            let mut ticks = tokio::time::interval(REPORT_INTERVAL);
            loop {
                ticks.tick().await;
                throttle.report();
                counter!(LINES_LOST).absolute(lost.dropped_lines() as u64);
            }
        }
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        self.throttle.report();
    }
}

/// Logs to standard error from here on. A second call changes nothing.
///
/// A thread of its own writes: whoever reads the logs too slowly, or not at all, loses lines and
/// stops no request.
pub fn install(format: LogFormat) -> Logs {
    let asked = std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_default();
    let (mut filter, mistake) = filter(&asked);
    // At its finest the HTTP client shows addresses whole, and those of downloads are signed.
    for quiet in ["ureq=warn", "ureq_proto=warn"] {
        if let Ok(directive) = quiet.parse() {
            filter = filter.add_directive(directive);
        }
    }
    let (writer, guard) = NonBlockingBuilder::default()
        .thread_name("logs")
        .buffered_lines_limit(LINES_MAX)
        .finish(std::io::stderr());
    let throttle = Throttle::new(EdgeClock::default());
    let logs = Logs {
        throttle: throttle.clone(),
        lost: writer.error_counter(),
        _writer: guard,
    };
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer);
    // Failing means that a subscriber was installed before, which then stays.
    let _installed = match format {
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true);
            lines.finish().with(throttle).try_init()
        }
        LogFormat::Text => {
            let lines = lines.with_ansi(std::io::stderr().is_terminal());
            lines.with_target(false).finish().with(throttle).try_init()
        }
    };
    if let Some(mistake) = mistake {
        tracing::warn!(mistake, "RUST_LOG is not understood; logging at info");
    }
    std::panic::set_hook(Box::new(|panic| {
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        let backtrace = std::backtrace::Backtrace::capture();
        // The message may hold what a user sent; its place is enough to find it.
        tracing::error!(place, %backtrace, "panic");
    }));
    logs
}

/// What to log, and what is wrong with how it was asked for.
fn filter(asked: &str) -> (EnvFilter, Option<String>) {
    if asked.is_empty() {
        return (EnvFilter::new("info"), None);
    }
    match EnvFilter::try_new(asked) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error.to_string())),
    }
}

/// The effective configuration, for one line of the log.
#[derive(Debug)]
pub struct Settings {
    given: String,
    defaults: String,
}

/// The effective configuration: what somebody set, with who did, and what nobody did.
pub fn settings(settings: &[Setting]) -> Settings {
    let (defaults, given): (Vec<&Setting>, Vec<&Setting>) = settings
        .iter()
        .partition(|setting| setting.source == Source::Default);
    let line = |settings: Vec<&Setting>| {
        let words: Vec<String> = settings.iter().map(ToString::to_string).collect();
        words.join(" ")
    };
    Settings {
        given: line(given),
        defaults: line(defaults),
    }
}

impl Settings {
    /// Writes the line; for people without what nobody set, which `--help` has.
    pub fn log(self, format: LogFormat) {
        let Self { given, defaults } = self;
        match format {
            LogFormat::Json => tracing::info!(given, defaults, "configuration"),
            LogFormat::Text if given.is_empty() => {
                tracing::info!("configuration: all defaults");
            }
            LogFormat::Text => tracing::info!(given, "configuration; all else is default"),
        }
    }
}

/// Says that a server listens and is about to load its models.
pub fn loading(address: SocketAddr, models: usize) {
    tracing::info!(%address, models, "listening; loading models");
}

/// Says what is served, once everything is.
pub fn ready(format: LogFormat, address: SocketAddr, registry: &Registry, ready_ms: u64) {
    match format {
        LogFormat::Json => {
            for model in registry.models() {
                tracing::info!(model = model.name(), about = line(model), "serving");
            }
            tracing::info!(%address, ready_ms, "ready");
        }
        LogFormat::Text => tracing::info!("{}", banner(address, registry, ready_ms)),
    }
}

fn banner(address: SocketAddr, registry: &Registry, ready_ms: u64) -> String {
    let mut banner = format!("paternoster {}\n", env!("CARGO_PKG_VERSION"));
    let width = registry
        .models()
        .iter()
        .map(|model| model.name().len())
        .max()
        .unwrap_or(0);
    for model in registry.models() {
        // Writing to a string cannot fail.
        let _ok = writeln!(banner, "  {:width$}  {}", model.name(), line(model));
    }
    let _ok = write!(
        banner,
        "  gRPC and /metrics /health /ready on {address}, ready in {ready_ms} ms"
    );
    banner
}

fn line(model: &Served) -> String {
    let facts = model.facts();
    let size = count(facts.parameters);
    let common = format!("{}, {size} parameters, {}", facts.architecture, facts.dtype);
    match model {
        Served::Decoder(decoder) => {
            let blocks = decoder.handle.stats().blocks_total;
            let (context, tokens) = (facts.context_tokens_max, facts.kv_block_tokens);
            format!("{common}, context {context}, {blocks} KV blocks of {tokens}")
        }
        Served::Encoder(_) => {
            let (context, width) = (facts.context_tokens_max, facts.width);
            format!("{common}, inputs of {context} tokens, vectors of {width}")
        }
    }
}

/// A number with its magnitude: 134.5 M.
fn count(number: u64) -> String {
    let number = number as f64;
    match number {
        n if n >= 1e9 => format!("{:.1} B", n / 1e9),
        n if n >= 1e6 => format!("{:.1} M", n / 1e6),
        n => format!("{:.0} k", n / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::{count, filter};

    #[test]
    fn a_mistake_in_the_filter_is_said() {
        for (asked, logged) in [("", "info"), ("warn,server=debug", "server=debug,warn")] {
            let (filter, mistake) = filter(asked);
            assert_eq!((filter.to_string().as_str(), mistake), (logged, None));
        }
        let (filter, mistake) = filter("info,server=loud");
        assert_eq!(filter.to_string(), "info");
        assert!(mistake.is_some());
    }

    #[test]
    fn numbers_have_their_magnitude() {
        assert_eq!(count(134_515_008), "134.5 M");
        assert_eq!(count(7_600_000_000), "7.6 B");
        assert_eq!(count(90_112), "90 k");
    }
}
