//! Where a network's parts come from: checkpoint or random numbers, packed in one dtype.

use half::bf16;
use kernels::embedding::Embedding;
use kernels::linear::{Linear, LinearShape};

use crate::load::{Dtype, LoadError};
use crate::random::SplitMix;
use crate::weights::Weights;

/// Packs tensors into the parts of a network. Tensors were checked before: a name or shape that
/// does not fit is a mistake of ours.
#[derive(Debug)]
pub(crate) struct Source {
    values: Values,
    store: Store,
    // Reused from part to part.
    f32s: Vec<f32>,
    bf16s: Vec<bf16>,
}

/// Real or made up.
#[derive(Debug)]
pub(crate) enum Values {
    /// A checkpoint's.
    Weights(Weights),
    /// Random, from a fixed seed: norms are 1, biases 0, all else uniform.
    Dummy,
}

/// What matrices are kept in. Vectors are always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    /// 32 bits.
    F32,
    /// 16 bits.
    Bf16,
}

impl From<Dtype> for Store {
    /// f16 is kept as f32: few CPUs compute in it, and bf16 would lose bits.
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 | Dtype::F16 => Self::F32,
            Dtype::Bf16 => Self::Bf16,
        }
    }
}

/// One tensor, or a part of a fused one.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// The name without `.weight` and `.bias`.
    pub(crate) name: String,
    /// Rows.
    pub(crate) outputs: usize,
}

impl Source {
    /// Packs `values` into `store`.
    pub(crate) fn new(values: Values, store: Store) -> Self {
        Self {
            values,
            store,
            f32s: Vec::new(),
            bf16s: Vec::new(),
        }
    }

    /// A linear layer whose rows are those of `parts`, one after the other.
    pub(crate) fn linear(
        &mut self,
        parts: &[Part],
        inputs: usize,
        bias: bool,
    ) -> Result<Linear, LoadError> {
        let shape = LinearShape {
            outputs: parts.iter().map(|part| part.outputs).sum(),
            inputs,
        };
        let mut biases = Vec::new();
        if bias {
            for part in parts {
                self.shift(&format!("{}.bias", part.name), part.outputs, &mut biases)?;
            }
        }
        let bias = bias.then_some(biases.as_slice());
        self.fill(
            parts
                .iter()
                .map(|part| (format!("{}.weight", part.name), part.outputs * inputs)),
        )?;
        Ok(match self.store {
            Store::F32 => Linear::from_f32(shape, &self.f32s, bias),
            Store::Bf16 => Linear::from_bf16(shape, &self.bf16s, bias),
        })
    }

    /// A table of `rows` vectors of `width`.
    pub(crate) fn embedding(
        &mut self,
        name: &str,
        rows: usize,
        width: usize,
    ) -> Result<Embedding, LoadError> {
        self.fill(std::iter::once((name.to_owned(), rows * width)))?;
        Ok(match self.store {
            Store::F32 => Embedding::from_f32(width, &self.f32s),
            Store::Bf16 => Embedding::from_bf16(width, &self.bf16s),
        })
    }

    /// A vector that multiplies, in f32; a dummy's is all ones.
    pub(crate) fn scale(&mut self, name: &str, width: usize) -> Result<Vec<f32>, LoadError> {
        let mut values = Vec::with_capacity(width);
        match &self.values {
            Values::Weights(weights) => weights.append_f32(name, &mut values)?,
            Values::Dummy => values.resize(width, 1.0),
        }
        Ok(values)
    }

    /// Appends a vector that is added, in f32; a dummy's is all zeros.
    pub(crate) fn shift(
        &mut self,
        name: &str,
        width: usize,
        out: &mut Vec<f32>,
    ) -> Result<(), LoadError> {
        match &self.values {
            Values::Weights(weights) => weights.append_f32(name, out)?,
            Values::Dummy => out.resize(out.len() + width, 0.0),
        }
        Ok(())
    }

    /// Fills the buffer of the store with tensors and the number of values each has.
    fn fill(&mut self, tensors: impl Iterator<Item = (String, usize)>) -> Result<(), LoadError> {
        self.f32s.clear();
        self.bf16s.clear();
        for (name, values) in tensors {
            match (&self.values, self.store) {
                (Values::Weights(weights), Store::F32) => {
                    weights.append_f32(&name, &mut self.f32s)?;
                }
                (Values::Weights(weights), Store::Bf16) => {
                    weights.append_bf16(&name, &mut self.bf16s)?;
                }
                (Values::Dummy, Store::F32) => self.f32s.extend(random(&name, values)),
                (Values::Dummy, Store::Bf16) => {
                    self.bf16s.extend(random(&name, values).map(bf16::from_f32));
                }
            }
        }
        Ok(())
    }
}

/// `count` values of deviation [`DUMMY_DEVIATION`], the same for the same name.
fn random(name: &str, count: usize) -> impl Iterator<Item = f32> {
    let seed = name.bytes().fold(FNV_START, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(FNV)
    });
    let mut numbers = SplitMix::new(seed);
    // A uniform number in -a..a has deviation a / sqrt(3); an i16 reaches to 2^15.
    let unit = DUMMY_DEVIATION * 3.0_f32.sqrt() / 32768.0;
    let groups = std::iter::repeat_with(move || {
        let bits = numbers.next();
        [0, 16, 32, 48].map(|shift| f32::from((bits >> shift) as u16 as i16) * unit)
    });
    groups.flatten().take(count)
}

/// 0.02: what most families initialise with; logits of a few units follow.
const DUMMY_DEVIATION: f32 = 0.02;
// The 64-bit FNV-1a hash.
const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;
const FNV: u64 = 0x0100_0000_01b3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dummy_values_have_the_deviation_and_repeat() {
        let values: Vec<f32> = random("model.norm.weight", 100_000).collect();
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let square = values.iter().map(|x| x * x).sum::<f32>() / values.len() as f32;
        assert!(mean.abs() < 3e-4, "{mean}");
        assert!((square.sqrt() - DUMMY_DEVIATION).abs() < 2e-4, "{square}");
        assert_eq!(
            values,
            random("model.norm.weight", 100_000).collect::<Vec<_>>()
        );
        assert_ne!(values[..9], random("lm_head.weight", 9).collect::<Vec<_>>());
    }
}
