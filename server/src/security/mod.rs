//! Who may do what: TLS, API keys, and the quotas of tenants. Without keys everybody may do
//! everything, and tenants are what clients say they are.

mod bucket;
mod keys;
mod keys_file;
mod live;
mod tenants;
mod tls;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::clock::EdgeClock;
use crate::grpc::validate;
use crate::method::{Access, Method};
use crate::status::Fault;

pub(crate) use tenants::{Exceeded, Slot, Tokens};

pub use keys::{Key, KeyHash, KeySource, Keys, Right};
pub use live::{Live, LoadError, Source};
pub use tenants::{Quota, Tenant};
pub use tls::{Tls, TlsFiles};

/// Between two looks at files.
const RELOAD_INTERVAL: Duration = Duration::from_millis(500);

/// Who may ask for something that tells, and does nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Exposure {
    /// Everybody.
    #[default]
    Open,
    /// Whoever has a key.
    Key,
    /// Nobody.
    Off,
}

/// What the command line says of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecurityConfig {
    /// TLS; without it nothing is encrypted.
    pub tls: Option<TlsFiles>,
    /// Keys for tenants of their own.
    pub api_keys: Vec<KeyHash>,
    /// A file with further keys.
    pub api_keys_file: Option<PathBuf>,
    /// What a tenant may use that the file does not list.
    pub default_quota: Quota,
    /// Who may ask for the contract.
    pub reflection: Exposure,
    /// Who may ask for `/metrics`.
    pub metrics: Exposure,
}

/// What is in use.
#[derive(Debug)]
pub struct Security {
    /// TLS of the main entrance.
    pub tls: Option<Arc<Live<TlsFiles>>>,
    /// Keys; without them everybody may do everything.
    pub keys: Option<Arc<Live<KeySource>>>,
    /// Who may ask for the contract.
    pub reflection: Exposure,
    /// Who may ask for `/metrics`.
    pub metrics: Exposure,
    /// Between two looks at files.
    pub reload_interval: Duration,
}

impl Default for Security {
    fn default() -> Self {
        Self {
            tls: None,
            keys: None,
            reflection: Exposure::Open,
            metrics: Exposure::Open,
            reload_interval: RELOAD_INTERVAL,
        }
    }
}

/// Who calls, as far as anybody knows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Caller {
    /// The name of its key.
    pub(crate) key: Option<String>,
    /// For whom it calls.
    tenant: Option<String>,
    /// What that tenant may use.
    pub(crate) account: Option<Account>,
}

/// A tenant whose usage is counted.
#[derive(Clone)]
pub(crate) struct Account {
    tenant: Arc<Tenant>,
    clock: EdgeClock,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Account").field(&self.tenant.name()).finish()
    }
}

impl Account {
    /// Begins a request of this tenant.
    pub(crate) fn admit(&self) -> Result<Slot, Fault> {
        let admitted = self.tenant.admit(self.clock.now());
        admitted.map_err(Fault::quota_exceeded)
    }

    /// It used these many tokens.
    pub(crate) fn charge(&self, kind: Tokens, count: u64) {
        self.tenant.charge(kind, count, self.clock.now());
    }
}

impl Caller {
    /// The tenant of a request that names one, or none.
    pub(crate) fn tenant(&self, named: &str) -> Result<String, Fault> {
        match &self.tenant {
            Some(tenant) if named.is_empty() || named == tenant => Ok(tenant.clone()),
            Some(_) if self.key.is_some() => Err(Fault::tenant_denied("tenant")),
            _ => Ok(named.to_owned()),
        }
    }

    /// The tenant that its key or its metadata name.
    pub(crate) fn named(&self) -> Option<&str> {
        self.tenant.as_deref()
    }
}

impl Security {
    /// Reads every file that the command line names.
    pub fn load(config: SecurityConfig, clock: EdgeClock) -> Result<Self, LoadError> {
        let keyed = !config.api_keys.is_empty() || config.api_keys_file.is_some();
        let source = KeySource::new(config.api_keys, config.api_keys_file, clock);
        let source = source.with_default_quota(config.default_quota);
        Ok(Self {
            tls: config.tls.map(Live::load).transpose()?.map(Arc::new),
            keys: keyed.then(|| Live::load(source)).transpose()?.map(Arc::new),
            reflection: config.reflection,
            metrics: config.metrics,
            reload_interval: RELOAD_INTERVAL,
        })
    }

    /// Reads every file again, changed or not.
    pub fn reload(&self) {
        if let Some(tls) = &self.tls {
            tls.reload();
        }
        if let Some(keys) = &self.keys {
            keys.reload();
        }
    }

    /// Lets a call in, or says why not.
    pub(crate) fn admit(&self, method: Method, headers: &HeaderMap) -> Result<Caller, Fault> {
        let access = self.access(method)?;
        let Some(keys) = &self.keys else {
            return Ok(Caller {
                tenant: named_tenant(headers)?,
                ..Caller::default()
            });
        };
        if access == Access::Open {
            return Ok(Caller::default());
        }
        let key = find(keys, headers).ok_or_else(Fault::bad_api_key)?;
        let needs = match access {
            Access::Open | Access::Look => None,
            Access::Work => Some((Right::Work, "work")),
            Access::Admin => Some((Right::Admin, "admin")),
        };
        if let Some((right, word)) = needs
            && !key.has(right)
        {
            return Err(Fault::right_missing(word));
        }
        let source = keys.source();
        let (tenant, account) = match named_tenant(headers)? {
            Some(named) if named != key.tenant.name() => {
                if !key.has(Right::Tenants) {
                    return Err(Fault::tenant_denied(TENANT_ID));
                }
                let account = source.tenants.account(&named, source.clock.now());
                (named, account)
            }
            _ => {
                let tenant = Arc::clone(&key.tenant);
                (tenant.name().to_owned(), Some(tenant))
            }
        };
        Ok(Caller {
            key: Some(key.name.clone()),
            tenant: Some(tenant),
            account: account.map(|tenant| Account {
                tenant,
                clock: source.clock.clone(),
            }),
        })
    }

    /// Whether a page of metrics is shown to whoever asks with these headers.
    pub(crate) fn shows_metrics(&self, headers: &HeaderMap) -> bool {
        match (self.metrics, &self.keys) {
            (Exposure::Off, _) => false,
            (Exposure::Open, _) | (Exposure::Key, None) => true,
            (Exposure::Key, Some(keys)) => find(keys, headers).is_some(),
        }
    }

    fn access(&self, method: Method) -> Result<Access, Fault> {
        if !method.is_reflection() {
            return Ok(method.access());
        }
        match self.reflection {
            Exposure::Open => Ok(Access::Open),
            Exposure::Key => Ok(Access::Look),
            Exposure::Off => Err(Fault::no_such_method()),
        }
    }
}

const TENANT_ID: &str = "x-tenant-id";

/// The tenant that metadata name. Of two names one may be a client's, behind which a router put its own.
fn named_tenant(headers: &HeaderMap) -> Result<Option<String>, Fault> {
    let mut values = headers.get_all(TENANT_ID).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let name = match values.next() {
        None => value.to_str().unwrap_or("\0"),
        Some(_another) => "\0",
    };
    validate::tenant(TENANT_ID, name)?;
    Ok((!name.is_empty()).then(|| name.to_owned()))
}

/// The key that metadata present. A missing one takes as long as a wrong one.
fn find(keys: &Live<KeySource>, headers: &HeaderMap) -> Option<Arc<Key>> {
    let mut presented = headers.get_all(AUTHORIZATION).iter();
    let first = presented.next().map(http::HeaderValue::as_bytes);
    let only = presented.next().is_none();
    let key = first.and_then(bearer).unwrap_or_default();
    let found = keys.current().find(key).cloned();
    found.filter(|_| only && !key.is_empty())
}

/// The token of `Bearer TOKEN`, in which only the first word is the same in any case.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, key) = value.split_at_checked("Bearer ".len())?;
    scheme
        .eq_ignore_ascii_case(b"Bearer ")
        .then(|| key.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bearer_is_a_key() {
        for (value, key) in [
            ("Bearer abc", Some("abc")),
            ("bearer abc", Some("abc")),
            ("Bearer  abc ", Some("abc")),
            ("Bearer ", Some("")),
            ("Bearer", None),
            ("Basic abc", None),
            ("abc", None),
            ("", None),
        ] {
            let found = bearer(value.as_bytes());
            assert_eq!(found, key.map(str::as_bytes), "{value:?}");
        }
    }
}
