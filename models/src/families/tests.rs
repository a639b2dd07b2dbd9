//! The spec of each family, from files as they are published but for the number of layers.

use kernels::attention::Look;

use crate::config::Config;
use crate::load::LoadError;
use crate::registry;
use crate::spec::{EncoderHead, EncoderSpec, Network};

fn network(text: &str) -> Result<(String, Network), LoadError> {
    registry::network(&Config::parse("config.json", text.as_bytes())?)
}

/// The file with some keys set to other values; null takes the key's place.
fn changed(text: &str, keys: &str) -> String {
    let mut file: serde_json::Value = serde_json::from_str(text).unwrap();
    let serde_json::Value::Object(keys) = serde_json::from_str(keys).unwrap() else {
        panic!("not an object")
    };
    for (key, value) in keys {
        file[key] = value;
    }
    file.to_string()
}

const LLAMA_2: &str = r#"{"architectures": ["LlamaForCausalLM"], "bos_token_id": 1,
    "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02,
    "intermediate_size": 11008, "max_position_embeddings": 4096, "model_type": "llama",
    "num_attention_heads": 32, "num_hidden_layers": 2, "num_key_value_heads": 32,
    "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": null,
    "tie_word_embeddings": false, "torch_dtype": "float16", "use_cache": true,
    "vocab_size": 32000}"#;

const LLAMA_3_2: &str = r#"{"architectures": ["LlamaForCausalLM"], "attention_bias": false,
    "attention_dropout": 0.0, "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009],
    "head_dim": 64, "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 8192,
    "max_position_embeddings": 131072, "mlp_bias": false, "model_type": "llama",
    "num_attention_heads": 32, "num_hidden_layers": 2, "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05, "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0,
    "low_freq_factor": 1.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"},
    "rope_theta": 500000.0, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
    "vocab_size": 128256}"#;

const MISTRAL: &str = r#"{"architectures": ["MistralForCausalLM"], "hidden_act": "silu",
    "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 32768,
    "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 2,
    "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
    "sliding_window": 4096, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
    "vocab_size": 32000}"#;

const QWEN_2_5: &str = r#"{"architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0,
    "hidden_act": "silu", "hidden_size": 896, "intermediate_size": 4864,
    "max_position_embeddings": 32768, "max_window_layers": 21, "model_type": "qwen2",
    "num_attention_heads": 14, "num_hidden_layers": 2, "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 32768,
    "tie_word_embeddings": true, "torch_dtype": "bfloat16", "use_mrope": false,
    "use_sliding_window": false, "vocab_size": 151936}"#;

const QWEN_3: &str = r#"{"architectures": ["Qwen3ForCausalLM"], "attention_bias": false,
    "dtype": "bfloat16", "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024,
    "intermediate_size": 3072, "layer_types": ["full_attention", "full_attention"],
    "max_position_embeddings": 40960, "max_window_layers": 28, "model_type": "qwen3",
    "num_attention_heads": 16, "num_hidden_layers": 2, "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06, "rope_parameters": {"rope_theta": 1000000, "rope_type": "default"},
    "sliding_window": null, "tie_word_embeddings": true, "use_sliding_window": false,
    "vocab_size": 151936}"#;

const MINILM: &str = r#"{"architectures": ["BertModel"], "attention_probs_dropout_prob": 0.1,
    "gradient_checkpointing": false, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
    "hidden_size": 384, "intermediate_size": 1536, "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512, "model_type": "bert", "num_attention_heads": 12,
    "num_hidden_layers": 6, "pad_token_id": 0, "position_embedding_type": "absolute",
    "type_vocab_size": 2, "use_cache": true, "vocab_size": 30522}"#;

const CROSS_ENCODER: &str = r#"{"architectures": ["BertForSequenceClassification"],
    "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu", "hidden_size": 384,
    "id2label": {"0": "LABEL_0"}, "intermediate_size": 1536, "label2id": {"LABEL_0": 0},
    "layer_norm_eps": 1e-12, "max_position_embeddings": 512, "model_type": "bert",
    "num_attention_heads": 12, "num_hidden_layers": 2, "pad_token_id": 0,
    "position_embedding_type": "absolute", "type_vocab_size": 2, "vocab_size": 30522,
    "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}"#;

const SPLADE: &str = r#"{"_name_or_path": "splade", "architectures": ["BertForMaskedLM"],
    "hidden_act": "gelu", "hidden_size": 768, "intermediate_size": 3072, "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512, "model_type": "bert", "num_attention_heads": 12,
    "num_hidden_layers": 2, "pad_token_id": 0, "type_vocab_size": 2, "torch_dtype": "float32",
    "vocab_size": 30522}"#;

const BGE_RERANKER: &str = r#"{"architectures": ["XLMRobertaForSequenceClassification"],
    "bos_token_id": 0, "eos_token_id": 2, "hidden_act": "gelu", "hidden_size": 1024,
    "id2label": {"0": "LABEL_0"}, "intermediate_size": 4096, "label2id": {"LABEL_0": 0},
    "layer_norm_eps": 1e-05, "max_position_embeddings": 514, "model_type": "xlm-roberta",
    "num_attention_heads": 16, "num_hidden_layers": 2, "output_past": true, "pad_token_id": 1,
    "position_embedding_type": "absolute", "torch_dtype": "float32", "type_vocab_size": 1,
    "vocab_size": 250002}"#;

const SENTIMENT: &str = r#"{"activation": "gelu", "architectures":
    ["DistilBertForSequenceClassification"], "attention_dropout": 0.1, "dim": 768,
    "dropout": 0.1, "finetuning_task": "sst-2", "hidden_dim": 3072,
    "id2label": {"0": "NEGATIVE", "1": "POSITIVE"}, "label2id": {"NEGATIVE": 0, "POSITIVE": 1},
    "max_position_embeddings": 512, "model_type": "distilbert", "n_heads": 12, "n_layers": 2,
    "pad_token_id": 0, "sinusoidal_pos_embds": false, "tie_weights_": true,
    "vocab_size": 30522}"#;

const MODERNBERT: &str = r#"{"architectures": ["ModernBertForMaskedLM"], "attention_bias": false,
    "attention_dropout": 0.0, "bos_token_id": 50281, "classifier_activation": "gelu",
    "classifier_bias": false, "classifier_dropout": 0.0, "classifier_pooling": "mean",
    "cls_token_id": 50281, "decoder_bias": true, "deterministic_flash_attn": false,
    "embedding_dropout": 0.0, "eos_token_id": 50282, "global_attn_every_n_layers": 3,
    "global_rope_theta": 160000.0, "gradient_checkpointing": false, "hidden_activation": "gelu",
    "hidden_size": 768, "initializer_cutoff_factor": 2.0, "initializer_range": 0.02,
    "intermediate_size": 1152, "layer_norm_eps": 1e-05, "local_attention": 128,
    "local_rope_theta": 10000.0, "max_position_embeddings": 8192, "mlp_bias": false,
    "mlp_dropout": 0.0, "model_type": "modernbert", "norm_bias": false, "norm_eps": 1e-05,
    "num_attention_heads": 12, "num_hidden_layers": 5, "pad_token_id": 50283,
    "position_embedding_type": "absolute", "reference_compile": null, "sep_token_id": 50282,
    "sparse_pred_ignore_index": -100, "sparse_prediction": false, "torch_dtype": "float32",
    "vocab_size": 50368}"#;

const MPNET: &str = r#"{"architectures": ["MPNetModel"], "attention_probs_dropout_prob": 0.1,
    "bos_token_id": 0, "eos_token_id": 2, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
    "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": 3072,
    "layer_norm_eps": 1e-05, "max_position_embeddings": 514, "model_type": "mpnet",
    "num_attention_heads": 12, "num_hidden_layers": 2, "pad_token_id": 1,
    "relative_attention_num_buckets": 32, "vocab_size": 30527}"#;

const GTE: &str = r#"{"architectures": ["NewModel"], "attention_probs_dropout_prob": 0.0,
    "classifier_dropout": null, "hidden_act": "gelu", "hidden_size": 768, "initializer_range": 0.02,
    "intermediate_size": 3072, "layer_norm_eps": 1e-12, "layer_norm_type": "layer_norm",
    "logn_attention_clip1": false, "logn_attention_scale": false, "max_position_embeddings": 8192,
    "model_type": "new", "num_attention_heads": 12, "num_hidden_layers": 2, "pack_qkv": true,
    "pad_token_id": 0, "position_embedding_type": "rope",
    "rope_scaling": {"factor": 2.0, "type": "ntk"}, "rope_theta": 500000,
    "torch_dtype": "float32", "type_vocab_size": 0, "unpad_inputs": false,
    "use_memory_efficient_attention": false, "vocab_size": 30528}"#;

const NOMIC: &str = r#"{"activation_function": "swiglu", "architectures": ["NomicBertModel"],
    "attn_pdrop": 0.0, "bos_token_id": null, "causal": false, "dense_seq_output": true,
    "embd_pdrop": 0.0, "eos_token_id": null, "fused_bias_fc": true, "fused_dropout_add_ln": true,
    "initializer_range": 0.02, "layer_norm_epsilon": 1e-12, "mlp_fc1_bias": false,
    "mlp_fc2_bias": false, "model_type": "nomic_bert", "n_embd": 768, "n_head": 12,
    "n_inner": 3072, "n_layer": 2, "n_positions": 8192, "pad_vocab_size_multiple": 64,
    "parallel_block": false, "parallel_block_tied_norm": false, "prenorm": false,
    "qkv_proj_bias": false, "reorder_and_upcast_attn": false, "resid_pdrop": 0.0,
    "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": false,
    "rotary_emb_scale_base": null, "rotary_scaling_factor": null,
    "scale_attn_by_inverse_layer_idx": false, "scale_attn_weights": true,
    "torch_dtype": "float32", "type_vocab_size": 2, "use_flash_attn": true,
    "use_rms_norm": false, "vocab_size": 30528}"#;

const JINA: &str = r#"{"architectures": ["JinaBertForMaskedLM"],
    "attention_probs_dropout_prob": 0.0, "emb_pooler": "mean", "feed_forward_type": "geglu",
    "gradient_checkpointing": false, "hidden_act": "gelu", "hidden_size": 768,
    "intermediate_size": 3072, "layer_norm_eps": 1e-12, "max_position_embeddings": 8192,
    "model_max_length": 8192, "model_type": "bert", "num_attention_heads": 12,
    "num_hidden_layers": 2, "pad_token_id": 0, "position_embedding_type": "alibi",
    "torch_dtype": "float32", "type_vocab_size": 2, "use_cache": true, "vocab_size": 30528}"#;

#[test]
fn each_family_has_its_spec() {
    let nemo = changed(
        MISTRAL,
        r#"{"sliding_window": null, "head_dim": 128, "hidden_size": 5120}"#,
    );
    let linear = changed(
        LLAMA_2,
        r#"{"rope_scaling": {"type": "linear", "factor": 4}}"#,
    );
    let biased = changed(LLAMA_2, r#"{"attention_bias": true, "mlp_bias": true}"#);
    for (name, text) in [
        ("llama_2", LLAMA_2),
        ("llama_2_linear", &linear),
        ("llama_2_biased", &biased),
        ("llama_3_2", LLAMA_3_2),
        ("mistral", MISTRAL),
        ("mistral_nemo", &nemo),
        ("qwen_2_5", QWEN_2_5),
        ("qwen_3", QWEN_3),
        ("minilm", MINILM),
        ("cross_encoder", CROSS_ENCODER),
        ("splade", SPLADE),
        ("bge_reranker", BGE_RERANKER),
        ("sentiment", SENTIMENT),
        ("modernbert", MODERNBERT),
        ("mpnet", MPNET),
        ("gte", GTE),
        ("nomic", NOMIC),
        ("jina", JINA),
    ] {
        insta::assert_debug_snapshot!(name, network(text).unwrap());
    }
}

#[test]
fn old_and_new_keys_of_rope_say_the_same() {
    let new = changed(
        LLAMA_3_2,
        r#"{"rope_theta": null, "rope_scaling": null, "rope_parameters": {"rope_theta": 500000.0,
            "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3"}}"#,
    );
    assert_eq!(network(&new).unwrap(), network(LLAMA_3_2).unwrap());
    let theta = |keys: &str| match network(&changed(LLAMA_2, keys)).unwrap().1 {
        Network::Decoder(spec) => spec.rope,
        Network::Encoder(_) => panic!("an encoder"),
    };
    let expected = crate::spec::Rope {
        theta: 7.0,
        scaling: crate::spec::RopeScaling::Default,
    };
    for key in ["rope_parameters", "rope_scaling"] {
        for kind in ["", r#", "rope_type": "default""#] {
            let keys = format!(r#"{{"rope_theta": 5.0, "{key}": {{"rope_theta": 7.0{kind}}}}}"#);
            assert_eq!(theta(&keys), expected, "{keys}");
        }
    }
}

#[test]
fn left_out_keys_take_the_family_s_defaults() {
    let network = |text: &str| match network(text).unwrap().1 {
        Network::Decoder(spec) => spec,
        Network::Encoder(_) => panic!("an encoder"),
    };
    let without = r#"{"num_key_value_heads": null, "head_dim": null, "rope_theta": null,
        "rope_scaling": null, "rope_parameters": null, "rms_norm_eps": null}"#;
    let llama = network(&changed(LLAMA_3_2, without));
    assert_eq!((llama.kv_heads, llama.head_dim), (32, 64));
    assert!((llama.rope.theta - 10_000.0).abs() < 1e-9);
    let mistral = network(&changed(MISTRAL, without));
    assert_eq!((mistral.kv_heads, mistral.head_dim), (8, 128));
    let absent = MISTRAL.replace("\"sliding_window\": 4096,", "");
    assert_eq!(network(&absent).windows, [Some(4096); 2]);
    let qwen = network(&changed(QWEN_3, r#"{"head_dim": null}"#));
    assert_eq!(qwen.head_dim, 128);
}

/// What transformers writes of it has other keys.
#[test]
fn both_forms_of_nomic_say_the_same() {
    let new = r#"{"architectures": ["NomicBertModel"], "hidden_act": "silu", "hidden_size": 768,
        "intermediate_size": 3072, "layer_norm_eps": 1e-12, "max_position_embeddings": 8192,
        "num_attention_heads": 12, "num_hidden_layers": 2, "type_vocab_size": 2,
        "vocab_size": 30528}"#;
    assert_eq!(network(new).unwrap(), network(NOMIC).unwrap());
}

/// A decoder's network may look to both sides, or back as it was trained.
#[test]
fn embedders_made_of_decoders_look_back_unless_their_file_says_otherwise() {
    let look = |keys: &str| {
        let text = changed(QWEN_3, keys);
        let config = Config::parse("config.json", text.as_bytes()).unwrap();
        let Network::Decoder(spec) = registry::network(&config).unwrap().1 else {
            panic!("an encoder")
        };
        crate::embedder::spec(&config, &spec).unwrap().look
    };
    assert_eq!(look("{}"), Look::Back);
    assert_eq!(look(r#"{"is_causal": true}"#), Look::Back);
    assert_eq!(look(r#"{"is_causal": false}"#), Look::Around);
    assert_eq!(
        look(r#"{"use_bidirectional_attention": true}"#),
        Look::Around
    );
}

#[test]
fn layer_types_choose_the_windows() {
    let mixed = r#"{"layer_types": ["full_attention", "sliding_attention"]}"#;
    match network(&changed(MISTRAL, mixed)).unwrap().1 {
        Network::Decoder(spec) => assert_eq!(spec.windows, [None, Some(4096)]),
        Network::Encoder(_) => panic!("an encoder"),
    }
}

#[test]
fn labels_stand_in_the_order_of_their_numbers() {
    let labels = |keys: &str| {
        let changed = changed(CROSS_ENCODER, keys);
        match network(&changed).unwrap().1 {
            Network::Encoder(EncoderSpec {
                head: EncoderHead::Classifier(classifier),
                ..
            }) => classifier.info.labels,
            other => panic!("{other:?}"),
        }
    };
    let twelve: Vec<String> = (0..12).map(|number| format!("n{number}")).collect();
    let mut named: Vec<String> = (0..12)
        .map(|number| format!(r#""{number}": "n{number}""#))
        .collect();
    named.reverse();
    let keys = format!(r#"{{"id2label": {{{}}}}}"#, named.join(", "));
    assert_eq!(labels(&keys), twelve);
    assert_eq!(labels(r#"{"id2label": null}"#), ["LABEL_0", "LABEL_1"]);
    assert_eq!(
        labels(r#"{"id2label": null, "num_labels": 1}"#),
        ["LABEL_0"]
    );
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let messages: Vec<String> = REFUSED
        .iter()
        .map(|(text, keys)| network(&changed(text, keys)).unwrap_err().to_string())
        .collect();
    insta::assert_debug_snapshot!("refusals", messages);
}

/// Files, and what makes each of them something else than is built.
const REFUSED: &[(&str, &str)] = &[
    (LLAMA_2, r#"{"architectures": ["GPT2LMHeadModel"]}"#),
    (LLAMA_2, r#"{"architectures": []}"#),
    (LLAMA_2, r#"{"hidden_act": "relu"}"#),
    (
        LLAMA_2,
        r#"{"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}"#,
    ),
    (LLAMA_2, r#"{"rope_scaling": {"factor": 4.0}}"#),
    (
        LLAMA_2,
        r#"{"rope_scaling": {"rope_type": "linear", "factor": -1}}"#,
    ),
    (
        LLAMA_2,
        r#"{"rope_scaling": {"rope_type": "llama3", "factor": 8}}"#,
    ),
    (
        LLAMA_2,
        r#"{"rope_parameters": {"full_attention": {"rope_type": "default"}}}"#,
    ),
    (
        LLAMA_2,
        r#"{"rope_parameters": {"rope_theta": 1e4, "rope_type": "default"},
                "rope_scaling": {"rope_type": "linear", "factor": 4.0}}"#,
    ),
    (LLAMA_2, r#"{"quantization_config": {"bits": 4}}"#),
    (LLAMA_2, r#"{"partial_rotary_factor": 0.5}"#),
    (LLAMA_2, r#"{"num_key_value_heads": 5}"#),
    (LLAMA_2, r#"{"num_attention_heads": 3}"#),
    (LLAMA_2, r#"{"num_attention_heads": 0}"#),
    (LLAMA_2, r#"{"num_hidden_layers": 4294967297}"#),
    (LLAMA_2, r#"{"hidden_size": "wide"}"#),
    (LLAMA_2, r#"{"head_dim": 63}"#),
    (LLAMA_2, r#"{"head_dim": 512}"#),
    (LLAMA_2, r#"{"vocab_size": null}"#),
    (LLAMA_2, r#"{"final_logit_softcapping": 30.0}"#),
    (MISTRAL, r#"{"layer_types": ["full_attention"]}"#),
    (
        MISTRAL,
        r#"{"layer_types": ["full_attention", "linear_attention"]}"#,
    ),
    (QWEN_2_5, r#"{"use_sliding_window": true}"#),
    (QWEN_3, r#"{"num_experts": 128}"#),
    (MINILM, r#"{"position_embedding_type": "relative_key"}"#),
    (MINILM, r#"{"hidden_act": "silu"}"#),
    (MINILM, r#"{"is_decoder": true}"#),
    (MINILM, r#"{"hidden_size": 385}"#),
    (MINILM, r#"{"hidden_size": 768, "num_attention_heads": 2}"#),
    (SPLADE, r#"{"tie_word_embeddings": false}"#),
    (CROSS_ENCODER, r#"{"id2label": {"1": "only"}}"#),
    (CROSS_ENCODER, r#"{"id2label": {"0": 7}}"#),
    (CROSS_ENCODER, r#"{"id2label": {}}"#),
    (CROSS_ENCODER, r#"{"id2label": null, "num_labels": 65537}"#),
    (CROSS_ENCODER, r#"{"problem_type": "ranking"}"#),
    (BGE_RERANKER, r#"{"pad_token_id": [1, 2]}"#),
    (BGE_RERANKER, r#"{"max_position_embeddings": 2}"#),
    (SENTIMENT, r#"{"dim": null}"#),
    (SENTIMENT, r#"{"n_heads": 5}"#),
    (SENTIMENT, r#"{"layer_norm_eps": 1e-5}"#),
    (GTE, r#"{"pack_qkv": false}"#),
    (GTE, r#"{"position_embedding_type": "absolute"}"#),
    (GTE, r#"{"layer_norm_type": "rms_norm"}"#),
    (GTE, r#"{"logn_attention_scale": true}"#),
    (GTE, r#"{"hidden_act": "relu"}"#),
    (GTE, r#"{"rope_scaling": {"type": "ntk"}}"#),
    (
        GTE,
        r#"{"rope_scaling": {"type": "ntk", "factor": 2, "mixed_b": 0.5}}"#,
    ),
    (GTE, r#"{"rope_scaling": {"type": "dynamic", "factor": 2}}"#),
    (GTE, r#"{"hidden_size": 780}"#),
    (NOMIC, r#"{"activation_function": "gelu"}"#),
    (NOMIC, r#"{"moe_every_n_layers": 2}"#),
    (NOMIC, r#"{"prenorm": true}"#),
    (NOMIC, r#"{"qkv_proj_bias": true}"#),
    (NOMIC, r#"{"rotary_scaling_factor": 2}"#),
    (NOMIC, r#"{"rotary_emb_fraction": 0.5}"#),
    (NOMIC, r#"{"rotary_emb_base": null}"#),
    (JINA, r#"{"feed_forward_type": "original"}"#),
    (JINA, r#"{"position_embedding_type": "absolute"}"#),
    (MPNET, r#"{"relative_attention_num_buckets": 64}"#),
    (MPNET, r#"{"max_position_embeddings": 2}"#),
    (MODERNBERT, r#"{"attention_bias": true}"#),
    (MODERNBERT, r#"{"hidden_activation": "relu"}"#),
    (MODERNBERT, r#"{"num_attention_heads": 256}"#),
    (MODERNBERT, r#"{"local_attention": 1}"#),
    (MODERNBERT, r#"{"rope_scaling": {"rope_type": "yarn"}}"#),
    (
        MODERNBERT,
        r#"{"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}"#,
    ),
    (
        MODERNBERT,
        r#"{"architectures": ["ModernBertForSequenceClassification"],
                "classifier_pooling": "max"}"#,
    ),
];
