//! The command line: `Args` as typed, `Config` as resolved. The only conversion between the two.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as _, Parser, Subcommand, ValueEnum};

use crate::limits::Limits;
use crate::registry::is_name;

/// What the user typed.
#[derive(Debug, Parser)]
#[command(name = "paternoster", version, about, max_term_width = 100)]
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
    /// Ask a running server for its health: exits with 0 if it is SERVING, 2 if it cannot be
    /// reached, 3 if it does not answer, 4 if it is not SERVING.
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
    #[arg(
        long,
        env,
        hide_env_values = true,
        value_name = "TOKENS",
        default_value_t = 512
    )]
    #[arg(help_heading = "Batching", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub max_batch_prefill_tokens: u32,
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
    /// Tokens of one batch of an embedding model.
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
    /// Write logs as JSON. RUST_LOG sets what is logged; default: info.
    #[arg(long, env, hide_env_values = true, help_heading = "Server")]
    pub json_output: bool,
}

/// Whom to ask.
#[derive(Clone, Debug, clap::Args)]
pub struct HealthArgs {
    /// The server's address.
    #[arg(long, default_value = "127.0.0.1:50051", value_name = "HOST:PORT")]
    pub addr: String,
    /// The service to ask about; default: the whole server.
    #[arg(long, default_value = "")]
    pub service: String,
    /// The time the server has to answer.
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = parse_time)]
    pub timeout: Duration,
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

/// What is served, resolved and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The models, in order.
    pub models: Vec<ModelSource>,
    /// What to compute in; `None` takes each model's own.
    pub dtype: Option<Dtype>,
    /// Where weights come from.
    pub load_format: LoadFormat,
    /// How steps are bounded.
    pub batching: Batching,
    /// Where to listen.
    pub hostname: String,
    /// Where to listen; 0 lets the system choose.
    pub port: u16,
    /// The bounds of the edge.
    pub limits: Limits,
    /// How logs are written.
    pub log_format: LogFormat,
}

/// One model and its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSource {
    /// The name requests call it by.
    pub name: String,
    /// Where its files are.
    pub files: Files,
}

/// Where a model's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Files {
    /// In a folder.
    Folder(PathBuf),
    /// In this binary: the demo decoder.
    #[cfg(feature = "demo")]
    DemoDecoder,
    /// In this binary: the demo encoder.
    #[cfg(feature = "demo")]
    DemoEncoder,
}

/// How steps are bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batching {
    /// Tokens of one sequence; `None` takes the model's own.
    pub context_max: Option<u32>,
    /// Tokens of one step.
    pub step_tokens_max: u32,
    /// Sequences that run.
    pub running_max: u32,
    /// Sequences that wait.
    pub waiting_max: u32,
    /// Tokens of one batch of an encoder.
    pub encode_tokens_max: u32,
    /// Bytes of KV.
    pub kv_cache_bytes: u64,
    /// Compute threads.
    pub threads: usize,
    /// Texts tokenized at once.
    pub tokenization_workers: usize,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What is wrong with the command line; names the flag.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("--{flag}: {message}")]
pub struct ConfigError {
    /// The flag, without dashes.
    pub flag: &'static str,
    /// What is wrong with it.
    pub message: String,
}

/// The machine, as far as defaults depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Cores this process may use.
    pub cores: usize,
    /// Bytes of memory this process may use; `None` if unknown.
    pub memory_bytes: Option<u64>,
}

impl Machine {
    /// The machine this runs on.
    pub fn detect() -> Self {
        let read = |path| std::fs::read_to_string(path).ok();
        let total = read("/proc/meminfo").as_deref().and_then(mem_total);
        let group = read("/sys/fs/cgroup/memory.max").and_then(|text| text.trim().parse().ok());
        Self {
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_bytes: [total, group].into_iter().flatten().min(),
        }
    }

    fn kv_cache_bytes(self) -> u64 {
        self.memory_bytes
            .map_or(KV_CACHE_BYTES, |bytes| (bytes / 4).min(KV_CACHE_BYTES))
    }
}

const KV_CACHE_BYTES: u64 = 1 << 30;

fn mem_total(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

impl Config {
    /// Resolves what was typed.
    pub fn resolve(args: ServeArgs, machine: Machine) -> Result<Self, ConfigError> {
        let models = models(&args)?;
        let positive = |flag, value: u64| match value {
            0 => Err(ConfigError {
                flag,
                message: "must be at least 1".to_owned(),
            }),
            value => Ok(usize::try_from(value).unwrap_or(usize::MAX)),
        };
        let threads = args.threads.unwrap_or(machine.cores) as u64;
        let workers = args.tokenization_workers.unwrap_or(machine.cores) as u64;
        Ok(Self {
            models,
            dtype: args.dtype,
            load_format: args.load_format,
            batching: Batching {
                context_max: args.max_total_tokens,
                step_tokens_max: args.max_batch_prefill_tokens,
                running_max: args.max_batch_size,
                waiting_max: args.max_waiting_requests.unwrap_or(4 * args.max_batch_size),
                encode_tokens_max: args.max_batch_tokens,
                kv_cache_bytes: args
                    .kv_cache_size
                    .unwrap_or_else(|| machine.kv_cache_bytes()),
                threads: positive("threads", threads)?,
                tokenization_workers: positive("tokenization-workers", workers)?,
            },
            hostname: args.hostname,
            port: args.port,
            limits: Limits {
                input_bytes_max: positive("max-input-bytes", args.max_input_bytes)?,
                message_bytes_max: positive("max-message-bytes", args.max_message_bytes)?,
                calls_max: args
                    .max_concurrent_requests
                    .min(tokio::sync::Semaphore::MAX_PERMITS),
                connections_max: args.max_connections,
                request_timeout_max: args.request_timeout_max,
                stream_stall_timeout: args.stream_stall_timeout,
                drain_timeout: args.drain_timeout,
                ..Limits::default()
            },
            log_format: if args.json_output {
                LogFormat::Json
            } else {
                LogFormat::Text
            },
        })
    }
}

fn models(args: &ServeArgs) -> Result<Vec<ModelSource>, ConfigError> {
    if args.model_id.is_empty() {
        return demo_models();
    }
    if args.served_model_name.len() > args.model_id.len() {
        let message = "more names than --model-id".to_owned();
        return Err(ConfigError {
            flag: "served-model-name",
            message,
        });
    }
    let mut models: Vec<ModelSource> = Vec::new();
    for (index, id) in args.model_id.iter().enumerate() {
        let model = model(id, args.served_model_name.get(index))?;
        if models.iter().any(|earlier| earlier.name == model.name) {
            let message = format!("two models are named {}; name them NAME=FOLDER", model.name);
            return Err(ConfigError {
                flag: "model-id",
                message,
            });
        }
        models.push(model);
    }
    Ok(models)
}

#[cfg(feature = "demo")]
#[expect(clippy::unnecessary_wraps, reason = "the other build has none")]
fn demo_models() -> Result<Vec<ModelSource>, ConfigError> {
    let demo = |name: &str, files| ModelSource {
        name: name.to_owned(),
        files,
    };
    Ok(vec![
        demo("demo", Files::DemoDecoder),
        demo("demo-embed", Files::DemoEncoder),
    ])
}

#[cfg(not(feature = "demo"))]
fn demo_models() -> Result<Vec<ModelSource>, ConfigError> {
    Err(ConfigError {
        flag: "model-id",
        message: "is needed: this binary was built without the demo models".to_owned(),
    })
}

fn model(id: &str, served_name: Option<&String>) -> Result<ModelSource, ConfigError> {
    let error = |message| ConfigError {
        flag: "model-id",
        message,
    };
    let (given, folder) = match id.split_once('=') {
        Some((name, folder)) if is_name(name) => (Some(name.to_owned()), folder),
        _ => (None, id),
    };
    let path = PathBuf::from(folder);
    if !path.is_dir() {
        return Err(error(format!(
            "{folder} is not a folder (models are not downloaded yet; give a local folder)"
        )));
    }
    let base = path.canonicalize().ok();
    let base = base
        .as_deref()
        .and_then(|path| path.file_name())
        .and_then(|name| name.to_str());
    let name = served_name
        .cloned()
        .or(given)
        .or_else(|| base.map(str::to_owned));
    let name = name.unwrap_or_default();
    if !is_name(&name) {
        return Err(error(format!(
            "{name:?} cannot name a model; use NAME=FOLDER"
        )));
    }
    Ok(ModelSource {
        name,
        files: Files::Folder(path),
    })
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

/// The flags of `serve` as the help shows them, for the documentation's test.
pub fn serve_flags() -> Vec<String> {
    let command = ServeArgs::augment_args(clap::Command::new("serve"));
    command
        .get_arguments()
        .filter_map(|arg| arg.get_long().map(str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(flags: &[&str]) -> Result<Config, ConfigError> {
        let typed = ["paternoster", "serve"].iter().chain(flags);
        let Command::Serve(args) = Args::try_parse_from(typed).unwrap().command else {
            panic!("not serve");
        };
        Config::resolve(
            *args,
            Machine {
                cores: 3,
                memory_bytes: Some(1 << 31),
            },
        )
    }

    #[test]
    fn the_help_names_every_flag() {
        let mut command = <Args as clap::CommandFactory>::command().term_width(100);
        let serve = command.find_subcommand_mut("serve").unwrap();
        insta::assert_snapshot!("serve_help", serve.render_long_help());
        let health = command.find_subcommand_mut("health").unwrap();
        insta::assert_snapshot!("health_help", health.render_long_help());
    }

    #[test]
    fn defaults_follow_the_machine() {
        let config = config(&[]).unwrap();
        assert_eq!(config.batching.threads, 3);
        assert_eq!(config.batching.kv_cache_bytes, 1 << 29);
        assert_eq!(config.batching.waiting_max, 256);
        assert_eq!(config.limits, Limits::default());
        assert_eq!(config.models.len(), 2);
    }

    #[test]
    fn folders_are_named_by_flag_or_by_themselves() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny-llama");
        std::fs::create_dir(&path).unwrap();
        let path = path.to_str().unwrap();
        let names = |flags: &[&str]| -> Vec<String> {
            config(flags)
                .unwrap()
                .models
                .into_iter()
                .map(|model| model.name)
                .collect()
        };
        assert_eq!(names(&["--model-id", path]), ["tiny-llama"]);
        assert_eq!(
            names(&["--model-id", &format!("a={path}"), "--model-id", path]),
            ["a", "tiny-llama"]
        );
        assert_eq!(
            names(&["--model-id", path, "--served-model-name", "org/x"]),
            ["org/x"]
        );
    }

    #[test]
    fn mistakes_name_their_flag() {
        let message = |flags: &[&str]| config(flags).unwrap_err().to_string();
        assert!(
            message(&["--model-id", "meta-llama/none"])
                .starts_with("--model-id: meta-llama/none is not")
        );
        assert_eq!(
            message(&["--threads", "0"]),
            "--threads: must be at least 1"
        );
        let here = env!("CARGO_MANIFEST_DIR");
        let twice = message(&[
            "--model-id",
            &format!("a={here}"),
            "--model-id",
            &format!("a={here}"),
        ]);
        assert!(twice.contains("two models are named a"), "{twice}");
        let names = message(&["--model-id", here, "--served-model-name", "a,b"]);
        assert_eq!(names, "--served-model-name: more names than --model-id");
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

    #[test]
    fn the_memory_of_a_machine_is_read() {
        assert_eq!(
            mem_total("MemFree: 1 kB\nMemTotal:  2048 kB\n"),
            Some(2 << 20)
        );
        assert_eq!(mem_total("nothing"), None);
    }
}
