//! A machine's figures from what `paternoster bench` measured on it.
//!
//! What is fitted is `t = fixed + bytes / bandwidth + FLOPs / rate`, linear in the fixed cost and in
//! the two reciprocals. A report of a closed loop gives a mean step: it lasts the mean time between
//! tokens, and what it did is the run's work in proportion. A report of one worker also gives the
//! time of a whole prompt: that to the first token.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::machine::{Hardware, Model};
use crate::table::columns;

/// What is read of a report.
#[derive(Clone, Debug, Deserialize)]
struct Measured {
    seconds: f64,
    setting: Vec<(String, String)>,
    requests: Requests,
    tokens: Tokens,
    latencies: Latencies,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Requests {
    completed: u64,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Tokens {
    prompt: u64,
    cached: u64,
    output: u64,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Latencies {
    ttft: Mean,
    itl: Mean,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Mean {
    mean: f64,
}

/// Why there is no fit.
#[derive(Debug, thiserror::Error)]
pub enum CalibrationError {
    /// A file is not a report that can be used.
    #[error("{path}: {cause}")]
    Report {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// There are fewer equations than unknowns.
    #[error("{0} observations are too few: give reports of one, several and many workers")]
    TooFew(usize),
    /// No cost that is above 0 explains what was measured.
    #[error("what was measured does not tell costs apart: give reports of other loads")]
    Undetermined,
}

/// Something that took time.
#[derive(Clone, Debug, PartialEq)]
struct Observation {
    name: String,
    bytes: f64,
    flops: f64,
    seconds: f64,
}

/// What fits best.
#[derive(Clone, Debug, PartialEq)]
pub struct Fit {
    /// Seconds of a step that computes nothing.
    pub fixed: f64,
    /// Bytes a second; infinite if none of the time was spent on them.
    pub bandwidth: f64,
    /// Operations a second; infinite if none of the time was spent on them.
    pub flops: f64,
    hardware: Hardware,
    model: Model,
    observations: Vec<Observation>,
}

/// Fits a machine to reports.
pub fn fit_files(
    paths: &[PathBuf],
    model: &Model,
    hardware: &Hardware,
) -> Result<Fit, CalibrationError> {
    let mut observations = Vec::new();
    for path in paths {
        let wrong = |cause: String| CalibrationError::Report {
            path: path.clone(),
            cause,
        };
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let measured: Measured =
            serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        observations.extend(observe(path, &measured, model).map_err(wrong)?);
    }
    fit(observations, model, hardware)
}

/// The equations that a report gives.
fn observe(path: &Path, measured: &Measured, model: &Model) -> Result<Vec<Observation>, String> {
    let load = measured.setting.iter().find(|(name, _)| name == "load");
    let load = load.map_or("", |(_, load)| load.as_str());
    let workers = load.strip_prefix("closed loop, ").and_then(|rest| {
        let (count, _) = rest.split_once(' ')?;
        count.parse::<u32>().ok()
    });
    let Some(workers) = workers else {
        return Err("only reports of a closed loop tell how long a step takes".to_owned());
    };
    let requests = measured.requests.completed as f64;
    let output = measured.tokens.output as f64;
    let step = measured.latencies.itl.mean / 1e3;
    if requests < 1.0 || output < 2.0 * requests || step <= 0.0 || measured.seconds <= 0.0 {
        return Err("no answer with two tokens or more in it".to_owned());
    }
    let prompt = measured.tokens.prompt as f64 / requests;
    let computed = (measured.tokens.prompt - measured.tokens.cached) as f64 / requests;
    let answer = output / requests;
    let context = prompt + answer / 2.0;
    let per_token = 2.0 * (model.layer_parameters() + model.head_parameters());
    let per_prompt_token = 2.0 * model.layer_parameters() + model.attention_flops() * prompt / 2.0;
    // A first token takes longer; the run's other tokens came one a step.
    let of_decodes = requests * (answer - 1.0) * step;
    let sequences = (of_decodes / measured.seconds).min(f64::from(workers));
    let prompts_a_step = requests / measured.seconds * step;
    let name = path
        .file_name()
        .map_or_else(String::new, |name| name.display().to_string());
    let mut observations = vec![Observation {
        name: format!("{name}: a step of {sequences:.1} sequences"),
        bytes: model.read_bytes() + sequences * context * model.kv_bytes(),
        flops: sequences * (per_token + model.attention_flops() * context)
            + prompts_a_step * computed * per_prompt_token,
        seconds: step,
    }];
    if workers == 1 {
        observations.push(Observation {
            name: format!("{name}: a prompt of {computed:.0} tokens"),
            bytes: model.read_bytes() + prompt * model.kv_bytes(),
            flops: computed * per_prompt_token + 2.0 * model.head_parameters(),
            seconds: measured.latencies.ttft.mean / 1e3,
        });
    }
    Ok(observations)
}

/// Least squares of the relative error, with no cost below 0.
fn fit(
    observations: Vec<Observation>,
    model: &Model,
    hardware: &Hardware,
) -> Result<Fit, CalibrationError> {
    if observations.len() < 3 {
        return Err(CalibrationError::TooFew(observations.len()));
    }
    let bandwidth = hardware.bandwidth;
    let peak = hardware.peak(model.weights);
    // Scaled so that all columns are times.
    let rows: Vec<[f64; 3]> = observations
        .iter()
        .map(|o| [1e-3, o.bytes / bandwidth, o.flops / peak].map(|time| time / o.seconds))
        .collect();
    let error = |costs: &[f64; 3]| -> f64 {
        rows.iter()
            .map(|row| (row.iter().zip(costs).map(|(x, c)| x * c).sum::<f64>() - 1.0).powi(2))
            .sum()
    };
    // Few unknowns: every choice of those that are not 0 is tried.
    let best = (1_u8..8)
        .filter_map(|free| solve(&rows, free))
        .filter(|costs| costs.iter().all(|&cost| cost >= 0.0))
        .min_by(|a, b| error(a).total_cmp(&error(b)));
    let Some([fixed, bytes, flops]) = best else {
        return Err(CalibrationError::Undetermined);
    };
    Ok(Fit {
        fixed: fixed * 1e-3,
        bandwidth: bandwidth / bytes,
        flops: peak / flops,
        hardware: hardware.clone(),
        model: model.clone(),
        observations,
    })
}

/// The least squares of `rows * costs = 1`, of the costs whose bit is set; the others are 0.
fn solve(rows: &[[f64; 3]], free: u8) -> Option<[f64; 3]> {
    let columns: Vec<usize> = (0..3).filter(|at| free & (1 << at) != 0).collect();
    let count = columns.len();
    // The normal equations, with their right side as a last column.
    let mut system = vec![vec![0.0; count + 1]; count];
    for row in rows {
        for (at, &column) in columns.iter().enumerate() {
            for (to, &other) in columns.iter().enumerate() {
                system[at][to] += row[column] * row[other];
            }
            system[at][count] += row[column];
        }
    }
    for at in 0..count {
        let pivot =
            (at..count).max_by(|&a, &b| system[a][at].abs().total_cmp(&system[b][at].abs()))?;
        system.swap(at, pivot);
        let lead = system[at].clone();
        if lead[at].abs() < 1e-12 {
            return None;
        }
        for (other, row) in system.iter_mut().enumerate() {
            if other != at {
                let factor = row[at] / lead[at];
                row.iter_mut()
                    .zip(&lead)
                    .for_each(|(x, y)| *x -= factor * y);
            }
        }
    }
    let mut costs = [0.0; 3];
    for (at, &column) in columns.iter().enumerate() {
        costs[column] = system[at][count] / system[at][at];
    }
    Some(costs)
}

impl Fit {
    fn predicted(&self, observation: &Observation) -> f64 {
        self.fixed + observation.bytes / self.bandwidth + observation.flops / self.flops
    }

    /// The root mean square and the worst of the relative errors.
    pub fn errors(&self) -> (f64, f64) {
        let errors = self
            .observations
            .iter()
            .map(|o| self.predicted(o) / o.seconds - 1.0);
        let (mut squares, mut worst) = (0.0, 0.0_f64);
        for error in errors {
            squares += error * error;
            worst = worst.max(error.abs());
        }
        ((squares / self.observations.len() as f64).sqrt(), worst)
    }

    /// The fit, its errors, and a machine of this name for --spec.
    pub fn table(&self, name: &str) -> String {
        let head = ["observation", "measured ms", "fitted ms", "error"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for observation in &self.observations {
            let predicted = self.predicted(observation);
            rows.push(vec![
                observation.name.clone(),
                format!("{:.3}", observation.seconds * 1e3),
                format!("{:.3}", predicted * 1e3),
                format!("{:+.1} %", 100.0 * (predicted / observation.seconds - 1.0)),
            ]);
        }
        let (root, worst) = self.errors();
        format!(
            "{}\nroot mean square {:.1} %, worst {:.1} %\n\n{}",
            columns(&rows, 1),
            100.0 * root,
            100.0 * worst,
            self.spec(name)
        )
    }

    /// A machine of this name, as --spec reads it. A share of what its maker says; where none of the
    /// time was spent on it, a thousand times that.
    fn spec(&self, name: &str) -> String {
        const FREE: f64 = 1000.0;
        let hardware = &self.hardware;
        let bandwidth = (self.bandwidth / hardware.bandwidth).min(FREE);
        let share = (self.flops / hardware.peak(self.model.weights)).min(FREE);
        let rates = |bf16: f64, fp8: Option<f64>| match fp8 {
            Some(fp8) => format!("{{ bf16 = {bf16:e}, fp8 = {fp8:e} }}"),
            None => format!("{{ bf16 = {bf16:e} }}"),
        };
        let share = (share * 1e4).round() / 1e4;
        format!(
            "[hardware.{name}]\nmemory = {:e}\nmemory_share = {:?}\nreserve = {:e}\n\
             bandwidth = {:e}\nbandwidth_efficiency = {:.4}\nflops = {}\nflops_efficiency = {}\n\
             step_overhead_us = {:.1}\n",
            hardware.memory,
            hardware.memory_share,
            hardware.reserve,
            hardware.bandwidth,
            bandwidth,
            rates(hardware.flops.bf16, hardware.flops.fp8),
            rates(share, hardware.flops.fp8.map(|_| share)),
            self.fixed * 1e6
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Catalogue;

    /// A report that a machine would give whose steps cost exactly this: every worker decodes all
    /// the time but for its prompts.
    fn report(workers: u32, model: &Model, truth: [f64; 3]) -> Measured {
        let [fixed, bandwidth, flops] = truth;
        let (prompt, answer) = (256.0, 128.0);
        let time = |bytes: f64, ops: f64| fixed + bytes / bandwidth + ops / flops;
        let per_prompt =
            prompt * (2.0 * model.layer_parameters() + model.attention_flops() * prompt / 2.0);
        let context = prompt + answer / 2.0;
        let (mut step, mut seconds) = (1e-3, 1.0);
        // Steps with prompts in them are longer, and so there are more prompts in a step.
        for _ in 0..500 {
            let sequences =
                (f64::from(workers) * (answer - 1.0) * step / seconds).min(f64::from(workers));
            let prompts = f64::from(workers) * step / seconds;
            let per_token = 2.0 * (model.layer_parameters() + model.head_parameters());
            step = time(
                model.read_bytes() + sequences * context * model.kv_bytes(),
                sequences * (per_token + model.attention_flops() * context) + prompts * per_prompt,
            );
            let first = time(
                model.read_bytes() + prompt * model.kv_bytes(),
                per_prompt + 2.0 * model.head_parameters(),
            );
            seconds = (answer - 1.0) * step + first;
        }
        let first = seconds - (answer - 1.0) * step;
        let workers_u64 = u64::from(workers);
        Measured {
            seconds,
            setting: vec![("load".to_owned(), format!("closed loop, {workers} workers"))],
            requests: Requests {
                completed: workers_u64,
            },
            tokens: Tokens {
                prompt: 256 * workers_u64,
                cached: 0,
                output: 128 * workers_u64,
            },
            latencies: Latencies {
                ttft: Mean { mean: first * 1e3 },
                itl: Mean { mean: step * 1e3 },
            },
        }
    }

    #[test]
    fn a_machine_is_found_again_from_what_it_would_measure() {
        let catalogue = Catalogue::presets();
        let model = catalogue.model("smollm2-135m").unwrap();
        let hardware = catalogue.hardware("cpu").unwrap();
        let truth = [3e-4, 40e9, 0.5e12];
        let observations: Vec<Observation> = [1, 8, 64]
            .into_iter()
            .flat_map(|workers| {
                observe(Path::new("x.json"), &report(workers, model, truth), model).unwrap()
            })
            .collect();
        assert_eq!(observations.len(), 4);
        let found = fit(observations, model, hardware).unwrap();
        for (found, truth) in [found.fixed, found.bandwidth, found.flops]
            .into_iter()
            .zip(truth)
        {
            assert!((found / truth - 1.0).abs() < 0.01, "{found} {truth}");
        }
        assert!(found.errors().1 < 0.001);
        // What it prints is what --spec reads.
        let spec: Catalogue = toml::from_str(&found.spec("mine")).unwrap();
        let mine = spec.hardware("mine").unwrap();
        assert!((mine.bandwidth_efficiency - 40.0 / 60.0).abs() < 0.01);
        assert!((mine.step_overhead_us - 300.0).abs() < 3.0);
    }

    #[test]
    fn no_cost_is_below_zero() {
        let catalogue = Catalogue::presets();
        let model = catalogue.model("smollm2-135m").unwrap();
        let hardware = catalogue.hardware("cpu").unwrap();
        // Twice the work in less than twice the time, and time that falls with the bytes.
        let observation = |bytes: f64, flops: f64, seconds: f64| Observation {
            name: String::new(),
            bytes,
            flops,
            seconds,
        };
        let observations = vec![
            observation(1e9, 1e9, 0.010),
            observation(2e9, 2e9, 0.012),
            observation(3e9, 8e9, 0.011),
        ];
        let fit = fit(observations, model, hardware).unwrap();
        assert!(fit.fixed >= 0.0 && fit.bandwidth > 0.0 && fit.flops > 0.0);
        toml::from_str::<Catalogue>(&fit.spec("x")).unwrap();
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        let catalogue = Catalogue::presets();
        let model = catalogue.model("smollm2-135m").unwrap();
        let hardware = catalogue.hardware("cpu").unwrap();
        let mut open = report(4, model, [1e-3, 1e10, 1e12]);
        open.setting[0].1 = "open loop, 5 requests/s, Poisson arrivals".to_owned();
        assert!(observe(Path::new("x"), &open, model).is_err());
        let one = observe(Path::new("x"), &report(8, model, [1e-3, 1e10, 1e12]), model);
        assert!(matches!(
            fit(one.unwrap(), model, hardware),
            Err(CalibrationError::TooFew(1))
        ));
        assert!(fit_files(&["/none".into()], model, hardware).is_err());
    }
}
