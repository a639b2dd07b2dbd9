//! Requests to the hub and to the hosts it redirects to. The token goes to the hub's own scheme,
//! host and port and to no other; addresses are shown without their queries, which may be signed.

use std::io::Read;
use std::net::IpAddr;
use std::time::Duration;

use ureq::http::{HeaderMap, Uri, header};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Proxy};

use crate::error::HubError;
use crate::settings::{Settings, Token};

/// A client of one hub.
#[derive(Debug)]
pub(crate) struct Http {
    agent: Agent,
    home: Site,
    token: Option<Token>,
}

/// An answer, after redirects.
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: u16,
    /// The headers of the last answer.
    pub(crate) headers: HeaderMap,
    /// The commit the hub said the file is of.
    pub(crate) commit: Option<String>,
    /// Where it came from, without the query.
    pub(crate) place: String,
    /// What follows the headers.
    pub(crate) body: Box<dyn Read>,
}

/// Scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Site {
    scheme: String,
    host: String,
    port: u16,
}

impl Http {
    /// A client of the hub that the settings name.
    pub(crate) fn new(settings: &Settings) -> Result<Self, HubError> {
        let wrong = |message| HubError::Variable {
            name: "HF_ENDPOINT",
            message,
        };
        let home = settings.endpoint.as_str().parse().ok();
        let home = home
            .as_ref()
            .and_then(Site::of)
            .ok_or(wrong("has no host"))?;
        // A mirror on this machine is not behind a proxy.
        let proxy = Proxy::try_from_env().filter(|_| !home.is_loopback());
        let tls = TlsConfig::builder().root_certs(roots(settings)?).build();
        let config = Agent::config_builder()
            .user_agent(USER_AGENT)
            .accept_encoding("identity")
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(proxy)
            .tls_config(tls)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(ANSWER_TIMEOUT))
            .timeout_per_read(Some(STALL_TIMEOUT))
            .timeout_per_write(Some(STALL_TIMEOUT))
            .build();
        Ok(Self {
            agent: config.new_agent(),
            home,
            token: settings.token.clone(),
        })
    }

    /// Whether there is a token.
    pub(crate) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Whether an address is of the hub itself.
    pub(crate) fn is_home(&self, address: &str) -> bool {
        let uri = address.parse().ok();
        uri.as_ref().and_then(Site::of).as_ref() == Some(&self.home)
    }

    /// Gets what is at `address` from byte `offset` on, following redirects.
    pub(crate) fn get(&self, address: &str, offset: u64) -> Result<Answer, HubError> {
        let mut address = address.to_owned();
        let mut commit = None;
        for _ in 0..=REDIRECTS_MAX {
            let (uri, site) = self.parse(&address)?;
            let place = place(&uri);
            let mut request = self.agent.get(uri.clone());
            if offset > 0 {
                request = request.header(header::RANGE, format!("bytes={offset}-"));
            }
            if let Some(token) = self.token.as_ref().filter(|_| site == self.home) {
                request = request.header(header::AUTHORIZATION, token.header());
            }
            let response = request.call();
            let response = response.map_err(|error| failed(place.clone(), &error))?;
            let (parts, body) = response.into_parts();
            if site == self.home {
                commit = commit.or_else(|| text(&parts.headers, "x-repo-commit"));
            }
            if !parts.status.is_redirection() {
                return Ok(Answer {
                    status: parts.status.as_u16(),
                    headers: parts.headers,
                    commit,
                    place,
                    body: Box::new(body.into_reader()),
                });
            }
            let location = text(&parts.headers, "location");
            address = location
                .and_then(|location| redirected(&uri, &location))
                .ok_or_else(|| HubError::Answer {
                    place,
                    message: "redirects to no address that may follow it".to_owned(),
                })?;
        }
        Err(HubError::Answer {
            place: address.split('?').next().unwrap_or_default().to_owned(),
            message: format!("more than {REDIRECTS_MAX} redirects"),
        })
    }

    fn parse(&self, address: &str) -> Result<(Uri, Site), HubError> {
        let uri: Option<Uri> = address.parse().ok();
        let site = uri.as_ref().and_then(Site::of);
        uri.zip(site).ok_or_else(|| HubError::Answer {
            place: self.home.host.clone(),
            message: "names something that is no address".to_owned(),
        })
    }
}

impl Site {
    /// The site of an address of HTTP that holds no password.
    fn of(uri: &Uri) -> Option<Self> {
        let scheme = uri.scheme_str()?;
        let port = match scheme {
            "https" => 443,
            "http" => 80,
            _ => return None,
        };
        let authority = uri.authority()?;
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return None;
        }
        Some(Self {
            scheme: scheme.to_owned(),
            host: authority.host().to_ascii_lowercase(),
            port: authority.port_u16().unwrap_or(port),
        })
    }

    fn is_loopback(&self) -> bool {
        let address: Option<IpAddr> = self.host.trim_matches(['[', ']']).parse().ok();
        self.host == "localhost" || address.is_some_and(|address| address.is_loopback())
    }
}

/// Where a redirect leads; `None` when it is malformed or would give encryption up.
pub(crate) fn redirected(from: &Uri, location: &str) -> Option<String> {
    let (scheme, authority) = (from.scheme_str()?, from.authority()?);
    let to = if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        location.to_owned()
    };
    let site = Site::of(&to.parse().ok()?)?;
    (scheme == "http" || site.scheme == "https").then_some(to)
}

/// An address for people: without its query.
fn place(uri: &Uri) -> String {
    let scheme = uri.scheme_str().unwrap_or_default();
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    format!("{scheme}://{authority}{}", uri.path())
}

/// A header's value, if it is text of a sensible length.
pub(crate) fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    (value.len() <= HEADER_MAX).then(|| value.to_owned())
}

/// What happened, in words that never hold an address. Only what may pass is [`HubError::Network`].
fn failed(place: String, error: &ureq::Error) -> HubError {
    let message = match error {
        ureq::Error::Io(error) => match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(tls) => return untrusted(place, tls),
            None => error.to_string(),
        },
        ureq::Error::Rustls(tls) => return untrusted(place, tls),
        ureq::Error::Timeout(what) => format!("time-out ({what:?})"),
        ureq::Error::HostNotFound => "the host is not found".to_owned(),
        ureq::Error::ConnectionFailed => "cannot be reached".to_owned(),
        ureq::Error::ConnectProxyFailed(_) => "the proxy does not let it through".to_owned(),
        ureq::Error::Protocol(error) => error.to_string(),
        _ => {
            let message = "the request cannot be made, or the answer not be read".to_owned();
            return HubError::Answer { place, message };
        }
    };
    HubError::Network { place, message }
}

/// What is wrong between the two ends of TLS.
fn untrusted(place: String, error: &rustls::Error) -> HubError {
    let message = match error {
        rustls::Error::InvalidCertificate(_) => format!(
            "{error}; a file of certificates that SSL_CERT_FILE names is trusted in place of the \
             built-in ones"
        ),
        rustls::Error::InvalidMessage(_) => format!("it does not speak TLS: {error}"),
        rustls::Error::AlertReceived(_) | rustls::Error::PeerIncompatible(_) => {
            format!("TLS: {error}")
        }
        _ => {
            let message = format!("TLS: {error}");
            return HubError::Network { place, message };
        }
    };
    HubError::Tls { place, message }
}

fn roots(settings: &Settings) -> Result<RootCerts, HubError> {
    let Some(path) = &settings.certificates else {
        return Ok(RootCerts::WebPki);
    };
    let pem = std::fs::read(path).map_err(|error| HubError::io(path, error))?;
    let certificates: Vec<Certificate<'static>> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(HubError::Variable {
            name: "SSL_CERT_FILE",
            message: "has no certificate in it",
        });
    }
    Ok(RootCerts::new_with_certs(&certificates))
}

const USER_AGENT: &str = concat!("paternoster/", env!("CARGO_PKG_VERSION"));
const REDIRECTS_MAX: usize = 5;
/// A signed address of a content network has some 2 KiB.
const HEADER_MAX: usize = 16 << 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_to_addresses_and_keep_encryption() {
        let cases = [
            ("https://h/a/b", "/c?d=e", Some("https://h/c?d=e")),
            ("https://h:8/a", "/c", Some("https://h:8/c")),
            ("https://h/a", "//g/c", Some("https://g/c")),
            ("https://h/a", "https://g/c?s=1", Some("https://g/c?s=1")),
            ("http://h/a", "https://g/c", Some("https://g/c")),
            ("http://h/a", "http://g/c", Some("http://g/c")),
            ("https://h/a", "http://h/c", None),
            ("https://h/a", "ftp://g/c", None),
            ("https://h/a", "file:///etc/passwd", None),
            ("https://h/a", "https://u:p@g/c", None),
            ("https://h/a", "c", None),
            ("https://h/a", "", None),
        ];
        for (from, location, to) in cases {
            let found = redirected(&from.parse().unwrap(), location);
            assert_eq!(found.as_deref(), to, "{from} {location}");
        }
    }

    #[test]
    fn a_site_is_scheme_host_and_port() {
        let site = |text: &str| Site::of(&text.parse().unwrap());
        assert_eq!(site("https://HOST/a"), site("https://host:443/b"));
        for other in ["http://host/a", "https://host:444/a", "https://host.b/a"] {
            assert_ne!(site("https://host/a"), site(other), "{other}");
        }
        assert!(site("http://127.0.0.1:9/").unwrap().is_loopback());
        assert!(site("http://[::1]:9/").unwrap().is_loopback());
        assert!(!site("http://10.0.0.1:9/").unwrap().is_loopback());
    }

    #[test]
    fn places_are_shown_without_queries() {
        let uri = "https://cdn/a/b?Signature=canary".parse().unwrap();
        assert_eq!(place(&uri), "https://cdn/a/b");
    }
}
