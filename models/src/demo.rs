//! The demo models, compiled into the binary; `models/demo` has the scripts that made them.

use crate::files::ModelFiles;

/// A small Llama that answers questions about Paternoster and does small sums.
pub fn decoder() -> ModelFiles {
    ModelFiles::Embedded(DECODER)
}

/// A small BERT for sentences, taught by all-MiniLM-L6-v2.
pub fn encoder() -> ModelFiles {
    ModelFiles::Embedded(ENCODER)
}

macro_rules! files {
    ($folder:literal: $($name:literal),+ $(,)?) => {
        &[$(($name, include_bytes!(concat!("../demo/", $folder, "/model/", $name)))),+]
    };
}

const DECODER: &[(&str, &[u8])] = files!(
    "decoder":
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
);

const ENCODER: &[(&str, &[u8])] = files!(
    "encoder":
    "1_Pooling/config.json",
    "config.json",
    "model.safetensors",
    "modules.json",
    "sentence_bert_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
);

#[cfg(test)]
mod tests {
    use engine::executor::Pooling;

    use super::*;
    use crate::load::{Dtype, EmbeddingInfo, LoadFormat, LoadOptions, Loaded, Task, Threads, load};

    fn options() -> LoadOptions {
        LoadOptions {
            dtype: None,
            format: LoadFormat::Safetensors,
            kv_cache_bytes: 64 << 20,
            block_tokens: 16,
            context_max: None,
            wanted: None,
            running_max: 4,
            step_tokens_max: 64,
            threads: Threads::new(1),
        }
    }

    #[test]
    fn both_demo_models_load() {
        let (decoder, info) = load(&decoder(), &options()).unwrap();
        assert!(matches!(decoder, Loaded::Decoder(_)));
        assert_eq!(info.dtype, Dtype::Bf16);
        assert!(!info.end_tokens.is_empty());
        let (encoder, info) = load(&encoder(), &options()).unwrap();
        assert!(matches!(encoder, Loaded::Encoder(_)));
        let embedding = EmbeddingInfo {
            pooling: Pooling::Mean,
            normalize: true,
            width: info.hidden,
        };
        assert_eq!(info.task, Task::Embed(embedding));
    }

    /// The promise of the binary's size.
    #[test]
    fn the_demo_models_fit_twelve_megabytes() {
        let weights = |files: &[(&str, &[u8])]| -> usize {
            files
                .iter()
                .filter(|(name, _)| *name == "model.safetensors")
                .map(|f| f.1.len())
                .sum()
        };
        assert!(weights(DECODER) + weights(ENCODER) <= 12_000_000);
    }
}
