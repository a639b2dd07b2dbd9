//! How an engine is set up.

use std::sync::Arc;
use std::time::Duration;

use scheduler::encode::EncodeLimits;
use scheduler::limits::Limits;

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
    /// Failures in one window after which the engine stays down.
    pub failures_max: usize,
    /// The window that failures are counted in.
    pub window: Duration,
    /// The pause before the second restart of a window; it doubles with each further one. The
    /// first restart is immediate.
    pub pause: Duration,
}

impl Default for Restarts {
    fn default() -> Self {
        Self {
            failures_max: 5,
            window: Duration::from_mins(1),
            pause: Duration::from_millis(250),
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
    /// How long progress may lie unread before its stream is aborted with
    /// [`End::Stalled`](crate::handle::End::Stalled).
    pub stall_timeout: Duration,
    /// How long one step may take before its executor counts as hung.
    pub step_timeout: Duration,
    /// How failures are answered.
    pub restarts: Restarts,
    /// What it reads the time from.
    pub clock: Arc<dyn Clock>,
}

impl EngineConfig {
    /// The defaults: 30 s for stalls and for steps, five failures a minute, the system's clock.
    pub fn new(name: impl Into<String>, limits: Limits) -> Self {
        Self {
            name: name.into(),
            identity: Identity::default(),
            limits,
            stall_timeout: Duration::from_secs(30),
            step_timeout: Duration::from_secs(30),
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
    /// How long one batch may take before its encoder counts as hung.
    pub step_timeout: Duration,
    /// How failures are answered.
    pub restarts: Restarts,
    /// What it reads the time from.
    pub clock: Arc<dyn Clock>,
}

impl EncodeConfig {
    /// The defaults: 30 s for a batch, five failures a minute, the system's clock.
    pub fn new(name: impl Into<String>, limits: EncodeLimits) -> Self {
        Self {
            name: name.into(),
            limits,
            step_timeout: Duration::from_secs(30),
            restarts: Restarts::default(),
            clock: Arc::new(SystemClock::default()),
        }
    }
}
