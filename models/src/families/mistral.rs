//! Mistral 7B and Nemo: Llama with a sliding window (v0.1) or wider heads (Nemo).

use crate::config::Config;
use crate::families::{CONTEXT_MAX, Defaults, decoder, windows};
use crate::load::LoadError;
use crate::spec::Network;

/// The spec of a `MistralForCausalLM`.
pub(crate) fn spec(config: &Config) -> Result<Network, LoadError> {
    let mut spec = decoder(
        config,
        Defaults {
            kv_heads: Some(8),
            head_dim: None,
        },
    )?;
    // Absent is transformers' default of 4096, null is none.
    let window = if config.has("sliding_window") {
        config.count_optional("sliding_window", CONTEXT_MAX)?
    } else {
        Some(4096)
    };
    spec.windows = windows(config, window, spec.windows.len())?;
    Ok(Network::Decoder(spec))
}
