//! What the cache alone is good for: without a network, with a hub that is down, and for `verify`.

use std::os::unix::fs::PermissionsExt as _;

use hub::observe::Unobserved;
use hub::verify::{Verdict, verify};
use hub::{Origin, Want};

use crate::server::{
    Answer, COMMIT, FakeHub, MODEL, NEEDED, SHARD, assert_whole, files, shard_blob,
};

const OFFLINE: [(&str, &str); 1] = [("HF_HUB_OFFLINE", "1")];

#[test]
fn offline_the_cache_is_all_there_is() {
    let (hub, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
    let offline = hub.client_with(cache.path(), &OFFLINE);
    let error = offline.fetch("main").unwrap_err();
    assert!(error.to_string().contains("HF_HUB_OFFLINE"), "{error}");
    assert!(error.to_string().contains("org/tiny at main"), "{error}");
    assert_eq!(error.exit_code(), 78);
    assert_eq!(hub.requests().len(), 0);

    hub.client(cache.path()).fetch("main").unwrap();
    let before = hub.requests().len();
    for revision in ["main", COMMIT] {
        let snapshot = offline.fetch(revision).unwrap();
        assert_eq!(snapshot.origin, Origin::Cache);
        assert_whole(&snapshot);
    }
    assert!(offline.fetch("v2").is_err(), "nobody resolved it");
    std::fs::remove_file(shard_blob(cache.path())).unwrap();
    assert!(offline.fetch("main").is_err(), "a part is missing");
    assert_eq!(hub.requests().len(), before, "nobody was asked");
}

#[test]
fn a_hub_that_is_down_is_done_without() {
    let cache = tempfile::tempdir().unwrap();
    FakeHub::start().client(cache.path()).fetch("main").unwrap();
    let down = FakeHub::hooked(|_, _| Some(Answer::status(503)));
    let client = down.client(cache.path());
    let snapshot = client.fetch("main").unwrap();
    assert_eq!(snapshot.origin, Origin::Cache);
    assert_eq!(client.seen.count("Warning"), 1);
    // But not where it says no.
    let gone = FakeHub::hooked(|_, _| Some(Answer::status(404)));
    assert!(gone.client(cache.path()).fetch("main").is_err());
}

#[test]
fn a_complete_cache_is_only_read() {
    let (hub, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
    let client = hub.client(cache.path());
    client.fetch("main").unwrap();
    let repo = cache.path().join("models--org--tiny");
    std::fs::remove_dir_all(cache.path().join(".locks")).unwrap();
    // Nobody, root included, can make a lock or a reference here.
    std::fs::write(cache.path().join(".locks"), "").unwrap();
    std::fs::remove_dir_all(repo.join("refs")).unwrap();
    std::fs::write(repo.join("refs"), "").unwrap();
    for folder in ["blobs", "snapshots"] {
        let read_only = std::fs::Permissions::from_mode(0o555);
        std::fs::set_permissions(repo.join(folder), read_only).unwrap();
    }
    assert_whole(&client.fetch("main").unwrap());
    assert_eq!(
        client.seen.count("Warning"),
        1,
        "the reference is not written"
    );
}

#[test]
fn every_flipped_bit_is_found() {
    let (hub, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
    let client = hub.client(cache.path());
    let snapshot = client.fetch("main").unwrap();
    let report = || verify(&snapshot.folder, &Unobserved).unwrap();
    assert_eq!(report().good(), NEEDED.len());
    assert_eq!(report().bad().count(), 0);

    let blob = shard_blob(cache.path());
    let mut bytes = files()[SHARD].clone();
    bytes[77_777] ^= 1;
    std::fs::write(&blob, &bytes).unwrap();
    let config = std::fs::canonicalize(snapshot.folder.join("config.json")).unwrap();
    std::fs::write(config, "{}").unwrap();
    let tokenizer = std::fs::canonicalize(snapshot.folder.join("tokenizer.json")).unwrap();
    std::fs::remove_file(tokenizer).unwrap();
    std::fs::remove_file(snapshot.folder.join("model-00002-of-00002.safetensors")).unwrap();
    let report = report();
    let bad: Vec<(&str, &Verdict)> = report
        .bad()
        .map(|file| (file.name.as_str(), &file.verdict))
        .collect();
    assert_eq!(bad.len(), 4, "{bad:?}");
    assert!(matches!(bad[0], ("config.json", Verdict::Bad { .. })));
    assert!(matches!(bad[1], (SHARD, Verdict::Bad { .. })));
    assert!(matches!(bad[2], ("tokenizer.json", Verdict::Missing)));
    assert!(matches!(
        bad[3],
        ("model-00002-of-00002.safetensors", Verdict::Missing)
    ));
    let model = MODEL.parse().unwrap();
    let folders = client.hub.snapshots(&model, None);
    assert_eq!(folders, std::slice::from_ref(&snapshot.folder));
    let other = "v2".parse().unwrap();
    assert!(client.hub.snapshots(&model, Some(&other)).is_empty());
    // And a blob that was cut is fetched again.
    bytes.truncate(1000);
    std::fs::write(&blob, &bytes).unwrap();
    client.fetch_so_much("main", Want::Everything).unwrap();
    assert_eq!(std::fs::read(&blob).unwrap(), files()[SHARD]);
}

#[test]
fn folders_are_verified_by_the_notes_in_them() {
    let folder = tempfile::tempdir().unwrap();
    let notes = folder.path().join(".cache/huggingface/download");
    std::fs::create_dir_all(&notes).unwrap();
    std::fs::write(folder.path().join("a.json"), "hello\n").unwrap();
    std::fs::write(folder.path().join("b.json"), "hello\n").unwrap();
    let note = format!("{COMMIT}\nce013625030ba8dba906f756967f9e9ca394464a\n1.5\n");
    std::fs::write(notes.join("a.json.metadata"), note).unwrap();
    let report = || verify(folder.path(), &Unobserved).unwrap();
    assert_eq!((report().files.len(), report().good()), (2, 1));
    assert!(matches!(report().files[1].verdict, Verdict::Unknown));
    assert!(report().is_verified() && !report().has_weights());
    let weights = folder.path().join("model.safetensors");
    std::fs::write(&weights, "hello\n").unwrap();
    assert!(!report().is_verified(), "no hash is known of the weights");
    assert_eq!(report().unknown().count(), 2);
    std::fs::remove_file(weights).unwrap();
    std::fs::write(folder.path().join("a.json"), "hullo\n").unwrap();
    assert_eq!(report().bad().count(), 1);
    assert!(verify(&folder.path().join("none"), &Unobserved).is_err());
    std::fs::remove_dir_all(folder.path().join(".cache")).unwrap();
    assert!(!report().is_verified(), "no hash is known of anything");
}
