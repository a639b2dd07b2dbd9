//! Llama 2, 3, 3.1, 3.2, 3.3, and what shares their architecture (SmolLM2, Falcon 3, Yi).

use crate::config::Config;
use crate::families::{Defaults, decoder};
use crate::load::LoadError;
use crate::spec::{Bias, Network};

/// The spec of a `LlamaForCausalLM`.
pub(crate) fn spec(config: &Config) -> Result<Network, LoadError> {
    let mut spec = decoder(
        config,
        Defaults {
            kv_heads: None,
            head_dim: None,
        },
    )?;
    let attention = config.flag("attention_bias", false)?;
    spec.bias = Bias {
        qkv: attention,
        output: attention,
        mlp: config.flag("mlp_bias", false)?,
    };
    Ok(Network::Decoder(spec))
}
