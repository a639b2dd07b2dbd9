//! From logits to tokens, one row at a time, by each request's own parameters.
//!
//! A row depends on its logits, its parameters, its own tokens and its position, and on nothing
//! else: the same request gives the same tokens whatever else runs, and after a replay.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use engine::executor::{Row, TokenLogprob};
use engine::sampling::Sampling;
use kernels::sample::{argmax, log_sum_exp, top_k};
use kernels::{Compute, Level};
use scheduler::request::{RequestId, Token};

use crate::candidates::{Candidates, Draw};
use crate::random::uniform;

/// The requests being sampled, and scratch memory.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    streams: HashMap<RequestId, Mutex<Stream>>,
    /// One for each thread.
    scratch: Vec<Mutex<Scratch>>,
    results: Vec<Mutex<Row>>,
}

/// Which row of logits is for whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// The request.
    pub(crate) id: RequestId,
    /// Where the token will stand in its sequence.
    pub(crate) position: u32,
}

/// A row of logits and the instructions to read it with.
#[derive(Clone, Copy, Debug)]
struct Logits<'a> {
    level: Level,
    row: &'a [f32],
}

/// Memory for one row at a time.
#[derive(Debug, Default)]
struct Scratch {
    /// A changed copy of a row's logits.
    changed: Vec<f32>,
    best: Vec<(u32, f32)>,
    candidates: Candidates,
}

#[derive(Debug)]
struct Stream {
    sampling: Arc<Sampling>,
    prompt_tokens: u32,
    /// Kept only where a penalty reads it.
    history: Option<History>,
}

/// The tokens of one sequence, and how often each was generated.
#[derive(Debug, Default)]
struct History {
    generated: Vec<Token>,
    /// Sorted by token.
    seen: Vec<Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    token: Token,
    is_in_prompt: bool,
    generated: u32,
}

impl Sampler {
    /// Takes a request in; `generated` are tokens of an earlier life.
    pub(crate) fn admit(
        &mut self,
        id: RequestId,
        sampling: &Arc<Sampling>,
        prompt: &[Token],
        generated: &[Token],
    ) {
        let history = is_penalized(sampling).then(|| History::new(prompt, generated));
        let stream = Stream {
            sampling: Arc::clone(sampling),
            prompt_tokens: prompt.len() as u32,
            history,
        };
        let before = self.streams.insert(id, Mutex::new(stream));
        assert!(before.is_none(), "{id:?} admitted twice");
    }

    /// Forgets a request.
    pub(crate) fn release(&mut self, id: RequestId) {
        self.streams.remove(&id);
    }

    /// Chooses a token for each row of `logits`, the rows shared out over the threads, and
    /// appends what they gave to `rows`.
    pub(crate) fn sample(
        &mut self,
        compute: &mut Compute,
        samples: &[Sample],
        logits: &[f32],
        rows: &mut Vec<(RequestId, Row)>,
    ) {
        let vocab = logits.len() / samples.len().max(1);
        let tasks = compute.threads().min(samples.len());
        self.scratch
            .resize_with(tasks.max(self.scratch.len()), Mutex::default);
        let results_len = samples.len().max(self.results.len());
        self.results
            .resize_with(results_len, || Mutex::new(Row::NotFinite));
        let next = AtomicUsize::new(0);
        let level = compute.level();
        compute.run(tasks, &|task| {
            let mut scratch = lock(&self.scratch[task]);
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(sample) = samples.get(index) else {
                    break;
                };
                let mut stream = lock(&self.streams[&sample.id]);
                let logits = &logits[index * vocab..(index + 1) * vocab];
                *lock(&self.results[index]) =
                    stream.sample(sample.position, Logits { level, row: logits }, &mut scratch);
            }
        });
        for (sample, result) in samples.iter().zip(&self.results) {
            rows.push((
                sample.id,
                std::mem::replace(&mut lock(result), Row::NotFinite),
            ));
        }
    }
}

/// Nobody else holds these locks: each is taken by the one task that has the row.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Scratch {
    /// The row of a chosen token, with probabilities by the model's own logits.
    fn report(&mut self, token: u32, logits: Logits<'_>, top: u32) -> Row {
        let Logits { level, row } = logits;
        let total = log_sum_exp(level, row);
        let entry = |token: u32, logit: f32| TokenLogprob {
            token: Token(token),
            logprob: logit - total,
        };
        let mut best = Vec::new();
        if top > 0 {
            top_k(level, row, (top as usize).min(row.len()), &mut self.best);
            best.extend(self.best.iter().map(|&(token, logit)| entry(token, logit)));
        }
        Row::Token {
            drawn: entry(token, row[token as usize]),
            top: best,
        }
    }
}

impl Stream {
    /// Chooses the token that will stand at `position`.
    fn sample(&mut self, position: u32, logits: Logits<'_>, scratch: &mut Scratch) -> Row {
        let level = logits.level;
        let Some(own_best) = argmax(level, logits.row) else {
            return Row::NotFinite;
        };
        let generated = position - self.prompt_tokens.min(position);
        if let Some(history) = &mut self.history {
            history.rewind(generated);
        }
        let (row, best) = if self.change(generated, logits.row, &mut scratch.changed) {
            // Changed logits are finite.
            let best = argmax(level, &scratch.changed).unwrap_or(own_best);
            (scratch.changed.as_slice(), best)
        } else {
            (logits.row, own_best)
        };
        let sampling = &self.sampling;
        let token = match sampling.temperature {
            None => best.0,
            Some(temperature) => {
                let draw = Draw {
                    logits: row,
                    best: best.1,
                    temperature,
                    number: uniform(sampling.seed, position),
                    level,
                };
                scratch.candidates.draw(&draw, sampling)
            }
        };
        let row = scratch.report(token, logits, sampling.logprobs.unwrap_or(0));
        if let Some(history) = &mut self.history {
            history.push(Token(token));
        }
        row
    }

    /// Writes the row with bias, penalties and mask to `changed`; returns whether there are any.
    fn change(&self, generated: u32, logits: &[f32], changed: &mut Vec<f32>) -> bool {
        let sampling = &self.sampling;
        let is_masked = generated < sampling.min_tokens && !sampling.stop_tokens.is_empty();
        if sampling.logit_bias.is_empty() && self.history.is_none() && !is_masked {
            return false;
        }
        changed.clear();
        changed.extend_from_slice(logits);
        for &(token, bias) in &sampling.logit_bias {
            change(changed, token, |logit| logit + bias);
        }
        if let Some(history) = &self.history {
            history.penalize(sampling, changed);
        }
        // Last, because nothing may bring a masked token back.
        if is_masked {
            for &token in &sampling.stop_tokens {
                change(changed, token, |_| f32::MIN);
            }
        }
        true
    }
}

impl History {
    fn new(prompt: &[Token], generated: &[Token]) -> Self {
        let mut sorted = prompt.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        let of_prompt = |token| Seen {
            token,
            is_in_prompt: true,
            generated: 0,
        };
        let seen = sorted.into_iter().map(of_prompt).collect();
        let mut history = Self {
            generated: Vec::new(),
            seen,
        };
        for &token in generated {
            history.push(token);
        }
        history
    }

    fn push(&mut self, token: Token) {
        self.generated.push(token);
        match self.find(token) {
            Ok(index) => self.seen[index].generated += 1,
            Err(index) => {
                let first = Seen {
                    token,
                    is_in_prompt: false,
                    generated: 1,
                };
                self.seen.insert(index, first);
            }
        }
    }

    /// Forgets all but the first `generated` tokens: a sampled token may have been discarded.
    fn rewind(&mut self, generated: u32) {
        while self.generated.len() > generated as usize {
            let Some(token) = self.generated.pop() else {
                break;
            };
            if let Ok(index) = self.find(token) {
                let seen = &mut self.seen[index];
                seen.generated -= 1;
                if seen.generated == 0 && !seen.is_in_prompt {
                    self.seen.remove(index);
                }
            }
        }
    }

    /// Where a token stands in `seen`, or would.
    fn find(&self, token: Token) -> Result<usize, usize> {
        self.seen.binary_search_by_key(&token, |seen| seen.token)
    }

    fn penalize(&self, sampling: &Sampling, logits: &mut [f32]) {
        let repetition = sampling.repetition_penalty.unwrap_or(1.0);
        let frequency = sampling.frequency_penalty.unwrap_or(0.0);
        let presence = sampling.presence_penalty.unwrap_or(0.0);
        for seen in &self.seen {
            change(logits, seen.token, |logit| {
                let logit = if logit > 0.0 {
                    logit / repetition
                } else {
                    logit * repetition
                };
                let present = if seen.generated > 0 { presence } else { 0.0 };
                logit - frequency * seen.generated as f32 - present
            });
        }
    }
}

fn is_penalized(sampling: &Sampling) -> bool {
    sampling.repetition_penalty.is_some()
        || sampling.frequency_penalty.is_some()
        || sampling.presence_penalty.is_some()
}

/// Changes one logit, which stays finite; a token outside the vocabulary has none.
fn change(logits: &mut [f32], token: Token, by: impl FnOnce(f32) -> f32) {
    if let Some(logit) = logits.get_mut(token.0 as usize) {
        *logit = by(*logit).clamp(f32::MIN, f32::MAX);
    }
}

#[cfg(test)]
mod tests;
