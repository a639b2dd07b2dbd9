//! What is shown while it runs: how much of the simulated time has passed.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressStyle};

use crate::units::SECOND;

/// A bar on a terminal, else nothing.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    done: u64,
}

impl Progress {
    /// For runs that together simulate so many nanoseconds.
    pub(crate) fn new(total: u64, quiet: bool) -> Self {
        let shown = !quiet && std::io::stderr().is_terminal();
        let bar = shown.then(|| {
            let bar = ProgressBar::new(total / SECOND);
            let style =
                ProgressStyle::with_template("{wide_bar} {pos}/{len} simulated seconds {eta}");
            if let Ok(style) = style {
                bar.set_style(style);
            }
            bar
        });
        Self { bar, done: 0 }
    }

    /// The time of the current run.
    pub(crate) fn at(&self, nanos: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position((self.done + nanos) / SECOND);
        }
    }

    /// A run has ended that simulated so many nanoseconds.
    pub(crate) fn ended(&mut self, nanos: u64) {
        self.done += nanos;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
