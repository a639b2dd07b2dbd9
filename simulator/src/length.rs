//! How many tokens or turns something has: a distribution.

use std::fmt;
use std::str::FromStr;

use rand::Rng;
use rand_distr::{Distribution as _, LogNormal};

/// A distribution of lengths, all at least 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Length {
    /// Always the same.
    Fixed(u32),
    /// Equally likely between two lengths, both included.
    Uniform(u32, u32),
    /// Many short ones and a few long ones.
    LogNormal {
        /// Half are shorter.
        median: u32,
        /// The deviation of the logarithm.
        deviation: f64,
        /// What is drawn beyond this is drawn again: cut off, not heaped up.
        most: u32,
    },
}

/// The longest length.
pub const LENGTH_MAX: u32 = 1 << 20;

/// A draw beyond the bound is repeated this often; then it is the bound.
const DRAWS_MAX: u32 = 64;

impl Length {
    /// A length.
    pub fn draw(self, random: &mut impl Rng) -> u32 {
        match self {
            Self::Fixed(length) => length,
            Self::Uniform(from, to) => random.random_range(from..=to),
            Self::LogNormal {
                median,
                deviation,
                most,
            } => {
                let Ok(distribution) = LogNormal::new(f64::from(median).ln(), deviation) else {
                    unreachable!("the deviation was checked when it was read");
                };
                let drawn = (0..DRAWS_MAX)
                    .map(|_| distribution.sample(random).round() as u32)
                    .find(|&length| length <= most);
                drawn.unwrap_or(most).max(1)
            }
        }
    }
}

impl FromStr for Length {
    type Err = String;

    /// Reads `128`, `16..512`, `lognormal:MEDIAN:DEVIATION` and `lognormal:MEDIAN:DEVIATION:MOST`.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix("lognormal:") {
            let parts: Vec<&str> = rest.split(':').collect();
            let (median, deviation, most) = match parts[..] {
                [median, deviation] => (length(median)?, deviation, LENGTH_MAX),
                [median, deviation, most] => (length(median)?, deviation, length(most)?),
                _ => return Err("use lognormal:MEDIAN:DEVIATION[:MOST]".to_owned()),
            };
            let Ok(deviation @ 0.0..=10.0) = deviation.parse::<f64>() else {
                return Err(format!("{deviation:?} is not a deviation of 0 to 10"));
            };
            if median > most {
                return Err(format!("the median {median} is above {most}"));
            }
            return Ok(Self::LogNormal {
                median,
                deviation,
                most,
            });
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

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(length) => write!(f, "{length}"),
            Self::Uniform(from, to) => write!(f, "{from}..{to}"),
            Self::LogNormal {
                median,
                deviation,
                most,
            } => write!(f, "lognormal:{median}:{deviation}:{most}"),
        }
    }
}

fn length(text: &str) -> Result<u32, String> {
    match text.parse() {
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
        assert_eq!(length.to_string().parse(), Ok(length));
        let mut random = ChaCha8Rng::seed_from_u64(5);
        let mut lengths: Vec<u32> = (0..10_001).map(|_| length.draw(&mut random)).collect();
        lengths.sort_unstable();
        lengths
    }

    #[test]
    fn lengths_follow_their_distribution() {
        assert_eq!(drawn("7")[0], 7);
        let uniform = drawn("10..19");
        assert_eq!((uniform[0], uniform[10_000]), (10, 19));
        // The median, and the 84th percentile one deviation of the logarithm above it.
        let lognormal = drawn("lognormal:200:0.8");
        assert!(
            (190..=210).contains(&lognormal[5000]),
            "{}",
            lognormal[5000]
        );
        assert!((420..=470).contains(&lognormal[8413]));
        let cut = drawn("lognormal:200:0.8:300");
        assert!(cut[10_000] <= 300 && cut[5000] < 200);
    }

    #[test]
    fn what_is_no_length_is_refused() {
        for bad in [
            "0",
            "-1",
            "9..3",
            "x",
            "lognormal:5",
            "lognormal:5:x",
            "lognormal:5:11",
            "lognormal:9:1:5",
        ] {
            assert!(bad.parse::<Length>().is_err(), "{bad}");
        }
    }
}
