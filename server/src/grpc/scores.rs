//! The scores of a classifier as clients read them: scaled, and in order.

use crate::registry::Meaning;

/// What clients are told of a score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// The model's own value.
    Raw,
    /// 0 to 1 where it means that: a softmax over the labels of which one holds, else (and where there
    /// is only one) a sigmoid of each.
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
    pub(crate) fn apply(self, mut scores: Vec<f32>, meaning: Meaning) -> Vec<f32> {
        match (self, meaning) {
            (Self::Raw, _) | (Self::Probability, Meaning::Quantities) => {}
            (Self::Probability, Meaning::OneOfAll) if scores.len() > 1 => softmax(&mut scores),
            (Self::Probability, Meaning::OneOfAll | Meaning::EachAlone) => {
                for score in &mut scores {
                    *score = sigmoid(*score);
                }
            }
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
        let scale = |scores: &[f32]| Scale::Probability.apply(scores.to_vec(), Meaning::OneOfAll);
        let scaled = scale(&[-100.0, 5.0]);
        assert!(scaled[0] < 1e-40 && (scaled[1] - 1.0).abs() < f32::EPSILON);
        let one = |score| scale(&[score])[0];
        assert_eq!(
            (one(-1e4).to_bits(), one(1e4).to_bits()),
            (0, 1_f32.to_bits())
        );
        assert!((one(0.0) - 0.5).abs() < f32::EPSILON);
        assert!(scale(&[]).is_empty());
    }

    #[test]
    fn what_scores_mean_decides_how_they_are_scaled() {
        let scores = vec![0.0, 3.0];
        let scaled = |scale: Scale, meaning| scale.apply(scores.clone(), meaning);
        let odds = 3.0_f32.exp();
        let near = |got: Vec<f32>, want: [f32; 2]| {
            let pairs = got.iter().zip(want);
            assert!(
                pairs.clone().all(|(got, want)| (got - want).abs() < 1e-6),
                "{got:?} {want:?}"
            );
        };
        near(
            scaled(Scale::Probability, Meaning::OneOfAll),
            [1.0 / (1.0 + odds), odds / (1.0 + odds)],
        );
        near(
            scaled(Scale::Probability, Meaning::EachAlone),
            [0.5, odds / (1.0 + odds)],
        );
        near(scaled(Scale::Probability, Meaning::Quantities), [0.0, 3.0]);
        for meaning in [Meaning::OneOfAll, Meaning::EachAlone, Meaning::Quantities] {
            near(scaled(Scale::Raw, meaning), [0.0, 3.0]);
        }
    }

    #[test]
    fn equal_scores_keep_their_order() {
        assert_eq!(best_first(&[1.0, 3.0, 1.0, 3.0, -2.0]), [1, 3, 0, 2, 4]);
    }

    proptest! {
        #![proptest_config(Config { rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..Config::default() })]

        #[test]
        fn e5_probabilities_are_finite_and_sum_to_one(scores in prop::collection::vec(-1e4_f32..1e4, 1..300)) {
            let scaled = Scale::Probability.apply(scores.clone(), Meaning::OneOfAll);
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
