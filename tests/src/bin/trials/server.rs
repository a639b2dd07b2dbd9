//! A `paternoster serve` process, and what the system says of it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use paternoster_client::Client;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::clock::Stopwatch;
use crate::metrics::Metrics;

/// What is waited for a thing that takes a moment: ten times what the slowest of them may take.
pub(crate) const LONG: Duration = Duration::from_secs(310);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    /// HOST:PORT.
    pub(crate) address: String,
}

impl Server {
    /// Serves the demo models: tiny, thousands of tokens a second.
    pub(crate) async fn demo(flags: &[&str]) -> Self {
        Self::start(flags).await
    }

    /// Serves random weights of a real size: a hundred steps a second.
    pub(crate) async fn heavy(flags: &[&str]) -> Self {
        let folder = heavy_folder();
        let model = format!("heavy={}", folder.display());
        let dummy = ["--model-id", &model, "--load-format", "dummy"];
        Self::start(&[&dummy, flags].concat()).await
    }

    async fn start(flags: &[&str]) -> Self {
        let port = free_port();
        let log = scratch().join(format!("server-{port}.log"));
        let child = Command::new(beside("paternoster"))
            .args(["serve", "--port", &port.to_string()])
            .args(flags)
            .env("RUST_LOG", "warn")
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .expect("target/release/paternoster is built");
        let mut server = Self {
            child,
            address: format!("127.0.0.1:{port}"),
        };
        while !server.get("/ready").await.starts_with("HTTP/1.1 200") {
            if let Some(status) = server.child.try_wait().unwrap() {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                panic!("the server ended with {status}: {said}");
            }
            tokio::time::sleep(LOOK).await;
        }
        server
    }

    /// Opens connections.
    pub(crate) async fn connect(&self, count: usize) -> Vec<Client> {
        let mut clients = Vec::new();
        for _ in 0..count {
            clients.push(
                Client::connect(format!("http://{}", self.address))
                    .await
                    .unwrap(),
            );
        }
        clients
    }

    /// A page; empty where the server does not answer.
    async fn get(&self, path: &str) -> String {
        let asked = async {
            let mut stream = TcpStream::connect(&self.address).await?;
            let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut page = Vec::new();
            stream.read_to_end(&mut page).await?;
            std::io::Result::Ok(String::from_utf8_lossy(&page).into_owned())
        };
        asked.await.unwrap_or_default()
    }

    pub(crate) async fn metrics(&self) -> Metrics {
        Metrics::parse(&self.get("/metrics").await)
    }

    /// Waits until something holds; how long that took, or `None` after a long time.
    pub(crate) async fn until(&self, holds: impl Fn(&Metrics) -> bool) -> Option<u64> {
        let begun = Stopwatch::start();
        while begun.elapsed() < LONG {
            let metrics = self.metrics().await;
            // A page that did not come says nothing.
            if metrics.series() > 0 && holds(&metrics) {
                return Some(begun.ms());
            }
            tokio::time::sleep(LOOK).await;
        }
        None
    }

    /// Bytes of memory that are really there.
    pub(crate) fn rss(&self) -> u64 {
        let status = self.proc("status");
        let status = std::fs::read_to_string(status).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        kib.unwrap_or(0) << 10
    }

    /// Open file descriptors.
    pub(crate) fn fds(&self) -> u64 {
        std::fs::read_dir(self.proc("fd")).map_or(0, |entries| entries.count() as u64)
    }

    fn proc(&self, name: &str) -> PathBuf {
        Path::new("/proc")
            .join(self.child.id().to_string())
            .join(name)
    }

    /// Sends a signal, as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    /// Waits for the end of the process; its exit code, or `None` after a long time.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        let begun = Stopwatch::start();
        while begun.elapsed() < LONG {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            tokio::time::sleep(LOOK).await;
        }
        None
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Sends a signal to a process.
pub(crate) fn signal(process: u32, name: &str) {
    let command = format!("kill -{name} {process}");
    let sent = Command::new("sh").args(["-c", &command]).status();
    assert!(sent.unwrap().success(), "{command}");
}

/// A program of the same build.
pub(crate) fn beside(name: &str) -> PathBuf {
    std::env::current_exe().unwrap().with_file_name(name)
}

fn free_port() -> u16 {
    let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    probe.local_addr().unwrap().port()
}

fn scratch() -> PathBuf {
    let folder = beside("trials-data");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// 118 million parameters, a long context, and 2 KiB of KV a token, so that many streams run for
/// long in little memory.
fn heavy_folder() -> PathBuf {
    let folder = scratch().join("heavy");
    std::fs::create_dir_all(&folder).unwrap();
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "vocab_size": 2048,
        "num_hidden_layers": 8,
        "num_attention_heads": 16,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "max_position_embeddings": 16384,
        "tie_word_embeddings": true,
        "torch_dtype": "bfloat16",
        "eos_token_id": 0,
        "bos_token_id": 1,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    folder
}
