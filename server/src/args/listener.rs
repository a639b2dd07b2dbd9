//! Flags: where the server listens, and what connections may do.

use super::units::whole;

/// Where to listen.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Server")]
pub struct ListenerArgs {
    /// The address to listen on. (HOSTNAME is the machine's own name in many environments, so this
    /// flag's variable is PATERNOSTER_HOSTNAME.)
    #[arg(long, default_value = "127.0.0.1")]
    pub hostname: String,
    /// The port to listen on: gRPC, and HTTP/1.1 for /metrics, /health and /ready.
    #[arg(short, long, default_value = "50051", value_parser = whole::<u16>(0..=65_535))]
    pub port: u16,
    /// Connections at once; more are closed.
    #[arg(long, value_name = "CONNECTIONS", default_value = "1024")]
    #[arg(value_parser = whole::<usize>(1..=1 << 20))]
    pub max_connections: usize,
}
