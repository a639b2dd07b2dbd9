//! Where a call stands in a trace, as W3C Trace Context says, and what is told of it when it has
//! ended.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use metrics::counter;
use tokio::sync::mpsc;

use crate::app::Ids;
use crate::journal::Record;
use crate::metrics::SPANS;
use crate::status::Ending;

/// The word for a span that was dropped because too many waited.
pub(crate) const DROPPED: &str = "dropped";
/// Spans that wait to be sent; more are dropped.
const WAITING_MAX: usize = 2048;
/// Bytes of a `tracestate` that is passed on.
const STATE_BYTES_MAX: usize = 512;

/// One call's place in a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The trace.
    pub(crate) id: u128,
    /// The call's own span.
    pub(crate) span: u64,
    /// The span of whoever called.
    pub(crate) parent: Option<u64>,
    /// Whether it is recorded.
    pub(crate) sampled: bool,
    /// What others want to be passed on.
    pub(crate) state: String,
}

impl Trace {
    /// The trace that the headers name, if they name one.
    pub(crate) fn of(headers: &HeaderMap, ids: &Ids) -> Option<Self> {
        let mut parents = headers.get_all("traceparent").iter();
        let (parent, None) = (parents.next()?, parents.next()) else {
            return None;
        };
        let (id, parent, sampled) = traceparent(parent.to_str().ok()?)?;
        Some(Self {
            id,
            span: ids.seed() | 1,
            parent: Some(parent),
            sampled,
            state: state(headers).unwrap_or_default(),
        })
    }

    /// A trace that begins here.
    pub(crate) fn new(ids: &Ids) -> Self {
        Self {
            id: u128::from(ids.seed()) << 64 | u128::from(ids.seed() | 1),
            span: ids.seed() | 1,
            parent: None,
            sampled: true,
            state: String::new(),
        }
    }

    /// Its id, as logs and tools write it.
    pub(crate) fn name(&self) -> String {
        format!("{:032x}", self.id)
    }
}

/// The trace, the parent and whether it is sampled. What is malformed counts as absent.
fn traceparent(text: &str) -> Option<(u128, u64, bool)> {
    let mut parts = text.splitn(5, '-');
    let version = hex(parts.next()?, 2)?;
    let trace = hex(parts.next()?, 32)?;
    let parent = hex(parts.next()?, 16)?;
    let flags = hex(parts.next()?, 2)?;
    let more = parts.next();
    // Later versions may add parts; 255 is none.
    let known = version < 255 && (version > 0 || more.is_none());
    let parent = u64::try_from(parent).ok()?;
    (known && trace != 0 && parent != 0).then_some((trace, parent, flags & 1 == 1))
}

/// A number of that many lower-case hexadecimal digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let well_formed = text.len() == digits && text.bytes().all(lower);
    well_formed.then(|| u128::from_str_radix(text, 16).ok())?
}

fn state(headers: &HeaderMap) -> Option<String> {
    let mut states = headers.get_all("tracestate").iter();
    let (state, None) = (states.next()?, states.next()) else {
        return None;
    };
    let state = state.to_str().ok()?;
    (state.len() <= STATE_BYTES_MAX).then(|| state.to_owned())
}

/// A call that has ended.
#[derive(Debug, PartialEq)]
pub struct Finished {
    pub(crate) trace: Trace,
    pub(crate) method: &'static str,
    pub(crate) ending: Ending,
    pub(crate) record: Record,
    pub(crate) total: Duration,
    pub(crate) ended: SystemTime,
}

/// Takes calls that have ended to whoever tells of them, and never waits.
#[derive(Clone, Debug)]
pub struct SpanSink(mpsc::Sender<Finished>);

impl SpanSink {
    /// A sink, and where its calls arrive.
    pub fn new() -> (Self, mpsc::Receiver<Finished>) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        (Self(sender), receiver)
    }

    /// Hands one over, or drops it where too many wait.
    pub(crate) fn take(&self, call: Finished) {
        if self.0.try_send(call).is_err() {
            counter!(SPANS, "result" => DROPPED).increment(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn a_parent_is_read_as_the_standard_writes_it() {
        let id = u128::from_str_radix(TRACE, 16).unwrap();
        let read = |rest: &str| traceparent(&rest.replace('T', TRACE));
        let parent = 0x00f0_67aa_0ba9_02b7;
        assert_eq!(read("00-T-00f067aa0ba902b7-01"), Some((id, parent, true)));
        assert_eq!(read("00-T-00f067aa0ba902b7-00"), Some((id, parent, false)));
        assert_eq!(
            read("cc-T-00f067aa0ba902b7-03-what"),
            Some((id, parent, true))
        );
        for malformed in [
            "",
            "00",
            "00-T",
            "00-T-00f067aa0ba902b7",
            "00-T-00f067aa0ba902b7-01-more",
            "ff-T-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-T-0000000000000000-01",
            "00-T-00F067AA0BA902B7-01",
            "00-T-+0f067aa0ba902b7-01",
            "00-T-00f067aa0ba902b-01",
            "00-T-00f067aa0ba902b7-1",
            "00-é-00f067aa0ba902b7-01",
        ] {
            assert_eq!(read(malformed), None, "{malformed}");
        }
    }

    #[test]
    fn headers_given_twice_or_too_long_are_left_out() {
        let ids = Ids::default();
        let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", parent.parse().unwrap());
        headers.insert("tracestate", "a=1".parse().unwrap());
        let trace = Trace::of(&headers, &ids).unwrap();
        assert_eq!(
            (trace.name().as_str(), trace.state.as_str()),
            (TRACE, "a=1")
        );
        let long = "a".repeat(STATE_BYTES_MAX + 1);
        headers.insert("tracestate", long.parse().unwrap());
        assert_eq!(Trace::of(&headers, &ids).unwrap().state, "");
        headers.append("traceparent", parent.parse().unwrap());
        assert_eq!(Trace::of(&headers, &ids), None);
    }
}
