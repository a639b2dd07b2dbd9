//! Flags of `health`.

use std::path::PathBuf;
use std::time::Duration;

use super::units::{MOMENT, time, whole};

/// Whom to ask.
#[derive(Clone, Debug, clap::Args)]
pub struct HealthArgs {
    /// The server's address; default: --health-port or --port of this machine.
    #[arg(long, value_name = "HOST:PORT")]
    pub addr: Option<String>,
    /// The port of a server on this machine.
    #[arg(short, long, default_value = "50051", value_parser = whole::<u16>(0..=65_535))]
    pub port: u16,
    /// The port for probes of a server on this machine, if it has one; --port counts only without it, and
    /// with --tls-ca.
    #[arg(long, value_name = "PORT", value_parser = whole::<u16>(0..=65_535))]
    pub health_port: Option<u16>,
    /// Certificates that the server's has to lead to, PEM; with it TLS is spoken.
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// The name the server's certificate has to have; default: the host of the address.
    #[arg(long, value_name = "NAME")]
    pub tls_server_name: Option<String>,
    /// The certificate to show to a server that wants one, PEM.
    #[arg(long, value_name = "FILE")]
    pub tls_client_cert: Option<PathBuf>,
    /// The private key of --tls-client-cert, PEM.
    #[arg(long, value_name = "FILE")]
    pub tls_client_key: Option<PathBuf>,
    /// The service to ask about; default: the whole server.
    #[arg(long, default_value = "")]
    pub service: String,
    /// The time the server has to answer.
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = time(MOMENT))]
    pub timeout: Duration,
}

impl HealthArgs {
    /// Where the server is.
    pub fn address(&self) -> String {
        // That port speaks no TLS.
        let plain = self.health_port.filter(|_| self.tls_ca.is_none());
        let here = || format!("127.0.0.1:{}", plain.unwrap_or(self.port));
        self.addr.clone().unwrap_or_else(here)
    }
}
