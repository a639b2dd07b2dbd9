//! [`Tokenize`] over the `tokenizers` library, from a tokenizer.json.
//!
//! Encoding runs the library's own stages one by one, to the same result as its `encode`, because two things
//! are wanted that `encode` has not: to stop early when only the first tokens are kept, and to tell control
//! tokens that a chat template wrote from those that a message names.

use std::ops::Range;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::normalizer::Range as Span;
use tokenizers::{
    AddedToken, AddedVocabulary, Encoding, Model, NormalizedString, Normalizer, NormalizerWrapper,
    OffsetReferential, OffsetType, PostProcessor, PreTokenizedString, PreTokenizer, Token,
    Tokenizer, TruncationDirection, TruncationParams, TruncationStrategy, truncate_encodings,
};

use super::chat::Rendered;
use super::control::ControlTokens;
use super::detokenize::{Decoding, Prepared};
use super::tokenizer::{
    Cut, EncodeOptions, Pair, Placed, SpecialTokens, Tokenize, TokenizeError, TokenizerLoadError,
};
use super::vocabulary::{IDS_MAX, Vocabulary};

/// A tokenizer of the `tokenizers` library.
#[derive(Debug)]
pub(super) struct HuggingFace {
    tokenizer: Tokenizer,
    decoding: Decoding,
    /// The added tokens for rendered chats: control tokens are matched in the text as it stands, before
    /// normalizing, where it is known who wrote them.
    chat_vocabulary: AddedVocabulary,
    control_tokens: ControlTokens,
    vocabulary: Vocabulary,
    /// The id for what the vocabulary cannot say, special or not.
    unknown_id: Option<u32>,
}

/// What is read of a tokenizer.json beside the library.
#[derive(Debug, Deserialize)]
struct File {
    #[serde(default)]
    decoder: Value,
    #[serde(default)]
    model: ModelPart,
}

#[derive(Debug, Default, Deserialize)]
struct ModelPart {
    #[serde(default)]
    unk_token: Value,
    #[serde(default)]
    unk_id: Value,
}

/// Bytes of a tokenizer.json: twice the longest that are published.
const FILE_BYTES_MAX: usize = 64 << 20;
/// Bytes of all control tokens; searching for them takes some 70 times that in memory.
const CONTROL_BYTES_MAX: usize = 1 << 20;

impl HuggingFace {
    /// Reads a tokenizer.json. Truncation and padding are switched off: lengths are the caller's business.
    pub(super) fn from_json(bytes: &[u8]) -> Result<Self, TokenizerLoadError> {
        check_size("the file", bytes.len(), FILE_BYTES_MAX)?;
        let invalid = |error: serde_json::Error| TokenizerLoadError::Invalid(error.to_string());
        let file: File = serde_json::from_slice(bytes).map_err(invalid)?;
        let decoding = Decoding::from_json(&file.decoder)?;
        let library = |error: tokenizers::Error| TokenizerLoadError::Invalid(error.to_string());
        // The library panics at merges that are longer than every word of the vocabulary.
        let read = std::panic::catch_unwind(|| Tokenizer::from_bytes(bytes));
        let panicked = |_| TokenizerLoadError::Invalid("the library panics on it".to_owned());
        let mut tokenizer = read.map_err(panicked)?.map_err(library)?;
        tokenizer.with_truncation(None).map_err(library)?;
        tokenizer.with_padding(None);

        let added = tokenizer.get_added_tokens_decoder();
        let mut special: Vec<(u32, AddedToken)> = added
            .into_iter()
            .filter(|(_, token)| token.special)
            .collect();
        special.sort_unstable_by_key(|&(id, _)| id);
        let control_bytes = special.iter().map(|(_, token)| token.content.len()).sum();
        check_size("the control tokens", control_bytes, CONTROL_BYTES_MAX)?;
        let control_tokens = ControlTokens::new(special.iter().map(|(_, token)| &*token.content));
        let special_ids: Vec<u32> = special.iter().map(|&(id, _)| id).collect();

        let mut chat_vocabulary = tokenizer.get_added_vocabulary().clone();
        let literal = special
            .into_iter()
            .map(|(_, token)| token.normalized(false));
        chat_vocabulary
            .add_tokens(literal, tokenizer.get_model(), tokenizer.get_normalizer())
            .map_err(library)?;

        let vocabulary = vocabulary(&tokenizer, &decoding, &special_ids)?;
        let unknown_id = unknown_id(&file.model, &tokenizer);
        Ok(Self {
            tokenizer,
            decoding,
            chat_vocabulary,
            control_tokens,
            vocabulary,
            unknown_id,
        })
    }

    fn pre_tokenize(&self, pieces: &mut PreTokenizedString) -> tokenizers::Result<()> {
        match self.tokenizer.get_pre_tokenizer() {
            Some(pre_tokenizer) => pre_tokenizer.pre_tokenize(pieces),
            None => Ok(()),
        }
    }

    /// The tokens of a text, none added around it. Where there is a limit, some of those beyond it may be
    /// missing.
    fn encode_text(
        &self,
        text: &str,
        limit: Option<Limit>,
        offsets: OffsetType,
    ) -> tokenizers::Result<Encoding> {
        let vocabulary = self.tokenizer.get_added_vocabulary();
        let mut pieces = vocabulary.extract_and_normalize(self.tokenizer.get_normalizer(), text);
        self.pre_tokenize(&mut pieces)?;
        let stop = limit.map(|limit| (limit.tokens_max, limit.direction));
        self.tokenizer
            .get_model()
            .tokenize_in_pretokenized(&mut pieces, stop)?;
        pieces.into_encoding(None, 0, offsets)
    }

    /// How many tokens the text has room for beside `added` ones.
    fn limit(options: EncodeOptions, added: usize) -> Option<Limit> {
        let tokens_max = options.truncate_to?.saturating_sub(added);
        Some(Limit {
            tokens_max,
            direction: match options.cut {
                Cut::End => TruncationDirection::Right,
                Cut::Beginning => TruncationDirection::Left,
            },
        })
    }

    /// How many tokens are added around the texts.
    fn added_tokens(&self, special_tokens: SpecialTokens, is_pair: bool) -> usize {
        let post_processor = match special_tokens {
            SpecialTokens::Add => self.tokenizer.get_post_processor(),
            SpecialTokens::Omit => None,
        };
        post_processor.map_or(0, |post_processor| post_processor.added_tokens(is_pair))
    }

    fn encode_plain(&self, text: &str, options: EncodeOptions) -> tokenizers::Result<Vec<u32>> {
        let added = self.added_tokens(options.special_tokens, false);
        let limit = Self::limit(options, added);
        let mut encoding = self.encode_text(text, limit, OffsetType::None)?;
        if let Some(limit) = limit {
            encoding.truncate(limit.tokens_max, 0, limit.direction);
            encoding.take_overflowing();
        }
        if options.special_tokens == SpecialTokens::Add {
            encoding = self.tokenizer.post_process(encoding, None, true)?;
        }
        let mut ids = encoding.get_ids().to_vec();
        ids.truncate(options.truncate_to.unwrap_or(usize::MAX));
        Ok(ids)
    }

    fn encode_two(&self, texts: [&str; 2], options: EncodeOptions) -> tokenizers::Result<Pair> {
        // As the library does it, though which text seems the longer one, and keeps an odd token, then
        // depends on the piece at which each stops.
        let stop = Self::limit(options, 0);
        let mut first = self.encode_text(texts[0], stop, OffsetType::None)?;
        let mut second = self.encode_text(texts[1], stop, OffsetType::None)?;
        let added = self.added_tokens(options.special_tokens, true);
        if let Some(limit) = Self::limit(options, added) {
            let params = TruncationParams {
                max_length: limit.tokens_max,
                direction: limit.direction,
                strategy: TruncationStrategy::LongestFirst,
                stride: 0,
            };
            let cut = truncate_encodings(first, Some(second), &params)?;
            (first, second) = (cut.0, cut.1.unwrap_or_default());
            // A post-processor would pair all that was cut off with each other.
            first.take_overflowing();
            second.take_overflowing();
        }
        second.set_type_ids(vec![1; second.len()]);
        let add = options.special_tokens == SpecialTokens::Add;
        let both = self.tokenizer.post_process(first, Some(second), add)?;
        let tokens_max = options.truncate_to.unwrap_or(usize::MAX);
        let segment = |&id: &u32| u8::try_from(id).unwrap_or(u8::MAX);
        Ok(Pair {
            ids: both.get_ids().iter().copied().take(tokens_max).collect(),
            segments: both
                .get_type_ids()
                .iter()
                .map(segment)
                .take(tokens_max)
                .collect(),
        })
    }

    fn encode_with_places(
        &self,
        text: &str,
        special_tokens: SpecialTokens,
    ) -> tokenizers::Result<Vec<Placed>> {
        let encoding = self.encode_text(text, None, OffsetType::Byte)?;
        let add = special_tokens == SpecialTokens::Add;
        let encoding = self.tokenizer.post_process(encoding, None, add)?;
        let ids = encoding.get_ids().iter();
        let places = encoding.get_offsets().iter();
        let added = encoding.get_special_tokens_mask().iter();
        let placed = ids.zip(places).zip(added);
        Ok(placed
            .map(|((&id, &(start, end)), &added)| Placed {
                id,
                place: (added == 0).then_some(start..end),
            })
            .collect())
    }

    fn encode_chat(&self, rendered: &Rendered) -> tokenizers::Result<Vec<u32>> {
        let normalizer = self.tokenizer.get_normalizer();
        let mut pieces = if rendered.marks.is_empty() {
            self.chat_vocabulary
                .extract_and_normalize(normalizer, &rendered.text)
        } else {
            self.extract_marked(rendered)?
        };
        self.pre_tokenize(&mut pieces)?;
        pieces.tokenize(|piece| self.text_tokens(piece.get()))?;
        let encoding = pieces.into_encoding(None, 0, OffsetType::None)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// As the library's `extract_and_normalize`, but a control token that a mark touches stays text.
    fn extract_marked(&self, rendered: &Rendered) -> tokenizers::Result<PreTokenizedString> {
        let mut pieces = PreTokenizedString::from(rendered.text.as_str());
        pieces.split(|_, piece| {
            Ok(self.cut(&piece, |token, at| {
                let meant = !token.special || !rendered.is_marked(at);
                meant && !token.normalized
            }))
        })?;
        pieces.split(|_, mut piece| {
            if let Some(normalizer) = self.tokenizer.get_normalizer() {
                normalizer.normalize(&mut piece)?;
            }
            Ok(self.cut(&piece, |token, _| token.normalized))
        })?;
        Ok(pieces)
    }

    /// Cuts a piece at the added tokens in it that `keep` wants. It is given where a token's own text lies
    /// in the original; the spaces that some tokens draw in beside them are not counted.
    fn cut(
        &self,
        piece: &NormalizedString,
        keep: impl Fn(&AddedToken, Range<usize>) -> bool,
    ) -> Vec<(NormalizedString, Option<Vec<Token>>)> {
        let none: Option<&NormalizerWrapper> = None;
        let found = self
            .chat_vocabulary
            .extract_and_normalize(none, piece.get());
        let added = self.chat_vocabulary.get_added_tokens_decoder();
        let mut parts = Vec::new();
        let mut text_from = 0;
        let mut push = |range: Range<usize>, tokens| {
            let part = piece
                .slice(Span::Normalized(range))
                .filter(|part| !part.is_empty());
            parts.extend(part.map(|part| (part, tokens)));
        };
        for (text, (start, end), tokens) in
            found.get_splits(OffsetReferential::Original, OffsetType::Byte)
        {
            let id = tokens
                .as_ref()
                .and_then(|tokens| tokens.first())
                .map(|token| token.id);
            let Some((id, token)) = id.and_then(|id| Some((id, added.get(&id)?))) else {
                continue;
            };
            let original = piece.slice(Span::Normalized(start..end));
            let original = original.map_or(0, |part| part.offsets_original().0);
            let own = original + text.find(&token.content).unwrap_or(0);
            if keep(token, own..own + token.content.len()) {
                push(text_from..start, None);
                let whole = Token::new(id, text.to_owned(), (0, text.len()));
                push(start..end, Some(vec![whole]));
                text_from = end;
            }
        }
        push(text_from..piece.get().len(), None);
        parts
    }

    /// Tokens of text that holds no control token. Some models have control tokens in their own vocabulary
    /// and find them in text by themselves; those are then spelled out.
    fn text_tokens(&self, text: &str) -> tokenizers::Result<Vec<Token>> {
        let model = self.tokenizer.get_model();
        let is_control = |id: u32| self.vocabulary.is_control(id) && Some(id) != self.unknown_id;
        let tokens = model.tokenize(text)?;
        if !tokens.iter().any(|token| is_control(token.id)) {
            return Ok(tokens);
        }
        let mut spelled = Vec::with_capacity(tokens.len());
        for token in tokens {
            if !is_control(token.id) {
                spelled.push(token);
                continue;
            }
            let (start, end) = token.offsets;
            for one in text.get(start..end).unwrap_or_default().chars() {
                let letters = model.tokenize(one.encode_utf8(&mut [0; 4]))?;
                spelled.extend(letters.into_iter().filter(|letter| !is_control(letter.id)));
            }
        }
        Ok(spelled)
    }
}

/// How much of a text is wanted.
#[derive(Clone, Copy)]
struct Limit {
    tokens_max: usize,
    direction: TruncationDirection,
}

fn check_size(what: &str, bytes: usize, bytes_max: usize) -> Result<(), TokenizerLoadError> {
    if bytes <= bytes_max {
        return Ok(());
    }
    let message = format!("{what} of {bytes} bytes, more than {bytes_max}");
    Err(TokenizerLoadError::Limit(message))
}

/// What every id gives to a text. `special_ids` ascend.
fn vocabulary(
    tokenizer: &Tokenizer,
    decoding: &Decoding,
    special_ids: &[u32],
) -> Result<Vocabulary, TokenizerLoadError> {
    let largest = tokenizer.get_vocab(true).into_values().max();
    let ids = largest.map_or(0, |id| id as usize + 1);
    if ids > IDS_MAX {
        let message = format!("token ids up to {}, more than {IDS_MAX}", ids - 1);
        return Err(TokenizerLoadError::Limit(message));
    }
    let mut vocabulary = Vocabulary::default();
    for id in 0..ids as u32 {
        if special_ids.binary_search(&id).is_ok() {
            vocabulary.push_control();
        } else {
            let piece = tokenizer.id_to_token(id);
            vocabulary.push(piece.as_deref().map(|piece| decoding.prepare(piece)))?;
        }
    }
    Ok(vocabulary)
}

/// The model's own id for what it cannot say.
fn unknown_id(model: &ModelPart, tokenizer: &Tokenizer) -> Option<u32> {
    let by_name = model.unk_token.as_str();
    let by_name = by_name.and_then(|name| tokenizer.token_to_id(name));
    let by_id = || u32::try_from(model.unk_id.as_u64()?).ok();
    by_name.or_else(by_id)
}

impl Tokenize for HuggingFace {
    fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, TokenizeError> {
        self.encode_plain(text, options)
            .map_err(|error| TokenizeError::Failed(error.to_string()))
    }

    fn encode_pair(&self, texts: [&str; 2], options: EncodeOptions) -> Result<Pair, TokenizeError> {
        self.encode_two(texts, options)
            .map_err(|error| TokenizeError::Failed(error.to_string()))
    }

    fn encode_placed(
        &self,
        text: &str,
        special_tokens: SpecialTokens,
    ) -> Result<Vec<Placed>, TokenizeError> {
        self.encode_with_places(text, special_tokens)
            .map_err(|error| TokenizeError::Failed(error.to_string()))
    }

    fn encode_rendered(&self, rendered: &Rendered) -> Result<Vec<u32>, TokenizeError> {
        self.encode_chat(rendered)
            .map_err(|error| TokenizeError::Failed(error.to_string()))
    }

    fn piece(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    fn is_special(&self, id: u32) -> bool {
        self.vocabulary.is_control(id)
    }

    fn prepared(&self, id: u32) -> Option<Prepared<'_>> {
        self.vocabulary.prepared(id)
    }

    fn control_tokens(&self) -> &ControlTokens {
        &self.control_tokens
    }

    fn id(&self, piece: &str) -> Option<u32> {
        self.tokenizer.token_to_id(piece)
    }

    fn vocab_size(&self) -> usize {
        self.vocabulary.len()
    }

    fn decoding(&self) -> &Decoding {
        &self.decoding
    }
}
