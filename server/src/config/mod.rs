//! The configuration: `Args` as typed become `Config` as resolved. The only conversion between the
//! two.

use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;

use engine::config::Timeouts;

pub use self::machine::Machine;
#[cfg(feature = "hub")]
pub(crate) use self::model::on_hub;
pub(crate) use self::model::{Place, files};
use crate::args::ServeArgs;
use crate::args::batching::BatchingArgs;
use crate::args::limits::LimitArgs;
use crate::args::listener::ListenerArgs;
use crate::args::model::{Dtype, LoadFormat, ModelArgs, Pooling};
use crate::args::observability::{MetricsCompat, ObservabilityArgs};
use crate::args::security::SecurityArgs;
use crate::limits::{Limits, TooLong};
use crate::security::{Quota, SecurityConfig, TlsFiles};

mod machine;
mod model;

/// What is served, resolved and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The models, in order.
    pub models: Vec<ModelSource>,
    /// Where models of the hub are kept; `None` asks the environment.
    pub hub_cache: Option<PathBuf>,
    /// What to compute in; `None` takes each model's own.
    pub dtype: Option<Dtype>,
    /// Where weights come from.
    pub load_format: LoadFormat,
    /// How embedding models are used where their files say otherwise.
    pub embedding: Embedding,
    /// How steps are bounded.
    pub batching: Batching,
    /// Where to listen.
    pub hostname: String,
    /// Where to listen; 0 lets the system choose.
    pub port: u16,
    /// Where probes are answered besides.
    pub health_port: Option<u16>,
    /// Where callers of this machine are answered besides.
    pub uds_path: Option<PathBuf>,
    /// Who may do what.
    pub security: SecurityConfig,
    /// The bounds of the edge.
    pub limits: Limits,
    /// How long models may take.
    pub timeouts: Timeouts,
    /// Under which foreign names `/metrics` repeats its series.
    pub metrics_compat: Vec<MetricsCompat>,
    /// How logs are written.
    pub log_format: LogFormat,
    /// Where spans are sent.
    pub traces: Option<Traces>,
}

/// Where spans are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traces {
    /// The collector.
    pub endpoint: String,
    /// The name of this service.
    pub service_name: String,
}

/// One model and its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSource {
    /// The name requests call it by.
    pub name: String,
    /// Where its files are.
    pub files: Files,
    /// The commit its files are of, where that is known.
    pub revision: Option<String>,
}

/// Where a model's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Files {
    /// In a folder.
    Folder(PathBuf),
    /// On the hub, from where they come into a folder.
    #[cfg(feature = "hub")]
    Hub(hub::ModelId, hub::Revision),
    /// In this binary: the demo decoder.
    #[cfg(feature = "demo")]
    DemoDecoder,
    /// In this binary: the demo encoder.
    #[cfg(feature = "demo")]
    DemoEncoder,
}

/// How embedding models are used where their files say otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Embedding {
    /// How one vector is made of an input.
    pub pooling: Option<Pooling>,
    /// What goes before an input where a request names no prompt.
    pub prompt: Option<DefaultPrompt>,
}

/// What goes before an input where a request names no prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DefaultPrompt {
    /// The model's prompt of this name.
    Named(String),
    /// This text.
    Text(String),
}

/// How a model is to be loaded, as far as its memory depends on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) dtype: Option<Dtype>,
    pub(crate) load_format: LoadFormat,
    pub(crate) pooling: Option<Pooling>,
    pub(crate) batching: Batching,
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
    /// Inputs of one batch of an encoder.
    pub encode_inputs_max: u32,
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

impl Config {
    /// How its models are to be loaded.
    pub(crate) fn asked(&self) -> Asked {
        Asked {
            dtype: self.dtype,
            load_format: self.load_format,
            pooling: self.embedding.pooling,
            batching: self.batching,
        }
    }

    /// Resolves what was typed: one part for each group of flags.
    pub fn resolve(args: ServeArgs, machine: Machine) -> Result<Self, ConfigError> {
        let log_format = if args.observability.json_output {
            LogFormat::Json
        } else {
            LogFormat::Text
        };
        Ok(Self {
            models: model::resolve(&args.models)?,
            hub_cache: args.models.hub.huggingface_hub_cache.clone(),
            dtype: args.models.dtype,
            load_format: args.models.load_format,
            embedding: embedding(&args.models)?,
            batching: batching(&args.batching, machine)?,
            limits: limits(&args.limits, &args.listener),
            security: security(args.security)?,
            hostname: args.listener.hostname,
            port: args.listener.port,
            health_port: args.listener.health_port,
            uds_path: args.listener.uds_path,
            timeouts: Timeouts {
                step: args.limits.step_timeout,
                start: args.limits.start_timeout,
            },
            traces: traces(&args.observability)?,
            metrics_compat: args.observability.dialects().ok_or_else(|| ConfigError {
                flag: "metrics-compat",
                message: "none stands alone".to_owned(),
            })?,
            log_format,
        })
    }
}

fn traces(args: &ObservabilityArgs) -> Result<Option<Traces>, ConfigError> {
    let Some(endpoint) = &args.otlp_endpoint else {
        return Ok(None);
    };
    let error = |message: &str| ConfigError {
        flag: "otlp-endpoint",
        message: message.to_owned(),
    };
    if cfg!(not(feature = "otlp")) {
        return Err(error("this binary was built without OTLP"));
    }
    let uri: http::Uri = endpoint
        .parse()
        .map_err(|_| error("must be a URL such as http://127.0.0.1:4317"))?;
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    if uri.scheme_str() != Some("http") || authority.is_empty() || authority.contains('@') {
        return Err(error(
            "must be http://HOST:PORT, without a name or a key; a collector behind TLS is reached \
             through one beside the server",
        ));
    }
    Ok(Some(Traces {
        endpoint: endpoint.clone(),
        service_name: args.otlp_service_name.clone(),
    }))
}

fn embedding(args: &ModelArgs) -> Result<Embedding, ConfigError> {
    let prompt = match (&args.default_prompt_name, &args.default_prompt) {
        (Some(_), Some(_)) => {
            let message = "goes without --default-prompt-name".to_owned();
            let flag = "default-prompt";
            return Err(ConfigError { flag, message });
        }
        (Some(name), None) => Some(DefaultPrompt::Named(name.clone())),
        (None, text) => text.clone().map(DefaultPrompt::Text),
    };
    Ok(Embedding {
        pooling: args.pooling,
        prompt,
    })
}

impl Config {
    /// Whether nobody but this machine reaches it.
    pub fn is_local(&self) -> bool {
        let address: Result<IpAddr, _> = self.hostname.parse();
        address.map_or(self.hostname == "localhost", |address| {
            address.is_loopback()
        })
    }
}

/// How steps are bounded, by flags and machine.
pub(crate) fn batching(args: &BatchingArgs, machine: Machine) -> Result<Batching, ConfigError> {
    let running_max = args.max_batch_size;
    let own = || machine.kv_cache_bytes();
    Ok(Batching {
        context_max: args.max_total_tokens,
        step_tokens_max: step_tokens_max(args)?,
        running_max,
        waiting_max: args
            .max_waiting_requests
            .unwrap_or_else(|| waiting_max(running_max)),
        encode_tokens_max: args.max_batch_tokens,
        encode_inputs_max: args.max_batch_requests,
        kv_cache_bytes: args.kv_cache_size.unwrap_or_else(own),
        threads: args.threads.unwrap_or(machine.cores),
        tokenization_workers: args.tokenization_workers.unwrap_or(machine.cores),
    })
}

/// As many as run: whoever is taken then waits about as long as it runs, and no more than twice the
/// time of a full machine passes over its request. A longer queue serves nobody more.
fn waiting_max(running_max: u32) -> u32 {
    running_max.max(IN_FLIGHT_MIN.saturating_sub(running_max))
}

/// A request of many sequences has to fit into an engine where nothing else is.
const IN_FLIGHT_MIN: u32 = 16;

/// Bytes of a range that fits into any address space.
fn in_memory(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn limits(args: &LimitArgs, listener: &ListenerArgs) -> Limits {
    Limits {
        input_bytes_max: in_memory(args.max_input_bytes),
        message_bytes_max: in_memory(args.max_message_bytes),
        n_max: args.max_best_of,
        logprobs_max: args.max_top_n_tokens,
        stop_strings_max: args.max_stop_sequences,
        embed_inputs_max: args.max_client_batch_size,
        prompt_tokens_max: args.max_input_tokens,
        too_long: if args.auto_truncate {
            TooLong::Cut
        } else {
            TooLong::Refused
        },
        calls_max: args.max_concurrent_requests,
        connections_max: listener.max_connections,
        connections_per_address_max: listener.max_connections_per_address,
        streams_per_connection_max: listener.max_streams_per_connection,
        keepalive_interval: listener.keepalive_interval,
        keepalive_timeout: listener.keepalive_timeout,
        connection_age_max: listener.max_connection_age,
        connection_idle_timeout: listener.connection_idle_timeout,
        request_timeout_max: args.request_timeout_max,
        stream_stall_timeout: args.stream_stall_timeout,
        drain_timeout: args.drain_timeout,
        ..Limits::default()
    }
}

fn security(args: SecurityArgs) -> Result<SecurityConfig, ConfigError> {
    let lacks = |flag, message: &str| ConfigError {
        flag,
        message: message.to_owned(),
    };
    let tls = match (args.tls_cert, args.tls_key, args.tls_client_ca) {
        (Some(cert), Some(key), client_ca) => Some(TlsFiles {
            cert,
            key,
            client_ca,
        }),
        (None, None, None) => None,
        (Some(_), None, _) => return Err(lacks("tls-key", "is needed with --tls-cert")),
        (None, _, _) => {
            let message = "is needed with --tls-key and --tls-client-ca";
            return Err(lacks("tls-cert", message));
        }
    };
    let default_quota = Quota {
        tokens_per_minute: args.tenant_tokens_per_minute.and_then(NonZeroU64::new),
        requests_per_minute: args.tenant_requests_per_minute.and_then(NonZeroU64::new),
        concurrent: args.tenant_max_concurrent.and_then(NonZeroU32::new),
    };
    let keyed = !args.api_key.is_empty() || args.api_keys_file.is_some();
    if !keyed && default_quota != Quota::default() {
        let flag = match default_quota {
            Quota {
                tokens_per_minute: Some(_),
                ..
            } => "tenant-tokens-per-minute",
            Quota {
                requests_per_minute: Some(_),
                ..
            } => "tenant-requests-per-minute",
            Quota { .. } => "tenant-max-concurrent",
        };
        // Without keys a tenant is whoever a client says it is, and somebody else the next time.
        return Err(lacks(flag, "needs --api-key or --api-keys-file"));
    }
    Ok(SecurityConfig {
        tls,
        default_quota,
        api_keys: args.api_key,
        api_keys_file: args.api_keys_file,
        reflection: args.reflection,
        metrics: args.metrics_access,
    })
}

/// Each sequence that runs may take a token in every step.
fn step_tokens_max(args: &BatchingArgs) -> Result<u32, ConfigError> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Args, Command};

    fn config(flags: &[&str]) -> Result<Config, ConfigError> {
        let typed = ["paternoster", "serve"].iter().chain(flags);
        let Command::Serve(args) = Args::read(typed).unwrap().command else {
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
        assert_eq!(config.batching.waiting_max, 64);
        assert_eq!(config.limits, Limits::default());
        assert_eq!(config.timeouts, Timeouts::default());
    }

    #[test]
    fn tls_takes_a_certificate_and_its_key() {
        let tls = |flags: &[&str]| {
            let here = ["--model-id", env!("CARGO_MANIFEST_DIR")];
            let typed: Vec<&str> = here.iter().chain(flags).copied().collect();
            let resolved = config(&typed).map(|config| config.security.tls);
            resolved.map_err(|error| error.to_string())
        };
        let (cert, key) = (["--tls-cert", "c"], ["--tls-key", "k"]);
        let clients = ["--tls-client-ca", "a"];
        assert_eq!(tls(&[]), Ok(None));
        let files = |client_ca: Option<&str>| TlsFiles {
            cert: "c".into(),
            key: "k".into(),
            client_ca: client_ca.map(Into::into),
        };
        assert_eq!(tls(&[cert, key].concat()), Ok(Some(files(None))));
        assert_eq!(
            tls(&[cert, key, clients].concat()),
            Ok(Some(files(Some("a"))))
        );
        let error = tls(&cert).unwrap_err();
        assert_eq!(error, "--tls-key: is needed with --tls-cert");
        for lacking in [&key[..], &clients[..]] {
            let error = tls(lacking).unwrap_err();
            assert!(error.starts_with("--tls-cert: is needed"), "{error}");
        }
    }

    #[test]
    fn a_quota_for_everybody_needs_keys() {
        let quota = |flags: &[&str]| {
            let here = ["--model-id", env!("CARGO_MANIFEST_DIR")];
            let typed: Vec<&str> = here.iter().chain(flags).copied().collect();
            let resolved = config(&typed).map(|config| config.security.default_quota);
            resolved.map_err(|error| error.to_string())
        };
        let key = ["--api-key", "k"];
        assert_eq!(quota(&key), Ok(Quota::default()));
        for flag in [
            "--tenant-tokens-per-minute",
            "--tenant-requests-per-minute",
            "--tenant-max-concurrent",
        ] {
            let set = [flag, "7"];
            let found = quota(&[&key[..], &set].concat()).unwrap();
            let numbers = [
                found.tokens_per_minute.map(u64::from),
                found.requests_per_minute.map(u64::from),
                found.concurrent.map(|calls| calls.get().into()),
            ];
            assert_eq!(numbers.into_iter().flatten().collect::<Vec<_>>(), [7]);
            let error = quota(&set).unwrap_err();
            assert_eq!(error, format!("{flag}: needs --api-key or --api-keys-file"));
        }
    }

    #[test]
    fn a_loopback_address_is_local() {
        let local = |hostname: &str| {
            let here = ["--model-id", env!("CARGO_MANIFEST_DIR")];
            let typed: Vec<&str> = here
                .iter()
                .copied()
                .chain(["--hostname", hostname])
                .collect();
            config(&typed).unwrap().is_local()
        };
        assert!(
            ["127.0.0.1", "::1", "localhost"]
                .iter()
                .all(|name| local(name))
        );
        assert!(
            !["0.0.0.0", "::", "example.org"]
                .iter()
                .any(|name| local(name))
        );
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

    #[cfg(feature = "hub")]
    #[test]
    fn what_is_no_folder_is_on_the_hub() {
        let models = |flags: &[&str]| config(flags).unwrap().models;
        let on_hub = |model: &str, revision: &str| {
            Files::Hub(model.parse().unwrap(), revision.parse().unwrap())
        };
        let one = models(&["--model-id", "org/x"]);
        assert_eq!(one[0].name, "org/x");
        assert_eq!(one[0].files, on_hub("org/x", "main"));
        let here = env!("CARGO_MANIFEST_DIR");
        let flags = [
            "--model-id",
            "a=org/x",
            "--model-id",
            here,
            "--model-id",
            "org/y",
        ];
        let for_all = models(&[&flags[..], &["--revision", "v1"]].concat());
        assert_eq!(for_all[0].name, "a");
        assert_eq!(for_all[0].files, on_hub("org/x", "v1"));
        assert_eq!(for_all[2].files, on_hub("org/y", "v1"));
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let each = format!("{commit},main,{commit}");
        let pinned = ["--revision", &each, "--require-pinned"];
        let each = models(&[&flags[..], &pinned].concat());
        assert_eq!(each[2].files, on_hub("org/y", commit));
        assert_eq!(each[1].files, Files::Folder(here.into()));
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

    #[cfg(feature = "otlp")]
    #[test]
    fn a_collector_is_a_plain_address() {
        let traces = |url: &str| config(&["--otlp-endpoint", url]).map(|config| config.traces);
        assert!(traces("http://otel:4317").unwrap().is_some());
        for wrong in [
            "",
            "otel:4317",
            "https://otel:4317",
            "http://",
            "http://a:b@c:1",
            "x y",
        ] {
            let error = traces(wrong).unwrap_err().to_string();
            assert!(
                error.starts_with("--otlp-endpoint: must be"),
                "{wrong}: {error}"
            );
        }
    }

    #[test]
    fn mistakes_name_their_flag() {
        let message = |flags: &[&str]| config(flags).unwrap_err().to_string();
        assert!(
            message(&["--model-id", "./none"]).starts_with("--model-id: ./none is not a folder")
        );
        let here = env!("CARGO_MANIFEST_DIR");
        let pinned = [
            "--model-id",
            "org/x",
            "--require-pinned",
            "--revision",
            "main",
        ];
        if cfg!(feature = "hub") {
            let text = message(&pinned);
            assert!(
                text.starts_with("--revision: org/x: revision \"main\""),
                "{text}"
            );
            let text = message(&["--model-id", "org/x", "--revision", "../x"]);
            assert!(
                text.starts_with("--revision: \"../x\" is no revision"),
                "{text}"
            );
        }
        let more = message(&["--model-id", here, "--revision", "a,b"]);
        assert_eq!(more, "--revision: more revisions than --model-id");
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
}
