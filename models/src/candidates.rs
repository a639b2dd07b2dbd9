//! The draw from one row: which tokens stay in play, and which of them a number in 0..1 picks.
//!
//! Order: temperature, top-k, top-p, min-p, typical-p. Each filter sees the tokens the one before
//! left, with probabilities that sum to one. Nothing sorts the whole vocabulary unless a filter
//! keeps most of it.

use engine::sampling::Sampling;
use kernels::sample::{log_sum_exp, top_k};

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
    /// What typical-p sorts by.
    surprise: f64,
}

impl Candidates {
    /// The token that `number` in 0..1 picks. `logits` are finite and not empty.
    pub(crate) fn draw(
        &mut self,
        logits: &[f32],
        sampling: &Sampling,
        temperature: f32,
        number: f64,
    ) -> u32 {
        let best = logits.iter().copied().fold(f32::MIN, f32::max);
        let scale = |logit: f32| ((logit - best) / temperature).max(SCALED_MIN);
        self.kept.clear();
        if let Some(k) = sampling.top_k {
            top_k(logits, (k as usize).min(logits.len()), &mut self.best);
            self.keep_best(scale);
            if let Some(p) = sampling.top_p {
                self.keep_mass(p, self.kept.iter().map(|candidate| candidate.weight).sum());
            }
        } else {
            self.scaled.clear();
            self.scaled.extend(logits.iter().map(|&logit| scale(logit)));
            match (sampling.top_p, sampling.min_p, sampling.typical_p) {
                (None, None, None) => return self.draw_from_all(number),
                (Some(p), ..) => self.keep_likeliest(p, logits, scale),
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

    /// `kept` becomes `best`.
    fn keep_best(&mut self, scale: impl Fn(f32) -> f32) {
        self.kept.clear();
        self.kept.extend(
            self.best
                .iter()
                .map(|&(token, logit)| Candidate::new(token, scale(logit))),
        );
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
    fn keep_likeliest(&mut self, p: f32, logits: &[f32], scale: impl Fn(f32) -> f32) {
        let total = f64::from(log_sum_exp(&self.scaled)).exp();
        let mut count = TOP_P_FIRST.min(logits.len());
        loop {
            top_k(logits, count, &mut self.best);
            self.keep_best(&scale);
            let mass: f64 = self.kept.iter().map(|candidate| candidate.weight).sum();
            if mass >= f64::from(p) * total || count == logits.len() {
                return self.keep_mass(p, total);
            }
            count = (count * TOP_P_GROWTH).min(logits.len());
        }
    }

    /// The shortest beginning of `kept` that has the share `p` of `total`; at least one.
    fn keep_mass(&mut self, p: f32, total: f64) {
        let wanted = f64::from(p) * total;
        let mut mass = 0.0;
        let short = self.kept.iter().take_while(|candidate| {
            let is_short = mass < wanted;
            mass += candidate.weight;
            is_short
        });
        let length = short.count().max(1);
        self.kept.truncate(length);
    }

    /// The tokens whose information is nearest the row's entropy, up to the share `p`.
    fn keep_typical(&mut self, p: f32) {
        let total: f64 = self.kept.iter().map(|candidate| candidate.weight).sum();
        let information = |weight: f64| -(weight / total).ln();
        let entropy: f64 = self
            .kept
            .iter()
            .filter(|candidate| candidate.weight > 0.0)
            .map(|candidate| candidate.weight / total * information(candidate.weight))
            .sum();
        for candidate in &mut self.kept {
            candidate.surprise = (information(candidate.weight) - entropy).abs();
        }
        let before = |a: &Candidate, b: &Candidate| {
            a.surprise
                .total_cmp(&b.surprise)
                .then(a.token.cmp(&b.token))
        };
        let mut count = TYPICAL_FIRST.min(self.kept.len());
        loop {
            if count < self.kept.len() {
                self.kept.select_nth_unstable_by(count, before);
            }
            let mass: f64 = self.kept[..count]
                .iter()
                .map(|candidate| candidate.weight)
                .sum();
            if mass >= f64::from(p) * total || count == self.kept.len() {
                break;
            }
            count = (count * TYPICAL_GROWTH).min(self.kept.len());
        }
        self.kept.truncate(count);
        self.kept.sort_unstable_by(before);
        self.keep_mass(p, total);
    }

    /// Picks from `kept`.
    fn pick(&self, number: f64) -> u32 {
        let total: f64 = self.kept.iter().map(|candidate| candidate.weight).sum();
        let index = at(
            self.kept.iter().map(|candidate| candidate.weight),
            number * total,
        );
        self.kept[index].token
    }

    /// Picks from the whole row: first a chunk by its share, then a token inside it.
    fn draw_from_all(&mut self, number: f64) -> u32 {
        self.chunks.clear();
        let chunks = self.scaled.chunks(CHUNK);
        self.chunks
            .extend(chunks.map(|chunk| f64::from(log_sum_exp(chunk)).exp()));
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
    fn new(token: u32, scaled: f32) -> Self {
        Self {
            token,
            weight: f64::from(scaled).exp(),
            surprise: 0.0,
        }
    }
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
/// 64: at usual temperatures nine tenths of the mass stand in the first few dozen tokens.
const TOP_P_FIRST: usize = 64;
const TOP_P_GROWTH: usize = 8;
const TYPICAL_FIRST: usize = 1024;
const TYPICAL_GROWTH: usize = 8;
/// 1024: a chunk is searched one exponential at a time, and there are as few chunks as possible.
const CHUNK: usize = 1024;

#[cfg(test)]
mod tests;
