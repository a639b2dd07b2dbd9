//! BERT against transformers: each way of pooling, alone and packed with others.

use engine::executor::{EncodeInput, Encoder, Output, Pooling};
use models::load::{Dtype, Loaded, load};

use crate::reference::{Input, files, inputs, options};

const MEAN: Output = Output::Pooled(Pooling::Mean);

fn encoder(dtype: Option<Dtype>) -> Box<dyn Encoder> {
    match load(&files("bert"), &options(dtype)).unwrap().0 {
        Loaded::Encoder(encoder) => encoder,
        Loaded::Decoder(_) => panic!("a decoder"),
    }
}

fn input(input: &Input, output: Output) -> EncodeInput {
    EncodeInput {
        tokens: input.tokens.as_slice().into(),
        segments: [].into(),
        output,
    }
}

fn unit(vector: &[f32]) -> Vec<f32> {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.iter().map(|x| x / length).collect()
}

fn largest_difference(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    got.iter()
        .zip(want)
        .map(|(got, want)| (got - want).abs())
        .fold(0.0, f32::max)
}

#[test]
fn vectors_match_transformers() {
    let mut encoder = encoder(None);
    for pooling in [Pooling::Cls, Pooling::Mean, Pooling::LastToken] {
        let inputs = inputs("bert");
        let batch: Vec<EncodeInput> = inputs
            .iter()
            .map(|one| input(one, Output::Pooled(pooling)))
            .collect();
        let mut packed = Vec::new();
        encoder.encode(&batch, &mut packed).unwrap();
        for (index, want) in inputs.iter().enumerate() {
            let vector = &packed[index].values;
            let (got, want) = match pooling {
                Pooling::Cls => (unit(vector), &want.cls),
                Pooling::Mean => (unit(vector), &want.mean),
                Pooling::LastToken => (vector.clone(), &want.last),
            };
            let difference = largest_difference(&got, want);
            println!("{pooling:?} {index}: {difference:.1e}");
            assert!(
                difference < 1e-4,
                "{pooling:?} of input {index}: {difference}"
            );

            let mut alone = Vec::new();
            encoder.encode(&batch[index..=index], &mut alone).unwrap();
            assert_eq!(
                alone[0], packed[index],
                "alone and packed give the same bits"
            );
        }
    }
}

/// The second half of each input is of the second type.
#[test]
fn token_types_match_transformers() {
    let mut encoder = encoder(None);
    for one in inputs("bert") {
        let tokens = one.tokens.len();
        let typed = EncodeInput {
            segments: (0..tokens).map(|i| u8::from(i >= tokens / 2)).collect(),
            ..input(&one, MEAN)
        };
        let mut vector = Vec::new();
        encoder.encode(&[typed], &mut vector).unwrap();
        let difference = largest_difference(&unit(&vector[0].values), &one.typed);
        println!("{tokens} tokens: {difference:.1e}");
        assert!(difference < 1e-4, "{tokens} tokens: {difference}");
    }
}

/// Tolerance: 0.02 on vectors of length one, whose elements have a deviation of 0.14.
#[test]
fn vectors_match_transformers_in_bf16() {
    let mut encoder = encoder(Some(Dtype::Bf16));
    for one in inputs("bert") {
        let mut vector = Vec::new();
        encoder.encode(&[input(&one, MEAN)], &mut vector).unwrap();
        let difference = largest_difference(&unit(&vector[0].values), &one.mean);
        println!("{} tokens: {difference:.1e}", one.tokens.len());
        assert!((1e-6..0.02).contains(&difference), "{difference}");
    }
}
