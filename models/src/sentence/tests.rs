//! Files of sentence-transformers: what they say is taken, what is not supported is refused.

use super::*;
use crate::registry;
use crate::spec::Network;

const MODULE_LIST: &[u8] = br#"[
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}]"#;
const DENSE: &[u8] = br#"[{"path": "2_Dense", "type": "sentence_transformers.models.Dense"}]"#;
const WITH_DENSE: &[u8] = br#"[
    {"path": "", "type": "sentence_transformers.models.Transformer"},
    {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"path": "2_Dense", "type": "sentence_transformers.models.Dense"},
    {"path": "3_Dense", "type": "sentence_transformers.base.modules.dense.Dense"}]"#;
const DENSE_LATE: &[u8] = br#"[
    {"path": "", "type": "sentence_transformers.models.Transformer"},
    {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    {"path": "3_Dense", "type": "sentence_transformers.models.Dense"}]"#;
const SPLADE: &[u8] = br#"[
    {"path": "", "type": "sentence_transformers.sparse_encoder.models.MLMTransformer"},
    {"path": "1_SpladePooling",
     "type": "sentence_transformers.sparse_encoder.models.SpladePooling"}]"#;
const UNKNOWN: &[u8] = br#"[{"path": "", "type": "sentence_transformers.models.CNN"}]"#;
const NARROW: &[u8] = br#"{"in_features": 384, "out_features": 64, "bias": true,
    "activation_function": "torch.nn.modules.activation.Tanh"}"#;
const PLAIN: &[u8] = br#"{"in_features": 64, "out_features": 16, "bias": false,
    "activation_function": "torch.nn.modules.linear.Identity"}"#;
const IN_FOLDER: &[u8] = br#"[
    {"path": "0_Transformer", "type": "sentence_transformers.models.Transformer"},
    {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]"#;
const TURNED: &[u8] = br#"[
    {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"path": "", "type": "sentence_transformers.models.Transformer"}]"#;
const TWICE: &[u8] = br#"[
    {"path": "", "type": "sentence_transformers.models.Transformer"},
    {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"path": "2_Pooling", "type": "sentence_transformers.models.Pooling"}]"#;
const LOWER: &[u8] = br#"{"do_lower_case": true}"#;
const NO_PROMPT: &[u8] = br#"{"pooling_mode_cls_token": true, "include_prompt": false}"#;
const MEAN: &[u8] = br#"{"word_embedding_dimension": 384, "pooling_mode_cls_token": false,
    "pooling_mode_mean_tokens": true, "pooling_mode_max_tokens": false}"#;
const CLS: &[u8] = br#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}"#;
const MAX: &[u8] = br#"{"pooling_mode_max_tokens": true}"#;
const BOTH: &[u8] = br#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true}"#;

fn in_memory(files: &[(&'static str, &'static [u8])]) -> ModelFiles {
    ModelFiles::Memory(
        files
            .iter()
            .map(|&(name, bytes)| (name, bytes.to_vec()))
            .collect(),
    )
}

fn read(files: &[(&'static str, &'static [u8])]) -> Result<Sentence, LoadError> {
    let bert = r#"{"architectures": ["BertModel"], "vocab_size": 100, "hidden_size": 384,
        "intermediate_size": 48, "num_attention_heads": 2, "num_hidden_layers": 2,
        "max_position_embeddings": 512}"#;
    let config = Config::parse("config.json", bert.as_bytes()).unwrap();
    let Network::Encoder(spec) = registry::network(&config).unwrap().1 else {
        panic!("a decoder")
    };
    super::read(&in_memory(files), &spec)
}

#[test]
fn modules_say_how_to_pool_and_normalize() {
    let minilm = read(&[
        (MODULES, MODULE_LIST),
        ("1_Pooling/config.json", MEAN),
        (
            SENTENCE,
            br#"{"max_seq_length": 256, "do_lower_case": false}"#,
        ),
    ]);
    let want = Sentence {
        modules: Modules::Vectors {
            pooling: Pooling::Mean,
            dense: Vec::new(),
            normalize: true,
        },
        input_tokens_max: 256,
    };
    assert_eq!(minilm.unwrap(), want);
    let cls = read(&[(MODULES, MODULE_LIST), ("1_Pooling/config.json", CLS)]).unwrap();
    let want = Sentence {
        modules: Modules::Vectors {
            pooling: Pooling::Cls,
            dense: Vec::new(),
            normalize: true,
        },
        input_tokens_max: 512,
    };
    assert_eq!(cls, want);
}

#[test]
fn a_plain_folder_says_nothing() {
    let want = Sentence {
        modules: Modules::Absent,
        input_tokens_max: 512,
    };
    assert_eq!(read(&[]).unwrap(), want);
    let long = read(&[(SENTENCE, br#"{"max_seq_length": 100000}"#)]).unwrap();
    assert_eq!(long.input_tokens_max, 512);
}

#[test]
fn dense_modules_and_splade_are_read() {
    let dense = read(&[
        (MODULES, WITH_DENSE),
        ("1_Pooling/config.json", CLS),
        ("2_Dense/config.json", NARROW),
        ("3_Dense/config.json", PLAIN),
    ]);
    let Modules::Vectors {
        dense, normalize, ..
    } = dense.unwrap().modules
    else {
        panic!("no vectors")
    };
    let shapes: Vec<_> = dense
        .iter()
        .map(|module| (module.layer.inputs, module.layer.outputs, module.layer.bias))
        .collect();
    assert_eq!(shapes, [(384, 64, true), (64, 16, false)]);
    assert_eq!(dense[0].layer.activation, Some(Activation::Tanh));
    assert_eq!(dense[1].layer.activation, None);
    assert!(!normalize);
    let splade = read(&[
        (MODULES, SPLADE),
        (
            "1_SpladePooling/config.json",
            br#"{"pooling_strategy": "max", "activation_function": "relu"}"#,
        ),
    ]);
    assert_eq!(splade.unwrap().modules, Modules::Splade);
}

/// BGE's files say so beside a tokenizer that does it.
#[test]
fn lower_case_is_left_to_a_tokenizer_that_makes_it() {
    let sequence = br#"{"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"},
        {"type": "Lowercase"}]}}"#;
    assert!(read(&[(SENTENCE, LOWER), (TOKENIZER, sequence)]).is_ok());
    let own = br#"{"normalizer": {"type": "BertNormalizer", "lowercase": true}}"#;
    assert!(read(&[(SENTENCE, LOWER), (TOKENIZER, own)]).is_ok());
    assert!(
        read(&[
            (SENTENCE, LOWER),
            (TOKENIZER, br#"{"normalizer": {"type": "Lowercase"}}"#)
        ])
        .is_ok()
    );
}

#[test]
fn other_modules_and_modes_are_refused_by_name() {
    let pooling = "1_Pooling/config.json";
    let messages = [
        read(&[(MODULES, DENSE)]),
        read(&[(MODULES, UNKNOWN)]),
        read(&[(MODULES, DENSE_LATE), (pooling, CLS)]),
        read(&[(MODULES, WITH_DENSE), (pooling, CLS)]),
        read(&[
            (MODULES, WITH_DENSE),
            (pooling, CLS),
            ("2_Dense/config.json", PLAIN),
        ]),
        read(&[
            (MODULES, WITH_DENSE),
            (pooling, CLS),
            (
                "2_Dense/config.json",
                br#"{"in_features": 384, "out_features": 64, "activation_function": "SiLU"}"#,
            ),
        ]),
        read(&[
            (MODULES, SPLADE),
            (
                "1_SpladePooling/config.json",
                br#"{"pooling_strategy": "sum"}"#,
            ),
        ]),
        read(&[(MODULES, b"{}")]),
        read(&[(MODULES, b"[1]")]),
        read(&[(MODULES, b"[], []")]),
        read(&[(MODULES, b"[]")]),
        read(&[(MODULES, IN_FOLDER), (pooling, CLS)]),
        read(&[(MODULES, TURNED), (pooling, CLS)]),
        read(&[(MODULES, TWICE), (pooling, CLS)]),
        read(&[(MODULES, MODULE_LIST), (pooling, NO_PROMPT)]),
        read(&[
            (SENTENCE, LOWER),
            (
                TOKENIZER,
                br#"{"normalizer": {"type": "BertNormalizer", "lowercase": false}}"#,
            ),
        ]),
        read(&[(SENTENCE, LOWER), (TOKENIZER, b"{}")]),
        read(&[(MODULES, MODULE_LIST)]),
        read(&[(MODULES, MODULE_LIST), (pooling, MAX)]),
        read(&[(MODULES, MODULE_LIST), (pooling, BOTH)]),
        read(&[(MODULES, MODULE_LIST), (pooling, b"{}")]),
        read(&[(SENTENCE, br#"{"max_seq_length": 0}"#)]),
    ]
    .map(|result| result.unwrap_err().to_string());
    insta::assert_debug_snapshot!("refusals", messages);
}
