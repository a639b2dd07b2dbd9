//! The encoder: BERT-style networks over packed inputs, driven by a spec, and pooling.

use engine::executor::{EncodeInput, Encoded, Encoder, ExecutorError, Output, Pooling, Progress};
use kernels::attention::{AttentionShape, Packed, packed_attention};
use kernels::embedding::Embedding;
use kernels::linear::Linear;
use kernels::norm::{LayerNorm, add_layer_norm, layer_norm};
use kernels::{Compute, Rows};
use scheduler::request::Token;

use crate::load::LoadError;
use crate::source::{Part, Source};
use crate::spec::EncoderSpec;

/// A network with its weights, on CPU threads of its own.
#[derive(Debug)]
pub(crate) struct CpuEncoder {
    /// Told of every layer.
    progress: Progress,
    spec: EncoderSpec,
    tokens: Embedding,
    positions: Embedding,
    segments: Embedding,
    norm: Norm,
    layers: Vec<Layer>,
    compute: Compute,
    inputs: Inputs,
    buffers: Buffers,
}

#[derive(Debug)]
struct Layer {
    qkv: Linear,
    output: Linear,
    attention_norm: Norm,
    up: Linear,
    down: Linear,
    ffn_norm: Norm,
}

#[derive(Debug)]
struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

/// The rows of one run. Reused.
#[derive(Debug, Default)]
struct Inputs {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    segments: Vec<u32>,
    cu_lengths: Vec<u32>,
}

/// Rows of all widths; as long as the largest run so far, which has a bound.
#[derive(Debug, Default)]
struct Buffers {
    /// The embeddings' sum before its norm, then what a block adds to the residual.
    update: Vec<f32>,
    residual: Vec<f32>,
    qkv: Vec<f32>,
    attended: Vec<f32>,
    ffn: Vec<f32>,
}

impl CpuEncoder {
    /// Packs the weights; names of tensors start with `prefix`.
    pub(crate) fn load(
        spec: &EncoderSpec,
        source: &mut Source,
        prefix: &str,
        compute: Compute,
    ) -> Result<Self, LoadError> {
        let mut table = |name: &str, rows| {
            source.embedding(
                &format!("{prefix}embeddings.{name}_embeddings.weight"),
                rows,
                spec.hidden,
            )
        };
        let tokens = table("word", spec.vocab)?;
        let positions = table("position", spec.positions)?;
        let segments = table("token_type", spec.segments)?;
        let norm = Norm::load(
            source,
            &format!("{prefix}embeddings.LayerNorm"),
            spec.hidden,
        )?;
        let largest = spec.hidden * spec.ffn.max(3 * spec.hidden);
        let layers = source.layers(spec.layers, largest, |source, layer| {
            Layer::load(spec, source, &format!("{prefix}encoder.layer.{layer}."))
        })?;
        let (inputs, buffers) = (Inputs::default(), Buffers::default());
        let spec = spec.clone();
        Ok(Self {
            progress: Progress::default(),
            spec,
            tokens,
            positions,
            segments,
            norm,
            layers,
            compute,
            inputs,
            buffers,
        })
    }

    /// Encodes a run of the usual size, so that the first one finds code and memory in place.
    pub(crate) fn warm_up(&mut self) {
        let tokens = self.spec.positions.min(RUN_ROWS_MAX);
        let input = EncodeInput {
            tokens: vec![Token(0); tokens].into(),
            segments: [].into(),
            output: Output::Pooled(Pooling::Mean),
        };
        let inputs = vec![input; RUN_ROWS_MAX / tokens];
        self.encode_run(&inputs, &mut Vec::new());
    }

    /// Computes all layers; the result stands in the first rows of `buffers.residual`.
    fn forward(&mut self) {
        let rows = self.inputs.tokens.len();
        self.buffers.grow(&self.spec, rows);
        let (compute, eps) = (&mut self.compute, self.spec.norm_eps);
        let update = &mut self.buffers.update[..rows * self.spec.hidden];
        let residual = &mut self.buffers.residual[..rows * self.spec.hidden];
        self.tokens.gather(compute, &self.inputs.tokens, update);
        self.positions
            .gather_add(compute, &self.inputs.positions, update);
        self.segments
            .gather_add(compute, &self.inputs.segments, update);
        layer_norm(compute, update, &self.norm.at(eps), residual);
        for index in 0..self.layers.len() {
            self.progress.made();
            self.attention(index, rows);
            self.mlp(index, rows);
        }
    }

    /// Appends the results of inputs that are few enough to go through the network together.
    fn encode_run(&mut self, inputs: &[EncodeInput], encoded: &mut Vec<Encoded>) {
        self.inputs.fill(inputs, self.spec.positions);
        self.forward();
        let hidden = self.spec.hidden;
        for (input, ends) in inputs.iter().zip(self.inputs.cu_lengths.windows(2)) {
            let rows = ends[0] as usize * hidden..ends[1] as usize * hidden;
            let rows = &self.buffers.residual[rows];
            let values = match input.output {
                Output::Pooled(pooling) => pool(rows, hidden, pooling),
                Output::Tokens => rows.to_vec(),
                Output::Scores | Output::Sparse => {
                    unreachable!("{:?} without a head", input.output)
                }
            };
            encoded.push(Encoded {
                values,
                width: hidden as u32,
                places: Vec::new(),
            });
        }
    }

    fn attention(&mut self, index: usize, rows: usize) {
        let (layer, spec) = (&self.layers[index], &self.spec);
        let (compute, hidden) = (&mut self.compute, self.spec.hidden);
        let residual = &mut self.buffers.residual[..rows * hidden];
        let update = &mut self.buffers.update[..rows * hidden];
        let qkv = &mut self.buffers.qkv[..rows * 3 * hidden];
        let attended = &mut self.buffers.attended[..rows * hidden];
        let head_dim = hidden / spec.heads;
        let shape = AttentionShape {
            heads: spec.heads,
            kv_heads: spec.heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            window: None,
            softcap: None,
        };
        layer.qkv.forward(compute, residual, qkv);
        let packed = Packed {
            q: Rows::new(qkv, 3 * hidden, 0, hidden),
            k: Rows::new(qkv, 3 * hidden, hidden, hidden),
            v: Rows::new(qkv, 3 * hidden, 2 * hidden, hidden),
            cu_lengths: &self.inputs.cu_lengths,
        };
        packed_attention(compute, &shape, &packed, attended);
        layer.output.forward(compute, attended, update);
        let norm = layer.attention_norm.at(spec.norm_eps);
        add_layer_norm(compute, residual, update, &norm);
    }

    fn mlp(&mut self, index: usize, rows: usize) {
        let (layer, spec) = (&self.layers[index], &self.spec);
        let compute = &mut self.compute;
        let residual = &mut self.buffers.residual[..rows * spec.hidden];
        let update = &mut self.buffers.update[..rows * spec.hidden];
        let ffn = &mut self.buffers.ffn[..rows * spec.ffn];
        layer
            .up
            .forward_activated(compute, residual, spec.activation, ffn);
        layer.down.forward(compute, ffn, update);
        add_layer_norm(compute, residual, update, &layer.ffn_norm.at(spec.norm_eps));
    }
}

impl Encoder for CpuEncoder {
    fn report_to(&mut self, progress: Progress) {
        self.progress = progress;
    }

    fn encode(
        &mut self,
        inputs: &[EncodeInput],
        encoded: &mut Vec<Encoded>,
    ) -> Result<(), ExecutorError> {
        let mut rest = inputs;
        while !rest.is_empty() {
            let (run, later) = rest.split_at(run_length(rest));
            self.encode_run(run, encoded);
            rest = later;
        }
        Ok(())
    }
}

/// How many of the first inputs go through the network together: as many as fit in
/// [`RUN_ROWS_MAX`] rows, at least one.
fn run_length(inputs: &[EncodeInput]) -> usize {
    let mut rows = 0;
    let fits = |input: &&EncodeInput| {
        rows += input.tokens.len();
        rows <= RUN_ROWS_MAX
    };
    inputs.iter().take_while(fits).count().max(1)
}

impl Inputs {
    fn fill(&mut self, inputs: &[EncodeInput], positions_max: usize) {
        self.tokens.clear();
        self.positions.clear();
        self.segments.clear();
        self.cu_lengths.clear();
        self.cu_lengths.push(0);
        for input in inputs {
            let tokens = input.tokens.len();
            assert!(
                tokens <= positions_max,
                "{tokens} tokens, at most {positions_max}"
            );
            self.tokens.extend(input.tokens.iter().map(|token| token.0));
            self.positions.extend(0..tokens as u32);
            if input.segments.is_empty() {
                self.segments.extend(std::iter::repeat_n(0, tokens));
            } else {
                assert_eq!(input.segments.len(), tokens, "one segment id a token");
                self.segments
                    .extend(input.segments.iter().map(|&segment| u32::from(segment)));
            }
            self.cu_lengths.push(self.tokens.len() as u32);
        }
    }
}

impl Buffers {
    /// Makes room for `rows` rows.
    fn grow(&mut self, spec: &EncoderSpec, rows: usize) {
        let grow = |buffer: &mut Vec<f32>, width: usize| {
            buffer.resize(buffer.len().max(rows * width), 0.0);
        };
        grow(&mut self.update, spec.hidden);
        grow(&mut self.residual, spec.hidden);
        grow(&mut self.qkv, 3 * spec.hidden);
        grow(&mut self.attended, spec.hidden);
        grow(&mut self.ffn, spec.ffn);
    }
}

impl Layer {
    fn load(spec: &EncoderSpec, source: &mut Source, at: &str) -> Result<Self, LoadError> {
        let part = |name: &str, outputs| Part {
            name: format!("{at}{name}"),
            outputs,
        };
        let hidden = spec.hidden;
        let qkv =
            ["query", "key", "value"].map(|name| part(&format!("attention.self.{name}"), hidden));
        let norm =
            |source: &mut Source, name: &str| Norm::load(source, &format!("{at}{name}"), hidden);
        Ok(Self {
            qkv: source.biased(&qkv, hidden)?,
            output: source.biased(&[part("attention.output.dense", hidden)], hidden)?,
            attention_norm: norm(source, "attention.output.LayerNorm")?,
            up: source.biased(&[part("intermediate.dense", spec.ffn)], hidden)?,
            down: source.biased(&[part("output.dense", hidden)], spec.ffn)?,
            ffn_norm: norm(source, "output.LayerNorm")?,
        })
    }
}

impl Norm {
    fn load(source: &mut Source, name: &str, width: usize) -> Result<Self, LoadError> {
        let mut bias = Vec::with_capacity(width);
        source.shift(&format!("{name}.bias"), width, &mut bias)?;
        let weight = source.scale(&format!("{name}.weight"), width)?;
        Ok(Self { weight, bias })
    }

    fn at(&self, eps: f32) -> LayerNorm<'_> {
        LayerNorm {
            weight: &self.weight,
            bias: &self.bias,
            eps,
        }
    }
}

/// One vector made of the rows of an input; zeros when it has none.
fn pool(rows: &[f32], width: usize, pooling: Pooling) -> Vec<f32> {
    let mut vector = vec![0.0; width];
    let mut rows = rows.chunks_exact(width);
    match pooling {
        Pooling::Cls => rows
            .next()
            .into_iter()
            .for_each(|row| vector.copy_from_slice(row)),
        Pooling::LastToken => {
            rows.next_back()
                .into_iter()
                .for_each(|row| vector.copy_from_slice(row));
        }
        Pooling::Mean => {
            let count = rows.len().max(1) as f32;
            for row in rows {
                vector.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
            }
            for sum in &mut vector {
                *sum /= count;
            }
        }
    }
    vector
}

/// 512: a row of MiniLM takes 15 KiB of activations, so that a run stays in a third-level cache of
/// 8 MiB from layer to layer, where a whole batch would go through memory in every layer; and with
/// fewer rows the weights would be read more often than they have to be.
const RUN_ROWS_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use kernels::activation::Activation;

    use super::*;
    use crate::source::{Store, Values};

    fn encoder() -> CpuEncoder {
        let spec = EncoderSpec {
            vocab: 100,
            hidden: 32,
            ffn: 48,
            heads: 2,
            layers: 2,
            positions: 600,
            segments: 2,
            norm_eps: 1e-12,
            activation: Activation::GeluErf,
        };
        let mut source = Source::new(Values::Dummy, Store::F32, 1);
        CpuEncoder::load(&spec, &mut source, "", Compute::new(1)).unwrap()
    }

    fn input(seed: u32, tokens: u32) -> EncodeInput {
        EncodeInput {
            tokens: (0..tokens)
                .map(|i| Token((i * 31 + seed * 17) % 100))
                .collect(),
            segments: [].into(),
            output: Output::Pooled(Pooling::Mean),
        }
    }

    /// However large a batch is, the network sees runs of a bounded number of rows.
    #[test]
    fn large_batches_go_in_runs_and_change_no_bit() {
        let mut encoder = encoder();
        let lengths = [100, 412, 1, 512, 0, 3, 600, 600, 511, 2, 300, 300, 0];
        let batch: Vec<_> = (0..)
            .zip(lengths)
            .map(|(seed, tokens)| input(seed, tokens))
            .collect();
        let mut together = Vec::new();
        encoder.encode(&batch, &mut together).unwrap();
        // An input longer than a run goes alone.
        assert_eq!(encoder.buffers.residual.len(), 600 * 32);
        for (input, encoded) in batch.iter().zip(&together) {
            let mut alone = Vec::new();
            encoder
                .encode(std::slice::from_ref(input), &mut alone)
                .unwrap();
            assert_eq!(&alone[0], encoded);
        }
        let lengths: Vec<_> = batch.iter().map(|input| input.tokens.len()).collect();
        let mut runs = Vec::new();
        let mut rest = batch.as_slice();
        while !rest.is_empty() {
            runs.push(run_length(rest));
            rest = &rest[runs[runs.len() - 1]..];
        }
        assert_eq!(runs, [2, 1, 2, 1, 1, 1, 1, 2, 2], "{lengths:?}");
    }

    #[test]
    fn pooling_takes_first_last_or_mean() {
        let rows = [1.0, 2.0, 3.0, 4.0, 8.0, 3.0];
        assert_eq!(pool(&rows, 2, Pooling::Cls), [1.0, 2.0]);
        assert_eq!(pool(&rows, 2, Pooling::LastToken), [8.0, 3.0]);
        assert_eq!(pool(&rows, 2, Pooling::Mean), [4.0, 3.0]);
        assert_eq!(pool(&[], 2, Pooling::Mean), [0.0, 0.0]);
    }
}
