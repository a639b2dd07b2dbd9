//! The names and shapes of a network's tensors, as Hugging Face stores them.

use crate::spec::{
    DecoderSpec, Dense, Distance, DistanceBuckets, EncoderHead, EncoderSpec, Head, Names, NormKind,
    Positions, QkNorm,
};

/// One tensor a checkpoint must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    /// Its name.
    pub(crate) name: String,
    /// Its dimensions, outermost first.
    pub(crate) shape: Vec<usize>,
}

/// The number of values of all tensors.
pub(crate) fn parameters(expected: &[Expected]) -> u64 {
    expected
        .iter()
        .map(|tensor| tensor.shape.iter().map(|&n| n as u64).product::<u64>())
        .sum()
}

/// The tensors of a decoder.
pub(crate) fn decoder(spec: &DecoderSpec) -> Vec<Expected> {
    let mut list = List::default();
    list.add(EMBEDDING, &[spec.vocab, spec.hidden]);
    for layer in 0..spec.windows.len() {
        decoder_layer(spec, &format!("model.layers.{layer}."), &mut list);
    }
    list.add(FINAL_NORM, &[spec.hidden]);
    if spec.head == Head::Own {
        list.add(HEAD, &[spec.vocab, spec.hidden]);
    }
    list.0
}

fn decoder_layer(spec: &DecoderSpec, at: &str, list: &mut List) {
    let (q, kv) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
    list.add(&format!("{at}input_layernorm.weight"), &[spec.hidden]);
    for (name, outputs) in [("q", q), ("k", kv), ("v", kv)] {
        list.linear(
            &format!("{at}self_attn.{name}_proj"),
            outputs,
            spec.hidden,
            spec.bias.qkv,
        );
    }
    if spec.qk_norm == QkNorm::PerHead {
        list.add(&format!("{at}self_attn.q_norm.weight"), &[spec.head_dim]);
        list.add(&format!("{at}self_attn.k_norm.weight"), &[spec.head_dim]);
    }
    list.linear(
        &format!("{at}self_attn.o_proj"),
        spec.hidden,
        q,
        spec.bias.output,
    );
    list.add(
        &format!("{at}post_attention_layernorm.weight"),
        &[spec.hidden],
    );
    for name in ["gate", "up"] {
        list.linear(
            &format!("{at}mlp.{name}_proj"),
            spec.ffn,
            spec.hidden,
            spec.bias.mlp,
        );
    }
    list.linear(
        &format!("{at}mlp.down_proj"),
        spec.hidden,
        spec.ffn,
        spec.bias.mlp,
    );
}

/// Tensors some decoders' files have and nobody reads: frequencies, and the copy of a tied head.
pub(crate) fn decoder_ignores(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq")
}

/// The same for a tied head, of which some files have a copy.
pub(crate) fn tied_decoder_ignores(name: &str) -> bool {
    name == HEAD || decoder_ignores(name)
}

/// The tensors of an encoder's own file; those of the network itself start with `prefix`.
pub(crate) fn encoder(spec: &EncoderSpec, prefix: &str) -> Vec<Expected> {
    let mut list = List::default();
    let (names, hidden) = (spec.names, spec.hidden);
    list.add(
        &format!("{prefix}{}.weight", names.tokens),
        &[spec.vocab, hidden],
    );
    if let Positions::Table { rows, .. } = spec.positions {
        list.add(
            &format!("{prefix}{}.weight", names.positions),
            &[rows, hidden],
        );
    }
    if spec.segments > 0 {
        list.add(
            &format!("{prefix}{}.weight", names.segments),
            &[spec.segments, hidden],
        );
    }
    if let Some(Distance::Buckets(DistanceBuckets { buckets, .. })) = spec.distance {
        let table = format!("{prefix}{}.weight", names.distance);
        list.add(&table, &[buckets, spec.heads]);
    }
    let norm = spec.norm == NormKind::Biased;
    list.norm(&format!("{prefix}{}", names.embedding_norm), hidden, norm);
    for layer in 0..spec.windows.len() {
        encoder_layer(spec, prefix, layer, &mut list);
    }
    match &spec.head {
        // The modules have files of their own.
        EncoderHead::Vectors(_) => {}
        EncoderHead::Classifier(classifier) => {
            for layer in &classifier.layers {
                list.dense(layer, norm);
            }
        }
        EncoderHead::Vocabulary(vocabulary) => {
            list.dense(&vocabulary.transform, norm);
            if let Some(bias) = vocabulary.bias {
                list.add(bias, &[spec.vocab]);
            }
        }
    }
    list.0
}

fn encoder_layer(spec: &EncoderSpec, prefix: &str, layer: usize, list: &mut List) {
    let (names, hidden, bias) = (spec.names, spec.hidden, spec.bias);
    let norm = spec.norm == NormKind::Biased;
    let at = format!("{prefix}{}{layer}.", names.layer);
    for (name, outputs) in names.qkv.iter().zip(qkv_outputs(spec)) {
        list.linear(&format!("{at}{name}"), outputs, hidden, bias.qkv);
    }
    if spec.qk_norm == QkNorm::PerHead {
        for name in names.qk_norm {
            list.norm(&format!("{at}{name}"), spec.head_dim, norm);
        }
    }
    list.linear(
        &format!("{at}{}", names.output),
        hidden,
        spec.q_width(),
        bias.output,
    );
    let after = format!("{prefix}{}", spec.after_attention(layer));
    list.norm(&after, hidden, norm);
    for name in names.up {
        let outputs = spec.up_rows() / names.up.len();
        list.linear(&format!("{at}{name}"), outputs, hidden, bias.up);
    }
    list.linear(&format!("{at}{}", names.down), hidden, spec.ffn, bias.down);
    let after = format!("{prefix}{}", spec.after_ffn(layer));
    list.norm(&after, hidden, norm);
}

/// Rows of each tensor of queries, keys and values, of which there are one or three.
pub(crate) fn qkv_outputs(spec: &EncoderSpec) -> impl Iterator<Item = usize> {
    let (q, kv) = (spec.q_width(), spec.kv_width());
    let outputs = match spec.names.qkv.len() {
        1 => [q + 2 * kv, 0, 0],
        _ => [q, kv, kv],
    };
    outputs.into_iter().take(spec.names.qkv.len())
}

/// The tensors of a Dense module's file.
pub(crate) fn dense(layer: &Dense) -> Vec<Expected> {
    let mut list = List::default();
    list.linear(layer.name, layer.outputs, layer.inputs, layer.bias);
    list.0
}

/// Tensors of an encoder's file that its task does not need.
pub(crate) fn encoder_ignores(names: &Names, name: &str) -> bool {
    if decoder_ignores(name) {
        return true;
    }
    let own = name.strip_prefix(names.base).unwrap_or(name);
    let spare = names.spare.iter();
    spare
        .copied()
        .any(|spare| own.starts_with(spare) || name.starts_with(spare))
}

pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
pub(crate) const FINAL_NORM: &str = "model.norm.weight";
pub(crate) const HEAD: &str = "lm_head.weight";

#[derive(Debug, Default)]
struct List(Vec<Expected>);

impl List {
    fn add(&mut self, name: &str, shape: &[usize]) {
        self.0.push(Expected {
            name: name.to_owned(),
            shape: shape.to_vec(),
        });
    }

    fn linear(&mut self, name: &str, outputs: usize, inputs: usize, bias: bool) {
        if bias {
            return self.biased(name, outputs, inputs);
        }
        self.add(&format!("{name}.weight"), &[outputs, inputs]);
    }

    fn biased(&mut self, name: &str, outputs: usize, inputs: usize) {
        self.add(&format!("{name}.weight"), &[outputs, inputs]);
        self.add(&format!("{name}.bias"), &[outputs]);
    }

    fn norm(&mut self, name: &str, width: usize, bias: bool) {
        self.add(&format!("{name}.weight"), &[width]);
        if bias {
            self.add(&format!("{name}.bias"), &[width]);
        }
    }

    fn dense(&mut self, layer: &Dense, norm_bias: bool) {
        self.linear(layer.name, layer.outputs, layer.inputs, layer.bias);
        if let Some(norm) = layer.norm {
            self.norm(norm, layer.outputs, norm_bias);
        }
    }
}
