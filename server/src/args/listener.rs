//! Flags: where the server listens, and what connections may do.

use std::path::PathBuf;
use std::time::Duration;

use super::units::{MOMENT, time, whole};

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
    /// A port for probes: health, /metrics, /health and /ready alone, never encrypted.
    #[arg(long, value_name = "PORT", value_parser = whole::<u16>(0..=65_535))]
    pub health_port: Option<u16>,
    /// A socket to listen at besides, for callers on this machine; never encrypted.
    #[arg(long, value_name = "PATH")]
    pub uds_path: Option<PathBuf>,
    /// Connections at once; more are closed.
    #[arg(long, value_name = "CONNECTIONS", default_value = "1024")]
    #[arg(value_parser = whole::<usize>(1..=1 << 20))]
    pub max_connections: usize,
    /// Connections at once from one IPv4 address or one /64 network of IPv6 addresses; more are
    /// closed.
    #[arg(long, value_name = "CONNECTIONS", default_value = "128")]
    #[arg(value_parser = whole::<usize>(1..=1 << 20))]
    pub max_connections_per_address: usize,
    /// Calls at once on one connection; clients keep more to themselves.
    #[arg(long, value_name = "CALLS", default_value = "256")]
    #[arg(value_parser = whole::<u32>(1..=1 << 16))]
    pub max_streams_per_connection: u32,
    /// The time a connection may stay without a call before it is told to leave.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = time(MOMENT))]
    pub connection_idle_timeout: Duration,
    /// The age, give or take a tenth, at which a connection is told to leave after its running calls;
    /// default: none.
    #[arg(long, value_name = "TIME", value_parser = time(MOMENT))]
    pub max_connection_age: Option<Duration>,
    /// The time between two pings on a connection.
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = time(MOMENT))]
    pub keepalive_interval: Duration,
    /// The time a client has to answer a ping before its connection is closed.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time(MOMENT))]
    pub keepalive_timeout: Duration,
}
