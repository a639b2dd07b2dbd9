//! `Tokenize` and `Detokenize`: a model's tokenizer alone, without its engine.

use proto::v1;
use proto::v1::tokenize_request::Input;

use super::{generate, validate};
use crate::app::App;
use crate::clock::Stopwatch;
use crate::edge::Context;
use crate::limits::DETOKENIZE_TOKENS_MAX;
use crate::metrics;
use crate::registry::Served;
use crate::status::{Fault, empty_input};
use crate::text::tokenizer::{EncodeOptions, SpecialTokens};

/// The tokens of a text or a conversation.
pub(crate) async fn tokenize(
    app: &App,
    context: &Context,
    request: v1::TokenizeRequest,
) -> Result<v1::TokenizeResponse, Fault> {
    let model = app.registry.any(&request.model)?;
    context.report.set_model(model.name(), model.facts());
    let special_tokens = match request.add_special_tokens {
        Some(false) => SpecialTokens::Omit,
        Some(true) | None => SpecialTokens::Add,
    };
    let options = EncodeOptions {
        special_tokens,
        ..EncodeOptions::default()
    };
    let watch = Stopwatch::start();
    let tokenized = async {
        match request.input {
            None => Err(empty_input("input")),
            Some(Input::Prompt(text)) => generate::prompt(model.text(), text, options).await,
            Some(Input::Chat(chat)) => generate::chat(model.text(), chat, (app.now)()).await,
        }
    };
    let ids = context.deadline.limit(tokenized).await;
    metrics::tokenized(model.name(), watch.elapsed());
    let ids = ids.ok_or_else(Fault::deadline)??;
    context.report.add_work(1, ids.len() as u64);
    let piece = |id, text| v1::TokenPiece { id, text };
    let tokens = context.deadline.limit(model.text().pool.pieces(ids, piece));
    Ok(v1::TokenizeResponse {
        tokens: tokens.await.ok_or_else(Fault::deadline)??,
        model: model.name().to_owned(),
    })
}

/// The text of tokens.
pub(crate) async fn detokenize(
    app: &App,
    context: &Context,
    request: v1::DetokenizeRequest,
) -> Result<v1::DetokenizeResponse, Fault> {
    let model: &Served = app.registry.any(&request.model)?;
    context.report.set_model(model.name(), model.facts());
    if request.token_ids.len() > DETOKENIZE_TOKENS_MAX {
        let message = format!("at most {DETOKENIZE_TOKENS_MAX} tokens");
        return Err(Fault::invalid("token_ids", "INPUT_TOO_LARGE", message));
    }
    validate::token_ids("token_ids", &request.token_ids, model.facts().vocab_size)?;
    let tokens = request.token_ids.len() as u64;
    let pool = &model.text().pool;
    let text = async {
        if request.keep_special_tokens {
            pool.decode_all(request.token_ids).await
        } else {
            pool.decode(request.token_ids).await
        }
    };
    let text = context.deadline.limit(text).await;
    let text = text.ok_or_else(Fault::deadline)??;
    context.report.add_work(1, tokens);
    Ok(v1::DetokenizeResponse {
        text,
        model: model.name().to_owned(),
    })
}
