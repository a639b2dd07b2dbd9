//! The names and shapes of a network's tensors, as Hugging Face stores them.

use crate::spec::{DecoderSpec, EncoderSpec, Head, QkNorm};

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

/// The tensors of an encoder; names start with `prefix`.
pub(crate) fn encoder(spec: &EncoderSpec, prefix: &str) -> Vec<Expected> {
    let mut list = List::default();
    let hidden = spec.hidden;
    for (name, rows) in [
        ("word", spec.vocab),
        ("position", spec.positions),
        ("token_type", spec.segments),
    ] {
        list.add(
            &format!("{prefix}embeddings.{name}_embeddings.weight"),
            &[rows, hidden],
        );
    }
    list.norm(&format!("{prefix}embeddings.LayerNorm"), hidden);
    for layer in 0..spec.layers {
        let at = format!("{prefix}encoder.layer.{layer}.");
        for name in ["query", "key", "value"] {
            list.biased(&format!("{at}attention.self.{name}"), hidden, hidden);
        }
        list.biased(&format!("{at}attention.output.dense"), hidden, hidden);
        list.norm(&format!("{at}attention.output.LayerNorm"), hidden);
        list.biased(&format!("{at}intermediate.dense"), spec.ffn, hidden);
        list.biased(&format!("{at}output.dense"), hidden, spec.ffn);
        list.norm(&format!("{at}output.LayerNorm"), hidden);
    }
    list.0
}

/// Tensors of BERT files that embeddings do not need: position numbers, pooler and task heads.
pub(crate) fn encoder_ignores(name: &str) -> bool {
    let own = name.strip_prefix(BERT).unwrap_or(name);
    own == "embeddings.position_ids" || own.starts_with("pooler.") || name.starts_with("cls.")
}

/// What a BERT file saved with a head on top puts before each name.
pub(crate) const BERT: &str = "bert.";
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

    fn norm(&mut self, name: &str, width: usize) {
        self.add(&format!("{name}.weight"), &[width]);
        self.add(&format!("{name}.bias"), &[width]);
    }
}
