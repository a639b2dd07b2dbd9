//! What a model takes of a machine's memory, known from its configuration alone.

use crate::files::ModelFiles;
use crate::load::{self, LoadError, LoadOptions, ModelInfo};
use crate::spec::Network;

/// Bytes a model takes once it is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Its weights, as they are kept.
    pub weights_bytes: u64,
    /// Its KV cache; 0 for an encoder.
    pub kv_bytes: u64,
    /// The buffers of one step, and tables that are computed at load.
    pub buffers_bytes: u64,
}

impl MemoryPlan {
    /// All of it.
    pub fn total_bytes(&self) -> u64 {
        self.weights_bytes
            .saturating_add(self.kv_bytes)
            .saturating_add(self.buffers_bytes)
    }
}

/// What [`load::load`] would take. Fails where it would fail for want of room in the KV cache.
pub fn plan(
    files: &ModelFiles,
    options: &LoadOptions,
) -> Result<(ModelInfo, MemoryPlan), LoadError> {
    let (network, info) = load::describe(files, options)?;
    let (kv_bytes, buffers_bytes) = match &network {
        Network::Decoder(spec) => {
            let shape = load::kv_shape(spec, options, &info)?;
            let kv_bytes = shape.bytes(load::kv_dtype(info.dtype)) as u64;
            (kv_bytes, load::room(options, &info).bytes(spec))
        }
        Network::Encoder(spec) => {
            let input_tokens_max = info.context_max as usize;
            (0, crate::encoder::memory_bytes(spec, input_tokens_max))
        }
    };
    let plan = MemoryPlan {
        weights_bytes: load::weights_bytes(&info),
        kv_bytes,
        buffers_bytes,
    };
    Ok((info, plan))
}
