//! Where a network's parts come from: checkpoint or random numbers, packed in one dtype.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use half::bf16;
use kernels::OutOfMemory;
use kernels::embedding::Embedding;
use kernels::linear::{Linear, LinearShape};

use crate::load::{Dtype, LoadError};
use crate::random::SplitMix;
use crate::weights::Weights;

/// Packs tensors into the parts of a network. Tensors were checked before: a name or shape that
/// does not fit is a mistake of ours.
#[derive(Debug)]
pub(crate) struct Source {
    values: Arc<Values>,
    store: Store,
    threads: usize,
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

impl Store {
    /// Bytes of one value.
    pub(crate) fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
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
    /// Packs `values` into `store`, layers on so many threads.
    pub(crate) fn new(values: Values, store: Store, threads: usize) -> Self {
        Self::over(Arc::new(values), store, threads)
    }

    fn over(values: Arc<Values>, store: Store, threads: usize) -> Self {
        Self {
            values,
            store,
            threads,
            f32s: Vec::new(),
            bf16s: Vec::new(),
        }
    }

    /// Loads `count` layers, several at once. Each loader keeps a copy of the tensors it packs, at
    /// most `part_values` values at a time.
    pub(crate) fn layers<T: Send>(
        &mut self,
        count: usize,
        part_values: usize,
        load: impl Fn(&mut Self, usize) -> Result<T, LoadError> + Sync,
    ) -> Result<Vec<T>, LoadError> {
        // What was packed before is no longer needed.
        self.f32s = Vec::new();
        self.bf16s = Vec::new();
        let part_bytes = (part_values as u64 * self.store.bytes()).max(1);
        let loaders = (LOADERS_BYTES_MAX / part_bytes).clamp(1, self.threads as u64) as usize;
        let next = AtomicUsize::new(0);
        let work = || {
            let mut source = Self::over(Arc::clone(&self.values), self.store, 1);
            let mut layers = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return Ok::<_, LoadError>(layers);
                }
                layers.push((index, load(&mut source, index)?));
            }
        };
        let mut layers = std::thread::scope(|scope| {
            let workers: Vec<_> = (1..loaders.min(count)).map(|_| scope.spawn(work)).collect();
            let mut layers: Vec<(usize, T)> = work()?;
            for worker in workers {
                let others = worker.join().unwrap_or_else(|panic| resume_unwind(panic))?;
                layers.extend(others);
            }
            Ok::<_, LoadError>(layers)
        })?;
        layers.sort_unstable_by_key(|(index, _)| *index);
        Ok(layers.into_iter().map(|(_, layer)| layer).collect())
    }

    /// A linear layer whose rows are those of `parts`, one after the other, with the biases of all
    /// of them or of none.
    pub(crate) fn linear(
        &mut self,
        parts: &[Part],
        inputs: usize,
        is_biased: bool,
    ) -> Result<Linear, LoadError> {
        let mut biases = Vec::new();
        for part in parts.iter().filter(|_| is_biased) {
            self.shift(&format!("{}.bias", part.name), part.outputs, &mut biases)?;
        }
        self.read(parts, inputs)?;
        self.pack(parts, inputs, &biases)
    }

    /// A linear layer of one tensor whose halves change places, without a bias.
    pub(crate) fn swapped(&mut self, part: &Part, inputs: usize) -> Result<Linear, LoadError> {
        let parts = std::slice::from_ref(part);
        self.read(parts, inputs)?;
        let half = part.outputs / 2 * inputs;
        match self.store {
            Store::F32 => self.f32s.rotate_left(half),
            Store::Bf16 => self.bf16s.rotate_left(half),
        }
        self.pack(parts, inputs, &[])
    }

    /// A linear layer of one tensor, whose bias has a name of its own, if it has one at all.
    pub(crate) fn linear_and_bias(
        &mut self,
        part: Part,
        inputs: usize,
        bias: Option<&str>,
    ) -> Result<Linear, LoadError> {
        let mut biases = Vec::new();
        if let Some(bias) = bias {
            self.shift(bias, part.outputs, &mut biases)?;
        }
        let parts = [part];
        self.read(&parts, inputs)?;
        self.pack(&parts, inputs, &biases)
    }

    /// Fills the buffer of the store with the matrices of `parts`.
    fn read(&mut self, parts: &[Part], inputs: usize) -> Result<(), LoadError> {
        let outputs: usize = parts.iter().map(|part| part.outputs).sum();
        let tensors = parts
            .iter()
            .map(|part| (format!("{}.weight", part.name), part.outputs * inputs));
        self.fill(outputs * inputs, tensors)
    }

    /// Packs what was read.
    fn pack(&self, parts: &[Part], inputs: usize, biases: &[f32]) -> Result<Linear, LoadError> {
        let shape = LinearShape {
            outputs: parts.iter().map(|part| part.outputs).sum(),
            inputs,
        };
        let bias = (!biases.is_empty()).then_some(biases);
        let linear = match self.store {
            Store::F32 => Linear::from_f32(shape, &self.f32s, bias),
            Store::Bf16 => Linear::from_bf16(shape, &self.bf16s, bias),
        };
        Ok(linear?)
    }

    /// A table of `rows` vectors of `width`.
    pub(crate) fn embedding(
        &mut self,
        name: &str,
        rows: usize,
        width: usize,
    ) -> Result<Embedding, LoadError> {
        let values = rows * width;
        self.fill(values, std::iter::once((name.to_owned(), values)))?;
        let embedding = match self.store {
            Store::F32 => Embedding::from_f32(width, &self.f32s),
            Store::Bf16 => Embedding::from_bf16(width, &self.bf16s),
        };
        Ok(embedding?)
    }

    /// A vector that multiplies, in f32; a dummy's is all ones.
    pub(crate) fn scale(&mut self, name: &str, width: usize) -> Result<Vec<f32>, LoadError> {
        let mut values = Vec::with_capacity(width);
        match &*self.values {
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
        match &*self.values {
            Values::Weights(weights) => weights.append_f32(name, out)?,
            Values::Dummy => out.resize(out.len() + width, 0.0),
        }
        Ok(())
    }

    /// Fills the buffer of the store with tensors and the number of values each has, `total`
    /// together.
    fn fill(
        &mut self,
        total: usize,
        tensors: impl Iterator<Item = (String, usize)>,
    ) -> Result<(), LoadError> {
        self.f32s.clear();
        self.bf16s.clear();
        // Random values come in fours.
        let room = total.next_multiple_of(4) + 4;
        let reserved = match self.store {
            Store::F32 => self.f32s.try_reserve_exact(room),
            Store::Bf16 => self.bf16s.try_reserve_exact(room),
        };
        let bytes = room as u64 * self.store.bytes();
        reserved.map_err(|_| OutOfMemory { bytes })?;
        for (name, values) in tensors {
            match (&*self.values, self.store) {
                (Values::Weights(weights), Store::F32) => {
                    weights.append_f32(&name, &mut self.f32s)?;
                }
                (Values::Weights(weights), Store::Bf16) => {
                    weights.append_bf16(&name, &mut self.bf16s)?;
                }
                (Values::Dummy, Store::F32) => random(&name, values, &mut self.f32s, |x| x),
                (Values::Dummy, Store::Bf16) => {
                    random(&name, values, &mut self.bf16s, bf16::from_f32);
                }
            }
        }
        Ok(())
    }
}

/// Appends `count` values of deviation [`DUMMY_DEVIATION`], the same for the same name.
fn random<T>(name: &str, count: usize, out: &mut Vec<T>, convert: impl Fn(f32) -> T) {
    let seed = name.bytes().fold(FNV_START, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(FNV)
    });
    let mut numbers = SplitMix::new(seed);
    // A uniform number in -a..a has deviation a / sqrt(3); an i16 reaches to 2^15.
    let unit = DUMMY_DEVIATION * 3.0_f32.sqrt() / 32768.0;
    let end = out.len() + count;
    out.reserve(count.next_multiple_of(4));
    while out.len() < end {
        let bits = numbers.next();
        let values = [0, 16, 32, 48].map(|shift| f32::from((bits >> shift) as u16 as i16) * unit);
        out.extend(values.map(&convert));
    }
    out.truncate(end);
}

/// 1 GiB: two loaders of a layer of 70B, and as many as there are threads of small ones.
const LOADERS_BYTES_MAX: u64 = 1 << 30;
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
        let random = |name: &str, count: usize| {
            let mut values = Vec::new();
            random(name, count, &mut values, |x| x);
            values
        };
        let values = random("model.norm.weight", 100_001);
        assert_eq!(values.len(), 100_001);
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let square = values.iter().map(|x| x * x).sum::<f32>() / values.len() as f32;
        assert!(mean.abs() < 3e-4, "{mean}");
        assert!((square.sqrt() - DUMMY_DEVIATION).abs() < 2e-4, "{square}");
        assert_eq!(values, random("model.norm.weight", 100_001));
        assert_ne!(values[..9], random("lm_head.weight", 9));
    }
}
