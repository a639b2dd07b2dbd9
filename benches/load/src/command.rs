//! `paternoster bench`: connect, run, report.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::args::{Api, BenchArgs};
use crate::effort::{self, Effort};
use crate::grpc::Grpc;
use crate::openai::OpenAi;
use crate::progress;
use crate::report::{Report, Span};
use crate::run::{self, Scenario};
use crate::tally::Tally;
use crate::target::Target;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A flag, or a file that it names.
    #[error("{0}")]
    Flags(String),
    /// The server cannot be reached.
    #[error("{address}: {cause}")]
    Connect {
        /// Where it should be.
        address: String,
        /// What is wrong.
        cause: String,
    },
    /// The report cannot be written.
    #[error("{path}: {cause}")]
    Write {
        /// Where to.
        path: PathBuf,
        /// What is wrong.
        cause: std::io::Error,
    },
    /// Not one request was answered.
    #[error("no request of {begun} was answered")]
    Nothing {
        /// Requests sent.
        begun: u64,
    },
}

impl BenchError {
    /// The exit code of the process: where nothing was answered, the one of `paternoster health`.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Connect { .. } | Self::Nothing { .. } => 2,
            Self::Write { .. } => 71,
            Self::Flags(_) => 78,
        }
    }
}

/// Runs a load and writes its report. `stop` ends the load early; what there is by then is reported.
pub async fn bench(args: BenchArgs, stop: CancellationToken) -> Result<(), BenchError> {
    let report = measure(&args, stop).await?;
    write(&args, &report)?;
    let requests = report.requests;
    if requests.begun > 0 && requests.failed == requests.begun {
        return Err(BenchError::Nothing {
            begun: requests.begun,
        });
    }
    Ok(())
}

/// Runs a load.
pub async fn measure(args: &BenchArgs, stop: CancellationToken) -> Result<Report, BenchError> {
    let address = args.address();
    let tls = args.tls().map_err(BenchError::Flags)?;
    if args.api == Api::Openai {
        if tls.is_some() {
            let text = "--api openai does not speak TLS".to_owned();
            return Err(BenchError::Flags(text));
        }
        let target = OpenAi::new(&address, args.model.clone(), args.http_headers());
        let scenario = args.scenario_unknown().map_err(BenchError::Flags)?;
        return Ok(drive(args, target, scenario, stop).await);
    }
    let connected = Grpc::connect(
        &address,
        args.connections.into(),
        args.model.clone(),
        args.headers(),
        tls,
    );
    let unreachable = |cause| BenchError::Connect {
        address: address.clone(),
        cause,
    };
    let target = connected.await.map_err(|error| unreachable(root(&error)))?;
    let vocabulary = args.vocabulary(&target).await;
    let vocabulary = vocabulary
        .map_err(|failure| unreachable(format!("{} {}", failure.code, failure.reason)))?;
    let scenario = args.scenario(vocabulary).map_err(BenchError::Flags)?;
    Ok(drive(args, target, scenario, stop).await)
}

async fn drive<T: Target>(
    args: &BenchArgs,
    target: T,
    scenario: Scenario,
    stop: CancellationToken,
) -> Report {
    let objective = args.objective();
    let used = effort::used();
    let tally = Arc::new(Tally::new(objective));
    let from = scenario.warmup;
    let running = run::run(Arc::new(target), scenario, Arc::clone(&tally), stop);
    let until = if args.quiet {
        running.await
    } else {
        tokio::select! {
            until = running => until,
            () = progress::show(Arc::clone(&tally)) => from,
        }
    };
    let effort = Effort::new(used, effort::used(), until);
    let span = Span { from, until };
    Report::new(&tally, span, objective, args.setting(), effort)
}

fn write(args: &BenchArgs, report: &Report) -> Result<(), BenchError> {
    let dash = Path::new("-");
    let json = args.json.as_deref();
    if json == Some(dash) {
        print(&(report.json() + "\n"))?;
    } else {
        print(&report.table())?;
    }
    if let Some(path) = json.filter(|path| *path != dash) {
        save(path, &report.json())?;
    }
    args.html
        .as_deref()
        .map_or(Ok(()), |path| save(path, &report.html()))
}

fn print(text: &str) -> Result<(), BenchError> {
    let written = std::io::stdout().write_all(text.as_bytes());
    written.map_err(|cause| BenchError::Write {
        path: "standard output".into(),
        cause,
    })
}

fn save(path: &Path, text: &str) -> Result<(), BenchError> {
    std::fs::write(path, text).map_err(|cause| BenchError::Write {
        path: path.to_owned(),
        cause,
    })
}

/// The innermost cause: the outer ones only say that it is the transport.
fn root(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
