//! Flags of `health`.

use std::time::Duration;

use super::units::{MOMENT, time, whole};

/// Whom to ask.
#[derive(Clone, Debug, clap::Args)]
pub struct HealthArgs {
    /// The server's address; default: --port of this machine.
    #[arg(long, value_name = "HOST:PORT")]
    pub addr: Option<String>,
    /// The port of a server on this machine.
    #[arg(short, long, default_value = "50051", value_parser = whole::<u16>(0..=65_535))]
    pub port: u16,
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
        let here = || format!("127.0.0.1:{}", self.port);
        self.addr.clone().unwrap_or_else(here)
    }
}
