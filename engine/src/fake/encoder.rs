//! The fake encoder.

use scheduler::request::Token;

use super::{FakeDevice, Place, scramble};
use crate::executor::{EncodeInput, Encoder, ExecutorError, Progress};

/// An encoder whose vectors are a pure function of the input's tokens. A batch is a step.
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
    fn width(&self) -> u32 {
        self.device.shared.config.width
    }

    fn report_to(&mut self, progress: Progress) {
        self.device.script().progress = progress;
    }

    fn encode(
        &mut self,
        inputs: &[EncodeInput],
        vectors: &mut Vec<f32>,
    ) -> Result<(), ExecutorError> {
        let step = self.device.launch();
        let bad = self.device.finish(step)?;
        let mut texts = inputs.iter().map(|input| &input.tokens);
        if texts.any(|tokens| self.device.is_poison(Place::Wait, tokens)) {
            return Err(ExecutorError::Failed("poisoned".to_owned()));
        }
        for (index, input) in inputs.iter().enumerate() {
            let start = vectors.len();
            vectors.extend(vector(&input.tokens, self.width()));
            if bad == Some(index) {
                vectors[start] = f32::NAN;
            }
        }
        Ok(())
    }
}

impl Drop for FakeEncoder {
    fn drop(&mut self) {
        self.device.end();
    }
}

/// Values in -1..1.
pub(super) fn vector(tokens: &[Token], width: u32) -> impl Iterator<Item = f32> {
    let text = tokens
        .iter()
        .fold(1, |hash: u64, token| scramble(hash ^ u64::from(token.0)));
    (0..u64::from(width)).map(move |place| {
        let bits = scramble(text.wrapping_add(place)) >> 40;
        bits as f32 / (1_u32 << 23) as f32 - 1.0
    })
}
