//! What a request cost, as `tei.v1` tells it: in the answer, and in the metadata of single calls.

use std::time::Duration;

use proto::tei::v1 as tei;
use tonic::metadata::{MetadataMap, MetadataValue};

use crate::clock::Stopwatch;
use crate::grpc::encoding::{Done, Times};

/// What a request cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    /// Characters of its texts.
    chars: usize,
    /// Tokens computed.
    tokens: u32,
    /// From the message to the answer.
    total: Duration,
    times: Times,
}

impl Cost {
    /// That of one input.
    pub(super) fn of(begun: Stopwatch, chars: usize, done: &Done) -> Self {
        Self {
            chars,
            tokens: done.tokens,
            total: begun.elapsed(),
            times: done.times,
        }
    }

    /// That of several inputs; the times are their means.
    pub(super) fn of_all(begun: Stopwatch, chars: usize, done: &[Done]) -> Self {
        let count = done.len().max(1) as u32;
        let mean = |time: fn(&Times) -> Duration| {
            let sum: Duration = done.iter().map(|done| time(&done.times)).sum();
            sum / count
        };
        Self {
            chars,
            tokens: done.iter().map(|done| done.tokens).sum(),
            total: begun.elapsed(),
            times: Times {
                tokenized: mean(|times| times.tokenized),
                queued: mean(|times| times.queued),
                computed: mean(|times| times.computed),
            },
        }
    }

    /// As part of an answer.
    pub(super) fn metadata(&self) -> tei::Metadata {
        let nanoseconds = |time: Duration| time.as_nanos() as u64;
        tei::Metadata {
            compute_chars: self.chars as u32,
            compute_tokens: self.tokens,
            total_time_ns: nanoseconds(self.total),
            tokenization_time_ns: nanoseconds(self.times.tokenized),
            queue_time_ns: nanoseconds(self.times.queued),
            inference_time_ns: nanoseconds(self.times.computed),
        }
    }

    /// As metadata beside an answer; times are whole milliseconds.
    pub(super) fn write(&self, metadata: &mut MetadataMap) {
        metadata.insert("x-compute-type", MetadataValue::from_static("cpu"));
        let milliseconds = |time: Duration| time.as_millis() as u64;
        for (key, number) in [
            ("x-compute-time", milliseconds(self.total)),
            ("x-compute-characters", self.chars as u64),
            ("x-compute-tokens", self.tokens.into()),
            ("x-total-time", milliseconds(self.total)),
            ("x-tokenization-time", milliseconds(self.times.tokenized)),
            ("x-queue-time", milliseconds(self.times.queued)),
            ("x-inference-time", milliseconds(self.times.computed)),
        ] {
            metadata.insert(key, number.into());
        }
    }
}
