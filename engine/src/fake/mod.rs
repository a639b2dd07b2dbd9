//! A device that computes nothing but a pure function of the text, and fails on command.
//!
//! The fake decoder keeps a chained hash of the text in every KV slot, written and read through the
//! block tables. The next token follows from the last slot, so a wrong table, a stale block or a
//! lost position changes the output, and [`FakeDevice::expected_tokens`] says what a request alone
//! would have given. A [`FakeDevice`] outlives its executors: it counts steps, holds them at a
//! gate, and fails those that a test names.

mod clock;
mod decoder;
mod encoder;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use scheduler::limits::Pool;
use scheduler::request::Token;
use tokio::sync::watch;

use crate::executor::{EncodeInput, Encoded, ExecutorError, Progress};
use crate::handle::Factory;
use crate::sampling::Sampling;

pub use clock::ManualClock;
pub use decoder::FakeExecutor;
pub use encoder::FakeEncoder;

/// What a fake device looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FakeConfig {
    /// The KV memory it offers.
    pub pool: Pool,
    /// The tokens it may generate.
    pub vocabulary: Range<u32>,
    /// How long a step takes from its launch, or from the end of the step before it if that is
    /// later; zero does not sleep at all.
    pub latency: Duration,
    /// The width of its vectors, and the number of its labels.
    pub width: u32,
}

/// How a step goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The row of this index in the step (or the result of this input) is not finite.
    NotFinite(usize),
    /// The step fails.
    Error,
    /// The step fails for want of memory.
    OutOfMemory,
    /// The executor panics.
    Panic,
    /// The step does not return before [`FakeDevice::release_hung`], and then as if nothing was.
    Hang,
}

/// Where a poisoned text makes an executor fail, each time it is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In `admit`, by a panic.
    Admit,
    /// In `launch`, by an error.
    Launch,
    /// In `wait`, by an error; in `encode`, too.
    Wait,
    /// In `release`, by a panic.
    Release,
}

/// A device and its script, shared by all executors made from it.
#[derive(Clone, Debug)]
pub struct FakeDevice {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: FakeConfig,
    script: Mutex<Script>,
    signal: Condvar,
    launched: watch::Sender<u64>,
}

/// A step that was launched.
#[derive(Clone, Copy, Debug)]
struct Step {
    number: u64,
    begun: Instant,
}

#[derive(Debug, Default)]
struct Script {
    /// Steps launched, over all executors.
    steps: u64,
    faults: BTreeMap<u64, Fault>,
    /// Steps of the living executor that were launched and have not ended.
    in_flight: u64,
    in_flight_most: u64,
    /// When the last launched step will be computed.
    busy_until: Option<Instant>,
    /// Attempts to make an executor.
    starts: u64,
    /// Executors whose making fails.
    broken_starts: u32,
    /// Steps at or above this one wait at the gate.
    held_from: Option<u64>,
    /// Steps up to this one hang no longer.
    released: u64,
    /// Requests that the living executor was told of and has not forgotten.
    admitted: usize,
    /// Executors made and not dropped.
    alive: usize,
    /// Whether executors are not made for the time being.
    stuck: bool,
    poison: Option<(Token, Place)>,
    progress: Progress,
}

impl FakeDevice {
    /// A device that works.
    pub fn new(config: FakeConfig) -> Self {
        assert!(!config.vocabulary.is_empty(), "an empty vocabulary");
        let shared = Arc::new(Shared {
            config,
            script: Mutex::default(),
            signal: Condvar::new(),
            launched: watch::Sender::new(0),
        });
        Self { shared }
    }

    /// Makes fake decoders on this device.
    pub fn executors(&self) -> Factory<dyn crate::executor::Executor> {
        let device = self.clone();
        Box::new(move || {
            device.start()?;
            Ok(Box::new(FakeExecutor::new(device.clone())))
        })
    }

    /// Makes fake encoders on this device.
    pub fn encoders(&self) -> Factory<dyn crate::executor::Encoder> {
        let device = self.clone();
        Box::new(move || {
            device.start()?;
            Ok(Box::new(FakeEncoder::new(device.clone())))
        })
    }

    /// The first `count` tokens of a greedy request that runs alone, stop tokens ignored.
    pub fn expected_tokens(&self, prompt: &[Token], count: usize) -> Vec<Token> {
        self.expected_sampled(&Sampling::default(), prompt, count)
    }

    /// As [`FakeDevice::expected_tokens`], for any sampling: the seed counts when there is a
    /// temperature, and `min_tokens` keeps stop tokens away.
    pub fn expected_sampled(
        &self,
        sampling: &Sampling,
        prompt: &[Token],
        count: usize,
    ) -> Vec<Token> {
        decoder::expected(&self.shared.config.vocabulary, sampling, prompt, count)
    }

    /// What the encoder makes of an input alone. The tokens' last vector is that of the whole
    /// input, whatever the pooling; scores follow from tokens and segments; a sparse vector weighs
    /// each of the input's tokens.
    pub fn expected_encoded(&self, input: &EncodeInput) -> Encoded {
        encoder::expected(input, &self.shared.config)
    }

    /// The pooled vector of one input, encoded alone.
    pub fn expected_vector(&self, tokens: &[Token]) -> Vec<f32> {
        encoder::vector(tokens, self.shared.config.width).collect()
    }

    /// Makes the step with this number go wrong; the first is 1, and a restart does not start over.
    pub fn fail_at(&self, step: u64, fault: Fault) {
        self.script().faults.insert(step, fault);
    }

    /// Makes the step after the last launched one go wrong.
    pub fn fail_next(&self, fault: Fault) {
        let mut script = self.script();
        let step = script.steps + 1;
        script.faults.insert(step, fault);
    }

    /// Makes the next `count` attempts to make an executor fail.
    pub fn fail_starts(&self, count: u32) {
        self.script().broken_starts = count;
    }

    /// From now on the making of an executor does not return before [`FakeDevice::release_hung`].
    pub fn hang_starts(&self) {
        self.script().stuck = true;
    }

    /// Makes texts with this token poisonous.
    pub fn poison(&self, token: Token, place: Place) {
        self.script().poison = Some((token, place));
    }

    /// Tells the engine that the newest executor gets on with its step.
    pub fn get_on(&self) {
        let progress = self.script().progress.clone();
        progress.made();
    }

    /// From now on steps are launched, and do not end before [`FakeDevice::allow`] lets them.
    pub fn hold(&self) {
        let mut script = self.script();
        script.held_from = Some(script.steps + 1);
    }

    /// Lets the next `steps` held steps end; returns the number of the one that is held then.
    pub fn allow(&self, steps: u64) -> u64 {
        let mut script = self.script();
        assert!(script.held_from.is_some(), "nothing is held");
        let held = script.held_from.unwrap_or_default() + steps;
        script.held_from = Some(held);
        drop(script);
        self.shared.signal.notify_all();
        held
    }

    /// Lets all steps run again.
    pub fn release(&self) {
        self.script().held_from = None;
        self.shared.signal.notify_all();
    }

    /// Lets everything that hangs come back.
    pub fn release_hung(&self) {
        let mut script = self.script();
        script.stuck = false;
        script.released = script.steps;
        drop(script);
        self.shared.signal.notify_all();
    }

    /// The number of the last step launched, to be awaited. It is told when the engine comes to wait
    /// for the step, so everything that happened before has reached its readers.
    pub fn launched(&self) -> watch::Receiver<u64> {
        self.shared.launched.subscribe()
    }

    /// Attempts to make an executor, those included that failed or hang.
    pub fn starts(&self) -> u64 {
        self.script().starts
    }

    /// The most steps that were in flight at once: launched, and not ended.
    pub fn in_flight_most(&self) -> u64 {
        self.script().in_flight_most
    }

    /// Requests that the living executor knows.
    pub fn admitted(&self) -> usize {
        self.script().admitted
    }

    /// Executors that were made and not dropped; more than one while an abandoned one hangs.
    pub fn alive(&self) -> usize {
        self.script().alive
    }

    // === what executors call ===

    fn start(&self) -> Result<(), ExecutorError> {
        let mut script = self.script();
        script.starts += 1;
        while script.stuck {
            script = self.wait(script);
        }
        if script.broken_starts > 0 {
            script.broken_starts -= 1;
            return Err(ExecutorError::Failed("scripted start failure".to_owned()));
        }
        script.admitted = 0;
        script.in_flight = 0;
        script.busy_until = None;
        script.alive += 1;
        Ok(())
    }

    fn end(&self) {
        self.script().alive -= 1;
    }

    fn is_poison(&self, place: Place, text: &[Token]) -> bool {
        let poison = self.script().poison;
        poison.is_some_and(|(token, at)| at == place && text.contains(&token))
    }

    /// Counts a step and begins it.
    #[expect(clippy::disallowed_methods, reason = "the device's own time")]
    fn launch(&self) -> Step {
        let mut script = self.script();
        script.steps += 1;
        script.in_flight += 1;
        script.in_flight_most = script.in_flight_most.max(script.in_flight);
        let now = Instant::now();
        let begun = script.busy_until.map_or(now, |until| until.max(now));
        script.busy_until = Some(begun + self.shared.config.latency);
        Step {
            number: script.steps,
            begun,
        }
    }

    /// Plays the script of a step to its end; returns the row that is not finite, if there is one.
    #[expect(clippy::panic, reason = "a scripted panic")]
    fn finish(&self, step: Step) -> Result<Option<usize>, ExecutorError> {
        let Step {
            number: step,
            begun,
        } = step;
        self.shared.launched.send_replace(step);
        self.sleep_from(begun);
        let mut script = self.script();
        while script.held_from.is_some_and(|from| step >= from) {
            script = self.wait(script);
        }
        script.in_flight = script.in_flight.saturating_sub(1);
        let Some(fault) = script.faults.remove(&step) else {
            return Ok(None);
        };
        match fault {
            Fault::NotFinite(row) => Ok(Some(row)),
            Fault::Error => Err(ExecutorError::Failed("scripted".to_owned())),
            Fault::OutOfMemory => Err(ExecutorError::OutOfMemory("scripted".to_owned())),
            Fault::Panic => {
                drop(script);
                panic!("scripted")
            }
            Fault::Hang => {
                while script.released < step {
                    script = self.wait(script);
                }
                Ok(None)
            }
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the device is simulated, so its time passes nowhere else"
    )]
    fn sleep_from(&self, begun: Instant) {
        let latency = self.shared.config.latency;
        if !latency.is_zero() {
            let end = begun + latency;
            std::thread::sleep(end.saturating_duration_since(Instant::now()));
        }
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        let script = &self.shared.script;
        script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, script: MutexGuard<'a, Script>) -> MutexGuard<'a, Script> {
        let signal = &self.shared.signal;
        signal.wait(script).unwrap_or_else(PoisonError::into_inner)
    }
}

/// Spreads all bits over all bits (the finaliser of `MurmurHash3`).
fn scramble(mut bits: u64) -> u64 {
    bits ^= bits >> 33;
    bits = bits.wrapping_mul(0xff51_afd7_ed55_8ccd);
    bits ^= bits >> 33;
    bits = bits.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    bits ^ (bits >> 33)
}
