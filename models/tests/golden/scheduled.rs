//! The real scheduler drives the real executor: chunks, mixed steps, prefix hits, preemptions and
//! two steps in flight, all at once, and still every greedy token is the reference's.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU32;
use std::sync::Arc;

use engine::executor::{Executor, Row, Rows};
use engine::hash::Sha256Hasher;
use engine::sampling::Sampling;
use models::load::LoadOptions;
use scheduler::hash::BlockHash;
use scheduler::limits::Limits;
use scheduler::plan::{Event, Outcome, Plan, Sampled, Stats};
use scheduler::request::{Finish, Micros, Priority, Request, RequestId, TenantId, Token};
use scheduler::scheduler::Scheduler;

use crate::drive::Driver;
use crate::reference::{files, options, prompts};

struct World {
    executor: Box<dyn Executor>,
    scheduler: Scheduler,
    depth: usize,
    /// Tokens that were planned before they were sampled.
    pending: usize,
    flights: VecDeque<Plan>,
    texts: BTreeMap<RequestId, Vec<Token>>,
    ends: BTreeMap<RequestId, Finish>,
}

impl World {
    fn new(case: &str, options: &LoadOptions, depth: u32) -> Self {
        let executor = Driver::new(&files(case), options).executor;
        let limits = Limits {
            step_tokens_max: options.step_tokens_max,
            running_max: options.running_max,
            waiting_max: 1000,
            sequence_tokens_max: options.context_max.unwrap(),
            preemptions_max: 1000,
            depth_max: depth,
        };
        Self {
            scheduler: Scheduler::new(limits, executor.pool(), Box::new(Sha256Hasher)),
            executor,
            depth: depth as usize,
            pending: 0,
            flights: VecDeque::new(),
            texts: BTreeMap::new(),
            ends: BTreeMap::new(),
        }
    }

    fn submit(&mut self, id: u64, prompt: &[Token], output: usize, sampling: Sampling) {
        let id = RequestId(id);
        let prompt: Arc<[Token]> = prompt.into();
        self.executor.admit(id, &Arc::new(sampling), &prompt, &[]);
        let request = Request {
            id,
            prompt,
            generated: Vec::new(),
            output_max: NonZeroU32::new(output as u32).unwrap(),
            priority: Priority::default(),
            deadline: None,
            tenant: TenantId::default(),
            root: BlockHash::default(),
        };
        self.scheduler.submit(request, Micros(0)).unwrap();
    }

    /// Runs until nothing is left to do; returns the counts.
    fn run(&mut self) -> Stats {
        let mut events = Vec::new();
        while !self.scheduler.is_idle() {
            let mut plan = Plan::default();
            if self.flights.len() < self.depth {
                self.scheduler.plan(Micros(0), &mut plan, &mut events);
            }
            let is_launched = !plan.is_empty();
            if is_launched {
                self.pending += plan.tokens.iter().filter(|t| **t == Token::PENDING).count();
                self.executor.launch(&plan).unwrap();
                self.flights.push_back(plan);
            }
            if self.flights.len() == self.depth || !is_launched {
                self.apply(&mut events);
            }
            self.take(&mut events);
        }
        self.scheduler.stats()
    }

    fn apply(&mut self, events: &mut Vec<Event>) {
        let Some(plan) = self.flights.pop_front() else {
            return;
        };
        let mut rows = Rows::default();
        self.executor.wait(&mut rows).unwrap();
        assert_eq!(rows.step, plan.step);
        let sampled = rows.rows.iter().map(|(id, row)| match row {
            Row::Token { drawn, .. } => (*id, Sampled::Token(drawn.token)),
            Row::NotFinite => (*id, Sampled::Fault),
        });
        let outcome = Outcome {
            step: rows.step,
            sampled: sampled.collect(),
        };
        self.scheduler.apply(&outcome, Micros(0), events);
    }

    fn take(&mut self, events: &mut Vec<Event>) {
        for event in events.drain(..) {
            match event {
                Event::Started { .. } | Event::Preempted { .. } => {}
                Event::Token { id, token } => self.texts.entry(id).or_default().push(token),
                Event::Finished { id, finish } => {
                    self.executor.release(id);
                    self.ends.insert(id, finish);
                }
            }
        }
    }
}

fn noise(index: u32) -> (Vec<Token>, Sampling) {
    let prompt = (0..10 + 7 * index)
        .map(|token| Token((token * 41 + index * 17) % 256))
        .collect();
    let sampling = Sampling {
        temperature: Some(1.0),
        top_p: Some(0.9),
        presence_penalty: Some(0.5),
        seed: u64::from(index),
        ..Sampling::default()
    };
    (prompt, sampling)
}

#[test]
fn scheduled_continuations_match_token_for_token() {
    for (case, depth) in [
        ("llama2", 1),
        ("llama3", 2),
        ("mistral", 2),
        ("qwen3", 1),
        ("qwen2", 2),
    ] {
        let mut options = options(None);
        options.context_max = Some(128);
        options.step_tokens_max = 37;
        options.running_max = 8;
        // Room for 24 blocks, where the requests together want about 70.
        let bytes = models::load::info(&files(case), &options)
            .unwrap()
            .kv_bytes_per_token;
        options.kv_cache_bytes = 24 * 16 * bytes;
        let mut world = World::new(case, &options, depth);
        let prompts = prompts(case);
        let mut noises = BTreeMap::new();
        // Three rounds: in the second and third, prompts are in the cache unless evicted.
        for round in 0..3 {
            for (index, prompt) in prompts.iter().enumerate() {
                let id = round * 100 + index as u64;
                world.submit(id, &prompt.tokens, prompt.greedy.len(), Sampling::default());
            }
            for index in 0..7 {
                let (prompt, sampling) = noise(index);
                world.submit(round * 100 + 50 + u64::from(index), &prompt, 20, sampling);
            }
            let stats = world.run();
            assert_eq!(stats.blocks_active, 0);
            for (index, prompt) in prompts.iter().enumerate() {
                let id = RequestId(round * 100 + index as u64);
                assert_eq!(world.texts[&id], prompt.greedy, "{case}, round {round}");
                assert_eq!(world.ends[&id], Finish::Length);
            }
            for index in 0..7 {
                let text = world.texts[&RequestId(round * 100 + 50 + index)].clone();
                let first = noises.entry(index).or_insert_with(|| text.clone());
                assert_eq!(*first, text, "{case}: a seed repeats in round {round}");
            }
        }
        let stats = world.scheduler.stats();
        println!(
            "{case}: {} preemptions, {} hits",
            stats.preemptions, stats.prefix_hit_tokens
        );
        assert!(
            stats.preemptions > 0 && stats.prefix_hit_tokens > 0,
            "{case}: {stats:?}"
        );
    }
}
