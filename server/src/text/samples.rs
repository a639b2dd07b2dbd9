//! Small tokenizers of each kind, and what tests share.

use std::sync::Arc;

use proptest::test_runner::{Config, RngSeed};
use serde_json::{Map, Value, json};

use super::tokenizer::{PoolLimits, Tokenize, TokenizerPool};

/// A GPT-2 style tokenizer: byte-level BPE, no decoding that looks back.
pub(super) fn byte_level() -> Value {
    let mut vocab = Map::new();
    for byte in 0..=255u8 {
        let id = vocab.len();
        vocab.insert(printable(byte).to_string(), id.into());
    }
    let merges = [
        "h e", "l l", "he ll", "hell o", "Ġ w", "Ġw o", "Ã ¤", "ä ¸", "s t",
    ];
    for merge in merges {
        let id = vocab.len();
        vocab.insert(merge.replace(' ', ""), id.into());
    }
    let first = vocab.len();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [
            added(first, "<|im_start|>", Kind::Special),
            added(first + 1, "<|im_end|>", Kind::Special),
            added(first + 2, "<think>", Kind::Plain),
            added(first + 3, "<|endoftext|>", Kind::Special),
        ],
        "normalizer": null,
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "post_processor": null,
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": merges },
    })
}

/// A Llama-2 style tokenizer: SentencePiece BPE with byte fallback and a leading space that is not text.
pub(super) fn sentence_piece() -> Value {
    let mut vocab = Map::new();
    let mut add = |piece: &str| {
        let id = vocab.len();
        vocab.insert(piece.to_owned(), id.into());
    };
    ["<unk>", "<s>", "</s>"].into_iter().for_each(&mut add);
    (0..=255u8).for_each(|byte| add(&format!("<0x{byte:02X}>")));
    ('a'..='z').for_each(|letter| add(letter.encode_utf8(&mut [0; 4])));
    ["▁", "I", "N", "S", "T", "[", "]", "/", ".", "世", "é"]
        .into_iter()
        .for_each(&mut add);
    let merges = ["▁ t", "h e", "▁t he", "▁ ▁"];
    for merge in merges {
        add(&merge.replace(' ', ""));
    }
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [
            added(0, "<unk>", Kind::Special),
            added(1, "<s>", Kind::Special),
            added(2, "</s>", Kind::Special),
        ],
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "Prepend", "prepend": "▁" },
            { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
        ]},
        "pre_tokenizer": null,
        "post_processor": { "type": "TemplateProcessing",
            "single": [ { "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } } ],
            "pair": [ { "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } } ],
            "special_tokens": { "<s>": { "id": "<s>", "ids": [1], "tokens": ["<s>"] } } },
        "decoder": { "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "▁" }, "content": " " },
            { "type": "ByteFallback" },
            { "type": "Fuse" },
            { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
        ]},
        "model": { "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "vocab": vocab, "merges": merges },
    })
}

/// A BERT style tokenizer, whose file truncates and pads to 128 by itself, as MiniLM's does.
pub(super) fn word_piece() -> Value {
    let words = [
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "world", "do", "not", "n", "'", "t",
        "don", "##s", "##ing", "##é", ".", ",", "!", "?", "[", "]", "世", "sep", "a", "the", "' s",
        "'m",
    ];
    let vocab: Map<String, Value> = words
        .iter()
        .enumerate()
        .map(|(id, word)| ((*word).to_owned(), id.into()))
        .collect();
    let around = |id: &str| json!({ "SpecialToken": { "id": id, "type_id": 0 } });
    json!({
        "version": "1.0",
        "truncation": { "direction": "Right", "max_length": 128, "strategy": "LongestFirst", "stride": 0 },
        "padding": { "strategy": { "Fixed": 128 }, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]" },
        "added_tokens": [
            added(0, "[PAD]", Kind::Special),
            added(1, "[UNK]", Kind::Special),
            added(2, "[CLS]", Kind::Special),
            added(3, "[SEP]", Kind::Special),
            added(4, "[MASK]", Kind::Special),
        ],
        "normalizer": { "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": { "type": "TemplateProcessing",
            "single": [ around("[CLS]"), { "Sequence": { "id": "A", "type_id": 0 } }, around("[SEP]") ],
            "pair": [ { "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } } ],
            "special_tokens": {
                "[CLS]": { "id": "[CLS]", "ids": [2], "tokens": ["[CLS]"] },
                "[SEP]": { "id": "[SEP]", "ids": [3], "tokens": ["[SEP]"] } } },
        "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
        "model": { "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab },
    })
}

/// The same with a pair as BERT has it: both texts end with [SEP], and the second one is segment 1.
pub(super) fn word_piece_for_pairs() -> Value {
    let mut sample = word_piece();
    let around =
        |id: &str, segment: u32| json!({ "SpecialToken": { "id": id, "type_id": segment } });
    let text = |id: &str, segment: u32| json!({ "Sequence": { "id": id, "type_id": segment } });
    sample["post_processor"]["pair"] = json!([
        around("[CLS]", 0),
        text("A", 0),
        around("[SEP]", 0),
        text("B", 1),
        around("[SEP]", 1),
    ]);
    sample
}

/// An XLM-R style tokenizer: Unigram, which finds control tokens in its own vocabulary, behind NFKC.
pub(super) fn unigram() -> Value {
    let pieces = [
        "<s>", "<pad>", "</s>", "<unk>", "▁", "a", "b", "s", "<", ">", "/", "▁a", ".", "▁ab",
    ];
    let vocab: Vec<Value> = pieces
        .iter()
        .enumerate()
        .map(|(id, piece)| json!([piece, if id < 4 { 0.0 } else { -(id as f64) }]))
        .collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [
            added(0, "<s>", Kind::Special),
            added(1, "<pad>", Kind::Special),
            added(2, "</s>", Kind::Special),
            added(3, "<unk>", Kind::Special),
        ],
        "normalizer": { "type": "NFKC" },
        "pre_tokenizer": { "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true },
        "post_processor": null,
        "decoder": { "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true },
        "model": { "type": "Unigram", "unk_id": 3, "vocab": vocab, "byte_fallback": false },
    })
}

/// A sample with another decoder.
pub(super) fn with_decoder(mut sample: Value, decoder: Value) -> Value {
    sample["decoder"] = decoder;
    sample
}

/// A pool over a sample.
pub(super) fn pool(sample: &Value) -> TokenizerPool {
    TokenizerPool::from_json(sample.to_string().as_bytes(), PoolLimits::default()).unwrap()
}

/// The tokenizer of a sample.
pub(super) fn tokenizer(sample: &Value) -> Arc<dyn Tokenize> {
    Arc::clone(pool(sample).tokenizer())
}

/// The library's own tokenizer of a sample, the oracle.
pub(super) fn library(sample: &Value) -> tokenizers::Tokenizer {
    let mut library = tokenizers::Tokenizer::from_bytes(sample.to_string()).unwrap();
    library.with_truncation(None).unwrap();
    library.with_padding(None);
    library
}

/// Property tests that run the same cases every time.
pub(super) fn same_cases() -> Config {
    Config {
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        ..Config::default()
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Special,
    Plain,
}

fn added(id: usize, content: &str, kind: Kind) -> Value {
    let special = matches!(kind, Kind::Special);
    json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": special })
}

/// A byte in GPT-2's printable alphabet, counted out as its authors define it.
fn printable(byte: u8) -> char {
    let visible = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if visible(byte) {
        return char::from(byte);
    }
    let hidden_before = (0..byte).filter(|&before| !visible(before)).count() as u32;
    char::from_u32(256 + hidden_before).unwrap()
}
