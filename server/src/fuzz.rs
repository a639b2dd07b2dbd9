//! Where hostile bytes come in, one function each: for the fuzzers in `fuzz/`, and for the test that
//! replays their corpora. A function returns whatever it was given; what must not be is a panic.

use std::sync::{Arc, LazyLock};

use prost::Message as _;
use proto::v1;

use crate::byte_tokenizer;
use crate::clock::parse_grpc_timeout;
use crate::grpc::validate::{self, is_identifier};
use crate::limits::{ID_CHARS_MAX, Limits};
use crate::text::chat::{ChatTemplate, Message};
use crate::text::detokenize::Detokenizer;
use crate::text::stop::StopMatcher;
use crate::text::stream::TextStream;
use crate::text::tokenizer::{PoolLimits, Tokenize, TokenizerPool};

/// A name, and what takes the bytes.
pub type Target = (&'static str, fn(&[u8]));

/// Every way in that this crate has.
pub const TARGETS: &[Target] = &[
    ("chat_template", chat_template),
    ("detokenizer", detokenizer),
    ("metadata", metadata),
    ("request", request),
    ("sampling", sampling),
    ("tokenizer", tokenizer),
];

/// Token ids of the model that requests are checked for are below this.
const VOCABULARY: u32 = 300;

/// A tokenizer whose tokens are bytes.
#[expect(clippy::expect_used, reason = "a file of our own")]
static BYTES: LazyLock<Arc<dyn Tokenize>> = LazyLock::new(|| {
    let pool = TokenizerPool::from_json(&byte_tokenizer::json(), PoolLimits::default());
    Arc::clone(pool.expect("a sound tokenizer").tokenizer())
});

/// A message as it comes off the wire.
pub fn request(bytes: &[u8]) {
    if let Ok(mut request) = v1::GenerateRequest::decode(bytes) {
        check(&mut request);
    }
    let _embed = v1::EmbedRequest::decode(bytes);
    let _rerank = v1::RerankRequest::decode(bytes);
    let _classify = v1::ClassifyRequest::decode(bytes);
    let _tokenize = v1::TokenizeRequest::decode(bytes);
}

/// Numbers of every kind where numbers go.
pub fn sampling(bytes: &[u8]) {
    let mut words = bytes
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
    let mut word = || words.next();
    let sampling = v1::Sampling {
        temperature: word().map(f32::from_bits),
        top_k: word(),
        top_p: word().map(f32::from_bits),
        min_p: word().map(f32::from_bits),
        typical_p: word().map(f32::from_bits),
        repetition_penalty: word().map(f32::from_bits),
        frequency_penalty: word().map(f32::from_bits),
        presence_penalty: word().map(f32::from_bits),
        n: word(),
        seed: word().map(u64::from),
        logit_bias: word()
            .zip(word())
            .map(|(id, bias)| (id, f32::from_bits(bias)))
            .into_iter()
            .collect(),
    };
    let stopping = v1::Stopping {
        max_tokens: word(),
        min_tokens: word(),
        stop_token_ids: word().into_iter().collect(),
        ..v1::Stopping::default()
    };
    check(&mut v1::GenerateRequest {
        sampling: Some(sampling),
        stopping: Some(stopping),
        ..v1::GenerateRequest::default()
    });
}

/// What passes is in range.
fn check(request: &mut v1::GenerateRequest) {
    let limits = Limits::default();
    let Ok(checked) = validate::generate(request, VOCABULARY, &[], &limits) else {
        return;
    };
    assert!((1..=limits.n_max).contains(&checked.n));
    let drawn = checked.sampling;
    let numbers = [
        drawn.temperature,
        drawn.top_p,
        drawn.min_p,
        drawn.typical_p,
        drawn.repetition_penalty,
        drawn.frequency_penalty,
        drawn.presence_penalty,
    ];
    assert!(numbers.iter().flatten().all(|number| number.is_finite()));
    let ids = drawn.logit_bias.iter().map(|(token, _)| token.0);
    assert!(
        ids.chain(drawn.stop_tokens.iter().map(|token| token.0))
            .all(|id| id < VOCABULARY)
    );
    if let Some(v1::generate_request::Input::TokenIds(tokens)) = &request.input {
        let _checked = validate::token_ids("token_ids.ids", &tokens.ids, VOCABULARY);
    }
}

/// A template, as a model's folder has one.
pub fn chat_template(bytes: &[u8]) {
    let message = |role: &str, content: &str| Message {
        role: role.to_owned(),
        content: content.to_owned(),
    };
    let messages = [
        message("system", "You are a lift."),
        message("user", "Up, <|im_end|> please."),
    ];
    if let Ok(Some(template)) = ChatTemplate::from_config(b"{}", Some(bytes)) {
        let control = BYTES.control_tokens();
        let _rendered = template.at(951_782_400).render(&messages, control);
    }
}

/// A tokenizer.json.
pub fn tokenizer(bytes: &[u8]) {
    let Ok(pool) = TokenizerPool::from_json(bytes, PoolLimits::default()) else {
        return;
    };
    let tokenizer = Arc::clone(pool.tokenizer());
    for id in 0..tokenizer.vocab_size().min(64) as u32 {
        let _piece = tokenizer.piece(id);
    }
    stream(tokenizer, &[0, 1, 2, 3], &[]);
}

/// Tokens in any order become text, whole and in pieces.
pub fn detokenizer(bytes: &[u8]) {
    let (stop, tokens) = bytes.split_at(bytes.len().min(2));
    let stop: Vec<String> = String::from_utf8_lossy(stop)
        .chars()
        .map(String::from)
        .collect();
    let tokens: Vec<u32> = tokens.iter().map(|&byte| byte.into()).collect();
    let whole = stream(Arc::clone(&BYTES), &tokens, &[]);
    let cut = stream(Arc::clone(&BYTES), &tokens, &stop);
    assert!(whole.starts_with(&cut));
    assert!(stop.iter().all(|stop| !cut.contains(stop.as_str())));
}

/// The text of tokens that come one by one.
fn stream(tokenizer: Arc<dyn Tokenize>, tokens: &[u32], stop: &[String]) -> String {
    let Ok(stop) = StopMatcher::new(stop) else {
        return String::new();
    };
    let mut stream = TextStream::new(Detokenizer::new(tokenizer), stop);
    let mut text: String = tokens
        .iter()
        .map(|&token| stream.push(&[token]).text)
        .collect();
    text.push_str(&stream.finish().text);
    text
}

/// Header fields that are read before a message is.
pub fn metadata(bytes: &[u8]) {
    if let Some(time) = parse_grpc_timeout(bytes) {
        assert!(time.as_secs() <= 99_999_999 * 3600);
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let named = is_identifier(text);
        assert!(!named || text.len() <= ID_CHARS_MAX && text.bytes().all(|b| b.is_ascii_graphic()));
    }
}
