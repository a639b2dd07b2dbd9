//! The draw from one row: which tokens stay in play, and which of them a number in 0..1 picks.
//!
//! Order: temperature, top-k, top-p, min-p, typical-p. Each filter sees the tokens the one before
//! left, with probabilities that sum to one. Nothing sorts the vocabulary: filters select.

use engine::sampling::Sampling;
use kernels::Level;
use kernels::sample::{Scale, log_sum_exp, scale, top_k};

/// Scratch memory for one row.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    /// (logit - best) / temperature of every token.
    scaled: Vec<f32>,
    best: Vec<(u32, f32)>,
    kept: Vec<Candidate>,
    chunks: Vec<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Candidate {
    token: u32,
    /// Probability times a constant.
    weight: f64,
    /// A filter keeps the lowest ranks.
    rank: f64,
}

/// A row to draw from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draw<'a> {
    /// Finite and not empty.
    pub(crate) logits: &'a [f32],
    /// The largest of them.
    pub(crate) best: f32,
    /// Positive.
    pub(crate) temperature: f32,
    /// Which token, in 0..1.
    pub(crate) number: f64,
    /// The instructions to read the row with.
    pub(crate) level: Level,
}

impl Candidates {
    /// The token that the row's number picks.
    pub(crate) fn draw(&mut self, row: &Draw<'_>, sampling: &Sampling) -> u32 {
        let (level, logits, number) = (row.level, row.logits, row.number);
        let by = Scale {
            best: row.best,
            // The inverse of the smallest temperatures is not finite.
            factor: row.temperature.recip().min(f32::MAX),
            floor: SCALED_MIN,
        };
        self.kept.clear();
        if let Some(k) = sampling.top_k {
            top_k(
                level,
                logits,
                (k as usize).min(logits.len()),
                &mut self.best,
            );
            let best = self.best.iter();
            let scaled = |logit: f32| ((logit - by.best) * by.factor).max(by.floor);
            self.kept
                .extend(best.map(|&(token, logit)| Candidate::new(token, scaled(logit))));
            if let Some(p) = sampling.top_p {
                keep_mass(&mut self.kept, p);
            }
        } else {
            scale(level, logits, by, &mut self.scaled);
            match (sampling.top_p, sampling.min_p, sampling.typical_p) {
                (None, None, None) => return self.draw_from_all(level, number),
                (Some(p), ..) => self.keep_likeliest(level, p),
                (None, Some(p), _) => self.keep_above(p.ln()),
                (None, None, Some(_)) => self.keep_above(SCALED_MIN),
            }
        }
        if let Some(p) = sampling.min_p {
            let floor = f64::from(p) * self.kept.iter().fold(0.0, |max, c| c.weight.max(max));
            self.kept.retain(|candidate| candidate.weight >= floor);
        }
        if let Some(p) = sampling.typical_p {
            self.keep_typical(p);
        }
        self.pick(number)
    }

    /// Every token whose scaled logit is at least `floor`.
    fn keep_above(&mut self, floor: f32) {
        let all = self
            .scaled
            .iter()
            .enumerate()
            .filter(|(_, scaled)| **scaled >= floor);
        self.kept
            .extend(all.map(|(token, &scaled)| Candidate::new(token as u32, scaled)));
    }

    /// The likeliest tokens that together have the share `p` of the whole row.
    fn keep_likeliest(&mut self, level: Level, p: f32) {
        let total = log_sum_exp(level, &self.scaled);
        // All tokens below this floor together have less than the share 1 - p.
        let floor = total + ((1.0 - p) / self.scaled.len() as f32).ln();
        self.keep_above(floor.min(0.0));
        keep_weight(&mut self.kept, f64::from(p) * f64::from(total).exp());
    }

    /// The tokens whose information is nearest the row's entropy, up to the share `p`.
    fn keep_typical(&mut self, p: f32) {
        let total = weight(&self.kept);
        let information = |weight: f64| -(weight / total).ln();
        let entropy: f64 = self
            .kept
            .iter()
            .filter(|candidate| candidate.weight > 0.0)
            .map(|candidate| candidate.weight / total * information(candidate.weight))
            .sum();
        for candidate in &mut self.kept {
            candidate.rank = (information(candidate.weight) - entropy).abs();
        }
        keep_mass(&mut self.kept, p);
    }

    /// Picks from `kept`.
    fn pick(&self, number: f64) -> u32 {
        let weights = self.kept.iter().map(|candidate| candidate.weight);
        self.kept[at(weights, number * weight(&self.kept))].token
    }

    /// Picks from the whole row: first a chunk by its share, then a token inside it.
    fn draw_from_all(&mut self, level: Level, number: f64) -> u32 {
        self.chunks.clear();
        let chunks = self.scaled.chunks(CHUNK);
        self.chunks
            .extend(chunks.map(|chunk| f64::from(log_sum_exp(level, chunk)).exp()));
        let wanted = number * self.chunks.iter().sum::<f64>();
        let index = at(self.chunks.iter().copied(), wanted);
        let before: f64 = self.chunks[..index].iter().sum();
        let share = ((wanted - before) / self.chunks[index]).clamp(0.0, 1.0);

        let first = index * CHUNK;
        let chunk = &self.scaled[first..(first + CHUNK).min(self.scaled.len())];
        let weight = |scaled: &f32| f64::from(*scaled).exp();
        let total: f64 = chunk.iter().map(weight).sum();
        (first + at(chunk.iter().map(weight), share * total)) as u32
    }
}

impl Candidate {
    /// Ranked by likelihood.
    fn new(token: u32, scaled: f32) -> Self {
        let scaled = f64::from(scaled);
        Self {
            token,
            weight: scaled.exp(),
            rank: -scaled,
        }
    }
}

fn weight(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|candidate| candidate.weight).sum()
}

/// Keeps the fewest candidates of lowest rank that have the share `p` of all; at least one.
fn keep_mass(kept: &mut Vec<Candidate>, p: f32) {
    let wanted = f64::from(p) * weight(kept);
    keep_weight(kept, wanted);
}

/// Keeps the fewest candidates of lowest rank that weigh `wanted` together; at least one. Their
/// order depends on the row alone.
fn keep_weight(kept: &mut Vec<Candidate>, wanted: f64) {
    let before =
        |a: &Candidate, b: &Candidate| a.rank.total_cmp(&b.rank).then(a.token.cmp(&b.token));
    // Everything before `low` stays, everything from `high` on goes.
    let (mut low, mut high) = (0, kept.len());
    let mut weight_low = 0.0;
    while high - low > SORTED_MAX {
        let middle = low + (high - low) / 2;
        kept[low..high].select_nth_unstable_by(middle - low, before);
        let half = weight(&kept[low..middle]);
        if weight_low + half >= wanted {
            high = middle;
        } else {
            weight_low += half;
            low = middle;
        }
    }
    kept[low..high].sort_unstable_by(before);
    while low < high && weight_low < wanted {
        weight_low += kept[low].weight;
        low += 1;
    }
    kept.truncate(low.max(1));
}

/// The first index at which the running sum of `weights` exceeds `wanted`; where rounding keeps
/// it from ever doing so, the last one that has a weight.
fn at(weights: impl Iterator<Item = f64>, wanted: f64) -> usize {
    let mut sum = 0.0;
    let mut last = 0;
    for (index, weight) in weights.enumerate() {
        if weight > 0.0 {
            last = index;
        }
        sum += weight;
        if sum > wanted {
            return index;
        }
    }
    last
}

/// exp(-10,000) is zero in f64; without a floor a small temperature would give infinities.
const SCALED_MIN: f32 = -10_000.0;
/// 64: below that sorting is as fast as selecting again.
const SORTED_MAX: usize = 64;
/// 1024: a chunk is searched one exponential at a time, and there are as few chunks as possible.
const CHUNK: usize = 1024;

#[cfg(test)]
mod tests;
