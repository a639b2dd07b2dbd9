//! Qwen 3, dense: Llama with a norm on each head of q and k.

use serde_json::json;

use crate::config::Config;
use crate::families::{Defaults, decoder};
use crate::load::LoadError;
use crate::spec::{Bias, Network, QkNorm};

/// The spec of a `Qwen3ForCausalLM`.
pub(crate) fn spec(config: &Config) -> Result<Network, LoadError> {
    let mut spec = decoder(
        config,
        Defaults {
            kv_heads: Some(32),
            head_dim: Some(128),
        },
    )?;
    config.only("use_sliding_window", &[json!(false)])?;
    let attention = config.flag("attention_bias", false)?;
    spec.bias = Bias {
        qkv: attention,
        output: attention,
        mlp: false,
    };
    spec.qk_norm = QkNorm::PerHead;
    Ok(Network::Decoder(spec))
}
