//! Qwen 2 and 2.5: Llama with a bias on q, k and v.

use serde_json::json;

use crate::config::Config;
use crate::families::{Defaults, decoder};
use crate::load::LoadError;
use crate::spec::{Bias, Network};

/// The spec of a `Qwen2ForCausalLM`.
pub(crate) fn spec(config: &Config) -> Result<Network, LoadError> {
    let mut spec = decoder(
        config,
        Defaults {
            kv_heads: Some(32),
            head_dim: None,
        },
    )?;
    // `sliding_window` means nothing while this is off.
    config.only("use_sliding_window", &[json!(false)])?;
    spec.bias = Bias {
        qkv: true,
        output: false,
        mlp: false,
    };
    Ok(Network::Decoder(spec))
}
