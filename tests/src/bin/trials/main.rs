//! The release binary under faults and load, over real sockets: what it promises, measured.
//!
//! `cargo build --release -p server -p tests && target/release/trials` runs all trials, about four
//! minutes on two cores; `trials held drains` runs some, and `trials soak 10` mixes load and faults
//! for ten minutes. Each prints one line of JSON. What depends on time is reported, and bounded only
//! so widely that a hang is told from a slow machine.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::panic,
    reason = "a harness prints, and fails by panicking"
)]

mod cancels;
mod clock;
mod deadlines;
mod drains;
mod held;
mod killed;
mod metrics;
mod overload;
mod raw;
mod resets;
mod server;
mod slow;
mod soak;
mod stream;
mod verdict;

use std::process::ExitCode;

use verdict::Verdict;

const ALL: [&str; 9] = [
    "held",
    "idle",
    "cancels",
    "deadlines",
    "resets",
    "killed",
    "slow",
    "overload",
    "drains",
];

#[tokio::main]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let verdicts = match words[..] {
        // What `killed` starts, to be killed.
        ["client", address, streams] => {
            killed::client(address, streams.parse().unwrap()).await;
            return ExitCode::SUCCESS;
        }
        ["soak", minutes] => vec![soak::run(minutes.parse().unwrap()).await.say()],
        [] => run(&ALL).await,
        ref names => run(names).await,
    };
    let failed = verdicts.iter().filter(|verdict| !verdict.holds()).count();
    println!("{} trials, {failed} failed", verdicts.len());
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

async fn run(names: &[&str]) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for name in names {
        eprintln!("=== {name}");
        let verdict = match *name {
            "held" => held::held().await,
            "idle" => held::idle().await,
            "cancels" => cancels::run().await,
            "deadlines" => deadlines::run().await,
            "resets" => resets::run().await,
            "killed" => killed::run().await,
            "slow" => slow::run().await,
            "overload" => overload::run().await,
            "drains" => drains::run().await,
            other => {
                eprintln!("no such trial: {other}; there are {}", ALL.join(", "));
                let mut verdict = Verdict::new("unknown");
                verdict.fails(format!("no trial {other}"));
                verdict
            }
        };
        verdicts.push(verdict.say());
    }
    verdicts
}
