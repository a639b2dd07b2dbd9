//! The scheduler seen from outside: timelines written as data, and seeded random worlds.
//!
//! - `SIM_SEED=38` runs one world and nothing else.
//! - `SIM_SEEDS=100000` runs that many, from 0.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests"
)]

mod desk;
mod fairness;
mod index;
mod invariants;
mod pace;
mod preemption;
mod script;
mod shadow;
mod steady;
mod timelines;
mod workload;
mod world;

use world::World;

/// Worlds of an ordinary test run.
const SEEDS: u64 = 500;

/// Prints how to repeat a world when it panics.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.0;
            eprintln!("world {seed} failed; repeat it with");
            eprintln!("    SIM_SEED={seed} cargo test -p scheduler --test sim worlds");
        }
    }
}

fn run(seed: u64) -> world::Report {
    let _replay = Replay(seed);
    World::new(seed).run()
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is not a number: {text}")),
    )
}

#[test]
fn worlds_keep_every_invariant() {
    let seeds = match number("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIM_SEEDS").unwrap_or(SEEDS),
    };
    let worlds = seeds.end - seeds.start;
    let mut total = world::Report::default();
    for seed in seeds {
        total.add(&run(seed));
    }
    println!("{worlds} worlds: {total:?}");
    // The worlds are worth something only while they are hard.
    if worlds >= SEEDS {
        assert!(
            total.preemptions > worlds,
            "the worlds preempt too rarely: {total:?}"
        );
        assert!(
            total.prefix_hit_tokens > 10 * worlds,
            "the worlds share too little: {total:?}"
        );
        assert!(
            total.evictions > worlds,
            "the worlds evict too rarely: {total:?}"
        );
        assert!(
            total.copies > worlds,
            "the worlds copy too rarely: {total:?}"
        );
        assert!(
            total.ends.iter().all(|&count| count > worlds / 10),
            "an end is rare: {total:?}"
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in (0..SEEDS).step_by(25) {
        assert_eq!(run(seed), run(seed), "world {seed} does not repeat");
    }
}
