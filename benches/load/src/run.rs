//! A run: requests in a closed or an open loop, until there are enough, the time is over, or
//! somebody stops it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::arrivals::{Arrivals, Spacing};
use crate::call::Call;
use crate::clock::Clock;
use crate::plan::Plan;
use crate::schedule::Schedule;
use crate::tally::{Phase, Tally};
use crate::target::Target;

/// How requests follow on each other.
#[derive(Clone, Debug)]
pub enum Lane {
    /// Each worker sends its next request when its last one was answered.
    Closed {
        /// How many.
        workers: usize,
    },
    /// Requests arrive whatever became of those before.
    Open {
        /// How arrivals are spaced.
        spacing: Spacing,
        /// At which rate.
        schedule: Schedule,
        /// Requests in flight at once; those that arrive beyond wait here, and their times count on.
        in_flight_max: usize,
    },
}

/// Everything about a run but its target.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What is asked.
    pub plan: Plan,
    /// When.
    pub lane: Lane,
    /// How long the run warms up: requests due before that do not count.
    pub warmup: Duration,
    /// How long requests are sent after that; `None` for ever.
    pub duration: Option<Duration>,
    /// Measured requests in all; `None` for any number.
    pub requests: Option<u64>,
    /// The longest one request may take.
    pub timeout: Duration,
    /// What requests in flight have after the last one was sent.
    pub grace: Duration,
}

/// Runs a scenario; returns how long it took. `stop` ends it at once.
pub async fn run<T: Target>(
    target: Arc<T>,
    scenario: Scenario,
    tally: Arc<Tally>,
    stop: CancellationToken,
) -> Duration {
    let clock = Clock::start();
    let runner = Arc::new(Runner {
        target,
        scenario,
        tally,
        clock,
        measured: AtomicU64::new(0),
        warming: AtomicU64::new(FIRST_WARMING),
    });
    // Dropped when stopped, and with it every call.
    let mut calls = JoinSet::new();
    let work = async {
        runner.begin(&mut calls).await;
        let rest = async { while calls.join_next().await.is_some() {} };
        // A closed loop's workers are to be waited for as long as they send, too.
        tokio::select! {
            () = rest => {}
            () = runner.over() => {}
        }
    };
    tokio::select! {
        () = work => {}
        () = stop.cancelled() => {}
    }
    clock.now()
}

/// Requests of the warm-up have numbers of their own, so that the measured ones are the same
/// however many these are.
const FIRST_WARMING: u64 = 1 << 62;

struct Runner<T> {
    target: Arc<T>,
    scenario: Scenario,
    tally: Arc<Tally>,
    clock: Clock,
    measured: AtomicU64,
    warming: AtomicU64,
}

/// A request to be sent.
#[derive(Clone, Copy)]
struct Next {
    number: u64,
    phase: Phase,
    due: Duration,
    connection: usize,
}

impl<T: Target> Runner<T> {
    /// Sends all requests of an open loop, or starts the workers of a closed one.
    async fn begin(self: &Arc<Self>, calls: &mut JoinSet<()>) {
        match self.scenario.lane.clone() {
            Lane::Closed { workers } => {
                for worker in 0..workers {
                    let runner = Arc::clone(self);
                    calls.spawn(async move {
                        while let Some(next) = runner.next(runner.clock.now()) {
                            // A worker stays on its connection.
                            runner
                                .call(Next {
                                    connection: worker,
                                    ..next
                                })
                                .await;
                        }
                    });
                }
            }
            Lane::Open {
                spacing,
                schedule,
                in_flight_max,
            } => {
                let mut random = ChaCha8Rng::seed_from_u64(self.scenario.plan.seed);
                random.set_stream(u64::MAX - 1);
                let places = Arc::new(Semaphore::new(in_flight_max));
                for due in Arrivals::new(spacing, schedule, random) {
                    let Some(next) = self.next(due) else { break };
                    let turn = async {
                        self.clock.sleep_until(due).await;
                        Arc::clone(&places).acquire_owned().await
                    };
                    let place = tokio::select! {
                        biased;
                        () = self.over() => {
                            self.tally.unsent(self.clock.now(), next.phase);
                            continue;
                        }
                        place = turn => place,
                    };
                    let Ok(place) = place else { break };
                    let runner = Arc::clone(self);
                    calls.spawn(async move {
                        runner.call(next).await;
                        drop(place);
                    });
                    while calls.try_join_next().is_some() {}
                }
            }
        }
    }

    /// The request that is due at this time; `None` when there are enough.
    fn next(&self, due: Duration) -> Option<Next> {
        let scenario = &self.scenario;
        let (phase, numbers) = if due < scenario.warmup {
            (Phase::WarmUp, &self.warming)
        } else {
            (Phase::Measured, &self.measured)
        };
        if self.end().is_some_and(|end| due >= end) {
            return None;
        }
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        if phase == Phase::Measured && scenario.requests.is_some_and(|most| number >= most) {
            return None;
        }
        Some(Next {
            number,
            phase,
            due,
            connection: (number % (1 << 31)) as usize,
        })
    }

    /// When no request is sent any more, if that is known.
    fn end(&self) -> Option<Duration> {
        let scenario = &self.scenario;
        scenario.duration.map(|duration| scenario.warmup + duration)
    }

    /// Waits until nothing is waited for any more.
    async fn over(&self) {
        match self.end() {
            Some(end) => self.clock.sleep_until(end + self.scenario.grace).await,
            None => std::future::pending().await,
        }
    }

    async fn call(&self, next: Next) {
        let ask = self.scenario.plan.ask(next.number);
        let call = Call {
            target: self.target.as_ref(),
            tally: &self.tally,
            clock: self.clock,
            connection: next.connection,
            phase: next.phase,
            due: next.due,
            timeout: self.scenario.timeout,
        };
        call.run(&ask).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::length::Length;
    use crate::mix::Mix;
    use crate::plan::{Ask, End};
    use crate::prompts::Prompts;
    use crate::tally::Objective;
    use crate::target::{Cost, Embedded, Failure, Piece, Pieces};

    /// A server that needs a second for each request and takes one at a time.
    struct OneAtATime(Arc<Semaphore>);

    struct Answer(std::vec::IntoIter<Piece>);

    impl Target for OneAtATime {
        type Pieces = Answer;

        async fn generate(&self, _: usize, ask: &Ask) -> Result<Answer, Failure> {
            let _turn = self.0.acquire().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            let cost = Cost::default();
            let pieces = vec![
                Piece::Started,
                Piece::Tokens(ask.output),
                Piece::Finished(cost),
            ];
            Ok(Answer(pieces.into_iter()))
        }

        async fn embed(&self, _: usize, _: &Ask) -> Result<Embedded, Failure> {
            Ok(Embedded::default())
        }
    }

    impl Pieces for Answer {
        async fn next(&mut self) -> Result<Option<Piece>, Failure> {
            Ok(self.0.next())
        }
    }

    fn scenario(lane: Lane, requests: Option<u64>) -> Scenario {
        Scenario {
            plan: Plan {
                seed: 1,
                prompts: Prompts::Same("x".to_owned()),
                output: Length::Fixed(4),
                end: End::Model,
                mix: Mix::default(),
                embed_inputs: 1,
            },
            lane,
            warmup: Duration::ZERO,
            duration: None,
            requests,
            timeout: Duration::from_mins(5),
            grace: Duration::from_millis(4500),
        }
    }

    async fn tally_of(scenario: Scenario, stop: CancellationToken) -> (Arc<Tally>, Duration) {
        let tally = Arc::new(Tally::new(Objective::default()));
        let target = Arc::new(OneAtATime(Arc::new(Semaphore::new(1))));
        let took = run(target, scenario, Arc::clone(&tally), stop).await;
        (tally, took)
    }

    fn open(rate: f64, in_flight_max: usize) -> Lane {
        Lane::Open {
            spacing: Spacing::Constant,
            schedule: Schedule::constant(rate),
            in_flight_max,
        }
    }

    /// The wait of a request counts wherever it waits: at the server, or here because too many are
    /// in flight. A server with 1 request/s under 2 requests/s answers the tenth after 5.5 s.
    #[tokio::test(start_paused = true)]
    async fn an_open_loop_measures_from_when_requests_were_due() {
        for in_flight_max in [100, 1] {
            let (tally, took) = tally_of(
                scenario(open(2.0, in_flight_max), Some(10)),
                CancellationToken::new(),
            )
            .await;
            tally.with_counts(|counts| {
                assert_eq!((counts.begun, counts.completed), (10, 10));
                let last = counts.ttft.quantile_ms(1.0);
                assert!((5490.0..=5520.0).contains(&last), "{in_flight_max}: {last}");
            });
            assert_eq!(took.as_secs(), 10);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_loop_waits_for_its_answers() {
        let lane = Lane::Closed { workers: 2 };
        let (tally, _) = tally_of(scenario(lane, Some(10)), CancellationToken::new()).await;
        tally.with_counts(|counts| {
            assert_eq!((counts.begun, counts.completed), (10, 10));
            assert_eq!(counts.output_tokens, 40);
            let longest = counts.e2e.quantile_ms(1.0);
            assert!((1990.0..=2020.0).contains(&longest), "{longest}");
        });
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_due_in_the_warm_up_does_not_count() {
        let scenario = Scenario {
            warmup: Duration::from_secs(3),
            duration: Some(Duration::from_secs(4)),
            ..scenario(open(0.5, 9), None)
        };
        let (tally, _) = tally_of(scenario, CancellationToken::new()).await;
        // Due at 0, 2 | 4, 6.
        tally.with_counts(|counts| assert_eq!((counts.begun, counts.completed), (2, 2)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stopped_run_ends_at_once_and_a_long_one_after_its_grace() {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(3400)).await;
            stopped.cancel();
        });
        let (tally, took) = tally_of(scenario(open(2.0, 99), None), stop).await;
        assert_eq!(took.as_millis() / 100, 34);
        tally.with_counts(|counts| assert_eq!((counts.begun, counts.completed), (7, 3)));
        let long = Scenario {
            duration: Some(Duration::from_secs(10)),
            ..scenario(open(10.0, 999), None)
        };
        let (tally, took) = tally_of(long, CancellationToken::new()).await;
        assert_eq!(took.as_millis() / 100, 145);
        tally.with_counts(|counts| assert_eq!((counts.begun, counts.completed), (100, 14)));
    }

    /// What could not be sent is not forgotten: 10 s of 10 requests/s, one in flight at a time.
    #[tokio::test(start_paused = true)]
    async fn requests_that_were_never_sent_are_counted_and_waited_for_no_longer() {
        let long = Scenario {
            duration: Some(Duration::from_secs(10)),
            ..scenario(open(10.0, 1), None)
        };
        let (tally, took) = tally_of(long, CancellationToken::new()).await;
        assert_eq!(took.as_millis() / 100, 145);
        tally.with_counts(|counts| {
            assert_eq!((counts.begun, counts.completed), (100, 14));
            // The 15th was due after 1.4 s and sent after 14 s.
            assert_eq!(counts.late.count(), 15);
            let latest = counts.late.quantile_ms(1.0);
            assert!((12_590.0..=12_620.0).contains(&latest), "{latest}");
        });
        let points = tally.points(took);
        assert_eq!(points.iter().map(|point| point.begun).sum::<u64>(), 100);
    }
}
