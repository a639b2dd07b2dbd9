//! The command line as typed; `config` resolves it.

use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

/// What the user typed.
#[derive(Debug, Parser)]
#[command(name = "paternoster", version, max_term_width = 100)]
#[command(about = "Serves language models and embedding models over gRPC.")]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve models; without --model-id the built-in demo models.
    Serve(Box<ServeArgs>),
    /// Ask a running server for its health: exits with 0 if it is SERVING, 1 if there is no such
    /// address, 2 if it cannot be reached, 3 if it does not answer, 4 if it is not SERVING.
    Health(HealthArgs),
}

/// How to serve. Every flag is also an environment variable of the same name in capitals.
#[derive(Clone, Debug, clap::Args)]
pub struct ServeArgs {
    /// A folder with a model's files, or NAME=FOLDER to call it NAME; may be given several times.
    /// The built-in demo models if it is not given at all.
    #[arg(
        long,
        env,
        hide_env_values = true,
        value_delimiter = ',',
        value_name = "[NAME=]FOLDER"
    )]
    #[arg(help_heading = "Models")]
    pub model_id: Vec<String>,
    /// The name requests call the model by, one for each --model-id in order; default: the name of
    /// the folder.
    #[arg(
        long,
        env,
        hide_env_values = true,
        value_delimiter = ',',
        value_name = "NAME"
    )]
    #[arg(help_heading = "Models")]
    pub served_model_name: Vec<String>,
    /// What to compute in; default: the type the weights are stored in.
    #[arg(long, env, hide_env_values = true, help_heading = "Models")]
    pub dtype: Option<Dtype>,
    /// Where weights come from; dummy makes random ones and needs config.json only.
    #[arg(
        long,
        env,
        hide_env_values = true,
        default_value = "safetensors",
        help_heading = "Models"
    )]
    pub load_format: LoadFormat,

    /// Tokens of one sequence, prompt and output together; default: what the model was made for.
    #[arg(
        long,
        env,
        hide_env_values = true,
        value_name = "TOKENS",
        help_heading = "Batching"
    )]
    pub max_total_tokens: Option<u32>,
    /// Tokens computed in one step, all sequences together. Longer prompts take several steps.
    /// At least --max-batch-size; default: 512, or --max-batch-size if that is more.
    #[arg(long, env, hide_env_values = true, value_name = "TOKENS")]
    #[arg(help_heading = "Batching", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub max_batch_prefill_tokens: Option<u32>,
    /// Sequences that run at once in one model.
    #[arg(
        long,
        env,
        hide_env_values = true,
        value_name = "SEQUENCES",
        default_value_t = 64
    )]
    #[arg(help_heading = "Batching", value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    pub max_batch_size: u32,
    /// Sequences that wait for one model; more are refused with RESOURCE_EXHAUSTED. Default: 4 x
    /// --max-batch-size.
    #[arg(
        long,
        env,
        hide_env_values = true,
        value_name = "SEQUENCES",
        help_heading = "Batching"
    )]
    pub max_waiting_requests: Option<u32>,
    /// Tokens of one batch of an embedding model. A model that takes longer inputs has batches of one
    /// such input.
    #[arg(
        long,
        env,
        hide_env_values = true,
        value_name = "TOKENS",
        default_value_t = 16_384
    )]
    #[arg(help_heading = "Batching", value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    pub max_batch_tokens: u32,
    /// Memory for the KV cache of each model, as 1GiB or 512MiB; default: the smaller of 1GiB and a
    /// quarter of the machine's memory.
    #[arg(long, env, hide_env_values = true, value_name = "BYTES", value_parser = parse_bytes)]
    #[arg(help_heading = "Batching")]
    pub kv_cache_size: Option<u64>,
    /// Threads that compute; default: one for each core.
    #[arg(
        long,
        env,
        hide_env_values = true,
        value_name = "THREADS",
        help_heading = "Batching"
    )]
    pub threads: Option<usize>,
    /// Texts that are tokenized at once; default: one for each core.
    #[arg(
        long,
        env,
        hide_env_values = true,
        value_name = "THREADS",
        help_heading = "Batching"
    )]
    pub tokenization_workers: Option<usize>,

    /// The address to listen on. (HOSTNAME is the machine's own name in many environments, so this
    /// flag's variable is PATERNOSTER_HOSTNAME.)
    #[arg(
        long,
        env = "PATERNOSTER_HOSTNAME",
        hide_env_values = true,
        default_value = "127.0.0.1"
    )]
    #[arg(help_heading = "Server")]
    pub hostname: String,
    /// The port to listen on: gRPC, and HTTP/1.1 for /metrics, /health and /ready.
    #[arg(short, long, env, hide_env_values = true, default_value_t = 50_051)]
    #[arg(help_heading = "Server")]
    pub port: u16,
    /// Calls that run or wait at once, all models together; more are refused with
    /// RESOURCE_EXHAUSTED.
    #[arg(
        long,
        env,
        hide_env_values = true,
        value_name = "CALLS",
        default_value_t = 1024
    )]
    #[arg(help_heading = "Server")]
    pub max_concurrent_requests: usize,
    /// Connections at once; more are closed.
    #[arg(
        long,
        env,
        hide_env_values = true,
        value_name = "CONNECTIONS",
        default_value_t = 1024
    )]
    #[arg(help_heading = "Server")]
    pub max_connections: usize,
    /// Bytes of text of one request.
    #[arg(
        long,
        env,
        hide_env_values = true,
        value_name = "BYTES",
        default_value = "1MiB"
    )]
    #[arg(help_heading = "Server", value_parser = parse_bytes)]
    pub max_input_bytes: u64,
    /// Bytes of one message on the wire.
    #[arg(
        long,
        env,
        hide_env_values = true,
        value_name = "BYTES",
        default_value = "4MiB"
    )]
    #[arg(help_heading = "Server", value_parser = parse_bytes)]
    pub max_message_bytes: u64,
    /// The longest time a request may take, as 90s or 10m.
    #[arg(
        long,
        env,
        hide_env_values = true,
        value_name = "TIME",
        default_value = "10m"
    )]
    #[arg(help_heading = "Server", value_parser = parse_time)]
    pub request_timeout_max: Duration,
    /// The time a stream may stay unread before it is ended.
    #[arg(
        long,
        env,
        hide_env_values = true,
        value_name = "TIME",
        default_value = "30s"
    )]
    #[arg(help_heading = "Server", value_parser = parse_time)]
    pub stream_stall_timeout: Duration,
    /// The time one step of a model may take without progress before its engine is restarted.
    #[arg(
        long,
        env,
        hide_env_values = true,
        value_name = "TIME",
        default_value = "30s"
    )]
    #[arg(help_heading = "Server", value_parser = parse_time)]
    pub step_timeout: Duration,
    /// The time a model may take to load before its engine is given up.
    #[arg(
        long,
        env,
        hide_env_values = true,
        value_name = "TIME",
        default_value = "10m"
    )]
    #[arg(help_heading = "Server", value_parser = parse_time)]
    pub start_timeout: Duration,
    /// The time running requests have after SIGTERM.
    #[arg(
        long,
        env,
        hide_env_values = true,
        value_name = "TIME",
        default_value = "60s"
    )]
    #[arg(help_heading = "Server", value_parser = parse_time)]
    pub drain_timeout: Duration,
    /// Under which foreign names /metrics repeats its series.
    #[arg(
        long,
        env,
        hide_env_values = true,
        value_name = "NAMES",
        default_value = "vllm",
        help_heading = "Server"
    )]
    pub metrics_compat: MetricsCompat,
    /// Write logs as JSON. RUST_LOG sets what is logged; default: info.
    #[arg(long, env, hide_env_values = true, help_heading = "Server")]
    pub json_output: bool,
}

/// Whom to ask.
#[derive(Clone, Debug, clap::Args)]
pub struct HealthArgs {
    /// The server's address; default: --port of this machine.
    #[arg(long, value_name = "HOST:PORT")]
    pub addr: Option<String>,
    /// The port of a server on this machine.
    #[arg(short, long, env, hide_env_values = true, default_value_t = 50_051)]
    pub port: u16,
    /// The service to ask about; default: the whole server.
    #[arg(long, default_value = "")]
    pub service: String,
    /// The time the server has to answer.
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = parse_time)]
    pub timeout: Duration,
}

impl HealthArgs {
    /// Where the server is.
    pub fn address(&self) -> String {
        let here = || format!("127.0.0.1:{}", self.port);
        self.addr.clone().unwrap_or_else(here)
    }
}

/// Foreign names of series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MetricsCompat {
    /// Those of vLLM, which routers and dashboards read.
    Vllm,
    /// None.
    None,
}

/// What to compute in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    /// IEEE single precision.
    #[value(name = "float32", alias = "f32")]
    F32,
    /// IEEE half precision.
    #[value(name = "float16", alias = "f16")]
    F16,
    /// bfloat16.
    #[value(name = "bfloat16", alias = "bf16")]
    Bf16,
}

/// Where weights come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LoadFormat {
    /// Safetensors files of the folder.
    Safetensors,
    /// Random weights; config.json is enough.
    Dummy,
}

/// Reads `1GiB`, `512MiB`, `4096`.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let (digits, unit) = number_and_unit(text)?;
    let factor: u64 = match unit {
        "" | "B" => 1,
        "KiB" | "k" | "K" => 1 << 10,
        "MiB" | "m" | "M" => 1 << 20,
        "GiB" | "g" | "G" => 1 << 30,
        "TiB" | "t" | "T" => 1 << 40,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        other => {
            return Err(format!(
                "{other:?} is no unit of bytes; use KiB, MiB or GiB"
            ));
        }
    };
    digits
        .checked_mul(factor)
        .ok_or_else(|| "too large".to_owned())
}

/// Reads `90s`, `10m`, `500ms`; a bare number is seconds.
fn parse_time(text: &str) -> Result<Duration, String> {
    let (count, unit) = number_and_unit(text)?;
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        other => return Err(format!("{other:?} is no unit of time; use ms, s, m or h")),
    };
    match count.checked_mul(milliseconds) {
        // A year, so that no sum of times overflows.
        Some(total) if total <= 31_536_000_000 => Ok(Duration::from_millis(total)),
        _ => Err("too long".to_owned()),
    }
}

fn number_and_unit(text: &str) -> Result<(u64, &str), String> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let number = digits
        .parse()
        .map_err(|_| format!("{text:?} does not begin with a number"))?;
    Ok((number, unit.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_names_every_flag() {
        let mut command = <Args as clap::CommandFactory>::command().term_width(100);
        let serve = command.find_subcommand_mut("serve").unwrap();
        insta::assert_snapshot!("serve_help", serve.render_long_help());
        let health = command.find_subcommand_mut("health").unwrap();
        insta::assert_snapshot!("health_help", health.render_long_help());
    }

    #[test]
    fn a_probe_asks_the_port_of_its_environment() {
        let command = <Args as clap::CommandFactory>::command();
        let health = command.find_subcommand("health").unwrap();
        let port = health.get_arguments().find(|arg| arg.get_id() == "port");
        assert_eq!(port.unwrap().get_env(), Some("PORT".as_ref()));
        let address = |flags: &[&str]| {
            let typed = ["paternoster", "health"].iter().chain(flags);
            match Args::try_parse_from(typed).unwrap().command {
                Command::Health(args) => args.address(),
                Command::Serve(_) => panic!("not health"),
            }
        };
        assert_eq!(address(&["--port", "8080"]), "127.0.0.1:8080");
        assert_eq!(address(&["--port", "8080", "--addr", "a:1"]), "a:1");
    }

    #[test]
    fn sizes_and_times_are_read_with_their_units() {
        assert_eq!(parse_bytes("1GiB"), Ok(1 << 30));
        assert_eq!(parse_bytes("3 MiB"), Ok(3 << 20));
        assert_eq!(parse_bytes("4096"), Ok(4096));
        assert_eq!(parse_time("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_time("2m"), Ok(Duration::from_mins(2)));
        for bad in [
            "",
            "GiB",
            "1XB",
            "99999999999999999999",
            "18446744073709551615GiB",
        ] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
        for bad in ["", "s", "1d", "9999999999h"] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
    }
}
