//! Lines of the log, at most so many of a kind in a second: whoever can make the server say the same
//! again and again cannot fill its disk with it. What is held back is counted, and said once a second.
//!
//! Lines of one place in the code are of one kind, those of calls also by their code. What is logged
//! below `info` was asked for by hand and is not held back.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::counter;
use tonic::Code;
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use crate::clock::EdgeClock;
use crate::journal;
use crate::metrics::LINES_HELD_BACK;
use crate::status::code_name;

/// Lines of one kind in a second.
const LINES_MAX: u32 = 20;
/// Lines of calls that ended well in a second.
const GOOD_CALLS_MAX: u32 = 1000;

/// Holds lines back. Clones share what they have counted.
#[derive(Clone)]
pub(crate) struct Throttle(Arc<Shared>);

struct Shared {
    clock: EdgeClock,
    kinds: Mutex<HashMap<Kind, Count>>,
}

/// Lines that say much the same.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Kind {
    place: Identifier,
    code: Option<&'static str>,
}

/// The lines of one kind.
struct Count {
    place: &'static Metadata<'static>,
    /// The second in which those that passed did so.
    second: u64,
    passed: u32,
    /// Since that was last said.
    held_back: u64,
}

/// What became of the lines of one kind, for one line about them.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct HeldBack {
    of: &'static str,
    line: Option<u32>,
    code: Option<&'static str>,
    lines: u64,
}

impl Throttle {
    pub(crate) fn new(clock: EdgeClock) -> Self {
        let kinds = Mutex::default();
        Self(Arc::new(Shared { clock, kinds }))
    }

    /// Counts what was held back since the last time, and says it.
    pub(crate) fn report(&self) {
        for held_back in self.take_held_back() {
            let HeldBack {
                of,
                line,
                code,
                lines,
            } = held_back;
            counter!(LINES_HELD_BACK, "lines" => label(code)).increment(lines);
            tracing::warn!(of, line, code, lines, "lines were held back");
        }
    }

    fn admit(&self, event: &Event<'_>) -> bool {
        let (place, now) = (event.metadata(), self.0.clock.now());
        let kind = Kind {
            place: place.callsite(),
            code: code_of(event),
        };
        let lines_max = match label(kind.code) {
            CALLS => GOOD_CALLS_MAX,
            _ => LINES_MAX,
        };
        let mut kinds = self.kinds();
        let count = kinds.entry(kind).or_insert_with(|| Count {
            place,
            second: now.as_secs(),
            passed: 0,
            held_back: 0,
        });
        if count.second != now.as_secs() {
            (count.second, count.passed) = (now.as_secs(), 0);
        }
        let passes = count.passed < lines_max;
        if passes {
            count.passed += 1;
        } else {
            count.held_back += 1;
        }
        passes
    }

    fn take_held_back(&self) -> Vec<HeldBack> {
        let mut kinds = self.kinds();
        let taken = kinds.iter_mut().map(|(kind, count)| HeldBack {
            of: count.place.target(),
            line: count.place.line(),
            code: kind.code,
            lines: std::mem::take(&mut count.held_back),
        });
        let mut taken: Vec<HeldBack> = taken.filter(|held_back| held_back.lines > 0).collect();
        taken.sort_unstable();
        taken
    }

    fn kinds(&self) -> MutexGuard<'_, HashMap<Kind, Count>> {
        // Nothing that can panic is done while it is locked.
        self.0.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The words of the label `lines`: calls that ended well, those that did not, and other lines.
const CALLS: &str = "calls";
const FAILURES: &str = "failures";
const OTHER: &str = "other";

/// All of them.
pub(crate) const LABELS: [&str; 3] = [CALLS, FAILURES, OTHER];

/// The word for the lines with a code, or without one.
fn label(code: Option<&'static str>) -> &'static str {
    match code {
        None => OTHER,
        Some(code) if code == code_name(Code::Ok) => CALLS,
        Some(_) => FAILURES,
    }
}

/// The code in the line of a call.
fn code_of(event: &Event<'_>) -> Option<&'static str> {
    let mut code = CodeOf(None);
    if event.metadata().target() == journal::TARGET {
        event.record(&mut code);
    }
    code.0
}

struct CodeOf(Option<&'static str>);

impl Visit for CodeOf {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "code" {
            let mut codes = (0..=16).map(|code| code_name(Code::from_i32(code)));
            self.0 = codes.find(|code| *code == value);
        }
    }

    fn record_debug(&mut self, _field: &Field, _value: &dyn fmt::Debug) {}
}

impl<S: Subscriber> Layer<S> for Throttle {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        let own = event.metadata().target() == module_path!();
        if own || *event.metadata().level() > Level::INFO {
            return true;
        }
        self.admit(event)
    }
}

impl fmt::Debug for Throttle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Throttle")
            .field(&self.kinds().len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use metrics_exporter_prometheus::PrometheusBuilder;
    use serde_json::Value;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Written {
        /// The lines since the last time.
        fn take(&self) -> Vec<Value> {
            let bytes = std::mem::take(&mut *self.0.lock().unwrap());
            let lines = bytes.split(|byte| *byte == b'\n');
            let lines = lines.filter(|line| !line.is_empty());
            lines
                .map(|line| serde_json::from_slice(line).unwrap())
                .collect()
        }
    }

    /// Logs what `work` says, through a throttle whose clock it sets.
    fn logging(work: impl Fn(&Throttle, &AtomicU64, &Written)) {
        let now = Arc::new(AtomicU64::new(0));
        let read = Arc::clone(&now);
        let clock = EdgeClock::manual(move || Duration::from_millis(read.load(Ordering::Relaxed)));
        let (throttle, written) = (Throttle::new(clock), Written::default());
        let writer = written.clone();
        let lines = tracing_subscriber::fmt()
            .json()
            .flatten_event(true)
            .with_max_level(Level::DEBUG)
            .with_writer(move || writer.clone());
        let subscriber = lines.finish().with(throttle.clone());
        tracing::subscriber::with_default(subscriber, || work(&throttle, &now, &written));
    }

    fn call(code: &str, times: u32) {
        for number in 0..times {
            tracing::info!(target: "server::journal", code, request_id = number, "call");
        }
    }

    #[test]
    fn each_kind_passes_so_often_in_a_second_and_the_rest_is_counted() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let _counting = metrics::set_default_local_recorder(&recorder);
        logging(|throttle, now, written| {
            for second in 0..3 {
                now.store(second * 1000, Ordering::Relaxed);
                call("RESOURCE_EXHAUSTED", 100);
                call("UNAUTHENTICATED", 21);
                call("OK", GOOD_CALLS_MAX + 5);
                (0..30).for_each(|_| tracing::warn!("no connection could be accepted"));
                assert_eq!(written.take().len() as u32, 3 * LINES_MAX + GOOD_CALLS_MAX);
                now.store(second * 1000 + 999, Ordering::Relaxed);
                call("RESOURCE_EXHAUSTED", 1);
                assert!(written.take().is_empty(), "the second is not over");
                throttle.report();
                let said = written.take();
                let said: Vec<_> = said.iter().map(|l| (&l["code"], &l["lines"])).collect();
                let code = |code: &str| Value::from(code);
                assert_eq!(
                    said,
                    [
                        (&code("OK"), &5.into()),
                        (&code("RESOURCE_EXHAUSTED"), &81.into()),
                        (&code("UNAUTHENTICATED"), &1.into()),
                        (&Value::Null, &10.into()),
                    ]
                );
                throttle.report();
                assert!(written.take().is_empty(), "it is said once");
            }
        });
        let page = recorder.handle().render();
        for (label, count) in [(CALLS, 15), (FAILURES, 246), (OTHER, 30)] {
            let series = format!("{LINES_HELD_BACK}{{lines=\"{label}\"}} {count}\n");
            assert!(page.contains(&series), "{series}{page}");
        }
    }

    #[test]
    fn what_was_asked_for_by_hand_is_not_held_back() {
        logging(|throttle, _, written| {
            (0..10 * LINES_MAX).for_each(|_| tracing::debug!("no handshake"));
            assert_eq!(written.take().len() as u32, 10 * LINES_MAX);
            throttle.report();
            assert!(written.take().is_empty());
        });
    }

    #[test]
    fn what_clients_write_makes_no_kinds() {
        logging(|throttle, _, _| {
            for number in 0..1000 {
                let code = format!("made up {number}");
                tracing::info!(target: "server::journal", code = code.as_str(), "call");
                tracing::info!(code = code.as_str(), "other");
            }
            assert_eq!(throttle.kinds().len(), 2);
        });
    }
}
