//! The flags of `paternoster bench`, and the run they describe.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use hyper::HeaderMap;
use paternoster_client::Tls;
use rand_distr::Gamma;
use tonic::metadata::MetadataMap;

use crate::arrivals::Spacing;
use crate::grpc::{Grpc, Header, parse_header};
use crate::length::Length;
use crate::mix::Mix;
use crate::plan::{End, Plan};
use crate::prompts::{Made, Matter, Prompts, read};
use crate::run::{Lane, Scenario};
use crate::schedule::Schedule;
use crate::tally::Objective;
use crate::target::Failure;
use crate::units::{parse_positive, parse_share, parse_time};

/// How to put a server under load. Without a flag: 16 workers, each sending its next request when
/// its last one was answered, for 10 seconds.
#[derive(Clone, Debug, clap::Args)]
pub struct BenchArgs {
    /// The server's address; default: --port of this machine.
    #[arg(long, value_name = "HOST:PORT", help_heading = "Target")]
    pub addr: Option<String>,
    /// The port of a server on this machine.
    #[arg(short, long, default_value_t = 50_051)]
    #[arg(help_heading = "Target")]
    pub port: u16,
    /// The model to ask; default: the server's first.
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        help_heading = "Target"
    )]
    pub model: String,
    /// What the server speaks: our gRPC, or the OpenAI HTTP API of other servers (each request then
    /// has a connection of its own).
    #[arg(long, value_enum, default_value = "grpc", help_heading = "Target")]
    pub api: Api,
    /// Connections; workers and arrivals take them in turn.
    #[arg(long, default_value_t = 1, help_heading = "Target")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub connections: u16,
    /// Certificates that the server's has to lead to, PEM; with it TLS is spoken.
    #[arg(long, value_name = "FILE", help_heading = "Target")]
    pub tls_ca: Option<PathBuf>,
    /// The name the server's certificate has to have; default: the host of the address.
    #[arg(
        long,
        value_name = "NAME",
        requires = "tls_ca",
        help_heading = "Target"
    )]
    pub tls_server_name: Option<String>,
    /// The certificate to show to a server that wants one, PEM.
    #[arg(
        long,
        value_name = "FILE",
        requires = "tls_ca",
        requires = "tls_client_key"
    )]
    #[arg(help_heading = "Target")]
    pub tls_client_cert: Option<PathBuf>,
    /// The private key of --tls-client-cert, PEM.
    #[arg(
        long,
        value_name = "FILE",
        requires = "tls_client_cert",
        help_heading = "Target"
    )]
    pub tls_client_key: Option<PathBuf>,
    /// The key to send with every call, as "authorization: Bearer KEY".
    #[arg(long, value_name = "KEY", env = "API_KEY", hide_env_values = true)]
    #[arg(value_parser = parse_key, help_heading = "Target")]
    pub api_key: Option<Key>,
    /// Sent with every call, as "x-tenant-id: a"; may be given several times.
    #[arg(long, value_name = "NAME: VALUE", value_parser = parse_header, help_heading = "Target")]
    pub header: Vec<Header>,

    /// Workers of a closed loop; default: 16.
    #[arg(short, long, value_name = "WORKERS", help_heading = "Load")]
    #[arg(conflicts_with_all = ["rate", "schedule"])]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub concurrency: Option<u32>,
    /// Requests a second of an open loop: they arrive whatever became of those before.
    #[arg(short, long, value_parser = parse_positive, help_heading = "Load")]
    pub rate: Option<f64>,
    /// Rates of an open loop over time: steps as RATE:TIME, ramps as FROM..TO:TIME, with commas
    /// between them ("10:30s,50:30s,50..0:1m").
    #[arg(
        long,
        value_name = "STEPS",
        conflicts_with = "rate",
        help_heading = "Load"
    )]
    pub schedule: Option<Schedule>,
    /// How the arrivals of an open loop are spaced.
    #[arg(long, value_enum, default_value = "poisson", help_heading = "Load")]
    pub arrivals: SpacingArg,
    /// The shape of gamma arrivals: 1 is poisson, smaller is burstier (the variance of the distances
    /// is 1 / shape).
    #[arg(long, value_name = "SHAPE", default_value_t = 0.25, value_parser = parse_positive)]
    #[arg(help_heading = "Load")]
    pub burstiness: f64,
    /// All arrivals of --rate in the first time, none in the second, again and again: "1s:4s".
    #[arg(long, value_name = "ON:OFF", value_parser = parse_on_off, requires = "rate")]
    #[arg(help_heading = "Load")]
    pub on_off: Option<(Duration, Duration)>,
    /// Requests of an open loop that are in flight at once; later ones wait here, and their wait
    /// counts.
    #[arg(
        long,
        value_name = "REQUESTS",
        default_value_t = 4096,
        help_heading = "Load"
    )]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub in_flight_max: u32,
    /// Requests to measure; default: any number in --duration.
    #[arg(short = 'n', long, help_heading = "Load")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub requests: Option<u64>,
    /// The time requests are sent in, after the warm-up; default: 10s, or until --requests or
    /// --schedule is done.
    #[arg(short, long, value_name = "TIME", value_parser = parse_time, help_heading = "Load")]
    pub duration: Option<Duration>,
    /// The time before anything counts.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_time)]
    #[arg(help_heading = "Load")]
    pub warmup: Duration,
    /// The longest one request may take.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_time)]
    #[arg(help_heading = "Load")]
    pub timeout: Duration,
    /// What requests in flight have after --duration; those that need longer are unfinished.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_time)]
    #[arg(help_heading = "Load")]
    pub grace: Duration,
    /// Where all draws come from: the same seed asks the same requests at the same times.
    #[arg(long, default_value_t = 1, help_heading = "Load")]
    pub seed: u64,

    /// The text of every prompt.
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["prompts", "prompt_tokens"])]
    #[arg(help_heading = "Requests")]
    pub prompt: Option<String>,
    /// A file of prompts, one a line, taken in turn: text, or JSON with "prompt" and "max_tokens".
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "prompt_tokens",
        help_heading = "Requests"
    )]
    pub prompts: Option<PathBuf>,
    /// The length of made-up prompts: 128, 16..512, lognormal:MEDIAN:DEVIATION (of the logarithm)
    /// or file:PATH with a length on each line.
    #[arg(
        long,
        value_name = "LENGTHS",
        default_value = "64",
        help_heading = "Requests"
    )]
    pub prompt_tokens: Length,
    /// What made-up prompts are made of: words (about one token each) or ids (exactly one).
    #[arg(long, value_enum, default_value = "words", help_heading = "Requests")]
    pub input: InputArg,
    /// Shared beginnings of made-up prompts; each prompt has one of them.
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 0,
        help_heading = "Requests"
    )]
    #[arg(value_parser = clap::value_parser!(u32).range(..=4096))]
    pub prefixes: u32,
    /// The length of each shared beginning.
    #[arg(
        long,
        value_name = "TOKENS",
        default_value_t = 256,
        help_heading = "Requests"
    )]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub prefix_tokens: u32,
    /// Tokens to ask for, lengths as those of --prompt-tokens.
    #[arg(
        long,
        value_name = "LENGTHS",
        default_value = "64",
        help_heading = "Requests"
    )]
    pub max_tokens: Length,
    /// Generate all of --max-tokens, past the model's own end.
    #[arg(long, help_heading = "Requests")]
    pub ignore_eos: bool,
    /// The share of requests that embed: 0 to 1, or 5%.
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = parse_share)]
    #[arg(help_heading = "Requests")]
    pub embed: f64,
    /// Texts of one embedding request.
    #[arg(
        long,
        value_name = "TEXTS",
        default_value_t = 1,
        help_heading = "Requests"
    )]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub embed_inputs: u32,
    /// The share of generations that are left early.
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = parse_share)]
    #[arg(help_heading = "Requests")]
    pub cancel: f64,
    /// Tokens after which they are left; 0 leaves once the stream is open.
    #[arg(
        long,
        value_name = "TOKENS",
        default_value_t = 1,
        help_heading = "Requests"
    )]
    pub cancel_after: u32,
    /// The share of generations that have a deadline.
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = parse_share)]
    #[arg(help_heading = "Requests")]
    pub deadlines: f64,
    /// Their deadline.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_time)]
    #[arg(help_heading = "Requests")]
    pub deadline: Duration,

    /// The longest time to the first token of a good request.
    #[arg(long, value_name = "TIME", value_parser = parse_time, help_heading = "Report")]
    pub slo_ttft: Option<Duration>,
    /// The longest mean time between the tokens of a good request.
    #[arg(long, value_name = "TIME", value_parser = parse_time, help_heading = "Report")]
    pub slo_itl: Option<Duration>,
    /// Write the report as JSON; - for standard output, in place of the table.
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub json: Option<PathBuf>,
    /// Write the report as one HTML page with plots.
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub html: Option<PathBuf>,
    /// Say nothing while it runs.
    #[arg(short, long, help_heading = "Report")]
    pub quiet: bool,
}

/// What a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Api {
    /// `paternoster.v1`.
    Grpc,
    /// `/v1/completions` with server-sent events, and `/v1/embeddings`.
    Openai,
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

/// What made-up prompts are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InputArg {
    /// English words.
    Words,
    /// Token ids.
    Ids,
}

/// Ids below this are taken for prompts where the server does not tell its vocabulary: all known
/// models have more.
const VOCABULARY: u32 = 1000;

/// What a run takes if neither --duration nor --requests is given.
const DURATION: Duration = Duration::from_secs(10);
const WORKERS: u32 = 16;

impl BenchArgs {
    /// Where the server is.
    pub fn address(&self) -> String {
        match &self.addr {
            Some(addr) if addr.contains("://") => addr.clone(),
            Some(addr) => format!("{}://{addr}", self.scheme()),
            None => format!("{}://127.0.0.1:{}", self.scheme(), self.port),
        }
    }

    fn scheme(&self) -> &'static str {
        if self.tls_ca.is_some() {
            "https"
        } else {
            "http"
        }
    }

    /// How to talk TLS, if it is talked.
    pub(crate) fn tls(&self) -> Result<Option<Tls>, String> {
        let Some(roots) = &self.tls_ca else {
            if self.address().starts_with("https://") {
                return Err("--tls-ca has to say whom to believe".to_owned());
            }
            return Ok(None);
        };
        let mut tls = Tls::new(pem(roots)?);
        if let Some(name) = &self.tls_server_name {
            tls = tls.with_server_name(name);
        }
        if let (Some(certificate), Some(key)) = (&self.tls_client_cert, &self.tls_client_key) {
            tls = tls.with_identity(pem(certificate)?, pem(key)?);
        }
        Ok(Some(tls))
    }

    /// What is sent with every call.
    pub(crate) fn headers(&self) -> Vec<Header> {
        let key = self.api_key.clone().map(|Key(header)| header);
        key.into_iter().chain(self.header.iter().cloned()).collect()
    }

    /// Whether prompts are made of the model's token ids.
    fn needs_vocabulary(&self) -> bool {
        self.input == InputArg::Ids && self.prompt.is_none() && self.prompts.is_none()
    }

    /// Ids of made-up prompts are below this.
    pub(crate) async fn vocabulary(&self, target: &Grpc) -> Result<u32, Failure> {
        if self.needs_vocabulary() {
            target.vocabulary().await
        } else {
            Ok(VOCABULARY)
        }
    }

    /// The headers, for HTTP.
    pub(crate) fn http_headers(&self) -> HeaderMap {
        let metadata: MetadataMap =
            self.headers()
                .into_iter()
                .fold(MetadataMap::new(), |mut map, (name, value)| {
                    map.insert(name, value);
                    map
                });
        metadata.into_headers()
    }

    /// What a good request keeps.
    pub fn objective(&self) -> Objective {
        Objective {
            ttft: self.slo_ttft,
            itl: self.slo_itl,
        }
    }

    /// The run of a server whose vocabulary is not known.
    pub(crate) fn scenario_unknown(&self) -> Result<Scenario, String> {
        self.scenario(VOCABULARY)
    }

    /// The run. `vocabulary` is of the model that is asked.
    pub fn scenario(&self, vocabulary: u32) -> Result<Scenario, String> {
        Ok(Scenario {
            plan: Plan {
                seed: self.seed,
                prompts: self.said(vocabulary)?,
                output: self.max_tokens.clone(),
                end: if self.ignore_eos {
                    End::Length
                } else {
                    End::Model
                },
                mix: Mix {
                    embed: self.embed,
                    cancel: self.cancel,
                    cancel_after: self.cancel_after,
                    deadline_share: self.deadlines,
                    deadline: self.deadline,
                },
                embed_inputs: self.embed_inputs,
            },
            lane: self.lane()?,
            warmup: self.warmup,
            duration: self.sends_for(),
            requests: self.requests,
            timeout: self.timeout,
            grace: self.grace,
        })
    }

    fn said(&self, vocabulary: u32) -> Result<Prompts, String> {
        if let Some(text) = &self.prompt {
            return Ok(Prompts::Same(text.clone()));
        }
        if let Some(path) = &self.prompts {
            return read(path).map(Prompts::Listed);
        }
        let of = match self.input {
            InputArg::Words => Matter::Words,
            InputArg::Ids => Matter::Ids(vocabulary),
        };
        let made = Made::new(
            self.prompt_tokens.clone(),
            of,
            self.prefixes,
            self.prefix_tokens,
            self.seed,
        );
        Ok(Prompts::Made(made))
    }

    fn lane(&self) -> Result<Lane, String> {
        let schedule = match (self.rate, &self.schedule, self.on_off) {
            (Some(rate), _, Some((on, off))) => Schedule::on_off(rate, on, off),
            (Some(rate), ..) => Schedule::constant(rate),
            (None, Some(schedule), _) => schedule.clone(),
            (None, None, _) => {
                return Ok(Lane::Closed {
                    workers: self.concurrency.unwrap_or(WORKERS) as usize,
                });
            }
        };
        let spacing = match self.arrivals {
            SpacingArg::Constant => Spacing::Constant,
            SpacingArg::Poisson => Spacing::Poisson,
            SpacingArg::Gamma => Gamma::new(self.burstiness, 1.0 / self.burstiness)
                .map(Spacing::Gamma)
                .map_err(|error| format!("--burstiness: {error}"))?,
        };
        Ok(Lane::Open {
            spacing,
            schedule,
            in_flight_max: self.in_flight_max as usize,
        })
    }

    /// How long requests are sent; `None` until there are enough.
    fn sends_for(&self) -> Option<Duration> {
        let of_schedule = self.schedule.as_ref().and_then(Schedule::lasts);
        let of_schedule = of_schedule.map(|lasts| lasts.saturating_sub(self.warmup));
        match (self.duration, self.requests) {
            (Some(duration), _) => Some(duration),
            (None, Some(_)) => of_schedule,
            (None, None) => Some(of_schedule.unwrap_or(DURATION)),
        }
    }

    /// What a report says of the load, without headers: they may hold keys.
    pub(crate) fn setting(&self) -> Vec<(String, String)> {
        let load = match (self.rate, &self.schedule) {
            (Some(rate), _) => {
                let bursts = match self.on_off {
                    Some((on, off)) => format!(", {on:?} on and {off:?} off"),
                    None => String::new(),
                };
                format!("open loop, {rate} requests/s, {}{bursts}", self.spaced())
            }
            (None, Some(_)) => format!("open loop, a schedule, {}", self.spaced()),
            (None, None) => format!(
                "closed loop, {} workers",
                self.concurrency.unwrap_or(WORKERS)
            ),
        };
        let mut setting = vec![
            ("target", self.address()),
            ("connections", self.connections.to_string()),
            ("load", load),
            ("seed", self.seed.to_string()),
        ];
        if !self.model.is_empty() {
            setting.push(("model", self.model.clone()));
        }
        if !self.warmup.is_zero() {
            setting.push(("warm-up", format!("{:?}", self.warmup)));
        }
        if self.objective().is_set() {
            let shown = |bound: Option<Duration>| match bound {
                Some(bound) => format!("{bound:?}"),
                None => "any".to_owned(),
            };
            let (ttft, itl) = (shown(self.slo_ttft), shown(self.slo_itl));
            setting.push((
                "objective",
                format!("first token {ttft}, between tokens {itl}"),
            ));
        }
        let owned = |(name, value): (&str, String)| (name.to_owned(), value);
        setting.into_iter().map(owned).collect()
    }

    fn spaced(&self) -> String {
        match self.arrivals {
            SpacingArg::Constant => "evenly spaced".to_owned(),
            SpacingArg::Poisson => "Poisson arrivals".to_owned(),
            SpacingArg::Gamma => format!("gamma arrivals of shape {}", self.burstiness),
        }
    }
}

/// The header that an API key is sent in.
#[derive(Clone)]
pub struct Key(Header);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

fn parse_key(text: &str) -> Result<Key, String> {
    parse_header(&format!("authorization: Bearer {text}")).map(Key)
}

fn pem(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn parse_on_off(text: &str) -> Result<(Duration, Duration), String> {
    let (on, off) = text.split_once(':').ok_or("use ON:OFF, as 1s:4s")?;
    let (on, off) = (parse_time(on)?, parse_time(off)?);
    if on.is_zero() {
        return Err("the first time is 0".to_owned());
    }
    Ok((on, off))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn args(flags: &[&str]) -> Result<BenchArgs, clap::Error> {
        Cli::try_parse_from(["bench"].iter().chain(flags)).map(|cli| cli.bench)
    }

    #[test]
    fn flags_describe_a_closed_or_an_open_loop() {
        let scenario = |flags: &[&str]| args(flags).unwrap().scenario(100).unwrap();
        let plain = scenario(&[]);
        assert!(matches!(plain.lane, Lane::Closed { workers: 16 }));
        assert_eq!((plain.duration, plain.requests), (Some(DURATION), None));
        let counted = scenario(&["-c", "3", "-n", "50"]);
        assert!(matches!(counted.lane, Lane::Closed { workers: 3 }));
        assert_eq!((counted.duration, counted.requests), (None, Some(50)));
        let open = scenario(&["--rate", "5", "--arrivals", "gamma", "--on-off", "1s:4s"]);
        let Lane::Open { schedule, .. } = open.lane else {
            panic!("closed")
        };
        assert_eq!(schedule.time_of(25.0), Some(Duration::from_secs(5)));
        let steps = scenario(&["--schedule", "5:2s,9:3s", "--warmup", "1s"]);
        assert_eq!(steps.duration, Some(Duration::from_secs(4)));
    }

    #[test]
    fn contradictions_are_refused() {
        for flags in [
            &["--rate", "5", "--concurrency", "3"][..],
            &["--rate", "5", "--schedule", "5:2s"],
            &["--on-off", "1s:1s"],
            &["--prompt", "x", "--prompt-tokens", "5"],
            &["--embed", "2"],
            &["--requests", "0"],
            &["--rate", "0"],
            &["--tls-server-name", "lift.example"],
            &["--tls-ca", "ca.pem", "--tls-client-cert", "a.pem"],
            &["--tls-ca", "ca.pem", "--tls-client-key", "a.key"],
        ] {
            assert!(args(flags).is_err(), "{flags:?}");
        }
    }

    #[test]
    fn a_report_does_not_tell_keys() {
        let flags = [
            "--header",
            "x-key: secret",
            "--api-key",
            "secret",
            "--rate",
            "5",
        ];
        let args = args(&flags).unwrap();
        assert_eq!(args.headers().len(), 2);
        let setting = format!("{:?}", (args.setting(), &args.api_key));
        assert!(!setting.contains("secret"), "{setting}");
        assert!(setting.contains("Poisson arrivals"), "{setting}");
    }

    #[test]
    fn the_help_names_every_flag() {
        let mut command = Cli::command().term_width(100);
        insta::assert_snapshot!("bench_help", command.render_long_help());
    }

    #[test]
    fn every_flag_is_explained_in_the_documentation() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/benchmarking.md");
        let page = std::fs::read_to_string(page).unwrap();
        let command = Cli::command();
        for argument in command.get_arguments() {
            let flag = argument.get_long().unwrap();
            let named = flag == "help" || page.contains(&format!("`--{flag}`"));
            assert!(named, "--{flag} is not explained");
        }
    }
}
