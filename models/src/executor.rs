//! The executor of one decoder on CPU: plan to flat buffers, forward, sample, rows.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;

use engine::executor::{Executor, ExecutorError, Progress, Rows};
use engine::sampling::Sampling;
use kernels::Compute;
use kernels::attention::Segment;
use kernels::kv::KvCache;
use scheduler::limits::Pool;
use scheduler::plan::{Plan, SlotId};
use scheduler::request::{RequestId, Token};

use crate::decoder::{Batch, Decoder};
use crate::sampler::{Sample, Sampler};

/// Computes plans on CPU threads of its own. A launched step is computed by `wait`, so that its
/// engine can see to the readers of the step before it in between.
#[derive(Debug)]
pub(crate) struct CpuExecutor {
    decoder: Decoder,
    cache: KvCache,
    compute: Compute,
    sampler: Sampler,
    samples: Vec<Sample>,
    inputs: Inputs,
    /// The last token sampled in each slot, which stands for [`Token::PENDING`].
    last: Vec<Token>,
    /// Launched steps, oldest first.
    launched: VecDeque<Plan>,
    /// Computed plans, kept for their memory.
    spare: Vec<Plan>,
}

/// The rows of one step as the network reads them. Reused.
#[derive(Debug, Default)]
struct Inputs {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    slots: Vec<u32>,
    segments: Vec<Segment>,
    tables: Vec<u32>,
    sampled: Vec<usize>,
}

impl CpuExecutor {
    /// An executor that has computed one step already, so that the first one of a request finds
    /// code and memory in place.
    pub(crate) fn new(decoder: Decoder, cache: KvCache, compute: Compute) -> Self {
        let mut executor = Self {
            decoder,
            cache,
            compute,
            sampler: Sampler::default(),
            samples: Vec::new(),
            inputs: Inputs::default(),
            last: Vec::new(),
            launched: VecDeque::new(),
            spare: Vec::new(),
        };
        executor.warm_up();
        executor
    }

    /// The longest step through one layer and a short one through all, on the null block, then
    /// draws on all threads.
    fn warm_up(&mut self) {
        self.fill_null(self.decoder.rows_max().min(self.decoder.positions()));
        self.decoder
            .touch(&mut self.compute, &mut self.cache, &self.inputs.batch());
        self.fill_null(1);
        self.decoder
            .forward(&mut self.compute, &mut self.cache, &self.inputs.batch());
        let rows = self.decoder.logits_rows();
        let logits = self.decoder.logits(&mut self.compute, 0..rows);
        let sampling = Sampling {
            temperature: Some(1.0),
            top_p: Some(0.9),
            logprobs: Some(1),
            ..Sampling::default()
        };
        let sample = Sample {
            id: RequestId(u64::MAX),
            position: 1,
        };
        self.sampler.admit(sample.id, &Arc::new(sampling), &[], &[]);
        self.samples.resize(rows, sample);
        self.sampler
            .sample(&mut self.compute, &self.samples, logits, &mut Vec::new());
        self.sampler.release(sample.id);
    }

    /// A step of one sequence of so many tokens, all of whose blocks are the null block.
    fn fill_null(&mut self, rows: usize) {
        let block_tokens = self.cache.shape().block_tokens;
        self.inputs.clear();
        self.inputs.tables.resize(rows.div_ceil(block_tokens), 0);
        for position in 0..rows as u32 {
            self.inputs
                .push(0, position, position % block_tokens as u32);
        }
        self.inputs.segments.push(Segment {
            rows: 0..rows,
            start: 0,
            table: 0..self.inputs.tables.len(),
        });
        self.inputs.sampled.push(0);
    }

    fn slot(&mut self, slot: SlotId) -> &mut Token {
        let index = slot.0 as usize;
        if index >= self.last.len() {
            self.last.resize(index + 1, Token::PENDING);
        }
        &mut self.last[index]
    }

    /// Samples the rows of the step that was just computed.
    fn sample(&mut self, plan: &Plan, rows: &mut Rows) {
        self.samples.clear();
        let sampled = self.inputs.sampled.iter().map(|&slice| &plan.slices[slice]);
        self.samples.extend(sampled.map(|slice| Sample {
            id: slice.id,
            position: slice.positions.end,
        }));
        let rows_max = self.decoder.logits_rows();
        for (chunk, samples) in self.samples.chunks(rows_max).enumerate() {
            let first = chunk * rows_max;
            let logits = self
                .decoder
                .logits(&mut self.compute, first..first + samples.len());
            self.sampler
                .sample(&mut self.compute, samples, logits, &mut rows.rows);
        }
    }
}

impl Executor for CpuExecutor {
    fn pool(&self) -> Pool {
        let shape = self.cache.shape();
        let block_tokens = NonZeroU32::new(shape.block_tokens as u32).unwrap_or(NonZeroU32::MIN);
        Pool {
            blocks: shape.blocks as u32,
            block_tokens,
        }
    }

    fn report_to(&mut self, progress: Progress) {
        self.decoder.progress = progress;
    }

    fn admit(
        &mut self,
        id: RequestId,
        sampling: &Arc<Sampling>,
        prompt: &Arc<[Token]>,
        generated: &[Token],
    ) {
        self.sampler.admit(id, sampling, prompt, generated);
    }

    fn launch(&mut self, plan: &Plan) -> Result<(), ExecutorError> {
        let mut launched = self.spare.pop().unwrap_or_default();
        launched.clone_from(plan);
        self.launched.push_back(launched);
        Ok(())
    }

    fn wait(&mut self, rows: &mut Rows) -> Result<(), ExecutorError> {
        let Some(plan) = self.launched.pop_front() else {
            return Err(ExecutorError::Failed(
                "waited for a step that was not launched".to_owned(),
            ));
        };
        rows.step = plan.step;
        rows.rows.clear();
        if !plan.is_empty() {
            for copy in &plan.copies {
                self.cache.copy(copy.from.0, copy.to.0);
            }
            self.fill(&plan);
            self.decoder
                .forward(&mut self.compute, &mut self.cache, &self.inputs.batch());
            self.sample(&plan, rows);
            self.remember(&plan, rows);
        }
        self.spare.push(plan);
        Ok(())
    }

    fn release(&mut self, id: RequestId) {
        self.sampler.release(id);
    }
}

// === Host buffers ===

impl CpuExecutor {
    /// Turns a plan into the rows of a step.
    fn fill(&mut self, plan: &Plan) {
        let block_tokens = self.cache.shape().block_tokens as u32;
        self.inputs.clear();
        self.inputs
            .tables
            .extend(plan.tables.iter().map(|block| block.0));
        for (index, slice) in plan.slices.iter().enumerate() {
            let last = *self.slot(slice.slot);
            let table = plan.table_of(slice);
            let first_row = self.inputs.tokens.len();
            let tokens = plan.tokens_of(slice);
            assert_eq!(tokens.len(), slice.positions.len(), "tokens of {slice:?}");
            for (position, &token) in slice.positions.clone().zip(tokens) {
                let token = if token == Token::PENDING { last } else { token };
                let block = table[(position / block_tokens) as usize].0;
                self.inputs.push(
                    token.0,
                    position,
                    block * block_tokens + position % block_tokens,
                );
            }
            self.inputs.segments.push(Segment {
                rows: first_row..self.inputs.tokens.len(),
                start: slice.positions.start,
                table: slice.table.start as usize..slice.table.end as usize,
            });
            if slice.samples {
                self.inputs.sampled.push(index);
            }
        }
    }

    /// Keeps each slot's token for the next step's [`Token::PENDING`].
    fn remember(&mut self, plan: &Plan, rows: &Rows) {
        let sampling = plan.slices.iter().filter(|slice| slice.samples);
        for (slice, (_, row)) in sampling.zip(&rows.rows) {
            // A row without a token ends its sequence; what a planned successor computes is
            // dropped, and token 0 is as good as any.
            *self.slot(slice.slot) = match row {
                engine::executor::Row::Token { drawn, .. } => drawn.token,
                engine::executor::Row::NotFinite => Token(0),
            };
        }
    }
}

impl Inputs {
    fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.slots.clear();
        self.segments.clear();
        self.tables.clear();
        self.sampled.clear();
    }

    fn push(&mut self, token: u32, position: u32, slot: u32) {
        self.tokens.push(token);
        self.positions.push(position);
        self.slots.push(slot);
    }

    fn batch(&self) -> Batch<'_> {
        Batch {
            tokens: &self.tokens,
            positions: &self.positions,
            slots: &self.slots,
            segments: &self.segments,
            tables: &self.tables,
            sampled: &self.sampled,
        }
    }
}
