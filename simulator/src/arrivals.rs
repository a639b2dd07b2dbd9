//! When the requests of an open loop come.

use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, Exp1, Gamma};

use crate::units::nanos;

/// How arrivals are spaced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Spacing {
    /// Evenly.
    Constant,
    /// Independently of each other.
    Poisson,
    /// In bunches: distances are of a gamma distribution of this shape, with variance 1 / shape.
    Gamma(f64),
}

/// An endless list of times.
#[derive(Clone, Debug)]
pub(crate) struct Arrivals {
    spacing: Spacing,
    rate: f64,
    random: ChaCha8Rng,
    seconds: f64,
}

impl Arrivals {
    /// So many a second, from time 0 on.
    pub(crate) fn new(spacing: Spacing, rate: f64, random: ChaCha8Rng) -> Self {
        Self {
            spacing,
            rate,
            random,
            seconds: 0.0,
        }
    }

    /// The next one, in nanoseconds.
    pub(crate) fn next(&mut self) -> u64 {
        let distance = match self.spacing {
            Spacing::Constant => 1.0,
            Spacing::Poisson => Exp1.sample(&mut self.random),
            Spacing::Gamma(shape) => match Gamma::new(shape, 1.0 / shape) {
                Ok(gamma) => gamma.sample(&mut self.random),
                Err(error) => unreachable!("a shape above 0: {error}"),
            },
        };
        self.seconds += distance / self.rate;
        nanos(self.seconds)
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::SeedableRng as _;

    use super::*;

    #[test]
    fn distances_have_the_mean_and_variance_of_their_distribution() {
        for (spacing, variance) in [
            (Spacing::Constant, 0.0),
            (Spacing::Poisson, 1.0),
            (Spacing::Gamma(0.25), 4.0),
        ] {
            let mut arrivals = Arrivals::new(spacing, 100.0, ChaCha8Rng::seed_from_u64(7));
            let times: Vec<u64> = (0..50_001).map(|_| arrivals.next()).collect();
            let distances: Vec<f64> = times
                .windows(2)
                .map(|pair| (pair[1] - pair[0]) as f64 / 1e7)
                .collect();
            let count = distances.len() as f64;
            let mean = distances.iter().sum::<f64>() / count;
            let found = distances.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / count;
            assert!((mean - 1.0).abs() < 0.03, "{spacing:?}: mean {mean}");
            assert!(
                (found - variance).abs() <= 0.08 * variance + 1e-6,
                "{spacing:?}: variance {found}"
            );
        }
    }
}
