//! How an engine is set up.

use std::sync::Arc;
use std::time::Duration;

use scheduler::encode::EncodeLimits;
use scheduler::limits::Limits;
use scheduler::policy::Policy;

use crate::clock::{Clock, SystemClock};

/// What makes cached KV comparable: blocks are shared only where all of this is equal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The model: its repository or folder.
    pub model: String,
    /// The revision of its weights.
    pub revision: String,
    /// The numerics epoch: weight and KV types, kernel set, shards. Whatever changes a KV value.
    pub numerics: String,
}

/// When a failed executor is replaced, and when that is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restarts {
    /// Failures after which the engine stays down, counted from the last recovery.
    pub failures_max: usize,
    /// An executor has recovered when steps have succeeded at both ends of a time this long and none
    /// failed in between: earlier failures no longer count. Time without a step heals nothing, so
    /// that failures that take long are counted too.
    pub recovery: Duration,
    /// Executors that may hang at once, each keeping its thread and its memory. One more, and the
    /// engine stays down.
    pub abandoned_max: usize,
    /// The pause before the second restart since the last recovery; it doubles with each further
    /// one. The first restart is immediate.
    pub pause: Duration,
}

impl Default for Restarts {
    fn default() -> Self {
        Self {
            failures_max: 5,
            recovery: Duration::from_mins(2),
            // A request that makes executors hang does so twice until it is found.
            abandoned_max: 2,
            pause: Duration::from_millis(250),
        }
    }
}

/// How long an executor may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// How long a step, or a batch, may go on without
    /// [progress](crate::executor::Progress) before its executor counts as hung.
    pub step: Duration,
    /// How long the making of an executor may take before the engine is given up.
    pub start: Duration,
}

impl Default for Timeouts {
    /// 30 s for a step, 10 minutes to load.
    fn default() -> Self {
        Self {
            step: Duration::from_secs(30),
            start: Duration::from_mins(10),
        }
    }
}

/// A decoder's engine.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// The served name: the label `model` of its metrics.
    pub name: String,
    /// What its cached KV may be shared across.
    pub identity: Identity,
    /// The scheduler's bounds.
    pub limits: Limits,
    /// The scheduler's choices.
    pub policy: Policy,
    /// How long progress may lie unread before its stream is aborted with
    /// [`End::Stalled`](crate::handle::End::Stalled).
    pub stall_timeout: Duration,
    /// How long its executor may take.
    pub timeouts: Timeouts,
    /// How failures are answered.
    pub restarts: Restarts,
    /// What it reads the time from.
    pub clock: Arc<dyn Clock>,
}

impl EngineConfig {
    /// The defaults: those of [`Policy`], 30 s for stalls, those of [`Timeouts`] and [`Restarts`], the
    /// system's clock.
    pub fn new(name: impl Into<String>, limits: Limits) -> Self {
        Self {
            name: name.into(),
            identity: Identity::default(),
            limits,
            policy: Policy::default(),
            stall_timeout: Duration::from_secs(30),
            timeouts: Timeouts::default(),
            restarts: Restarts::default(),
            clock: Arc::new(SystemClock::default()),
        }
    }
}

/// An encoder's engine.
#[derive(Clone, Debug)]
pub struct EncodeConfig {
    /// The served name: the label `model` of its metrics.
    pub name: String,
    /// The batcher's bounds.
    pub limits: EncodeLimits,
    /// How long its encoder may take.
    pub timeouts: Timeouts,
    /// How failures are answered.
    pub restarts: Restarts,
    /// What it reads the time from.
    pub clock: Arc<dyn Clock>,
}

impl EncodeConfig {
    /// The defaults: those of [`Timeouts`] and [`Restarts`], the system's clock.
    pub fn new(name: impl Into<String>, limits: EncodeLimits) -> Self {
        Self {
            name: name.into(),
            limits,
            timeouts: Timeouts::default(),
            restarts: Restarts::default(),
            clock: Arc::new(SystemClock::default()),
        }
    }
}
