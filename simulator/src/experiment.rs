//! Flags become a scenario.

use std::num::NonZeroU32;
use std::path::PathBuf;

use scheduler::limits::{Limits, Pool};

use crate::args::{Kind, LoadArgs, RateList, ReplicaArgs, SimulateArgs, SpacingArg};
use crate::cost::StepCost;
use crate::length::Length;
use crate::machine::{Catalogue, CatalogueError, Hardware, Model};
use crate::replica::Build;
use crate::router::Rules;
use crate::simulation::{Objective, Recorded, Scenario, Window, Workload};
use crate::trace;
use crate::units::{SECOND, shown};
use crate::workload::{Demand, Flow, Spacing};

/// How often a sequence is preempted while there is another: as in the server.
const PREEMPTIONS_MAX: u32 = 64;

/// Blocks of one pool: what the scheduler's numbers hold.
const BLOCKS_MAX: u64 = 1 << 31;

const DURATION: u64 = 60 * SECOND;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    /// A flag, or a file that it names.
    #[error("{0}")]
    Flags(String),
    /// A model or a machine.
    #[error("{0}")]
    Catalogue(#[from] CatalogueError),
    /// The report cannot be written.
    #[error("{path}: {cause}")]
    Write {
        /// Where to.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
}

impl SimulateError {
    /// The exit code of the process.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Write { .. } => 71,
            Self::Flags(_) | Self::Catalogue(_) => 78,
        }
    }
}

/// What a kind of workload says where flags do not.
struct Habits {
    prompt: &'static str,
    output: &'static str,
    turns: &'static str,
    think: u64,
    prefixes: u32,
    tenants: u32,
    arrivals: SpacingArg,
}

fn habits(kind: Kind) -> Habits {
    let sharegpt = Habits {
        prompt: "lognormal:120:1.1:4096",
        output: "lognormal:130:0.9:2048",
        turns: "1",
        think: 0,
        prefixes: 0,
        tenants: 1,
        arrivals: SpacingArg::Poisson,
    };
    match kind {
        Kind::Sharegpt => sharegpt,
        Kind::LongContext => Habits {
            prompt: "lognormal:12000:0.8:100000",
            output: "lognormal:300:0.7:4096",
            ..sharegpt
        },
        Kind::Agents => Habits {
            prompt: "lognormal:150:0.8:4000",
            output: "lognormal:120:0.8:2000",
            turns: "2..10",
            think: 3 * SECOND,
            prefixes: 16,
            ..sharegpt
        },
        Kind::Tenants => Habits {
            tenants: 8,
            arrivals: SpacingArg::Gamma,
            ..sharegpt
        },
    }
}

impl SimulateArgs {
    /// The run that they describe.
    pub fn scenario(&self) -> Result<Scenario, SimulateError> {
        let catalogue = Catalogue::with_file(self.replica.spec.as_deref())?;
        let model = catalogue.model(&self.replica.model)?;
        let hardware = self
            .replica
            .tuned(catalogue.hardware(&self.replica.hardware)?);
        let build = self.replica.build(model, &hardware)?;
        let fleet = &self.fleet;
        let rules = Rules {
            routing: fleet.routing,
            period: fleet.report_period,
            gateways: fleet.gateways,
            load_bound: fleet.load_bound,
            seed: self.load.seed,
        };
        let (workload, window, tenants) = self.load.workload()?;
        Ok(Scenario {
            build,
            replicas: fleet.replicas,
            rules,
            workload,
            window,
            objective: Objective {
                ttft: self.report.slo_ttft,
                itl: self.report.slo_itl,
            },
            tenants,
            setting: self.setting(&build, &hardware),
        })
    }

    /// What a report repeats.
    fn setting(&self, build: &Build, hardware: &Hardware) -> Vec<(String, String)> {
        let (replica, fleet, load) = (&self.replica, &self.fleet, &self.load);
        let limits = &build.limits;
        let blocks = build.pool.blocks - 1;
        let order = format!("{:?}", replica.order).to_lowercase();
        let mut setting = vec![
            (
                "replicas",
                format!(
                    "{} x {}, {}",
                    fleet.replicas, replica.hardware, replica.model
                ),
            ),
            (
                "cost",
                format!(
                    "{} us a step, {} of the bandwidth, {} of bf16 and {} of fp8 FLOP/s",
                    hardware.step_overhead_us,
                    hardware.bandwidth_efficiency,
                    hardware.flops_efficiency.bf16,
                    hardware.flops_efficiency.fp8.unwrap_or(0.0)
                ),
            ),
            (
                "scheduler",
                format!(
                    "{} tokens a step, {} sequences, {blocks} blocks of {}, depth {}, {order}",
                    limits.step_tokens_max,
                    limits.running_max,
                    build.pool.block_tokens,
                    limits.depth_max
                ),
            ),
            ("load", load.shown()),
            ("seed", load.seed.to_string()),
            (
                "objective",
                format!(
                    "first token {}, between tokens {}",
                    shown(self.report.slo_ttft),
                    shown(self.report.slo_itl)
                ),
            ),
        ];
        if fleet.replicas > 1 {
            let routing = format!("{:?}", fleet.routing);
            setting.push((
                "routing",
                format!(
                    "{routing}, reports every {}, {} gateways",
                    shown(fleet.report_period),
                    fleet.gateways
                ),
            ));
        }
        let owned = |(name, value): (&str, String)| (name.to_owned(), value);
        setting.into_iter().map(owned).collect()
    }
}

impl ReplicaArgs {
    /// The machine, with what flags say of it.
    fn tuned(&self, hardware: &Hardware) -> Hardware {
        let mut hardware = hardware.clone();
        if let Some(share) = self.bandwidth_efficiency {
            hardware.bandwidth_efficiency = share;
        }
        if let Some(share) = self.flops_efficiency {
            hardware.flops_efficiency.bf16 = share;
            hardware.flops_efficiency.fp8 = hardware.flops_efficiency.fp8.map(|_| share);
        }
        if let Some(overhead) = self.step_overhead {
            hardware.step_overhead_us = overhead as f64 / 1e3;
        }
        hardware
    }

    fn build(&self, model: &Model, hardware: &Hardware) -> Result<Build, SimulateError> {
        let tokens = self.kv_tokens.unwrap_or_else(|| hardware.kv_tokens(model));
        let blocks = tokens / u64::from(self.block_size);
        if !(1..BLOCKS_MAX).contains(&blocks) {
            return Err(SimulateError::Flags(format!(
                "{} leaves room for {tokens} tokens of KV cache on {}: {blocks} blocks",
                self.model, self.hardware
            )));
        }
        let Some(block_tokens) = NonZeroU32::new(self.block_size) else {
            unreachable!("a block size is 1 or more");
        };
        Ok(Build {
            limits: Limits {
                step_tokens_max: self.max_batch_prefill_tokens,
                running_max: self.max_batch_size,
                waiting_max: self.max_waiting_requests,
                sequence_tokens_max: self.max_total_tokens,
                preemptions_max: PREEMPTIONS_MAX,
                depth_max: self.depth,
            },
            pool: Pool {
                // And the null block.
                blocks: blocks as u32 + 1,
                block_tokens,
            },
            cost: StepCost::new(model, hardware),
            order: self.order,
        })
    }
}

impl LoadArgs {
    fn workload(&self) -> Result<(Workload, Window, Vec<String>), SimulateError> {
        let Some(path) = &self.trace else {
            let window = Window {
                from: self.warmup,
                until: self.warmup + self.duration.unwrap_or(DURATION),
            };
            if window.from >= window.until {
                return Err(SimulateError::Flags("--duration is 0".to_owned()));
            }
            let demand = self.demand(window.until)?;
            let names = (1..=demand.flow.tenants()).map(|number| format!("tenant {number}"));
            let names = names.collect();
            return Ok((Workload::Made(demand), window, names));
        };
        let mut recorded = trace::read(path).map_err(SimulateError::Flags)?;
        let last = recorded.offers.last().map_or(0, |offer| offer.at + 1);
        let until = match self.duration {
            Some(duration) => last.min(self.warmup + duration),
            None => last,
        };
        if self.warmup >= until {
            return Err(SimulateError::Flags(
                "the trace ends before --warmup does".to_owned(),
            ));
        }
        recorded.offers.retain(|offer| offer.at < until);
        let window = Window {
            from: self.warmup,
            until,
        };
        let names = recorded.tenants.clone();
        Ok((Workload::Trace(Recorded(recorded)), window, names))
    }

    fn demand(&self, until: u64) -> Result<Demand, SimulateError> {
        let habits = habits(self.workload);
        let read = |given: Option<Length>, habit: &str| match given {
            Some(length) => Ok(length),
            None => habit.parse().map_err(SimulateError::Flags),
        };
        Ok(Demand {
            seed: self.seed,
            flow: self.flow(&habits),
            until,
            prompt: read(self.prompt_tokens, habits.prompt)?,
            output: read(self.output_tokens, habits.output)?,
            groups: self.prefixes.unwrap_or(habits.prefixes),
            group_tokens: self.prefix_tokens,
            turns: read(self.turns, habits.turns)?,
            think: self.think_time.unwrap_or(habits.think),
            deadline: self.deadline,
        })
    }

    fn flow(&self, habits: &Habits) -> Flow {
        let tenants = self.tenants.unwrap_or(habits.tenants);
        if let Some(clients) = self.concurrency {
            return Flow::Closed { clients, tenants };
        }
        let rates = match &self.tenant_rates {
            Some(RateList(rates)) => rates.clone(),
            None => vec![self.rate / f64::from(tenants); tenants as usize],
        };
        let spacing = match self.arrivals.unwrap_or(habits.arrivals) {
            SpacingArg::Constant => Spacing::Constant,
            SpacingArg::Poisson => Spacing::Poisson,
            SpacingArg::Gamma => Spacing::Gamma(self.burstiness),
        };
        Flow::Open { spacing, rates }
    }

    fn shown(&self) -> String {
        if let Some(path) = &self.trace {
            return format!("{}", path.display());
        }
        let habits = habits(self.workload);
        let kind = format!("{:?}", self.workload).to_lowercase();
        let flow = match (self.concurrency, &self.tenant_rates) {
            (Some(clients), _) => format!("{clients} clients in a closed loop"),
            (None, Some(RateList(rates))) => {
                let rates: Vec<String> = rates.iter().map(f64::to_string).collect();
                format!("tenants with {} requests/s", rates.join(" and "))
            }
            (None, None) => format!("{} requests/s", self.rate),
        };
        let length = |given: Option<Length>, habit: &str| match given {
            Some(length) => length.to_string(),
            None => habit.to_owned(),
        };
        format!(
            "{kind}, {flow}; prompts {}, answers {}",
            length(self.prompt_tokens, habits.prompt),
            length(self.output_tokens, habits.output)
        )
    }
}
