//! A whole server over a real socket, with fake devices behind its engines.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use engine::clock::{Clock, SystemClock};
use engine::config::{EncodeConfig, EngineConfig, Timeouts};
use engine::encode::EncodeLimits;
use engine::executor::{Executor, Pooling};
use engine::fake::{FakeConfig, FakeDevice};
use engine::handle::Factory;
use engine::limits::{Limits as EngineLimits, Pool};
use engine::request::Token;
use paternoster_client::{Client, v1};
use server::app::App;
use server::args::observability::MetricsCompat;
use server::byte_tokenizer;
use server::limits::Limits;
use server::manager::Manager;
use server::registry::{Decoder, Encoder, Facts, Registry, Served, Task, TextTools, Vectors};
use server::security::Security;
use server::text::chat::ChatTemplate;
use server::text::tokenizer::{PoolLimits, Tokenize, TokenizerPool};
use server::transport::{Listeners, UnixSocket};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::{ClientTlsConfig, Endpoint};
use tonic_types::StatusExt as _;

/// Token ids are below this; the tokenizer knows 256 of them.
pub(crate) const VOCABULARY: u32 = 300;
/// Values of a fake embedding.
pub(crate) const WIDTH: u32 = 8;
/// Longest sequence of the fake decoder.
pub(crate) const CONTEXT: u32 = 512;
/// Longest input of the fake encoder.
pub(crate) const INPUT_TOKENS_MAX: u32 = 64;
/// The token that ends a sequence of the fake decoder: `z`.
pub(crate) const END: u32 = 122;

const TEMPLATE: &str = r#"{"chat_template": "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.role == 'year' %}{{ strftime_now('%Y') }}{% endif %}{% endfor %}>"}"#;

/// What makes the decoder's executors.
pub(crate) type Executors = Box<dyn FnOnce(FakeDevice) -> Factory<dyn Executor>>;

/// How a world differs from the ordinary one.
pub(crate) struct Plan {
    pub(crate) limits: Limits,
    pub(crate) running_max: u32,
    pub(crate) waiting_max: u32,
    /// What the decoder's executors come from; `None` makes them of its device.
    pub(crate) executors: Option<Executors>,
    /// The tokenizer of both models.
    pub(crate) tokenizer: Option<Arc<dyn Tokenize>>,
    /// The clock of the decoder's engine.
    pub(crate) clock: Arc<dyn Clock>,
    /// Who is told of calls that ended.
    pub(crate) spans: Option<server::trace::SpanSink>,
    /// KV blocks of the decoder, the null block among them.
    pub(crate) blocks: u32,
    /// What a step of the decoder may take.
    pub(crate) step_timeout: Duration,
    /// Encoders beside `vectors`, after it.
    pub(crate) more: Vec<More>,
    /// Where it listens besides.
    pub(crate) probes: Option<TcpListener>,
    pub(crate) unix: Option<UnixSocket>,
    /// Who may do what.
    pub(crate) security: Arc<Security>,
    /// Who hears of it.
    pub(crate) manager: Manager,
    /// How its client knows the server, where that speaks TLS.
    pub(crate) trust: Option<ClientTlsConfig>,
}

/// One more encoder.
pub(crate) struct More {
    pub(crate) name: &'static str,
    pub(crate) task: Task,
    /// Values of its vectors; as many as there are labels.
    pub(crate) width: u32,
    pub(crate) input_tokens_max: u32,
    pub(crate) waiting_max: u32,
}

impl More {
    pub(crate) fn new(name: &'static str, task: Task) -> Self {
        let width = match &task {
            Task::Classify { labels, .. } => labels.len() as u32,
            Task::Embed(_) | Task::Sparse => WIDTH,
        };
        Self {
            name,
            task,
            width,
            input_tokens_max: INPUT_TOKENS_MAX,
            waiting_max: 2048,
        }
    }
}

/// Vectors as most models make them.
pub(crate) const VECTORS: Vectors = Vectors {
    pooling: Pooling::Mean,
    normalize: true,
};

impl Default for Plan {
    fn default() -> Self {
        let limits = Limits {
            message_bytes_max: 64 << 10,
            input_bytes_max: 16 << 10,
            ..Limits::default()
        };
        Self {
            limits,
            running_max: 8,
            waiting_max: 8,
            executors: None,
            tokenizer: None,
            clock: Arc::new(SystemClock::default()),
            spans: None,
            blocks: 257,
            step_timeout: Timeouts::default().step,
            more: Vec::new(),
            probes: None,
            unix: None,
            security: Arc::default(),
            manager: Manager::default(),
            trust: None,
        }
    }
}

/// The commit of the decoder's files.
pub(crate) const REVISION: &str = "89abcdef";

/// The day it is on a server under test: 2000-02-29.
const TODAY: i64 = 951_782_400;

/// A server, its devices and a client of it.
pub(crate) struct World {
    pub(crate) address: SocketAddr,
    pub(crate) client: Client,
    pub(crate) app: Arc<App>,
    /// The device of the decoder `tiny`. It draws letters.
    pub(crate) device: FakeDevice,
    /// The device of the encoder `vectors`.
    pub(crate) encoder: FakeDevice,
    /// The devices of `Plan::more`.
    pub(crate) more: Vec<FakeDevice>,
    pub(crate) shutdown: CancellationToken,
    server: JoinHandle<std::io::Result<()>>,
    files_read: Arc<AtomicUsize>,
}

impl World {
    /// An ordinary server that is ready.
    pub(crate) async fn ready() -> Self {
        Self::ready_with(Plan::default()).await
    }

    /// A server that is ready.
    pub(crate) async fn ready_with(plan: Plan) -> Self {
        let world = Self::start(plan).await;
        let mut readiness = world.app.readiness.subscribe();
        readiness
            .wait_for(|readiness| readiness.ready)
            .await
            .unwrap();
        world
    }

    /// A server that listens.
    pub(crate) async fn start(mut plan: Plan) -> Self {
        let more = std::mem::take(&mut plan.more);
        let recorder = server::metrics::install(&[MetricsCompat::Vllm]);
        let config = |blocks, width| FakeConfig {
            pool: Pool {
                blocks,
                block_tokens: NonZeroU32::new(16).unwrap(),
            },
            vocabulary: 97..123,
            latency: Duration::ZERO,
            width,
        };
        let device = FakeDevice::new(config(plan.blocks, WIDTH));
        let files_read = Arc::new(AtomicUsize::new(0));
        let (limits, spans) = (plan.limits.clone(), plan.spans.clone());
        let (probes, unix) = (plan.probes.take(), plan.unix.take());
        let manager = std::mem::take(&mut plan.manager);
        let (security, trust) = (Arc::clone(&plan.security), plan.trust.take());
        let text = |chat| text_tools(plan.tokenizer.clone(), chat, &files_read);
        let chat = ChatTemplate::from_config(TEMPLATE.as_bytes(), None).unwrap();
        let vectors = More::new("vectors", Task::Embed(VECTORS));
        let encoders = std::iter::once(vectors).chain(more);
        let encoders = encoders.map(|plan| {
            let device = FakeDevice::new(config(2, plan.width));
            let served = embedder(&device, text(None), plan);
            (device, Served::Encoder(Arc::new(served)))
        });
        let (mut more, encoders): (Vec<_>, Vec<_>) = encoders.unzip();
        let encoder = more.remove(0);
        let text = text(chat);
        let mut models = vec![Served::Decoder(Arc::new(decoder(&device, text, plan)))];
        models.extend(encoders);
        let registry = Registry::new(models).unwrap();
        let mut app = App::new(registry, limits, recorder);
        app.now = || TODAY;
        app.security = security;
        app.spans = spans;
        app.manager = manager;
        let app = Arc::new(app);
        let main = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = main.local_addr().unwrap();
        let listeners = Listeners { main, probes, unix };
        let shutdown = CancellationToken::new();
        let (served, asked) = (Arc::clone(&app), shutdown.clone());
        let server = tokio::spawn(async move {
            server::serve::serve(listeners, served, asked.cancelled_owned()).await
        });
        let client = match trust {
            None => Client::connect(format!("http://{address}")).await.unwrap(),
            Some(tls) => {
                let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap();
                let channel = endpoint.tls_config(tls).unwrap().connect().await.unwrap();
                Client::over(channel)
            }
        };
        Self {
            address,
            client,
            app,
            device,
            encoder,
            more,
            shutdown,
            server,
            files_read,
        }
    }

    /// Waits for the server's own end.
    pub(crate) async fn ended(self) {
        soon(self.server).await.unwrap().unwrap();
    }

    /// The bytes a fresh connection gets in answer to `request`, until the server closes it.
    pub(crate) async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        soon(stream.read_to_end(&mut answer)).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// A page over HTTP/1.1.
    pub(crate) async fn get(&self, path: &str) -> String {
        self.raw(&format!(
            "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        ))
        .await
    }

    /// What a counter or gauge stands at, in all tests together; 0 if there is none.
    pub(crate) fn measured(&self, series: &str) -> f64 {
        let page = self.app.metrics.as_ref().unwrap().render();
        let value = page.lines().find_map(|line| line.strip_prefix(series));
        value.map_or(0.0, |value| value.trim().parse().unwrap())
    }

    /// The text a prompt alone is continued with, greedily.
    pub(crate) fn expected_text(&self, prompt: &str, count: usize) -> String {
        let prompt: Vec<Token> = prompt.bytes().map(|byte| Token(byte.into())).collect();
        text(&self.device.expected_tokens(&prompt, count))
    }

    /// The result of something that needs steps of a held device, which are let go one by one.
    pub(crate) async fn stepping<F: Future>(&self, work: F) -> F::Output {
        let steps = async {
            let mut launched = self.device.launched();
            loop {
                self.device.allow(1);
                launched.changed().await.unwrap();
                // Lets the runtime look at its sockets, which it does when it has nothing to run.
                tokio::task::spawn_blocking(|| {}).await.unwrap();
            }
        };
        tokio::select! {
            biased;
            done = soon(work) => done,
            never = steps => never,
        }
    }

    /// The decoder `tiny`.
    pub(crate) fn decoder(&self) -> &Decoder {
        let Served::Decoder(decoder) = &self.app.registry.models()[0] else {
            panic!("no decoder")
        };
        decoder
    }

    /// The encoder of this name.
    pub(crate) fn encoder(&self, name: &str) -> &Encoder {
        let models = self.app.registry.models().iter();
        let mut encoders = models.filter_map(|model| match model {
            Served::Encoder(encoder) => Some(encoder),
            Served::Decoder(_) => None,
        });
        encoders.find(|encoder| encoder.name == name).unwrap()
    }

    /// How often a file of a tokenizer was asked for.
    pub(crate) fn files_read(&self) -> usize {
        self.files_read.load(Ordering::Relaxed)
    }

    /// Waits until the decoder holds no block any more.
    pub(crate) async fn blocks_are_free(&self) {
        eventually(|| self.decoder().handle.stats().blocks_active == 0).await;
    }
}

fn text_tools(
    tokenizer: Option<Arc<dyn Tokenize>>,
    chat: Option<ChatTemplate>,
    files_read: &Arc<AtomicUsize>,
) -> TextTools {
    let files_read = Arc::clone(files_read);
    let limits = PoolLimits {
        text_bytes_max: 16 << 10,
        ..PoolLimits::default()
    };
    let pool = match tokenizer {
        Some(tokenizer) => TokenizerPool::new(tokenizer, limits),
        None => TokenizerPool::from_json(&byte_tokenizer::json(), limits).unwrap(),
    };
    let file = move |name: &str| {
        files_read.fetch_add(1, Ordering::Relaxed);
        match name {
            "tokenizer.json" => Some(byte_tokenizer::json().into()),
            // More than one part of an answer.
            "chat_template.jinja" => Some(vec![b'x'; 1 << 20].into()),
            _ => None,
        }
    };
    TextTools {
        pool,
        chat,
        files: Arc::new(file),
    }
}

fn decoder(device: &FakeDevice, text: TextTools, plan: Plan) -> Decoder {
    let limits = EngineLimits {
        step_tokens_max: 64,
        running_max: plan.running_max,
        waiting_max: plan.waiting_max,
        sequence_tokens_max: CONTEXT,
        preemptions_max: 8,
        depth_max: 1,
    };
    let factory = match plan.executors {
        Some(executors) => executors(device.clone()),
        None => device.executors(),
    };
    let mut config = EngineConfig::new("tiny", limits);
    config.clock = plan.clock;
    config.timeouts.step = plan.step_timeout;
    let (handle, _completion) = engine::start(factory, config);
    let facts = Facts {
        architecture: "Fake".to_owned(),
        dtype: "f32".to_owned(),
        parameters: 1000,
        vocab_size: VOCABULARY,
        context_tokens_max: CONTEXT,
        kv_block_tokens: 16,
        revision: REVISION.to_owned(),
        ..Facts::default()
    };
    Decoder {
        name: "tiny".to_owned(),
        facts,
        handle,
        text,
        end_tokens: vec![END],
    }
}

fn embedder(device: &FakeDevice, text: TextTools, plan: More) -> Encoder {
    let limits = EncodeLimits {
        batch_tokens_max: 256.max(plan.input_tokens_max),
        batch_inputs_max: 8,
        waiting_max: plan.waiting_max,
        input_tokens_max: plan.input_tokens_max,
    };
    let config = EncodeConfig::new(plan.name, limits);
    let (handle, _completion) = engine::start_encoder(device.encoders(), config);
    let facts = Facts {
        dtype: "f32".to_owned(),
        vocab_size: VOCABULARY,
        context_tokens_max: plan.input_tokens_max,
        width: plan.width,
        batch_tokens_max: limits.batch_tokens_max,
        batch_inputs_max: limits.batch_inputs_max,
        ..Facts::default()
    };
    Encoder {
        name: plan.name.to_owned(),
        facts,
        handle,
        text,
        task: plan.task,
        prompts: [("query".to_owned(), "query: ".to_owned())].into(),
        default_prompt: None,
    }
}

/// The letters of tokens.
pub(crate) fn text(tokens: &[Token]) -> String {
    tokens
        .iter()
        .map(|token| char::from(token.0 as u8))
        .collect()
}

/// The result of something that ends by itself; a test that hangs fails instead.
pub(crate) async fn soon<F: Future>(work: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(30), work)
        .await
        .expect("it does not end")
}

/// Waits until something that other threads bring about holds.
pub(crate) async fn eventually(holds: impl Fn() -> bool) {
    soon(async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// The reason of an error, and the field it names.
pub(crate) fn reason(status: &Status) -> (String, String) {
    let details = status.get_error_details();
    let info = details
        .error_info()
        .unwrap_or_else(|| panic!("no reason: {status:?}"));
    assert_eq!(info.domain, "paternoster.v1");
    let violations = details
        .bad_request()
        .map(|bad| bad.field_violations.clone());
    let field = violations
        .unwrap_or_default()
        .first()
        .map(|violation| violation.field.clone());
    (info.reason.clone(), field.unwrap_or_default())
}

/// A request for `max_tokens` tokens, whatever they are.
pub(crate) fn ask(prompt: &str, max_tokens: u32) -> v1::GenerateRequest {
    let mut request = paternoster_client::prompt(prompt, max_tokens);
    request.stopping.as_mut().unwrap().ignore_eos = true;
    request
}
