//! A server that is told to stop while streams run: it finishes them, and then it is gone.

use crate::clock::Stopwatch;
use crate::server::Server;
use crate::stream::{Stream, ask};
use crate::verdict::Verdict;

const ROUNDS: usize = 20;
const STREAMS: usize = 50;
const CONNECTIONS: usize = 5;
const TOKENS: u32 = 128;

pub(crate) async fn run() -> Verdict {
    let mut verdict = Verdict::new("drains");
    let (mut lost, mut not_well, mut slowest) = (0, 0, 0);
    for _ in 0..ROUNDS {
        let mut server = Server::demo(&[]).await;
        let clients = server.connect(CONNECTIONS).await;
        let mut streams = Vec::new();
        for number in 0..STREAMS {
            let client = &clients[number % CONNECTIONS];
            let mut stream = Stream::open(client, ask("Tell me about lifts.", TOKENS))
                .await
                .unwrap();
            stream.step().await.unwrap();
            streams.push(stream);
        }
        let begun = Stopwatch::start();
        server.signal("TERM");
        let mut readers = tokio::task::JoinSet::new();
        for mut stream in streams {
            readers.spawn(async move {
                let read = stream.read().await;
                read.is_ok() && stream.finished && stream.tokens.len() == TOKENS as usize
            });
        }
        while let Some(whole) = readers.join_next().await {
            lost += u64::from(!whole.unwrap_or(false));
        }
        // The clients keep their connections: that is no reason to stay.
        let code = server.ended().await;
        slowest = slowest.max(begun.ms());
        not_well += u64::from(code != Some(0));
        drop(clients);
    }
    verdict.fact("drains", ROUNDS);
    verdict.fact("streams_each", STREAMS);
    verdict.equal("streams_lost", lost, 0);
    verdict.equal("exits_not_0", not_well, 0);
    // Running calls have 60 s.
    verdict.at_most("slowest_exit_ms", slowest, 10 * 62_000);
    verdict
}
