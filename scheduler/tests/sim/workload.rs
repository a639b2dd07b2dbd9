//! What happens in a world: its bounds, its requests and its accidents, all from one seed.

use std::num::NonZeroU32;

use scheduler::hash::{BlockHash, BlockHasher};
use scheduler::limits::{Limits, Pool};
use scheduler::request::{Micros, Priority, Request, RequestId, TenantId, Token};

use crate::shadow::{self, Solo};

/// A small generator with a fixed sequence (SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x5851_f42d_4c95_7f2d) ^ 0x1405_7b7e_f767_814f)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        shadow::mix(self.0)
    }

    /// A number from `low` to `high`, both included.
    pub(crate) fn range(&mut self, low: u32, high: u32) -> u32 {
        low + (self.next() % u64::from(high - low + 1)) as u32
    }

    /// True in `percent` of 100 cases.
    pub(crate) fn chance(&mut self, percent: u32) -> bool {
        self.range(1, 100) <= percent
    }
}

/// Hashers from secure-looking to useless: the prefix cache must be right with all of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BitsHasher {
    pub(crate) bits: u32,
}

impl BlockHasher for BitsHasher {
    fn hash(&self, parent: BlockHash, tokens: &[Token]) -> BlockHash {
        let seed = parent.0 as u64 ^ (parent.0 >> 64) as u64;
        let hash = tokens
            .iter()
            .fold(seed, |hash, &token| shadow::chain(hash, token));
        let wide = u128::from(hash) << 64 | u128::from(shadow::mix(hash));
        BlockHash(if self.bits == 128 {
            wide
        } else {
            wide & ((1 << self.bits) - 1)
        })
    }
}

/// How often things happen, in per cent of the ticks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rates {
    pub(crate) submit: u32,
    pub(crate) abort: u32,
    pub(crate) flush: u32,
    /// Of the requests.
    pub(crate) deadline: u32,
    /// Of the sampled rows.
    pub(crate) fault: u32,
    /// Of the ticks that could plan ahead.
    pub(crate) plan_ahead: u32,
}

/// One world's constants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) limits: Limits,
    pub(crate) pool: Pool,
    pub(crate) hasher: BitsHasher,
    pub(crate) rates: Rates,
    pub(crate) ticks: u32,
    prompt_max: u32,
    output_max: u32,
    tenants: u32,
    priorities: u32,
    /// Distinct beginnings of prompts.
    families: u32,
    vocabulary: u32,
}

impl Shape {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let block_tokens = [1, 2, 3, 4, 5, 6, 8, 16][rng.range(0, 7) as usize];
        let blocks = rng.range(3, 40) + 1;
        // Several sequences fit, and not for long.
        let room = (blocks * block_tokens).min(100);
        let limits = Limits {
            step_tokens_max: rng.range(1, 40),
            running_max: rng.range(1, 10),
            waiting_max: rng.range(2, 20),
            sequence_tokens_max: rng.range(20, 80),
            preemptions_max: rng.range(0, 8),
            depth_max: rng.range(1, 2),
        };
        let rare = rng.chance(50);
        Self {
            limits,
            pool: Pool {
                blocks,
                block_tokens: NonZeroU32::new(block_tokens).unwrap(),
            },
            hasher: BitsHasher {
                bits: [128, 128, 6, 2, 0][rng.range(0, 4) as usize],
            },
            rates: Rates {
                submit: rng.range(5, 60),
                abort: if rare { 0 } else { rng.range(1, 8) },
                flush: if rare { 0 } else { rng.range(0, 3) },
                deadline: if rare { 0 } else { rng.range(0, 50) },
                fault: if rare { 0 } else { rng.range(0, 3) },
                plan_ahead: rng.range(20, 100),
            },
            ticks: rng.range(100, 500),
            prompt_max: rng.range(1, room.div_ceil(2)),
            output_max: rng.range(1, room.div_ceil(2)),
            tenants: rng.range(1, 4),
            priorities: rng.range(1, 3),
            families: rng.range(1, 4),
            vocabulary: rng.range(2, 50),
        }
    }

    pub(crate) fn vocabulary(&self) -> u32 {
        self.vocabulary
    }

    /// A new request, and what it would give alone.
    pub(crate) fn request(&self, rng: &mut Rng, id: u64, now: Micros) -> (Request, Solo) {
        let family = u64::from(rng.range(1, self.families));
        let length = rng.range(1, self.prompt_max);
        // A prompt follows its family's text for a while and then goes its own way.
        let common = rng.range(0, length);
        let mut prompt = Vec::new();
        for at in 0..length {
            let word = if at < common {
                shadow::mix(family << 32 | u64::from(at))
            } else {
                rng.next()
            };
            prompt.push(Token((word % u64::from(self.vocabulary)) as u32));
        }
        let root = BlockHash(u128::from(rng.range(0, 1)));
        let output_max = NonZeroU32::new(rng.range(1, self.output_max)).unwrap();
        let solo = Solo::run(root, &prompt, output_max.get(), self.vocabulary);
        let replayed = if rng.chance(10) {
            rng.range(0, solo.output.len() as u32 - 1)
        } else {
            0
        };
        let urgent = rng.chance(self.rates.deadline);
        let request = Request {
            id: RequestId(id),
            prompt: prompt.into(),
            generated: solo.output[..replayed as usize].to_vec(),
            output_max,
            priority: Priority(rng.range(1, self.priorities) as i8 - 2),
            deadline: urgent.then(|| Micros(now.0 + u64::from(rng.range(1, 80)))),
            tenant: TenantId(rng.range(1, self.tenants)),
            root,
        };
        (request, solo)
    }
}
