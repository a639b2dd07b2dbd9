//! The fake decoder.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use scheduler::limits::Pool;
use scheduler::plan::{BlockId, Plan, Slice};
use scheduler::request::{RequestId, Token};

use super::{FakeDevice, Place, Step, scramble};
use crate::executor::{Executor, ExecutorError, Progress, Row, Rows, TokenLogprob};
use crate::sampling::Sampling;

/// What one KV slot holds.
#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    /// The hash of the token here and of everything before it.
    chain: u64,
    token: Token,
}

#[derive(Debug)]
struct Admitted {
    sampling: Arc<Sampling>,
    prompt: Arc<[Token]>,
}

/// See the module's documentation. Computes in `wait`, as an executor on the CPU does.
#[derive(Debug)]
pub struct FakeExecutor {
    device: FakeDevice,
    pool: Pool,
    vocabulary: Range<u32>,
    cells: Vec<Cell>,
    admitted: HashMap<RequestId, Admitted>,
    /// The last token sampled for each slot, for plans that do not know it yet.
    last: Vec<Token>,
    /// Launched steps, oldest first.
    launched: VecDeque<(Step, Plan)>,
}

impl FakeExecutor {
    pub(super) fn new(device: FakeDevice) -> Self {
        let config = &device.shared.config;
        let cells = config.pool.blocks as usize * config.pool.block_tokens.get() as usize;
        Self {
            pool: config.pool,
            vocabulary: config.vocabulary.clone(),
            cells: vec![Cell::default(); cells],
            admitted: HashMap::new(),
            last: Vec::new(),
            launched: VecDeque::new(),
            device,
        }
    }

    fn cell(&self, table: &[BlockId], position: u32) -> usize {
        let block_tokens = self.pool.block_tokens.get();
        let block = table[(position / block_tokens) as usize];
        assert_ne!(block, BlockId(0), "the null block is in a table");
        (block.0 * block_tokens + position % block_tokens) as usize
    }

    /// Writes a slice's cells and returns the chain at its end.
    fn write(&mut self, plan: &Plan, slice: &Slice) -> u64 {
        let table = plan.table_of(slice);
        let mut chain = match slice.positions.start.checked_sub(1) {
            None => START,
            Some(before) => self.cells[self.cell(table, before)].chain,
        };
        for (position, &token) in slice.positions.clone().zip(plan.tokens_of(slice)) {
            let token = if token == Token::PENDING {
                self.last[slice.slot.0 as usize]
            } else {
                token
            };
            chain = link(chain, token);
            let cell = self.cell(table, position);
            self.cells[cell] = Cell { chain, token };
        }
        chain
    }

    /// Whether every block goes on where the one before it ends.
    fn is_sound(&self, table: &[BlockId], end: u32) -> bool {
        let block_tokens = self.pool.block_tokens.get();
        let firsts = (block_tokens..end).step_by(block_tokens as usize);
        let mut borders = firsts.map(|first| {
            let before = self.cells[self.cell(table, first - 1)];
            (before, self.cells[self.cell(table, first)])
        });
        borders.all(|(before, cell)| cell.chain == link(before.chain, cell.token))
    }

    /// Goes wrong if a poisoned prompt is in the plan.
    fn meet_poison(&self, place: Place, plan: &Plan) -> Result<(), ExecutorError> {
        let mut prompts = plan
            .slices
            .iter()
            .map(|slice| &self.admitted[&slice.id].prompt);
        if prompts.any(|prompt| self.device.is_poison(place, prompt)) {
            return Err(ExecutorError::Failed("poisoned".to_owned()));
        }
        Ok(())
    }

    fn sample(&mut self, plan: &Plan, slice: &Slice, chain: u64) -> Row {
        let end = slice.positions.end;
        let sound = self.is_sound(plan.table_of(slice), end);
        let chain = if sound { chain } else { !chain };
        let admitted = &self.admitted[&slice.id];
        let generated = end - admitted.prompt.len() as u32;
        let token = draw(&self.vocabulary, &admitted.sampling, chain, generated);
        let place = slice.slot.0 as usize;
        if self.last.len() <= place {
            self.last.resize(place + 1, Token::default());
        }
        self.last[place] = token;
        let top = (0..admitted.sampling.logprobs.unwrap_or(0))
            .map(|rank| TokenLogprob {
                token: Token(next_in(&self.vocabulary, token.0, rank)),
                logprob: -0.5 - rank as f32,
            })
            .collect();
        let drawn = TokenLogprob {
            token,
            logprob: -0.5,
        };
        Row::Token { drawn, top }
    }
}

impl Executor for FakeExecutor {
    fn pool(&self) -> Pool {
        self.pool
    }

    fn report_to(&mut self, progress: Progress) {
        self.device.script().progress = progress;
    }

    fn admit(
        &mut self,
        id: RequestId,
        sampling: &Arc<Sampling>,
        prompt: &Arc<[Token]>,
        _generated: &[Token],
    ) {
        if self.device.is_poison(Place::Admit, prompt) {
            poisoned();
        }
        let admitted = Admitted {
            sampling: Arc::clone(sampling),
            prompt: Arc::clone(prompt),
        };
        let before = self.admitted.insert(id, admitted);
        assert!(before.is_none(), "{id:?} is admitted twice");
        self.device.script().admitted = self.admitted.len();
    }

    fn launch(&mut self, plan: &Plan) -> Result<(), ExecutorError> {
        for slice in &plan.slices {
            assert!(self.admitted.contains_key(&slice.id), "nobody admitted it");
        }
        self.launched
            .push_back((self.device.launch(), plan.clone()));
        self.meet_poison(Place::Launch, plan)
    }

    fn wait(&mut self, rows: &mut Rows) -> Result<(), ExecutorError> {
        let Some((step, plan)) = self.launched.pop_front() else {
            return Err(ExecutorError::Failed("nothing was launched".to_owned()));
        };
        rows.step = plan.step;
        rows.rows.clear();
        for copy in &plan.copies {
            let block_tokens = self.pool.block_tokens.get() as usize;
            let (from, to) = (copy.from.0 as usize, copy.to.0 as usize);
            let from = from * block_tokens..from * block_tokens + copy.tokens as usize;
            self.cells.copy_within(from, to * block_tokens);
        }
        for slice in &plan.slices {
            let chain = self.write(&plan, slice);
            if slice.samples {
                rows.rows.push((slice.id, self.sample(&plan, slice, chain)));
            }
        }
        if let Some(bad) = self.device.finish(step)?
            && let Some((_, row)) = rows.rows.get_mut(bad)
        {
            *row = Row::NotFinite;
        }
        self.meet_poison(Place::Wait, &plan)
    }

    fn release(&mut self, id: RequestId) {
        let known = self.admitted.remove(&id);
        assert!(known.is_some(), "{id:?} is released and was not admitted");
        self.device.script().admitted = self.admitted.len();
        if let Some(known) = known
            && self.device.is_poison(Place::Release, &known.prompt)
        {
            poisoned();
        }
    }
}

impl Drop for FakeExecutor {
    fn drop(&mut self) {
        self.device.end();
    }
}

#[expect(clippy::panic, reason = "a scripted panic")]
fn poisoned() {
    panic!("poisoned")
}

/// What a request alone generates: the same function over a text in one piece.
pub(super) fn expected(
    vocabulary: &Range<u32>,
    sampling: &Sampling,
    prompt: &[Token],
    count: usize,
) -> Vec<Token> {
    let mut chain = prompt.iter().copied().fold(START, link);
    let mut tokens = Vec::with_capacity(count);
    for generated in 0..count as u32 {
        let token = draw(vocabulary, sampling, chain, generated);
        tokens.push(token);
        chain = link(chain, token);
    }
    tokens
}

/// The hash before the first token.
const START: u64 = 0x5eed;

fn link(chain: u64, token: Token) -> u64 {
    scramble(chain.rotate_left(5) ^ u64::from(token.0))
}

fn draw(vocabulary: &Range<u32>, sampling: &Sampling, chain: u64, generated: u32) -> Token {
    let seed = sampling.temperature.map_or(0, |_| scramble(sampling.seed));
    let size = u64::from(vocabulary.end - vocabulary.start);
    let mut token = vocabulary.start + (scramble(chain ^ seed) % size) as u32;
    if generated < sampling.min_tokens {
        let masked = |token: u32| sampling.stop_tokens.contains(&Token(token));
        let others = (0..size as u32).map(|step| next_in(vocabulary, token, step));
        token = others.clone().find(|&t| !masked(t)).unwrap_or(token);
    }
    Token(token)
}

/// The token `step` places on, from the start again behind the end.
fn next_in(vocabulary: &Range<u32>, token: u32, step: u32) -> u32 {
    let size = vocabulary.end - vocabulary.start;
    vocabulary.start + (token - vocabulary.start + step) % size
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::time::Duration;

    use scheduler::plan::SlotId;

    use super::*;
    use crate::fake::FakeConfig;

    /// Twelve tokens over three blocks, then one more decode through `table`.
    fn second_token(table: [u32; 4]) -> (Token, Token) {
        let device = FakeDevice::new(FakeConfig {
            pool: Pool {
                blocks: 8,
                block_tokens: NonZeroU32::new(4).unwrap(),
            },
            vocabulary: 0..1_000_000,
            latency: Duration::ZERO,
            width: 1,
        });
        device.start().unwrap();
        let mut executor = FakeExecutor::new(device.clone());
        let prompt: Arc<[Token]> = (0..12).map(Token).collect();
        executor.admit(RequestId(1), &Arc::default(), &prompt, &[]);
        let mut step = |positions: Range<u32>, tokens: &[Token], table: &[u32]| {
            let plan = Plan {
                step: 1,
                copies: Vec::new(),
                slices: vec![Slice {
                    id: RequestId(1),
                    slot: SlotId(0),
                    tokens: 0..positions.end - positions.start,
                    positions,
                    table: 0..table.len() as u32,
                    samples: true,
                }],
                tokens: tokens.to_vec(),
                tables: table.iter().copied().map(BlockId).collect(),
            };
            let mut rows = Rows::default();
            executor.launch(&plan).unwrap();
            executor.wait(&mut rows).unwrap();
            match rows.rows[0].1 {
                Row::Token { ref drawn, .. } => drawn.token,
                Row::NotFinite => panic!("no fault was asked for"),
            }
        };
        let first = step(0..12, &prompt, &[1, 2, 3]);
        let second = step(12..13, &[Token::PENDING], &table);
        let expected = device.expected_tokens(&prompt, 2);
        assert_eq!(first, expected[0]);
        (second, expected[1])
    }

    #[test]
    fn the_right_table_gives_the_expected_token_and_every_wrong_one_another() {
        let (second, expected) = second_token([1, 2, 3, 4]);
        assert_eq!(second, expected);
        for wrong in [[2, 1, 3, 4], [1, 3, 2, 4], [1, 2, 5, 4], [5, 2, 3, 4]] {
            let (second, expected) = second_token(wrong);
            assert_ne!(second, expected, "{wrong:?}");
        }
    }
}
