//! When the requests of an open loop are due: distances of mean 1, stretched by a schedule.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, Exp1, Gamma};

use crate::schedule::Schedule;

/// How arrivals are spaced where the rate is constant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Spacing {
    /// Evenly.
    Constant,
    /// Independently: distances are exponential.
    Poisson,
    /// In bunches: distances are of a gamma distribution of this shape. 1 is Poisson; the variance
    /// of the distances is 1 / shape.
    Gamma(Gamma<f64>),
}

/// An endless or ending list of times, the same for the same seed.
#[derive(Debug)]
pub struct Arrivals {
    spacing: Spacing,
    schedule: Schedule,
    random: ChaCha8Rng,
    /// Requests that the schedule expects until the next arrival.
    reached: f64,
}

impl Arrivals {
    /// Arrivals whose distances come from `random`.
    pub fn new(spacing: Spacing, schedule: Schedule, random: ChaCha8Rng) -> Self {
        Self {
            spacing,
            schedule,
            random,
            reached: 0.0,
        }
    }

    fn distance(&mut self) -> f64 {
        match &self.spacing {
            Spacing::Constant => 1.0,
            Spacing::Poisson => Exp1.sample(&mut self.random),
            Spacing::Gamma(gamma) => gamma.sample(&mut self.random),
        }
    }
}

impl Iterator for Arrivals {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let due = self.schedule.time_of(self.reached)?;
        self.reached += self.distance();
        Some(due)
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::SeedableRng as _;

    use super::*;

    /// Mean and variance of the distances of 50,000 arrivals at 100 a second, in units of the mean
    /// distance.
    fn moments(spacing: Spacing) -> (f64, f64) {
        let arrivals = Arrivals::new(
            spacing,
            Schedule::constant(100.0),
            ChaCha8Rng::seed_from_u64(7),
        );
        let times: Vec<f64> = arrivals
            .take(50_001)
            .map(|time| time.as_secs_f64() * 100.0)
            .collect();
        let distances: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let count = distances.len() as f64;
        let mean = distances.iter().sum::<f64>() / count;
        let squares = distances.iter().map(|d| (d - mean).powi(2)).sum::<f64>();
        (mean, squares / count)
    }

    #[test]
    fn distances_have_the_mean_and_variance_of_their_distribution() {
        let gamma = |shape: f64| Spacing::Gamma(Gamma::new(shape, 1.0 / shape).unwrap());
        for (spacing, variance) in [
            (Spacing::Constant, 0.0),
            (Spacing::Poisson, 1.0),
            (gamma(0.25), 4.0),
            (gamma(4.0), 0.25),
        ] {
            let (mean, found) = moments(spacing);
            // Three standard errors of the mean, and 8 % of the variance (the kurtosis of the
            // burstiest is 24, so its standard error is 2.3 %).
            let error = 3.0 * (variance / 50_000.0_f64).sqrt() + 1e-6;
            assert!((mean - 1.0).abs() <= error, "{spacing:?}: mean {mean}");
            assert!(
                (found - variance).abs() <= 0.08 * variance + 1e-6,
                "{spacing:?}: variance {found}"
            );
        }
    }

    #[test]
    fn a_schedule_bounds_them_and_a_seed_repeats_them() {
        let list = |seed: u64| -> Vec<Duration> {
            let schedule = "100:1s,300:1s".parse().unwrap();
            let random = ChaCha8Rng::seed_from_u64(seed);
            Arrivals::new(Spacing::Poisson, schedule, random).collect()
        };
        let times = list(1);
        let early = times.iter().filter(|time| time.as_secs() == 0).count();
        let late = times.len() - early;
        // Four standard deviations of Poisson counts of 100 and 300.
        assert!((60..=140).contains(&early), "{early}");
        assert!((231..=369).contains(&late), "{late}");
        assert!(times.is_sorted());
        assert_eq!(times, list(1));
        assert_ne!(times, list(2));
    }
}
