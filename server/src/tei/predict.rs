//! `tei.v1.Predict`: the classes of a text, or of two that belong together.

use engine::executor::Output;
use proto::tei::v1 as tei;
use tonic::{Request, Response, Status, Streaming};

use super::cost::Cost;
use super::{Answer, Asker, Tei, small};
use crate::clock::Stopwatch;
use crate::edge::Context;
use crate::grpc::encoding::{Encoding, Fit, Input};
use crate::grpc::rank::labelled;
use crate::grpc::scores::Scale;
use crate::grpc::streaming::Answers;
use crate::registry::Ability;
use crate::status::{Fault, empty_input};

#[tonic::async_trait]
impl tei::predict_server::Predict for Tei {
    type PredictStreamStream = Answers<tei::PredictResponse>;
    type PredictPairStreamStream = Answers<tei::PredictResponse>;

    async fn predict(
        &self,
        request: Request<tei::PredictRequest>,
    ) -> Result<Response<tei::PredictResponse>, Status> {
        self.one(request, single).await
    }

    async fn predict_stream(
        &self,
        request: Request<Streaming<tei::PredictRequest>>,
    ) -> Result<Response<Self::PredictStreamStream>, Status> {
        self.stream(request, small("tei.PredictStream"), single)
    }

    async fn predict_pair(
        &self,
        request: Request<tei::PredictPairRequest>,
    ) -> Result<Response<tei::PredictResponse>, Status> {
        self.one(request, pair).await
    }

    async fn predict_pair_stream(
        &self,
        request: Request<Streaming<tei::PredictPairRequest>>,
    ) -> Result<Response<Self::PredictPairStreamStream>, Status> {
        self.stream(request, small("tei.PredictPairStream"), pair)
    }
}

async fn single(
    asker: Asker,
    context: Context,
    request: tei::PredictRequest,
) -> Result<Answer<tei::PredictResponse>, Fault> {
    let asked = Asked {
        fit: asker.fit(request.truncate, request.truncation_direction)?,
        scale: Scale::of(request.raw_scores),
    };
    predict(&asker, &context, vec![request.inputs], asked).await
}

async fn pair(
    asker: Asker,
    context: Context,
    request: tei::PredictPairRequest,
) -> Result<Answer<tei::PredictResponse>, Fault> {
    let asked = Asked {
        fit: asker.fit(request.truncate, request.truncation_direction)?,
        scale: Scale::of(request.raw_scores),
    };
    predict(&asker, &context, request.inputs, asked).await
}

/// What both kinds of requests have in common.
struct Asked {
    fit: Fit,
    scale: Scale,
}

async fn predict(
    asker: &Asker,
    context: &Context,
    inputs: Vec<String>,
    asked: Asked,
) -> Result<Answer<tei::PredictResponse>, Fault> {
    let begun = Stopwatch::start();
    let encoder = asker.encoder(Ability::Classify)?;
    context.report.set_model(&encoder.name, &encoder.facts);
    let chars = inputs.iter().map(|text| text.chars().count()).sum();
    let encoding = Encoding {
        encoder,
        deadline: context.deadline,
        output: Output::Scores,
        fit: asked.fit,
    };
    let input = input(inputs)?;
    let done = encoding.run(input, || "inputs".into()).await?;
    context.report.add_work(1, done.tokens.into());
    let cost = Cost::of(begun, chars, &done);
    let labels = labelled(encoder, done, asked.scale);
    let prediction = |(label, score)| tei::Prediction { score, label };
    let message = tei::PredictResponse {
        predictions: labels.into_iter().map(prediction).collect(),
        metadata: Some(cost.metadata()),
    };
    Ok(Answer {
        message,
        cost: Some(cost),
    })
}

/// One text or two; sizes are looked at where they are tokenized.
fn input(texts: Vec<String>) -> Result<Input, Fault> {
    if texts.iter().all(String::is_empty) {
        return Err(empty_input("inputs"));
    }
    match <[String; 2]>::try_from(texts) {
        Ok([first, second]) => Ok(Input::Pair(first.into(), second)),
        Err(texts) => match <[String; 1]>::try_from(texts) {
            Ok([text]) => Ok(Input::Text(text)),
            Err(texts) => {
                let message = format!("inputs are one text or two, not {}", texts.len());
                Err(Fault::invalid("inputs", "TOO_MANY_INPUTS", message)
                    .with("inputs", texts.len())
                    .with("inputs_max", 2_u64))
            }
        },
    }
}
