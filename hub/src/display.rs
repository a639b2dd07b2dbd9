//! What a person sees of a download: bars on a terminal, now and then a line anywhere else.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{
    BinaryBytes, HumanDuration, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle,
};

use crate::clock::Clock;
use crate::observe::{Event, Observer};

/// Bars on a terminal: one for everything, one for each file that is on its way.
#[derive(Debug)]
pub struct Bars {
    all: MultiProgress,
    total: ProgressBar,
    files: Mutex<Files>,
}

#[derive(Debug, Default)]
struct Files {
    bars: BTreeMap<String, ProgressBar>,
    planned: usize,
    done: usize,
}

impl Bars {
    /// Bars on standard error, named so.
    pub fn stderr(name: &str) -> Self {
        Self::on(ProgressDrawTarget::stderr(), name)
    }

    /// Bars on any terminal.
    pub fn on(target: ProgressDrawTarget, name: &str) -> Self {
        let all = MultiProgress::with_draw_target(target);
        let total = all.add(ProgressBar::new(0).with_style(style(TOTAL)));
        total.set_prefix(name.to_owned());
        Self {
            all,
            total,
            files: Mutex::default(),
        }
    }

    /// Takes the bars away, so that something else may be printed.
    pub fn clear(&self) {
        for bar in std::mem::take(&mut self.files().bars).values() {
            bar.finish_and_clear();
        }
        self.total.finish_and_clear();
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, line: String) {
        // Nothing can be done if the terminal is gone.
        drop(self.all.println(line));
    }

    fn start(&self, file: &str, bytes: u64, kept: u64) {
        let mut files = self.files();
        if bytes >= OWN_BAR_BYTES {
            let bar = ProgressBar::new(bytes).with_style(style(FILE));
            let bar = self.all.add(bar);
            bar.set_prefix(file.to_owned());
            bar.set_position(kept);
            bar.reset_eta();
            files.bars.insert(file.to_owned(), bar);
        }
        self.total.inc(kept);
        if kept > 0 {
            self.total.reset_eta();
        }
    }

    fn end(&self, file: &str) {
        let mut files = self.files();
        if let Some(bar) = files.bars.remove(file) {
            bar.finish_and_clear();
            self.all.remove(&bar);
        }
        files.done += 1;
        self.total.set_message(files.counted());
    }

    fn moved(&self, file: &str, change: impl Fn(&ProgressBar)) {
        change(&self.total);
        if let Some(bar) = self.files().bars.get(file) {
            change(bar);
        }
    }
}

impl Files {
    fn counted(&self) -> String {
        format!("{}/{} files", self.done, self.planned)
    }
}

impl Observer for Bars {
    fn note(&self, event: &Event<'_>) {
        match event {
            Event::Planned { files, bytes } => {
                let mut state = self.files();
                state.planned += files;
                self.total.inc_length(*bytes);
                self.total.set_message(state.counted());
            }
            Event::Started { file, bytes, kept } => self.start(file, *bytes, *kept),
            Event::Received { file, bytes } => self.moved(file, |bar| bar.inc(*bytes)),
            Event::Discarded { file, bytes } => self.moved(file, |bar| bar.dec(*bytes)),
            Event::Finished { file, .. } => self.end(file),
            Event::Found { file, bytes } => {
                self.total.inc(*bytes);
                self.end(file);
            }
            other => self.say(sentence(other)),
        }
    }
}

/// A line now and then, for logs and files.
pub struct Lines {
    clock: Arc<dyn Clock>,
    print: Box<dyn Fn(&str) + Send + Sync>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    files: usize,
    files_done: usize,
    bytes: u64,
    bytes_done: u64,
    /// Of `bytes_done`, what came through the network.
    received: u64,
    start: Option<Duration>,
    last: Duration,
}

impl Lines {
    /// Lines for `print`.
    pub fn new(clock: Arc<dyn Clock>, print: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self {
            clock,
            print: Box::new(print),
            state: Mutex::default(),
        }
    }

    /// Counts, and says where it stands if it has not for a while.
    fn count(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        let start = *state.start.get_or_insert(now);
        change(&mut state);
        if now.saturating_sub(state.last.max(start)) >= LINE_EVERY {
            state.last = now;
            (self.print)(&state.line(now.saturating_sub(start)));
        }
    }
}

impl State {
    fn line(&self, elapsed: Duration) -> String {
        let rate = self.received as f64 / elapsed.as_secs_f64().max(0.001);
        let left = self.bytes.saturating_sub(self.bytes_done);
        let percent = 100 * u128::from(self.bytes_done) / u128::from(self.bytes.max(1));
        let eta = if rate >= 1.0 {
            HumanDuration(Duration::from_secs((left as f64 / rate) as u64)).to_string()
        } else {
            "unknown time".to_owned()
        };
        format!(
            "{} of {} ({percent} %), {} of {} files, {}/s, {eta} left",
            BinaryBytes(self.bytes_done),
            BinaryBytes(self.bytes),
            self.files_done,
            self.files,
            BinaryBytes(rate as u64),
        )
    }
}

impl Observer for Lines {
    fn note(&self, event: &Event<'_>) {
        match event {
            Event::Planned { files, bytes } => {
                self.count(|state| {
                    state.files += files;
                    state.bytes += bytes;
                });
                (self.print)(&format!("{files} files, {}", BinaryBytes(*bytes)));
            }
            Event::Started { kept, .. } => self.count(|state| state.bytes_done += kept),
            Event::Received { bytes, .. } => self.count(|state| {
                state.bytes_done += bytes;
                state.received += bytes;
            }),
            Event::Discarded { bytes, .. } => {
                self.count(|state| state.bytes_done = state.bytes_done.saturating_sub(*bytes));
            }
            Event::Finished { .. } => self.count(|state| state.files_done += 1),
            Event::Found { bytes, .. } => self.count(|state| {
                state.files_done += 1;
                state.bytes_done += bytes;
            }),
            other => (self.print)(&sentence(other)),
        }
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lines").field(&self.state).finish()
    }
}

/// Bytes as people read them: `1.20 GiB`.
pub fn human(bytes: u64) -> String {
    BinaryBytes(bytes).to_string()
}

fn sentence(event: &Event<'_>) -> String {
    match event {
        Event::Resolved { model, commit } => format!("{model} is commit {commit}"),
        Event::Retrying { error, wait } => {
            format!("{error}; again in {} s", wait.as_secs_f32())
        }
        Event::Waiting { file } => format!("{file}: waiting for another process that has it"),
        Event::Warning { message } => message.clone(),
        other => format!("{other:?}"),
    }
}

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template);
    style
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

const TOTAL: &str = "{prefix} [{bar:30}] {msg}, {binary_bytes}/{binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";
const FILE: &str = "  {prefix} [{bar:30}] {binary_bytes}/{binary_total_bytes}";
/// Smaller files come and go faster than they can be read.
const OWN_BAR_BYTES: u64 = 1 << 20;
const LINE_EVERY: Duration = Duration::from_secs(5);
