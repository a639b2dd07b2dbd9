//! What the service manager is told, by the protocol of systemd's `sd_notify`: that the server is
//! ready, that it stops, and, again and again, that it is alive. Where no manager asks, nothing is said.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::health::Readiness;

/// Whoever started this process and wants to hear of it.
#[derive(Debug, Default)]
pub struct Manager {
    socket: Option<UnixDatagram>,
    /// Silence for so long is taken for death.
    watchdog: Option<Duration>,
}

impl Manager {
    /// The manager that the environment names; `variable` looks one up.
    pub fn of(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let Some(path) = variable("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else {
            return Self::default();
        };
        let socket = match connect(&path) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(%error, ?path, "NOTIFY_SOCKET leads to no service manager");
                return Self::default();
            }
        };
        let number = |name: &str| variable(name)?.to_str()?.parse::<u64>().ok();
        let is_meant = variable("WATCHDOG_PID").is_none()
            || number("WATCHDOG_PID") == Some(std::process::id().into());
        let micros = number("WATCHDOG_USEC").filter(|micros| is_meant && *micros > 0);
        Self {
            socket: Some(socket),
            watchdog: micros.map(Duration::from_micros),
        }
    }

    /// Models are downloaded and loaded.
    pub fn loading(&self) {
        self.tell("STATUS=loading models");
    }

    /// The end has begun.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=draining");
    }

    /// A sign of life, if this is life.
    fn beat(&self, readiness: Readiness) {
        if readiness.alive {
            self.tell("WATCHDOG=1");
        }
    }

    /// A manager that does not listen is not waited for.
    fn tell(&self, message: &str) {
        if let Some(socket) = &self.socket {
            let _lost = socket.send(message.as_bytes());
        }
    }
}

fn connect(path: &OsStr) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    match path.as_encoded_bytes().strip_prefix(b"@") {
        #[cfg(target_os = "linux")]
        Some(name) => {
            use std::os::linux::net::SocketAddrExt as _;
            use std::os::unix::net::SocketAddr;
            socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?;
        }
        _ => socket.connect(path)?,
    }
    Ok(socket)
}

/// Tells the manager of every change, and that it is alive for as long as no engine is down for good.
/// Run as a task of its own: it also falls silent when the edge does not get to run any more.
pub(crate) async fn follow(app: Arc<App>, stop: CancellationToken) {
    let manager = &app.manager;
    if manager.socket.is_none() {
        return;
    }
    let mut readiness = app.readiness.subscribe();
    // It may have been ready before this task got to run.
    readiness.mark_changed();
    // Half of the time, as systemd asks for; a watchdog that nobody keeps is looked at never.
    let interval = manager.watchdog.map(|limit| limit / 2);
    let mut ticks = tokio::time::interval(interval.unwrap_or(FOREVER).max(INTERVAL_MIN));
    let (mut was_ready, mut told) = (false, Readiness::default());
    loop {
        tokio::select! {
            changed = readiness.changed() => if changed.is_err() { return },
            _ = ticks.tick(), if interval.is_some() => {
                manager.beat(*readiness.borrow());
                continue;
            }
        }
        let now = *readiness.borrow_and_update();
        // What changes from here on is the drain, which was told of.
        if now == told || stop.is_cancelled() {
            continue;
        }
        told = now;
        let models = app.registry.models().len();
        match now {
            Readiness { ready: true, .. } if was_ready => {
                manager.tell(&format!("STATUS=serving {models} models"));
            }
            Readiness { ready: true, .. } => {
                was_ready = true;
                manager.tell(&format!("READY=1\nSTATUS=serving {models} models"));
            }
            Readiness { alive: false, .. } => manager.tell("STATUS=an engine is down"),
            Readiness { .. } if was_ready => manager.tell("STATUS=an engine restarts"),
            Readiness { .. } => {}
        }
    }
}

const FOREVER: Duration = Duration::from_hours(1);
/// A watchdog that wants to hear more often is not believed.
const INTERVAL_MIN: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_restarts_or_drains_lives_and_what_is_down_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let systemd = UnixDatagram::bind(&path).unwrap();
        systemd.set_nonblocking(true).unwrap();
        let manager = Manager::of(|name| (name == "NOTIFY_SOCKET").then(|| path.clone().into()));
        let hears = |readiness| {
            manager.beat(readiness);
            let mut buffer = [0; 64];
            let length = systemd.recv(&mut buffer).unwrap_or(0);
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        };
        let state = |ready, alive| Readiness { ready, alive };
        assert_eq!(hears(state(true, true)), "WATCHDOG=1");
        assert_eq!(hears(state(false, true)), "WATCHDOG=1");
        assert_eq!(hears(state(false, false)), "");
    }
}
