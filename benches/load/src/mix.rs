//! Which kind each request is: a generation or an embedding, read to its end or left early, with a
//! deadline or without.

use std::time::Duration;

use rand::Rng;

/// Shares of all requests, 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mix {
    /// Embeddings.
    pub embed: f64,
    /// Of the generations: those that are left after [`Mix::cancel_after`].
    pub cancel: f64,
    /// Tokens that are read before leaving; 0 leaves at once.
    pub cancel_after: u32,
    /// Of the generations: those that have a [`Mix::deadline`].
    pub deadline_share: f64,
    /// The time they may take.
    pub deadline: Duration,
}

/// What one request is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kind {
    /// An embedding.
    pub embed: bool,
    /// Tokens after which it is left.
    pub cancel_after: Option<u32>,
    /// The time it may take.
    pub deadline: Option<Duration>,
}

impl Mix {
    /// The kind of one request.
    pub fn draw(&self, random: &mut impl Rng) -> Kind {
        // All are drawn, so that a share changes nothing but what it is the share of.
        let [embed, cancel, deadline]: [f64; 3] = random.random();
        if embed < self.embed {
            return Kind {
                embed: true,
                ..Kind::default()
            };
        }
        Kind {
            embed: false,
            cancel_after: (cancel < self.cancel).then_some(self.cancel_after),
            deadline: (deadline < self.deadline_share).then_some(self.deadline),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng as _;

    use super::*;

    #[test]
    fn shares_are_kept() {
        let mix = Mix {
            embed: 0.2,
            cancel: 0.5,
            cancel_after: 3,
            deadline_share: 1.0,
            deadline: Duration::from_secs(1),
        };
        let mut random = ChaCha8Rng::seed_from_u64(5);
        let kinds: Vec<Kind> = (0..10_000).map(|_| mix.draw(&mut random)).collect();
        let count = |holds: fn(&Kind) -> bool| kinds.iter().filter(|kind| holds(kind)).count();
        // Four standard deviations.
        assert!((1840..=2160).contains(&count(|kind| kind.embed)));
        assert!((3800..=4200).contains(&count(|kind| kind.cancel_after == Some(3))));
        assert_eq!(
            count(|kind| kind.embed == kind.deadline.is_none()),
            kinds.len()
        );
    }
}
