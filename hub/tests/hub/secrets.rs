//! The token and signed addresses are in no error, event or debug print, whatever goes wrong.

use std::sync::Arc;

use hub::display::Lines;
use hub::{Hub, Want};

use crate::server::{Answer, FakeHub, MODEL, SHARD, TOKEN, TestClock};

/// Answers in place of the hub, by the path and whether it is the content network's.
type Hook = Box<dyn Fn(&str, bool) -> Option<Answer> + Send + Sync>;

#[test]
fn no_secret_is_ever_told() {
    let cut = |status| {
        move |path: &str, is_cdn: bool| {
            let fails = is_cdn && path.contains(SHARD);
            fails.then(|| Answer::status(status))
        }
    };
    let garbage = |_: &str, _: bool| Some(Answer::body("Bearer hf_canary_0123456789"));
    let nowhere = |path: &str, _: bool| {
        let location = "http://127.0.0.1:1/x?Signature=canary_signed";
        path.contains("/resolve/")
            .then(|| Answer::status(302).header("location", location))
    };
    let hooks: Vec<Hook> = vec![
        Box::new(|_, _| None),
        Box::new(cut(403)),
        Box::new(cut(500)),
        Box::new(cut(418)),
        Box::new(|_, _| Some(Answer::status(401))),
        Box::new(|_, _| Some(Answer::status(429).header("retry-after", "9999"))),
        Box::new(garbage),
        Box::new(nowhere),
    ];
    for (number, hook) in hooks.into_iter().enumerate() {
        let hub = FakeHub::hooked(move |request, _| hook(&request.path, request.is_cdn));
        let cache = tempfile::tempdir().unwrap();
        let client = hub.client_with(cache.path(), &[("HF_TOKEN", TOKEN)]);
        let done = client.fetch("main");
        assert_eq!(done.is_ok(), number == 0, "{number}: {done:?}");
        let shown = match &done {
            Ok(snapshot) => format!("{snapshot:?}"),
            Err(error) => format!("{error} {error:?}"),
        };
        let told = client.seen.events().join("\n");
        let debug = format!("{:?} {:?}", client.hub, client.hub.settings());
        for text in [&shown, &told, &debug] {
            assert!(!text.contains("canary"), "{number}: {text}");
        }
        // The cache holds contents alone.
        let kept = format!("{:?}", crate::server::tree(&cache.path().join(".locks")));
        assert!(!kept.contains("canary"), "{kept}");
    }
}

#[test]
fn lines_hold_no_secret() {
    let hub = FakeHub::hooked(|request, _| {
        let fails = request.is_cdn && request.is_for(SHARD);
        fails.then(|| Answer::status(500))
    });
    let cache = tempfile::tempdir().unwrap();
    let clock = Arc::new(TestClock::default());
    let settings = hub.settings(cache.path(), &[("HF_TOKEN", TOKEN)]);
    let client = Hub::with_clock(settings, clock.clone()).unwrap();
    let lines = Arc::new(std::sync::Mutex::new(Vec::new()));
    let sink = Arc::clone(&lines);
    let display = Lines::new(clock, move |line| {
        sink.lock().unwrap().push(line.to_owned());
    });
    let model = MODEL.parse().unwrap();
    let main = "main".parse().unwrap();
    let done = client.fetch(&model, &main, Want::Everything, &display);
    assert!(done.is_err());
    let lines = lines.lock().unwrap().join("\n");
    assert!(lines.contains("HTTP 500; again in 0.5 s"), "{lines}");
    assert!(!lines.contains("canary"), "{lines}");
}
