//! The bounds of the queue's order, each as its documentation states it: between tenants, between
//! bands, inside a tenant; and that an order never means idleness.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use scheduler::limits::{Limits, Pool};
use scheduler::policy::{Policy, Prices, Shares, Weight};
use scheduler::request::{Micros, Reject, TenantId};

use crate::desk::{Ask, Desk};
use crate::workload::Rng;

const SEEDS: u64 = 60;

fn limits(rng: &mut Rng) -> Limits {
    Limits {
        step_tokens_max: rng.range(4, 40),
        running_max: rng.range(2, 8),
        waiting_max: 1000,
        sequence_tokens_max: 100,
        preemptions_max: rng.range(0, 4),
        depth_max: 1,
    }
}

fn pool(blocks: u32, block_tokens: u32) -> Pool {
    Pool {
        blocks: blocks + 1,
        block_tokens: NonZeroU32::new(block_tokens).unwrap(),
    }
}

fn prices(rng: &mut Rng) -> Prices {
    let price = |price| NonZeroU32::new(price).unwrap();
    Prices {
        input: price(rng.range(1, 3)),
        output: price(rng.range(1, 4)),
    }
}

/// How far two tenants were apart in a world, at most, in parts of the bound.
#[derive(Clone, Copy, Debug, Default)]
struct Apart {
    worst: f64,
    preemptions: u64,
    hits: u64,
    /// Times at which some pair always had somebody waiting for 50 steps or more.
    long: u32,
}

/// What one pair got while both always had somebody waiting: least and greatest difference.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    least: f64,
    greatest: f64,
    steps: u32,
}

/// Tenants with weights, each submitting in bursts and pausing now and then.
struct Market {
    desk: Desk,
    rng: Rng,
    prices: Prices,
    weights: BTreeMap<u32, u32>,
    prompt_max: u32,
    output_max: u32,
    stretches: BTreeMap<(u32, u32), Stretch>,
    /// *I* and *O* of the bound, as far as seen.
    input: u64,
    coming: u64,
    apart: Apart,
}

impl Market {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let prices = prices(&mut rng);
        let policy = Policy {
            prices,
            ..Policy::default()
        };
        let mut desk = Desk::new(
            limits(&mut rng),
            policy,
            pool(rng.range(15, 40), rng.range(2, 4)),
        );
        let tenants = rng.range(2, 5);
        let weights: BTreeMap<u32, u32> = (1..=tenants).map(|t| (t, rng.range(1, 6))).collect();
        for (&tenant, &weight) in &weights {
            let weight = Weight::new(weight).unwrap();
            desk.scheduler.weigh(TenantId(tenant), weight);
        }
        Self {
            desk,
            prompt_max: rng.range(1, 24),
            output_max: rng.range(1, 6),
            rng,
            prices,
            weights,
            stretches: BTreeMap::new(),
            input: 0,
            coming: 0,
            apart: Apart::default(),
        }
    }

    fn run(mut self) -> Apart {
        let mut paused = BTreeMap::new();
        for _ in 0..600 {
            for tenant in 1..=self.weights.len() as u32 {
                let pause: &mut u32 = paused.entry(tenant).or_default();
                if *pause > 0 {
                    *pause -= 1;
                    continue;
                }
                if self.rng.chance(1) {
                    *pause = self.rng.range(1, 40);
                }
                while self.desk.waiting(tenant) < 3 {
                    self.submit(tenant);
                }
            }
            self.look();
            if self.desk.plan() {
                self.look();
                self.desk.now.0 += 1;
                self.desk.apply();
                self.look();
            }
            let ended: Vec<u64> = self
                .desk
                .cases
                .iter()
                .filter(|(_, c)| c.ended)
                .map(|(&id, _)| id)
                .collect();
            for id in ended {
                self.desk.cases.remove(&id);
            }
        }
        let stats = self.desk.scheduler.stats();
        self.apart.preemptions = stats.preemptions;
        self.apart.hits = stats.prefix_hit_tokens;
        self.apart
    }

    fn submit(&mut self, tenant: u32) {
        let ask = Ask {
            tenant,
            prompt: self.rng.range(1, self.prompt_max),
            output: self.rng.range(1, self.output_max),
            family: self.rng.chance(30).then(|| self.rng.range(1, 3)),
            ..Ask::default()
        };
        self.desk.submit(ask).unwrap();
    }

    /// Service at prices, divided by weight.
    fn service(&self, tenant: u32) -> f64 {
        let got = self.desk.got.get(&tenant).copied().unwrap_or_default();
        let cost = got.input * u64::from(self.prices.input.get())
            + got.output * u64::from(self.prices.output.get());
        cost as f64 / f64::from(self.weights[&tenant])
    }

    /// Checks every pair that always had somebody waiting since the last look.
    fn look(&mut self) {
        for &(_, computed) in &self.desk.started {
            self.input = self.input.max(u64::from(computed));
        }
        for &tenant in self.weights.keys() {
            self.coming = self.coming.max(self.desk.coming(tenant));
        }
        let least = self.weights.values().min().copied().unwrap();
        let most = self.input * u64::from(self.prices.input.get())
            + self.coming * u64::from(self.prices.output.get());
        // A counter is exact to 1/1024 token.
        let bound = 2.0 * most as f64 / f64::from(least) + 0.01;
        let waiting: Vec<u32> = self
            .weights
            .keys()
            .copied()
            .filter(|&t| self.desk.waiting(t) > 0)
            .collect();
        self.stretches
            .retain(|pair, _| waiting.contains(&pair.0) && waiting.contains(&pair.1));
        for (at, &one) in waiting.iter().enumerate() {
            for &other in &waiting[at + 1..] {
                let difference = self.service(one) - self.service(other);
                let stretch = self.stretches.entry((one, other)).or_insert(Stretch {
                    least: difference,
                    greatest: difference,
                    steps: 0,
                });
                stretch.least = stretch.least.min(difference);
                stretch.greatest = stretch.greatest.max(difference);
                stretch.steps += 1;
                self.apart.long += u32::from(stretch.steps == 150);
                let apart = stretch.greatest - stretch.least;
                assert!(
                    apart <= bound,
                    "tenants {one} and {other} got {apart} apart, more than {bound}: {stretch:?}"
                );
                if most > 0 {
                    self.apart.worst = self.apart.worst.max(apart / bound);
                }
            }
        }
    }
}

#[test]
fn two_tenants_that_wait_get_what_their_weights_say() {
    let mut all = Apart::default();
    for seed in 0..SEEDS {
        let apart = Market::new(seed).run();
        all.worst = all.worst.max(apart.worst);
        all.preemptions += apart.preemptions;
        all.hits += apart.hits;
        all.long += apart.long;
    }
    println!("{SEEDS} markets: {all:?}");
    assert!(
        all.preemptions > SEEDS / 4,
        "the markets preempt too rarely: {all:?}"
    );
    assert!(
        all.hits > 10 * SEEDS,
        "the markets share too little: {all:?}"
    );
    assert!(
        u64::from(all.long) > SEEDS,
        "the tenants wait too rarely: {all:?}"
    );
    assert!(
        all.worst > 0.4,
        "the bound is far from what happens: {all:?}"
    );
}

#[test]
fn weights_divide_the_work() {
    let mut desk = Desk::new(
        Limits {
            step_tokens_max: 16,
            running_max: 4,
            waiting_max: 100,
            sequence_tokens_max: 100,
            preemptions_max: 4,
            depth_max: 1,
        },
        Policy::default(),
        pool(100, 4),
    );
    desk.scheduler.weigh(TenantId(2), Weight::new(3).unwrap());
    for _ in 0..2000 {
        for tenant in [1, 2] {
            while desk.waiting(tenant) < 2 {
                let ask = Ask {
                    tenant,
                    prompt: 10,
                    output: 3,
                    ..Ask::default()
                };
                desk.submit(ask).unwrap();
            }
        }
        desk.plan();
        desk.apply();
        desk.cases.retain(|_, case| !case.ended);
    }
    let share = desk.got[&2].output as f64 / desk.got[&1].output as f64;
    assert!((2.95..3.05).contains(&share), "{share}");
}

#[test]
fn nothing_is_idle_while_somebody_waits() {
    let mut full = 0;
    for seed in 0..SEEDS {
        let mut rng = Rng::new(seed);
        let pool = pool(rng.range(15, 60), rng.range(2, 4));
        let mut desk = Desk::new(limits(&mut rng), Policy::default(), pool);
        let (prompt_max, output_max) = (rng.range(1, 24), rng.range(1, 12));
        let block_tokens = pool.block_tokens.get();
        for _ in 0..300 {
            while rng.chance(50) {
                let ask = Ask {
                    tenant: rng.range(1, 4),
                    priority: rng.range(0, 2) as i8,
                    prompt: rng.range(1, prompt_max),
                    output: rng.range(1, output_max),
                    ..Ask::default()
                };
                desk.submit(ask).unwrap();
            }
            let before = desk.scheduler.stats().preemptions;
            if !desk.plan() {
                continue;
            }
            let stats = desk.scheduler.stats();
            let longest = (prompt_max + output_max).div_ceil(block_tokens);
            let watermark = stats.blocks_total.div_ceil(100);
            // A preempted sequence comes back when everybody has a block to grow into.
            let reserve = longest.max(watermark).max(stats.running + 1);
            let slots = desk.limits.running_max.min(desk.limits.step_tokens_max);
            let room = stats.running < slots
                && desk.plan.tokens.len() < desk.limits.step_tokens_max as usize
                && stats.preemptions == before
                && stats.blocks_free + stats.blocks_cached >= longest + reserve;
            assert!(!room || stats.waiting == 0, "seed {seed}: {stats:?}");
            full += u32::from(stats.waiting > 0);
            desk.apply();
            desk.cases.retain(|_, case| !case.ended);
        }
    }
    assert!(full > 10 * SEEDS as u32, "hardly anybody waits: {full}");
}

/// One flooded band above others.
#[test]
fn a_lower_band_waits_for_so_much_work_and_no_more() {
    let mut longest: f64 = 0.0;
    for seed in 0..SEEDS {
        let mut rng = Rng::new(seed);
        let band_patience = u64::from(rng.range(1, 400));
        let prices = prices(&mut rng);
        let policy = Policy {
            band_patience,
            prices,
            ..Policy::default()
        };
        let mut desk = Desk::new(limits(&mut rng), policy, pool(2000, 4));
        let bands = rng.range(2, 4);
        let prompt_max = rng.range(1, 40);
        let dearest = u64::from(prompt_max) * u64::from(prices.input.get());
        // By band: what those above were admitted since it began to wait or had its turn.
        let mut above = BTreeMap::new();
        let mut turns = 0;
        for _ in 0..300 {
            for band in 0..bands {
                let flooded = band + 1 == bands || rng.chance(70);
                if flooded && desk.waiting(band) < 2 {
                    let ask = Ask {
                        tenant: band,
                        priority: band as i8,
                        prompt: rng.range(1, prompt_max),
                        output: rng.range(1, 6),
                        ..Ask::default()
                    };
                    desk.submit(ask).unwrap();
                    if desk.waiting(band) == 1 {
                        above.insert(band, 0);
                    }
                }
            }
            let planned = desk.plan();
            for &(id, computed) in &desk.started {
                let band = desk.cases[&id].ask.tenant;
                let cost = u64::from(computed) * u64::from(prices.input.get());
                turns += u32::from(band + 1 < bands);
                above.insert(band, 0);
                let waits = |&(&lower, _): &(&u32, &mut u64)| desk.waiting(lower) > 0;
                // Nobody comes while a step is planned, so whoever waits after it always did.
                for (&lower, passed) in above.range_mut(..band).filter(waits) {
                    *passed += cost;
                    let bound = band_patience + dearest * u64::from(bands - 1 - lower);
                    assert!(
                        *passed <= bound,
                        "seed {seed}: band {lower} waits for {passed}, more than {bound}"
                    );
                    longest = longest.max(*passed as f64 / bound as f64);
                }
            }
            above.retain(|&band, _| desk.waiting(band) > 0);
            if planned {
                desk.apply();
            }
            desk.cases.retain(|_, case| !case.ended);
        }
        assert!(turns > 0, "seed {seed}: no lower band ever had its turn");
    }
    println!("bands wait for up to {longest} of the bound");
    assert!(
        longest > 0.6,
        "the bound is far from what happens: {longest}"
    );
}

#[test]
fn nobody_is_overtaken_by_who_came_later_than_patience_allows() {
    let (mut overtakings, mut latest) = (0, 0);
    for seed in 0..SEEDS {
        let mut rng = Rng::new(seed);
        let patience = u64::from(rng.range(0, 60));
        let policy = Policy {
            patience: Micros(patience),
            ..Policy::default()
        };
        let mut desk = Desk::new(limits(&mut rng), policy, pool(2000, 4));
        for _ in 0..300 {
            desk.now.0 += u64::from(rng.range(0, 3));
            while rng.chance(50) && desk.waiting(1) < 30 {
                let urgent = rng.chance(50);
                let ask = Ask {
                    prompt: rng.range(1, 20),
                    output: rng.range(1, 6),
                    // Often before patience ends.
                    deadline: urgent.then(|| desk.now.0 + u64::from(rng.range(10, 80))),
                    ..Ask::default()
                };
                desk.submit(ask).unwrap();
            }
            let planned = desk.plan();
            for &(id, _) in &desk.started {
                let starting = desk.cases[&id];
                let earlier = desk.cases.range(..id).map(|(_, case)| case);
                for other in earlier.filter(|case| case.started.is_none() && !case.ended) {
                    let later = starting.submitted.0 - other.submitted.0;
                    assert!(
                        later <= patience,
                        "seed {seed}: {starting:?} overtakes {other:?}"
                    );
                    overtakings += 1;
                    latest = latest.max(later);
                }
            }
            if planned {
                desk.apply();
            }
            desk.cases.retain(|_, case| !case.ended);
        }
    }
    assert!(
        overtakings > 100 && latest > 20,
        "{overtakings} overtakings, {latest}"
    );
}

#[test]
fn a_flood_of_one_tenant_fills_no_more_than_its_share() {
    let mut refused = [0; 3];
    for seed in 0..SEEDS {
        let mut rng = Rng::new(seed);
        let limits = Limits {
            waiting_max: rng.range(8, 40),
            ..limits(&mut rng)
        };
        // Others may have so many requests, and so many tokens waiting.
        let (others, tokens) = (rng.range(1, 7), u64::from(rng.range(20, 100)));
        let all = u64::from(rng.range(200, 400));
        let policy = Policy {
            shares: Shares {
                requests_max: Some(limits.waiting_max - others),
                tokens_max: Some(all - tokens),
                all_tokens_max: Some(all),
            },
            ..Policy::default()
        };
        let mut desk = Desk::new(limits, policy, pool(rng.range(15, 40), 3));
        for _ in 0..200 {
            for _ in 0..rng.range(0, 10) {
                let ask = Ask {
                    prompt: rng.range(1, 30),
                    output: rng.range(1, 12),
                    ..Ask::default()
                };
                match desk.submit(ask) {
                    // A queue that all have filled together costs the one who floods.
                    Ok(_) | Err(Reject::QueueFull { .. }) => {}
                    Err(Reject::ShareFull { .. }) => refused[0] += 1,
                    Err(Reject::ShareTokensFull { .. }) => refused[1] += 1,
                    Err(reject) => panic!("seed {seed}: {reject:?}"),
                }
            }
            let ask = Ask {
                tenant: 2,
                prompt: rng.range(1, 20),
                output: rng.range(1, 12),
                ..Ask::default()
            };
            let waits = |case: &&crate::desk::Case| case.ask.tenant == 2 && case.started.is_none();
            let waiting: u32 = desk
                .cases
                .values()
                .filter(waits)
                .map(|case| case.ask.prompt)
                .sum();
            let may = others.min(limits.waiting_max - others) as usize;
            if desk.live(2) < may && u64::from(waiting + ask.prompt) <= tokens {
                let answer = desk.submit(ask);
                assert!(
                    answer.is_ok(),
                    "seed {seed}: {answer:?} for somebody else's flood"
                );
                refused[2] += 1;
            }
            if desk.plan() {
                desk.apply();
            }
            desk.cases.retain(|_, case| !case.ended);
        }
    }
    assert!(refused.iter().all(|&count| count > 100), "{refused:?}");
}
