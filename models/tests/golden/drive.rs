//! Plans made by hand, so that a test says exactly which positions a step computes.

use std::sync::Arc;

use engine::executor::{Executor, Row, Rows};
use engine::sampling::Sampling;
use models::files::ModelFiles;
use models::load::{LoadOptions, Loaded, load};
use scheduler::plan::{BlockId, Plan, Slice, SlotId};
use scheduler::request::{RequestId, Token};

/// An executor and the blocks not yet given out.
pub(crate) struct Driver {
    pub(crate) executor: Box<dyn Executor>,
    block_next: u32,
    id_next: u64,
    step: u64,
}

/// A running sequence.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) id: RequestId,
    slot: SlotId,
    /// Prompt and what was sampled so far.
    pub(crate) tokens: Vec<Token>,
    pub(crate) table: Vec<BlockId>,
    pub(crate) computed: usize,
    /// What was sampled, row by row.
    pub(crate) rows: Vec<Row>,
}

impl Driver {
    pub(crate) fn new(files: &ModelFiles, options: &LoadOptions) -> Self {
        match load(files, options).unwrap().0 {
            Loaded::Decoder(executor) => Self {
                executor,
                block_next: 1,
                id_next: 1,
                step: 0,
            },
            Loaded::Encoder(_) => panic!("an encoder"),
        }
    }

    /// A new sequence without blocks.
    pub(crate) fn admit(&mut self, prompt: &[Token], sampling: &Sampling) -> Sequence {
        let id = RequestId(self.id_next);
        self.id_next += 1;
        let prompt: Arc<[Token]> = prompt.into();
        self.executor
            .admit(id, &Arc::new(sampling.clone()), &prompt, &[]);
        Sequence {
            id,
            slot: SlotId((id.0 % 16) as u32),
            tokens: prompt.to_vec(),
            table: Vec::new(),
            computed: 0,
            rows: Vec::new(),
        }
    }

    /// Computes the next positions of some sequences in one step; who gets to its last known
    /// token samples the next.
    pub(crate) fn step(&mut self, work: &mut [(&mut Sequence, usize)]) {
        let plan = self.plan(work);
        let mut rows = Rows::default();
        self.run(&plan, &mut rows);
        take(work, &rows);
    }

    /// The plan of such a step, which is to be run.
    fn plan(&mut self, work: &mut [(&mut Sequence, usize)]) -> Plan {
        self.step += 1;
        let mut plan = Plan {
            step: self.step,
            ..Plan::default()
        };
        for (sequence, count) in work.iter_mut() {
            let end = sequence.computed + *count;
            assert!(*count > 0 && end <= sequence.tokens.len());
            while sequence.table.len() < end.div_ceil(16) {
                sequence.table.push(BlockId(self.block_next));
                self.block_next += 1;
            }
            let (first_token, first_block) = (plan.tokens.len() as u32, plan.tables.len() as u32);
            plan.tokens.extend(&sequence.tokens[sequence.computed..end]);
            plan.tables.extend(&sequence.table[..end.div_ceil(16)]);
            plan.slices.push(Slice {
                id: sequence.id,
                slot: sequence.slot,
                positions: sequence.computed as u32..end as u32,
                tokens: first_token..plan.tokens.len() as u32,
                table: first_block..plan.tables.len() as u32,
                samples: end == sequence.tokens.len(),
            });
            sequence.computed = end;
        }
        plan
    }

    fn run(&mut self, plan: &Plan, rows: &mut Rows) {
        self.executor.launch(plan).unwrap();
        self.executor.wait(rows).unwrap();
        assert_eq!(rows.step, plan.step);
    }

    /// How often the executor asks for memory in each of some steps in which every sequence computes
    /// what it knows.
    pub(crate) fn allocations(&mut self, sequences: &mut [Sequence], steps: usize) -> Vec<u64> {
        let mut rows = Rows::default();
        let mut count = |_| {
            let mut work: Vec<_> = sequences
                .iter_mut()
                .map(|sequence| {
                    let size = sequence.next(usize::MAX);
                    (sequence, size)
                })
                .collect();
            let plan = self.plan(&mut work);
            let counted = allocation_counter::measure(|| self.run(&plan, &mut rows));
            take(&mut work, &rows);
            counted.count_total
        };
        (0..steps).map(&mut count).collect()
    }

    /// Computes in chunks of `sizes`, over and over, until `count` tokens are sampled in all.
    pub(crate) fn generate(&mut self, sequence: &mut Sequence, count: usize, sizes: &[usize]) {
        let mut sizes = sizes.iter().cycle();
        while sequence.rows.len() < count {
            let size = sequence.next(*sizes.next().unwrap());
            self.step(&mut [(sequence, size)]);
        }
    }
}

/// Gives the sequences that were sampled their rows.
fn take(work: &mut [(&mut Sequence, usize)], rows: &Rows) {
    let mut rows = rows.rows.iter();
    for (sequence, _) in work.iter_mut() {
        if sequence.computed == sequence.tokens.len() {
            let (id, row) = rows.next().unwrap();
            assert_eq!(*id, sequence.id);
            if let Row::Token { drawn, .. } = row {
                sequence.tokens.push(drawn.token);
            }
            sequence.rows.push(row.clone());
        }
    }
    assert!(rows.next().is_none());
}

impl Sequence {
    /// As much of `size` as is known.
    pub(crate) fn next(&self, size: usize) -> usize {
        size.min(self.tokens.len() - self.computed)
    }

    /// Gives all blocks up, as a preempted sequence does.
    pub(crate) fn preempt(&mut self) {
        self.table.clear();
        self.computed = 0;
    }

    /// What was sampled.
    pub(crate) fn generated(&self) -> Vec<Token> {
        self.rows
            .iter()
            .map(|row| match row {
                Row::Token { drawn, .. } => drawn.token,
                Row::NotFinite => panic!("not finite"),
            })
            .collect()
    }

    /// All log probabilities ever reported, bit by bit.
    pub(crate) fn bits(&self) -> Vec<(u32, u32)> {
        let entries = self.rows.iter().flat_map(|row| match row {
            Row::Token { drawn, top } => std::iter::once(*drawn).chain(top.iter().copied()),
            Row::NotFinite => panic!("not finite"),
        });
        entries
            .map(|entry| (entry.token.0, entry.logprob.to_bits()))
            .collect()
    }
}
