//! Requests that were sent and have not ended.

use std::collections::VecDeque;

use crate::workload::Offer;

/// One of them. Times are nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    /// What was asked.
    pub(crate) offer: Offer,
    /// Where it was sent.
    pub(crate) replica: u32,
    /// Who sent it there.
    pub(crate) gateway: u32,
    /// Whether it left the queue.
    pub(crate) started: bool,
    /// When its first token came.
    pub(crate) first_at: u64,
    /// When its last token so far came.
    pub(crate) last_at: u64,
    /// How many tokens came.
    pub(crate) tokens: u32,
}

/// All of them, by a number that counts up.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    base: u64,
    jobs: VecDeque<Option<Job>>,
}

impl Jobs {
    /// Adds one; returns its number.
    pub(crate) fn add(&mut self, job: Job) -> u64 {
        self.jobs.push_back(Some(job));
        self.base + self.jobs.len() as u64 - 1
    }

    /// One that has not ended.
    pub(crate) fn get(&self, number: u64) -> &Job {
        match &self.jobs[(number - self.base) as usize] {
            Some(job) => job,
            None => unreachable!("request {number} has ended"),
        }
    }

    /// One that has not ended.
    pub(crate) fn get_mut(&mut self, number: u64) -> &mut Job {
        match &mut self.jobs[(number - self.base) as usize] {
            Some(job) => job,
            None => unreachable!("request {number} has ended"),
        }
    }

    /// It has ended.
    pub(crate) fn remove(&mut self, number: u64) -> Job {
        let Some(job) = self.jobs[(number - self.base) as usize].take() else {
            unreachable!("request {number} has ended before");
        };
        while let Some(None) = self.jobs.front() {
            self.jobs.pop_front();
            self.base += 1;
        }
        job
    }

    /// All that have not ended.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Job> {
        self.jobs.iter().flatten()
    }
}
