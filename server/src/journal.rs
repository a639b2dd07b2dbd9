//! One line in the log for each call that was worked on or refused: what it cost and how it ended,
//! never what it said. `RUST_LOG=info,server::journal=off` leaves these lines out.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use http::header::{HeaderMap, HeaderValue};
use proto::v1;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;

use crate::clock::{Stopwatch, time_of_day};
use crate::dialects;
use crate::method::{Method, Role};
use crate::registry::Facts;
use crate::security::{Caller, Tokens};
use crate::status::{Ending, code_name};
use crate::trace::{Finished, SpanSink, Trace};
use crate::transport::Peer;

/// The target of the lines.
pub(crate) const TARGET: &str = "server::journal";

/// What one call does, as its method learns it. Shared by the method, the answer and the edge.
#[derive(Debug)]
pub(crate) struct Report {
    begun: Stopwatch,
    peer: Peer,
    record: Mutex<Record>,
    /// Cancelled when somebody aborts this request by its id.
    aborted: OnceLock<CancellationToken>,
    /// Who calls.
    caller: OnceLock<Caller>,
    trace: Option<Trace>,
    spans: Option<SpanSink>,
}

/// The figures of a call.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Record {
    pub(crate) request_id: String,
    pub(crate) model: String,
    /// The commit of the model's files; empty where it is not known.
    pub(crate) revision: String,
    /// Who it is for, as [`tenant_hash`] writes it.
    pub(crate) tenant: Option<String>,
    /// What a generation was asked for.
    pub(crate) asked: Option<Asked>,
    /// Sequences of a generation, inputs of an embedding.
    pub(crate) n: Option<u32>,
    pub(crate) prompt_tokens: u64,
    pub(crate) cached_tokens: u64,
    pub(crate) generated_tokens: u64,
    /// How often its sequences gave their KV blocks back.
    pub(crate) preemptions: u64,
    /// From the call's begin to its tokens, to its first step, to the first preemption of any of its
    /// sequences, to its first token and to its last one.
    pub(crate) validated: Option<Duration>,
    pub(crate) queued: Option<Duration>,
    pub(crate) preempted: Option<Duration>,
    pub(crate) first_token: Option<Duration>,
    last_token: Option<Duration>,
    pub(crate) finish: Option<&'static str>,
}

/// The numbers a generation was asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Asked {
    pub(crate) is_chat: bool,
    pub(crate) n: Option<u32>,
    pub(crate) max_tokens: Option<u32>,
    pub(crate) temperature: Option<f32>,
    pub(crate) top_k: Option<u32>,
    pub(crate) top_p: Option<f32>,
    pub(crate) seed: Option<u64>,
    pub(crate) frequency_penalty: Option<f32>,
    pub(crate) presence_penalty: Option<f32>,
}

impl Asked {
    /// The numbers of a request.
    pub(crate) fn of(request: &v1::GenerateRequest) -> Self {
        let sampling = request.sampling.as_ref();
        let real = |read: fn(&v1::Sampling) -> Option<f32>| sampling.and_then(read);
        Self {
            is_chat: matches!(request.input, Some(v1::generate_request::Input::Chat(_))),
            n: sampling.and_then(|sampling| sampling.n),
            max_tokens: request
                .stopping
                .as_ref()
                .and_then(|stopping| stopping.max_tokens),
            temperature: real(|sampling| sampling.temperature),
            top_k: sampling.and_then(|sampling| sampling.top_k),
            top_p: real(|sampling| sampling.top_p),
            seed: sampling.and_then(|sampling| sampling.seed),
            frequency_penalty: real(|sampling| sampling.frequency_penalty),
            presence_penalty: real(|sampling| sampling.presence_penalty),
        }
    }
}

/// A tenant as logs may name it: the same for the same tenant, and not its name.
fn tenant_hash(tenant: &str) -> String {
    let digest = Sha256::digest(tenant.as_bytes());
    let half = digest.iter().take(8);
    let number = half.fold(0, |number, &byte| number << 8 | u64::from(byte));
    format!("{number:016x}")
}

impl Report {
    /// A call that begins now.
    pub(crate) fn begin(peer: Peer, request_id: String) -> Self {
        let record = Record {
            request_id,
            ..Record::default()
        };
        Self {
            begun: Stopwatch::start(),
            peer,
            record: Mutex::new(record),
            aborted: OnceLock::new(),
            caller: OnceLock::new(),
            trace: None,
            spans: None,
        }
    }

    /// It is known who calls; what the call costs is charged to it.
    pub(crate) fn set_caller(&self, caller: Caller) {
        // Who calls does not change.
        let _set = self.caller.set(caller);
    }

    /// The work that was expected is taken: its prompt is charged.
    pub(crate) fn take_work(&self) {
        let prompt_tokens = self.record().prompt_tokens;
        self.charge(Tokens::Prompt, prompt_tokens);
    }

    fn charge(&self, kind: Tokens, count: u64) {
        if let Some(account) = self.caller.get().and_then(|caller| caller.account.as_ref()) {
            account.charge(kind, count);
        }
    }

    /// Its place in a trace, and who wants to know of its end.
    pub(crate) fn in_trace(self, trace: Option<Trace>, spans: Option<SpanSink>) -> Self {
        Self {
            trace,
            spans,
            ..self
        }
    }

    /// What it was asked for, and for whom.
    pub(crate) fn set_asked(&self, asked: Asked, tenant: &str) {
        let mut record = self.record();
        record.asked = Some(asked);
        record.tenant = (!tenant.is_empty()).then(|| tenant_hash(tenant));
    }

    /// The model's name, once it is known.
    pub(crate) fn model(&self) -> String {
        self.record().model.clone()
    }

    /// The id the request goes by.
    pub(crate) fn request_id(&self) -> String {
        self.record().request_id.clone()
    }

    /// The request named itself.
    pub(crate) fn set_request_id(&self, request_id: &str) {
        request_id.clone_into(&mut self.record().request_id);
    }

    /// Its model is known.
    pub(crate) fn set_model(&self, model: &str, facts: &Facts) {
        let mut record = self.record();
        model.clone_into(&mut record.model);
        facts.revision.clone_into(&mut record.revision);
    }

    /// These many sequences or inputs were worked on, with as many tokens in their prompts together.
    /// The requests of one stream add up.
    pub(crate) fn add_work(&self, n: u32, prompt_tokens: u64) {
        self.expect_work(n, prompt_tokens);
        self.charge(Tokens::Prompt, prompt_tokens);
    }

    /// It brought this work, which nobody has taken yet.
    pub(crate) fn expect_work(&self, n: u32, prompt_tokens: u64) {
        let now = self.begun.elapsed();
        let mut record = self.record();
        record.validated.get_or_insert(now);
        *record.n.get_or_insert(0) += n;
        record.prompt_tokens += prompt_tokens;
    }

    /// Somebody may abort it.
    pub(crate) fn abort_with(&self, aborted: CancellationToken) {
        // A call is one generation at most; a second one would keep the first one's token.
        let _set = self.aborted.set(aborted);
    }

    /// Whether somebody aborted it.
    pub(crate) fn is_aborted(&self) -> bool {
        self.aborted
            .get()
            .is_some_and(CancellationToken::is_cancelled)
    }

    /// Its first sequence left the queue.
    pub(crate) fn start(&self, cached_tokens: u32) {
        let mut record = self.record();
        record.queued = Some(self.begun.elapsed());
        record.cached_tokens = cached_tokens.into();
    }

    /// Its sequences gave their KV blocks back this often.
    pub(crate) fn preempted(&self, count: u32) {
        if count > 0 {
            let now = self.begun.elapsed();
            let mut record = self.record();
            record.preempted.get_or_insert(now);
            record.preemptions += u64::from(count);
        }
    }

    /// It got tokens.
    pub(crate) fn tokens(&self, count: usize) {
        if count > 0 {
            self.charge(Tokens::Generated, count as u64);
            let now = self.begun.elapsed();
            let mut record = self.record();
            record.first_token.get_or_insert(now);
            record.last_token = Some(now);
            record.generated_tokens += count as u64;
        }
    }

    /// A sequence finished; the last one's reason stays.
    pub(crate) fn finish(&self, reason: &'static str) {
        self.record().finish = Some(reason);
    }

    /// What was done until now, for the trailers of work that failed on its way.
    pub(crate) fn trailers(&self) -> MetadataMap {
        let mut trailers = HeaderMap::new();
        self.add_to(&mut trailers);
        MetadataMap::from_headers(trailers)
    }

    /// Tells what was done in the trailers of an answer.
    pub(crate) fn add_to(&self, trailers: &mut HeaderMap) {
        let record = self.record();
        for (name, text) in [
            ("x-request-id", &record.request_id),
            ("x-model-id", &record.model),
            ("x-model-revision", &record.revision),
        ] {
            // What no header can hold is left out.
            if let Ok(value) = HeaderValue::try_from(text)
                && !value.is_empty()
            {
                trailers.insert(name, value);
            }
        }
        let millis = |time: Duration| time.as_millis() as u64;
        let generation = record.queued.is_some();
        for (name, value) in [
            ("x-queue-time-ms", record.queued.map(millis)),
            ("x-ttft-ms", record.first_token.map(millis)),
            ("x-prompt-tokens", Some(record.prompt_tokens)),
            (
                "x-cached-tokens",
                generation.then_some(record.cached_tokens),
            ),
            ("x-generated-tokens", Some(record.generated_tokens)),
        ] {
            if let Some(value) = value {
                trailers.insert(name, value.into());
            }
        }
    }

    /// Tells everybody of the end: the names of others, the span, the line; if this is a call that
    /// gets them.
    pub(crate) fn end(&self, method: Method, ending: Ending) {
        if method.role() != Role::Work {
            return;
        }
        dialects::ended(method, ending, &self.record(), self.begun.elapsed());
        if let (Some(trace), Some(spans)) = (&self.trace, &self.spans)
            && trace.sampled
        {
            spans.take(Finished {
                trace: trace.clone(),
                method: method.label(),
                ending,
                record: self.record().clone(),
                total: self.begun.elapsed(),
                ended: time_of_day(),
            });
        }
        if tracing::enabled!(tracing::Level::INFO) {
            self.write_line(method, ending);
        }
    }

    fn write_line(&self, method: Method, ending: Ending) {
        let record = self.record();
        let text = |text: &'_ str| (!text.is_empty()).then(|| text.to_owned());
        let n = record.n.map(u64::from);
        let worked = |count: u64| n.map(|_| count);
        tracing::info!(
            target: TARGET,
            method = method.label(),
            code = code_name(ending.code),
            reason = ending.reason,
            request_id = record.request_id,
            trace_id = self.trace.as_ref().map(Trace::name),
            model = text(&record.model),
            revision = text(&record.revision),
            peer = %self.peer,
            key = self.caller.get().and_then(|caller| caller.key.as_deref()),
            tenant = self.tenant().or_else(|| record.tenant.clone()),
            n,
            prompt_tokens = worked(record.prompt_tokens),
            cached_tokens = worked(record.cached_tokens),
            generated_tokens = worked(record.generated_tokens),
            preemptions = record.queued.map(|_| record.preemptions),
            queue_ms = record.queued.map(millis),
            first_token_ms = record.first_token.map(millis),
            per_token_ms = record.per_token().map(millis),
            total_ms = millis(self.begun.elapsed()),
            finish = record.finish,
            "call"
        );
    }

    /// The tenant that its key or its metadata name, as logs may name it.
    fn tenant(&self) -> Option<String> {
        self.caller.get().and_then(Caller::named).map(tenant_hash)
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        // Nothing that can panic is done while it is locked.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    /// The mean time between two tokens of one sequence.
    fn per_token(&self) -> Option<Duration> {
        let n = u64::from(self.n?);
        let gaps = self
            .generated_tokens
            .checked_sub(n)
            .filter(|&gaps| gaps > 0)?;
        let time = self.last_token?.saturating_sub(self.first_token?);
        Some(time.mul_f64(n as f64 / gaps as f64))
    }
}

/// Milliseconds, to a hundredth.
fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e5).round() / 1e2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_per_token_is_that_of_one_sequence() {
        let record = Record {
            n: Some(2),
            generated_tokens: 22,
            first_token: Some(Duration::from_millis(50)),
            last_token: Some(Duration::from_millis(150)),
            ..Record::default()
        };
        assert_eq!(record.per_token(), Some(Duration::from_millis(10)));
        let short = Record {
            generated_tokens: 2,
            ..record
        };
        assert_eq!(short.per_token(), None);
    }
}
