//! How a client talks TLS.

use std::fmt;

use tonic::transport::{Certificate, ClientTlsConfig, Identity};

/// How to talk TLS, all of it in PEM. Whom to believe has to be said: the system's roots are not read.
#[derive(Clone)]
pub struct Tls {
    config: ClientTlsConfig,
}

impl Tls {
    /// Believes servers whose certificate leads to one of these.
    pub fn new(roots: impl AsRef<[u8]>) -> Self {
        let roots = Certificate::from_pem(roots);
        Self {
            config: ClientTlsConfig::new().ca_certificate(roots),
        }
    }

    /// Shows a certificate to a server that wants to know its clients.
    #[must_use]
    pub fn with_identity(self, certificate: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Self {
        Self {
            config: self.config.identity(Identity::from_pem(certificate, key)),
        }
    }

    /// The name that the server's certificate must have, where it is not the host of the address.
    #[must_use]
    pub fn with_server_name(self, name: impl Into<String>) -> Self {
        Self {
            config: self.config.domain_name(name),
        }
    }

    pub(crate) fn into_config(self) -> ClientTlsConfig {
        self.config
    }
}

// The key of a certificate is a secret.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}
