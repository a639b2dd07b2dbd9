//! Secrets and texts stand in nothing that the process says: not in its logs at their finest, its
//! metrics, its contract, its errors, nor in what a check of its configuration prints.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use futures_util::stream;
use paternoster_client::{Client, v1};
use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;
use tokio::sync::watch;
use tonic::Request;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic_reflection::pb::v1 as reflection;

use crate::world::soon;

/// What must stand nowhere, each from another place.
const KEY: &str = "canary-of-an-api-key-0001";
const WRONG_KEY: &str = "canary-of-a-wrong-key-0002";
const HUB_TOKEN: &str = "hf_canary0003OfTheHub";
const COLLECTOR: &str = "canary-of-the-collector-0004";
const PROMPT: &str = "canary-of-a-prompt-0005";
const METADATA: &str = "canary-of-metadata-0006";
const SALT: &str = "canary-of-a-salt-0007";
const TENANT: &str = "canary-of-a-tenant-0008";
const STOP: &str = "canary-of-a-stop-0009";

const MODEL: &str = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama",
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "vocab_size": 512, "max_position_embeddings": 128, "rms_norm_eps": 1e-5}"#;

/// A model, a certificate and its key.
struct Files {
    folder: TempDir,
    cert: String,
    key: String,
}

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let files = Self {
            cert: params.self_signed(&key).unwrap().pem(),
            key: key.serialize_pem(),
            folder,
        };
        std::fs::create_dir(files.path("model")).unwrap();
        std::fs::write(files.path("model/config.json"), MODEL).unwrap();
        std::fs::write(files.path("cert.pem"), &files.cert).unwrap();
        std::fs::write(files.path("key.pem"), &files.key).unwrap();
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `paternoster serve` with every secret there is.
    fn serve(&self, collector: &str) -> Command {
        let path = |name: &str| self.path(name).to_str().unwrap().to_owned();
        let mut command = Command::new(env!("CARGO_BIN_EXE_paternoster"));
        command
            .args([
                "serve",
                "--json-output",
                "--port",
                "0",
                "--load-format",
                "dummy",
            ])
            .args(["--model-id", &path("model"), "--api-key", KEY])
            .args([
                "--tls-cert",
                &path("cert.pem"),
                "--tls-key",
                &path("key.pem"),
            ])
            .args(["--uds-path", &path("socket"), "--otlp-endpoint", collector])
            .env_clear()
            .env("RUST_LOG", "trace")
            .env("HF_TOKEN", HUB_TOKEN)
            .env("HF_HOME", self.path("hub"))
            .env(
                "OTEL_EXPORTER_OTLP_HEADERS",
                format!("x-secret={COLLECTOR}"),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Every canary: the constants, and each line of the key.
    fn canaries(&self) -> Vec<String> {
        let lines = self.key.lines().filter(|line| !line.starts_with('-'));
        let constants = [
            KEY, WRONG_KEY, HUB_TOKEN, COLLECTOR, PROMPT, METADATA, SALT, TENANT, STOP,
        ];
        constants
            .into_iter()
            .chain(lines)
            .map(str::to_owned)
            .collect()
    }

    /// That none of them stands in a text, nor its bytes as numbers.
    fn absent_from(&self, what: &str, text: &str) {
        for canary in self.canaries() {
            let numbers: Vec<String> = canary.bytes().take(8).map(|b| b.to_string()).collect();
            let hex: String = {
                let bytes = canary.bytes().take(8);
                bytes.fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
            };
            for form in [canary.clone(), numbers.join(", "), numbers.join(","), hex] {
                let at = text
                    .find(&form)
                    .map(|at| text[..at].rfind('\n').unwrap_or(0));
                let line = at.and_then(|at| text[at..].trim_start().lines().next());
                assert_eq!(line, None, "{canary} stands in {what}");
            }
        }
    }
}

/// What a process says, line by line.
#[derive(Clone)]
struct Said {
    text: Arc<Mutex<String>>,
    /// Where it listens, once it is ready.
    address: watch::Sender<Option<String>>,
}

impl Said {
    fn follow(&self, output: impl Read + Send + 'static) -> JoinHandle<()> {
        let said = self.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                let line = line.unwrap();
                let json: Option<serde_json::Value> = serde_json::from_str(&line).ok();
                let ready = json.filter(|json| json["ready_ms"].is_number());
                if let Some(address) = ready.as_ref().and_then(|json| json["address"].as_str()) {
                    said.address.send_replace(Some(address.to_owned()));
                }
                let mut text = said.text.lock().unwrap();
                text.push_str(&line);
                text.push('\n');
            }
        })
    }
}

/// A server in a process of its own.
struct Process {
    child: Child,
    said: Said,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let said = Said {
            text: Arc::default(),
            address: watch::Sender::new(None),
        };
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let readers = vec![said.follow(stdout), said.follow(stderr)];
        Self {
            child,
            said,
            readers,
        }
    }

    /// A client that believes its certificate.
    async fn client(&self, cert: &str) -> Endpoint {
        let mut address = self.said.address.subscribe();
        let address = soon(address.wait_for(Option::is_some))
            .await
            .unwrap()
            .clone();
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(cert))
            .domain_name("localhost");
        let endpoint = Endpoint::from_shared(format!("https://{}", address.unwrap())).unwrap();
        endpoint.tls_config(tls).unwrap()
    }

    /// Drains it; answers everything it has said.
    fn end(mut self) -> String {
        let id = self.child.id().to_string();
        let told = Command::new("kill").args(["-TERM", &id]).status().unwrap();
        assert!(told.success());
        let status = self.child.wait().unwrap();
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        let text = self.said.text.lock().unwrap().clone();
        assert!(status.success(), "{status}: {text}");
        text
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It is over, unless the test has failed.
        drop(self.child.kill());
    }
}

/// A request with a key and more than it needs.
fn keyed<T>(key: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("authorization", format!("Bearer {key}").parse().unwrap());
    for name in ["cookie", "x-forwarded-for", "baggage", "tracestate"] {
        metadata.insert(name, METADATA.parse().unwrap());
    }
    metadata.insert_bin(
        "x-more-bin",
        tonic::metadata::MetadataValue::from_bytes(METADATA.as_bytes()),
    );
    request
}

fn ask(prompt: &str) -> v1::GenerateRequest {
    v1::GenerateRequest {
        cache_salt: SALT.to_owned(),
        stopping: Some(v1::Stopping {
            max_tokens: Some(2),
            stop: vec![STOP.to_owned()],
            ..v1::Stopping::default()
        }),
        input: Some(v1::generate_request::Input::Prompt(prompt.to_owned())),
        ..v1::GenerateRequest::default()
    }
}

/// Calls that go well and that do not; answers what their errors say.
async fn call(endpoint: &Endpoint) -> String {
    let channel = soon(endpoint.connect()).await.unwrap();
    let mut inference = Client::over(channel.clone()).inference();
    let answer = inference.complete(keyed(KEY, ask(PROMPT))).await.unwrap();
    assert!(!answer.get_ref().completions.is_empty());
    let text = v1::TokenizeRequest {
        input: Some(v1::tokenize_request::Input::Prompt(PROMPT.to_owned())),
        ..v1::TokenizeRequest::default()
    };
    inference.tokenize(keyed(KEY, text)).await.unwrap();
    let chat = v1::Chat {
        messages: vec![v1::ChatMessage {
            role: "user".to_owned(),
            content: PROMPT.to_owned(),
        }],
    };
    let conversation = v1::GenerateRequest {
        input: Some(v1::generate_request::Input::Chat(chat)),
        ..ask(PROMPT)
    };
    let foreign = v1::GenerateRequest {
        tenant: TENANT.to_owned(),
        ..ask(PROMPT)
    };
    let mut said = Vec::new();
    for request in [
        keyed(WRONG_KEY, ask(PROMPT)),
        keyed(KEY, ask(&PROMPT.repeat(100))),
        keyed(KEY, conversation),
        keyed(KEY, foreign),
    ] {
        let status = inference.complete(request).await.unwrap_err();
        said.push(format!("{status:?}"));
    }
    let ask = reflection::server_reflection_request::MessageRequest::FileContainingSymbol(
        "paternoster.v1.Inference".to_owned(),
    );
    let request = reflection::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(ask),
    };
    let mut client = reflection::server_reflection_client::ServerReflectionClient::new(channel);
    let answers = client.server_reflection_info(keyed(KEY, stream::iter([request])));
    let answer = answers.await.unwrap().into_inner().message().await;
    said.push(format!("{:?}", answer.unwrap()));
    said.join("\n")
}

/// `/metrics`, where it is not encrypted.
fn metrics(socket: &Path) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    page
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_and_no_text_is_said() {
    let files = Files::new();
    #[cfg(feature = "otlp")]
    let (collector, endpoint) = crate::traces::Collector::start().await;
    #[cfg(not(feature = "otlp"))]
    let endpoint = "http://127.0.0.1:9".to_owned();
    let checked = files
        .serve(&endpoint)
        .arg("--check-config")
        .output()
        .unwrap();
    let printed = [checked.stdout, checked.stderr].concat();
    let printed = String::from_utf8_lossy(&printed).into_owned();
    assert!(printed.contains("configuration ok"), "{printed}");
    files.absent_from("--check-config", &printed);

    let process = Process::start(files.serve(&endpoint));
    let endpoint = process.client(&files.cert).await;
    let answers = call(&endpoint).await;
    assert!(answers.contains("BAD_API_KEY") && answers.contains("CONTEXT_LENGTH_EXCEEDED"));
    files.absent_from("an answer", &answers);
    let page = metrics(&files.path("socket"));
    assert!(page.contains("paternoster_requests_total{method=\"Complete\",code=\"OK\"} 1"));
    files.absent_from("/metrics", &page);
    let said = process.end();
    for line in ["\"configuration\"", "server::journal", "\"TRACE\""] {
        assert!(said.contains(line), "nothing was logged at {line}");
    }
    files.absent_from("the log", &said);
    #[cfg(feature = "otlp")]
    files.absent_from("a span", &format!("{:?}", collector.spans()));
}
