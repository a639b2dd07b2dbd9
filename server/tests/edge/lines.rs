//! What a server under test logs.

use std::io::Write;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tracing::Dispatch;
use tracing::subscriber::{DefaultGuard, NoSubscriber, set_default};

/// What was logged.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// Logs this thread, which is the whole server of a test, until the guards are dropped.
    ///
    /// While there is one subscriber alone, whoever first comes to a line on a thread without it
    /// switches the line off for all threads; a second one prevents that.
    pub(crate) fn record() -> (Self, (DefaultGuard, Dispatch)) {
        let second = Dispatch::new(NoSubscriber::default());
        let lines = Self::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .flatten_event(true)
            .with_writer(move || writer.clone())
            .finish();
        (lines, (set_default(subscriber), second))
    }

    /// The lines of calls, in the order of their ends.
    pub(crate) fn calls(&self) -> Vec<Value> {
        let text = self.text();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        lines
            .filter(|line: &Value| line["target"] == "server::journal")
            .collect()
    }

    /// All that was written.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}
