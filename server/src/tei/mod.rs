//! `tei.v1`, the gRPC interface of Text Embeddings Inference, over the same models and within the same
//! bounds as `paternoster.v1`. Each service has its file; here is what they share.

mod cost;
mod embed;
mod info;
mod predict;
mod rerank;
mod tokenize;

use std::sync::Arc;

use proto::tei::v1 as tei;
use tei::embed_server::EmbedServer;
use tei::info_server::InfoServer;
use tei::predict_server::PredictServer;
use tei::rerank_server::RerankServer;
use tei::tokenize_server::TokenizeServer;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::app::App;
use crate::edge::Context;
use crate::grpc::encoding::Fit;
use crate::grpc::inference::parts;
use crate::grpc::streaming::{self, Answers, Flow, Until};
use crate::limits::{TEI_LARGE_REQUESTS_AT_ONCE, TEI_REQUESTS_AT_ONCE};
use crate::registry::{Ability, Encoder, Served};
use crate::status::{Fault, empty_input, input_too_large};
use crate::text::tokenizer::Cut;
use cost::Cost;

/// The metadata key that names a model.
const MODEL_KEY: &str = "x-model-id";

/// Adds the five services.
pub(crate) fn add_to(routes: Routes, app: &Arc<App>) -> Routes {
    let message_bytes_max = app.limits.message_bytes_max;
    let tei = Tei {
        app: Arc::clone(app),
    };
    let info = InfoServer::new(tei.clone()).max_decoding_message_size(message_bytes_max);
    let embed = EmbedServer::new(tei.clone()).max_decoding_message_size(message_bytes_max);
    let predict = PredictServer::new(tei.clone()).max_decoding_message_size(message_bytes_max);
    let rerank = RerankServer::new(tei.clone()).max_decoding_message_size(message_bytes_max);
    let tokenize = TokenizeServer::new(tei).max_decoding_message_size(message_bytes_max);
    routes
        .add_service(info)
        .add_service(embed)
        .add_service(predict)
        .add_service(rerank)
        .add_service(tokenize)
}

/// The services over one server's state.
#[derive(Clone, Debug)]
struct Tei {
    app: Arc<App>,
}

/// A request's way to its model.
#[derive(Clone, Debug)]
struct Asker {
    app: Arc<App>,
    /// The model that the call's metadata name.
    model: Option<Arc<str>>,
}

/// The answer to one request, and what it cost, where that is told.
struct Answer<T> {
    message: T,
    cost: Option<Cost>,
}

impl Tei {
    /// A call as its method sees it.
    fn taken<T>(&self, request: Request<T>) -> Result<(Asker, Context, T), Status> {
        let asker = Asker {
            app: Arc::clone(&self.app),
            model: named(request.metadata())?,
        };
        let (context, message) = parts(request)?;
        Ok((asker, context, message))
    }

    /// Answers one request, which fails at once when all places are taken.
    async fn one<T, A, F>(
        &self,
        request: Request<T>,
        work: impl FnOnce(Asker, Context, T) -> F,
    ) -> Result<Response<A>, Status>
    where
        F: Future<Output = Result<Answer<A>, Fault>>,
    {
        let (asker, context, message) = self.taken(request)?;
        context.take_place(&self.app)?;
        let deadline = context.deadline;
        let answer = deadline.limit(Box::pin(work(asker, context, message)));
        Ok(answered(answer.await.ok_or_else(Fault::deadline)??))
    }

    /// Answers a stream of requests in order.
    fn stream<T, A, F>(
        &self,
        request: Request<Streaming<T>>,
        flow: Flow,
        work: impl Fn(Asker, Context, T) -> F + Send + 'static,
    ) -> Result<Response<Answers<A>>, Status>
    where
        T: Send + 'static,
        A: Send + 'static,
        F: Future<Output = Result<Answer<A>, Fault>> + Send + 'static,
    {
        let (asker, context, requests) = self.taken(request)?;
        let app = Arc::clone(&self.app);
        let answers = streaming::answers(app, context, requests, flow, move |context, message| {
            let deadline = context.deadline;
            let answer = Box::pin(work(asker.clone(), context, message));
            async move {
                let answer = deadline.limit(answer).await;
                Ok(answer.ok_or_else(Fault::deadline)??.message)
            }
        });
        Ok(Response::new(answers))
    }
}

impl Asker {
    /// The model for a request: the one that is named, else the first that is able.
    fn encoder(&self, ability: Ability) -> Result<&Arc<Encoder>, Fault> {
        let registry = &self.app.registry;
        match &self.model {
            Some(name) => registry.able(name, ability),
            None => registry.first_able(ability).ok_or_else(|| lacking(ability)),
        }
    }

    /// The model whose tokenizer is meant: the one that is named, else the first encoder, else the first.
    fn tokenizer(&self) -> Result<&Served, Fault> {
        let registry = &self.app.registry;
        let encoder = |model: &&Served| matches!(model, Served::Encoder(_));
        match &self.model {
            Some(name) => registry.any(name),
            None => match registry.models().iter().find(encoder) {
                Some(model) => Ok(model),
                None => registry.any(""),
            },
        }
    }

    /// What happens to a text that is too long.
    fn fit(&self, truncate: bool, direction: i32) -> Result<Fit, Fault> {
        let cut = match tei::TruncationDirection::try_from(direction) {
            Ok(tei::TruncationDirection::Right) => Cut::End,
            Ok(tei::TruncationDirection::Left) => Cut::Beginning,
            Err(_) => {
                let message = format!("there is no direction {direction}");
                return Err(Fault::invalid(
                    "truncation_direction",
                    "UNKNOWN_ENUM",
                    message,
                ));
            }
        };
        Ok(Fit::of(truncate, self.app.limits.too_long, cut))
    }

    /// That a text has something in it, and not too much.
    fn check(&self, field: &'static str, text: &str) -> Result<(), Fault> {
        let bytes_max = self.app.limits.input_bytes_max;
        match text.len() {
            0 => Err(empty_input(field)),
            bytes if bytes > bytes_max => Err(input_too_large(field, bytes, bytes_max)),
            _ => Ok(()),
        }
    }
}

/// An answer with its cost in the metadata.
fn answered<T>(answer: Answer<T>) -> Response<T> {
    let mut response = Response::new(answer.message);
    if let Some(cost) = answer.cost {
        cost.write(response.metadata_mut());
    }
    response
}

/// The model that a call's metadata name.
fn named(metadata: &MetadataMap) -> Result<Option<Arc<str>>, Fault> {
    let Some(name) = metadata.get(MODEL_KEY) else {
        return Ok(None);
    };
    match name.to_str() {
        Ok(name) if !name.is_empty() => Ok(Some(name.into())),
        _ => {
            let message = format!("{MODEL_KEY} is no name of a model");
            Err(Fault::invalid(MODEL_KEY, "BAD_MODEL_ID", message))
        }
    }
}

/// No model is served that can do this.
fn lacking(ability: Ability) -> Fault {
    let kind = match ability {
        Ability::Embed | Ability::EmbedTokens => "an embedding",
        Ability::EmbedSparse => "a sparse embedding",
        Ability::Classify => "a classifier",
        Ability::Rerank => "a re-ranker",
    };
    let message = format!("model is not {kind} model");
    Fault::new(Code::FailedPrecondition, "WRONG_TASK", message)
}

/// Streams with small answers.
fn small(method: &'static str) -> Flow {
    Flow {
        method,
        at_once: TEI_REQUESTS_AT_ONCE,
        place: Until::Answered,
    }
}

/// Streams whose answers may be megabytes.
fn large(method: &'static str) -> Flow {
    Flow {
        method,
        at_once: TEI_LARGE_REQUESTS_AT_ONCE,
        place: Until::Taken,
    }
}
