//! `tei.v1.Rerank`: texts ordered by how well they answer a query.

use engine::executor::Output;
use futures_util::{StreamExt as _, TryStreamExt as _};
use proto::tei::v1 as tei;
use tonic::{Request, Response, Status, Streaming};

use super::cost::Cost;
use super::{Answer, Asker, Tei, answered};
use crate::clock::Stopwatch;
use crate::edge::Context;
use crate::grpc::encoding::{Done, Encoding, Fit, Input, check_pairs, too_many};
use crate::grpc::rank::{lone_scores, of_pairs};
use crate::grpc::scores::{Scale, best_first};
use crate::grpc::streaming::{self, Arrived};
use crate::limits::{TEI_REQUESTS_AT_ONCE, TEI_RERANK_TEXTS_MAX};
use crate::registry::Ability;
use crate::status::{Fault, empty_input, input_too_large};

#[tonic::async_trait]
impl tei::rerank_server::Rerank for Tei {
    async fn rerank(
        &self,
        request: Request<tei::RerankRequest>,
    ) -> Result<Response<tei::RerankResponse>, Status> {
        let (asker, context, message) = self.taken(request)?;
        let deadline = context.deadline;
        // The right to wait is bounded too.
        let waiting = self.app.waiting.try_acquire();
        let _waiting = waiting.map_err(|_| self.app.no_place())?;
        let answer = deadline.limit(Box::pin(whole(asker, context, message)));
        Ok(answered(answer.await.ok_or_else(Fault::deadline)??))
    }

    async fn rerank_stream(
        &self,
        request: Request<Streaming<tei::RerankStreamRequest>>,
    ) -> Result<Response<tei::RerankResponse>, Status> {
        let (asker, context, requests) = self.taken(request)?;
        let deadline = context.deadline;
        let answer = deadline.limit(Box::pin(gathered(asker, context, requests)));
        Ok(answered(answer.await.ok_or_else(Fault::deadline)??))
    }
}

async fn whole(
    asker: Asker,
    context: Context,
    request: tei::RerankRequest,
) -> Result<Answer<tei::RerankResponse>, Fault> {
    let begun = Stopwatch::start();
    let encoder = asker.encoder(Ability::Rerank)?;
    context.report.set_model(&encoder.name, &encoder.facts);
    let fit = asker.fit(request.truncate, request.truncation_direction)?;
    let limits = &asker.app.limits;
    let texts = request.texts.len();
    if texts == 0 {
        return Err(empty_input("texts"));
    }
    if texts > limits.embed_inputs_max {
        return Err(too_many("texts", texts, limits.embed_inputs_max));
    }
    if request.query.is_empty()
        && let Some(index) = request.texts.iter().position(String::is_empty)
    {
        return Err(empty_input(format!("texts[{index}]")));
    }
    check_pairs(&request.query, &request.texts, limits.input_bytes_max)?;
    context.await_place(&asker.app).await?;
    let count = |text: &String| text.chars().count();
    let chars = count(&request.query) * texts + request.texts.iter().map(count).sum::<usize>();
    let encoding = Encoding {
        encoder,
        deadline: context.deadline,
        output: Output::Scores,
        fit,
    };
    let done = of_pairs(&encoding, &request.query.into(), &request.texts).await?;
    let cost = Cost::of_all(begun, chars, &done);
    report(&context, &done);
    let texts = if request.return_text {
        request.texts
    } else {
        Vec::new()
    };
    let scale = Scale::of(request.raw_scores);
    Ok(ranked(&lone_scores(&done, scale), texts, cost))
}

/// What the messages of a stream have brought until now.
#[derive(Default)]
struct Gathered {
    /// How scores are told and whether texts are sent back, as the first message says.
    wanted: Option<(Scale, bool)>,
    messages: usize,
    chars: usize,
    /// The texts to send back, and their bytes.
    texts: Vec<String>,
    bytes: usize,
}

async fn gathered(
    asker: Asker,
    context: Context,
    requests: Streaming<tei::RerankStreamRequest>,
) -> Result<Answer<tei::RerankResponse>, Status> {
    let begun = Stopwatch::start();
    let encoder = asker.encoder(Ability::Rerank)?;
    context.report.set_model(&encoder.name, &encoder.facts);
    let mut gathered = Gathered::default();
    let arriving = streaming::arriving(asker.app.clone(), context.clone(), requests);
    let done = arriving
        .map(|arrived| {
            let Arrived {
                context,
                message,
                place,
            } = arrived?;
            let (pair, fit) = gathered.take(&asker, message)?;
            let index = gathered.messages - 1;
            let deadline = context.deadline;
            Ok::<_, Status>((pair, fit, deadline, index, place))
        })
        .map(|taken| async move {
            let (pair, fit, deadline, index, _place) = taken?;
            let encoding = Encoding {
                encoder,
                deadline,
                output: Output::Scores,
                fit,
            };
            let done = encoding.run(pair, || format!("messages[{index}]").into());
            Ok::<_, Status>(done.await?)
        })
        .buffered(TEI_REQUESTS_AT_ONCE)
        .try_collect::<Vec<Done>>()
        .await?;
    let Some((scale, _)) = gathered.wanted else {
        return Err(empty_input("messages").into());
    };
    let cost = Cost::of_all(begun, gathered.chars, &done);
    report(&context, &done);
    Ok(ranked(&lone_scores(&done, scale), gathered.texts, cost))
}

impl Gathered {
    /// Takes one message.
    fn take(
        &mut self,
        asker: &Asker,
        message: tei::RerankStreamRequest,
    ) -> Result<(Input, Fit), Fault> {
        let fit = asker.fit(message.truncate, message.truncation_direction)?;
        let wanted = (Scale::of(message.raw_scores), message.return_text);
        let (_, return_text) = *self.wanted.get_or_insert(wanted);
        if message.query.is_empty() && message.text.is_empty() {
            return Err(empty_input("text"));
        }
        self.count()?;
        if return_text {
            // No more than what a message may have: the answer is one.
            self.bytes += message.text.len();
            let bytes_max = asker.app.limits.message_bytes_max;
            if self.bytes > bytes_max {
                return Err(input_too_large("text", self.bytes, bytes_max));
            }
            self.texts.push(message.text.clone());
        }
        self.chars += message.query.chars().count() + message.text.chars().count();
        Ok((Input::Pair(message.query.into(), message.text), fit))
    }

    fn count(&mut self) -> Result<(), Fault> {
        self.messages += 1;
        if self.messages > TEI_RERANK_TEXTS_MAX {
            return Err(too_many("messages", self.messages, TEI_RERANK_TEXTS_MAX));
        }
        Ok(())
    }
}

/// The texts by their scores, with themselves where they are sent back.
fn ranked(scores: &[f32], mut texts: Vec<String>, cost: Cost) -> Answer<tei::RerankResponse> {
    let rank = |index: usize| tei::Rank {
        index: index as u32,
        text: texts.get_mut(index).map(std::mem::take),
        score: scores[index],
    };
    let message = tei::RerankResponse {
        ranks: best_first(scores).into_iter().map(rank).collect(),
        metadata: Some(cost.metadata()),
    };
    Answer {
        message,
        cost: Some(cost),
    }
}

fn report(context: &Context, done: &[Done]) {
    let tokens = done.iter().map(|done| u64::from(done.tokens)).sum();
    context.report.add_work(done.len() as u32, tokens);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ranking_has_so_many_messages() {
        let mut gathered = Gathered::default();
        for _ in 0..TEI_RERANK_TEXTS_MAX {
            gathered.count().unwrap();
        }
        gathered.count().unwrap_err();
    }
}
