//! BERT and what shares its architecture (MiniLM, BGE, E5 and GTE in their first versions).

use kernels::activation::Activation;
use serde_json::json;

use crate::config::Config;
use crate::families::{CONTEXT_MAX, HEAD_DIM_MAX, HEADS_MAX, LAYERS_MAX, VOCAB_MAX, WIDTH_MAX};
use crate::load::LoadError;
use crate::spec::{EncoderSpec, Network};

/// The spec of a `BertModel` or `BertForMaskedLM`, of which only the encoder is used.
pub(crate) fn spec(config: &Config) -> Result<Network, LoadError> {
    config.without("quantization_config")?;
    config.only("position_embedding_type", &[json!("absolute")])?;
    config.only("is_decoder", &[json!(false)])?;
    config.only("add_cross_attention", &[json!(false)])?;
    let hidden = config.count("hidden_size", WIDTH_MAX)?;
    let heads = config.count("num_attention_heads", HEADS_MAX)?;
    if !hidden.is_multiple_of(heads) {
        let expected = format!("a divisor of hidden_size = {hidden}");
        return Err(config.wrong("num_attention_heads", &expected));
    }
    if hidden / heads > HEAD_DIM_MAX {
        let expected = format!("heads of at most {HEAD_DIM_MAX} of hidden_size = {hidden}");
        return Err(config.wrong("num_attention_heads", &expected));
    }
    let activation = match config.text("hidden_act")?.unwrap_or("gelu") {
        "gelu" => Activation::GeluErf,
        "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
        _ => {
            let allowed = [json!("gelu"), json!("gelu_new"), json!("gelu_pytorch_tanh")];
            return Err(config.unsupported("hidden_act", &allowed));
        }
    };
    Ok(Network::Encoder(EncoderSpec {
        vocab: config.count("vocab_size", VOCAB_MAX)? as usize,
        hidden: hidden as usize,
        ffn: config.count("intermediate_size", WIDTH_MAX)? as usize,
        heads: heads as usize,
        layers: config.count("num_hidden_layers", LAYERS_MAX)? as usize,
        positions: config.count("max_position_embeddings", CONTEXT_MAX)? as usize,
        segments: config.count_optional("type_vocab_size", 256)?.unwrap_or(2) as usize,
        norm_eps: config.positive_optional("layer_norm_eps")?.unwrap_or(1e-12) as f32,
        activation,
    }))
}
