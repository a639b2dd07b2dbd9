//! How many tokens a prompt or an answer has: a distribution.

use std::str::FromStr;
use std::sync::Arc;

use rand::Rng;
use rand_distr::{Distribution as _, LogNormal};

/// A distribution of lengths, all at least 1.
#[derive(Clone, Debug, PartialEq)]
pub enum Length {
    /// Always the same.
    Fixed(u32),
    /// Equally likely between two lengths, both included.
    Uniform(u32, u32),
    /// Most are short and a few are long, as people write. At most [`LENGTH_MAX`].
    LogNormal(LogNormal<f64>),
    /// One of these, equally likely.
    Listed(Arc<[u32]>),
}

/// The longest length that is drawn or read.
pub const LENGTH_MAX: u32 = 1 << 20;

impl Length {
    /// A length.
    pub fn draw(&self, random: &mut impl Rng) -> u32 {
        match self {
            Self::Fixed(length) => *length,
            Self::Uniform(from, to) => random.random_range(*from..=*to),
            Self::LogNormal(distribution) => {
                let length = distribution.sample(random).round();
                (length as u32).clamp(1, LENGTH_MAX)
            }
            Self::Listed(lengths) => lengths[random.random_range(0..lengths.len())],
        }
    }
}

impl FromStr for Length {
    type Err = String;

    /// Reads `128`, `16..512`, `lognormal:200:0.8` (the median, and the deviation of the logarithm),
    /// `file:PATH` (one length a line).
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("file:") {
            let lines =
                std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
            return listed(&lines).map_err(|error| format!("{path}: {error}"));
        }
        if let Some(rest) = text.strip_prefix("lognormal:") {
            let parts = rest.split_once(':').ok_or("use lognormal:MEDIAN:DEVIATION");
            let (median, deviation) = parts?;
            let deviation: f64 = deviation
                .parse()
                .map_err(|_| format!("{deviation:?} is not a number"))?;
            return LogNormal::new(f64::from(length(median)?).ln(), deviation)
                .map(Self::LogNormal)
                .map_err(|error| error.to_string());
        }
        match text.split_once("..") {
            None => Ok(Self::Fixed(length(text)?)),
            Some((from, to)) => {
                let (from, to) = (length(from)?, length(to)?);
                if from > to {
                    return Err(format!("{from} is above {to}"));
                }
                Ok(Self::Uniform(from, to))
            }
        }
    }
}

fn listed(lines: &str) -> Result<Length, String> {
    let lengths: Vec<u32> = lines
        .split_whitespace()
        .map(length)
        .collect::<Result<_, _>>()?;
    if lengths.is_empty() {
        return Err("no length in it".to_owned());
    }
    Ok(Length::Listed(lengths.into()))
}

fn length(text: &str) -> Result<u32, String> {
    match text.trim().parse() {
        Ok(length @ 1..=LENGTH_MAX) => Ok(length),
        _ => Err(format!("{text:?} is not a length of 1 to {LENGTH_MAX}")),
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng as _;

    use super::*;

    fn drawn(text: &str) -> Vec<u32> {
        let length: Length = text.parse().unwrap();
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let mut lengths: Vec<u32> = (0..10_001).map(|_| length.draw(&mut random)).collect();
        lengths.sort_unstable();
        lengths
    }

    #[test]
    fn lengths_follow_their_distribution() {
        assert_eq!(drawn("7")[0], 7);
        let uniform = drawn("10..19");
        assert_eq!((uniform[0], uniform[10_000]), (10, 19));
        assert!((14..=15).contains(&uniform[5000]));
        // The median, and the 84th percentile one deviation of the logarithm above it.
        let lognormal = drawn("lognormal:200:0.8");
        assert!((190..=210).contains(&lognormal[5000]));
        assert!((420..=470).contains(&lognormal[8413]));
    }

    #[test]
    fn lengths_are_read_from_lines() {
        assert_eq!(listed("3\n 9\n"), Ok(Length::Listed([3, 9].into())));
        assert!(listed("").is_err());
        for bad in [
            "0",
            "-1",
            "9..3",
            "lognormal:5",
            "lognormal:5:x",
            "file:/none",
            "x",
        ] {
            assert!(bad.parse::<Length>().is_err(), "{bad}");
        }
    }
}
