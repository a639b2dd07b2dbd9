//! BERT against transformers: each way of pooling, alone and packed with others.

use engine::executor::{EncodeInput, Encoder, Pooling};
use models::load::{Loaded, load};

use crate::reference::{Input, files, inputs, options};

fn encoder() -> Box<dyn Encoder> {
    match load(&files("bert"), &options(None)).unwrap().0 {
        Loaded::Encoder(encoder) => encoder,
        Loaded::Decoder(_) => panic!("a decoder"),
    }
}

fn input(input: &Input, pooling: Pooling) -> EncodeInput {
    EncodeInput {
        tokens: input.tokens.as_slice().into(),
        segments: [].into(),
        pooling,
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
    let mut encoder = encoder();
    let width = encoder.width() as usize;
    for pooling in [Pooling::Cls, Pooling::Mean, Pooling::LastToken] {
        let inputs = inputs("bert");
        let batch: Vec<EncodeInput> = inputs.iter().map(|one| input(one, pooling)).collect();
        let mut packed = Vec::new();
        encoder.encode(&batch, &mut packed).unwrap();
        for (index, want) in inputs.iter().enumerate() {
            let vector = &packed[index * width..(index + 1) * width];
            let (got, want) = match pooling {
                Pooling::Cls => (unit(vector), &want.cls),
                Pooling::Mean => (unit(vector), &want.mean),
                Pooling::LastToken => (vector.to_vec(), &want.last),
            };
            let difference = largest_difference(&got, want);
            println!("{pooling:?} {index}: {difference:.1e}");
            assert!(
                difference < 1e-4,
                "{pooling:?} of input {index}: {difference}"
            );

            let mut alone = Vec::new();
            encoder.encode(&batch[index..=index], &mut alone).unwrap();
            assert_eq!(alone, vector, "alone and packed give the same bits");
        }
    }
}
