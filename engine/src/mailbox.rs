//! One stream's way from the loop to its reader: a buffer that coalesces.
//!
//! The loop adds and never waits; the reader takes everything that has accumulated. What can
//! accumulate is bounded by the request's `output_max`, and how long by the stall time-out.

use std::sync::Mutex;
use std::task::{Context, Poll, Waker};

use scheduler::request::Micros;

use crate::handle::{End, Generated, Progress};
use crate::inbox::lock;

/// Shared by the loop and the reader of one stream.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    mail: Mutex<Mail>,
}

#[derive(Debug, Default)]
struct Mail {
    unread: Progress,
    /// When the oldest part of `unread` came.
    unread_since: Option<Micros>,
    /// The reader, while it sleeps. Taken when it is woken, so that it is woken once.
    reader: Option<Waker>,
}

impl Mailbox {
    /// Adds the start. Returns whom to wake.
    pub(crate) fn start(&self, cached_tokens: u32, now: Micros) -> Option<Waker> {
        let mut mail = lock(&self.mail);
        mail.unread.started = Some(cached_tokens);
        mail.unread_since.get_or_insert(now);
        mail.reader.take()
    }

    /// Adds a preemption. Returns whom to wake. Says nothing of how long anything lies unread.
    pub(crate) fn preempted(&self) -> Option<Waker> {
        let mut mail = lock(&self.mail);
        mail.unread.preemptions += 1;
        mail.reader.take()
    }

    /// Adds a token. Returns whom to wake, and since when something lies unread.
    pub(crate) fn push(&self, generated: Generated, now: Micros) -> (Option<Waker>, Micros) {
        let mut mail = lock(&self.mail);
        mail.unread.tokens.push(generated);
        let unread_since = *mail.unread_since.get_or_insert(now);
        (mail.reader.take(), unread_since)
    }

    /// Adds the end, after which nothing is added. Returns whom to wake.
    pub(crate) fn end(&self, end: End) -> Option<Waker> {
        let mut mail = lock(&self.mail);
        assert!(mail.unread.end.is_none(), "a stream ends twice");
        mail.unread.end = Some(end);
        mail.reader.take()
    }

    /// Takes everything unread, or leaves the reader's waker when there is nothing.
    pub(crate) fn poll(&self, context: &Context<'_>) -> Poll<Progress> {
        let mut mail = lock(&self.mail);
        let unread = &mail.unread;
        if *unread == Progress::default() {
            match &mut mail.reader {
                Some(reader) => reader.clone_from(context.waker()),
                reader => *reader = Some(context.waker().clone()),
            }
            return Poll::Pending;
        }
        mail.unread_since = None;
        Poll::Ready(std::mem::take(&mut mail.unread))
    }
}

#[cfg(test)]
mod tests {
    use scheduler::request::{Finish, Token};

    use super::*;

    fn generated(token: u32) -> Generated {
        Generated {
            token: Token(token),
            logprob: 0.0,
            top: Vec::new(),
        }
    }

    #[test]
    fn what_accumulates_is_read_at_once_and_in_order() {
        let mailbox = Mailbox::default();
        let context = Context::from_waker(Waker::noop());
        assert_eq!(mailbox.poll(&context), Poll::Pending);
        assert!(mailbox.start(3, Micros(5)).is_some(), "the reader sleeps");
        let (reader, since) = mailbox.push(generated(1), Micros(6));
        assert!(reader.is_none(), "the reader is woken once");
        assert_eq!(since, Micros(5));
        mailbox.push(generated(2), Micros(7));
        mailbox.preempted();
        mailbox.preempted();
        mailbox.end(End::Finish(Finish::Length));
        let Poll::Ready(progress) = mailbox.poll(&context) else {
            panic!("there is progress")
        };
        assert_eq!((progress.started, progress.preemptions), (Some(3), 2));
        assert_eq!(progress.tokens, [generated(1), generated(2)]);
        assert_eq!(progress.end, Some(End::Finish(Finish::Length)));
    }

    #[test]
    fn reading_resets_the_age() {
        let mailbox = Mailbox::default();
        let context = Context::from_waker(Waker::noop());
        assert_eq!(mailbox.push(generated(1), Micros(1)).1, Micros(1));
        assert!(mailbox.poll(&context).is_ready());
        assert_eq!(mailbox.push(generated(2), Micros(9)).1, Micros(9));
    }

    #[test]
    fn a_sleeper_is_woken_once() {
        let mailbox = Mailbox::default();
        let context = Context::from_waker(Waker::noop());
        assert!(mailbox.poll(&context).is_pending());
        assert!(mailbox.push(generated(1), Micros(1)).0.is_some());
        assert!(mailbox.push(generated(2), Micros(2)).0.is_none());
    }
}
