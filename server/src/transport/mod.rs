//! Sockets: what is accepted, how many, how long it may stay, and how it is told to leave.

mod accept;
mod census;
mod closing;
mod connection;
mod unix;

use std::fmt;
use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub(crate) use accept::{Entrance, Socket};
pub(crate) use closing::Closing;
pub use unix::UnixSocket;

/// Where a server listens.
#[derive(Debug)]
pub struct Listeners {
    /// gRPC and pages.
    pub main: TcpListener,
    /// Health and pages alone, never encrypted.
    pub probes: Option<TcpListener>,
    /// As `main`, for this machine, never encrypted.
    pub unix: Option<UnixSocket>,
}

impl From<TcpListener> for Listeners {
    fn from(main: TcpListener) -> Self {
        Self {
            main,
            probes: None,
            unix: None,
        }
    }
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// Somebody with an address.
    Remote(SocketAddr),
    /// A process of this machine.
    Local,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remote(address) => address.fmt(f),
            Self::Local => f.write_str("local"),
        }
    }
}

/// When connections are taken, and when they end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stages {
    /// No new connection; each open one ends after its running calls.
    pub(crate) goodbye: CancellationToken,
    /// All connections end now.
    pub(crate) close: CancellationToken,
}
