//! Certificates: what the server shows, and whose clients it believes. By rustls with ring.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use metrics::gauge;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};
use x509_cert::der::Decode as _;

use super::live::{LoadError, Source};
use crate::metrics::TLS_EXPIRY;

/// HTTP/2 for gRPC, HTTP/1.1 for pages.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The files of a server's TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, then those that lead to one that clients know; PEM.
    pub cert: PathBuf,
    /// Its private key; PEM.
    pub key: PathBuf,
    /// The certificates that clients' certificates have to lead to; without them a client needs
    /// none. PEM.
    pub client_ca: Option<PathBuf>,
}

/// What the files hold.
pub struct Tls {
    pub(crate) config: Arc<ServerConfig>,
    /// When the first certificate of each file ends, in seconds since 1970.
    expiries: Vec<(&'static str, u64)>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Source for TlsFiles {
    type Value = Tls;
    const WHAT: &'static str = "tls";

    fn files(&self) -> Vec<PathBuf> {
        [&self.cert, &self.key]
            .into_iter()
            .chain(&self.client_ca)
            .cloned()
            .collect()
    }

    fn load(&self) -> Result<Tls, LoadError> {
        let provider = Arc::new(ring::default_provider());
        let chain = certificates(&self.cert)?;
        let key = private_key(&self.key)?;
        let mut expiries = vec![("server", first_end(&chain))];
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| LoadError::new(&self.cert, error))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let authorities = certificates(path)?;
                expiries.push(("client_ca", first_end(&authorities)));
                let verifier = Authorities::new(&authorities, &provider)
                    .map_err(|error| LoadError::new(path, error))?;
                builder.with_client_cert_verifier(Arc::new(verifier))
            }
        };
        // Refuses a key that is not the certificate's.
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|error| LoadError::new(&self.cert, error))?;
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
        if self.client_ca.is_some() {
            // A session that is taken up again shows no certificate: it would outlive the dates of the
            // one it began with.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(Tls {
            config: Arc::new(config),
            expiries: expiries
                .into_iter()
                .filter_map(|(file, end)| end.map(|end| (file, end)))
                .collect(),
        })
    }

    fn applied(&self, value: &Tls) {
        for (file, end) in &value.expiries {
            gauge!(TLS_EXPIRY, "certificate" => *file).set(*end as f64);
        }
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    let pem = std::fs::read(path).map_err(|error| LoadError::new(path, error))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err(LoadError::new(path, "has no certificate")),
        Ok(found) => Ok(found),
        // What it says may quote the file.
        Err(_) => Err(LoadError::new(path, "is not PEM")),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, LoadError> {
    let pem = std::fs::read(path).map_err(|error| LoadError::new(path, error))?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| LoadError::new(path, "has no private key"))
}

/// When a certificate ends, in seconds since 1970; `None` if that cannot be read.
fn end(certificate: &CertificateDer<'_>) -> Option<u64> {
    let certificate = x509_cert::Certificate::from_der(certificate).ok()?;
    let validity = certificate.tbs_certificate().validity();
    Some(validity.not_after.to_unix_duration().as_secs())
}

fn first_end(certificates: &[CertificateDer<'_>]) -> Option<u64> {
    certificates.iter().filter_map(end).min()
}

/// Believes clients whose certificates lead to an authority that has not expired. rustls by itself
/// asks for the dates of every certificate but an authority's own.
#[derive(Debug)]
struct Authorities {
    each: Vec<Authority>,
    /// For what does not depend on one of them.
    all: Arc<dyn ClientCertVerifier>,
}

#[derive(Debug)]
struct Authority {
    /// In seconds since 1970.
    end: Option<u64>,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl Authorities {
    fn new(
        certificates: &[CertificateDer<'static>],
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let verifier = |certificates: &[CertificateDer<'static>]| {
            let mut roots = RootCertStore::empty();
            for certificate in certificates {
                roots
                    .add(certificate.clone())
                    .map_err(|error| error.to_string())?;
            }
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
                .build()
                .map_err(|error| error.to_string())
        };
        let authority = |certificate: &CertificateDer<'static>| {
            Ok::<_, String>(Authority {
                end: end(certificate),
                verifier: verifier(std::slice::from_ref(certificate))?,
            })
        };
        Ok(Self {
            each: certificates
                .iter()
                .map(authority)
                .collect::<Result<_, _>>()?,
            all: verifier(certificates)?,
        })
    }
}

impl ClientCertVerifier for Authorities {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.all.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let mut why = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        for authority in &self.each {
            let verifier = &authority.verifier;
            match verifier.verify_client_cert(end_entity, intermediates, now) {
                Ok(_) if authority.end.is_some_and(|end| now.as_secs() > end) => {
                    why = Error::InvalidCertificate(CertificateError::Expired);
                }
                Ok(verified) => return Ok(verified),
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.all
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.all
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.all.supported_verify_schemes()
    }
}
