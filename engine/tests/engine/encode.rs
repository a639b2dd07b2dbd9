//! The encoder's engine.

use std::sync::Arc;
use std::time::Duration;

use engine::config::{EncodeConfig, Restarts};
use engine::encode::EncodeLimits;
use engine::executor::{EncodeInput, Encoded, Output, Pooling};
use engine::fake::{FakeDevice, Fault, ManualClock, Place};
use engine::handle::{Completion, EncodeError, EncodeHandle, Health, Refusal};
use engine::request::{Reject, Token};
use engine::start_encoder;
use tokio::task::JoinHandle;

use crate::bench::{STEP_TIMEOUT, TIMEOUTS, device, prompt, reach, soon, until};

struct Encoding {
    device: FakeDevice,
    clock: Arc<ManualClock>,
    handle: EncodeHandle,
    completion: Completion,
}

type Job = JoinHandle<Result<Encoded, EncodeError>>;

impl Encoding {
    async fn serving() -> Self {
        let device = device(1);
        let clock = Arc::new(ManualClock::default());
        let limits = EncodeLimits {
            batch_tokens_max: 64,
            batch_inputs_max: 8,
            waiting_max: 200,
            input_tokens_max: 32,
        };
        let config = EncodeConfig {
            timeouts: TIMEOUTS,
            restarts: Restarts {
                pause: Duration::ZERO,
                ..Restarts::default()
            },
            clock: Arc::clone(&clock) as _,
            ..EncodeConfig::new("fake-encoder", limits)
        };
        let (handle, completion) = start_encoder(device.encoders(), config);
        reach(&mut handle.health(), Health::Serving).await;
        Self {
            device,
            clock,
            handle,
            completion,
        }
    }

    fn encode(&self, tokens: &[Token], timeout: Option<Duration>) -> Job {
        self.encode_input(input(tokens), timeout)
    }

    fn encode_input(&self, input: EncodeInput, timeout: Option<Duration>) -> Job {
        let handle = self.handle.clone();
        tokio::spawn(async move { handle.encode(input, timeout).await })
    }

    /// The vector of these tokens.
    fn expected(&self, tokens: &[Token]) -> Encoded {
        self.device.expected_encoded(&input(tokens))
    }

    async fn launched(&self, batch: u64) {
        let mut launched = self.device.launched();
        soon(launched.wait_for(|&last| last >= batch))
            .await
            .unwrap();
    }

    /// Holds the first batch, which takes one input; what comes then waits.
    async fn busy(&self) -> Job {
        self.device.hold();
        let first = self.encode(&prompt(0, 3), None);
        self.launched(1).await;
        first
    }

    async fn waiting(&self, inputs: u32) {
        until(|| self.handle.waiting() == inputs).await;
    }
}

fn input(tokens: &[Token]) -> EncodeInput {
    EncodeInput {
        tokens: tokens.into(),
        segments: Arc::default(),
        output: Output::Pooled(Pooling::Mean),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_input_gets_its_own_vector_out_of_a_batch() {
    let encoding = Encoding::serving().await;
    let first = encoding.busy().await;
    let text = |number: u32| prompt(number, 1 + number % 31);
    let jobs: Vec<_> = (1..101)
        .map(|number| (number, encoding.encode(&text(number), None)))
        .collect();
    encoding.waiting(100).await;
    encoding.device.release();
    for (number, job) in jobs {
        let vector = soon(job).await.unwrap().unwrap();
        assert_eq!(vector, encoding.expected(&text(number)));
    }
    soon(first).await.unwrap().unwrap();
    let batches = *encoding.device.launched().borrow();
    assert!(batches < 60, "{batches} batches are not batches");
}

#[tokio::test]
async fn one_batch_gives_vectors_scores_and_weights() {
    let encoding = Encoding::serving().await;
    let first = encoding.busy().await;
    let wanted = [
        Output::Tokens,
        Output::Scores,
        Output::Sparse,
        Output::Pooled(Pooling::Cls),
    ];
    let inputs = wanted.map(|output| EncodeInput {
        segments: [0, 0, 1, 1].into(),
        output,
        ..input(&prompt(1, 4))
    });
    let jobs = inputs
        .clone()
        .map(|input| encoding.encode_input(input, None));
    encoding.waiting(4).await;
    encoding.device.release();
    for (input, job) in inputs.iter().zip(jobs) {
        let encoded = soon(job).await.unwrap().unwrap();
        assert_eq!(encoded, encoding.device.expected_encoded(input));
        let rows = match input.output {
            Output::Tokens => 4,
            Output::Sparse => 0,
            _ => 1,
        };
        assert_eq!(encoded.rows().len(), rows, "{:?}", input.output);
        assert_eq!(encoded.sparse().len() > 0, input.output == Output::Sparse);
    }
    soon(first).await.unwrap().unwrap();
    assert_eq!(*encoding.device.launched().borrow(), 2);
    let [_, typed, ..] = inputs;
    let plain = EncodeInput {
        segments: Arc::default(),
        ..typed.clone()
    };
    let scores = |input| encoding.device.expected_encoded(input).values;
    assert_ne!(scores(&plain), scores(&typed), "segments count");
}

#[tokio::test]
async fn what_cannot_be_taken_is_refused() {
    let encoding = Encoding::serving().await;
    let refused = async |tokens: Vec<Token>| soon(encoding.encode(&tokens, None)).await.unwrap();
    let reject = |reject| Err(EncodeError::Refused(Refusal::Reject(reject)));
    assert_eq!(refused(vec![]).await, reject(Reject::EmptyPrompt));
    let too_long = Reject::TooLong {
        tokens: 33,
        tokens_max: 32,
    };
    assert_eq!(refused(prompt(1, 33)).await, reject(too_long));
}

#[tokio::test]
async fn a_caller_who_leaves_is_not_encoded() {
    let encoding = Encoding::serving().await;
    let first = encoding.busy().await;
    let gone = encoding.encode(&prompt(1, 3), None);
    encoding.waiting(1).await;
    gone.abort();
    assert!(soon(gone).await.unwrap_err().is_cancelled());
    encoding.device.release();
    soon(first).await.unwrap().unwrap();
    encoding.waiting(0).await;
    encoding.handle.drain();
    soon(encoding.completion.wait()).await.unwrap();
    assert_eq!(*encoding.device.launched().borrow(), 1);
}

#[tokio::test]
async fn a_deadline_passes_in_the_queue() {
    let encoding = Encoding::serving().await;
    let first = encoding.busy().await;
    let late = encoding.encode(&prompt(1, 3), Some(Duration::from_secs(1)));
    encoding.waiting(1).await;
    encoding.clock.advance(Duration::from_secs(2));
    encoding.device.release();
    assert_eq!(soon(late).await.unwrap(), Err(EncodeError::Deadline));
    soon(first).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_vector_that_is_not_finite_fails_its_own_input_alone() {
    let encoding = Encoding::serving().await;
    let first = encoding.busy().await;
    encoding.device.fail_at(2, Fault::NotFinite(1));
    let jobs = [3, 4, 5].map(|tokens| encoding.encode(&prompt(1, tokens), None));
    encoding.waiting(3).await;
    encoding.device.release();
    let [a, b, c] = jobs;
    assert!(soon(a).await.unwrap().is_ok());
    assert_eq!(soon(b).await.unwrap(), Err(EncodeError::Failed));
    assert!(soon(c).await.unwrap().is_ok());
    soon(first).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_failed_batch_is_tried_once_more_on_a_new_encoder() {
    for fault in [Fault::Error, Fault::Panic, Fault::Hang] {
        let encoding = Encoding::serving().await;
        encoding.device.fail_at(1, fault);
        let job = encoding.encode(&prompt(1, 5), None);
        encoding.launched(1).await;
        if fault == Fault::Hang {
            encoding.clock.advance(STEP_TIMEOUT);
        }
        let vector = soon(job).await.unwrap().unwrap();
        assert_eq!(vector, encoding.expected(&prompt(1, 5)));
        encoding.device.release_hung();
    }
}

#[tokio::test]
async fn an_input_in_two_failed_batches_fails() {
    let encoding = Encoding::serving().await;
    encoding.device.fail_at(1, Fault::Error);
    encoding.device.fail_at(2, Fault::Panic);
    let bad = encoding.encode(&prompt(1, 5), None);
    assert_eq!(soon(bad).await.unwrap(), Err(EncodeError::Failed));
    reach(&mut encoding.handle.health(), Health::Serving).await;
    assert!(
        soon(encoding.encode(&prompt(2, 5), None))
            .await
            .unwrap()
            .is_ok()
    );
}

#[tokio::test]
async fn draining_finishes_the_queue_and_aborting_empties_it() {
    let encoding = Encoding::serving().await;
    let first = encoding.busy().await;
    let second = encoding.encode(&prompt(1, 5), None);
    encoding.waiting(1).await;
    encoding.handle.drain();
    let third = soon(encoding.encode(&prompt(2, 5), None)).await.unwrap();
    assert_eq!(third, Err(EncodeError::Refused(Refusal::Draining)));
    encoding.device.release();
    assert!(soon(first).await.unwrap().is_ok());
    assert!(soon(second).await.unwrap().is_ok());
    soon(encoding.completion.wait()).await.unwrap();

    let encoding = Encoding::serving().await;
    let first = encoding.busy().await;
    let second = encoding.encode(&prompt(1, 5), None);
    encoding.waiting(1).await;
    encoding.handle.abort_all();
    encoding.device.release();
    assert!(soon(first).await.unwrap().is_ok());
    assert_eq!(
        soon(second).await.unwrap(),
        Err(EncodeError::Refused(Refusal::Draining))
    );
}

#[tokio::test]
async fn one_poisonous_input_fails_alone() {
    let encoding = Encoding::serving().await;
    let first = encoding.busy().await;
    let text = |number: u32| prompt(number, 4);
    encoding.device.poison(text(3)[0], Place::Wait);
    let jobs: Vec<_> = (1..7)
        .map(|number| (number, encoding.encode(&text(number), None)))
        .collect();
    encoding.waiting(6).await;
    encoding.device.release();
    for (number, job) in jobs {
        let expected = match number {
            3 => Err(EncodeError::Failed),
            _ => Ok(encoding.expected(&text(number))),
        };
        assert_eq!(soon(job).await.unwrap(), expected, "input {number}");
    }
    soon(first).await.unwrap().unwrap();
    assert_eq!(
        encoding.device.starts(),
        3,
        "one failure together, one alone"
    );
}

#[tokio::test]
async fn a_batch_that_gets_on_does_not_hang() {
    let encoding = Encoding::serving().await;
    let first = encoding.busy().await;
    for _ in 0..4 {
        encoding.clock.advance(STEP_TIMEOUT / 2);
        encoding.device.get_on();
    }
    encoding.device.release();
    soon(first).await.unwrap().unwrap();
    assert_eq!(encoding.device.starts(), 1);
}
