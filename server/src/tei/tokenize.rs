//! `tei.v1.Tokenize`: a model's tokenizer alone.

use proto::tei::v1 as tei;
use tonic::{Request, Response, Status, Streaming};

use super::{Answer, Asker, Tei, large, small};
use crate::clock::Stopwatch;
use crate::edge::Context;
use crate::grpc::encoding;
use crate::grpc::streaming::Answers;
use crate::limits::DETOKENIZE_TOKENS_MAX;
use crate::metrics;
use crate::registry::Served;
use crate::status::{Fault, empty_input};
use crate::text::tokenizer::{Placed, SpecialTokens};

#[tonic::async_trait]
impl tei::tokenize_server::Tokenize for Tei {
    type TokenizeStreamStream = Answers<tei::EncodeResponse>;
    type DecodeStreamStream = Answers<tei::DecodeResponse>;

    async fn tokenize(
        &self,
        request: Request<tei::EncodeRequest>,
    ) -> Result<Response<tei::EncodeResponse>, Status> {
        self.one(request, encode).await
    }

    async fn tokenize_stream(
        &self,
        request: Request<Streaming<tei::EncodeRequest>>,
    ) -> Result<Response<Self::TokenizeStreamStream>, Status> {
        self.stream(request, large("tei.TokenizeStream"), encode)
    }

    async fn decode(
        &self,
        request: Request<tei::DecodeRequest>,
    ) -> Result<Response<tei::DecodeResponse>, Status> {
        self.one(request, decode).await
    }

    async fn decode_stream(
        &self,
        request: Request<Streaming<tei::DecodeRequest>>,
    ) -> Result<Response<Self::DecodeStreamStream>, Status> {
        self.stream(request, small("tei.DecodeStream"), decode)
    }
}

async fn encode(
    asker: Asker,
    context: Context,
    request: tei::EncodeRequest,
) -> Result<Answer<tei::EncodeResponse>, Fault> {
    let model = asker.tokenizer()?;
    context.report.set_model(model.name(), model.facts());
    asker.check("inputs", &request.inputs)?;
    let prefix = prefix(model, request.prompt_name.as_deref())?;
    let text = encoding::prefixed(prefix, request.inputs);
    let special_tokens = if request.add_special_tokens {
        SpecialTokens::Add
    } else {
        SpecialTokens::Omit
    };
    let watch = Stopwatch::start();
    let tokens = model
        .text()
        .pool
        .encode_placed(text, special_tokens, simple);
    let tokens = tokens.await;
    metrics::tokenized(model.name(), watch.elapsed());
    let tokens = tokens.map_err(|error| Fault::from(error).at("inputs"))?;
    context.report.add_work(1, tokens.len() as u64);
    Ok(Answer {
        message: tei::EncodeResponse { tokens },
        cost: None,
    })
}

fn simple(Placed { id, place }: Placed, text: String) -> tei::SimpleToken {
    let special = place.is_none();
    let at = |byte: usize| byte as u32;
    let (start, stop) = place.map(|place| (at(place.start), at(place.end))).unzip();
    tei::SimpleToken {
        id,
        text,
        special,
        start,
        stop,
    }
}

async fn decode(
    asker: Asker,
    context: Context,
    request: tei::DecodeRequest,
) -> Result<Answer<tei::DecodeResponse>, Fault> {
    let model = asker.tokenizer()?;
    context.report.set_model(model.name(), model.facts());
    let tokens = request.ids.len();
    if tokens == 0 {
        return Err(empty_input("ids"));
    }
    if tokens > DETOKENIZE_TOKENS_MAX {
        let message = format!("at most {DETOKENIZE_TOKENS_MAX} tokens");
        return Err(Fault::invalid("ids", "INPUT_TOO_LARGE", message));
    }
    let pool = &model.text().pool;
    let text = if request.skip_special_tokens {
        pool.decode(request.ids).await?
    } else {
        pool.decode_all(request.ids).await?
    };
    context.report.add_work(1, tokens as u64);
    Ok(Answer {
        message: tei::DecodeResponse { text },
        cost: None,
    })
}

/// The text of a prompt's name. Decoders have no prompts.
fn prefix<'a>(model: &'a Served, name: Option<&str>) -> Result<&'a str, Fault> {
    match (model, name) {
        (Served::Encoder(encoder), name) => encoding::prefix(encoder, name),
        (Served::Decoder(_), None) => Ok(""),
        (Served::Decoder(_), Some(_)) => {
            let message = "the model has no prompts";
            Err(Fault::invalid(
                "prompt_name",
                "UNKNOWN_PROMPT_NAME",
                message,
            ))
        }
    }
}
