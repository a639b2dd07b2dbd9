//! The flags of `paternoster simulate`.

use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use clap::{Args as _, FromArgMatches as _, ValueEnum};

use crate::experiment::SimulateError;
use crate::length::Length;
use crate::replica::Order;
use crate::report::Report;
use crate::router::Routing;
use crate::units::{parse_positive, parse_time};

/// What servers would do under a load: the scheduler on a virtual clock, with steps that take what a
/// model of their cost says. Without a flag: one H200 with Llama-3.1-8B in fp8, 10 ShareGPT-like
/// requests a second for a minute.
#[derive(Clone, Debug, clap::Args)]
pub struct SimulateArgs {
    /// One replica.
    #[command(flatten)]
    pub replica: ReplicaArgs,
    /// All of them.
    #[command(flatten)]
    pub fleet: FleetArgs,
    /// The load.
    #[command(flatten)]
    pub load: LoadArgs,
    /// What comes out.
    #[command(flatten)]
    pub report: ReportArgs,
}

/// One replica.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Replica")]
pub struct ReplicaArgs {
    /// The model: llama-3.1-8b, llama-3.1-8b-fp8, llama-3.3-70b-fp8, smollm2-135m or one of --spec.
    #[arg(long, value_name = "NAME", default_value = "llama-3.1-8b-fp8")]
    pub model: String,
    /// The machine: h200, h100, a100-80, cpu or one of --spec.
    #[arg(long, value_name = "NAME", default_value = "h200")]
    pub hardware: String,
    /// A file of further models and machines, in TOML.
    #[arg(long, value_name = "FILE")]
    pub spec: Option<PathBuf>,
    /// The share of the memory's bandwidth that is reached; default: the machine's.
    #[arg(long, value_name = "SHARE", value_parser = parse_positive)]
    pub bandwidth_efficiency: Option<f64>,
    /// The share of the peak FLOP/s that is reached; default: the machine's.
    #[arg(long, value_name = "SHARE", value_parser = parse_positive)]
    pub flops_efficiency: Option<f64>,
    /// What a step costs that computes nothing; default: the machine's.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub step_overhead: Option<u64>,
    /// Tokens computed in one step, all sequences together.
    #[arg(long, value_name = "TOKENS", default_value_t = 2048, value_parser = whole(1 << 20))]
    pub max_batch_prefill_tokens: u32,
    /// Sequences that run at once.
    #[arg(long, value_name = "SEQUENCES", default_value_t = 1024, value_parser = whole(1 << 16))]
    pub max_batch_size: u32,
    /// Sequences that wait; more are refused.
    #[arg(long, value_name = "SEQUENCES", default_value_t = 1 << 20, value_parser = whole(1 << 24))]
    pub max_waiting_requests: u32,
    /// Tokens of one sequence, prompt and output together.
    #[arg(long, value_name = "TOKENS", default_value_t = 131_072, value_parser = whole(1 << 24))]
    pub max_total_tokens: u32,
    /// Tokens of one block of the KV cache.
    #[arg(long, value_name = "TOKENS", default_value_t = 16, value_parser = whole(1 << 16))]
    pub block_size: u32,
    /// Tokens that the KV cache holds; default: what the weights leave of the memory.
    #[arg(long, value_name = "TOKENS")]
    #[arg(value_parser = RangedU64ValueParser::<u64>::new().range(1..=1 << 32))]
    pub kv_tokens: Option<u64>,
    /// Steps that are planned before the first of them has ended: 1 or 2.
    #[arg(long, value_name = "STEPS", default_value_t = 1, value_parser = whole(2))]
    pub depth: u32,
    /// Who is next.
    #[arg(long, value_enum, default_value = "fair")]
    pub order: Order,
}

/// All replicas.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Fleet")]
pub struct FleetArgs {
    /// How many there are.
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = whole(4096))]
    pub replicas: u32,
    /// Which of them gets a request.
    #[arg(long, value_enum, default_value = "least-requests")]
    pub routing: Routing,
    /// How often a replica tells the gateways its load; 0: they always know. In between they know
    /// what they sent themselves.
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = parse_time)]
    pub report_period: u64,
    /// Gateways that share the requests and know nothing of each other.
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = whole(1024))]
    pub gateways: u32,
    /// Affinity passes over replicas with more than this many times the mean load.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.25, value_parser = parse_bound)]
    pub load_bound: f64,
}

/// The load.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Load")]
pub struct LoadArgs {
    /// What requests are like, where the flags below do not say it.
    #[arg(long, value_enum, default_value = "sharegpt")]
    pub workload: Kind,
    /// Requests from a file in place of made-up ones: a JSON object a line.
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Requests a second, of all tenants together.
    #[arg(short, long, default_value_t = 10.0, value_parser = parse_positive)]
    pub rate: f64,
    /// Clients of a closed loop, each asking again when it was answered, in place of --rate.
    #[arg(short, long, value_name = "CLIENTS", value_parser = whole(1 << 20))]
    pub concurrency: Option<u32>,
    /// How arrivals are spaced; default: poisson, of --workload tenants gamma.
    #[arg(long, value_enum)]
    pub arrivals: Option<SpacingArg>,
    /// The shape of gamma arrivals: 1 is poisson, smaller is burstier (the variance of the distances
    /// is 1 / shape).
    #[arg(long, value_name = "SHAPE", default_value_t = 0.1, value_parser = parse_positive)]
    pub burstiness: f64,
    /// Tenants that share --rate or --concurrency evenly; default: 1, of --workload tenants 8.
    #[arg(long, value_name = "COUNT", value_parser = whole(1024))]
    pub tenants: Option<u32>,
    /// Requests a second of each tenant, as 2:20, in place of --rate.
    #[arg(long, value_name = "RATES", value_parser = parse_rates)]
    pub tenant_rates: Option<RateList>,
    /// The length of prompts, in a conversation of what each turn adds: 128, 16..512 or
    /// lognormal:MEDIAN:DEVIATION:MOST, the last part of which may be left out.
    #[arg(long, value_name = "LENGTHS")]
    pub prompt_tokens: Option<Length>,
    /// The length of answers, as above.
    #[arg(long, value_name = "LENGTHS")]
    pub output_tokens: Option<Length>,
    /// Shared beginnings; each conversation has one of them.
    #[arg(long, value_name = "COUNT")]
    #[arg(value_parser = clap::value_parser!(u32).range(..=1 << 20))]
    pub prefixes: Option<u32>,
    /// The length of each shared beginning.
    #[arg(long, value_name = "TOKENS", default_value_t = 2000, value_parser = whole(1 << 18))]
    pub prefix_tokens: u32,
    /// The turns of a conversation, as lengths.
    #[arg(long, value_name = "LENGTHS")]
    pub turns: Option<Length>,
    /// The mean time between an answer and the next turn.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub think_time: Option<u64>,
    /// How long after its arrival a request must have ended.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub deadline: Option<u64>,
    /// The time before anything counts.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_time)]
    pub warmup: u64,
    /// The time in which requests arrive that count; then no more come, and these are served to
    /// their end. Default: 1m; of a trace, all of it.
    #[arg(short, long, value_name = "TIME", value_parser = parse_time)]
    pub duration: Option<u64>,
    /// Where all draws come from: the same seed asks the same.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// What comes out.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Report")]
pub struct ReportArgs {
    /// The longest time to the first token of a good request.
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = parse_time)]
    pub slo_ttft: u64,
    /// The longest mean time between the tokens of a good request.
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = parse_time)]
    pub slo_itl: u64,
    /// Run once for each value of a flag, as rate=10,20,40; given twice, for each pair. The first is
    /// drawn from left to right, the second as lines.
    #[arg(long, value_name = "FLAG=VALUES", value_parser = parse_vary)]
    pub vary: Vec<Vary>,
    /// What of several runs is shown and drawn.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "METRICS")]
    #[arg(default_values = ["output-tokens", "good-share", "ttft-p50", "ttft-p99", "itl-p99"])]
    pub metric: Vec<Metric>,
    /// Write the report as JSON; - for standard output, in place of the table.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Draw the report into an SVG file.
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
    /// Compare with published results of another engine, in place of a run.
    #[arg(long)]
    pub published: bool,
    /// Fit --hardware to JSON reports of `paternoster bench` with --model, in place of a run; three
    /// or more with different numbers of workers.
    #[arg(long, value_name = "FILES", num_args = 1..)]
    pub calibrate: Vec<PathBuf>,
    /// Say nothing while it runs.
    #[arg(short, long)]
    pub quiet: bool,
}

/// What requests are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Chats of one turn: about 210 tokens of prompt and 190 of answer.
    Sharegpt,
    /// Documents: about 15,000 tokens of prompt and 380 of answer.
    LongContext,
    /// Conversations of 2 to 10 turns with thought between them, on 16 shared beginnings.
    Agents,
    /// Eight tenants whose chats come in bursts.
    Tenants,
}

/// How arrivals are spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SpacingArg {
    /// Evenly.
    Constant,
    /// Independently of each other.
    Poisson,
    /// In bunches, by --burstiness.
    Gamma,
}

/// Requests a second of each tenant.
#[derive(Clone, Debug, PartialEq)]
pub struct RateList(pub Vec<f64>);

/// Values that a flag takes in turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vary {
    /// The flag, without dashes.
    pub flag: String,
    /// What it is set to.
    pub values: Vec<String>,
}

/// A figure of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Metric {
    /// Output tokens a second.
    OutputTokens,
    /// Good requests a second.
    Goodput,
    /// The share of requests that were good.
    GoodShare,
    /// From arrival to first token, milliseconds.
    TtftP50,
    /// The same, 99th percentile.
    TtftP99,
    /// Between tokens, milliseconds.
    ItlP50,
    /// The same, 99th percentile.
    ItlP99,
    /// From arrival to end, milliseconds.
    E2eP99,
    /// The first tenant's time to first token.
    FirstTenantTtftP50,
    /// The same, 99th percentile.
    FirstTenantTtftP99,
    /// Jain's index between tenants.
    Fairness,
    /// The share of prompt tokens found in the prefix cache.
    HitRate,
    /// Sequences that gave up their blocks.
    Preemptions,
    /// The mean share of the KV cache that was held.
    KvUse,
    /// The share of time that replicas were computing.
    Busy,
    /// The share of requests that were refused.
    RejectShare,
}

impl Metric {
    /// Its value in a report.
    pub fn of(self, report: &Report) -> f64 {
        let times = &report.latencies;
        let first = report.tenants.first().map(|tenant| tenant.ttft);
        match self {
            Self::OutputTokens => report.rates.output_tokens,
            Self::Goodput => report.rates.goodput,
            Self::GoodShare => report.good_share(),
            Self::TtftP50 => times.ttft.p50,
            Self::TtftP99 => times.ttft.p99,
            Self::ItlP50 => times.itl.p50,
            Self::ItlP99 => times.itl.p99,
            Self::E2eP99 => times.e2e.p99,
            Self::FirstTenantTtftP50 => first.map_or(0.0, |ttft| ttft.p50),
            Self::FirstTenantTtftP99 => first.map_or(0.0, |ttft| ttft.p99),
            Self::Fairness => report.fairness,
            Self::HitRate => report.kv.hit_rate,
            Self::Preemptions => report.kv.preemptions as f64,
            Self::KvUse => report.kv.use_mean,
            Self::Busy => report.steps.busy,
            Self::RejectShare => {
                report.requests.rejected as f64 / report.requests.begun.max(1) as f64
            }
        }
    }

    /// What a plot calls it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::OutputTokens => "output tokens/s",
            Self::Goodput => "good requests/s",
            Self::GoodShare => "share of good requests",
            Self::TtftP50 => "first token, p50, ms",
            Self::TtftP99 => "first token, p99, ms",
            Self::ItlP50 => "between tokens, p50, ms",
            Self::ItlP99 => "between tokens, p99, ms",
            Self::E2eP99 => "whole request, p99, ms",
            Self::FirstTenantTtftP50 => "first tenant's first token, p50, ms",
            Self::FirstTenantTtftP99 => "first tenant's first token, p99, ms",
            Self::Fairness => "fairness (Jain)",
            Self::HitRate => "share of prompts found in cache",
            Self::Preemptions => "preemptions",
            Self::KvUse => "KV cache held",
            Self::Busy => "share of time computing",
            Self::RejectShare => "share of requests refused",
        }
    }
}

/// The flags alone, to read further ones into them.
#[derive(Debug, clap::Parser)]
struct Line {
    #[command(flatten)]
    args: SimulateArgs,
}

impl SimulateArgs {
    /// These flags with some of them replaced.
    pub(crate) fn with(&self, flags: &[(&str, &str)]) -> Result<Self, SimulateError> {
        // Without defaults, so that what is not named stays as it is.
        let command = Self::augment_args_for_update(clap::Command::new("simulate"))
            .disable_help_flag(true)
            .mut_args(|arg| arg.default_value(None::<&str>));
        let words = flags
            .iter()
            .map(|(flag, value)| format!("--{flag}={value}"));
        let words: Vec<String> = std::iter::once("simulate".to_owned())
            .chain(words)
            .collect();
        let wrong = |error: clap::Error| {
            let error = error.to_string();
            let line = error.lines().next().unwrap_or_default();
            let told = line.strip_prefix("error: ").unwrap_or(line);
            SimulateError::Flags(format!("--vary: {told}"))
        };
        let mut matches = command.try_get_matches_from(words).map_err(wrong)?;
        let mut line = Line { args: self.clone() };
        line.update_from_arg_matches_mut(&mut matches)
            .map_err(wrong)?;
        // A switch that is not named is off.
        line.args.report.quiet = self.report.quiet;
        Ok(line.args)
    }
}

fn whole(most: u64) -> RangedU64ValueParser<u32> {
    RangedU64ValueParser::new().range(1..=most)
}

fn parse_bound(text: &str) -> Result<f64, String> {
    match parse_positive(text)? {
        bound if bound >= 1.0 => Ok(bound),
        _ => Err("somebody has at least the mean load: use 1 or more".to_owned()),
    }
}

fn parse_rates(text: &str) -> Result<RateList, String> {
    let rate = |part: &str| match part.parse::<f64>() {
        Ok(rate) if rate >= 0.0 && rate.is_finite() => Ok(rate),
        _ => Err(format!("{part:?} is not a rate")),
    };
    let rates: Vec<f64> = text.split(':').map(rate).collect::<Result<_, _>>()?;
    if rates.len() > crate::trace::TENANTS_MAX {
        return Err(format!("more than {} tenants", crate::trace::TENANTS_MAX));
    }
    Ok(RateList(rates))
}

fn parse_vary(text: &str) -> Result<Vary, String> {
    let (flag, values) = text.split_once('=').ok_or("use FLAG=VALUE,VALUE")?;
    let values: Vec<String> = values.split(',').map(str::to_owned).collect();
    Ok(Vary {
        flag: flag.trim_start_matches('-').to_owned(),
        values,
    })
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::*;

    fn args(flags: &[&str]) -> Result<SimulateArgs, clap::Error> {
        Line::try_parse_from(["simulate"].iter().chain(flags)).map(|line| line.args)
    }

    #[test]
    fn the_help_names_every_flag() {
        let mut command = Line::command().term_width(100);
        command.debug_assert_all();
        insta::assert_snapshot!("simulate_help", command.render_long_help());
    }

    trait DebugAssert {
        fn debug_assert_all(&self);
    }

    impl DebugAssert for clap::Command {
        fn debug_assert_all(&self) {
            self.clone().debug_assert();
        }
    }

    #[test]
    fn every_flag_is_explained_in_the_documentation() {
        let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/simulator.md");
        let page = std::fs::read_to_string(page).unwrap();
        for argument in Line::command().get_arguments() {
            let flag = argument.get_long().unwrap();
            let named = flag == "help" || page.contains(&format!("`--{flag}`"));
            assert!(named, "--{flag} is not explained");
        }
    }

    #[test]
    fn a_varied_flag_replaces_itself_alone() {
        let base = args(&["--rate", "30", "--block-size", "32", "--quiet", "--seed=9"]).unwrap();
        let varied = base.with(&[("rate", "40"), ("order", "fcfs")]).unwrap();
        assert!((varied.load.rate - 40.0).abs() < 1e-9);
        assert_eq!(varied.replica.order, Order::Fcfs);
        assert_eq!((varied.replica.block_size, varied.load.seed), (32, 9));
        assert!(varied.report.quiet);
        for (flag, value) in [("rate", "0"), ("rates", "1"), ("help", "1")] {
            let error = base.with(&[(flag, value)]).unwrap_err().to_string();
            assert!(error.starts_with("--vary: "), "{error}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for flags in [
            &["--rate", "0"][..],
            &["--replicas", "0"],
            &["--depth", "3"],
            &["--load-bound", "0.5"],
            &["--tenant-rates", "1:x"],
            &["--vary", "rate"],
            &["--prompt-tokens", "9..3"],
            &["--metric", "joy"],
        ] {
            assert!(args(flags).is_err(), "{flags:?}");
        }
    }
}
