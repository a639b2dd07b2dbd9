//! What a request's own parameters do to its rows, and that nothing else does.

use super::*;

const ID: RequestId = RequestId(1);

fn tokens(ids: &[u32]) -> Vec<Token> {
    ids.iter().copied().map(Token).collect()
}

fn drawn(row: &Row) -> u32 {
    match row {
        Row::Token { drawn, .. } => drawn.token.0,
        Row::NotFinite => panic!("not finite"),
    }
}

/// A sampler with one request whose prompt is token 0 twice.
fn sampler(sampling: Sampling) -> Sampler {
    let mut sampler = Sampler::default();
    sampler.admit(ID, &Arc::new(sampling), &tokens(&[0, 0]), &[]);
    sampler
}

/// The row of one request.
fn sample(sampler: &mut Sampler, id: RequestId, position: u32, logits: &[f32]) -> Row {
    let mut rows = Vec::new();
    let sample = Sample { id, position };
    sampler.sample(&mut Compute::new(1), &[sample], logits, &mut rows);
    rows.remove(0).1
}

/// Logits of a made-up network: they depend on the position alone.
fn logits(position: u32) -> Vec<f32> {
    (0..50_u32)
        .map(|token| ((token * 7 + position * 13) % 31) as f32 / 8.0)
        .collect()
}

fn warm(seed: u64) -> Sampling {
    Sampling {
        temperature: Some(0.9),
        top_p: Some(0.95),
        frequency_penalty: Some(0.4),
        repetition_penalty: Some(1.2),
        seed,
        ..Sampling::default()
    }
}

#[test]
fn greedy_takes_the_lowest_of_equals() {
    let row = sample(
        &mut sampler(Sampling::default()),
        ID,
        2,
        &[1.0, 5.0, 5.0, 2.0],
    );
    assert_eq!(drawn(&row), 1);
}

#[test]
fn rows_that_are_not_finite_are_said_so() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for sampling in [Sampling::default(), warm(1)] {
            assert_eq!(
                sample(&mut sampler(sampling), ID, 2, &[0.0, bad, 1.0]),
                Row::NotFinite
            );
        }
    }
}

#[test]
fn log_probabilities_are_the_model_s_own() {
    let sampling = Sampling {
        logprobs: Some(2),
        logit_bias: vec![(Token(3), 100.0), (Token(99), 5.0)],
        ..Sampling::default()
    };
    let row = sample(&mut sampler(sampling), ID, 2, &[1.0, 2.0, 3.0, 0.0]);
    let Row::Token { drawn, top } = row else {
        panic!("not finite")
    };
    let total = (1_f32.exp() + 2_f32.exp() + 3_f32.exp() + 1.0).ln();
    assert_eq!(drawn.token, Token(3));
    assert!((drawn.logprob + total).abs() < 1e-5);
    assert_eq!(
        top.iter().map(|entry| entry.token.0).collect::<Vec<_>>(),
        [2, 1]
    );
    assert!((top[0].logprob - (3.0 - total)).abs() < 1e-5);
}

#[test]
fn more_log_probabilities_than_tokens_are_all() {
    let sampling = Sampling {
        logprobs: Some(1000),
        ..Sampling::default()
    };
    let row = sample(&mut sampler(sampling), ID, 2, &[1.0, 2.0]);
    assert!(matches!(row, Row::Token { top, .. } if top.len() == 2));
}

/// Order and formulas of vLLM: bias, repetition on prompt and output, the others on output only.
#[test]
fn penalties_follow_their_formulas() {
    let sampling = Sampling {
        repetition_penalty: Some(2.0),
        frequency_penalty: Some(0.25),
        presence_penalty: Some(0.5),
        logit_bias: vec![(Token(1), 1.0), (Token(4), -1.0)],
        ..Sampling::default()
    };
    let mut sampler = Sampler::default();
    sampler.admit(
        ID,
        &Arc::new(sampling),
        &tokens(&[0, 0, 1]),
        &tokens(&[1, 2, 2]),
    );
    let mut changed = Vec::new();
    let stream = lock(&sampler.streams[&ID]);
    assert!(stream.change(3, &[4.0, 3.0, -1.0, 7.0, 5.0], &mut changed));
    let once = 0.25 + 0.5;
    let twice = 0.5 + 0.5;
    assert_eq!(
        changed,
        [4.0 / 2.0, 4.0 / 2.0 - once, -2.0 - twice, 7.0, 4.0]
    );
}

#[test]
fn stop_tokens_wait_for_min_tokens() {
    let sampling = Sampling {
        stop_tokens: tokens(&[3, 2]),
        min_tokens: 2,
        logit_bias: vec![(Token(3), 100.0)],
        ..Sampling::default()
    };
    let mut sampler = sampler(sampling);
    let logits = [0.0, 1.0, 8.0, 9.0];
    let drawn: Vec<u32> = (2..6)
        .map(|position| drawn(&sample(&mut sampler, ID, position, &logits)))
        .collect();
    assert_eq!(drawn, [1, 1, 3, 3]);
}

#[test]
fn a_mask_holds_for_draws_too() {
    let sampling = Sampling {
        stop_tokens: tokens(&[0]),
        min_tokens: 1000,
        temperature: Some(100.0),
        repetition_penalty: Some(3.0),
        ..Sampling::default()
    };
    let mut sampler = sampler(sampling);
    for position in 2..500 {
        assert_ne!(
            drawn(&sample(&mut sampler, ID, position, &[50.0, 1.0, 1.0])),
            0
        );
    }
}

fn generate(sampler: &mut Sampler, id: RequestId, positions: std::ops::Range<u32>) -> Vec<u32> {
    positions
        .map(|position| drawn(&sample(sampler, id, position, &logits(position))))
        .collect()
}

#[test]
fn a_seed_repeats_whatever_else_runs() {
    let alone = generate(&mut sampler(warm(7)), ID, 2..40);
    let mut beside = sampler(warm(7));
    let mut tokens = Vec::new();
    for position in 2..40 {
        let other = RequestId(u64::from(position));
        beside.admit(
            other,
            &Arc::new(warm(u64::from(position))),
            &[Token(5)],
            &[],
        );
        generate(&mut beside, other, 1..4);
        tokens.extend(generate(&mut beside, ID, position..position + 1));
        beside.release(other);
    }
    assert_eq!(alone, tokens);
    assert_ne!(alone, generate(&mut sampler(warm(8)), ID, 2..40));
}

/// Not the number of tokens generated: after a replay the text before may count as prompt.
#[test]
fn the_position_keys_the_draw() {
    let sampling = Arc::new(Sampling {
        temperature: Some(1.0),
        seed: 7,
        ..Sampling::default()
    });
    let mut sampler = Sampler::default();
    let texts = [2, 9].map(|prompt: u64| {
        let id = RequestId(prompt);
        sampler.admit(id, &sampling, &vec![Token(1); prompt as usize], &[]);
        generate(&mut sampler, id, 9..30)
    });
    assert_eq!(texts[0], texts[1]);
}

#[test]
fn a_replay_continues_the_stream() {
    let whole = generate(&mut sampler(warm(7)), ID, 2..40);
    let mut replayed = Sampler::default();
    replayed.admit(
        ID,
        &Arc::new(warm(7)),
        &tokens(&[0, 0]),
        &tokens(&whole[..11]),
    );
    assert_eq!(generate(&mut replayed, ID, 13..40), whole[11..]);
}

/// A row that was computed and thrown away leaves no trace.
#[test]
fn a_discarded_token_is_forgotten() {
    let whole = generate(&mut sampler(warm(7)), ID, 2..40);
    let mut twice = sampler(warm(7));
    generate(&mut twice, ID, 2..20);
    assert_eq!(generate(&mut twice, ID, 9..40), whole[7..]);
}

#[test]
fn released_requests_hold_nothing() {
    let mut sampler = sampler(warm(1));
    sampler.release(ID);
    sampler.release(ID);
    assert!(sampler.streams.is_empty());
}

#[test]
fn rows_shared_out_over_threads_are_the_same() {
    let admitted = || {
        let mut sampler = Sampler::default();
        for id in 0..20 {
            sampler.admit(RequestId(id), &Arc::new(warm(id)), &[Token(3)], &[]);
        }
        sampler
    };
    let (mut together, mut alone) = (admitted(), admitted());
    let mut compute = Compute::new(3);
    for position in 1..10 {
        let samples: Vec<Sample> = (0..20)
            .map(|id| Sample {
                id: RequestId(id),
                position: position + id as u32,
            })
            .collect();
        let logits: Vec<f32> = samples.iter().flat_map(|s| logits(s.position)).collect();
        let mut rows = Vec::new();
        together.sample(&mut compute, &samples, &logits, &mut rows);
        let single = |s: &Sample| {
            (
                s.id,
                sample(&mut alone, s.id, s.position, &self::logits(s.position)),
            )
        };
        assert_eq!(rows, samples.iter().map(single).collect::<Vec<_>>());
    }
}
