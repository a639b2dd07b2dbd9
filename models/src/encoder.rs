//! The encoder: every family's network over packed inputs, driven by its spec.

use engine::executor::{EncodeInput, Encoded, Encoder, ExecutorError, Output, Pooling, Progress};
use kernels::activation::{gelu_erf_mul, gelu_tanh_mul, silu_mul};
use kernels::attention::{AttentionShape, DistanceBias, PAGE_TOKENS, Packed, packed_attention};
use kernels::embedding::Embedding;
use kernels::linear::Linear;
use kernels::norm::{RmsNorm, add_normalize, normalize, normalize_heads, normalize_sum};
use kernels::rope::RopeTable;
use kernels::{Compute, Rows, RowsMut};
use scheduler::request::Token;

use crate::head::{self, Head, Run};
use crate::load::LoadError;
use crate::norm::Norm;
use crate::source::{Part, Source};
use crate::spec::{
    Distance, EncoderHead, EncoderSpec, GatedActivation, Mlp, Norms, Positions, QkNorm, Rope,
    slopes,
};
use crate::tensors;

/// A network with its weights, on CPU threads of its own.
#[derive(Debug)]
pub(crate) struct CpuEncoder {
    /// Told of every layer.
    progress: Progress,
    spec: EncoderSpec,
    /// The longest input.
    input_tokens_max: usize,
    tokens: Tokens,
    order: Order,
    distance: Option<DistanceBias>,
    segments: Option<Embedding>,
    norm: Norm,
    layers: Vec<Layer>,
    head: Head,
    compute: Compute,
    inputs: Inputs,
    buffers: Buffers,
}

/// The token embedding.
#[derive(Debug)]
enum Tokens {
    Table(Embedding),
    /// It is the head's last layer too.
    Tied(Linear),
}

/// How tokens get their positions.
#[derive(Debug)]
enum Order {
    Unmarked,
    Table(Embedding),
    Rotary {
        full: RopeTable,
        windowed: Option<RopeTable>,
    },
}

#[derive(Debug)]
struct Layer {
    window: Option<u32>,
    qkv: Linear,
    /// Weights of the norms on heads of q and of k.
    qk_norm: Option<[Vec<f32>; 2]>,
    output: Linear,
    /// Of the sum with the attention's output: it closes this block or opens the next.
    after_attention: Norm,
    up: Linear,
    down: Linear,
    /// Of the sum with the MLP's output.
    after_ffn: Norm,
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
    /// What blocks read where norms stand before them.
    normed: Vec<f32>,
    qkv: Vec<f32>,
    attended: Vec<f32>,
    up: Vec<f32>,
    gated: Vec<f32>,
}

impl CpuEncoder {
    /// Packs the weights for inputs of at most `input_tokens_max` tokens; names of the network's own
    /// tensors start with `prefix`. `modules` are the sources of the head's modules, in their order.
    pub(crate) fn load(
        spec: &EncoderSpec,
        input_tokens_max: usize,
        (source, modules): (&mut Source, Vec<Source>),
        prefix: &str,
        compute: Compute,
    ) -> Result<Self, LoadError> {
        let at = |name: &str| format!("{prefix}{name}");
        let (names, hidden) = (spec.names, spec.hidden);
        let input_tokens_max = input_tokens_max.min(spec.context());
        let tokens = Tokens::load(spec, source, &at(names.tokens))?;
        let order = Order::load(spec, input_tokens_max, source, &at(names.positions))?;
        let distance = distance_bias(spec, input_tokens_max, source, &at(names.distance))?;
        let segments = match spec.segments {
            0 => None,
            rows => {
                let table = format!("{prefix}{}.weight", names.segments);
                Some(source.embedding(&table, rows, hidden)?)
            }
        };
        let norm = Norm::load(source, &at(names.embedding_norm), spec)?;
        let head = Head::load(spec, source, modules)?;
        let qkv = spec.q_width() + 2 * spec.kv_width();
        let largest = hidden * spec.up_rows().max(qkv);
        let layers = source.layers(spec.windows.len(), largest, |source, layer| {
            Layer::load(spec, source, prefix, layer)
        })?;
        Ok(Self {
            progress: Progress::default(),
            spec: spec.clone(),
            input_tokens_max,
            tokens,
            order,
            distance,
            segments,
            norm,
            layers,
            head,
            compute,
            inputs: Inputs::default(),
            buffers: Buffers::default(),
        })
    }

    /// Encodes a run of the usual size, so that the first one finds code and memory in place.
    pub(crate) fn warm_up(&mut self) {
        let tokens = self.input_tokens_max.min(RUN_ROWS_MAX);
        let input = EncodeInput {
            tokens: vec![Token(0); tokens].into(),
            segments: [].into(),
            output: match self.spec.head {
                EncoderHead::Vectors(_) => Output::Pooled(Pooling::Mean),
                EncoderHead::Classifier(_) => Output::Scores,
                EncoderHead::Vocabulary(_) => Output::Sparse,
            },
        };
        let inputs = vec![input; RUN_ROWS_MAX / tokens];
        self.encode_run(&inputs, &mut Vec::new());
    }

    /// Computes all layers; the result stands in the first rows of `buffers.residual`, or of
    /// `buffers.normed` where norms stand before blocks.
    fn forward(&mut self) {
        let rows = self.inputs.tokens.len();
        self.buffers.grow(&self.spec, rows);
        self.embed(rows);
        for index in 0..self.layers.len() {
            self.progress.made();
            self.attention(index, rows);
            self.mlp(index, rows);
        }
    }

    /// Appends the results of inputs that are few enough to go through the network together.
    fn encode_run(&mut self, inputs: &[EncodeInput], encoded: &mut Vec<Encoded>) {
        self.inputs.fill(inputs, &self.spec, self.input_tokens_max);
        self.forward();
        let rows = self.buffers.read(self.spec.norms);
        let words = match &self.tokens {
            Tokens::Table(_) => None,
            Tokens::Tied(words) => Some(words),
        };
        let run = Run {
            inputs,
            cu_lengths: &self.inputs.cu_lengths,
            rows: &rows[..self.inputs.tokens.len() * self.spec.hidden],
            hidden: self.spec.hidden,
            words,
            progress: &self.progress,
        };
        self.head.finish(&mut self.compute, &run, encoded);
    }

    fn embed(&mut self, rows: usize) {
        let (compute, inputs) = (&mut self.compute, &self.inputs);
        let elements = rows * self.spec.hidden;
        let update = &mut self.buffers.update[..elements];
        let residual = &mut self.buffers.residual[..elements];
        match &self.tokens {
            Tokens::Table(table) => table.gather(compute, &inputs.tokens, update),
            Tokens::Tied(words) => words.gather(compute, &inputs.tokens, update),
        }
        if let Order::Table(table) = &self.order {
            table.gather_add(compute, &inputs.positions, update);
        }
        if let Some(segments) = &self.segments {
            segments.gather_add(compute, &inputs.segments, update);
        }
        if self.spec.norms == Norms::BeforeAll {
            residual.copy_from_slice(update);
            let normed = &mut self.buffers.normed[..elements];
            return normalize(compute, residual, &self.norm, normed);
        }
        normalize(compute, update, &self.norm, residual);
        if self.spec.norms == Norms::Before {
            self.buffers.normed[..elements].copy_from_slice(residual);
        }
    }

    fn attention(&mut self, index: usize, rows: usize) {
        let (layer, spec) = (&self.layers[index], &self.spec);
        let (compute, buffers) = (&mut self.compute, &mut self.buffers);
        let (q, kv, head_dim) = (spec.q_width(), spec.kv_width(), spec.head_dim);
        let width = q + 2 * kv;
        let x = match spec.norms {
            Norms::After => &buffers.residual,
            Norms::Before | Norms::BeforeAll => &buffers.normed,
        };
        let qkv = &mut buffers.qkv[..rows * width];
        layer.qkv.forward(compute, &x[..rows * spec.hidden], qkv);
        if let Some([q_weight, k_weight]) = &layer.qk_norm {
            for (first, columns, weight) in [(0, q, q_weight), (q, kv, k_weight)] {
                let mut heads = RowsMut::new(qkv, width, first, columns);
                let eps = spec.norm_eps;
                normalize_heads(compute, &mut heads, &RmsNorm { weight, eps });
            }
        }
        if let Order::Rotary { full, windowed } = &self.order {
            let windowed = windowed.as_ref().filter(|_| layer.window.is_some());
            // Queries and keys stand side by side and turn alike.
            let mut heads = RowsMut::new(qkv, width, 0, q + kv);
            let table = windowed.unwrap_or(full);
            table.apply(compute, &mut heads, head_dim, &self.inputs.positions);
        }
        let shape = AttentionShape {
            heads: spec.heads,
            kv_heads: spec.kv_heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            window: layer.window,
            softcap: None,
        };
        let packed = Packed {
            q: Rows::new(qkv, width, 0, q),
            k: Rows::new(qkv, width, q, kv),
            v: Rows::new(qkv, width, q + kv, kv),
            cu_lengths: &self.inputs.cu_lengths,
            bias: self.distance.as_ref(),
            look: spec.look,
        };
        let attended = &mut buffers.attended[..rows * q];
        packed_attention(compute, &shape, &packed, attended);
        let update = &mut buffers.update[..rows * spec.hidden];
        layer.output.forward(compute, attended, update);
        settle(compute, spec, buffers, &layer.after_attention, rows);
    }

    fn mlp(&mut self, index: usize, rows: usize) {
        let (layer, spec) = (&self.layers[index], &self.spec);
        let (compute, buffers) = (&mut self.compute, &mut self.buffers);
        let up = &mut buffers.up[..rows * spec.up_rows()];
        let update = &mut buffers.update[..rows * spec.hidden];
        let x = match spec.norms {
            Norms::After => &buffers.residual,
            Norms::Before | Norms::BeforeAll => &buffers.normed,
        };
        let x = &x[..rows * spec.hidden];
        match spec.mlp {
            Mlp::Plain(activation) => {
                layer.up.forward_activated(compute, x, activation, up);
                layer.down.forward(compute, up, update);
            }
            Mlp::Gated(gate) | Mlp::GatedSwapped(gate) => {
                layer.up.forward(compute, x, up);
                let gated = &mut buffers.gated[..rows * spec.ffn];
                match gate {
                    GatedActivation::Silu => silu_mul(compute, up, spec.ffn, gated),
                    GatedActivation::GeluErf => gelu_erf_mul(compute, up, spec.ffn, gated),
                    GatedActivation::GeluTanh => gelu_tanh_mul(compute, up, spec.ffn, gated),
                }
                layer.down.forward(compute, gated, update);
            }
        }
        settle(compute, spec, buffers, &layer.after_ffn, rows);
    }
}

/// Adds a block's update to the residual, and norms.
fn settle(
    compute: &mut Compute,
    spec: &EncoderSpec,
    buffers: &mut Buffers,
    norm: &Norm,
    rows: usize,
) {
    let elements = rows * spec.hidden;
    let residual = &mut buffers.residual[..elements];
    let update = &buffers.update[..elements];
    match spec.norms {
        Norms::After => normalize_sum(compute, residual, update, norm),
        Norms::Before | Norms::BeforeAll => {
            let normed = &mut buffers.normed[..elements];
            add_normalize(compute, residual, update, norm, normed);
        }
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
/// [`RUN_ROWS_MAX`] rows, at least one and at most [`RUN_INPUTS_MAX`].
fn run_length(inputs: &[EncodeInput]) -> usize {
    let mut rows = 0;
    let fits = |input: &&EncodeInput| {
        rows += input.tokens.len();
        rows <= RUN_ROWS_MAX
    };
    let most = inputs.iter().take(RUN_INPUTS_MAX);
    most.take_while(fits).count().max(1)
}

impl Inputs {
    fn fill(&mut self, inputs: &[EncodeInput], spec: &EncoderSpec, tokens_max: usize) {
        let first = match spec.positions {
            Positions::Table { first, .. } => first as u32,
            Positions::Unmarked { .. } | Positions::Rotary { .. } => 0,
        };
        let last_segment = spec.segments.saturating_sub(1) as u32;
        self.tokens.clear();
        self.positions.clear();
        self.segments.clear();
        self.cu_lengths.clear();
        self.cu_lengths.push(0);
        for input in inputs {
            let tokens = input.tokens.len();
            assert!(
                tokens <= tokens_max,
                "{tokens} tokens, at most {tokens_max}"
            );
            self.tokens.extend(input.tokens.iter().map(|token| token.0));
            self.positions.extend(first..first + tokens as u32);
            if input.segments.is_empty() {
                self.segments.extend(std::iter::repeat_n(0, tokens));
            } else {
                assert_eq!(input.segments.len(), tokens, "one segment id a token");
                let segments = input.segments.iter().copied().map(u32::from);
                self.segments
                    .extend(segments.map(|segment| segment.min(last_segment)));
            }
            self.cu_lengths.push(self.tokens.len() as u32);
        }
    }
}

/// At most so many bytes takes an encoder beside its weights: the tables that it computes, and the
/// buffers of a run of [`RUN_ROWS_MAX`] rows, or of one input of `input_tokens_max` that has more.
pub(crate) fn memory_bytes(spec: &EncoderSpec, input_tokens_max: usize) -> u64 {
    let rows = RUN_ROWS_MAX.max(input_tokens_max);
    let (q, kv) = (spec.q_width(), spec.kv_width());
    let gated = if spec.mlp.gate().is_some() {
        spec.ffn
    } else {
        0
    };
    let normed = if spec.norms == Norms::After {
        0
    } else {
        spec.hidden
    };
    // Keys and values stand in the rows, and in pages for attention: each input begins a page.
    let pages = 2 * kv * (rows + RUN_INPUTS_MAX * PAGE_TOKENS);
    let run = rows * (2 * spec.hidden + normed + 2 * q + 2 * kv + spec.up_rows() + gated) + pages;
    let rotary = match &spec.positions {
        Positions::Table { .. } | Positions::Unmarked { .. } => 0,
        Positions::Rotary { windowed, .. } => {
            let tables = 1 + usize::from(windowed.is_some());
            tables * input_tokens_max * spec.head_dim
        }
    };
    let distance = match spec.distance {
        None => 0,
        Some(_) => DistanceBias::values(spec.heads, input_tokens_max),
    };
    4 * (run + rotary + distance + head::values(spec)) as u64
}

impl Buffers {
    /// The rows that blocks read, and the head.
    fn read(&self, norms: Norms) -> &[f32] {
        match norms {
            Norms::After => &self.residual,
            Norms::Before | Norms::BeforeAll => &self.normed,
        }
    }

    /// Makes room for `rows` rows.
    fn grow(&mut self, spec: &EncoderSpec, rows: usize) {
        let grow = |buffer: &mut Vec<f32>, width: usize| {
            buffer.resize(buffer.len().max(rows * width), 0.0);
        };
        grow(&mut self.update, spec.hidden);
        grow(&mut self.residual, spec.hidden);
        grow(&mut self.qkv, spec.q_width() + 2 * spec.kv_width());
        grow(&mut self.attended, spec.q_width());
        grow(&mut self.up, spec.up_rows());
        if spec.norms != Norms::After {
            grow(&mut self.normed, spec.hidden);
        }
        if spec.mlp.gate().is_some() {
            grow(&mut self.gated, spec.ffn);
        }
    }
}

impl Tokens {
    fn load(spec: &EncoderSpec, source: &mut Source, name: &str) -> Result<Self, LoadError> {
        let EncoderHead::Vocabulary(head) = &spec.head else {
            let table = source.embedding(&format!("{name}.weight"), spec.vocab, spec.hidden)?;
            return Ok(Self::Table(table));
        };
        let words = Part {
            name: name.to_owned(),
            outputs: spec.vocab,
        };
        source
            .linear_and_bias(words, spec.hidden, head.bias)
            .map(Self::Tied)
    }
}

impl Order {
    fn load(
        spec: &EncoderSpec,
        input_tokens_max: usize,
        source: &mut Source,
        name: &str,
    ) -> Result<Self, LoadError> {
        let (full, windowed) = match &spec.positions {
            Positions::Table { rows, .. } => {
                let table = source.embedding(&format!("{name}.weight"), *rows, spec.hidden)?;
                return Ok(Self::Table(table));
            }
            Positions::Unmarked { .. } => return Ok(Self::Unmarked),
            Positions::Rotary { full, windowed, .. } => (full, windowed),
        };
        let table = |rope: &Rope| {
            let frequencies = rope.inverse_frequencies(spec.head_dim);
            RopeTable::new(&frequencies, 1.0, input_tokens_max)
        };
        Ok(Self::Rotary {
            full: table(full),
            windowed: windowed.as_ref().map(table),
        })
    }
}

/// The biases of all distances that the longest input has.
fn distance_bias(
    spec: &EncoderSpec,
    input_tokens_max: usize,
    source: &mut Source,
    name: &str,
) -> Result<Option<DistanceBias>, LoadError> {
    let heads = spec.heads;
    let Some(distance) = spec.distance else {
        return Ok(None);
    };
    let bias = match distance {
        Distance::Slopes => {
            let slopes = slopes(heads);
            let bias = |head: usize, away: isize| (-slopes[head] * away.abs() as f64) as f32;
            DistanceBias::new(heads, input_tokens_max, bias)
        }
        Distance::Buckets(buckets) => {
            let mut table = Vec::new();
            source.shift(
                &format!("{name}.weight"),
                buckets.buckets * heads,
                &mut table,
            )?;
            let bias = |head: usize, away| table[buckets.of(away) * heads + head];
            DistanceBias::new(heads, input_tokens_max, bias)
        }
    };
    Ok(Some(bias))
}

impl Layer {
    fn load(
        spec: &EncoderSpec,
        source: &mut Source,
        prefix: &str,
        layer: usize,
    ) -> Result<Self, LoadError> {
        let (names, hidden, bias) = (spec.names, spec.hidden, spec.bias);
        let at = format!("{prefix}{}{layer}.", names.layer);
        let parts = |tensors: &[&str], outputs: &mut dyn Iterator<Item = usize>| -> Vec<Part> {
            let names = tensors.iter().map(|name| format!("{at}{name}"));
            let part = |(name, outputs)| Part { name, outputs };
            names.zip(outputs).map(part).collect()
        };
        let qkv = parts(names.qkv, &mut tensors::qkv_outputs(spec));
        let up_rows = spec.up_rows() / names.up.len();
        let up = parts(names.up, &mut std::iter::repeat(up_rows));
        let one = |name: &str, outputs| {
            [Part {
                name: format!("{at}{name}"),
                outputs,
            }]
        };
        let norm = |source: &mut Source, name: String| {
            Norm::load(source, &format!("{prefix}{name}"), spec)
        };
        let mut qk_norm = None;
        if spec.qk_norm == QkNorm::PerHead {
            let [q, k] = names.qk_norm.map(|name| format!("{at}{name}.weight"));
            qk_norm = Some([
                source.scale(&q, spec.head_dim)?,
                source.scale(&k, spec.head_dim)?,
            ]);
        }
        Ok(Self {
            window: spec.windows[layer],
            qkv: source.linear(&qkv, hidden, bias.qkv)?,
            qk_norm,
            output: source.linear(&one(names.output, hidden), spec.q_width(), bias.output)?,
            after_attention: norm(source, spec.after_attention(layer))?,
            up: match (spec.mlp, up.as_slice()) {
                (Mlp::GatedSwapped(_), [both]) => source.swapped(both, hidden)?,
                _ => source.linear(&up, hidden, bias.up)?,
            },
            down: source.linear(&one(names.down, hidden), spec.ffn, bias.down)?,
            after_ffn: norm(source, spec.after_ffn(layer))?,
        })
    }
}

/// 512: a row of MiniLM takes 15 KiB of activations, so that a run stays in a third-level cache of
/// 8 MiB from layer to layer, where a whole batch would go through memory in every layer; and with
/// fewer rows the weights would be read more often than they have to be.
const RUN_ROWS_MAX: usize = 512;
/// 64: an input takes a page of keys and values by itself, however short it is.
const RUN_INPUTS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::registry;
    use crate::source::{Store, Values};
    use crate::spec::Network;

    /// A network of two layers, of each family's making, for sentences of up to 600 tokens.
    fn encoder(config: &str) -> CpuEncoder {
        let config = Config::parse("config.json", config.as_bytes()).unwrap();
        let Network::Encoder(spec) = registry::network(&config).unwrap().1 else {
            panic!("a decoder")
        };
        let mut source = Source::new(Values::Dummy, Store::F32, 1);
        let sources = (&mut source, Vec::new());
        CpuEncoder::load(&spec, 600, sources, "", Compute::new(1)).unwrap()
    }

    const BERT: &str = r#"{"architectures": ["BertModel"], "vocab_size": 100, "hidden_size": 32,
        "intermediate_size": 48, "num_attention_heads": 2, "num_hidden_layers": 2,
        "max_position_embeddings": 600}"#;
    const MODERNBERT: &str = r#"{"architectures": ["ModernBertForMaskedLM"], "vocab_size": 100,
        "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2,
        "num_hidden_layers": 2, "max_position_embeddings": 600, "local_attention": 16}"#;

    fn input(seed: u32, tokens: u32, output: Output) -> EncodeInput {
        EncodeInput {
            tokens: (0..tokens)
                .map(|i| Token((i * 31 + seed * 17) % 100))
                .collect(),
            segments: [].into(),
            output,
        }
    }

    /// However large a batch is, the network sees runs of a bounded number of rows, and its head
    /// chunks of them.
    #[test]
    fn large_batches_go_in_runs_and_change_no_bit() {
        let wanted = [
            (BERT, Output::Pooled(Pooling::Mean)),
            (MODERNBERT, Output::Sparse),
        ];
        for (config, own) in wanted {
            let mut encoder = encoder(config);
            let lengths = [100, 412, 1, 512, 0, 3, 600, 600, 511, 2, 300, 300, 0];
            let outputs = [own, Output::Tokens, own].into_iter().cycle();
            let batch: Vec<_> = (0..)
                .zip(lengths)
                .zip(outputs)
                .map(|((seed, tokens), output)| input(seed, tokens, output))
                .collect();
            let mut together = Vec::new();
            encoder.encode(&batch, &mut together).unwrap();
            // An input longer than a run goes alone.
            assert_eq!(encoder.buffers.residual.len(), 600 * 32);
            assert_eq!(together.len(), batch.len());
            for (input, encoded) in batch.iter().zip(&together) {
                let mut alone = Vec::new();
                encoder
                    .encode(std::slice::from_ref(input), &mut alone)
                    .unwrap();
                assert_eq!(&alone[0], encoded);
            }
            assert!(!together[0].values.is_empty());
        }
    }

    #[test]
    fn runs_are_as_long_as_fits() {
        let lengths = [100, 412, 1, 512, 0, 3, 600, 600, 511, 2, 300, 300, 0];
        let batch = lengths.map(|tokens| input(0, tokens, Output::Tokens));
        let mut runs = Vec::new();
        let mut rest = batch.as_slice();
        while !rest.is_empty() {
            runs.push(run_length(rest));
            rest = &rest[runs[runs.len() - 1]..];
        }
        assert_eq!(runs, [2, 1, 2, 1, 1, 1, 1, 2, 2]);
        assert_eq!(run_length(&vec![input(0, 1, Output::Tokens); 100]), 64);
    }

    /// A tokenizer's segments are taken as far as the network knows any.
    #[test]
    fn strange_segments_harm_nobody() {
        for (config, output) in [(BERT, Output::Tokens), (MODERNBERT, Output::Tokens)] {
            let mut encoder = encoder(config);
            let mut vectors = |segments: [u8; 2]| {
                let input = EncodeInput {
                    segments: segments.into(),
                    ..input(1, 2, output)
                };
                let mut encoded = Vec::new();
                encoder.encode(&[input], &mut encoded).unwrap();
                encoded.swap_remove(0)
            };
            assert_eq!(vectors([0, 1]), vectors([0, 255]));
            let same = vectors([0, 0]) == vectors([0, 1]);
            assert_eq!(same, config == MODERNBERT, "BERT has two segments");
        }
    }
}
