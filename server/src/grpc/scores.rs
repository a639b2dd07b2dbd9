//! The scores of a classifier as clients read them: scaled, and in order.

/// What clients are told of a score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// The model's own value.
    Raw,
    /// 0 to 1: a softmax over the labels, a sigmoid where there is only one.
    Probability,
}

impl Scale {
    /// As a request's field `raw_scores` says.
    pub(crate) fn of(raw_scores: bool) -> Self {
        if raw_scores {
            Self::Raw
        } else {
            Self::Probability
        }
    }

    /// The scores of one input.
    pub(crate) fn apply(self, mut scores: Vec<f32>) -> Vec<f32> {
        match (self, scores.as_mut_slice()) {
            (Self::Raw, _) | (Self::Probability, []) => {}
            (Self::Probability, [score]) => *score = sigmoid(*score),
            (Self::Probability, scores) => softmax(scores),
        }
        scores
    }
}

/// Indexes of scores, the highest first; of equal ones the first first.
pub(crate) fn best_first(scores: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order
}

fn sigmoid(score: f32) -> f32 {
    (1.0 / (1.0 + (-f64::from(score)).exp())) as f32
}

/// The largest exponent is 0, so that nothing overflows and the sum is at least 1.
fn softmax(scores: &mut [f32]) {
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |score: f32| (f64::from(score) - f64::from(highest)).exp();
    let sum: f64 = scores.iter().map(|&score| weight(score)).sum();
    for score in scores {
        *score = (weight(*score) / sum) as f32;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::{Config, RngSeed};

    use super::*;

    #[test]
    fn a_large_negative_score_beside_a_small_one_gives_no_nan() {
        let scaled = Scale::Probability.apply(vec![-100.0, 5.0]);
        assert!(scaled[0] < 1e-40 && (scaled[1] - 1.0).abs() < f32::EPSILON);
        let one = |score| Scale::Probability.apply(vec![score])[0];
        assert_eq!(
            (one(-1e4).to_bits(), one(1e4).to_bits()),
            (0, 1_f32.to_bits())
        );
        assert!((one(0.0) - 0.5).abs() < f32::EPSILON);
        assert!(Scale::Probability.apply(Vec::new()).is_empty());
        assert!((Scale::Raw.apply(vec![-3.0])[0] + 3.0).abs() < f32::EPSILON);
    }

    #[test]
    fn equal_scores_keep_their_order() {
        assert_eq!(best_first(&[1.0, 3.0, 1.0, 3.0, -2.0]), [1, 3, 0, 2, 4]);
    }

    proptest! {
        #![proptest_config(Config { rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..Config::default() })]

        #[test]
        fn e5_probabilities_are_finite_and_sum_to_one(scores in prop::collection::vec(-1e4_f32..1e4, 1..300)) {
            let scaled = Scale::Probability.apply(scores.clone());
            prop_assert!(scaled.iter().all(|score| (0.0..=1.0).contains(score)));
            if scores.len() > 1 {
                let sum: f64 = scaled.iter().map(|&score| f64::from(score)).sum();
                prop_assert!((sum - 1.0).abs() < 1e-5, "{}", sum);
            }
            // Scaling keeps the order.
            let order = best_first(&scores);
            prop_assert!(order.windows(2).all(|pair| scaled[pair[0]] >= scaled[pair[1]]));
        }
    }
}
