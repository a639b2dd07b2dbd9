//! What a service manager hears: over a socket as systemd makes one, from an edge with fake devices and
//! from the binary.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::process::{Command, Stdio};

use engine::fake::Fault;
use server::manager::Manager;
use tokio::net::UnixDatagram;

use crate::world::{Plan, World, ask, soon};

/// What systemd would be.
struct Systemd {
    socket: UnixDatagram,
    _folder: tempfile::TempDir,
    variables: BTreeMap<String, String>,
}

impl Systemd {
    /// One that hears, and wants to hear again within so many microseconds; 0: it keeps no watchdog.
    fn new(watchdog_us: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let pairs = [
            ("NOTIFY_SOCKET", path.to_str().unwrap().to_owned()),
            ("WATCHDOG_USEC", watchdog_us.to_string()),
        ];
        Self {
            socket: UnixDatagram::bind(&path).unwrap(),
            _folder: folder,
            variables: pairs.map(|(name, value)| (name.to_owned(), value)).into(),
        }
    }

    fn manager(&self) -> Manager {
        Manager::of(|name| self.variables.get(name).map(OsString::from))
    }

    /// The next message.
    async fn hears(&self) -> String {
        let mut buffer = [0; 256];
        let length = soon(self.socket.recv(&mut buffer)).await.unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    /// The next message that is no sign of life.
    async fn hears_of(&self) -> String {
        loop {
            let heard = self.hears().await;
            if heard != ALIVE {
                return heard;
            }
        }
    }
}

const ALIVE: &str = "WATCHDOG=1";
const STOPPING: &str = "STOPPING=1\nSTATUS=draining";

#[tokio::test]
async fn the_manager_hears_of_every_change() {
    let systemd = Systemd::new(20_000);
    let world = World::start(Plan {
        manager: systemd.manager(),
        ..Plan::default()
    })
    .await;
    assert_eq!(systemd.hears_of().await, "READY=1\nSTATUS=serving 2 models");
    assert_eq!(systemd.hears().await, ALIVE);
    assert_eq!(systemd.hears().await, ALIVE);

    // A restart is no second start, and no reason to be killed.
    world.device.hang_starts();
    world.device.fail_next(Fault::Error);
    let stream = world.client.generate(ask("hello", 8)).await.unwrap();
    assert_eq!(systemd.hears_of().await, "STATUS=an engine restarts");
    assert_eq!(systemd.hears().await, ALIVE);
    world.device.release_hung();
    assert_eq!(systemd.hears_of().await, "STATUS=serving 2 models");
    drop(stream);

    world.shutdown.cancel();
    assert_eq!(systemd.hears_of().await, STOPPING);
    world.ended().await;
}

#[tokio::test]
async fn the_manager_hears_of_an_engine_that_is_down() {
    let systemd = Systemd::new(0);
    let world = World::ready_with(Plan {
        manager: systemd.manager(),
        ..Plan::default()
    })
    .await;
    assert!(systemd.hears().await.starts_with("READY=1\n"));
    world.device.fail_starts(100);
    world.device.fail_next(Fault::Error);
    drop(world.client.generate(ask("hello", 8)).await);
    assert_eq!(systemd.hears().await, "STATUS=an engine restarts");
    assert_eq!(systemd.hears().await, "STATUS=an engine is down");
}

#[test]
fn a_manager_that_is_not_there_is_done_without() {
    let of = |pairs: &[(&str, &str)]| {
        let manager = Manager::of(|name| {
            let mut found = pairs.iter().filter(|(key, _)| *key == name);
            found.next().map(|(_, value)| OsString::from(value))
        });
        manager.stopping();
        format!("{manager:?}")
    };
    for none in ["", "/nowhere/at/all", "@nobody"] {
        let manager = of(&[("NOTIFY_SOCKET", none), ("WATCHDOG_USEC", "1000000")]);
        assert_eq!(manager, "Manager { socket: None, watchdog: None }");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let _socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    let path = path.to_str().unwrap();
    let watchdog = |micros, id| {
        of(&[
            ("NOTIFY_SOCKET", path),
            ("WATCHDOG_USEC", micros),
            ("WATCHDOG_PID", id),
        ])
    };
    let own = std::process::id().to_string();
    assert!(watchdog("3000000", &own).ends_with("watchdog: Some(3s) }"));
    for (micros, id) in [
        ("3000000", "1"),
        ("0", &own),
        ("soon", &own),
        ("3000000", "x"),
    ] {
        let manager = watchdog(micros, id);
        assert!(
            manager.ends_with("watchdog: None }"),
            "{micros} {id}: {manager}"
        );
    }
}

#[tokio::test]
async fn the_binary_tells_its_manager() {
    let systemd = Systemd::new(100_000);
    let mut server = Command::new(env!("CARGO_BIN_EXE_paternoster"))
        .args(["serve", "--port", "0", "--kv-cache-size", "16MiB"])
        .env_clear()
        .envs(&systemd.variables)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    assert_eq!(systemd.hears_of().await, "STATUS=loading models");
    assert_eq!(systemd.hears_of().await, "READY=1\nSTATUS=serving 2 models");
    assert_eq!(systemd.hears().await, ALIVE);
    let id = server.id().to_string();
    assert!(Command::new("kill").arg(&id).status().unwrap().success());
    assert_eq!(systemd.hears_of().await, STOPPING);
    assert!(server.wait().unwrap().success());
}
