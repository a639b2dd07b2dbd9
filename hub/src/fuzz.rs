//! Where the hub's bytes come in, one function each: for the fuzzers in `fuzz/`, and for the test that
//! replays their corpora. A function returns whatever it was given; what must not be is a panic, or a
//! name that leads out of a folder.

use std::path::{Component, Path};
use std::time::SystemTime;

use ureq::http::{HeaderMap, HeaderValue, Uri, header};

use crate::answer;
use crate::cache;
use crate::http::{redirected, text};
use crate::id::Commit;
use crate::retry::seconds;
use crate::select;
use crate::transfer::promised;
use crate::verify;

/// A name, and what takes the bytes.
pub type Target = (&'static str, fn(&[u8]));

/// Every way in that this crate has.
pub const TARGETS: &[Target] = &[
    ("hub_commit", commit),
    ("hub_files", files),
    ("hub_headers", headers),
    ("hub_index", index),
    ("hub_notes", notes),
];

/// What the hub says a revision is.
pub fn commit(bytes: &[u8]) {
    if let Ok(commit) = answer::commit(bytes) {
        check_commit(&commit);
    }
}

fn check_commit(commit: &Commit) {
    check_digits(commit.as_str(), &[40]);
}

/// It becomes the name of a file.
fn check_digits(text: &str, lengths: &[usize]) {
    assert!(lengths.contains(&text.len()));
    assert!(text.bytes().all(|b| b.is_ascii_hexdigit()));
}

/// The hub's list of files.
pub fn files(bytes: &[u8]) {
    for file in answer::files(bytes).into_iter().flatten() {
        check_path(&file.path);
        check_digits(file.digest.as_str(), &[40, 64]);
    }
}

fn check_path(path: &str) {
    let mut parts = Path::new(path).components();
    assert!(parts.clone().next().is_some());
    assert!(parts.all(|part| matches!(part, Component::Normal(_))));
}

/// The list of the files that weights are spread over.
pub fn index(bytes: &[u8]) {
    for name in select::shards(bytes).into_iter().flatten() {
        check_path(&name);
    }
}

/// What others left in the cache or in a folder: a reference, and the note of a download.
pub fn notes(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Some(commit) = cache::named(&text) {
        check_commit(&commit);
    }
    if let Some(digest) = verify::noted(&text) {
        check_digits(digest.as_str(), &[40, 64]);
    }
}

/// Headers, a line each: every line goes wherever a header does.
pub fn headers(bytes: &[u8]) {
    for line in bytes.split(|&byte| byte == b'\n') {
        let Ok(value) = HeaderValue::from_bytes(line) else {
            continue;
        };
        let headers =
            [header::CONTENT_RANGE, header::CONTENT_LENGTH].map(|name| (name, value.clone()));
        let headers = HeaderMap::from_iter(headers);
        let _part = promised(206, &headers);
        let _whole = promised(200, &headers);
        let Some(line) = text(&headers, "content-range") else {
            continue;
        };
        let _wait = seconds(&line, SystemTime::UNIX_EPOCH);
        if let Some(address) = answer::next_page(&line) {
            assert!(line.contains(address));
        }
        if let Some(address) = redirected(&Uri::from_static("https://hub/a"), &line) {
            assert!(
                address.starts_with("https://") || address[..8].eq_ignore_ascii_case("https://")
            );
            assert!(address.parse::<Uri>().is_ok());
        }
    }
}
