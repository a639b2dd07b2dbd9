//! One line in the log for each request that was worked on: what it cost and how it ended, never
//! what it said. `RUST_LOG=info,server::journal=off` leaves these lines out.

use std::time::Duration;

use crate::clock::Stopwatch;

/// A generation's line, written when it is dropped.
#[derive(Debug)]
pub(crate) struct Journal {
    request_id: String,
    model: String,
    begun: Stopwatch,
    /// From its arrival to its first step.
    queued: Option<Duration>,
    /// From its arrival to its first token.
    first_token: Option<Duration>,
    prompt_tokens: u32,
    cached_tokens: u32,
    generated_tokens: usize,
    end: &'static str,
}

impl Journal {
    /// A generation that arrived at `begun`. One that is dropped without an end was cancelled.
    pub(crate) fn new(request_id: &str, model: &str, begun: Stopwatch, prompt_tokens: u32) -> Self {
        Self {
            request_id: request_id.to_owned(),
            model: model.to_owned(),
            begun,
            queued: None,
            first_token: None,
            prompt_tokens,
            cached_tokens: 0,
            generated_tokens: 0,
            end: "CANCELLED",
        }
    }

    /// Its first sequence left the queue.
    pub(crate) fn start(&mut self, cached_tokens: u32) {
        self.queued = Some(self.begun.elapsed());
        self.cached_tokens = cached_tokens;
    }

    /// It got tokens.
    pub(crate) fn tokens(&mut self, count: usize) {
        if count > 0 {
            self.first_token.get_or_insert_with(|| self.begun.elapsed());
            self.generated_tokens += count;
        }
    }

    /// It ended: the name of a finish reason or of a status code.
    pub(crate) fn end(&mut self, end: &'static str) {
        self.end = end;
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        tracing::info!(
            request_id = self.request_id,
            model = self.model,
            prompt_tokens = self.prompt_tokens,
            cached_tokens = self.cached_tokens,
            generated_tokens = self.generated_tokens,
            queue_ms = self.queued.map(millis),
            first_token_ms = self.first_token.map(millis),
            total_ms = millis(self.begun.elapsed()),
            end = self.end,
            "generated"
        );
    }
}

/// An embedding's line.
pub(crate) fn embedded(request_id: &str, model: &str, begun: Stopwatch, usage: Embedded) {
    tracing::info!(
        request_id,
        model,
        inputs = usage.inputs,
        prompt_tokens = usage.prompt_tokens,
        total_ms = millis(begun.elapsed()),
        "embedded"
    );
}

/// What an embedding cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Embedded {
    pub(crate) inputs: usize,
    pub(crate) prompt_tokens: u32,
}

/// Milliseconds, to a hundredth.
fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e5).round() / 1e2
}
