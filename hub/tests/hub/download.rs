//! A model comes whole, once, of one commit, and lies where others look for it.

use std::path::{Path, PathBuf};

use hub::{Origin, Want};

use crate::server::{COMMIT, FakeHub, MODEL, NEEDED, SHARD, TOKEN, assert_whole, blob, files};

#[test]
fn a_model_is_laid_out_as_huggingface_hub_does() {
    let (hub, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
    let snapshot = hub.client(cache.path()).fetch("main").unwrap();
    assert_eq!(snapshot.commit.as_str(), COMMIT);
    assert_eq!(snapshot.origin, Origin::Hub);
    assert_eq!(snapshot.weights_bytes, Some(500_000));
    assert_whole(&snapshot);
    let repo = cache.path().join("models--org--tiny");
    assert_eq!(snapshot.folder, repo.join("snapshots").join(COMMIT));
    let main = std::fs::read_to_string(repo.join("refs/main")).unwrap();
    assert_eq!(main, COMMIT);
    for name in NEEDED {
        let target = std::fs::read_link(snapshot.folder.join(name)).unwrap();
        let up = if name.contains('/') {
            "../../.."
        } else {
            "../.."
        };
        let blob = blob(name, &files()[name]);
        assert_eq!(
            target,
            PathBuf::from(format!("{up}/blobs/{blob}")),
            "{name}"
        );
    }
    let blobs = std::fs::read_dir(repo.join("blobs")).unwrap();
    // Two of the files have the same contents.
    assert_eq!(
        blobs.count(),
        NEEDED.len() - 1,
        "nothing unfinished is left"
    );
}

#[test]
fn what_is_there_is_not_downloaded_again() {
    let (hub, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
    let first = hub.client(cache.path()).fetch("main").unwrap();
    let before = hub.requests().len();
    let client = hub.client(cache.path());
    assert_eq!(client.fetch("main").unwrap(), first);
    let asked: Vec<String> = hub.requests()[before..]
        .iter()
        .map(|request| request.path.clone())
        .collect();
    assert_eq!(asked.len(), 2, "the revision and the list: {asked:?}");
    assert_eq!(client.seen.count("Planned"), 0);
    for name in NEEDED {
        assert!(hub.sent(name) <= 1, "{name}");
    }
}

#[test]
fn a_commit_that_is_there_needs_no_hub() {
    let (hub, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
    let client = hub.client(cache.path());
    let first = client.fetch(COMMIT).unwrap();
    assert_whole(&first);
    assert!(!cache.path().join("models--org--tiny/refs").exists());
    let before = hub.requests().len();
    let again = client.fetch(COMMIT).unwrap();
    assert_eq!(again.origin, Origin::Cache);
    assert_eq!(again.folder, first.folder);
    assert_eq!(hub.requests().len(), before);
}

#[test]
fn a_file_that_is_missing_is_all_that_is_fetched() {
    let (hub, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
    let client = hub.client(cache.path());
    let snapshot = client.fetch("main").unwrap();
    std::fs::remove_file(crate::server::shard_blob(cache.path())).unwrap();
    std::fs::remove_file(snapshot.folder.join("tokenizer.json")).unwrap();
    let before = hub.requests().len();
    assert_whole(&client.fetch("main").unwrap());
    let asked = hub.requests().split_off(before);
    let resolved = asked
        .iter()
        .filter(|request| request.path.contains("/resolve/"));
    assert!(
        resolved.clone().all(|request| request.is_for(SHARD)),
        "{asked:?}"
    );
    assert_eq!(resolved.count(), 2, "the hub and its content network");
}

#[test]
fn only_so_much_is_downloaded_as_is_wanted() {
    let (hub, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
    let client = hub.client(cache.path());
    let snapshot = client.fetch_so_much("main", Want::Config).unwrap();
    let names =
        |folder: &Path| -> Vec<String> { crate::server::tree(folder).into_keys().collect() };
    assert_eq!(
        names(&snapshot.folder),
        ["1_Pooling/config.json", "config.json"]
    );
    assert_eq!(snapshot.weights_bytes, Some(500_000));
    let model = MODEL.parse().unwrap();
    let main = "main".parse().unwrap();
    let cached = |want| client.hub.cached(&model, &main, want).is_some();
    assert!(cached(Want::Config) && !cached(Want::Description) && !cached(Want::Everything));
    client.fetch_so_much("main", Want::Description).unwrap();
    assert!(cached(Want::Description) && !cached(Want::Everything));
    client.fetch("main").unwrap();
    assert!(cached(Want::Everything));
}

#[test]
fn revisions_of_any_kind_are_resolved_once() {
    let (hub, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
    let snapshot = hub.client(cache.path()).fetch("refs/pr/1").unwrap();
    assert_eq!(snapshot.commit.as_str(), COMMIT);
    let reference = cache.path().join("models--org--tiny/refs/refs/pr/1");
    assert_eq!(std::fs::read_to_string(reference).unwrap(), COMMIT);
    let paths: Vec<String> = hub.requests().into_iter().map(|r| r.path).collect();
    let revisions = paths.iter().filter(|path| path.contains("/revision/"));
    assert_eq!(revisions.count(), 1);
    let commits = paths.iter().filter(|path| path.contains("/resolve/"));
    assert!(
        commits
            .clone()
            .all(|path| path.contains(&format!("/resolve/{COMMIT}/")))
    );
}

#[test]
fn the_token_goes_to_the_hub_alone() {
    let (hub, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
    let client = hub.client_with(cache.path(), &[("HF_TOKEN", TOKEN)]);
    client.fetch("main").unwrap();
    let requests = hub.requests();
    for request in &requests {
        let token = request.headers.get("authorization").map(String::as_str);
        let expected = format!("Bearer {TOKEN}");
        assert_eq!(
            token,
            (!request.is_cdn).then_some(expected.as_str()),
            "{request:?}"
        );
    }
    assert!(requests.iter().any(|request| request.is_cdn));
}
