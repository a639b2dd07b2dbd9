//! Encoders against transformers: each output, alone and packed with others.

use engine::executor::{EncodeInput, Encoded, Encoder, Output, Pooling};
use models::load::{
    ClassifyInfo, Dtype, EmbeddingInfo, LoadOptions, Loaded, ModelInfo, Problem, Task, Wanted,
    info, load,
};

use scheduler::request::Token;

use crate::reference::{Input, files, inputs, options};

/// Each way of pooling of BERT; of the others the tokens' vectors, of which pooling is made.
const VECTORS: &[&str] = &[
    "bert",
    "bert_dense",
    "distilbert",
    "gte",
    "jina",
    "mistral_embedder",
    "modernbert",
    "mpnet",
    "nomic",
    "qwen2_embedder",
    "qwen3_embedder",
    "xlm_roberta",
];
const CLASSIFIERS: &[&str] = &[
    "bert_classifier",
    "distilbert_classifier",
    "gte_classifier",
    "modernbert_classifier",
    "mpnet_classifier",
    "roberta_classifier_bf16",
    "xlm_roberta_reranker",
];
const SPARSE: &[&str] = &[
    "bert_splade",
    "camembert_splade",
    "distilbert_splade",
    "modernbert_splade",
    "mpnet_splade",
];

const MEAN: Output = Output::Pooled(Pooling::Mean);

/// Always in f32, if nothing else is said: one case is stored in bf16.
fn encoder(case: &str, dtype: Dtype) -> Box<dyn Encoder> {
    match load(&files(case), &options(Some(dtype))).unwrap().0 {
        Loaded::Encoder(encoder) => encoder,
        Loaded::Decoder(_) => panic!("a decoder"),
    }
}

fn described(case: &str) -> ModelInfo {
    info(&files(case), &options(None)).unwrap()
}

fn input(input: &Input, output: Output) -> EncodeInput {
    EncodeInput {
        tokens: input.tokens.as_slice().into(),
        segments: [].into(),
        output,
    }
}

/// The second half is of the second type.
fn typed(one: &Input, output: Output) -> EncodeInput {
    let tokens = one.tokens.len();
    EncodeInput {
        segments: (0..tokens).map(|i| u8::from(i >= tokens / 2)).collect(),
        ..input(one, output)
    }
}

fn encode(encoder: &mut dyn Encoder, inputs: &[EncodeInput]) -> Vec<Encoded> {
    let mut encoded = Vec::new();
    encoder.encode(inputs, &mut encoded).unwrap();
    encoded
}

fn unit(vector: &[f32]) -> Vec<f32> {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.iter().map(|x| x / length).collect()
}

/// All places of a sparse vector.
fn spread(sparse: &Encoded) -> Vec<f32> {
    let mut all = vec![0.0; sparse.width as usize];
    for (place, value) in sparse.sparse() {
        all[place as usize] = value;
    }
    all
}

fn largest_difference(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    got.iter()
        .zip(want)
        .map(|(got, want)| (got - want).abs())
        .fold(0.0, f32::max)
}

/// What a case gives of each of its inputs, all of them in one batch with vectors of tokens asked
/// for beside them; each has the bits that it has alone.
fn results(case: &str, dtype: Dtype, output: Output) -> Vec<(Input, Encoded)> {
    let mut encoder = encoder(case, dtype);
    let inputs = inputs(case);
    let batch: Vec<_> = inputs
        .iter()
        .flat_map(|one| [input(one, output), input(one, Output::Tokens)])
        .collect();
    let packed = encode(encoder.as_mut(), &batch);
    for (one, packed) in batch.iter().zip(&packed) {
        let alone = encode(encoder.as_mut(), std::slice::from_ref(one));
        assert_eq!(&alone[0], packed, "{case}: alone and packed differ");
    }
    inputs
        .into_iter()
        .zip(packed.into_iter().step_by(2))
        .collect()
}

/// That all differences are below the tolerance, and in bf16 that there are any.
fn check(what: &str, dtype: Dtype, difference: f32, tolerance: f32) {
    println!("{what} {dtype:?}: {difference:.1e}");
    let least = if dtype == Dtype::F32 { 0.0 } else { 1e-6 };
    assert!(
        (least..tolerance).contains(&difference),
        "{what} in {dtype:?}: {difference}"
    );
}

#[test]
fn vectors_match_transformers() {
    for pooling in [Pooling::Cls, Pooling::Mean, Pooling::LastToken] {
        for (one, encoded) in results("bert", Dtype::F32, Output::Pooled(pooling)) {
            let vector = &encoded.values;
            let (got, want) = match pooling {
                Pooling::Cls => (unit(vector), one.result("cls")),
                Pooling::Mean => (unit(vector), one.result("mean")),
                Pooling::LastToken => {
                    let hidden = one.result("hidden");
                    (vector.clone(), &hidden[hidden.len() - vector.len()..])
                }
            };
            let difference = largest_difference(&got, want);
            check(&format!("bert {pooling:?}"), Dtype::F32, difference, 1e-4);
        }
    }
}

/// Token vectors are asked of every encoder, whatever its head. In bf16 each value has a deviation
/// of about 1.
#[test]
fn token_vectors_match_transformers() {
    for case in [VECTORS, CLASSIFIERS, SPARSE].concat() {
        for (dtype, tolerance) in [(Dtype::F32, 1e-4), (Dtype::Bf16, BF16_TOLERANCE)] {
            let mut largest = 0.0_f32;
            for (one, encoded) in results(case, dtype, Output::Tokens) {
                assert_eq!(encoded.rows().len(), one.tokens.len());
                let difference = largest_difference(&encoded.values, one.result("hidden"));
                largest = largest.max(difference);
            }
            check(case, dtype, largest, tolerance);
        }
    }
}

#[test]
fn scores_match_transformers() {
    for case in CLASSIFIERS {
        for (dtype, tolerance) in [(Dtype::F32, 1e-4), (Dtype::Bf16, BF16_TOLERANCE)] {
            let mut largest = 0.0_f32;
            for (one, encoded) in results(case, dtype, Output::Scores) {
                let difference = largest_difference(&encoded.values, one.result("scores"));
                largest = largest.max(difference);
            }
            check(case, dtype, largest, tolerance);
        }
    }
}

#[test]
fn weights_of_words_match_transformers() {
    for case in SPARSE {
        for (dtype, tolerance) in [(Dtype::F32, 1e-4), (Dtype::Bf16, BF16_TOLERANCE)] {
            let mut largest = 0.0_f32;
            for (one, encoded) in results(case, dtype, Output::Sparse) {
                assert_eq!(encoded.width, 128);
                assert!(encoded.places.len() < 128, "nothing is sparse about it");
                let difference = largest_difference(&spread(&encoded), one.result("weights"));
                largest = largest.max(difference);
            }
            check(case, dtype, largest, tolerance);
        }
    }
}

/// From one token to as many as there are positions, and the same twice.
#[test]
fn inputs_may_be_as_short_and_as_long_as_the_network_knows() {
    for case in [VECTORS, CLASSIFIERS, SPARSE].concat() {
        let longest = described(case).context_max;
        let mut encoder = encoder(case, Dtype::F32);
        let of = |tokens: u32| EncodeInput {
            tokens: (0..tokens).map(|token| Token(3 + token % 100)).collect(),
            segments: [].into(),
            output: Output::Tokens,
        };
        let batch = [of(longest), of(1), of(longest)];
        let encoded = encode(encoder.as_mut(), &batch);
        assert_eq!(encoded[0], encoded[2], "{case}");
        for (input, encoded) in batch.iter().zip(&encoded) {
            assert_eq!(encoded.rows().len(), input.tokens.len(), "{case}");
            assert!(encoded.values.iter().all(|x| x.is_finite()), "{case}");
        }
    }
}

/// The second half of each input is of the second type.
#[test]
fn token_types_match_transformers() {
    for (case, output) in [("bert", MEAN), ("bert_classifier", Output::Scores)] {
        let mut encoder = encoder(case, Dtype::F32);
        for one in inputs(case) {
            let values = &encode(encoder.as_mut(), &[typed(&one, output)])[0].values;
            let got = if output == MEAN {
                unit(values)
            } else {
                values.clone()
            };
            let difference = largest_difference(&got, one.result("typed"));
            check(&format!("{case} typed"), Dtype::F32, difference, 1e-4);
            let plain = &encode(encoder.as_mut(), &[input(&one, output)])[0].values;
            assert!(largest_difference(plain, values) > 1e-3, "types count");
        }
    }
}

/// Tolerance: 0.02 on vectors of length one, whose elements have a deviation of 0.14.
#[test]
fn vectors_match_transformers_in_bf16() {
    for (one, encoded) in results("bert", Dtype::Bf16, MEAN) {
        let difference = largest_difference(&unit(&encoded.values), one.result("mean"));
        check("bert mean", Dtype::Bf16, difference, 0.02);
    }
}

/// After pooling come the Dense modules, which have files of their own.
#[test]
fn dense_modules_are_part_of_pooling() {
    for (dtype, tolerance) in [(Dtype::F32, 1e-4), (Dtype::Bf16, BF16_TOLERANCE)] {
        for (one, encoded) in results("bert_dense", dtype, MEAN) {
            let difference = largest_difference(&encoded.values, one.result("dense"));
            check("bert_dense", dtype, difference, tolerance);
        }
    }
    let vectors = EmbeddingInfo {
        pooling: Pooling::Mean,
        normalize: true,
        width: 24,
    };
    let (dense, splade) = (described("bert_dense"), described("bert_splade"));
    assert_eq!(dense.task, Task::Embed(vectors));
    assert_eq!(dense.hidden, 32);
    // The module on one side, the head's transform and biases on the other.
    assert_eq!(
        dense.parameters - (24 * 32 + 24),
        splade.parameters - (32 * 32 + 3 * 32 + 128)
    );
}

/// A decoder's network makes vectors where files of sentence-transformers stand beside it, or where it
/// has no head.
#[test]
fn decoders_without_a_use_for_their_head_embed() {
    for case in ["mistral_embedder", "qwen2_embedder", "qwen3_embedder"] {
        let vectors = EmbeddingInfo {
            pooling: Pooling::LastToken,
            normalize: true,
            width: 32,
        };
        let info = described(case);
        assert_eq!(info.task, Task::Embed(vectors), "{case}");
        assert_eq!((info.kv_bytes_per_token, info.context_max), (0, 64));
    }
}

/// What is asked for goes before what the files say.
#[test]
fn another_output_may_be_wanted_than_the_files_say() {
    let described = |case: &str, wanted| {
        let options = LoadOptions {
            wanted: Some(wanted),
            ..options(None)
        };
        info(&files(case), &options)
    };
    let vector = |pooling, normalize, width| {
        Task::Embed(EmbeddingInfo {
            pooling,
            normalize,
            width,
        })
    };
    let cls = Wanted::Vector(Pooling::Cls);
    // The head of a masked language model is left away, and taken where nothing else is known.
    let words = described("bert_splade", cls).unwrap();
    assert_eq!(words.task, vector(Pooling::Cls, false, 32));
    assert!(words.parameters < described("bert_splade", Wanted::Words).unwrap().parameters);
    assert_eq!(
        described("bert_dense", cls).unwrap().task,
        vector(Pooling::Cls, true, 24)
    );
    let refusal = described("bert_dense", Wanted::Words).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "not supported: weights of words (SPLADE) of a network without the head of a masked \
         language model"
    );
    let classes = described("bert_classifier", Wanted::Words).unwrap().task;
    assert!(
        matches!(classes, Task::Classify(_)),
        "a classifier stays one"
    );
    let options = LoadOptions {
        wanted: Some(cls),
        ..options(Some(Dtype::F32))
    };
    let Loaded::Encoder(mut encoder) = load(&files("bert_splade"), &options).unwrap().0 else {
        panic!("a decoder")
    };
    for one in inputs("bert_splade") {
        let got = &encode(
            encoder.as_mut(),
            &[input(&one, Output::Pooled(Pooling::Cls))],
        )[0];
        let want = &one.result("hidden")[..32];
        check(
            "bert_splade as vectors",
            Dtype::F32,
            largest_difference(&got.values, want),
            1e-4,
        );
    }
}

#[test]
fn files_say_what_an_encoder_is_for() {
    for case in SPARSE {
        assert_eq!(described(case).task, Task::Sparse, "{case}");
    }
    let classify = |labels: &[&str], problem| {
        Task::Classify(ClassifyInfo {
            labels: labels.iter().map(|&label| label.to_owned()).collect(),
            problem,
        })
    };
    let moods = ["sad", "calm", "merry"];
    assert_eq!(described("bert_classifier").task, classify(&moods, None));
    assert_eq!(
        described("roberta_classifier_bf16").task,
        classify(&moods, Some(Problem::MultiLabel))
    );
    assert_eq!(
        described("xlm_roberta_reranker").task,
        classify(&["LABEL_0"], None)
    );
    // Two of RoBERTa's rows are padding's.
    assert_eq!(described("xlm_roberta").context_max, 62);
    assert_eq!(described("bert_classifier").context_max, 64);
}

/// Values have a deviation of about 1, and bf16 eight bits.
const BF16_TOLERANCE: f32 = 0.1;
