//! One generation as it runs: the engine's progress becomes text, tokens and an end for each of
//! its sequences.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use engine::executor::TokenLogprob;
use engine::handle::{End, Generated, Progress, Tokens};
use engine::request::{Finish, Token};
use futures_util::Stream;
use futures_util::stream::StreamExt as _;
use proto::v1;
use proto::v1::generate_response::Event;
use tokio::time::Sleep;
use tokio_stream::StreamMap;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;

use crate::app::RunningEntry;
use crate::clock::Deadline;
use crate::journal::Report;
use crate::metrics;
use crate::status::{Fault, fault_of_end};
use crate::text::stream::{Chunk, TextStream};

/// A running generation of n sequences. Dropping it aborts them.
pub(crate) struct Generation {
    pub(crate) request_id: String,
    pub(crate) model: String,
    pub(crate) usage: v1::Usage,
    _entry: RunningEntry,
    /// Fires when somebody aborts it by its id.
    aborted: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Fires when the engine should have ended everything and did not.
    overdue: Pin<Box<Sleep>>,
    sequences: Vec<Sequence>,
    /// The sequences that still run; removing one aborts it.
    running: StreamMap<u32, Running>,
    ready: VecDeque<Event>,
    started: bool,
    report: Arc<Report>,
    /// An error, to be said after what came before it.
    failure: Option<Status>,
}

/// What the engine reports of one sequence.
struct Running(Tokens);

impl Stream for Running {
    type Item = Progress;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Progress>> {
        self.0.poll_next(context)
    }
}

/// One sequence's way from tokens to text.
struct Sequence {
    index: u32,
    text: TextStream,
    stops: Arc<[String]>,
    /// Tokens whose text is not yet sent as a whole.
    held: VecDeque<Generated>,
    /// The tokens that end it, sorted.
    stop_tokens: Arc<[Token]>,
    /// The one of them that was drawn. It has no text, so it never comes to the text stream.
    last: Option<Generated>,
    logprobs: Logprobs,
    /// Prompt tokens that it found in the prefix cache.
    cached_tokens: u32,
    generated_tokens: u32,
}

/// Whether log probabilities are reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logprobs {
    /// They are.
    Reported,
    /// They are not.
    Omitted,
}

/// What a generation begins with.
pub(crate) struct Opening {
    pub(crate) request_id: String,
    pub(crate) model: String,
    pub(crate) prompt_tokens: u32,
    pub(crate) entry: RunningEntry,
    pub(crate) deadline: Deadline,
    pub(crate) report: Arc<Report>,
    pub(crate) logprobs: Logprobs,
    pub(crate) stops: Arc<[String]>,
    /// The tokens that end a sequence, sorted.
    pub(crate) stop_tokens: Arc<[Token]>,
    /// The prompt's text and tokens, if they are to come first.
    pub(crate) echo: Option<(String, Vec<u32>)>,
}

impl Generation {
    /// Follows `sequences`, each with its own text stream.
    pub(crate) fn new(opening: Opening, sequences: Vec<(Tokens, TextStream)>) -> Self {
        let mut generation = Self {
            usage: v1::Usage {
                prompt_tokens: opening.prompt_tokens,
                ..v1::Usage::default()
            },
            request_id: opening.request_id,
            model: opening.model,
            aborted: Box::pin(opening.entry.aborted.clone().cancelled_owned()),
            _entry: opening.entry,
            overdue: Box::pin(opening.deadline.overdue()),
            sequences: Vec::with_capacity(sequences.len()),
            running: StreamMap::with_capacity(sequences.len()),
            ready: VecDeque::new(),
            started: false,
            report: opening.report,
            failure: None,
        };
        for (index, (tokens, text)) in (0..).zip(sequences) {
            if let Some((text, token_ids)) = &opening.echo {
                let (text, token_ids) = (text.clone(), token_ids.clone());
                let delta = v1::Delta {
                    index,
                    text,
                    token_ids,
                    logprobs: Vec::new(),
                };
                generation.ready.push_back(Event::Delta(delta));
            }
            generation.sequences.push(Sequence {
                index,
                text,
                stops: Arc::clone(&opening.stops),
                held: VecDeque::new(),
                stop_tokens: Arc::clone(&opening.stop_tokens),
                last: None,
                logprobs: opening.logprobs,
                cached_tokens: 0,
                generated_tokens: 0,
            });
            generation.running.insert(index, Running(tokens));
        }
        generation
    }

    /// What happened next; `None` after the last sequence has finished or after an error.
    pub(crate) async fn next(&mut self) -> Option<Result<Event, Status>> {
        loop {
            if self.started
                && let Some(event) = self.ready.pop_front()
            {
                return Some(Ok(event));
            }
            if let Some(status) = self.failure.take() {
                return Some(Err(status));
            }
            tokio::select! {
                biased;
                () = self.aborted.as_mut(), if !self.running.is_empty() => self.abort(),
                progress = self.running.next() => {
                    let (index, progress) = progress?;
                    if let Err(fault) = self.take(index, progress) {
                        self.fail(fault);
                    }
                }
                () = self.overdue.as_mut(), if !self.running.is_empty() => {
                    self.fail(Fault::deadline());
                }
            }
        }
    }

    /// Takes what an engine reports of one sequence.
    fn take(&mut self, index: u32, progress: Progress) -> Result<(), Fault> {
        if let Some(cached_tokens) = progress.started {
            self.start(cached_tokens);
            self.sequences[index as usize].cached_tokens = cached_tokens;
            metrics::cached(&self.model, cached_tokens);
        }
        self.report.preempted(progress.preemptions);
        self.report.tokens(progress.tokens.len());
        let sequence = &mut self.sequences[index as usize];
        if let Some(stop) = sequence.push(progress.tokens, &mut self.ready) {
            self.finish(index, v1::FinishReason::StopString, stop, None);
            return Ok(());
        }
        let Some(end) = progress.end else {
            return Ok(());
        };
        if let Some(fault) = fault_of_end(end) {
            return Err(fault);
        }
        let stop_token_id = sequence.last.as_ref().map(|last| last.token.0);
        let (reason, stop, stop_token_id) = match sequence.flush(&mut self.ready) {
            Some(stop) => (v1::FinishReason::StopString, stop, None),
            None if end == End::Finish(Finish::Stop) => {
                (v1::FinishReason::Stop, String::new(), stop_token_id)
            }
            None => (v1::FinishReason::Length, String::new(), None),
        };
        self.finish(index, reason, stop, stop_token_id);
        Ok(())
    }

    fn start(&mut self, cached_tokens: u32) {
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        self.usage.cached_tokens = cached_tokens;
        self.report.start(cached_tokens);
        self.ready.push_front(Event::Started(v1::Started {
            request_id: self.request_id.clone(),
            prompt_tokens: self.usage.prompt_tokens,
            cached_tokens,
            model: self.model.clone(),
        }));
    }

    fn finish(
        &mut self,
        index: u32,
        reason: v1::FinishReason,
        stop: String,
        stop_token_id: Option<u32>,
    ) {
        if let Some(Running(tokens)) = self.running.remove(&index)
            && reason == v1::FinishReason::StopString
        {
            tokens.stop();
        }
        self.report
            .finish(reason.as_str_name().trim_start_matches("FINISH_REASON_"));
        let sequence = &self.sequences[index as usize];
        let (generated_tokens, cached_tokens) = (sequence.generated_tokens, sequence.cached_tokens);
        self.usage.generated_tokens += generated_tokens;
        let usage = Some(v1::Usage {
            generated_tokens,
            cached_tokens,
            ..self.usage
        });
        let reason = reason.into();
        let finished = v1::Finished {
            index,
            reason,
            stop,
            usage,
            stop_token_id,
        };
        self.ready.push_back(Event::Finished(finished));
    }

    /// Somebody asked for the end: what came so far stays, and every sequence finishes.
    fn abort(&mut self) {
        self.start(0);
        let running: Vec<u32> = self.running.keys().copied().collect();
        for index in running {
            self.sequences[index as usize].flush(&mut self.ready);
            self.finish(index, v1::FinishReason::Abort, String::new(), None);
        }
    }

    /// Ends everything with an error; its trailers tell what was done until then.
    fn fail(&mut self, fault: Fault) {
        self.running.clear();
        self.failure = Some(fault.into_status(self.report.trailers()));
    }
}

impl Sequence {
    /// Takes new tokens; answers the stop string if one is complete.
    fn push(&mut self, mut tokens: Vec<Generated>, ready: &mut VecDeque<Event>) -> Option<String> {
        // Where the engine draws such a token, it ends the sequence; its end may come later.
        let ends = |last: &mut Generated| self.stop_tokens.binary_search(&last.token).is_ok();
        self.last = self.last.take().or_else(|| tokens.pop_if(ends));
        if tokens.is_empty() {
            return None;
        }
        let ids: Vec<u32> = tokens.iter().map(|generated| generated.token.0).collect();
        self.held.extend(tokens);
        let chunk = self.text.push(&ids);
        self.send(chunk, None, ready)
    }

    /// Sends what was held back, and the token that ended the sequence.
    fn flush(&mut self, ready: &mut VecDeque<Event>) -> Option<String> {
        let chunk = self.text.finish();
        let last = self.last.take();
        self.send(chunk, last, ready)
    }

    fn send(
        &mut self,
        chunk: Chunk,
        last: Option<Generated>,
        ready: &mut VecDeque<Event>,
    ) -> Option<String> {
        let stopped = chunk.stopped.and_then(|stop| self.stops.get(stop).cloned());
        let covered = chunk.tokens.len().min(self.held.len());
        // A stop string ends the text before the token that would have ended it.
        let last = last.filter(|_| stopped.is_none());
        let count = covered + usize::from(last.is_some());
        if count == 0 && chunk.text.is_empty() {
            return stopped;
        }
        self.generated_tokens += count as u32;
        let mut delta = v1::Delta {
            index: self.index,
            text: chunk.text,
            token_ids: Vec::with_capacity(count),
            logprobs: Vec::new(),
        };
        for generated in self.held.drain(..covered).chain(last) {
            delta.token_ids.push(generated.token.0);
            if self.logprobs == Logprobs::Reported {
                delta.logprobs.push(logprobs(generated));
            }
        }
        ready.push_back(Event::Delta(delta));
        stopped
    }
}

fn logprobs(generated: Generated) -> v1::TokenLogprobs {
    let top = |top: TokenLogprob| v1::TopLogprob {
        token_id: top.token.0,
        logprob: top.logprob,
    };
    v1::TokenLogprobs {
        token_id: generated.token.0,
        logprob: generated.logprob,
        top: generated.top.into_iter().map(top).collect(),
    }
}
