//! The fake encoder.

use std::collections::BTreeSet;

use scheduler::request::Token;

use super::{FakeConfig, FakeDevice, Place, scramble};
use crate::executor::{EncodeInput, Encoded, Encoder, ExecutorError, Output, Progress};

/// An encoder whose results are a pure function of the input. A batch is a step.
#[derive(Debug)]
pub struct FakeEncoder {
    device: FakeDevice,
}

impl FakeEncoder {
    pub(super) fn new(device: FakeDevice) -> Self {
        Self { device }
    }
}

impl Encoder for FakeEncoder {
    fn report_to(&mut self, progress: Progress) {
        self.device.script().progress = progress;
    }

    fn encode(
        &mut self,
        inputs: &[EncodeInput],
        encoded: &mut Vec<Encoded>,
    ) -> Result<(), ExecutorError> {
        let step = self.device.launch();
        let bad = self.device.finish(step)?;
        let mut texts = inputs.iter().map(|input| &input.tokens);
        if texts.any(|tokens| self.device.is_poison(Place::Wait, tokens)) {
            return Err(ExecutorError::Failed("poisoned".to_owned()));
        }
        for (index, input) in inputs.iter().enumerate() {
            let mut result = expected(input, &self.device.shared.config);
            if bad == Some(index)
                && let Some(value) = result.values.first_mut()
            {
                *value = f32::NAN;
            }
            encoded.push(result);
        }
        Ok(())
    }
}

impl Drop for FakeEncoder {
    fn drop(&mut self) {
        self.device.end();
    }
}

/// What this input gives, alone or in company.
pub(super) fn expected(input: &EncodeInput, config: &FakeConfig) -> Encoded {
    let (tokens, width) = (&input.tokens, config.width);
    match input.output {
        Output::Pooled(_) => Encoded {
            values: vector(tokens, width).collect(),
            width,
            places: Vec::new(),
        },
        // The last is the vector of the whole.
        Output::Tokens => Encoded {
            values: (1..=tokens.len())
                .flat_map(|end| vector(&tokens[..end], width))
                .collect(),
            width,
            places: Vec::new(),
        },
        Output::Scores => Encoded {
            values: scores(input, width).collect(),
            width,
            places: Vec::new(),
        },
        Output::Sparse => {
            let words: BTreeSet<u32> = tokens.iter().map(|token| token.0).collect();
            Encoded {
                // In 1/256..=1.
                values: words
                    .iter()
                    .map(|&word| ((scramble(u64::from(word)) & 255) + 1) as f32 / 256.0)
                    .collect(),
                width: words
                    .last()
                    .map_or(0, |&last| last + 1)
                    .max(config.vocabulary.end),
                places: words.into_iter().collect(),
            }
        }
    }
}

/// Values in -1..1.
pub(super) fn vector(tokens: &[Token], width: u32) -> impl Iterator<Item = f32> {
    let text = tokens
        .iter()
        .fold(1, |hash: u64, token| scramble(hash ^ u64::from(token.0)));
    spread(text, width)
}

/// Values in -8..8, of tokens and segments.
fn scores(input: &EncodeInput, width: u32) -> impl Iterator<Item = f32> {
    let segments = input.segments.iter().map(|&segment| u64::from(segment));
    let tokens = input.tokens.iter().map(|token| u64::from(token.0));
    let typed = tokens.zip(segments.chain(std::iter::repeat(0)));
    let text = typed.fold(2, |hash: u64, (token, segment)| {
        scramble(hash ^ token ^ segment << 32)
    });
    spread(text, width).map(|value| value * 8.0)
}

fn spread(text: u64, width: u32) -> impl Iterator<Item = f32> {
    (0..u64::from(width)).map(move |place| {
        let bits = scramble(text.wrapping_add(place)) >> 40;
        bits as f32 / (1_u32 << 23) as f32 - 1.0
    })
}
