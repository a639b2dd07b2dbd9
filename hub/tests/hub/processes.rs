//! Real processes: two that start at once, one that is killed, one whose files may not grow.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};

use hub::observe::Unobserved;
use hub::{Hub, Settings, Want};

use crate::server::{FakeHub, MODEL, NEEDED, SHARD, assert_whole, files, shard_blob};

const CACHE: &str = "HUB_TEST_CACHE";

/// What the other tests start as a process: downloads and exits as the binary would.
#[test]
fn child() {
    let Some(cache) = std::env::var_os(CACHE) else {
        return;
    };
    let settings = Settings::from_variables(|name| std::env::var_os(name), Some(cache.into()));
    let hub = Hub::new(settings.unwrap()).unwrap();
    let (model, main) = (MODEL.parse().unwrap(), "main".parse().unwrap());
    match hub.fetch(&model, &main, Want::Everything, &Unobserved) {
        Ok(snapshot) => assert_whole(&snapshot),
        Err(error) => panic!("exit code {}: {error}", error.exit_code()),
    }
}

/// That test, in a process of its own, behind `prefix`.
fn process(hub: &FakeHub, cache: &Path, prefix: &str) -> Command {
    let mut command = Command::new("bash");
    command
        .args(["-c", &format!("{prefix} exec \"$0\" \"$@\"")])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "processes::child", "--nocapture"])
        .env("HF_ENDPOINT", &hub.contents.hub)
        .env(CACHE, cache)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn text(output: &Output) -> String {
    let all = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&all).into_owned()
}

/// A number that threads wait for.
#[derive(Default)]
struct Count(Mutex<usize>, Condvar);

impl Count {
    fn add(&self) {
        *self.0.lock().unwrap() += 1;
        self.1.notify_all();
    }

    fn wait_for(&self, count: usize) {
        let now = self.0.lock().unwrap();
        drop(self.1.wait_while(now, |now| *now < count).unwrap());
    }
}

#[test]
fn two_at_once_download_each_blob_once() {
    let started = Arc::new(Count::default());
    let hub = FakeHub::hooked({
        let started = Arc::clone(&started);
        move |request, _| {
            if request.path.contains("/tree/") {
                started.add();
            }
            // The weights of the first come when the second is under way.
            if request.is_cdn {
                started.wait_for(2);
            }
            None
        }
    });
    let cache = tempfile::tempdir().unwrap();
    let start = || process(&hub, cache.path(), "").spawn().unwrap();
    let (first, second) = (start(), start());
    for process in [first, second] {
        let output = process.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
    }
    for name in NEEDED.iter().filter(|name| name.ends_with(".safetensors")) {
        assert_eq!(hub.sent(name), 1, "{name}");
    }
}

#[test]
fn a_killed_process_is_continued() {
    let received = Arc::new(Count::default());
    let hub = FakeHub::hooked({
        let received = Arc::clone(&received);
        move |request, contents| {
            if !request.is_cdn || !request.is_for(SHARD) || request.offset().is_some() {
                return None;
            }
            received.add();
            // More is promised than is sent, until the process is gone.
            let answer = contents.answer(request);
            Some(answer.cut(100_000))
        }
    });
    let cache = tempfile::tempdir().unwrap();
    // The second request of the shard finds nobody who answers before the kill.
    let mut first = process(&hub, cache.path(), "").spawn().unwrap();
    received.wait_for(1);
    let left = shard_blob(cache.path()).with_extension("incomplete");
    while !left.exists() && !shard_blob(cache.path()).exists() {
        std::thread::yield_now();
    }
    first.kill().unwrap();
    first.wait().unwrap();
    let output = process(&hub, cache.path(), "").output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let bytes = std::fs::read(shard_blob(cache.path())).unwrap();
    assert!(bytes == files()[SHARD]);
}

#[test]
fn a_file_that_may_not_grow_is_removed() {
    let hub = FakeHub::start();
    let cache = tempfile::tempdir().unwrap();
    // 100 KiB, with the signal that would end the process ignored.
    let limit = "trap '' XFSZ; ulimit -f 100;";
    let output = process(&hub, cache.path(), limit).output().unwrap();
    let text = text(&output);
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("exit code 74"), "{text}");
    let blobs = std::fs::read_dir(cache.path().join("models--org--tiny/blobs")).unwrap();
    let names: Vec<String> = blobs
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    // The other shard may have been stopped on its way; its part is kept to be resumed.
    let failed = text
        .split(['/', ':', ' '])
        .find(|word| word.ends_with(".incomplete"));
    let failed = failed.expect("the error names its file");
    assert!(
        !names.iter().any(|name| name == failed),
        "{failed} in {names:?}"
    );
}
