//! Folders with a real model's shape and random weights from a fixed seed, so that ours and a
//! peer's code read the same bytes.

use std::path::{Path, PathBuf};

use half::bf16;
use safetensors::tensor::{Dtype, TensorView};

/// A Llama-architecture shape.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Its name, for the folder.
    pub name: &'static str,
    /// Width of the hidden state.
    pub hidden: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width inside the MLP.
    pub ffn: usize,
    /// Vocabulary.
    pub vocab: usize,
}

/// SmolLM2-135M: tied embeddings.
pub const SMALL: Shape = Shape {
    name: "smollm2-135m",
    hidden: 576,
    layers: 30,
    heads: 9,
    kv_heads: 3,
    ffn: 1536,
    vocab: 49_152,
};

/// Writes `config.json` and bf16 `model.safetensors` under `parent` once; returns the folder.
pub fn folder(shape: Shape, parent: &Path) -> std::io::Result<PathBuf> {
    let folder = parent.join(shape.name);
    if folder.join("model.safetensors").exists() {
        return Ok(folder);
    }
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("config.json"), config(shape).to_string())?;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = names(shape)
        .into_iter()
        .map(|(name, dims)| {
            let bytes = fill(&dims, &mut random);
            (name, dims, bytes)
        })
        .collect();
    let views = tensors.iter().map(|(name, dims, bytes)| {
        let view = TensorView::new(Dtype::BF16, dims.clone(), bytes).map_err(std::io::Error::other);
        view.map(|view| (name.as_str(), view))
    });
    let views = views.collect::<Result<Vec<_>, _>>()?;
    let bytes = safetensors::serialize(views, None).map_err(std::io::Error::other)?;
    std::fs::write(folder.join("model.safetensors"), bytes)?;
    Ok(folder)
}

fn config(shape: Shape) -> serde_json::Value {
    serde_json::json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "vocab_size": shape.vocab,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": 1e-5,
        "rope_theta": 100_000.0,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": true,
        "torch_dtype": "bfloat16",
        "eos_token_id": 0,
        "bos_token_id": 1,
    })
}

fn names(shape: Shape) -> Vec<(String, Vec<usize>)> {
    let kv = shape.hidden / shape.heads * shape.kv_heads;
    let mut names = vec![
        (
            "model.embed_tokens.weight".to_owned(),
            vec![shape.vocab, shape.hidden],
        ),
        ("model.norm.weight".to_owned(), vec![shape.hidden]),
    ];
    for layer in 0..shape.layers {
        let parts = [
            ("self_attn.q_proj", vec![shape.hidden, shape.hidden]),
            ("self_attn.k_proj", vec![kv, shape.hidden]),
            ("self_attn.v_proj", vec![kv, shape.hidden]),
            ("self_attn.o_proj", vec![shape.hidden, shape.hidden]),
            ("mlp.gate_proj", vec![shape.ffn, shape.hidden]),
            ("mlp.up_proj", vec![shape.ffn, shape.hidden]),
            ("mlp.down_proj", vec![shape.hidden, shape.ffn]),
            ("input_layernorm", vec![shape.hidden]),
            ("post_attention_layernorm", vec![shape.hidden]),
        ];
        for (part, dims) in parts {
            names.push((format!("model.layers.{layer}.{part}.weight"), dims));
        }
    }
    names
}

/// Norm weights are one; matrices are uniform with a standard deviation of 0.02.
fn fill(dims: &[usize], random: &mut Random) -> Vec<u8> {
    let count: usize = dims.iter().product();
    let mut bytes = Vec::with_capacity(2 * count);
    for _ in 0..count {
        let value = if dims.len() == 1 {
            1.0
        } else {
            0.035 * random.unit()
        };
        bytes.extend_from_slice(&bf16::from_f32(value).to_le_bytes());
    }
    bytes
}

/// Xorshift, enough for weights.
struct Random(u64);

impl Random {
    /// Uniform in -1..1.
    fn unit(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 40) as f32 / (1u64 << 23) as f32) - 1.0
    }
}
