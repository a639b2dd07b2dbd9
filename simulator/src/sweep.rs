//! Several runs that differ in one or two flags.

use serde::Serialize;

use crate::args::{Metric, SimulateArgs};
use crate::experiment::SimulateError;
use crate::report::Report;
use crate::simulation::Scenario;
use crate::table::columns;

/// Runs of one sweep.
const RUNS_MAX: usize = 1000;

/// What each run is to be.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    /// The values of the varied flags.
    pub(crate) values: Vec<String>,
    /// The run.
    pub(crate) scenario: Scenario,
}

/// Runs, and what they differ in.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sweep {
    /// The flags.
    pub(crate) varied: Vec<String>,
    /// The runs, the last flag changing fastest.
    pub(crate) runs: Vec<Run>,
}

/// One of them.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Run {
    /// The values of the varied flags.
    pub(crate) values: Vec<String>,
    /// What came of it.
    pub(crate) report: Report,
}

/// All runs of --vary; one without values if there is none.
pub(crate) fn plan(args: &SimulateArgs) -> Result<Vec<Planned>, SimulateError> {
    let varied = &args.report.vary;
    if varied.len() > 2 {
        return Err(SimulateError::Flags("--vary: two at most".to_owned()));
    }
    let mut grid: Vec<Vec<String>> = vec![Vec::new()];
    for vary in varied {
        let extended = grid.iter().flat_map(|before| {
            vary.values.iter().map(|value| {
                let mut values = before.clone();
                values.push(value.clone());
                values
            })
        });
        grid = extended.collect();
    }
    if grid.len() > RUNS_MAX {
        return Err(SimulateError::Flags(format!(
            "--vary: {} runs are more than {RUNS_MAX}",
            grid.len()
        )));
    }
    let planned = grid.into_iter().map(|values| {
        let flags = varied.iter().map(|vary| vary.flag.as_str());
        let flags: Vec<(&str, &str)> = flags.zip(values.iter().map(String::as_str)).collect();
        let scenario = if flags.is_empty() {
            args.scenario()
        } else {
            args.with(&flags)?.scenario()
        };
        Ok(Planned {
            scenario: scenario?,
            values,
        })
    });
    planned.collect()
}

impl Sweep {
    /// As JSON, for programs.
    pub(crate) fn json(&self) -> String {
        // Nothing in a report can fail to be written: its keys are strings.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// As a table, for a terminal.
    pub(crate) fn table(&self, metrics: &[Metric]) -> String {
        let titles = metrics.iter().map(|metric| metric.title().to_owned());
        let mut rows: Vec<Vec<String>> = vec![self.varied.iter().cloned().chain(titles).collect()];
        for run in &self.runs {
            let figures = metrics.iter().map(|metric| figure(metric.of(&run.report)));
            rows.push(run.values.iter().cloned().chain(figures).collect());
        }
        columns(&rows, self.varied.len())
    }
}

/// Three or four digits that matter.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        below if below < 10.0 => format!("{value:.3}"),
        below if below < 1000.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::simulation::run;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: SimulateArgs,
    }

    fn args(flags: &str) -> SimulateArgs {
        let words = std::iter::once("simulate").chain(flags.split_whitespace());
        Line::try_parse_from(words).unwrap().args
    }

    #[test]
    fn a_sweep_runs_each_pair_and_shows_and_draws_it() {
        let args = args(
            "--warmup 1s --duration 2s --vary rate=5,50 --vary order=fair,fcfs --metric ttft-p99,busy",
        );
        let sweep = Sweep {
            varied: vec!["rate".to_owned(), "order".to_owned()],
            runs: plan(&args)
                .unwrap()
                .into_iter()
                .map(|planned| Run {
                    report: run(&planned.scenario, &mut |_| {}),
                    values: planned.values,
                })
                .collect(),
        };
        let values: Vec<String> = sweep.runs.iter().map(|run| run.values.join(" ")).collect();
        assert_eq!(values, ["5 fair", "5 fcfs", "50 fair", "50 fcfs"]);
        let table = sweep.table(&args.report.metric);
        assert_eq!(table.lines().count(), 5, "{table}");
        let drawn = crate::plot::sweep(&sweep, &args.report.metric).unwrap();
        for text in ["first token, p99, ms", "fcfs", "rate, lines by order"] {
            assert!(drawn.contains(text), "{text} is not drawn");
        }
        let course = crate::plot::run(&sweep.runs[0].report).unwrap();
        assert!(course.contains("output tokens/s") && course.contains("polyline"));
    }

    #[test]
    fn too_much_is_refused() {
        let many = (0..1001)
            .map(|n| n.to_string())
            .collect::<Vec<_>>()
            .join(",");
        assert!(plan(&args(&format!("--vary seed={many}"))).is_err());
        assert!(plan(&args("--vary seed=1 --vary rate=1 --vary order=fair")).is_err());
        assert!(plan(&args("--vary colour=red")).is_err());
    }
}
