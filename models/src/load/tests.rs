//! What `info` says, what `load` refuses, and dummy weights.

use std::sync::Arc;

use engine::executor::{EncodeInput, Output, Row, Rows};
use engine::sampling::Sampling;
use scheduler::plan::{BlockId, Plan, Slice, SlotId};
use scheduler::request::{RequestId, Token};

use super::*;

/// The shape of SmolLM2-135M with fewer layers.
const LLAMA: &[u8] = br#"{"architectures": ["LlamaForCausalLM"], "eos_token_id": 2,
    "hidden_act": "silu", "hidden_size": 192, "intermediate_size": 512,
    "max_position_embeddings": 256, "num_attention_heads": 3, "num_hidden_layers": 3,
    "num_key_value_heads": 1, "rms_norm_eps": 1e-05, "tie_word_embeddings": true,
    "torch_dtype": "bfloat16", "vocab_size": 1000}"#;
const BERT: &[u8] = br#"{"architectures": ["BertModel"], "hidden_act": "gelu", "hidden_size": 48,
    "intermediate_size": 96, "max_position_embeddings": 64, "num_attention_heads": 3,
    "num_hidden_layers": 2, "type_vocab_size": 2, "vocab_size": 100}"#;

fn options() -> LoadOptions {
    LoadOptions {
        dtype: None,
        format: LoadFormat::Dummy,
        kv_cache_bytes: 1 << 20,
        block_tokens: 16,
        context_max: None,
        wanted: None,
        running_max: 4,
        step_tokens_max: 32,
        threads: Threads::new(1),
    }
}

fn files(files: &[(&'static str, &'static [u8])]) -> ModelFiles {
    ModelFiles::Memory(
        files
            .iter()
            .map(|&(name, bytes)| (name, bytes.to_vec()))
            .collect(),
    )
}

fn decoder(options: &LoadOptions) -> Result<Box<dyn Executor>, LoadError> {
    match load(&files(&[(CONFIG, LLAMA)]), options)?.0 {
        Loaded::Decoder(executor) => Ok(executor),
        Loaded::Encoder(_) => panic!("an encoder"),
    }
}

#[test]
fn info_says_what_the_files_say() {
    let generation: &[u8] = br#"{"eos_token_id": [5, 6]}"#;
    let llama = files(&[(CONFIG, LLAMA), (GENERATION_CONFIG, generation)]);
    insta::assert_debug_snapshot!("llama", info(&llama, &options()).unwrap());
    insta::assert_debug_snapshot!("bert", info(&files(&[(CONFIG, BERT)]), &options()).unwrap());
    let capped = LoadOptions {
        context_max: Some(100),
        dtype: Some(Dtype::F16),
        ..options()
    };
    let info = info(&files(&[(CONFIG, LLAMA)]), &capped).unwrap();
    assert_eq!(
        (info.context_max, info.dtype, info.end_tokens),
        (100, Dtype::F16, vec![2])
    );
}

#[test]
fn the_pool_is_what_fits_the_bytes() {
    // 3 layers, k and v, 1 head of 64, 2 bytes: 768 bytes a token, 12,288 a block.
    let executor = decoder(&options()).unwrap();
    assert_eq!(
        (executor.pool().blocks, executor.pool().block_tokens.get()),
        (85, 16)
    );
    let wide = decoder(&LoadOptions {
        dtype: Some(Dtype::F32),
        ..options()
    })
    .unwrap();
    assert_eq!(wide.pool().blocks, 42);
}

#[test]
fn what_cannot_run_is_refused_with_figures() {
    let refusal = |options: LoadOptions| decoder(&options).err().unwrap().to_string();
    let small = 16 * 12_288;
    assert_eq!(
        refusal(LoadOptions {
            kv_cache_bytes: small,
            context_max: Some(1000),
            ..options()
        }),
        "out of memory: a KV cache of 196608 bytes holds 16 blocks of 12288 bytes; one sequence of \
         256 tokens needs 17, 208896 bytes: give the cache more, or cap the context lower"
    );
    let capped = LoadOptions {
        kv_cache_bytes: small,
        context_max: Some(240),
        ..options()
    };
    assert!(decoder(&capped).is_ok());
    assert_eq!(
        refusal(LoadOptions {
            kv_cache_bytes: 12_288,
            ..options()
        }),
        "out of memory: a KV cache of 12288 bytes holds 1 blocks of 12288 bytes; one sequence of 1 \
         tokens needs 2, 24576 bytes: give the cache more, or cap the context lower"
    );
    assert_eq!(
        refusal(LoadOptions {
            block_tokens: 24,
            ..options()
        }),
        "not supported: blocks of 24 tokens (a multiple of 16)"
    );
}

/// Llama 3.1 knows 131,072 tokens and a small machine's cache holds fewer: it runs all the same.
#[test]
fn without_a_cap_the_context_is_what_the_cache_holds() {
    let small = LoadOptions {
        kv_cache_bytes: 16 * 12_288,
        ..options()
    };
    let llama = files(&[(CONFIG, LLAMA)]);
    let told = info(&llama, &small).unwrap();
    let (loaded, info) = load(&llama, &small).unwrap();
    let Loaded::Decoder(executor) = loaded else {
        panic!("an encoder")
    };
    assert_eq!((told.context_max, executor.pool().blocks), (15 * 16, 16));
    assert_eq!(told, info);
}

#[test]
fn missing_and_odd_files_are_named() {
    let message = |files: ModelFiles| info(&files, &options()).unwrap_err().to_string();
    assert_eq!(message(files(&[])), "config.json: no such file");
    assert_eq!(
        message(files(&[(CONFIG, br#"{"architectures": ["BertModel"]}"#)])),
        "config.json: hidden_size is missing"
    );
    let int8 = String::from_utf8_lossy(LLAMA).replace("bfloat16", "int8");
    assert_eq!(
        message(files(&[(CONFIG, int8.leak().as_bytes())])),
        "not supported: config.json: torch_dtype = \"int8\" (only \"float32\" or \"float16\" or \
         \"bfloat16\")"
    );
    let odd: &[u8] = br#"{"eos_token_id": "two"}"#;
    assert_eq!(
        message(files(&[(CONFIG, LLAMA), (GENERATION_CONFIG, odd)])),
        "generation_config.json: eos_token_id = \"two\": expected a token id or a list of them"
    );
    let safetensors = LoadOptions {
        format: LoadFormat::Safetensors,
        ..options()
    };
    let refusal = load(&files(&[(CONFIG, LLAMA)]), &safetensors)
        .err()
        .unwrap();
    assert!(matches!(refusal, LoadError::File(_)), "{refusal}");
}

/// What a file asks for may be absurd: that is an error before anything is reserved, not an abort.
#[test]
fn a_network_larger_than_the_memory_is_refused() {
    let absurd: &[u8] = br#"{"architectures": ["LlamaForCausalLM"], "hidden_size": 1048576,
        "intermediate_size": 1048576, "max_position_embeddings": 256, "num_attention_heads": 4096,
        "num_hidden_layers": 4096, "num_key_value_heads": 1, "vocab_size": 16777216}"#;
    let options = LoadOptions {
        kv_cache_bytes: 1 << 32,
        ..options()
    };
    let refusal = load(&files(&[(CONFIG, absurd)]), &options).err().unwrap();
    let message = refusal.to_string();
    assert!(matches!(refusal, LoadError::Memory(_)), "{message}");
    assert!(message.contains(" of weights, "), "{message}");
    let bert: &[u8] = br#"{"architectures": ["BertModel"], "hidden_size": 1048576,
        "intermediate_size": 1048576, "max_position_embeddings": 512, "num_attention_heads": 4096,
        "num_hidden_layers": 4096, "vocab_size": 16777216}"#;
    let refusal = load(&files(&[(CONFIG, bert)]), &options).err().unwrap();
    assert!(matches!(refusal, LoadError::Memory(_)), "{refusal}");
}

fn plan(step: u64, id: u64, tokens: &[Token]) -> Plan {
    let count = tokens.len() as u32;
    let slice = Slice {
        id: RequestId(id),
        slot: SlotId(0),
        positions: 0..count,
        tokens: 0..count,
        table: 0..1,
        samples: true,
    };
    Plan {
        copies: Vec::new(),
        step,
        slices: vec![slice],
        tokens: tokens.to_vec(),
        tables: vec![BlockId(1)],
    }
}

#[test]
fn dummy_decoders_give_finite_rows_that_repeat() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let run = || {
            let mut executor = decoder(&LoadOptions {
                dtype: Some(dtype),
                ..options()
            })
            .unwrap();
            let sampling = Arc::new(Sampling {
                logprobs: Some(5),
                ..Sampling::default()
            });
            let prompt: Arc<[Token]> = [1, 2, 3].map(Token).into();
            executor.admit(RequestId(1), &sampling, &prompt, &[]);
            let mut rows = Rows::default();
            executor.launch(&plan(1, 1, &prompt)).unwrap();
            executor.wait(&mut rows).unwrap();
            rows
        };
        let rows = run();
        assert!(matches!(&rows.rows[0].1, Row::Token { top, .. } if top.len() == 5));
        assert_eq!(rows, run());
    }
}

/// Two steps in flight: the second reads the token that the first one samples.
#[test]
fn a_pending_token_is_the_slot_s_last() {
    let prompt: Arc<[Token]> = [1, 2, 3].map(Token).into();
    let sampling = Arc::new(Sampling::default());
    let mut executor = decoder(&options()).unwrap();
    executor.admit(RequestId(1), &sampling, &prompt, &[]);
    let next = |token: Token| {
        let mut plan = plan(2, 1, &[token]);
        plan.slices[0].positions = 3..4;
        plan
    };
    let mut rows = [Rows::default(), Rows::default()];
    executor.launch(&plan(1, 1, &prompt)).unwrap();
    executor.launch(&next(Token::PENDING)).unwrap();
    executor.wait(&mut rows[0]).unwrap();
    executor.wait(&mut rows[1]).unwrap();
    assert_eq!((rows[0].step, rows[1].step), (1, 2));
    assert!(executor.wait(&mut Rows::default()).is_err());

    let Row::Token { drawn, .. } = &rows[0].rows[0].1 else {
        panic!("not finite")
    };
    let mut known = Rows::default();
    executor.launch(&next(drawn.token)).unwrap();
    executor.wait(&mut known).unwrap();
    assert_eq!(known, rows[1]);
}

#[test]
fn a_dummy_encoder_gives_finite_vectors() {
    let Loaded::Encoder(mut encoder) = load(&files(&[(CONFIG, BERT)]), &options()).unwrap().0
    else {
        panic!("a decoder")
    };
    let input = EncodeInput {
        tokens: [1, 2, 3].map(Token).into(),
        segments: [0, 1, 1].into(),
        output: Output::Pooled(Pooling::Mean),
    };
    let mut encoded = Vec::new();
    encoder
        .encode(&[input.clone(), input], &mut encoded)
        .unwrap();
    assert_eq!((encoded.len(), encoded[0].values.len()), (2, 48));
    assert!(encoded[0].values.iter().all(|x| x.is_finite()));
    assert_eq!(encoded[0], encoded[1]);
}

#[test]
fn the_memory_of_a_model_is_known_from_its_configuration() {
    let llama = files(&[(CONFIG, LLAMA)]);
    let (info, plan) = super::plan(&llama, &options()).unwrap();
    assert_eq!(plan.weights_bytes, 2 * info.parameters);
    // As many whole blocks as fit.
    let block_bytes = 16 * info.kv_bytes_per_token;
    assert_eq!(plan.kv_bytes, (1 << 20) / block_bytes * block_bytes);
    assert!(plan.buffers_bytes > 0);
    let wide = LoadOptions {
        dtype: Some(Dtype::F16),
        ..options()
    };
    // f16 is kept as f32.
    let (_, plan) = super::plan(&llama, &wide).unwrap();
    assert_eq!(plan.weights_bytes, 4 * info.parameters);
    let small = LoadOptions {
        kv_cache_bytes: 1 << 10,
        ..options()
    };
    assert!(matches!(
        super::plan(&llama, &small),
        Err(LoadError::Memory(_))
    ));

    let (info, plan) = super::plan(&files(&[(CONFIG, BERT)]), &options()).unwrap();
    assert_eq!(plan.weights_bytes, 4 * info.parameters);
    assert_eq!(plan.kv_bytes, 0);
    assert_eq!(plan.total_bytes(), plan.weights_bytes + plan.buffers_bytes);
}

/// Weights, tables and the buffers of the longest input, counted as they are taken. Networks whose
/// tables weigh as much as their weights.
#[test]
fn an_encoder_takes_what_was_planned() {
    let mpnet: &[u8] = br#"{"architectures": ["MPNetModel"], "vocab_size": 64, "hidden_size": 32,
        "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1,
        "max_position_embeddings": 3002}"#;
    let modernbert: &[u8] = br#"{"architectures": ["ModernBertModel"], "vocab_size": 64,
        "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 1,
        "num_hidden_layers": 1, "max_position_embeddings": 3000}"#;
    let splade: &[u8] = br#"{"architectures": ["BertForMaskedLM"], "vocab_size": 30000,
        "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 1,
        "num_hidden_layers": 1, "max_position_embeddings": 512}"#;
    for (config, output) in [
        (mpnet, Output::Pooled(Pooling::Mean)),
        (modernbert, Output::Pooled(Pooling::Mean)),
        (splade, Output::Sparse),
    ] {
        let files = files(&[(CONFIG, config)]);
        let (info, plan) = super::plan(&files, &options()).unwrap();
        let mut kept = None;
        let taken = allocation_counter::measure(|| {
            let (loaded, _) = load(&files, &options()).unwrap();
            let Loaded::Encoder(mut encoder) = loaded else {
                panic!("a decoder")
            };
            let input = EncodeInput {
                tokens: vec![Token(1); info.context_max as usize].into(),
                segments: [].into(),
                output,
            };
            encoder.encode(&[input], &mut Vec::new()).unwrap();
            kept = Some(encoder);
        });
        let (taken, planned) = (taken.bytes_current as u64, plan.total_bytes());
        // A thread's own scratch memory does not grow with the model.
        let most = planned + (256 << 10);
        assert!(
            (planned / 5 * 4..most).contains(&taken),
            "{taken} of {plan:?}"
        );
    }
}
