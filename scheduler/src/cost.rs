//! What a step costs, learnt while steps run: recursive least squares over four features.
//!
//! `us = fixed + row * sequences + prompt * prompt tokens + kv * KV tokens read`. Each observation
//! costs some 100 multiplications and allocates nothing; the same observations give the same model.
//!
//! Three things keep it sane. Old observations are forgotten by `KEEP` a step, unless all steps
//! look alike, which would let what it knows of other steps dissolve. An observation far from what
//! was expected moves it no further than `SURPRISE_MAX` ordinary errors would, so that a stalled
//! step teaches little and a device that has become slower for good is followed within some dozen
//! steps. And no coefficient is negative: more work never takes less time.

use crate::request::Micros;

/// What a step does, as far as its time depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepLoad {
    /// Sequences of which one position is computed.
    pub rows: u32,
    /// Positions of all other sequences.
    pub prompt_tokens: u32,
    /// Positions that the attention of all sequences reads.
    pub kv_tokens: u64,
}

/// See the module's documentation.
#[derive(Clone, Debug, PartialEq)]
pub struct CostModel {
    /// By feature, scaled.
    weights: [f64; FEATURES],
    /// How uncertain they are together.
    spread: [[f64; FEATURES]; FEATURES],
    /// The ordinary error, in microseconds.
    error: f64,
    observations: u32,
}

const FEATURES: usize = 4;

/// One sequence, prompt token and KV token read in features, so that all are of the same size.
const SCALES: [f64; FEATURES] = [1.0, 1.0 / 64.0, 1.0 / 512.0, 1.0 / 65_536.0];

/// What is kept of old observations with each new one: half of them are gone after 350 steps.
const KEEP: f64 = 0.998;

/// How uncertain a weight may be at most, in squares of what is thought likely at the beginning.
const SPREAD_MAX: f64 = 1e6;

/// How many ordinary errors an observation may be away and still count in full.
const SURPRISE_MAX: f64 = 4.0;

/// Observations after which it is believed.
const BELIEVED: u32 = 32;

impl Default for CostModel {
    fn default() -> Self {
        let mut spread = [[0.0; FEATURES]; FEATURES];
        for (at, row) in spread.iter_mut().enumerate() {
            row[at] = SPREAD_MAX;
        }
        Self {
            weights: [0.0; FEATURES],
            spread,
            error: 0.0,
            observations: 0,
        }
    }
}

impl CostModel {
    /// Whether it has seen enough to be believed.
    pub fn is_fitted(&self) -> bool {
        self.observations >= BELIEVED
    }

    /// Learns from a step that took so long.
    pub fn observe(&mut self, load: StepLoad, took: Micros) {
        let x = features(load);
        let gain = self.gain(&x);
        let expected: f64 = dot(&self.weights, &x);
        let surprise = took.0 as f64 - expected;
        let surprise = self.tempered(surprise);
        for (weight, gain) in self.weights.iter_mut().zip(gain) {
            *weight += gain * surprise;
        }
        self.narrow(&x, gain);
        self.observations = self.observations.saturating_add(1);
    }

    /// What a step should take, in microseconds; 0 while nothing is known.
    pub fn predict(&self, load: StepLoad) -> f64 {
        let x = features(load);
        let costs = self.weights.iter().zip(x);
        costs.map(|(weight, x)| weight.max(0.0) * x).sum()
    }

    /// What one more prompt token costs, in microseconds.
    pub fn prompt_token_us(&self) -> f64 {
        self.weights[2].max(0.0) * SCALES[2]
    }

    /// What one more KV token to read costs, in microseconds.
    pub fn kv_token_us(&self) -> f64 {
        self.weights[3].max(0.0) * SCALES[3]
    }

    /// How far each weight follows an error, given what is uncertain.
    fn gain(&self, x: &[f64; FEATURES]) -> [f64; FEATURES] {
        let mut gain = [0.0; FEATURES];
        for (gain, row) in gain.iter_mut().zip(&self.spread) {
            *gain = dot(row, x);
        }
        let total = KEEP + dot(&gain, x);
        gain.map(|gain| gain / total)
    }

    /// An error, cut where it is out of all proportion.
    fn tempered(&mut self, surprise: f64) -> f64 {
        let limit = SURPRISE_MAX * self.error;
        let young = self.observations < BELIEVED;
        let cut = if young {
            surprise
        } else {
            surprise.clamp(-limit, limit)
        };
        // The first steps are far off, for nothing is known. Never quite 0, or nothing would count.
        let rate = if young { 0.5 } else { 0.05 };
        self.error += rate * (cut.abs() - self.error);
        self.error = self.error.max(1.0);
        cut
    }

    /// What was observed is less uncertain now; everything else a little more.
    fn narrow(&mut self, x: &[f64; FEATURES], gain: [f64; FEATURES]) {
        let mut seen = [0.0; FEATURES];
        for (at, seen) in seen.iter_mut().enumerate() {
            *seen = (0..FEATURES).map(|row| x[row] * self.spread[row][at]).sum();
        }
        for (row, gain) in self.spread.iter_mut().zip(gain) {
            for (cell, seen) in row.iter_mut().zip(seen) {
                *cell -= gain * seen;
            }
        }
        let widest = (0..FEATURES).fold(0.0_f64, |most, at| most.max(self.spread[at][at]));
        let keep = if widest > KEEP * SPREAD_MAX {
            1.0
        } else {
            KEEP
        };
        for at in 0..FEATURES {
            for other in 0..at {
                // Rounding must not make it lopsided.
                let middle = f64::midpoint(self.spread[at][other], self.spread[other][at]) / keep;
                self.spread[at][other] = middle;
                self.spread[other][at] = middle;
            }
            self.spread[at][at] = (self.spread[at][at] / keep).max(0.0);
        }
    }
}

fn features(load: StepLoad) -> [f64; FEATURES] {
    let values = [
        1.0,
        f64::from(load.rows),
        f64::from(load.prompt_tokens),
        load.kv_tokens as f64,
    ];
    let mut scaled = SCALES;
    for (scaled, value) in scaled.iter_mut().zip(values) {
        *scaled *= value;
    }
    scaled
}

fn dot(one: &[f64; FEATURES], other: &[f64; FEATURES]) -> f64 {
    one.iter().zip(other).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRUE: [f64; FEATURES] = [800.0, 12.0, 25.0, 0.02];

    fn truth(load: StepLoad, factor: f64) -> Micros {
        let us = TRUE[0]
            + TRUE[1] * f64::from(load.rows)
            + TRUE[2] * f64::from(load.prompt_tokens)
            + TRUE[3] * load.kv_tokens as f64;
        Micros((us * factor) as u64)
    }

    /// Loads of a busy server, from a fixed sequence.
    fn load(step: u64) -> StepLoad {
        let word = step.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        StepLoad {
            rows: (word % 64) as u32,
            prompt_tokens: if word.is_multiple_of(3) {
                (word / 64 % 512) as u32
            } else {
                0
            },
            kv_tokens: word / 4096 % 100_000,
        }
    }

    fn fitted(steps: u64) -> CostModel {
        let mut model = CostModel::default();
        for step in 0..steps {
            model.observe(load(step), truth(load(step), 1.0));
        }
        model
    }

    fn worst(model: &CostModel, factor: f64) -> f64 {
        let error = |step| {
            let truth = truth(load(step), factor).0 as f64;
            (model.predict(load(step)) - truth).abs() / truth
        };
        (5000..5200).map(error).fold(0.0, f64::max)
    }

    #[test]
    fn it_learns_the_costs() {
        let model = fitted(100);
        assert!(worst(&model, 1.0) < 0.01, "{model:?}");
        assert!((model.prompt_token_us() - TRUE[2]).abs() < 0.1, "{model:?}");
    }

    #[test]
    fn a_stalled_step_now_and_then_teaches_little() {
        let mut model = CostModel::default();
        for step in 0..2000 {
            let factor = if step > 100 && step % 50 == 0 {
                40.0
            } else {
                1.0
            };
            model.observe(load(step), truth(load(step), factor));
        }
        assert!(worst(&model, 1.0) < 0.05, "{model:?}");
    }

    #[test]
    fn it_follows_a_device_that_has_become_slower() {
        let mut model = fitted(1000);
        for step in 1000..2500 {
            model.observe(load(step), truth(load(step), 2.0));
        }
        assert!(
            worst(&model, 2.0) < 0.05,
            "{}, {model:?}",
            worst(&model, 2.0)
        );
    }

    #[test]
    fn steps_that_all_look_alike_undo_nothing() {
        let mut model = fitted(200);
        let same = StepLoad {
            rows: 8,
            prompt_tokens: 0,
            kv_tokens: 800,
        };
        for _ in 0..100_000 {
            model.observe(same, truth(same, 1.0));
        }
        let finite = model.spread.iter().flatten().all(|cell| cell.is_finite());
        assert!(finite, "{model:?}");
        assert!(
            worst(&model, 1.0) < 0.05,
            "{}, {model:?}",
            worst(&model, 1.0)
        );
    }

    #[test]
    fn nothing_but_alike_steps_is_no_trouble() {
        let mut model = CostModel::default();
        for _ in 0..100_000 {
            model.observe(StepLoad::default(), Micros(500));
        }
        assert!((model.predict(StepLoad::default()) - 500.0).abs() < 1.0);
        let more = StepLoad {
            rows: 100,
            prompt_tokens: 1000,
            kv_tokens: 1 << 20,
        };
        assert!(model.predict(more) >= 499.0 && model.predict(more).is_finite());
        model.observe(more, Micros(u64::MAX));
        assert!(model.predict(more).is_finite());
    }
}
