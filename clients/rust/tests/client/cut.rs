//! Connections that break, and servers that leave.

use std::net::SocketAddr;
use std::sync::Arc;

use paternoster_client::v1::generate_response::Event;
use paternoster_client::{Kind, prompt};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::flaky::{Do, good, session, start};
use crate::retry::{streamed, whole};

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Fin,
    Rst,
}

/// A way to a server that can be cut; it then lets new connections through.
struct Relay {
    address: SocketAddr,
    cuts: Arc<watch::Sender<u32>>,
}

impl Relay {
    async fn to(server: SocketAddr, how: Cut) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cuts = Arc::new(watch::Sender::new(0));
        let cut = Arc::clone(&cuts);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut cut = cut.subscribe();
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(server).await.unwrap();
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        _ = cut.changed() => {
                            if how == Cut::Rst {
                                near.set_zero_linger().unwrap();
                            }
                        }
                    }
                });
            }
        });
        Self { address, cuts }
    }

    fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_first_token_is_tried_again() {
    for how in [Cut::Fin, Cut::Rst] {
        for begun in [vec![Do::Wait], vec![Do::Started, Do::Wait]] {
            let (flaky, address) = start(vec![begun.clone(), good()]);
            let relay = Relay::to(address, how).await;
            let session = session(relay.address).await;
            let cut = async {
                flaky.asked().await;
                relay.cut();
            };
            let (text, ()) = if begun.len() == 1 {
                tokio::join!(whole(&session), cut)
            } else {
                tokio::join!(streamed(&session), cut)
            };
            assert_eq!(text.unwrap(), "ab", "{how:?}");
            assert_eq!(flaky.seen.lock().unwrap().len(), 2, "{how:?}");
        }
    }
}

#[tokio::test]
async fn a_connection_that_breaks_after_it_leaves_the_answer_incomplete() {
    for how in [Cut::Fin, Cut::Rst] {
        let (flaky, address) = start(vec![vec![Do::Started, Do::Delta, Do::Wait], good()]);
        let relay = Relay::to(address, how).await;
        let session = session(relay.address).await;
        let mut generation = session.generate(prompt("x", 1)).await.unwrap();
        while !matches!(generation.next().await, Ok(Some(Event::Delta(_)))) {}
        relay.cut();
        let error = generation.next().await.unwrap_err();
        assert_eq!(error.kind(), Kind::Incomplete, "{how:?}: {error}");
        assert_eq!(flaky.seen.lock().unwrap().len(), 1, "{how:?}");
        assert_eq!(whole(&session).await.unwrap(), "ab", "it connects again");
    }
}

/// SETTINGS, and once a call has come a GOAWAY that says none was looked at.
async fn leave(mut stream: TcpStream) {
    stream
        .write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0])
        .await
        .unwrap();
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await.unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut rest = vec![0; length as usize];
        stream.read_exact(&mut rest).await.unwrap();
        if head[3] == 1 {
            break;
        }
    }
    let mut farewell = [0; 17];
    (farewell[2], farewell[3]) = (8, 7);
    stream.write_all(&farewell).await.unwrap();
    // Until the client has gone.
    let _gone = stream.read_to_end(&mut Vec::new()).await;
}

#[tokio::test]
async fn a_server_that_leaves_without_looking_at_a_call_gets_it_elsewhere() {
    for ask in 0..2 {
        let (flaky, address) = start(vec![good()]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let between = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (first, _) = listener.accept().await.unwrap();
            tokio::spawn(leave(first));
            let (mut near, _) = listener.accept().await.unwrap();
            let mut far = TcpStream::connect(address).await.unwrap();
            copy_bidirectional(&mut near, &mut far).await
        });
        let session = session(between).await;
        let text = if ask == 0 {
            whole(&session).await
        } else {
            streamed(&session).await
        };
        assert_eq!(text.unwrap(), "ab");
        assert_eq!(flaky.seen.lock().unwrap().len(), 1);
    }
}
