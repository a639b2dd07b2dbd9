//! What happened, counted.

use scheduler::plan::Stats;
use scheduler::request::Finish;

use crate::histogram::Times;
use crate::jobs::{Job, Jobs};
use crate::replica::Step;
use crate::report::{Counts, Point};
use crate::units::{SECOND, seconds};
use crate::workload::Offer;

/// What one output token counts in prompt tokens, where service is compared: as in the scheduler.
const OUTPUT_WEIGHT: u64 = 2;

/// Moments that a run is cut into for its plot.
const BUCKETS: u64 = 120;

/// When requests arrive that are measured.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Those before do not count.
    pub from: u64,
    /// Nobody arrives later.
    pub until: u64,
}

impl Window {
    /// Whether a moment lies in it.
    pub(crate) fn holds(self, at: u64) -> bool {
        (self.from..self.until).contains(&at)
    }
}

/// What a good request keeps.
#[derive(Clone, Copy, Debug)]
pub struct Objective {
    /// The longest time to the first token.
    pub ttft: u64,
    /// The longest mean time between tokens.
    pub itl: u64,
}

/// One tenant's part.
#[derive(Clone, Debug, Default)]
pub(crate) struct Share {
    pub(crate) counts: Counts,
    pub(crate) ttft: Times,
    pub(crate) itl: Times,
    /// Tokens computed for it in the window, outputs by their weight.
    pub(crate) served: u64,
    /// What it asked for besides: refused, or not done when the window ended.
    pub(crate) unserved: u64,
}

#[derive(Clone, Debug, Default)]
struct Bucket {
    output_tokens: u64,
    busy: u64,
    sequences: f64,
    blocks: f64,
    waiting: u64,
    ttft: Times,
}

/// All counts of a run.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) window: Window,
    objective: Objective,
    pub(crate) shares: Vec<Share>,
    pub(crate) ttft: Times,
    pub(crate) itl: Times,
    pub(crate) e2e: Times,
    pub(crate) steps: u64,
    pub(crate) busy: u64,
    pub(crate) step_tokens: f64,
    pub(crate) step_slices: u64,
    /// Blocks in use, times nanoseconds.
    pub(crate) block_time: f64,
    pub(crate) blocks_peak: u32,
    /// The scheduler's counters at the begin of the window.
    pub(crate) before: Stats,
    /// Prompt tokens that left the queue in the window, and output tokens that came in it.
    pub(crate) prompt_tokens: u64,
    pub(crate) output_tokens: u64,
    width: u64,
    buckets: Vec<Bucket>,
}

impl Tally {
    /// Nothing happened.
    pub(crate) fn new(window: Window, objective: Objective, tenants: usize) -> Self {
        Self {
            window,
            objective,
            shares: vec![Share::default(); tenants],
            ttft: Times::default(),
            itl: Times::default(),
            e2e: Times::default(),
            steps: 0,
            busy: 0,
            step_tokens: 0.0,
            step_slices: 0,
            block_time: 0.0,
            blocks_peak: 0,
            before: Stats::default(),
            prompt_tokens: 0,
            output_tokens: 0,
            width: (window.until / BUCKETS).max(1),
            buckets: vec![Bucket::default(); BUCKETS as usize + 1],
        }
    }

    /// A request came.
    pub(crate) fn arrived(&mut self, offer: &Offer, now: u64) {
        if self.window.holds(now) {
            self.share(offer).counts.begun += 1;
        }
    }

    /// A request was refused.
    pub(crate) fn rejected(&mut self, offer: &Offer, now: u64) {
        if self.window.holds(now) {
            let share = self.share(offer);
            share.counts.rejected += 1;
            share.unserved += cost(offer);
        }
    }

    /// A request left the queue.
    pub(crate) fn started(&mut self, offer: &Offer, cached_tokens: u32, now: u64) {
        if self.window.holds(now) {
            self.prompt_tokens += u64::from(offer.prompt_tokens);
            let computed = offer.prompt_tokens - cached_tokens;
            self.share(offer).served += u64::from(computed);
        }
        if self.window.holds(offer.at) {
            let counts = &mut self.share(offer).counts;
            counts.prompt_tokens += u64::from(offer.prompt_tokens);
            counts.cached_tokens += u64::from(cached_tokens);
        }
    }

    /// A token came; `job` does not yet know of it.
    pub(crate) fn token(&mut self, job: &Job, now: u64) {
        let offer = &job.offer;
        if self.window.holds(now) {
            self.output_tokens += 1;
            self.share(offer).served += OUTPUT_WEIGHT;
        }
        if let Some(bucket) = self.bucket(now) {
            bucket.output_tokens += 1;
            if job.tokens == 0 {
                bucket.ttft.record(now - offer.at);
            }
        }
        if !self.window.holds(offer.at) {
            return;
        }
        let share = &mut self.shares[offer.tenant as usize];
        share.counts.output_tokens += 1;
        if job.tokens == 0 {
            self.ttft.record(now - offer.at);
            share.ttft.record(now - offer.at);
        } else {
            self.itl.record(now - job.last_at);
            share.itl.record(now - job.last_at);
        }
    }

    /// A request has ended.
    pub(crate) fn finished(&mut self, job: &Job, finish: Finish, now: u64) {
        if !self.window.holds(job.offer.at) {
            return;
        }
        let objective = self.objective;
        match finish {
            Finish::Stop | Finish::Length => {
                let ttft = job.first_at - job.offer.at;
                let gaps = u64::from(job.tokens.max(2) - 1);
                let itl = (job.last_at - job.first_at) / gaps;
                let good = ttft <= objective.ttft && itl <= objective.itl;
                let counts = &mut self.share(&job.offer).counts;
                counts.completed += 1;
                counts.good += u64::from(good);
                self.e2e.record(now - job.offer.at);
            }
            Finish::Deadline => self.share(&job.offer).counts.expired += 1,
            Finish::Abort | Finish::Fault => unreachable!("nobody aborts and no row fails here"),
        }
    }

    /// A step ended on a replica where so many requests wait.
    pub(crate) fn step(&mut self, step: Step, waiting: u32, now: u64) {
        let block_time = f64::from(step.blocks) * step.nanos as f64;
        if let Some(bucket) = self.bucket(now) {
            bucket.busy += step.nanos;
            bucket.sequences += f64::from(step.slices) * step.nanos as f64;
            bucket.blocks += block_time;
            bucket.waiting = bucket.waiting.max(u64::from(waiting));
        }
        if self.window.holds(now) {
            self.steps += 1;
            self.busy += step.nanos;
            self.step_tokens += step.tokens;
            self.step_slices += u64::from(step.slices);
            self.block_time += block_time;
            self.blocks_peak = self.blocks_peak.max(step.blocks);
        }
    }

    /// The window ends: what is left of these was asked for and not served.
    pub(crate) fn close(&mut self, jobs: &Jobs) {
        for job in jobs.iter() {
            let prompt = if job.started {
                0
            } else {
                job.offer.prompt_tokens
            };
            let output = job.offer.output_tokens - job.tokens;
            self.shares[job.offer.tenant as usize].unserved +=
                u64::from(prompt) + OUTPUT_WEIGHT * u64::from(output);
        }
    }

    /// The run, moment by moment. `blocks` are those of all replicas.
    pub(crate) fn points(&self, blocks: f64) -> Vec<Point> {
        let width = self.width as f64;
        let point = |(number, bucket): (usize, &Bucket)| {
            let ttft = bucket.ttft.summary();
            Point {
                begin: seconds(number as u64 * self.width),
                output_tokens: bucket.output_tokens as f64 / (width / SECOND as f64),
                running: bucket.sequences / width,
                waiting_max: bucket.waiting,
                kv_use: bucket.blocks / width / blocks,
                ttft_p50: ttft.p50,
                ttft_p99: ttft.p99,
            }
        };
        let whole = &self.buckets[..BUCKETS as usize];
        whole.iter().enumerate().map(point).collect()
    }

    fn share(&mut self, offer: &Offer) -> &mut Share {
        &mut self.shares[offer.tenant as usize]
    }

    fn bucket(&mut self, now: u64) -> Option<&mut Bucket> {
        self.buckets.get_mut((now / self.width) as usize)
    }
}

fn cost(offer: &Offer) -> u64 {
    u64::from(offer.prompt_tokens) + OUTPUT_WEIGHT * u64::from(offer.output_tokens)
}

/// Jain's index of what each tenant was served, as a share of what a fair division of the same
/// total would have given it: 1 is fair, 1 / tenants is all for one. A tenant that asks for little
/// gets in a fair division what it asks for, and the others divide the rest.
pub(crate) fn fairness(shares: &[Share]) -> f64 {
    let asked: Vec<f64> = shares
        .iter()
        .map(|share| (share.served + share.unserved) as f64)
        .collect();
    let total: f64 = shares.iter().map(|share| share.served as f64).sum();
    let fair = divide(&asked, total);
    let (mut sum, mut squares, mut count) = (0.0, 0.0, 0.0);
    for (share, fair) in shares.iter().zip(&fair) {
        if *fair > 0.0 {
            let ratio = share.served as f64 / fair;
            sum += ratio;
            squares += ratio * ratio;
            count += 1.0;
        }
    }
    if squares > 0.0 {
        sum * sum / (count * squares)
    } else {
        1.0
    }
}

/// Divides `total` among those who ask, so that the smallest part is as large as can be.
fn divide(asked: &[f64], total: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..asked.len()).collect();
    order.sort_by(|&a, &b| asked[a].total_cmp(&asked[b]));
    let mut left = total;
    let mut parts = vec![0.0; asked.len()];
    for (place, &at) in order.iter().enumerate() {
        let part = asked[at].min(left / (asked.len() - place) as f64);
        parts[at] = part;
        left -= part;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(served: u64, unserved: u64) -> Share {
        Share {
            served,
            unserved,
            ..Share::default()
        }
    }

    #[test]
    fn fairness_is_one_where_who_asks_little_gets_it() {
        let index = |shares: &[(u64, u64)]| {
            let shares: Vec<Share> = shares.iter().map(|&(s, u)| share(s, u)).collect();
            fairness(&shares)
        };
        assert!((index(&[(10, 0), (90, 400)]) - 1.0).abs() < 1e-9);
        assert!((index(&[(50, 100), (50, 100)]) - 1.0).abs() < 1e-9);
        // All for one of two that both want all.
        assert!((index(&[(100, 0), (0, 100)]) - 0.5).abs() < 1e-9);
        let unfair = index(&[(5, 45), (95, 400)]);
        assert!((0.5..0.7).contains(&unfair), "{unfair}");
        // Who asks for nothing is not counted.
        assert!((index(&[(0, 0), (10, 5)]) - 1.0).abs() < 1e-9);
    }
}
