//! The configuration: `Args` as typed become `Config` as resolved. The only conversion between the
//! two.

use std::path::{Path, PathBuf};
use std::time::Duration;

use engine::config::Timeouts;

use crate::args::{Dtype, LoadFormat, MetricsCompat, ServeArgs};
use crate::limits::Limits;
use crate::registry::is_name;

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
    /// How long models may take.
    pub timeouts: Timeouts,
    /// Under which foreign names `/metrics` repeats its series.
    pub metrics_compat: MetricsCompat,
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
        let threads = args.threads.unwrap_or(machine.cores) as u64;
        let workers = args.tokenization_workers.unwrap_or(machine.cores) as u64;
        let running_max = args.max_batch_size;
        let waiting_max = args.max_waiting_requests.unwrap_or(4 * running_max);
        positive("max-waiting-requests", waiting_max.into())?;
        let kv_cache_bytes = args
            .kv_cache_size
            .unwrap_or_else(|| machine.kv_cache_bytes());
        positive("kv-cache-size", kv_cache_bytes)?;
        if let Some(context_max) = args.max_total_tokens {
            positive("max-total-tokens", context_max.into())?;
        }
        Ok(Self {
            models,
            dtype: args.dtype,
            load_format: args.load_format,
            batching: Batching {
                context_max: args.max_total_tokens,
                step_tokens_max: step_tokens_max(&args)?,
                running_max,
                waiting_max,
                encode_tokens_max: args.max_batch_tokens,
                kv_cache_bytes,
                threads: positive("threads", threads)?,
                tokenization_workers: positive("tokenization-workers", workers)?,
            },
            limits: limits(&args)?,
            hostname: args.hostname,
            port: args.port,
            timeouts: Timeouts {
                step: lasting("step-timeout", args.step_timeout)?,
                start: lasting("start-timeout", args.start_timeout)?,
            },
            metrics_compat: args.metrics_compat,
            log_format: if args.json_output {
                LogFormat::Json
            } else {
                LogFormat::Text
            },
        })
    }
}

fn limits(args: &ServeArgs) -> Result<Limits, ConfigError> {
    let calls_max = positive(
        "max-concurrent-requests",
        args.max_concurrent_requests as u64,
    )?;
    Ok(Limits {
        input_bytes_max: positive("max-input-bytes", args.max_input_bytes)?,
        message_bytes_max: positive("max-message-bytes", args.max_message_bytes)?,
        calls_max: calls_max.min(tokio::sync::Semaphore::MAX_PERMITS),
        connections_max: positive("max-connections", args.max_connections as u64)?,
        request_timeout_max: lasting("request-timeout-max", args.request_timeout_max)?,
        stream_stall_timeout: lasting("stream-stall-timeout", args.stream_stall_timeout)?,
        // No time at all is a choice too: whatever runs is aborted at once.
        drain_timeout: args.drain_timeout,
        ..Limits::default()
    })
}

fn positive(flag: &'static str, value: u64) -> Result<usize, ConfigError> {
    match usize::try_from(value) {
        Ok(0) => Err(ConfigError {
            flag,
            message: "must be at least 1".to_owned(),
        }),
        Ok(value) => Ok(value),
        Err(_) => Ok(usize::MAX),
    }
}

fn lasting(flag: &'static str, time: Duration) -> Result<Duration, ConfigError> {
    if time.is_zero() {
        let message = "must be at least 1ms".to_owned();
        return Err(ConfigError { flag, message });
    }
    Ok(time)
}

/// Each sequence that runs may take a token in every step.
fn step_tokens_max(args: &ServeArgs) -> Result<u32, ConfigError> {
    let running_max = args.max_batch_size;
    match args.max_batch_prefill_tokens {
        None => Ok(running_max.max(STEP_TOKENS)),
        Some(tokens) if tokens >= running_max => Ok(tokens),
        Some(_) => Err(ConfigError {
            flag: "max-batch-prefill-tokens",
            message: format!("must be at least --max-batch-size, {running_max}"),
        }),
    }
}

/// Positions of one step: enough to keep a CPU's matrix kernels busy, few enough for steady gaps
/// between tokens.
const STEP_TOKENS: u32 = 512;

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
        // A folder may have such a name itself.
        _ if Path::new(id).is_dir() => (None, id),
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

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Args, Command};

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
    fn defaults_follow_the_machine() {
        let config = config(&["--model-id", env!("CARGO_MANIFEST_DIR")]).unwrap();
        assert_eq!(config.batching.threads, 3);
        assert_eq!(config.batching.kv_cache_bytes, 1 << 29);
        assert_eq!(config.batching.waiting_max, 256);
        assert_eq!(config.limits, Limits::default());
        assert_eq!(config.timeouts, Timeouts::default());
    }

    #[cfg(feature = "demo")]
    #[test]
    fn without_a_model_the_demo_is_served() {
        let names: Vec<String> = config(&[])
            .unwrap()
            .models
            .into_iter()
            .map(|m| m.name)
            .collect();
        assert_eq!(names, ["demo", "demo-embed"]);
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
    fn a_folder_with_an_equals_sign_is_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lr=1e-4").join("m");
        std::fs::create_dir_all(&path).unwrap();
        let path = path.to_str().unwrap();
        let models = config(&["--model-id", path]).unwrap().models;
        assert_eq!(models[0].name, "m");
        assert_eq!(models[0].files, Files::Folder(path.into()));
        let models = config(&["--model-id", &format!("a={path}")])
            .unwrap()
            .models;
        assert_eq!(
            (models[0].name.as_str(), &models[0].files),
            ("a", &Files::Folder(path.into()))
        );
    }

    #[test]
    fn nothing_may_be_bounded_by_zero() {
        let here = env!("CARGO_MANIFEST_DIR");
        let message = |flag: &str, value: &str| {
            let flags = ["--model-id", here, flag, value];
            config(&flags).unwrap_err().to_string()
        };
        for flag in [
            "--max-waiting-requests",
            "--max-concurrent-requests",
            "--max-connections",
            "--max-input-bytes",
            "--max-message-bytes",
            "--max-total-tokens",
            "--kv-cache-size",
            "--threads",
            "--tokenization-workers",
        ] {
            assert_eq!(message(flag, "0"), format!("{flag}: must be at least 1"));
        }
        for flag in [
            "--stream-stall-timeout",
            "--request-timeout-max",
            "--step-timeout",
            "--start-timeout",
        ] {
            assert_eq!(message(flag, "0s"), format!("{flag}: must be at least 1ms"));
        }
    }

    #[test]
    fn a_step_has_room_for_every_running_sequence() {
        let here = env!("CARGO_MANIFEST_DIR");
        let tokens = |flags: &[&str]| {
            let typed: Vec<&str> = ["--model-id", here].iter().chain(flags).copied().collect();
            config(&typed).map(|config| config.batching.step_tokens_max)
        };
        assert_eq!(tokens(&[]), Ok(512));
        assert_eq!(tokens(&["--max-batch-size", "900"]), Ok(900));
        assert_eq!(tokens(&["--max-batch-prefill-tokens", "64"]), Ok(64));
        let error = tokens(&["--max-batch-prefill-tokens", "63"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "--max-batch-prefill-tokens: must be at least --max-batch-size, 64"
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
    fn the_memory_of_a_machine_is_read() {
        assert_eq!(
            mem_total("MemFree: 1 kB\nMemTotal:  2048 kB\n"),
            Some(2 << 20)
        );
        assert_eq!(mem_total("nothing"), None);
    }
}
