//! What a run shows while it goes on: a line that is rewritten on a terminal, else one a second.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::clock::Clock;
use crate::tally::{Live, Tally};

/// Shows what happens, every second, until it is dropped.
pub(crate) async fn show(tally: Arc<Tally>) {
    let clock = Clock::start();
    let bar = std::io::stderr().is_terminal().then(bar);
    let mut before = Live::default();
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let now = tally.live();
        let line = line(clock.now(), before, now);
        match &bar {
            Some(bar) => {
                bar.set_message(line);
                bar.tick();
            }
            // Nothing can be done where standard error is closed.
            None => {
                let _written = writeln!(std::io::stderr(), "{line}");
            }
        }
        before = now;
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
        bar.set_style(style);
    }
    bar
}

fn line(time: Duration, before: Live, now: Live) -> String {
    format!(
        "{:>5} s  {:>6} in flight  {:>7} requests/s  {:>9} tokens/s  first token {:.1} ms, \
         between tokens {:.2} ms  {} failed",
        time.as_secs(),
        now.in_flight,
        now.ended - before.ended,
        now.output_tokens - before.output_tokens,
        now.ttft_p50_ms,
        now.itl_p50_ms,
        now.failed
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_of_the_last_second() {
        let before = Live {
            ended: 10,
            output_tokens: 100,
            ..Live::default()
        };
        let now = Live {
            in_flight: 7,
            ended: 15,
            failed: 1,
            output_tokens: 420,
            ttft_p50_ms: 12.34,
            itl_p50_ms: 1.5,
        };
        let line = line(Duration::from_secs(3), before, now);
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(
            words.join(" "),
            "3 s 7 in flight 5 requests/s 320 tokens/s first token 12.3 ms, between tokens 1.50 ms 1 failed"
        );
    }
}
