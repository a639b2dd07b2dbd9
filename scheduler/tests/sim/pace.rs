//! What rests on the fitted cost of steps: the target that decodes keep, and the refusal of whoever
//! would wait too long. The executor's true costs are known here.

use std::num::NonZeroU32;

use scheduler::limits::{Limits, Pool};
use scheduler::policy::Policy;
use scheduler::request::{Micros, Priority, Reject, TenantId};

use crate::desk::{Ask, Desk};
use crate::workload::Rng;

const SEEDS: u64 = 24;

/// Steps within which the model must have found the costs.
const LEARNING: u64 = 60;

/// A scheduler over memory that never runs short, and steps that cost what `rng` says.
fn desk(rng: &mut Rng, policy: Policy) -> Desk {
    let limits = Limits {
        step_tokens_max: 512,
        running_max: rng.range(4, 32),
        waiting_max: 1000,
        sequence_tokens_max: 4096,
        preemptions_max: 4,
        depth_max: 1,
    };
    let pool = Pool {
        blocks: 20_000,
        block_tokens: NonZeroU32::new(16).unwrap(),
    };
    let mut desk = Desk::new(limits, policy, pool);
    desk.costs = Some([
        f64::from(rng.range(100, 3000)),
        f64::from(rng.range(1, 100)),
        f64::from(rng.range(2, 100)),
        f64::from(rng.range(0, 100)) / 1000.0,
    ]);
    desk
}

#[test]
fn decodes_keep_their_target_and_prompts_go_on() {
    let (mut late, mut close, mut prompts_alone) = (0, 0, 0);
    for seed in 0..SEEDS {
        let mut rng = Rng::new(seed);
        let target = rng.range(8_000, 30_000);
        let policy = Policy {
            step_target: Some(Micros(target.into())),
            ..Policy::default()
        };
        let mut desk = desk(&mut rng, policy);
        let costs = desk.costs.unwrap();
        for step in 0..600 {
            while desk.scheduler.stats().waiting < 2 {
                let ask = Ask {
                    prompt: rng.range(1, 1000),
                    output: rng.range(1, 60),
                    ..Ask::default()
                };
                desk.submit(ask).unwrap();
            }
            assert!(desk.plan());
            let load = desk.load();
            let took = desk.took(costs).0 as f64;
            let decodes = desk
                .plan
                .slices
                .iter()
                .filter(|slice| slice.positions.start >= desk.cases[&slice.id.0].ask.prompt);
            let decodes = decodes.count();
            let waits = desk.scheduler.stats().waiting > 0;
            if step >= LEARNING && decodes > 0 {
                // What cannot be avoided: decodes, and the least that prompts always get.
                let least = costs[0]
                    + costs[1] * f64::from(load.rows)
                    + costs[2] * 16.0
                    + costs[3] * load.kv_tokens as f64;
                let bound = 1.05 * least.max(f64::from(target));
                assert!(
                    took <= bound,
                    "seed {seed}, step {step}: {took} us, more than {bound}: {load:?}"
                );
                late += u32::from(took > f64::from(target));
                close += u32::from(took > 0.9 * f64::from(target));
                let free = desk.scheduler.stats().running < desk.limits.running_max;
                assert!(
                    load.prompt_tokens > 0 || load.rows as usize > decodes || !(waits && free),
                    "seed {seed}, step {step}: no prompt goes on: {load:?}"
                );
            }
            if load.rows == 0 && waits && desk.scheduler.stats().running < desk.limits.running_max {
                assert_eq!(desk.plan.tokens.len(), 512, "seed {seed}: nobody decodes");
                prompts_alone += 1;
            }
            desk.apply();
            desk.cases.retain(|_, case| !case.ended);
        }
    }
    println!("{late} late steps, {close} close to the target, {prompts_alone} of prompts alone");
    assert!(prompts_alone > 0, "somebody always decodes");
    assert!(
        close > 100 * SEEDS as u32,
        "the target is hardly used: {close}"
    );
}

/// Bursts of requests into a scheduler that refuses whoever would wait too long.
struct Crowd {
    desk: Desk,
    rng: Rng,
    output: u32,
    /// The policy's bound, or that of everybody's deadline.
    wait_max: u64,
    urgent: bool,
    expected: Vec<(u64, Micros)>,
    refused: u32,
}

impl Crowd {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let wait_max = u64::from(rng.range(100_000, 2_000_000));
        let policy = Policy {
            wait_max: Some(Micros(wait_max)),
            ..Policy::default()
        };
        // Urgent requests overtake others, so these worlds test the refusal only.
        let urgent = seed % 2 == 1;
        Self {
            desk: desk(&mut rng, policy),
            output: rng.range(1, 80),
            rng,
            wait_max: if urgent { wait_max / 2 } else { wait_max },
            urgent,
            expected: Vec::new(),
            refused: 0,
        }
    }

    fn burst(&mut self) {
        let desk = &mut self.desk;
        for _ in 0..self.rng.range(1, 40) {
            let ask = Ask {
                prompt: self.rng.range(1, 600),
                output: self.output,
                deadline: self.urgent.then(|| desk.now.0 + self.wait_max),
                ..Ask::default()
            };
            let forecast = desk
                .scheduler
                .forecast(Priority(0), TenantId(1), ask.prompt);
            match desk.submit(ask) {
                Ok(id) => self
                    .expected
                    .extend(forecast.map(|forecast| (id, forecast))),
                Err(Reject::WaitTooLong { wait, wait_max }) => {
                    assert!(wait > wait_max && wait_max.0 == self.wait_max);
                    assert_eq!(Some(wait), forecast);
                    let stats = desk.scheduler.stats();
                    assert!(stats.waiting > 0 || stats.running == desk.limits.running_max);
                    self.refused += 1;
                }
                Err(reject) => panic!("{reject:?}"),
            }
        }
    }

    /// Lets time go on by a step, and returns what it took.
    fn step(&mut self) -> u64 {
        let before = self.desk.now.0;
        if self.desk.plan() {
            self.desk.apply();
        } else {
            self.desk.now.0 += 1000;
        }
        self.desk.now.0 - before
    }
}

#[test]
fn who_is_let_in_gets_a_first_token_in_time() {
    let (mut refused, mut kept, mut worst) = (0, 0, 0.0_f64);
    for seed in 0..SEEDS {
        let mut crowd = Crowd::new(seed);
        let mut longest_step = 0;
        for _ in 0..600 {
            if crowd.rng.chance(10) {
                crowd.burst();
            }
            longest_step = longest_step.max(crowd.step());
        }
        refused += crowd.refused;
        if crowd.urgent {
            continue;
        }
        // One tenant, one band, no deadline: nobody is overtaken by who comes later.
        let life = u64::from(crowd.output) * longest_step;
        for (id, forecast) in crowd.expected {
            let case = crowd.desk.cases[&id];
            let Some(answered) = case.answered else {
                continue;
            };
            let wait = answered.0 - case.submitted.0;
            let bound = 2 * forecast.0 + life + longest_step;
            assert!(
                wait <= bound,
                "seed {seed}: {wait} us for {forecast:?}, more than {bound}"
            );
            kept += 1;
            worst = worst.max(wait as f64 / bound as f64);
        }
    }
    println!("{refused} refused, {kept} in time, up to {worst} of the bound");
    assert!(
        refused > 50 && kept > 200,
        "{refused} refused, {kept} in time"
    );
}

#[test]
fn an_idle_scheduler_refuses_nobody_for_the_wait() {
    let mut rng = Rng::new(1);
    let policy = Policy {
        wait_max: Some(Micros(1)),
        ..Policy::default()
    };
    let mut desk = desk(&mut rng, policy);
    for _ in 0..100 {
        let ask = Ask {
            prompt: 2000,
            output: 3,
            ..Ask::default()
        };
        desk.submit(ask).unwrap();
        while desk.plan() {
            desk.apply();
        }
    }
    // And somebody who is not alone.
    for _ in 0..desk.limits.running_max {
        let ask = Ask {
            prompt: 100,
            output: 100,
            ..Ask::default()
        };
        if desk.submit(ask).is_ok() {
            desk.plan();
            desk.apply();
        }
    }
    let ask = Ask {
        prompt: 100,
        output: 3,
        ..Ask::default()
    };
    desk.submit(ask).unwrap_err();
}
