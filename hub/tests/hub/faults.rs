//! Bad days of a hub: what is tried again, what is not, what is left behind, and the exit code.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use hub::clock::{Clock, Stop, SystemClock};
use hub::observe::Unobserved;
use hub::{Hub, HubError, Revision, Want};

use crate::server::{
    Answer, COMMIT, Contents, FakeHub, MODEL, Request, SHARD, assert_whole, files, ranged,
    shard_blob,
};

/// A hub that answers differently the first `times` times that `is` holds.
fn failing(
    times: usize,
    is: impl Fn(&Request) -> bool + Send + Sync + 'static,
    answer: impl Fn(&Request, &Contents) -> Answer + Send + Sync + 'static,
) -> FakeHub {
    let count = AtomicUsize::new(0);
    FakeHub::hooked(move |request, contents| {
        let fails = is(request) && count.fetch_add(1, Ordering::SeqCst) < times;
        fails.then(|| answer(request, contents))
    })
}

fn is_shard(request: &Request) -> bool {
    request.is_cdn && request.is_for(SHARD)
}

fn incomplete(cache: &Path) -> std::path::PathBuf {
    shard_blob(cache).with_extension("incomplete")
}

/// That nothing is left that could be taken for the shard, or for a part of it.
fn assert_nothing_is_left(cache: &Path) {
    assert!(!shard_blob(cache).exists());
    assert!(!incomplete(cache).exists());
}

#[test]
fn a_dropped_connection_is_resumed_where_it_ended() {
    let hub = failing(1, is_shard, |request, contents| {
        contents.answer(request).cut(100_000)
    });
    let cache = tempfile::tempdir().unwrap();
    let client = hub.client(cache.path());
    assert_whole(&client.fetch("main").unwrap());
    let offsets: Vec<Option<usize>> = hub
        .requests()
        .iter()
        .filter(|request| is_shard(request))
        .map(Request::offset)
        .collect();
    assert_eq!(offsets, [None, Some(100_000)]);
    assert_eq!(client.clock.waits(), [Duration::from_millis(500)]);
    assert_eq!(client.seen.count("Retrying"), 1);
}

#[test]
fn what_one_process_left_another_continues() {
    let hub = FakeHub::start();
    let cache = tempfile::tempdir().unwrap();
    let left = incomplete(cache.path());
    std::fs::create_dir_all(left.parent().unwrap()).unwrap();
    std::fs::write(&left, &files()[SHARD][..1234]).unwrap();
    assert_whole(&hub.client(cache.path()).fetch("main").unwrap());
    let requests = hub.requests();
    let shard = requests.iter().find(|request| is_shard(request)).unwrap();
    assert_eq!(shard.offset(), Some(1234));
    assert!(!left.exists());
}

#[test]
fn a_left_part_of_something_else_is_thrown_away() {
    for length in [1234, 300_000, 300_001] {
        let hub = FakeHub::start();
        let cache = tempfile::tempdir().unwrap();
        let left = incomplete(cache.path());
        std::fs::create_dir_all(left.parent().unwrap()).unwrap();
        std::fs::write(&left, vec![7; length]).unwrap();
        let client = hub.client(cache.path());
        assert_whole(&client.fetch("main").unwrap());
        let thrown_away = usize::from(length <= 300_000);
        assert_eq!(client.seen.count("Discarded"), thrown_away, "{length}");
    }
}

#[test]
fn a_content_network_without_ranges_sends_it_all_again() {
    let count = AtomicUsize::new(0);
    let hub = FakeHub::hooked(move |request, contents| {
        is_shard(request).then(|| {
            let whole = ranged(&contents.files[SHARD], None);
            match count.fetch_add(1, Ordering::SeqCst) {
                0 => whole.cut(100_000),
                _ => whole,
            }
        })
    });
    let cache = tempfile::tempdir().unwrap();
    let client = hub.client(cache.path());
    assert_whole(&client.fetch("main").unwrap());
    assert_eq!(client.seen.count("Discarded"), 1);
}

#[test]
fn a_file_that_always_ends_early_fails_and_keeps_its_part() {
    let hub = failing(usize::MAX, is_shard, |request, contents| {
        let left = 300_000 - request.offset().unwrap_or(0);
        contents.answer(request).cut((left / 2).min(10_000))
    });
    let cache = tempfile::tempdir().unwrap();
    let client = hub.client(cache.path());
    let error = client.fetch("main").unwrap_err();
    assert!(
        error
            .to_string()
            .contains("the connection broke after 60000 of"),
        "{error}"
    );
    assert_eq!(error.exit_code(), 74);
    assert_eq!(client.clock.waits().len(), 5);
    assert!(!shard_blob(cache.path()).exists());
    let kept = std::fs::read(incomplete(cache.path())).unwrap();
    assert!(kept == files()[SHARD][..60_000], "{}", kept.len());
}

#[test]
fn wrong_bytes_are_never_kept() {
    let flipped = |request: &Request, contents: &Contents| {
        let mut answer = contents.answer(request);
        *answer.body.last_mut().unwrap() ^= 1;
        answer
    };
    let hub = failing(usize::MAX, is_shard, flipped);
    let cache = tempfile::tempdir().unwrap();
    let error = hub.client(cache.path()).fetch("main").unwrap_err();
    assert!(matches!(error, HubError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("sha256"), "{error}");
    assert_eq!(error.exit_code(), 74);
    assert_nothing_is_left(cache.path());

    // A small file has a hash too, git's.
    let is_config = |request: &Request| request.is_for("config.json");
    let hub = failing(usize::MAX, is_config, flipped);
    let cache = tempfile::tempdir().unwrap();
    let error = hub.client(cache.path()).fetch("main").unwrap_err();
    assert!(error.to_string().contains("git sha1"), "{error}");
}

#[test]
fn lengths_that_differ_are_seen_before_the_bytes_come() {
    let shorter = |request: &Request, contents: &Contents| {
        let mut answer = contents.answer(request);
        answer.body.truncate(150_000);
        answer
    };
    let longer = |request: &Request, contents: &Contents| {
        let mut answer = contents.answer(request);
        answer.body.push(0);
        answer
    };
    let other_range = |_: &Request, contents: &Contents| {
        let mut answer = ranged(&contents.files[SHARD], Some(5));
        answer.status = 206;
        answer
    };
    let hubs = [
        failing(usize::MAX, is_shard, shorter),
        failing(usize::MAX, is_shard, longer),
        failing(usize::MAX, is_shard, other_range),
    ];
    for hub in hubs {
        let cache = tempfile::tempdir().unwrap();
        let error = hub.client(cache.path()).fetch("main").unwrap_err();
        assert!(matches!(error, HubError::Corrupt { .. }), "{error}");
        assert_nothing_is_left(cache.path());
    }
}

/// An answer that names no length could go on for as long as the disk has room.
#[test]
fn no_more_is_read_than_was_named() {
    let endless = |_: &Request, contents: &Contents| {
        let mut body = contents.files[SHARD].clone();
        body.extend(vec![0; 4 << 20]);
        let mut chunk = format!("{:x}\r\n", body.len()).into_bytes();
        chunk.extend(body);
        chunk.extend(b"\r\n0\r\n\r\n");
        Answer::body(chunk).header("transfer-encoding", "chunked")
    };
    let hub = failing(usize::MAX, is_shard, endless);
    let cache = tempfile::tempdir().unwrap();
    let error = hub.client(cache.path()).fetch("main").unwrap_err();
    assert!(error.to_string().contains("more bytes are sent"), "{error}");
    assert_nothing_is_left(cache.path());
}

#[test]
fn a_busy_hub_is_asked_again_when_it_says() {
    let busy = |_: &Request, _: &Contents| Answer::status(429).header("retry-after", "7");
    let hub = failing(2, |request| request.path.contains("/revision/"), busy);
    let cache = tempfile::tempdir().unwrap();
    let client = hub.client(cache.path());
    assert_whole(&client.fetch("main").unwrap());
    assert_eq!(client.clock.waits(), [Duration::from_secs(7); 2]);
}

#[test]
fn stumbles_are_tried_again_and_not_for_ever() {
    for status in [429, 500, 502, 503, 504] {
        let stumble = move |_: &Request, _: &Contents| Answer::status(status);
        let hub = failing(1, is_shard, stumble);
        let cache = tempfile::tempdir().unwrap();
        assert_whole(&hub.client(cache.path()).fetch("main").unwrap());

        let hub = failing(usize::MAX, |_| true, stumble);
        let cache = tempfile::tempdir().unwrap();
        let client = hub.client(cache.path());
        let error = client.fetch("main").unwrap_err();
        assert_eq!(error.exit_code(), 74);
        assert!(
            error.to_string().ends_with(&format!("HTTP {status}")),
            "{error}"
        );
        assert_eq!(hub.requests().len(), 6);
        assert_eq!(client.clock.waits().len(), 5);
    }
    let hub = failing(
        usize::MAX,
        |_| true,
        |_, _| Answer::status(429).header("retry-after", "3600"),
    );
    let cache = tempfile::tempdir().unwrap();
    let error = hub.client(cache.path()).fetch("main").unwrap_err();
    assert!(
        error.to_string().ends_with("HTTP 429, try again in 3600 s"),
        "{error}"
    );
    assert_eq!(hub.requests().len(), 1);
}

/// The error, the exit code and the number of requests when the hub always answers so.
fn refusal(status: u16, code: &str, token: &str) -> (String, u8, usize) {
    let code = code.to_owned();
    let hub = failing(
        usize::MAX,
        |_| true,
        move |_, _| Answer::status(status).header("x-error-code", code.clone()),
    );
    let cache = tempfile::tempdir().unwrap();
    let client = hub.client_with(cache.path(), &[("HF_TOKEN", token)]);
    let error = client.fetch("main").unwrap_err();
    (error.to_string(), error.exit_code(), hub.requests().len())
}

#[test]
fn refusals_say_what_may_help() {
    let (text, code, requests) = refusal(401, "RepoNotFound", "");
    assert!(
        text.contains("401") && text.contains("needs HF_TOKEN"),
        "{text}"
    );
    assert_eq!((code, requests), (77, 1));
    let (text, code, _) = refusal(401, "RepoNotFound", "hf_x");
    assert!(text.contains("the token may not read it"), "{text}");
    assert_eq!(code, 77);
    let (text, code, requests) = refusal(403, "GatedRepo", "");
    assert!(text.contains("gated: accept its conditions at"), "{text}");
    assert_eq!((code, requests), (77, 1));
    let (text, code, requests) = refusal(404, "RepoNotFound", "");
    assert_eq!(text, "org/tiny at revision main: the hub has no such thing");
    assert_eq!((code, requests), (78, 1));
}

#[test]
fn revisions_and_files_may_be_missing() {
    let hub = FakeHub::start();
    let cache = tempfile::tempdir().unwrap();
    let error = hub.client(cache.path()).fetch("v9").unwrap_err();
    assert_eq!(
        error.to_string(),
        "org/tiny at revision v9: the hub has no such thing"
    );
    assert_eq!(error.exit_code(), 78);

    let hub = failing(usize::MAX, is_shard, |_, _| Answer::status(404));
    let error = hub.client(cache.path()).fetch("main").unwrap_err();
    assert!(error.to_string().contains(SHARD), "{error}");
    assert_eq!(error.exit_code(), 78);
}

#[test]
fn files_of_another_commit_are_refused() {
    let other = "f".repeat(40);
    let hub = failing(usize::MAX, |request| request.is_for("config.json"), {
        let other = other.clone();
        move |_, _| Answer::body("{}").header("x-repo-commit", other.clone())
    });
    let cache = tempfile::tempdir().unwrap();
    let error = hub.client(cache.path()).fetch("main").unwrap_err();
    assert!(error.to_string().contains(&other), "{error}");
    assert_eq!(error.exit_code(), 65);

    let hub = failing(
        1,
        |_| true,
        move |_, _| Answer::body(format!(r#"{{"sha": "{other}"}}"#)),
    );
    let error = hub.client(cache.path()).fetch(COMMIT).unwrap_err();
    assert!(error.to_string().contains("was named"), "{error}");
    assert_eq!(error.exit_code(), 65);
}

#[test]
fn a_full_disk_leaves_nothing() {
    let hub = FakeHub::start();
    let cache = tempfile::tempdir().unwrap();
    let left = incomplete(cache.path());
    std::fs::create_dir_all(left.parent().unwrap()).unwrap();
    // Whatever is written to this device does not fit.
    std::os::unix::fs::symlink("/dev/full", &left).unwrap();
    let error = hub.client(cache.path()).fetch("main").unwrap_err();
    assert!(error.to_string().contains("No space left"), "{error}");
    assert_eq!(error.exit_code(), 74);
    assert!(std::fs::symlink_metadata(&left).is_err(), "it is removed");
    assert_nothing_is_left(cache.path());
}

#[test]
fn a_cache_that_cannot_be_made_is_said() {
    let hub = FakeHub::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    for cache in [file.as_path(), Path::new("/proc/paternoster")] {
        let error = hub.client(cache).fetch("main").unwrap_err();
        assert!(matches!(error, HubError::Create { .. }), "{error}");
        assert_eq!(error.exit_code(), 73);
        assert!(error.to_string().contains("cannot be created"), "{error}");
    }
}

/// Waits long, or until it is told to stop.
#[derive(Default)]
struct Patience(SystemClock);

impl Clock for Patience {
    fn now(&self) -> Duration {
        self.0.now()
    }

    fn date(&self) -> SystemTime {
        self.0.date()
    }

    fn wait(&self, _: Duration, stop: &Stop) {
        self.0.wait(Duration::from_secs(30), stop);
    }
}

#[test]
fn one_failure_stops_the_other_files() {
    // One is refused for good; the other one would be tried again and again.
    let hub = failing(
        usize::MAX,
        |request| request.is_cdn,
        |request, _| Answer::status(if is_shard(request) { 403 } else { 503 }),
    );
    let cache = tempfile::tempdir().unwrap();
    let settings = hub.settings(cache.path(), &[]);
    let client = Hub::with_clock(settings, Arc::new(Patience::default())).unwrap();
    let (model, main) = (MODEL.parse().unwrap(), Revision::default());
    let error = client.fetch(&model, &main, Want::Everything, &Unobserved);
    let error = error.unwrap_err();
    assert!(matches!(error, HubError::Refused { .. }), "{error}");
    let others = hub.requests().into_iter();
    let others = others.filter(|request| request.is_cdn && !is_shard(request));
    assert!(others.count() <= 1);
}
