//! [`Tokenize`] over the `tokenizers` library, from a tokenizer.json.

use std::collections::HashSet;

use serde_json::Value;
use tokenizers::{PostProcessor, Tokenizer, TruncationDirection};

use super::chat::Rendered;
use super::detokenize::Decoding;
use super::tokenizer::{EncodeOptions, SpecialTokens, Tokenize, TokenizeError, TokenizerLoadError};

/// A tokenizer of the `tokenizers` library.
#[derive(Debug)]
pub(super) struct HuggingFace {
    tokenizer: Tokenizer,
    decoding: Decoding,
    special_ids: HashSet<u32>,
    special_tokens: Vec<String>,
    vocab_size: usize,
}

impl HuggingFace {
    /// Reads a tokenizer.json. Truncation and padding are switched off: lengths are the caller's business.
    pub(super) fn from_json(bytes: &[u8]) -> Result<Self, TokenizerLoadError> {
        let invalid =
            |error: &dyn std::fmt::Display| TokenizerLoadError::Invalid(error.to_string());
        let file: Value = serde_json::from_slice(bytes).map_err(|error| invalid(&error))?;
        let decoding = Decoding::from_json(file.get("decoder").unwrap_or(&Value::Null))?;
        let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(|error| invalid(&error))?;
        tokenizer
            .with_truncation(None)
            .map_err(|error| invalid(&error))?;
        tokenizer.with_padding(None);

        let added = tokenizer.get_added_tokens_decoder();
        let mut special: Vec<(u32, String)> = added
            .into_iter()
            .filter(|(_, token)| token.special)
            .map(|(id, token)| (id, token.content))
            .collect();
        special.sort();
        let vocab_size = tokenizer
            .get_vocab(true)
            .into_values()
            .max()
            .map_or(0, |id| id as usize + 1);
        let (special_ids, special_tokens) = special.into_iter().unzip();
        Ok(Self {
            tokenizer,
            decoding,
            special_ids,
            special_tokens,
            vocab_size,
        })
    }
}

impl Tokenize for HuggingFace {
    fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, TokenizeError> {
        let failed = |error: tokenizers::Error| TokenizeError::Failed(error.to_string());
        let add = options.special_tokens == SpecialTokens::Add;
        let mut encoding = self.tokenizer.encode_fast(text, false).map_err(failed)?;
        if let Some(tokens_max) = options.truncate_to {
            let added = self
                .tokenizer
                .get_post_processor()
                .filter(|_| add)
                .map_or(0, |post| post.added_tokens(false));
            encoding.truncate(
                tokens_max.saturating_sub(added),
                0,
                TruncationDirection::Right,
            );
        }
        let encoding = self
            .tokenizer
            .post_process(encoding, None, add)
            .map_err(failed)?;
        let mut ids = encoding.get_ids().to_vec();
        ids.truncate(options.truncate_to.unwrap_or(usize::MAX));
        Ok(ids)
    }

    fn encode_rendered(&self, rendered: &Rendered) -> Result<Vec<u32>, TokenizeError> {
        self.encode(
            &rendered.text,
            EncodeOptions {
                special_tokens: SpecialTokens::Omit,
                truncate_to: None,
            },
        )
    }

    fn piece(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    fn is_special(&self, id: u32) -> bool {
        self.special_ids.contains(&id)
    }

    fn special_tokens(&self) -> &[String] {
        &self.special_tokens
    }

    fn id(&self, piece: &str) -> Option<u32> {
        self.tokenizer.token_to_id(piece)
    }

    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn decoding(&self) -> &Decoding {
        &self.decoding
    }
}
