//! The prefix cache as callers see it: its events, and flushing it.

use std::collections::BTreeMap;

use engine::fake::Fault;
use engine::kv_log::{KvChange, KvEvent, KvEvents};
use engine::request::Token;

use crate::bench::{Bench, LIMITS, at_once, device, prompt, read, request, soon};

/// What a subscriber knows: the tokens of each block, by its hash.
#[derive(Debug, Default)]
struct Known {
    blocks: BTreeMap<u128, Vec<Token>>,
    sequence: u64,
}

impl Known {
    fn take(&mut self, event: &KvEvent) {
        assert_eq!(event.sequence, self.sequence + 1, "an event is missing");
        self.sequence += 1;
        match &event.change {
            KvChange::Cleared => self.blocks.clear(),
            KvChange::Removed { hashes } => {
                for hash in hashes.iter() {
                    assert!(self.blocks.remove(&hash.0).is_some(), "never stored");
                }
            }
            KvChange::Stored {
                hashes,
                parent,
                tokens,
            } => {
                let known = parent.is_none_or(|parent| self.blocks.contains_key(&parent.0));
                assert!(known, "nothing is known of what stands before");
                assert_eq!(tokens.len(), 4 * hashes.len());
                for (hash, tokens) in hashes.iter().zip(tokens.chunks(4)) {
                    let before = self.blocks.insert(hash.0, tokens.to_vec());
                    assert!(before.is_none(), "stored twice");
                }
            }
        }
    }

    /// Takes everything that has happened.
    async fn catch_up(&mut self, events: &mut KvEvents) {
        while let Some(event) = at_once(events.next()).await {
            self.take(&event);
        }
    }

    fn all(&self) -> usize {
        self.blocks.len()
    }
}

#[tokio::test]
async fn a_subscriber_knows_what_is_cached() {
    let bench = Bench::on(device(40), LIMITS).await;
    let (mut events, mut known) = (bench.handle.kv_events(Some(1)), Known::default());
    known.take(&soon(events.next()).await);
    assert!(at_once(events.next()).await.is_none(), "nothing else yet");
    let text = prompt(1, 10);
    let heard = read(&mut bench.generate(request(&text, 7)).await).await;
    bench.quiet().await;
    known.catch_up(&mut events).await;
    // 17 tokens, of which the last was never computed: four blocks.
    let mut told: Vec<Token> = text;
    told.extend(&heard.tokens);
    let mut blocks: Vec<_> = known.blocks.values().cloned().collect();
    let mut expected: Vec<_> = told.chunks_exact(4).map(<[Token]>::to_vec).collect();
    blocks.sort();
    expected.sort();
    assert_eq!(blocks, expected);
    // More than there is room for.
    for number in 2..30 {
        let asked = request(&prompt(number, 20), 10);
        read(&mut bench.generate(asked).await).await;
    }
    bench.quiet().await;
    known.catch_up(&mut events).await;
    assert_eq!(known.all(), bench.handle.stats().blocks_cached as usize);
    assert!(bench.handle.stats().evictions > 0, "nothing was removed");
}

#[tokio::test]
async fn flushing_frees_what_nobody_uses_and_tells_of_it() {
    let bench = Bench::serving(LIMITS).await;
    assert_eq!(soon(bench.handle.flush_cache()).await, Ok(0));
    read(&mut bench.generate(request(&prompt(1, 18), 1)).await).await;
    bench.quiet().await;
    let mut events = bench.handle.kv_events(None);
    assert_eq!(soon(bench.handle.flush_cache()).await, Ok(4));
    match soon(events.next()).await.change {
        KvChange::Removed { hashes } => assert_eq!(hashes.len(), 4),
        other => unreachable!("{other:?}"),
    }
    let mut tokens = bench.generate(request(&prompt(1, 18), 1)).await;
    assert_eq!(soon(tokens.next()).await.unwrap().started, Some(0));
}

#[tokio::test]
async fn a_new_life_begins_with_an_empty_cache() {
    let bench = Bench::patient().await;
    let mut events = bench.handle.kv_events(None);
    bench.device.fail_at(4, Fault::Error);
    read(&mut bench.generate(request(&prompt(1, 9), 9)).await).await;
    bench.quiet().await;
    let mut changes = Vec::new();
    while let Some(event) = at_once(events.next()).await {
        changes.push(event.change);
    }
    let cleared = changes
        .iter()
        .position(|c| *c == KvChange::Cleared)
        .unwrap();
    let is_stored = |change: &KvChange| matches!(change, KvChange::Stored { .. });
    assert!(changes[..cleared].iter().any(is_stored));
    assert!(changes[cleared..].iter().any(is_stored));
}
