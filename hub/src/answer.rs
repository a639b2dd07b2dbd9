//! What the hub's answers say. They are checked here, before anything is made of them: a commit is a
//! commit, every file has a name that stays below a folder, a length and a hash.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::digest::Digest;
use crate::id::{Commit, is_path, shortened};

/// One file of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remote {
    /// Its path in the repository.
    pub(crate) path: String,
    /// Its length.
    pub(crate) bytes: u64,
    /// What it hashes to.
    pub(crate) digest: Digest,
}

#[derive(Deserialize)]
struct Info {
    sha: String,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    oid: String,
    #[serde(default)]
    size: u64,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

/// The commit that a revision is; or what is wrong.
pub(crate) fn commit(json: &[u8]) -> Result<Commit, String> {
    let Info { sha } = parse(json)?;
    let wrong = |_| format!("{:?} is no commit", shortened(&sha));
    sha.parse().map_err(wrong)
}

/// The files of one page of a list; or what is wrong.
pub(crate) fn files(json: &[u8]) -> Result<Vec<Remote>, String> {
    let entries: Vec<Entry> = parse(json)?;
    let files = entries.into_iter().map(remote);
    files.filter_map(Result::transpose).collect()
}

fn remote(entry: Entry) -> Result<Option<Remote>, String> {
    if !is_path(&entry.path) {
        let name = shortened(&entry.path);
        return Err(format!("{name:?} is no name of a file"));
    }
    if entry.kind != "file" {
        return Ok(None);
    }
    let (oid, bytes) = match &entry.lfs {
        Some(lfs) => (
            lfs.oid.strip_prefix("sha256:").unwrap_or(&lfs.oid),
            lfs.size,
        ),
        None => (entry.oid.as_str(), entry.size),
    };
    let digest = match Digest::parse(oid) {
        Some(digest @ Digest::Sha256(_)) if entry.lfs.is_some() => digest,
        Some(digest @ Digest::Git(_)) if entry.lfs.is_none() => digest,
        _ => return Err(format!("{:?} has no hash", entry.path)),
    };
    Ok(Some(Remote {
        path: entry.path,
        bytes,
        digest,
    }))
}

fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, String> {
    serde_json::from_slice(json).map_err(|error| {
        // Serde's message may quote what was sent.
        let (line, column) = (error.line(), error.column());
        format!("not the JSON that a hub sends (line {line}, column {column})")
    })
}

/// The address of the next page in a `Link` header.
pub(crate) fn next_page(link: &str) -> Option<&str> {
    link.split(',').find_map(|part| {
        let (address, parameters) = part.trim().strip_prefix('<')?.split_once('>')?;
        let is_next = |parameter: &str| matches!(parameter.trim(), r#"rel="next""# | "rel=next");
        parameters.split(';').any(is_next).then_some(address)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_the_hash_of_its_kind() {
        let (git, sha) = ("0".repeat(40), "0".repeat(64));
        let entry = |oid: &str, lfs: Option<&str>| {
            let lfs = lfs.map_or(String::new(), |oid| {
                format!(r#", "lfs": {{"oid": "{oid}", "size": 7}}"#)
            });
            let json =
                format!(r#"[{{"type": "file", "path": "a", "oid": "{oid}", "size": 5{lfs}}}]"#);
            files(json.as_bytes())
        };
        assert_eq!(entry(&git, None).unwrap()[0].bytes, 5);
        for large in [sha.clone(), format!("sha256:{sha}")] {
            let file = entry(&git, Some(&large)).unwrap().remove(0);
            assert_eq!((file.bytes, file.digest), (7, Digest::Sha256(sha.clone())));
        }
        for (oid, lfs) in [
            (sha.as_str(), None),
            ("", None),
            (&git, Some(git.as_str())),
            (&git, Some("")),
            (&git, Some("../x")),
        ] {
            let message = entry(oid, lfs).unwrap_err();
            assert_eq!(message, r#""a" has no hash"#);
        }
    }

    #[test]
    fn the_next_page_is_found() {
        let link = r#"<https://h/a?cursor=1>; rel="next""#;
        assert_eq!(next_page(link), Some("https://h/a?cursor=1"));
        let link = r#"<https://h/0>; rel="prev", <https://h/2>; x=y; rel="next""#;
        assert_eq!(next_page(link), Some("https://h/2"));
        for none in ["", "<https://h", r#"<https://h>; rel="prev""#, ", ,"] {
            assert_eq!(next_page(none), None, "{none}");
        }
    }
}
