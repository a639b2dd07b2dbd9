//! Where hostile files come in, one function each: for the fuzzers in `fuzz/`, and for the test that
//! replays their corpora. A function returns whatever it was given; what must not be is a panic.

use crate::files::ModelFiles;
use crate::load::{LoadFormat, LoadOptions, Threads, plan};
use crate::tensors::Expected;
use crate::weights::Weights;

/// A name, and what takes the bytes.
pub type Target = (&'static str, fn(&[u8]));

/// Every way in that this crate has.
pub const TARGETS: &[Target] = &[
    ("config", config),
    ("safetensors", safetensors),
    ("sentence", sentence),
];

/// An encoder that a `modules.json` may stand beside.
const BERT: &[u8] = br#"{"architectures": ["BertModel"], "hidden_act": "gelu", "hidden_size": 48,
    "intermediate_size": 96, "max_position_embeddings": 64, "num_attention_heads": 3,
    "num_hidden_layers": 2, "type_vocab_size": 2, "vocab_size": 100}"#;

/// A config.json.
pub fn config(bytes: &[u8]) {
    describe(&[("config.json", bytes)]);
}

/// A modules.json beside a sound config.json, and the file of the pooling it may name.
pub fn sentence(bytes: &[u8]) {
    describe(&[
        ("config.json", BERT),
        ("modules.json", bytes),
        ("sentence_bert_config.json", bytes),
        ("1_Pooling/config.json", bytes),
    ]);
}

fn describe(files: &[(&'static str, &[u8])]) {
    let options = LoadOptions {
        dtype: None,
        format: LoadFormat::Dummy,
        kv_cache_bytes: 1 << 20,
        block_tokens: 16,
        context_max: None,
        wanted: None,
        running_max: 4,
        step_tokens_max: 32,
        threads: Threads::new(1),
    };
    if let Ok((info, plan)) = plan(&in_memory(files), &options) {
        assert!(info.vocab > 0 && info.context_max > 0);
        assert!(plan.total_bytes() > 0);
    }
}

/// A file of weights, of which two are expected.
pub fn safetensors(bytes: &[u8]) {
    let expected = [("a", vec![2, 3]), ("b", vec![4])].map(|(name, shape)| Expected {
        name: name.to_owned(),
        shape,
    });
    let Ok(weights) = Weights::open(&in_memory(&[("model.safetensors", bytes)])) else {
        return;
    };
    if weights.check(&expected, |_| true).is_ok() {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        let read = weights
            .append_f32("a", &mut a)
            .and(weights.append_bf16("b", &mut b));
        assert!(read.is_err() || (a.len(), b.len()) == (6, 4));
    }
}

/// Not in a folder: a million of those take minutes to make.
fn in_memory(files: &[(&'static str, &[u8])]) -> ModelFiles {
    let file = |(name, bytes): &(&'static str, &[u8])| (*name, bytes.to_vec());
    ModelFiles::Memory(files.iter().map(file).collect())
}
