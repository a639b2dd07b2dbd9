//! What a run found, to be printed, kept as JSON or drawn.

use scheduler::plan::Stats;
use serde::Serialize;

pub use crate::histogram::Summary;
use crate::simulation::Scenario;
use crate::tally::{Share, Tally, fairness};
use crate::units::seconds;

/// A run's result. Times in it are milliseconds where no other unit is said.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The version of the simulator.
    pub version: String,
    /// What was asked for, as pairs of a name and a value.
    pub setting: Vec<(String, String)>,
    /// Simulated seconds in which requests arrived that were measured.
    pub seconds: f64,
    /// Requests that arrived then, by how they ended.
    pub requests: Counts,
    /// What happened in these seconds, a second.
    pub rates: Rates,
    /// Times of the measured requests.
    pub latencies: Latencies,
    /// The KV cache, in these seconds.
    pub kv: Kv,
    /// Steps, in these seconds.
    pub steps: Steps,
    /// Jain's index between tenants, of what each got of its fair part.
    pub fairness: f64,
    /// By tenant.
    pub tenants: Vec<Tenant>,
    /// Moment by moment, the warm-up included.
    pub series: Vec<Point>,
}

/// Requests by how they ended, and their tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Arrived.
    pub begun: u64,
    /// Came to their end.
    pub completed: u64,
    /// Were refused.
    pub rejected: u64,
    /// Ended by their deadline.
    pub expired: u64,
    /// Completed within the objective.
    pub good: u64,
    /// Prompt tokens of those that left the queue.
    pub prompt_tokens: u64,
    /// Of them from the prefix cache.
    pub cached_tokens: u64,
    /// Tokens that came.
    pub output_tokens: u64,
}

/// How many a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Rates {
    /// Measured requests that were completed.
    pub requests: f64,
    /// Measured requests that were completed within the objective.
    pub goodput: f64,
    /// Prompt tokens that left the queue, whosesoever.
    pub prompt_tokens: f64,
    /// Output tokens that came, whosesoever.
    pub output_tokens: f64,
}

/// Times by their kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Latencies {
    /// From arrival to first token.
    pub ttft: Summary,
    /// Between two tokens.
    pub itl: Summary,
    /// From arrival to end.
    pub e2e: Summary,
}

/// What became of the KV cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Kv {
    /// Blocks of all replicas.
    pub blocks: u32,
    /// The mean share of them that sequences held.
    pub use_mean: f64,
    /// The largest share that was held of one replica's.
    pub use_peak: f64,
    /// The share of prompt tokens that were found in the prefix cache.
    pub hit_rate: f64,
    /// Cached blocks that were given to somebody else.
    pub evictions: u64,
    /// Sequences that gave up their blocks.
    pub preemptions: u64,
}

/// Steps of all replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Steps {
    /// How many.
    pub count: u64,
    /// How long, on average.
    pub mean_ms: f64,
    /// Positions computed in one, on average.
    pub tokens: f64,
    /// Sequences in one, on average.
    pub sequences: f64,
    /// The share of time that replicas were computing.
    pub busy: f64,
}

/// One tenant's part.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tenant {
    /// Its name.
    pub name: String,
    /// Its requests.
    pub requests: Counts,
    /// From arrival to first token.
    pub ttft: Summary,
    /// Between two tokens.
    pub itl: Summary,
    /// Tokens computed for it a second, outputs counted twice.
    pub service: f64,
}

/// A moment of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    /// Simulated seconds.
    pub begin: f64,
    /// Output tokens a second.
    pub output_tokens: f64,
    /// Sequences computing, of all replicas.
    pub running: f64,
    /// The longest queue of any replica.
    pub waiting_max: u64,
    /// The share of blocks held.
    pub kv_use: f64,
    /// First tokens that came then.
    pub ttft_p50: f64,
    /// First tokens that came then.
    pub ttft_p99: f64,
}

impl Report {
    pub(crate) fn new(tally: &Tally, after: &Stats, scenario: &Scenario) -> Self {
        let lasts = seconds(tally.window.until - tally.window.from).max(1e-9);
        let mut requests = Counts::default();
        for share in &tally.shares {
            requests.add(&share.counts);
        }
        let rate = |count: u64| count as f64 / lasts;
        let before = &tally.before;
        let replicas = f64::from(scenario.replicas);
        let queried = after.prefix_queried_tokens - before.prefix_queried_tokens;
        let hit = after.prefix_hit_tokens - before.prefix_hit_tokens;
        let blocks = f64::from(after.blocks_total);
        let steps = tally.steps.max(1) as f64;
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            setting: scenario.setting.clone(),
            seconds: lasts,
            requests,
            rates: Rates {
                requests: rate(requests.completed),
                goodput: rate(requests.good),
                prompt_tokens: rate(tally.prompt_tokens),
                output_tokens: rate(tally.output_tokens),
            },
            latencies: Latencies {
                ttft: tally.ttft.summary(),
                itl: tally.itl.summary(),
                e2e: tally.e2e.summary(),
            },
            kv: Kv {
                blocks: after.blocks_total,
                use_mean: tally.block_time / (blocks * lasts * 1e9),
                use_peak: f64::from(tally.blocks_peak) / (blocks / replicas),
                hit_rate: hit as f64 / queried.max(1) as f64,
                evictions: after.evictions - before.evictions,
                preemptions: after.preemptions - before.preemptions,
            },
            steps: Steps {
                count: tally.steps,
                mean_ms: tally.busy as f64 / steps / 1e6,
                tokens: tally.step_tokens / steps,
                sequences: tally.step_slices as f64 / steps,
                busy: tally.busy as f64 / (lasts * 1e9 * replicas),
            },
            fairness: fairness(&tally.shares),
            tenants: tenants(&tally.shares, &scenario.tenants, lasts),
            series: tally.points(blocks),
        }
    }

    /// As JSON, for programs.
    pub fn json(&self) -> String {
        // Nothing in a report can fail to be written: its keys are strings.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// As a table, for a terminal.
    pub fn table(&self) -> String {
        crate::table::report(self)
    }

    /// The share of requests that were good.
    pub fn good_share(&self) -> f64 {
        self.requests.good as f64 / self.requests.begun.max(1) as f64
    }
}

fn tenants(shares: &[Share], names: &[String], lasts: f64) -> Vec<Tenant> {
    let of = |(share, name): (&Share, &String)| Tenant {
        name: name.clone(),
        requests: share.counts,
        ttft: share.ttft.summary(),
        itl: share.itl.summary(),
        service: share.served as f64 / lasts,
    };
    shares.iter().zip(names).map(of).collect()
}

impl Counts {
    fn add(&mut self, other: &Self) {
        let Self {
            begun,
            completed,
            rejected,
            expired,
            good,
            prompt_tokens,
            cached_tokens,
            output_tokens,
        } = other;
        self.begun += begun;
        self.completed += completed;
        self.rejected += rejected;
        self.expired += expired;
        self.good += good;
        self.prompt_tokens += prompt_tokens;
        self.cached_tokens += cached_tokens;
        self.output_tokens += output_tokens;
    }
}
