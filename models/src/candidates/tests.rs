//! The filters against a naive reference that sorts everything, and the draw against both.

use super::*;
use crate::random::{SplitMix, uniform};

/// `count` logits of deviation about 2, the same for the same seed.
fn logits(seed: u64, count: usize) -> Vec<f32> {
    let mut numbers = SplitMix::new(seed);
    let mut unit = || (numbers.next() >> 40) as f32 / (1_u64 << 24) as f32;
    (0..count)
        .map(|_| (unit() + unit() + unit() - 1.5) * 4.0)
        .collect()
}

fn row(logits: &[f32], temperature: f32, number: f64) -> Draw<'_> {
    Draw {
        logits,
        best: logits.iter().copied().fold(f32::MIN, f32::max),
        temperature,
        number,
        level: Level::detect(),
    }
}

/// Probabilities after all filters, each a few plain lines over a full sort.
fn reference(logits: &[f32], sampling: &Sampling) -> Vec<f64> {
    let temperature = f64::from(sampling.temperature.unwrap());
    let mut all: Vec<(usize, f64)> = logits
        .iter()
        .map(|logit| (f64::from(*logit) / temperature).exp())
        .enumerate()
        .collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    normalize(&mut all);
    if let Some(k) = sampling.top_k {
        all.truncate(k as usize);
        normalize(&mut all);
    }
    if let Some(p) = sampling.top_p {
        cut(&mut all, p);
    }
    if let Some(p) = sampling.min_p {
        let floor = f64::from(p) * all[0].1;
        all.retain(|(_, probability)| *probability >= floor);
        normalize(&mut all);
    }
    if let Some(p) = sampling.typical_p {
        let entropy: f64 = all.iter().map(|(_, p)| -p * p.ln()).sum();
        let distance = |p: f64| (-p.ln() - entropy).abs();
        all.sort_by(|a, b| distance(a.1).total_cmp(&distance(b.1)).then(a.0.cmp(&b.0)));
        cut(&mut all, p);
    }
    let mut probabilities = vec![0.0; logits.len()];
    for (token, probability) in all {
        probabilities[token] = probability;
    }
    probabilities
}

fn normalize(list: &mut [(usize, f64)]) {
    let total: f64 = list.iter().map(|entry| entry.1).sum();
    for entry in list {
        entry.1 /= total;
    }
}

/// The shortest beginning with at least `p`.
fn cut(list: &mut Vec<(usize, f64)>, p: f32) {
    let mut mass = 0.0;
    let end = list.iter().position(|(_, probability)| {
        mass += probability;
        mass >= f64::from(p)
    });
    list.truncate(end.map_or(list.len(), |end| end + 1));
    normalize(list);
}

fn samplings() -> Vec<Sampling> {
    let plain = || Sampling {
        temperature: Some(1.0),
        ..Sampling::default()
    };
    let mut list = vec![plain()];
    for temperature in [0.3, 2.5] {
        list.push(Sampling {
            temperature: Some(temperature),
            ..plain()
        });
    }
    for top_k in [1, 7, 1_000_000] {
        list.push(Sampling {
            top_k: Some(top_k),
            ..plain()
        });
    }
    for top_p in [0.1, 0.9, 0.999] {
        list.push(Sampling {
            top_p: Some(top_p),
            ..plain()
        });
    }
    for min_p in [0.2, 1.0] {
        list.push(Sampling {
            min_p: Some(min_p),
            ..plain()
        });
    }
    for typical_p in [0.3, 0.95] {
        list.push(Sampling {
            typical_p: Some(typical_p),
            ..plain()
        });
    }
    let (k, p, typical) = (Some(50), Some(0.8), Some(0.6));
    list.push(Sampling {
        top_k: k,
        top_p: p,
        ..plain()
    });
    list.push(Sampling {
        top_p: p,
        min_p: Some(0.1),
        ..plain()
    });
    list.push(Sampling {
        min_p: Some(0.01),
        typical_p: typical,
        ..plain()
    });
    let all = Sampling {
        top_k: k,
        top_p: p,
        min_p: Some(0.02),
        typical_p: typical,
        ..plain()
    };
    list.push(Sampling {
        temperature: Some(0.8),
        ..all
    });
    list
}

/// Draws with numbers spread evenly over 0..1: the counts are the probabilities.
#[test]
fn even_numbers_draw_the_reference_distribution() {
    const DRAWS: u32 = 1000;
    for (seed, vocab) in [(1, 5), (2, 300), (3, 2100)] {
        let logits = logits(seed, vocab);
        let mut candidates = Candidates::default();
        for sampling in samplings() {
            let want = reference(&logits, &sampling);
            let mut counts = vec![0_u32; vocab];
            for draw in 0..DRAWS {
                let number = (f64::from(draw) + 0.5) / f64::from(DRAWS);
                let temperature = sampling.temperature.unwrap();
                counts[candidates.draw(&row(&logits, temperature, number), &sampling) as usize] +=
                    1;
            }
            for (token, (count, want)) in counts.iter().zip(&want).enumerate() {
                let expected = want * f64::from(DRAWS);
                assert!(
                    (f64::from(*count) - expected).abs() < 1.01,
                    "{sampling:?} of {vocab}: token {token} {count} times, not {expected}"
                );
            }
        }
    }
}

/// The generator's own numbers: Pearson's statistic over the tokens expected at least five times.
#[test]
fn generated_numbers_pass_a_chi_square_test() {
    const DRAWS: u32 = 20_000;
    let logits = logits(4, 60);
    let mut candidates = Candidates::default();
    for (seed, sampling) in samplings().iter().enumerate() {
        let want = reference(&logits, sampling);
        let mut counts = vec![0_u32; logits.len()];
        for position in 0..DRAWS {
            let number = uniform(seed as u64, position);
            let temperature = sampling.temperature.unwrap();
            counts[candidates.draw(&row(&logits, temperature, number), sampling) as usize] += 1;
        }
        let (mut statistic, mut bins) = (0.0, 0);
        for (&count, want) in counts.iter().zip(want) {
            let expected = want * f64::from(DRAWS);
            assert!(want > 0.0 || count == 0);
            if expected >= 5.0 {
                statistic += (f64::from(count) - expected).powi(2) / expected;
                bins += 1;
            }
        }
        // The statistic has mean `freedom` and variance 2 `freedom`; five deviations are one in
        // millions, and the seeds are fixed.
        let freedom = f64::from((bins - 1).max(1));
        assert!(
            statistic < freedom + 5.0 * (2.0 * freedom).sqrt(),
            "{sampling:?}: {statistic}"
        );
    }
}

#[test]
fn extremes_draw_a_token_that_has_weight() {
    let mut candidates = Candidates::default();
    let rows: [&[f32]; 5] = [
        &[0.0],
        &[f32::MIN, 1.0, f32::MIN],
        &[f32::MAX, 0.0],
        &[1e30, -1e30, 1e30],
        &[3.0; 2000],
    ];
    for logits in rows {
        for mut sampling in samplings() {
            for temperature in [1e-30, 1e-3, 1.0, 1e30] {
                sampling.temperature = Some(temperature);
                for number in [0.0, 0.5, 1.0 - f64::EPSILON / 2.0] {
                    let token =
                        candidates.draw(&row(logits, temperature, number), &sampling) as usize;
                    let best = logits.iter().copied().fold(f32::MIN, f32::max);
                    let is_likely = logits[token] >= best || temperature > 1e29;
                    assert!(is_likely, "{logits:?} {sampling:?} {number}: {token}");
                }
            }
        }
    }
}

#[test]
fn a_cold_draw_is_the_best_token() {
    let logits = logits(9, 500);
    let best = logits
        .iter()
        .enumerate()
        .max_by(|a, b| a.1.total_cmp(b.1))
        .unwrap()
        .0 as u32;
    let mut candidates = Candidates::default();
    let sampling = Sampling::default();
    assert_eq!(candidates.draw(&row(&logits, 1e-6, 0.999), &sampling), best);
    // Its inverse is not finite.
    assert_eq!(
        candidates.draw(&row(&logits, f32::from_bits(1), 0.999), &sampling),
        best
    );
}
