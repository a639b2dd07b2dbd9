//! One request, measured. Times count from when it was due, so that a request which could not be
//! sent in time is not forgiven its wait.

use std::time::Duration;

use crate::clock::Clock;
use crate::plan::Ask;
use crate::tally::{Ended, Outcome, Phase, Tally, Tokens};
use crate::target::{Failure, Piece, Pieces, Target};

/// What a call needs to know.
#[derive(Debug)]
pub(crate) struct Call<'a, T> {
    pub(crate) target: &'a T,
    pub(crate) tally: &'a Tally,
    pub(crate) clock: Clock,
    pub(crate) connection: usize,
    pub(crate) phase: Phase,
    /// When it should be sent.
    pub(crate) due: Duration,
    /// The longest that it may take.
    pub(crate) timeout: Duration,
}

impl<T: Target> Call<'_, T> {
    /// Sends it and reads its answer.
    pub(crate) async fn run(&self, ask: &Ask) {
        self.tally.begun(self.clock.now(), self.due, self.phase);
        let mut tokens = Tokens::default();
        let answered = tokio::time::timeout(self.timeout, self.answer(ask, &mut tokens)).await;
        let answered = answered.unwrap_or_else(|_| Err(Failure::overdue()));
        let outcome = match answered {
            Ok(outcome) => outcome,
            Err(failure) if ask.kind.deadline.is_some() && failure.is_deadline() => {
                Outcome::Expired
            }
            Err(failure) => Outcome::Failed(failure),
        };
        let now = self.clock.now();
        let ended = Ended {
            outcome,
            after: now.saturating_sub(self.due),
            tokens,
        };
        self.tally.ended(now, ended, self.phase);
    }

    async fn answer(&self, ask: &Ask, tokens: &mut Tokens) -> Result<Outcome, Failure> {
        if ask.kind.embed {
            let embedded = self.target.embed(self.connection, ask).await?;
            return Ok(Outcome::Embedded(embedded));
        }
        let mut pieces = self.target.generate(self.connection, ask).await?;
        let leave_at = ask.kind.cancel_after.unwrap_or(u32::MAX);
        let mut cost = None;
        let mut last = Duration::ZERO;
        while tokens.count < leave_at {
            match pieces.next().await? {
                Some(Piece::Tokens(count)) if count > 0 => self.count(count, tokens, &mut last),
                Some(Piece::Finished(usage)) => cost = Some(usage),
                Some(_) => {}
                None => return cost.map(Outcome::Completed).ok_or_else(cut_off),
            }
        }
        Ok(Outcome::Left)
    }

    fn count(&self, count: u32, tokens: &mut Tokens, last: &mut Duration) {
        let now = self.clock.now();
        if tokens.ttft.is_none() {
            let ttft = now.saturating_sub(self.due);
            tokens.ttft = Some(ttft);
            tokens.first = count;
            self.tally.first(now, count, ttft, self.phase);
        } else {
            let gap = now.saturating_sub(*last);
            tokens.span += gap;
            self.tally.tokens(now, count, gap, self.phase);
        }
        tokens.count = tokens.count.saturating_add(count);
        *last = now;
    }
}

/// The stream ended as if it were well, but without its last event.
fn cut_off() -> Failure {
    Failure {
        code: "OK".to_owned(),
        reason: "the stream ended without `finished`".to_owned(),
        retry_after: None,
    }
}
