//! Jina's BERT (jina-embeddings-v2): no table of positions but scores that fall with the distance, and
//! a gated MLP.

use serde_json::json;

use crate::config::Config;
use crate::families::{self, ENCODER_KEYS, EncoderKeys, bert};
use crate::load::LoadError;
use crate::spec::{Distance, EncoderBias, GatedActivation, Mlp, Names, Network, Positions};

/// The spec of a `JinaBertModel`, and of the same with a head that nobody asks for.
pub(crate) fn spec(config: &Config) -> Result<Network, LoadError> {
    config.only("feed_forward_type", &[json!("geglu")])?;
    let mlp = Mlp::Gated(GatedActivation::GeluErf);
    let mut spec = families::encoder_with(config, &KEYS, &NAMES, mlp)?;
    spec.bias = EncoderBias {
        up: false,
        ..EncoderBias::ALL
    };
    spec.distance = Some(Distance::Slopes);
    spec.positions = Positions::Unmarked {
        context: spec.context(),
    };
    Ok(Network::Encoder(spec))
}

const KEYS: EncoderKeys = EncoderKeys {
    order: "alibi",
    ..ENCODER_KEYS
};

const NAMES: Names = Names {
    positions: "",
    up: &["mlp.gated_layers"],
    down: "mlp.wo",
    ffn_norm: "mlp.layernorm",
    ..bert::NAMES
};
