//! The keys file. What is wrong with it is told by the line, never by what stands there.

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU32, NonZeroU64};

use serde::Deserialize;

use super::keys::{Entry, KEYS_MAX, KeyHash, Right};
use super::tenants::Quota;
use crate::limits::ID_CHARS_MAX;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    key: Vec<KeyTable>,
    #[serde(default)]
    tenant: Vec<TenantTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyTable {
    name: String,
    key: Option<String>,
    sha256: Option<String>,
    tenant: Option<String>,
    #[serde(default = "work")]
    rights: Vec<Right>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TenantTable {
    name: String,
    tokens_per_minute: Option<NonZeroU64>,
    requests_per_minute: Option<NonZeroU64>,
    concurrent: Option<NonZeroU32>,
}

fn work() -> Vec<Right> {
    vec![Right::Work]
}

/// The keys of a file, and what each tenant it lists may use.
pub(super) fn parse(text: &str) -> Result<(Vec<Entry>, BTreeMap<String, Quota>), String> {
    let file: File = toml::from_str(text).map_err(|error| mistake(text, &error))?;
    if file.key.len() > KEYS_MAX {
        return Err(format!("more than {KEYS_MAX} keys"));
    }
    let mut quotas = BTreeMap::new();
    for tenant in file.tenant {
        let quota = Quota {
            tokens_per_minute: tenant.tokens_per_minute,
            requests_per_minute: tenant.requests_per_minute,
            concurrent: tenant.concurrent,
        };
        let name = checked("a tenant", tenant.name)?;
        if quotas.insert(name.clone(), quota).is_some() {
            return Err(format!("two tenants are named {name}"));
        }
    }
    let (mut entries, mut names) = (Vec::new(), BTreeSet::new());
    for key in file.key {
        let entry = entry(key)?;
        if !names.insert(entry.name.clone()) {
            return Err(format!("two keys are named {}", entry.name));
        }
        entries.push(entry);
    }
    Ok((entries, quotas))
}

fn entry(table: KeyTable) -> Result<Entry, String> {
    let name = checked("a key", table.name)?;
    let hash = match (table.key, table.sha256) {
        (Some(key), None) if !key.is_empty() => KeyHash::of(key.as_bytes()),
        (None, Some(digits)) => KeyHash::from_hex(&digits)
            .ok_or_else(|| format!("sha256 of the key {name} is not 64 hexadecimal digits"))?,
        _ => return Err(format!("the key {name} has to have one of key and sha256")),
    };
    let tenant = match table.tenant {
        Some(tenant) => checked("a tenant", tenant)?,
        None => name.clone(),
    };
    Ok(Entry {
        hash,
        name,
        tenant,
        rights: table.rights,
    })
}

/// A name that can stand in logs and in metadata.
fn checked(what: &str, name: String) -> Result<String, String> {
    let printable = name.chars().all(|c| c.is_ascii_graphic() || c == ' ');
    if name.is_empty() || name.len() > ID_CHARS_MAX || !printable {
        return Err(format!(
            "the name of {what} is not 1 to {ID_CHARS_MAX} printable ASCII characters"
        ));
    }
    Ok(name)
}

/// Where a file is wrong. Of the reader's words only those that name what the file format has:
/// others quote the file.
fn mistake(text: &str, error: &toml::de::Error) -> String {
    let start = error.span().map_or(0, |span| span.start.min(text.len()));
    let line = 1 + text.bytes().take(start).filter(|b| *b == b'\n').count();
    let says = error.message();
    let harmless = ["unknown field", "missing field", "duplicate key"];
    if harmless.iter().any(|words| says.starts_with(words)) {
        format!("line {line}: {says}")
    } else {
        format!("line {line} cannot be read")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_tenants_are_read() {
        let digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let file = format!(
            r#"
            [[key]]
            name = "router"
            sha256 = "{digest}"
            rights = ["work", "admin", "tenants"]

            [[key]]
            name = "team a, old"
            key = "plain"
            tenant = "a"

            [[tenant]]
            name = "a"
            tokens_per_minute = 1000
            concurrent = 4
            "#
        );
        let (entries, quotas) = parse(&file).unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].hash, KeyHash::of(b""));
        assert_eq!(
            entries[0].rights,
            [Right::Work, Right::Admin, Right::Tenants]
        );
        assert_eq!(entries[0].tenant, "router");
        assert_eq!(entries[1].hash, KeyHash::of(b"plain"));
        assert_eq!(
            (entries[1].tenant.as_str(), &entries[1].rights[..]),
            ("a", &[Right::Work][..])
        );
        let expected = Quota {
            tokens_per_minute: NonZeroU64::new(1000),
            requests_per_minute: None,
            concurrent: NonZeroU32::new(4),
        };
        assert_eq!(quotas["a"], expected);
        assert!(!quotas.contains_key("router"), "it is not listed");
        assert!(parse("").unwrap().0.is_empty());
    }

    #[test]
    fn what_is_wrong_is_told_without_what_stands_there() {
        let key = "[[key]]\nname = 'a'\nkey = 'canary'\n";
        for (file, says) in [
            ("[[key]]\nkey = 'canary'", "missing field `name`"),
            ("[[key]]\nname = 'a'", "one of key and sha256"),
            ("[[key]]\nname = 'a'\nkey = ''", "one of key and sha256"),
            ("[[key]]\nname = 'a'\nsha256 = 'canary'", "64 hexadecimal"),
            (&format!("{key}sha256 = 'canary'"), "one of key and sha256"),
            (&format!("{key}quota = 1"), "line 4: unknown field `quota`"),
            (&format!("{key}key = 'canary2'"), "line 4"),
            (
                &format!("{key}rights = ['canary']"),
                "line 4 cannot be read",
            ),
            (
                &format!("{key}tenant = \"a\\u0000\""),
                "the name of a tenant",
            ),
            (&format!("{key}{key}"), "two keys are named a"),
            ("[[key]]\nname = 'a'\nkey = canary", "line 3 cannot be read"),
            ("[[key]]\nname = ''\nkey = 'canary'", "the name of a key"),
            (
                "[[tenant]]\nname = 'a'\n[[tenant]]\nname = 'a'",
                "two tenants",
            ),
            (
                "[[tenant]]\nname = 'a'\nconcurrent = 0",
                "line 3 cannot be read",
            ),
        ] {
            let error = parse(file).unwrap_err();
            assert!(error.contains(says), "{error} of {file}");
            assert!(!error.contains("canary"), "{error}");
        }
    }
}
