//! A decoder's engine on a fake device, with time and steps in the test's hands.

use std::future::poll_fn;
use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use engine::config::{EngineConfig, Restarts, Timeouts};
use engine::fake::{FakeConfig, FakeDevice, ManualClock};
use engine::handle::{Completion, End, Generate, Generated, Handle, Health, Tokens};
use engine::limits::{Limits, Pool};
use engine::policy::Weight;
use engine::request::{Priority, Token};
use engine::sampling::Sampling;
use engine::start;
use tokio::sync::watch;

pub(crate) struct Bench {
    pub(crate) device: FakeDevice,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) handle: Handle,
    pub(crate) completion: Completion,
}

pub(crate) const LIMITS: Limits = Limits {
    step_tokens_max: 64,
    running_max: 16,
    waiting_max: 256,
    sequence_tokens_max: 256,
    preemptions_max: 1000,
    depth_max: 1,
};

/// Two steps in flight.
pub(crate) const AHEAD: Limits = Limits {
    depth_max: 2,
    ..LIMITS
};

pub(crate) const STEP_TIMEOUT: Duration = Duration::from_secs(30);
pub(crate) const START_TIMEOUT: Duration = Duration::from_mins(10);
pub(crate) const TIMEOUTS: Timeouts = Timeouts {
    step: STEP_TIMEOUT,
    start: START_TIMEOUT,
};
pub(crate) const RECOVERY: Duration = Duration::from_mins(1);
pub(crate) const STALL_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) fn device(blocks: u32) -> FakeDevice {
    FakeDevice::new(FakeConfig {
        pool: Pool {
            blocks,
            block_tokens: NonZeroU32::new(4).unwrap(),
        },
        vocabulary: 100..1100,
        latency: Duration::ZERO,
        width: 8,
    })
}

pub(crate) fn config(clock: &Arc<ManualClock>, limits: Limits) -> EngineConfig {
    EngineConfig {
        stall_timeout: STALL_TIMEOUT,
        timeouts: TIMEOUTS,
        restarts: Restarts {
            failures_max: 4,
            recovery: RECOVERY,
            abandoned_max: 2,
            pause: Duration::ZERO,
        },
        clock: Arc::clone(clock) as _,
        ..EngineConfig::new("fake", limits)
    }
}

impl Bench {
    /// An engine that serves.
    pub(crate) async fn serving(limits: Limits) -> Self {
        Self::on(device(256), limits).await
    }

    /// An engine that serves on a given device.
    pub(crate) async fn on(device: FakeDevice, limits: Limits) -> Self {
        let clock = Arc::new(ManualClock::default());
        Self::configured(device, Arc::clone(&clock), config(&clock, limits)).await
    }

    /// An engine that serves and never finds a reader slow.
    pub(crate) async fn patient() -> Self {
        Self::patient_on(device(256), LIMITS).await
    }

    /// The same on a given device.
    pub(crate) async fn patient_on(device: FakeDevice, limits: Limits) -> Self {
        let clock = Arc::new(ManualClock::default());
        let patient = EngineConfig {
            stall_timeout: Duration::MAX,
            ..config(&clock, limits)
        };
        Self::configured(device, clock, patient).await
    }

    /// An engine that serves, set up by hand.
    pub(crate) async fn configured(
        device: FakeDevice,
        clock: Arc<ManualClock>,
        config: EngineConfig,
    ) -> Self {
        let (handle, completion) = start(device.executors(), config);
        reach(&mut handle.health(), Health::Serving).await;
        Self {
            device,
            clock,
            handle,
            completion,
        }
    }

    /// Submits a request to an engine that runs freely or is idle.
    pub(crate) async fn generate(&self, request: Generate) -> Tokens {
        soon(self.handle.generate(request)).await.unwrap()
    }

    /// Submits requests while the device holds its steps, so that all of them are in flight. The
    /// first one runs before the others come.
    pub(crate) async fn generate_held(
        &self,
        requests: impl IntoIterator<Item = Generate>,
    ) -> Vec<Tokens> {
        self.device.hold();
        let mut requests = requests.into_iter();
        let first = self.generate(requests.next().unwrap()).await;
        self.launched(self.device.allow(0)).await;
        let mut verdicts: Vec<_> = requests
            .map(|request| Box::pin(self.handle.generate(request)))
            .collect();
        // The first look at each leaves its request in the inbox; verdicts come behind the step.
        for verdict in &mut verdicts {
            let asked = poll_fn(|context| Poll::Ready(verdict.as_mut().poll(context)));
            assert!(asked.await.is_pending(), "a verdict comes in a held step");
        }
        if !verdicts.is_empty() {
            self.device.allow(1);
        }
        let mut streams = vec![first];
        for verdict in verdicts {
            streams.push(soon(verdict).await.unwrap());
        }
        streams
    }

    /// Waits until the device has launched this step.
    pub(crate) async fn launched(&self, step: u64) {
        let mut launched = self.device.launched();
        soon(launched.wait_for(|&last| last >= step)).await.unwrap();
    }

    /// Lets some held steps end, and waits until the one after them is launched.
    pub(crate) async fn allow(&self, steps: u64) {
        let held = self.device.allow(steps);
        self.launched(held).await;
    }

    /// Waits until nothing runs, waits or is remembered anywhere.
    pub(crate) async fn quiet(&self) {
        until(|| {
            let stats = self.handle.stats();
            stats.running == 0 && stats.waiting == 0 && self.device.admitted() == 0
        })
        .await;
        assert_eq!(self.handle.stats().blocks_active, 0, "blocks are left over");
    }
}

/// A greedy request.
pub(crate) fn request(prompt: &[Token], output_max: u32) -> Generate {
    Generate {
        prompt: prompt.into(),
        sampling: Sampling::default(),
        output_max: NonZeroU32::new(output_max).unwrap(),
        priority: Priority::default(),
        timeout: None,
        tenant: String::new(),
        weight: Weight::ONE,
        cache_salt: String::new(),
    }
}

/// A prompt of its own for each number.
pub(crate) fn prompt(number: u32, tokens: u32) -> Vec<Token> {
    (0..tokens).map(|i| Token(7 * number + i * i)).collect()
}

/// All that a reader hears.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Heard {
    pub(crate) starts: usize,
    pub(crate) tokens: Vec<Token>,
    pub(crate) end: Option<End>,
}

/// Reads a stream to its end.
pub(crate) async fn read(tokens: &mut Tokens) -> Heard {
    let mut heard = Heard::default();
    while let Some(progress) = soon(tokens.next()).await {
        assert!(heard.end.is_none(), "progress after the end");
        if progress.started.is_some() {
            assert!(heard.tokens.is_empty(), "a start after a token");
            heard.starts += 1;
        }
        heard.tokens.extend(ids(&progress.tokens));
        heard.end = progress.end;
    }
    heard
}

pub(crate) fn ids(generated: &[Generated]) -> Vec<Token> {
    generated.iter().map(|generated| generated.token).collect()
}

/// Waits for a state of health.
pub(crate) async fn reach(health: &mut watch::Receiver<Health>, state: Health) {
    soon(health.wait_for(|&now| now == state)).await.unwrap();
}

/// Waits for a condition that nothing announces.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    soon(async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// What does not come soon does not come.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(20);
    tokio::time::timeout(limit, future)
        .await
        .expect("this takes too long")
}

/// What a future has to say without being waited for.
pub(crate) async fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(said) => Poll::Ready(Some(said)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}
