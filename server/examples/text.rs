//! What text costs its caller: nanoseconds for each token of an answer, pushed one by one as they come from
//! an engine, and microseconds for the longest texts that are encoded without changing threads.
//!
//! `cargo run --release -p server --example text [TOKENIZER_JSON]`

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a measurement prints, may fail and reads a clock"
)]

use std::sync::Arc;
use std::time::Instant;

use server::text::detokenize::Detokenizer;
use server::text::tokenizer::{EncodeOptions, PoolLimits, TokenizerPool};

/// Tokens of one round, and rounds.
const TOKENS: usize = 200_000;
const ROUNDS: usize = 9;
/// The tokens are those of this text, over and over.
const TEXT: &str = "Paternoster lifts never stop: a chain of open cars goes round and round, and who wants \
     to ride steps in. Naïve riders of 世界 ask: 2 + 40 = ? {\"answer\": 42}\n\n";

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let demo = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../models/demo/decoder/model/tokenizer.json"
    );
    let path = std::env::args().nth(1).unwrap_or_else(|| demo.to_owned());
    let pool =
        TokenizerPool::from_json(&std::fs::read(path).unwrap(), PoolLimits::default()).unwrap();
    let text = TEXT.to_owned();
    let ids = pool.encode(text, EncodeOptions::default()).await.unwrap();
    let rounds = (0..ROUNDS).map(|_| round(&pool, &ids)).collect();
    println!("detokenize: {:.1} ns/token", median(rounds));
    for (what, part) in [
        ("prose", "Paternoster lifts never stop. "),
        ("one word", "x"),
        ("line breaks", ".\n"),
    ] {
        let mut rounds = Vec::new();
        for _ in 0..200 {
            rounds.push(encode(&pool, &part.repeat(255 / part.len())).await);
        }
        println!("encode 255 bytes of {what}: {:.1} us", median(rounds));
    }
}

/// Microseconds to encode a text.
async fn encode(pool: &TokenizerPool, text: &str) -> f64 {
    let text = text.to_owned();
    let begun = Instant::now();
    pool.encode(text, EncodeOptions::default()).await.unwrap();
    begun.elapsed().as_nanos() as f64 / 1e3
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Nanoseconds a token.
fn round(pool: &TokenizerPool, ids: &[u32]) -> f64 {
    let mut detokenizer = Detokenizer::new(Arc::clone(pool.tokenizer()));
    let mut text = String::with_capacity(1024);
    let mut bytes = 0;
    let begun = Instant::now();
    for &id in ids.iter().cycle().take(TOKENS) {
        detokenizer.push(id, &mut text);
        bytes += text.len();
        text.clear();
    }
    let nanos = begun.elapsed().as_nanos() as f64;
    assert!(bytes > TOKENS, "too little text");
    nanos / TOKENS as f64
}
