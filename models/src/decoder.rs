//! The decoder: every family's network, driven by its spec.

use engine::executor::Progress;
use kernels::activation::{gelu_erf_mul, gelu_tanh_mul, silu_mul};
use kernels::attention::{AttentionShape, PagedBatch, Segment, paged_attention};
use kernels::embedding::Embedding;
use kernels::kv::{KvCache, KvRows, KvShape};
use kernels::linear::Linear;
use kernels::norm::{RmsNorm, add_normalize, normalize, normalize_heads};
use kernels::rope::RopeTable;
use kernels::{Compute, Rows, RowsMut};

use crate::load::LoadError;
use crate::source::{Part, Source};
use crate::spec::{DecoderSpec, GatedActivation, Head, QkNorm};
use crate::tensors::{EMBEDDING, FINAL_NORM, HEAD};

/// A network with its weights and the buffers of one step.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// Told of every layer.
    pub(crate) progress: Progress,
    spec: DecoderSpec,
    /// `None` when the head's rows are the embedding's.
    embedding: Option<Embedding>,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    head: Linear,
    rope: RopeTable,
    buffers: Buffers,
}

/// What a network is to have room for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// Positions of the longest sequence.
    pub(crate) positions: u32,
    /// Rows of the longest step.
    pub(crate) rows: usize,
    /// Most sequences of a step that sample.
    pub(crate) samples: usize,
}

#[derive(Debug)]
struct Layer {
    window: Option<u32>,
    input_norm: Vec<f32>,
    qkv: Linear,
    /// Weights of the norms on heads of q and of k.
    qk_norm: Option<(Vec<f32>, Vec<f32>)>,
    output: Linear,
    ffn_norm: Vec<f32>,
    gate_up: Linear,
    down: Linear,
}

/// Rows of all widths, long enough for the largest step.
#[derive(Debug)]
struct Buffers {
    rows_max: usize,
    residual: Vec<f32>,
    normed: Vec<f32>,
    qkv: Vec<f32>,
    attended: Vec<f32>,
    gate_up: Vec<f32>,
    gated: Vec<f32>,
    /// What attention or MLP adds to the residual.
    update: Vec<f32>,
    logits: Vec<f32>,
    /// Positions and segments of the sampled rows alone, for the last layer.
    last_segments: Vec<Segment>,
}

/// The rows of one step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batch<'a> {
    /// The token of each row.
    pub(crate) tokens: &'a [u32],
    /// Its position in its sequence.
    pub(crate) positions: &'a [u32],
    /// Where its key and value go: `block * block_tokens + offset`.
    pub(crate) slots: &'a [u32],
    /// The sequences; together they cover all rows, in order.
    pub(crate) segments: &'a [Segment],
    /// The blocks of all sequences.
    pub(crate) tables: &'a [u32],
    /// Segments whose last row goes through the head, ascending.
    pub(crate) sampled: &'a [usize],
}

impl Decoder {
    /// Packs the weights and reserves the buffers.
    pub(crate) fn load(
        spec: &DecoderSpec,
        source: &mut Source,
        room: &Room,
    ) -> Result<Self, LoadError> {
        let head = |source: &mut Source, name: &str| {
            let part = Part {
                name: name.to_owned(),
                outputs: spec.vocab,
            };
            source.linear_and_bias(part, spec.hidden, None)
        };
        let (embedding, head) = match spec.head {
            Head::Tied => (None, head(source, without_suffix(EMBEDDING))?),
            Head::Own => {
                let embedding = source.embedding(EMBEDDING, spec.vocab, spec.hidden)?;
                (Some(embedding), head(source, without_suffix(HEAD))?)
            }
        };
        let q = spec.heads * spec.head_dim;
        let qkv = q + 2 * spec.kv_heads * spec.head_dim;
        let largest = spec.hidden * qkv.max(2 * spec.ffn);
        let layers = source.layers(spec.windows.len(), largest, |source, index| {
            Layer::load(spec, source, index)
        })?;
        Ok(Self {
            progress: Progress::default(),
            embedding,
            layers,
            norm: source.scale(FINAL_NORM, spec.hidden)?,
            head,
            rope: RopeTable::new(
                &spec.rope.inverse_frequencies(spec.head_dim),
                1.0,
                room.positions as usize,
            ),
            buffers: Buffers::new(spec, room),
            spec: spec.clone(),
        })
    }

    /// Computes all rows, writing their keys and values to `cache`. Afterwards [`Self::logits`]
    /// gives the logits of the sampled ones.
    pub(crate) fn forward(
        &mut self,
        compute: &mut Compute,
        cache: &mut KvCache,
        batch: &Batch<'_>,
    ) {
        self.embed(compute, batch);
        for index in 0..self.layers.len() {
            self.progress.made();
            self.layer(compute, cache, batch, index);
        }
    }

    /// Computes the first layer alone: all memory that a step of so many rows needs, in a fraction
    /// of its time.
    pub(crate) fn touch(&mut self, compute: &mut Compute, cache: &mut KvCache, batch: &Batch<'_>) {
        self.embed(compute, batch);
        self.layer(compute, cache, batch, 0);
    }

    /// From tokens to `residual` and the first layer's `normed`.
    fn embed(&mut self, compute: &mut Compute, batch: &Batch<'_>) {
        let rows = batch.tokens.len();
        assert!(
            rows <= self.buffers.rows_max,
            "{rows} rows in {:?}",
            self.buffers.rows_max
        );
        let hidden = self.spec.hidden;
        let residual = &mut self.buffers.residual[..rows * hidden];
        match &self.embedding {
            Some(embedding) => embedding.gather(compute, batch.tokens, residual),
            None => self.head.gather(compute, batch.tokens, residual),
        }
        let first = RmsNorm {
            weight: &self.layers[0].input_norm,
            eps: self.spec.norm_eps,
        };
        normalize(
            compute,
            residual,
            &first,
            &mut self.buffers.normed[..rows * hidden],
        );
    }

    /// One layer, from its `normed` to that of the next.
    fn layer(
        &mut self,
        compute: &mut Compute,
        cache: &mut KvCache,
        batch: &Batch<'_>,
        index: usize,
    ) {
        let rows = batch.tokens.len();
        self.keys_and_values(compute, cache, batch, index);
        let paged = PagedBatch {
            cache,
            layer: index,
            segments: batch.segments,
            tables: batch.tables,
        };
        if index + 1 < self.layers.len() || batch.sampled.len() == rows {
            self.attend_and_transform(compute, &paged, rows);
        } else if !batch.sampled.is_empty() {
            // Nobody reads the last layer's other rows.
            self.keep_sampled(batch);
            let last_segments = std::mem::take(&mut self.buffers.last_segments);
            let paged = PagedBatch {
                segments: &last_segments,
                ..paged
            };
            self.attend_and_transform(compute, &paged, batch.sampled.len());
            self.buffers.last_segments = last_segments;
        }
    }

    /// The logits `[samples, vocab]` of some of the last step's sampled rows; at most
    /// [`Self::logits_rows`] at once.
    pub(crate) fn logits(
        &mut self,
        compute: &mut Compute,
        samples: std::ops::Range<usize>,
    ) -> &[f32] {
        assert!(samples.len() <= self.logits_rows(), "{samples:?}");
        let hidden = self.spec.hidden;
        let normed = &self.buffers.normed[samples.start * hidden..samples.end * hidden];
        let logits = &mut self.buffers.logits[..samples.len() * self.spec.vocab];
        self.head.forward(compute, normed, logits);
        logits
    }

    /// The cache this network needs.
    pub(crate) fn kv_shape(spec: &DecoderSpec, blocks: usize, block_tokens: usize) -> KvShape {
        KvShape {
            layers: spec.windows.len(),
            blocks,
            block_tokens,
            kv_heads: spec.kv_heads,
            head_dim: spec.head_dim,
        }
    }

    /// Rows of the longest step.
    pub(crate) fn rows_max(&self) -> usize {
        self.buffers.rows_max
    }

    /// Positions of the longest sequence.
    pub(crate) fn positions(&self) -> usize {
        self.rope.positions()
    }

    /// Rows that the head computes at once.
    pub(crate) fn logits_rows(&self) -> usize {
        self.buffers.logits.len() / self.spec.vocab
    }

    /// From `normed` to queries in `qkv` and keys and values in the cache.
    fn keys_and_values(
        &mut self,
        compute: &mut Compute,
        cache: &mut KvCache,
        batch: &Batch<'_>,
        index: usize,
    ) {
        let (spec, layer) = (&self.spec, &self.layers[index]);
        let rows = batch.tokens.len();
        let (q, kv) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let width = q + 2 * kv;
        let qkv = &mut self.buffers.qkv[..rows * width];
        layer
            .qkv
            .forward(compute, &self.buffers.normed[..rows * spec.hidden], qkv);
        if let Some((q_weight, k_weight)) = &layer.qk_norm {
            for (first, columns, weight) in [(0, q, q_weight), (q, kv, k_weight)] {
                let norm = RmsNorm {
                    weight,
                    eps: spec.norm_eps,
                };
                normalize_heads(
                    compute,
                    &mut RowsMut::new(qkv, width, first, columns),
                    &norm,
                );
            }
        }
        // Queries and keys stand side by side and turn alike.
        let mut turned = RowsMut::new(qkv, width, 0, q + kv);
        self.rope
            .apply(compute, &mut turned, spec.head_dim, batch.positions);
        let rows = KvRows {
            slots: batch.slots,
            k: Rows::new(qkv, width, q, kv),
            v: Rows::new(qkv, width, q + kv, kv),
        };
        cache.write(compute, index, &rows);
    }

    /// From queries in `qkv` to the next layer's `normed`; the last layer's is the head's input.
    fn attend_and_transform(&mut self, compute: &mut Compute, batch: &PagedBatch<'_>, rows: usize) {
        let (spec, layer) = (&self.spec, &self.layers[batch.layer]);
        let next_norm = match self.layers.get(batch.layer + 1) {
            Some(next) => &next.input_norm,
            None => &self.norm,
        };
        let Buffers {
            residual,
            normed,
            qkv,
            attended,
            gate_up,
            gated,
            update,
            ..
        } = &mut self.buffers;
        let (q, kv) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let residual = &mut residual[..rows * spec.hidden];
        let normed = &mut normed[..rows * spec.hidden];
        let update = &mut update[..rows * spec.hidden];
        let attended = &mut attended[..rows * q];

        let shape = AttentionShape {
            heads: spec.heads,
            kv_heads: spec.kv_heads,
            head_dim: spec.head_dim,
            scale: 1.0 / (spec.head_dim as f32).sqrt(),
            window: layer.window,
            softcap: None,
        };
        let queries = Rows::new(&qkv[..rows * (q + 2 * kv)], q + 2 * kv, 0, q);
        paged_attention(compute, &shape, queries, batch, attended);
        layer.output.forward(compute, attended, update);
        let norm = RmsNorm {
            weight: &layer.ffn_norm,
            eps: spec.norm_eps,
        };
        add_normalize(compute, residual, update, &norm, normed);

        let inputs = normed.chunks(FFN_ROWS_MAX * spec.hidden);
        for (x, y) in inputs.zip(update.chunks_mut(FFN_ROWS_MAX * spec.hidden)) {
            let rows = x.len() / spec.hidden;
            let gate_up = &mut gate_up[..rows * 2 * spec.ffn];
            let gated = &mut gated[..rows * spec.ffn];
            layer.gate_up.forward(compute, x, gate_up);
            match spec.activation {
                GatedActivation::Silu => silu_mul(compute, gate_up, spec.ffn, gated),
                GatedActivation::GeluTanh => gelu_tanh_mul(compute, gate_up, spec.ffn, gated),
                GatedActivation::GeluErf => gelu_erf_mul(compute, gate_up, spec.ffn, gated),
            }
            layer.down.forward(compute, gated, y);
        }
        let norm = RmsNorm {
            weight: next_norm,
            eps: spec.norm_eps,
        };
        add_normalize(compute, residual, update, &norm, normed);
    }

    /// Moves the sampled rows of `residual` and `qkv` to the front, each a segment of its own.
    fn keep_sampled(&mut self, batch: &Batch<'_>) {
        let spec = &self.spec;
        let width = (spec.heads + 2 * spec.kv_heads) * spec.head_dim;
        let Buffers {
            residual,
            qkv,
            last_segments,
            ..
        } = &mut self.buffers;
        last_segments.clear();
        for (to, &index) in batch.sampled.iter().enumerate() {
            let segment = &batch.segments[index];
            let from = segment.rows.end - 1;
            residual.copy_within(
                from * spec.hidden..(from + 1) * spec.hidden,
                to * spec.hidden,
            );
            qkv.copy_within(from * width..(from + 1) * width, to * width);
            last_segments.push(Segment {
                rows: to..to + 1,
                start: batch.positions[from],
                table: segment.table.clone(),
            });
        }
    }
}

impl Layer {
    fn load(spec: &DecoderSpec, source: &mut Source, index: usize) -> Result<Self, LoadError> {
        let at = format!("model.layers.{index}.");
        let part = |name: &str, outputs| Part {
            name: format!("{at}{name}_proj"),
            outputs,
        };
        let (q, kv) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let qkv = [
            part("self_attn.q", q),
            part("self_attn.k", kv),
            part("self_attn.v", kv),
        ];
        let gate_up = [part("mlp.gate", spec.ffn), part("mlp.up", spec.ffn)];
        let mut vector = |name: &str, width| source.scale(&format!("{at}{name}.weight"), width);
        let input_norm = vector("input_layernorm", spec.hidden)?;
        let ffn_norm = vector("post_attention_layernorm", spec.hidden)?;
        let qk_norm = match spec.qk_norm {
            QkNorm::None => None,
            QkNorm::PerHead => Some((
                vector("self_attn.q_norm", spec.head_dim)?,
                vector("self_attn.k_norm", spec.head_dim)?,
            )),
        };
        Ok(Self {
            window: spec.windows[index],
            input_norm,
            qkv: source.linear(&qkv, spec.hidden, spec.bias.qkv)?,
            qk_norm,
            output: source.linear(&[part("self_attn.o", spec.hidden)], q, spec.bias.output)?,
            ffn_norm,
            gate_up: source.linear(&gate_up, spec.hidden, spec.bias.mlp)?,
            down: source.linear(&[part("mlp.down", spec.hidden)], spec.ffn, spec.bias.mlp)?,
        })
    }
}

impl Room {
    /// Bytes of the tables and buffers of a network.
    pub(crate) fn bytes(&self, spec: &DecoderSpec) -> u64 {
        let (q, kv) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let rows = self.rows * (3 * spec.hidden + 2 * q + 2 * kv);
        let ffn = self.rows.min(FFN_ROWS_MAX) * 3 * spec.ffn;
        let rope = self.positions as usize * spec.head_dim;
        4 * (rows + ffn + rope + self.logits_rows() * spec.vocab) as u64
    }

    fn logits_rows(&self) -> usize {
        let samples = self.samples.min(self.rows);
        samples.clamp(1, LOGITS_ROWS_MAX)
    }
}

impl Buffers {
    fn new(spec: &DecoderSpec, room: &Room) -> Self {
        let rows_max = room.rows;
        let rows = |width: usize| vec![0.0; rows_max * width];
        let (q, kv) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let ffn_rows = rows_max.min(FFN_ROWS_MAX);
        Self {
            rows_max,
            residual: rows(spec.hidden),
            normed: rows(spec.hidden),
            qkv: rows(q + 2 * kv),
            attended: rows(q),
            gate_up: vec![0.0; ffn_rows * 2 * spec.ffn],
            gated: vec![0.0; ffn_rows * spec.ffn],
            update: rows(spec.hidden),
            logits: vec![0.0; room.logits_rows() * spec.vocab],
            last_segments: Vec::new(),
        }
    }
}

fn without_suffix(name: &str) -> &str {
    name.trim_end_matches(".weight")
}

/// 64: at 128k words 32 MiB of logits, and enough rows to read the head's weights rarely.
const LOGITS_ROWS_MAX: usize = 64;
/// 512: the MLP's buffers, the widest, stay small in long steps, and its weights are read rarely.
const FFN_ROWS_MAX: usize = 512;
