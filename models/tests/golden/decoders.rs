//! Every decoder family: logits, greedy continuations, and the same bits in every mode.

use engine::executor::Row;
use engine::sampling::Sampling;
use models::files::ModelFiles;
use models::load::{Dtype, LoadFormat, LoadOptions, Threads};
use scheduler::request::Token;

use crate::drive::{Driver, Sequence};
use crate::reference::{Prompt, files, options, prompts};

/// Cases and the dtype to compute them in; all of these compute in f32.
const F32: &[(&str, Option<Dtype>)] = &[
    ("llama2", None),
    ("llama3", None),
    ("llama3_bf16", Some(Dtype::F32)),
    ("mistral", None),
    ("mistral_f16", None),
    ("qwen2", None),
    ("qwen2_bf16", Some(Dtype::F32)),
    ("qwen3", None),
    ("llama_sharded", None),
];
/// Cases to compute in bf16.
const BF16: &[&str] = &["llama3_bf16", "qwen2_bf16"];
/// Greedy, with every log probability there is.
const VOCAB_MAX: u32 = 263;

fn greedy() -> Sampling {
    Sampling {
        logprobs: Some(VOCAB_MAX),
        ..Sampling::default()
    }
}

/// A row of logits with mean 0, in the order of the vocabulary.
fn logits(row: &Row) -> Vec<f32> {
    let Row::Token { top, .. } = row else {
        panic!("not finite")
    };
    let mut logits = vec![0.0; top.len()];
    for entry in top {
        logits[entry.token.0 as usize] = entry.logprob;
    }
    centred(&logits)
}

fn centred(logits: &[f32]) -> Vec<f32> {
    let mean = logits.iter().sum::<f32>() / logits.len() as f32;
    logits.iter().map(|logit| logit - mean).collect()
}

/// Largest and mean absolute difference, and the largest absolute reference value.
fn distance(got: &[f32], want: &[f32]) -> (f32, f32, f32) {
    assert_eq!(got.len(), want.len());
    let differences = || got.iter().zip(want).map(|(got, want)| (got - want).abs());
    let largest = |values: &mut dyn Iterator<Item = f32>| values.fold(0.0, f32::max);
    (
        largest(&mut differences()),
        differences().sum::<f32>() / got.len() as f32,
        largest(&mut want.iter().map(|want| want.abs())),
    )
}

/// Each stored position's logits, the prompt up to it computed as one chunk.
fn check_logits(driver: &mut Driver, prompt: &Prompt, check: &mut dyn FnMut((f32, f32, f32))) {
    for (position, want) in &prompt.logits {
        let mut sequence = driver.admit(&prompt.tokens[..=*position], &greedy());
        driver.generate(&mut sequence, 1, &[usize::MAX]);
        check(distance(&logits(&sequence.rows[0]), &centred(want)));
    }
}

fn continued(driver: &mut Driver, prompt: &Prompt, sizes: &[usize]) -> Sequence {
    let mut sequence = driver.admit(&prompt.tokens, &greedy());
    driver.generate(&mut sequence, prompt.greedy.len(), sizes);
    sequence
}

/// Tolerance: max |got - want| <= 1e-4 max |want| in each row of centred logits.
#[test]
fn logits_match_transformers_in_f32() {
    for (case, dtype) in F32 {
        let mut worst = 0.0_f32;
        for prompt in prompts(case) {
            let mut driver = Driver::new(&files(case), &options(*dtype));
            check_logits(&mut driver, &prompt, &mut |(largest, _, scale)| {
                worst = worst.max(largest / scale);
            });
        }
        println!("{case}: {worst:.1e}");
        assert!(worst < 1e-4, "{case}: {worst}");
    }
}

/// Tolerance: max |got - want| < 0.4 and mean < 0.05, where logits have a deviation of 1 to 1.6.
#[test]
fn logits_match_transformers_in_bf16() {
    for case in BF16 {
        let (mut worst, mut worst_mean) = (0.0_f32, 0.0_f32);
        for prompt in prompts(case) {
            let mut driver = Driver::new(&files(case), &options(None));
            check_logits(&mut driver, &prompt, &mut |(largest, mean, _)| {
                worst = worst.max(largest);
                worst_mean = worst_mean.max(mean);
            });
        }
        println!("{case}: {worst} {worst_mean}");
        assert!(
            worst < 0.4 && worst_mean < 0.05,
            "{case}: {worst} {worst_mean}"
        );
    }
}

#[test]
fn greedy_continuations_match_token_for_token() {
    for (case, dtype) in F32 {
        let mut driver = Driver::new(&files(case), &options(*dtype));
        for prompt in prompts(case) {
            let sequence = continued(&mut driver, &prompt, &[usize::MAX]);
            assert_eq!(sequence.generated(), prompt.greedy, "{case}");
        }
    }
}

/// Runs `check` for every case, f32 and bf16, with each prompt and its plain continuation.
fn in_every_case(check: &mut dyn FnMut(&mut Driver, &Prompt, &Sequence)) {
    let bf16 = BF16.iter().map(|case| (*case, None));
    for (case, dtype) in F32.iter().copied().chain(bf16) {
        for prompt in prompts(case) {
            let mut options = options(dtype);
            options.kv_cache_bytes *= 2;
            let mut driver = Driver::new(&files(case), &options);
            let plain = continued(&mut driver, &prompt, &[usize::MAX]);
            println!("{case}, {} tokens", prompt.tokens.len());
            check(&mut driver, &prompt, &plain);
        }
    }
}

#[test]
fn chunks_change_no_bit() {
    in_every_case(&mut |driver, prompt, plain| {
        for sizes in [&[1][..], &[7, 3, 13], &[16, 17]] {
            let chunked = continued(driver, prompt, sizes);
            assert_eq!(chunked.bits(), plain.bits(), "{sizes:?}");
        }
    });
}

#[test]
fn a_prefix_hit_changes_no_bit() {
    in_every_case(&mut |driver, prompt, plain| {
        let blocks = (prompt.tokens.len() - 1) / 16;
        let mut sharing = driver.admit(&prompt.tokens, &greedy());
        sharing.table = plain.table[..blocks].to_vec();
        sharing.computed = blocks * 16;
        driver.generate(&mut sharing, prompt.greedy.len(), &[5]);
        assert_eq!(sharing.bits(), plain.bits());
    });
}

#[test]
fn preemption_changes_no_bit() {
    in_every_case(&mut |driver, prompt, plain| {
        let mut preempted = driver.admit(&prompt.tokens, &greedy());
        for (count, sizes) in [
            (3, &[usize::MAX][..]),
            (11, &[19]),
            (prompt.greedy.len(), &[9, 4]),
        ] {
            driver.generate(&mut preempted, count, sizes);
            preempted.preempt();
        }
        assert_eq!(preempted.bits(), plain.bits());
    });
}

/// A network of random weights, from its configuration alone, with longer steps than the committed
/// ones have positions for.
fn dummy(dtype: Dtype, threads: usize) -> Driver {
    let config: &[u8] = br#"{"architectures": ["LlamaForCausalLM"], "hidden_size": 32,
        "intermediate_size": 48, "max_position_embeddings": 1024, "num_attention_heads": 4,
        "num_hidden_layers": 2, "num_key_value_heads": 2, "vocab_size": 256}"#;
    let files = ModelFiles::Embedded(Vec::leak(vec![("config.json", config)]));
    let options = LoadOptions {
        format: LoadFormat::Dummy,
        kv_cache_bytes: 32 << 20,
        running_max: 70,
        step_tokens_max: 1024,
        threads: Threads::new(threads),
        ..options(Some(dtype))
    };
    Driver::new(&files, &options)
}

fn made_up(count: u32, seed: u32) -> Vec<Token> {
    (0..count)
        .map(|token| Token((token * 37 + seed * 11) % 256))
        .collect()
}

/// The MLP takes long steps in pieces.
#[test]
fn long_steps_change_no_bit() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let mut driver = dummy(dtype, 2);
        let mut generated = |sizes: &[usize]| {
            let mut sequence = driver.admit(&made_up(700, 3), &greedy());
            driver.generate(&mut sequence, 3, sizes);
            sequence.bits()
        };
        let plain = generated(&[usize::MAX]);
        for sizes in [&[513][..], &[100], &[512, 1]] {
            assert_eq!(generated(sizes), plain, "{dtype:?} {sizes:?}");
        }
    }
}

/// More sequences sample in a step than the head computes at once.
#[test]
fn seventy_streams_sample_in_one_step() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let mut driver = dummy(dtype, 2);
        let sampling = |seed: u32| Sampling {
            temperature: Some(1.0),
            seed: u64::from(seed),
            ..greedy()
        };
        let prompt = |seed: u32| made_up(2 + seed % 5, seed);
        let mut streams: Vec<Sequence> = (0..70)
            .map(|seed| driver.admit(&prompt(seed), &sampling(seed)))
            .collect();
        for _ in 0..2 {
            let mut work: Vec<_> = streams
                .iter_mut()
                .map(|stream| {
                    let size = stream.next(usize::MAX);
                    (stream, size)
                })
                .collect();
            driver.step(&mut work);
        }
        for (seed, stream) in (0..).zip(&streams) {
            let mut alone = driver.admit(&prompt(seed), &sampling(seed));
            driver.generate(&mut alone, 2, &[usize::MAX]);
            assert_eq!(alone.bits(), stream.bits(), "{dtype:?} {seed}");
        }
    }
}

/// After the first steps every buffer has its size, until a sequence gets another block. One
/// thread, because with more it depends on chance which of them draws for whom.
#[test]
fn a_steady_decode_asks_for_no_memory() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let mut driver = dummy(dtype, 1);
        let sampling = Sampling {
            temperature: Some(0.8),
            top_p: Some(0.9),
            ..Sampling::default()
        };
        let mut streams: Vec<Sequence> = (0..8)
            .map(|seed| driver.admit(&made_up(20, seed), &sampling))
            .collect();
        // The prompts, then decodes up to the end of the second block.
        let counts = driver.allocations(&mut streams, 12);
        assert_eq!(counts[2..], [0; 10], "{dtype:?}: {counts:?}");
    }
}

/// Strangers come and go, decode and are computed in chunks in the same steps.
#[test]
fn strangers_change_no_bit() {
    in_every_case(&mut |driver, prompt, plain| {
        let stranger = |index: u32| -> Vec<Token> {
            (0..20 + 9 * index)
                .map(|token| Token((token * 37 + index * 11) % 256))
                .collect()
        };
        let mut strangers: Vec<Sequence> = (0..4)
            .map(|index| driver.admit(&stranger(index), &Sampling::default()))
            .collect();
        let mut sequence = driver.admit(&prompt.tokens, &greedy());
        let mut step = 0;
        while sequence.rows.len() < prompt.greedy.len() {
            step += 1;
            let mut work: Vec<(&mut Sequence, usize)> = Vec::new();
            for (index, stranger) in strangers.iter_mut().enumerate() {
                if (step + index) % 3 > 0 {
                    let size = stranger.next(1 + (step * 5 + index) % 11);
                    work.push((stranger, size));
                }
            }
            let size = sequence.next(23);
            work.insert(step % (work.len() + 1), (&mut sequence, size));
            driver.step(&mut work);
        }
        assert_eq!(sequence.bits(), plain.bits());
    });
}
