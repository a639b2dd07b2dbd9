//! A tokenizer with one token for each byte, for models that come without one: weights made by
//! `--load-format dummy`, and tests.

use serde_json::{Map, Value, json};

/// The text of a tokenizer.json whose token ids are the bytes 0 to 255 of the text.
pub fn json() -> Vec<u8> {
    let vocabulary: Map<String, Value> = (0..=u8::MAX)
        .map(|byte| (printable(byte).to_string(), json!(byte)))
        .collect();
    json!({
        "version": "1.0",
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false },
        "post_processor": null,
        "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false },
        "model": { "type": "BPE", "vocab": vocabulary, "merges": [] },
    })
    .to_string()
    .into_bytes()
}

/// The character that stands for a byte in byte-level vocabularies: visible Latin-1 stands for
/// itself, the others follow in order from U+0100.
fn printable(byte: u8) -> char {
    let visible = |byte: u8| matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    if visible(byte) {
        return char::from(byte);
    }
    let hidden_before = (0..byte).filter(|&earlier| !visible(earlier)).count() as u32;
    char::from_u32(0x100 + hidden_before).unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use crate::text::tokenizer::{EncodeOptions, PoolLimits, TokenizerPool};

    #[tokio::test]
    async fn every_byte_is_a_token_and_comes_back() {
        let pool = TokenizerPool::from_json(&super::json(), PoolLimits::default()).unwrap();
        let text = "lift \u{1F6D7}\n\t\0 ü";
        let ids = pool
            .encode(text.to_owned(), EncodeOptions::default())
            .await
            .unwrap();
        let bytes: Vec<u32> = text.bytes().map(u32::from).collect();
        assert_eq!(ids, bytes);
        assert_eq!(pool.decode(ids).await.unwrap(), text);
    }
}
