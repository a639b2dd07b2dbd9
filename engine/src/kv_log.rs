//! The last changes of a decoder's prefix cache, numbered, for whoever wants to know which prefixes
//! are here: [`KvEvents`].

use std::collections::VecDeque;
use std::future;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use scheduler::cache::{CacheChange, CacheChanges};
use scheduler::hash::BlockHash;
use scheduler::request::Token;
use tokio::sync::watch;

use crate::inbox::lock;

/// Events kept for those who come late or read slowly.
const EVENTS_MAX: usize = 4096;

/// Blocks of all events kept.
const BLOCKS_MAX: usize = 65_536;

/// A change of the prefix cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvChange {
    /// Blocks that follow each other can be found from now on.
    Stored {
        /// Their chained hashes, in order.
        hashes: Arc<[BlockHash]>,
        /// The hash of the block before the first; `None` at the start of a text.
        parent: Option<BlockHash>,
        /// The tokens of all of them.
        tokens: Arc<[Token]>,
    },
    /// Blocks can be found no longer.
    Removed {
        /// Their hashes.
        hashes: Arc<[BlockHash]>,
    },
    /// Nothing can be found any longer.
    Cleared,
}

impl KvChange {
    fn blocks(&self) -> usize {
        match self {
            Self::Stored { hashes, .. } | Self::Removed { hashes } => hashes.len(),
            Self::Cleared => 0,
        }
    }
}

/// A numbered change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvEvent {
    /// Counts up by one, from 1 in the life of the process. A gap means that events were lost: whoever
    /// sees one forgets what it knew.
    pub sequence: u64,
    /// What happened.
    pub change: KvChange,
}

/// The newest events, bounded in number and in blocks.
#[derive(Debug)]
pub(crate) struct KvLog {
    kept: Mutex<Kept>,
    /// The number of the last event.
    last: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    events: VecDeque<KvChange>,
    /// The number of the first of them.
    first: u64,
    blocks: usize,
}

impl Default for KvLog {
    fn default() -> Self {
        let kept = Kept {
            first: 1,
            ..Kept::default()
        };
        Self {
            kept: Mutex::new(kept),
            last: watch::Sender::new(0),
        }
    }
}

impl KvLog {
    /// A new executor has nothing in its cache.
    pub(crate) fn clear(&self) {
        self.append([KvChange::Cleared]);
    }

    /// Notes what changed in a cache of blocks of `block_tokens` tokens.
    pub(crate) fn extend(&self, changes: &CacheChanges, block_tokens: usize) {
        if !changes.is_empty() {
            self.append(Runs::new(changes, block_tokens));
        }
    }

    fn append(&self, changes: impl IntoIterator<Item = KvChange>) {
        let mut kept = lock(&self.kept);
        for change in changes {
            kept.push(change);
        }
        let last = kept.first + kept.events.len() as u64 - 1;
        drop(kept);
        self.last.send_replace(last);
    }

    /// The event of this number, or the oldest one after it. `None` if it has not happened.
    fn get(&self, sequence: u64) -> Option<KvEvent> {
        let kept = lock(&self.kept);
        let sequence = sequence.max(kept.first);
        let change = kept.events.get((sequence - kept.first) as usize)?.clone();
        Some(KvEvent { sequence, change })
    }
}

impl Kept {
    fn push(&mut self, change: KvChange) {
        self.blocks += change.blocks();
        self.events.push_back(change);
        while self.events.len() > EVENTS_MAX || self.blocks > BLOCKS_MAX {
            let Some(oldest) = self.events.pop_front() else {
                return;
            };
            self.blocks -= oldest.blocks();
            self.first += 1;
        }
    }
}

/// Changes gathered into events: blocks that follow each other, and removals in a row.
struct Runs<'a> {
    changes: &'a [CacheChange],
    tokens: &'a [Token],
    block_tokens: usize,
}

impl<'a> Runs<'a> {
    fn new(changes: &'a CacheChanges, block_tokens: usize) -> Self {
        Self {
            changes: &changes.changes,
            tokens: &changes.tokens,
            block_tokens,
        }
    }

    /// How many of the next changes make one event.
    fn run(&self) -> Range<usize> {
        let joins = |pair: &[CacheChange]| match (pair[0], pair[1]) {
            (CacheChange::Stored { hash, .. }, CacheChange::Stored { parent, .. }) => {
                parent == Some(hash)
            }
            (CacheChange::Removed { .. }, CacheChange::Removed { .. }) => true,
            _ => false,
        };
        0..1 + self
            .changes
            .windows(2)
            .take_while(|pair| joins(pair))
            .count()
    }
}

impl Iterator for Runs<'_> {
    type Item = KvChange;

    fn next(&mut self) -> Option<KvChange> {
        let first = *self.changes.first()?;
        let (run, rest) = self.changes.split_at(self.run().end);
        self.changes = rest;
        let hashes = run.iter().map(|change| match *change {
            CacheChange::Stored { hash, .. } | CacheChange::Removed { hash } => hash,
        });
        let hashes: Arc<[BlockHash]> = hashes.collect();
        Some(match first {
            CacheChange::Removed { .. } => KvChange::Removed { hashes },
            CacheChange::Stored { parent, .. } => {
                let (tokens, rest) = self.tokens.split_at(run.len() * self.block_tokens);
                self.tokens = rest;
                KvChange::Stored {
                    hashes,
                    parent,
                    tokens: tokens.into(),
                }
            }
        })
    }
}

/// The changes of a decoder's prefix cache, from one on. A reader that falls far behind misses the
/// oldest, and sees it by their numbers.
#[derive(Debug)]
pub struct KvEvents {
    log: Arc<KvLog>,
    last: watch::Receiver<u64>,
    next: u64,
}

impl KvEvents {
    /// From the event `from` on, or from now on.
    pub(crate) fn new(log: Arc<KvLog>, from: Option<u64>) -> Self {
        let last = log.last.subscribe();
        let next = from.unwrap_or_else(|| *last.borrow() + 1);
        Self { log, last, next }
    }

    /// Waits for the next event: for ever, once there is no engine any more. Safe to cancel.
    pub async fn next(&mut self) -> KvEvent {
        loop {
            self.last.borrow_and_update();
            if let Some(event) = self.log.get(self.next) {
                self.next = event.sequence + 1;
                return event;
            }
            if self.last.changed().await.is_err() {
                future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(hash: u128, parent: Option<u128>) -> CacheChange {
        let (hash, parent) = (BlockHash(hash), parent.map(BlockHash));
        CacheChange::Stored { hash, parent }
    }

    fn removed(hash: u128) -> CacheChange {
        let hash = BlockHash(hash);
        CacheChange::Removed { hash }
    }

    fn hashes(numbers: &[u128]) -> Arc<[BlockHash]> {
        numbers.iter().copied().map(BlockHash).collect()
    }

    #[test]
    fn changes_in_a_row_are_one_event() {
        let changes = CacheChanges {
            changes: vec![
                stored(1, None),
                stored(2, Some(1)),
                stored(7, Some(5)),
                removed(3),
                removed(4),
                stored(8, Some(7)),
            ],
            tokens: (0..8).map(Token).collect(),
        };
        let events: Vec<_> = Runs::new(&changes, 2).collect();
        let text = |tokens: Range<u32>| tokens.map(Token).collect();
        let expected = [
            KvChange::Stored {
                hashes: hashes(&[1, 2]),
                parent: None,
                tokens: text(0..4),
            },
            KvChange::Stored {
                hashes: hashes(&[7]),
                parent: Some(BlockHash(5)),
                tokens: text(4..6),
            },
            KvChange::Removed {
                hashes: hashes(&[3, 4]),
            },
            KvChange::Stored {
                hashes: hashes(&[8]),
                parent: Some(BlockHash(7)),
                tokens: text(6..8),
            },
        ];
        assert_eq!(events, expected);
    }

    #[test]
    fn the_oldest_events_go_and_leave_a_gap() {
        let log = KvLog::default();
        assert_eq!(log.get(1), None);
        for _ in 0..EVENTS_MAX + 10 {
            log.clear();
        }
        assert_eq!(log.get(1).map(|event| event.sequence), Some(11));
        let many = CacheChanges {
            changes: (0..BLOCKS_MAX as u128).map(removed).collect(),
            tokens: Vec::new(),
        };
        log.extend(&many, 16);
        let kept = lock(&log.kept);
        assert_eq!((kept.events.len(), kept.blocks), (EVENTS_MAX, BLOCKS_MAX));
        drop(kept);
        log.extend(&many, 16);
        assert_eq!(lock(&log.kept).events.len(), 1, "blocks are bounded, too");
    }
}
