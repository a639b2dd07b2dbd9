//! A set of byte strings searched for all at once, one byte at a time (Aho-Corasick).
//!
//! Knows nothing of characters: patterns that are whole UTF-8 strings can only match at character
//! borders, because the first byte of a character never occurs inside another.

use std::collections::VecDeque;

/// The immutable automaton. Searching costs a few steps per byte, however many patterns there are.
#[derive(Debug)]
pub(super) struct Patterns {
    nodes: Vec<Node>,
    lengths: Vec<usize>,
}

/// Where a search stands: the longest end of the text so far that begins some pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Place(u32);

#[derive(Debug, Default)]
struct Node {
    /// Next node by byte, sorted by byte.
    next: Vec<(u8, u32)>,
    /// The node of the longest proper end of this node's string that begins some pattern.
    fail: u32,
    /// Bytes from the root, which is the length of the string this node stands for.
    depth: usize,
    /// The pattern that ends exactly here; of equal patterns the first.
    ends: Option<usize>,
    /// The nearest node on the way of `fail` where a pattern ends; 0 is none.
    shorter: u32,
}

impl Patterns {
    /// Builds the automaton. Empty patterns never match.
    pub(super) fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Self {
        let mut set = Self {
            nodes: vec![Node::default()],
            lengths: Vec::new(),
        };
        for pattern in patterns {
            let index = set.lengths.len();
            set.lengths.push(pattern.len());
            let mut at = 0;
            for &byte in pattern.as_bytes() {
                at = set.child_or_insert(at, byte);
            }
            if at != 0 {
                set.nodes[at as usize].ends.get_or_insert(index);
            }
        }
        set.link();
        set
    }

    /// Follows one byte. Answers the new place.
    pub(super) fn step(&self, place: Place, byte: u8) -> Place {
        let mut at = place.0;
        loop {
            let node = &self.nodes[at as usize];
            if let Ok(edge) = node.next.binary_search_by_key(&byte, |&(b, _)| b) {
                return Place(node.next[edge].1);
            }
            if at == 0 {
                return Place(0);
            }
            at = node.fail;
        }
    }

    /// Bytes at the end of the text so far that may still become a pattern (or are one).
    pub(super) fn depth(&self, place: Place) -> usize {
        self.nodes[place.0 as usize].depth
    }

    /// The patterns that end at this place as (index, length in bytes), the longest first.
    pub(super) fn ending(&self, place: Place) -> impl Iterator<Item = (usize, usize)> + '_ {
        let mut at = place.0;
        std::iter::from_fn(move || {
            while at != 0 {
                let node = &self.nodes[at as usize];
                at = node.shorter;
                if let Some(index) = node.ends {
                    return Some((index, self.lengths[index]));
                }
            }
            None
        })
    }

    fn child_or_insert(&mut self, at: u32, byte: u8) -> u32 {
        let fresh = self.nodes.len() as u32;
        let node = &mut self.nodes[at as usize];
        match node.next.binary_search_by_key(&byte, |&(b, _)| b) {
            Ok(edge) => node.next[edge].1,
            Err(edge) => {
                let depth = node.depth + 1;
                node.next.insert(edge, (byte, fresh));
                self.nodes.push(Node {
                    depth,
                    ..Node::default()
                });
                fresh
            }
        }
    }

    /// Sets `fail` and `shorter`, nearest to the root first.
    fn link(&mut self) {
        let mut queue: VecDeque<u32> = self.nodes[0].next.iter().map(|&(_, node)| node).collect();
        while let Some(at) = queue.pop_front() {
            let fail = self.nodes[at as usize].fail;
            let ends_at_fail = self.nodes[fail as usize].ends.is_some();
            let shorter = if ends_at_fail {
                fail
            } else {
                self.nodes[fail as usize].shorter
            };
            self.nodes[at as usize].shorter = shorter;
            for (byte, child) in self.nodes[at as usize].next.clone() {
                self.nodes[child as usize].fail = self.step(Place(fail), byte).0;
                queue.push_back(child);
            }
        }
    }
}
