//! `paternoster simulate`: run, report.

use std::io::Write as _;
use std::path::Path;

use crate::args::{Metric, SimulateArgs};
use crate::calibration;
use crate::clock::Clock;
pub use crate::experiment::SimulateError;
use crate::machine::Catalogue;
use crate::plot;
use crate::progress::Progress;
use crate::published;
use crate::simulation;
use crate::sweep::{self, Planned, Run, Sweep};
use crate::units::seconds;

/// Does what the flags say, and writes what came of it.
pub fn simulate(args: &SimulateArgs) -> Result<(), SimulateError> {
    if !args.report.calibrate.is_empty() {
        let catalogue = Catalogue::with_file(args.replica.spec.as_deref())?;
        let model = catalogue.model(&args.replica.model)?;
        let hardware = catalogue.hardware(&args.replica.hardware)?;
        let fit = calibration::fit_files(&args.report.calibrate, model, hardware);
        let fit = fit.map_err(|error| SimulateError::Flags(error.to_string()))?;
        return print(&fit.table(&args.replica.hardware));
    }
    if args.report.published {
        return compare(args);
    }
    let planned = sweep::plan(args)?;
    let clock = Clock::start();
    let simulated = planned.iter().map(|run| run.scenario.window.until).sum();
    let mut progress = Progress::new(simulated, args.report.quiet);
    let sweep = Sweep {
        varied: args
            .report
            .vary
            .iter()
            .map(|vary| vary.flag.clone())
            .collect(),
        runs: planned
            .iter()
            .map(|run| run_one(run, &mut progress))
            .collect(),
    };
    drop(progress);
    write(args, &sweep)?;
    if !args.report.quiet {
        let (simulated, wall) = (seconds(simulated), clock.seconds());
        let speed = simulated / wall.max(1e-9);
        // Nothing can be done where standard error is closed.
        let _written = writeln!(
            std::io::stderr(),
            "{simulated:.0} simulated seconds in {wall:.2} s: {speed:.0} per second"
        );
    }
    Ok(())
}

fn compare(args: &SimulateArgs) -> Result<(), SimulateError> {
    let progress = Progress::new(published::lasts(), args.report.quiet);
    let comparisons = published::compare(&mut |nanos| progress.at(nanos));
    drop(progress);
    // Nothing in it can fail to be written.
    let json = serde_json::to_string_pretty(&comparisons).unwrap_or_default();
    deliver(args, &published::table(&comparisons), &json)
}

fn run_one(planned: &Planned, progress: &mut Progress) -> Run {
    let report = simulation::run(&planned.scenario, &mut |nanos| progress.at(nanos));
    progress.ended(planned.scenario.window.until);
    Run {
        values: planned.values.clone(),
        report,
    }
}

fn write(args: &SimulateArgs, sweep: &Sweep) -> Result<(), SimulateError> {
    let metrics: &[Metric] = &args.report.metric;
    let (table, json) = match &sweep.runs[..] {
        [run] if sweep.varied.is_empty() => (run.report.table(), run.report.json()),
        _ => (sweep.table(metrics), sweep.json()),
    };
    deliver(args, &table, &json)?;
    if let Some(path) = &args.report.plot {
        let drawn = match &sweep.runs[..] {
            [run] if sweep.varied.is_empty() => plot::run(&run.report),
            _ => plot::sweep(sweep, metrics),
        };
        let drawn = drawn.map_err(|error| unwritten(path, error))?;
        std::fs::write(path, drawn).map_err(|error| unwritten(path, error))?;
    }
    Ok(())
}

/// The table to standard output and the JSON where it is wanted.
fn deliver(args: &SimulateArgs, table: &str, json: &str) -> Result<(), SimulateError> {
    match args.report.json.as_deref() {
        Some(path) if path == Path::new("-") => print(&format!("{json}\n")),
        Some(path) => {
            print(table)?;
            std::fs::write(path, json).map_err(|error| unwritten(path, error))
        }
        None => print(table),
    }
}

fn unwritten(path: &Path, cause: impl std::fmt::Display) -> SimulateError {
    SimulateError::Write {
        path: path.to_owned(),
        cause: cause.to_string(),
    }
}

fn print(text: &str) -> Result<(), SimulateError> {
    let written = std::io::stdout().write_all(text.as_bytes());
    written.map_err(|error| unwritten(Path::new("standard output"), error))
}
