//! `PATERNOSTER_FAILPOINTS=load=error@2,step=panic@20,batch=memory@3`: at the second loading of a
//! model, at the twentieth step of a decoder and at the third batch of an encoder, counted over all
//! models since the start, this goes wrong, once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use engine::executor::{
    EncodeInput, Encoded, Encoder, Executor, ExecutorError, Progress, Row, Rows,
};
use engine::limits::Pool;
use engine::plan::Plan;
use engine::request::{RequestId, Token};
use engine::sampling::Sampling;

const VARIABLE: &str = "PATERNOSTER_FAILPOINTS";

static POINTS: LazyLock<Result<Points, String>> = LazyLock::new(|| {
    let text = std::env::var(VARIABLE).unwrap_or_default();
    Points::parse(&text).ok_or_else(|| {
        format!(
            "{VARIABLE} must be PLACE=FAULT@COUNT, several with commas: load, step or batch; \
             error, memory, panic, hang or nan; from 1 on"
        )
    })
});

/// That what the environment asks for can be done.
pub(crate) fn check() -> Result<(), String> {
    let points = POINTS.as_ref().map_err(Clone::clone)?;
    if !points.asked.is_empty() {
        let asked = &points.asked;
        tracing::warn!(?asked, "failures on command");
    }
    Ok(())
}

/// Before a model is loaded.
pub(crate) fn load() -> Result<(), ExecutorError> {
    at(Place::Load).map(drop)
}

/// A decoder that fails on command.
pub(crate) fn executor(executor: Box<dyn Executor>) -> Box<dyn Executor> {
    Box::new(Failing(executor))
}

/// An encoder that fails on command.
pub(crate) fn encoder(encoder: Box<dyn Encoder>) -> Box<dyn Encoder> {
    Box::new(Failing(encoder))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Load,
    Step,
    Batch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Error,
    Memory,
    Panic,
    Hang,
    NotFinite,
}

/// What goes wrong, and how often each place was come to.
#[derive(Debug, Default)]
struct Points {
    asked: Vec<(Place, Fault, u64)>,
    met: [AtomicU64; 3],
}

impl Points {
    fn parse(text: &str) -> Option<Self> {
        let mut points = Self::default();
        for one in text.split(',').filter(|one| !one.is_empty()) {
            let (place, what) = one.split_once('=')?;
            let (fault, count) = what.split_once('@')?;
            let place = match place {
                "load" => Place::Load,
                "step" => Place::Step,
                "batch" => Place::Batch,
                _ => return None,
            };
            let fault = match fault {
                "error" => Fault::Error,
                "memory" => Fault::Memory,
                "panic" => Fault::Panic,
                "hang" => Fault::Hang,
                "nan" => Fault::NotFinite,
                _ => return None,
            };
            let count = count.parse().ok().filter(|count| *count > 0)?;
            points.asked.push((place, fault, count));
        }
        Some(points)
    }

    /// What goes wrong here, now.
    fn met(&self, place: Place) -> Option<Fault> {
        let count = self.met[place as usize].fetch_add(1, Ordering::Relaxed) + 1;
        let mut asked = self.asked.iter();
        let (_, fault, _) = asked.find(|(at, _, on)| *at == place && *on == count)?;
        Some(*fault)
    }
}

/// Fails here if that was asked for; whether what comes next is not finite.
#[expect(clippy::panic, reason = "that is what was asked for")]
fn at(place: Place) -> Result<bool, ExecutorError> {
    let points = POINTS.as_ref().ok();
    let message = || format!("{VARIABLE} asks for it");
    match points.and_then(|points| points.met(place)) {
        None => Ok(false),
        Some(Fault::NotFinite) => Ok(true),
        Some(Fault::Error) => Err(ExecutorError::Failed(message())),
        Some(Fault::Memory) => Err(ExecutorError::OutOfMemory(message())),
        Some(Fault::Panic) => panic!("{}", message()),
        Some(Fault::Hang) => loop {
            std::thread::park();
        },
    }
}

struct Failing<T: ?Sized>(Box<T>);

impl Executor for Failing<dyn Executor> {
    fn pool(&self) -> Pool {
        self.0.pool()
    }

    fn report_to(&mut self, progress: Progress) {
        self.0.report_to(progress);
    }

    fn admit(
        &mut self,
        id: RequestId,
        sampling: &Arc<Sampling>,
        prompt: &Arc<[Token]>,
        generated: &[Token],
    ) {
        self.0.admit(id, sampling, prompt, generated);
    }

    fn launch(&mut self, plan: &Plan) -> Result<(), ExecutorError> {
        self.0.launch(plan)
    }

    fn wait(&mut self, rows: &mut Rows) -> Result<(), ExecutorError> {
        let not_finite = at(Place::Step)?;
        self.0.wait(rows)?;
        if not_finite && let Some((_, row)) = rows.rows.first_mut() {
            *row = Row::NotFinite;
        }
        Ok(())
    }

    fn release(&mut self, id: RequestId) {
        self.0.release(id);
    }
}

impl Encoder for Failing<dyn Encoder> {
    fn report_to(&mut self, progress: Progress) {
        self.0.report_to(progress);
    }

    fn encode(
        &mut self,
        inputs: &[EncodeInput],
        encoded: &mut Vec<Encoded>,
    ) -> Result<(), ExecutorError> {
        let not_finite = at(Place::Batch)?;
        let before = encoded.len();
        self.0.encode(inputs, encoded)?;
        if not_finite && let Some(first) = encoded.get_mut(before) {
            first.values.fill(f32::NAN);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fails_once_where_it_was_asked_to() {
        let points = Points::parse("step=panic@2,batch=nan@1,step=hang@4").unwrap();
        let met: Vec<_> = (0..5).map(|_| points.met(Place::Step)).collect();
        let (panic, hang) = (Some(Fault::Panic), Some(Fault::Hang));
        assert_eq!(met, [None, panic, None, hang, None]);
        assert_eq!(points.met(Place::Batch), Some(Fault::NotFinite));
        assert_eq!(points.met(Place::Load), None);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert!(Points::parse("").unwrap().asked.is_empty());
        for wrong in [
            "x",
            "step=panic",
            "step=panic@0",
            "step=burn@1",
            "lift=panic@1",
            "load@1",
        ] {
            assert!(Points::parse(wrong).is_none(), "{wrong}");
        }
    }
}
