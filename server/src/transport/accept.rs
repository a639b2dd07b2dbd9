//! The accept loop of one socket: connections are counted, capped, and all told to leave in the end.

use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinSet;

use super::census::Census;
use super::connection::{Connection, Times, builder};
use super::{Peer, Stages, UnixSocket};
use crate::clock::Deadline;
use crate::edge::Edge;
use crate::limits::Limits;
use crate::security::{Live, TlsFiles};

/// How long to wait before the next try when no connection can be accepted (no file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What is listened at.
pub(crate) enum Socket {
    /// Anybody.
    Tcp(TcpListener),
    /// Processes of this machine.
    Unix(UnixSocket),
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    async fn accept(&self) -> io::Result<(Stream, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                prepare(&stream);
                Ok((Stream::Tcp(stream), Peer::Remote(address)))
            }
            Self::Unix(socket) => {
                let (stream, _unnamed) = socket.listener.accept().await?;
                Ok((Stream::Unix(stream), Peer::Local))
            }
        }
    }
}

/// One socket and what is behind it.
pub(crate) struct Entrance {
    pub(crate) socket: Socket,
    pub(crate) edge: Edge,
    /// What is spoken there before anything else.
    pub(crate) tls: Option<Arc<Live<TlsFiles>>>,
}

impl Entrance {
    /// Accepts until `goodbye`, then waits for the open connections until `close`.
    pub(crate) async fn run(self, limits: Limits, stages: Stages) {
        let builder = Arc::new(builder(&limits));
        let census = Census::new(limits.connections_max, limits.connections_per_address_max);
        let (chance, mut number) = (RandomState::new(), 0_u64);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = stages.goodbye.cancelled() => break,
                accepted = self.socket.accept() => {
                    let (stream, peer) = match accepted {
                        Ok(accepted) => accepted,
                        Err(error) => {
                            tracing::warn!(%error, "no connection could be accepted");
                            tokio::time::sleep(ACCEPT_PAUSE).await;
                            continue;
                        }
                    };
                    let seat = match census.enter(peer) {
                        Ok(seat) => seat,
                        Err(closing) => {
                            closing.count();
                            continue;
                        }
                    };
                    number += 1;
                    let connection = Connection {
                        edge: self.edge.clone(),
                        builder: Arc::clone(&builder),
                        peer,
                        seat,
                        times: times(&limits, chance.hash_one(number)),
                        goodbye: stages.goodbye.clone(),
                    };
                    let tls = self.tls.as_ref().map(|tls| Arc::clone(&tls.current().config));
                    match (stream, tls) {
                        (Stream::Tcp(stream), None) => connections.spawn(connection.serve(stream)),
                        (Stream::Tcp(stream), Some(tls)) => {
                            connections.spawn(connection.serve_tls(stream, tls))
                        }
                        (Stream::Unix(stream), _) => connections.spawn(connection.serve(stream)),
                    };
                }
                Some(_) = connections.join_next() => {}
            }
        }
        drop(self.socket);
        tokio::select! {
            () = stages.close.cancelled() => {}
            () = async { while connections.join_next().await.is_some() {} } => {}
        }
    }
}

fn times(limits: &Limits, chance: u64) -> Times {
    Times {
        greeting: Deadline::after(limits.greeting_timeout),
        idle: limits.connection_idle_timeout,
        age: limits.connection_age_max.map(|age| jittered(age, chance)),
        grace: limits.request_timeout_max,
    }
}

/// A time within a tenth of `age`: connections that began together do not all come back together.
fn jittered(age: Duration, chance: u64) -> Duration {
    let share = f64::from(chance as u32) / f64::from(u32::MAX);
    age.mul_f64(0.9 + 0.2 * share)
}

/// Sends small messages at once: with Nagle's algorithm, each token would wait for the client's
/// acknowledgement of the one before.
fn prepare(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_send_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        assert!(!stream.nodelay().unwrap());
        prepare(&stream);
        assert!(stream.nodelay().unwrap());
    }

    #[test]
    fn ages_differ_by_a_tenth_at_most() {
        let age = Duration::from_secs(100);
        assert_eq!(jittered(age, 0), Duration::from_secs(90));
        assert_eq!(jittered(age, u64::MAX), Duration::from_secs(110));
        let chance = RandomState::new();
        let ages: Vec<Duration> = (0..100_u64)
            .map(|number| jittered(age, chance.hash_one(number)))
            .collect();
        let (low, high) = (Duration::from_secs(90), Duration::from_secs(110));
        assert!(ages.iter().all(|age| (low..=high).contains(age)));
        let different: std::collections::HashSet<_> = ages.iter().collect();
        assert!(different.len() > 90);
    }
}
