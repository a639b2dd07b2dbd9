//! A decoder's network that makes vectors: its layers over a whole text at once, no head, no KV cache
//! (Qwen3-Embedding, E5-Mistral, GTE-Qwen2).

use kernels::attention::Look;
use serde_json::json;

use crate::config::Config;
use crate::load::LoadError;
use crate::spec::{
    DecoderSpec, EncoderBias, EncoderHead, EncoderSpec, Mlp, Names, NormKind, Norms, Positions,
};

/// The decoder as an encoder.
pub(crate) fn spec(config: &Config, decoder: &DecoderSpec) -> Result<EncoderSpec, LoadError> {
    let looks_back =
        config.flag("is_causal", true)? && !config.flag("use_bidirectional_attention", false)?;
    if !looks_back && decoder.windows.iter().any(Option::is_some) {
        let message = "sliding_window beside attention to both sides".to_owned();
        return Err(config.error(message));
    }
    Ok(EncoderSpec {
        vocab: decoder.vocab,
        hidden: decoder.hidden,
        ffn: decoder.ffn,
        heads: decoder.heads,
        kv_heads: decoder.kv_heads,
        head_dim: decoder.head_dim,
        look: if looks_back { Look::Back } else { Look::Around },
        windows: decoder.windows.clone(),
        positions: Positions::Rotary {
            context: decoder.context_max as usize,
            full: decoder.rope,
            windowed: None,
        },
        distance: None,
        qk_norm: decoder.qk_norm,
        segments: 0,
        norm: NormKind::Rms,
        norm_eps: decoder.norm_eps,
        norms: Norms::BeforeAll,
        bias: EncoderBias {
            qkv: decoder.bias.qkv,
            output: decoder.bias.output,
            up: decoder.bias.mlp,
            down: decoder.bias.mlp,
        },
        mlp: Mlp::Gated(decoder.activation),
        head: EncoderHead::Vectors(Vec::new()),
        names: &NAMES,
    })
}

/// Refuses to continue text with a network that was made to see both sides of a token.
pub(crate) fn refuse_both_sides(config: &Config) -> Result<(), LoadError> {
    config.only("is_causal", &[json!(true)])?;
    config.only("use_bidirectional_attention", &[json!(false)])
}

const NAMES: Names = Names {
    base: "model.",
    tokens: "embed_tokens",
    positions: "",
    segments: "",
    distance: "",
    embedding_norm: "layers.0.input_layernorm",
    layer: "layers.",
    qkv: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    qk_norm: ["self_attn.q_norm", "self_attn.k_norm"],
    output: "self_attn.o_proj",
    attention_norm: "input_layernorm",
    up: &["mlp.gate_proj", "mlp.up_proj"],
    down: "mlp.down_proj",
    ffn_norm: "post_attention_layernorm",
    final_norm: "norm",
    spare: &["lm_head."],
};
