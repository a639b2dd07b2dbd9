//! A hub that means harm: no name leads out of the cache, no answer is read without end, and no
//! repository of pickles is downloaded.

use std::collections::BTreeMap;

use hub::HubError;

use crate::server::{Answer, COMMIT, FakeHub, files, tree};

/// What comes of a list of files that says this.
fn listed(listing: impl Into<Vec<u8>>) -> HubError {
    let listing = listing.into();
    answered(move |path| {
        path.contains("/tree/")
            .then(|| Answer::body(listing.clone()))
    })
}

fn answered(answer: impl Fn(&str) -> Option<Answer> + Send + Sync + 'static) -> HubError {
    let hub = FakeHub::hooked(move |request, _| answer(&request.path));
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("a/b/cache");
    let error = hub.client(&cache).fetch("main").unwrap_err();
    let written = tree(folder.path());
    assert!(
        written.keys().all(|path| path.starts_with("a/b/cache/")),
        "{written:?}"
    );
    assert!(hub.requests().len() < 150, "{}", hub.requests().len());
    error
}

fn entry(path: &str) -> String {
    let (path, oid) = (serde_json::Value::from(path), "0".repeat(40));
    format!(r#"[{{"type": "file", "path": {path}, "oid": "{oid}", "size": 1}}]"#)
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let long = "a/".repeat(600) + "config.json";
    for name in [
        "../config.json",
        "../../../../etc/config.json",
        "/etc/config.json",
        "a/../../config.json",
        "./config.json",
        "a//config.json",
        "",
        "a\\config.json",
        "config.json\0",
        "\u{1b}[2Jconfig.json",
        &long,
    ] {
        let error = listed(entry(name));
        assert_eq!(error.exit_code(), 65, "{name:?}");
        assert!(
            error.to_string().contains("is no name of a file"),
            "{error}"
        );
        assert!(!error.to_string().contains('\u{1b}'), "{error:?}");
    }
}

#[test]
fn answers_that_are_no_list_are_refused() {
    let deep = "[".repeat(1 << 20);
    let huge = vec![b' '; (16 << 20) + 1];
    let no_hash = entry("config.json").replace(&"0".repeat(40), "../../x");
    let lfs = r#"[{"type": "file", "path": "config.json", "oid": "x", "size": 1,
                   "lfs": {"oid": "../x", "size": 1}}]"#;
    let negative = entry("config.json").replace(r#""size": 1"#, r#""size": -1"#);
    for listing in [
        deep.as_bytes(),
        &huge,
        b"",
        b"{}",
        b"null",
        b"[1]",
        b"[{}]",
        b"\xff\xfe",
        no_hash.as_bytes(),
        lfs.as_bytes(),
        negative.as_bytes(),
    ] {
        let error = listed(listing);
        let shown = String::from_utf8_lossy(&listing[..listing.len().min(40)]);
        assert!(matches!(error, HubError::Answer { .. }), "{shown}: {error}");
        assert_eq!(error.exit_code(), 65);
        assert!(error.to_string().len() < 300, "{error}");
    }
    assert_eq!(listed("[]").exit_code(), 78, "no config.json");
}

#[test]
fn a_commit_is_a_commit() {
    for sha in ["main", "../../../x", "", &"F".repeat(40)] {
        let body = format!(r#"{{"sha": "{sha}"}}"#);
        let error = answered(move |path| {
            path.contains("/revision/")
                .then(|| Answer::body(body.clone()))
        });
        assert_eq!(error.exit_code(), 65, "{sha}");
    }
}

#[test]
fn files_that_cannot_be_so_long_are_refused() {
    let config = entry("config.json").replace(r#""size": 1"#, r#""size": 18446744073709551615"#);
    let weights = entry("model.safetensors.index.json");
    let error = listed(format!(
        "{},{}",
        config.trim_end_matches(']'),
        &weights[1..]
    ));
    assert!(error.to_string().contains("which none such has"), "{error}");
    assert_eq!(error.exit_code(), 65);
}

#[test]
fn pages_end() {
    let error = answered(|path| {
        let next = format!("<http://{}>; rel=\"next\"", "elsewhere/api");
        path.contains("/tree/")
            .then(|| Answer::body("[]").header("link", next))
    });
    assert!(error.to_string().contains("another host"), "{error}");
    let hub = FakeHub::hooked(|request, contents| {
        let next = format!(
            "<{}/api/models/org/tiny/tree/x?n>; rel=\"next\"",
            contents.hub
        );
        let is_list = request.path.contains("/tree/");
        is_list.then(|| Answer::body("[]").header("link", next))
    });
    let cache = tempfile::tempdir().unwrap();
    let error = hub.client(cache.path()).fetch("main").unwrap_err();
    assert!(error.to_string().contains("more files than"), "{error}");
    assert_eq!(hub.requests().len(), 101);
}

#[test]
fn a_list_may_come_in_pages() {
    let hub = FakeHub::hooked(|request, contents| {
        let listing: Vec<serde_json::Value> = serde_json::from_str(&contents.listing()).unwrap();
        let (first, second) = listing.split_at(4);
        let text = |part: &[serde_json::Value]| serde_json::to_string(part).unwrap();
        if request.path.contains("cursor=2") {
            return Some(Answer::body(text(second)));
        }
        let next = format!("<{}{}&cursor=2>; rel=\"next\"", contents.hub, request.path);
        let is_list = request.path.contains("/tree/");
        is_list.then(|| Answer::body(text(first)).header("link", next))
    });
    let cache = tempfile::tempdir().unwrap();
    crate::server::assert_whole(&hub.client(cache.path()).fetch("main").unwrap());
}

#[test]
fn redirects_end_and_lead_to_addresses() {
    for location in ["/x", "", "x", "ftp://h/x", "http://u:p@h/x", "http://"] {
        let error = answered(move |_| Some(Answer::status(302).header("location", location)));
        assert_eq!(error.exit_code(), 65, "{location}: {error}");
    }
    let error = answered(|_| Some(Answer::status(302)));
    assert_eq!(error.exit_code(), 65);
}

#[test]
fn pickles_are_not_downloaded() {
    let mut only_pickles = files();
    only_pickles.retain(|name, _| !name.contains("safetensors"));
    let hub = FakeHub::with(only_pickles, |_, _| None);
    let cache = tempfile::tempdir().unwrap();
    let error = hub.client(cache.path()).fetch("main").unwrap_err();
    assert!(error.to_string().contains("PICKLE_REFUSED"), "{error}");
    assert!(error.to_string().contains("pytorch_model.bin"), "{error}");
    assert_eq!(error.exit_code(), 77);
    assert_eq!(tree(cache.path()), BTreeMap::new());
}

#[test]
fn an_index_names_files_of_the_repository() {
    for (name, exit_code) in [
        ("../x.safetensors", 65),
        ("x.bin", 65),
        ("x.safetensors", 78),
    ] {
        let mut files = files();
        let index = format!(r#"{{"weight_map": {{"a": "{name}"}}}}"#);
        files.insert(
            "model.safetensors.index.json".to_owned(),
            index.into_bytes(),
        );
        let hub = FakeHub::with(files, |_, _| None);
        let cache = tempfile::tempdir().unwrap();
        let error = hub.client(cache.path()).fetch(COMMIT).unwrap_err();
        assert_eq!(error.exit_code(), exit_code, "{error}");
    }
}
