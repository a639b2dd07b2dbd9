//! What a step costs in memory: nothing, once everybody decodes.

use std::num::NonZeroU32;

use scheduler::hash::BlockHash;
use scheduler::limits::{Limits, Pool};
use scheduler::plan::{Event, Outcome, Plan, Sampled};
use scheduler::request::{Micros, Priority, Request, RequestId, TenantId, Token};
use scheduler::scheduler::Scheduler;

use crate::workload::BitsHasher;

const SEQUENCES: u64 = 32;

/// A scheduler and the buffers of whoever drives it.
struct Loop {
    scheduler: Scheduler,
    depth: u64,
    plans: [Plan; 2],
    outcome: Outcome,
    events: Vec<Event>,
    planned: u64,
}

impl Loop {
    fn new(depth_max: u32) -> Self {
        let limits = Limits {
            step_tokens_max: 256,
            running_max: SEQUENCES as u32,
            waiting_max: SEQUENCES as u32,
            sequence_tokens_max: 2000,
            preemptions_max: 4,
            depth_max,
        };
        let pool = Pool {
            blocks: SEQUENCES as u32 * 70,
            block_tokens: NonZeroU32::new(16).unwrap(),
        };
        Self {
            scheduler: Scheduler::new(limits, pool, Box::new(BitsHasher { bits: 128 })),
            depth: depth_max.into(),
            plans: Default::default(),
            outcome: Outcome::default(),
            events: Vec::new(),
            planned: 0,
        }
    }

    fn submit(&mut self, id: u64) {
        let request = Request {
            id: RequestId(id),
            prompt: (0..20 + id as u32 % 32).map(Token).collect(),
            generated: Vec::new(),
            output_max: NonZeroU32::new(400).unwrap(),
            priority: Priority((id % 2) as i8),
            deadline: Some(Micros(1 << 40)),
            tenant: TenantId(id as u32 % 5),
            root: BlockHash(id.into()),
        };
        self.scheduler.submit(request, Micros(0)).unwrap();
    }

    /// Plans a step, after the oldest is answered if no more may fly. Returns how many it computes.
    fn step(&mut self) -> u64 {
        self.events.clear();
        let at = (self.planned % self.depth) as usize;
        let now = Micros(self.planned);
        let Self {
            scheduler,
            outcome,
            events,
            ..
        } = self;
        let plan = &mut self.plans[at];
        if self.planned >= self.depth && !plan.is_empty() {
            outcome.step = plan.step;
            outcome.sampled.clear();
            for slice in plan.slices.iter().filter(|slice| slice.samples) {
                let token = Token(slice.positions.end + 1000);
                outcome.sampled.push((slice.id, Sampled::Token(token)));
            }
            scheduler.observe(Micros(100));
            scheduler.apply(outcome, now, events);
        }
        scheduler.plan(now, plan, events);
        self.planned += 1;
        plan.slices.len() as u64
    }
}

#[test]
fn steady_decode_allocates_nothing() {
    for depth_max in [1, 2] {
        let mut bench = Loop::new(depth_max);
        // The first ones make everything that is reused as large as it gets.
        for ids in [0..SEQUENCES, SEQUENCES..2 * SEQUENCES] {
            ids.for_each(|id| bench.submit(id));
            for _ in 0..500 {
                bench.step();
            }
            assert!(bench.scheduler.is_idle());
        }
        (2 * SEQUENCES..3 * SEQUENCES).for_each(|id| bench.submit(id));
        while bench.step() < SEQUENCES {}
        let mut slices = 0;
        let counted = allocation_counter::measure(|| {
            for _ in 0..300 {
                slices += bench.step();
            }
        });
        assert_eq!(slices, 300 * SEQUENCES, "all of them decode");
        assert_eq!(counted.count_total, 0, "depth {depth_max}: {counted:?}");
    }
}
