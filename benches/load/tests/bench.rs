//! `paternoster bench` against a server in this process that remembers what it was asked.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::future;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use clap::Parser;
use load::args::BenchArgs;
use load::command::{BenchError, measure};
use load::report::Report;
use paternoster_client::v1::generate_request::Input;
use paternoster_client::v1::generate_response::Event;
use paternoster_client::v1::inference_server::{Inference, InferenceServer};
use paternoster_client::v1::{self, GenerateRequest, GenerateResponse};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::sync::watch;
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What the server does with a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    /// Three tokens, and the end.
    Answers,
    /// Two tokens, and nothing more for ever.
    Waits,
    /// It fails after the first token.
    Breaks,
}

#[derive(Clone)]
struct Remembering {
    does: Does,
    asked: Arc<Mutex<Vec<(MetadataMap, GenerateRequest)>>>,
    /// Streams that were left before their end.
    left: Arc<watch::Sender<u64>>,
    embedded: Arc<AtomicU64>,
}

/// Counts a stream that is dropped.
struct Left(Arc<watch::Sender<u64>>);

impl Drop for Left {
    fn drop(&mut self) {
        self.0.send_modify(|left| *left += 1);
    }
}

fn tokens(count: usize) -> Event {
    Event::Delta(v1::Delta {
        token_ids: vec![7; count],
        ..v1::Delta::default()
    })
}

#[tonic::async_trait]
impl Inference for Remembering {
    type GenerateStream = Answers<GenerateResponse>;
    type EmbedStreamStream = Answers<v1::EmbedResponse>;

    async fn generate(
        &self,
        request: Request<GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        let (metadata, _, message) = request.into_parts();
        self.asked.lock().unwrap().push((metadata, message));
        let started = Event::Started(v1::Started::default());
        let mut events = vec![Ok(started), Ok(tokens(1))];
        match self.does {
            Does::Answers => {
                events.push(Ok(tokens(2)));
                events.push(Ok(Event::Finished(v1::Finished::default())));
            }
            Does::Waits => events.push(Ok(tokens(1))),
            Does::Breaks => events.push(Err(Status::unavailable("as told"))),
        }
        let events = tokio_stream::iter(events)
            .map(|event| event.map(|event| GenerateResponse { event: Some(event) }));
        if self.does != Does::Waits {
            return Ok(Response::new(Box::pin(events)));
        }
        let left = Left(Arc::clone(&self.left));
        let never = tokio_stream::pending().map(move |event| {
            let _held = &left;
            event
        });
        Ok(Response::new(Box::pin(events.chain(never))))
    }

    async fn embed(
        &self,
        request: Request<v1::EmbedRequest>,
    ) -> Result<Response<v1::EmbedResponse>, Status> {
        self.embedded.fetch_add(1, Ordering::Relaxed);
        let inputs = request.into_inner().inputs;
        Ok(Response::new(v1::EmbedResponse {
            embeddings: vec![v1::Embedding::default(); inputs.len()],
            ..v1::EmbedResponse::default()
        }))
    }

    async fn complete(
        &self,
        _: Request<GenerateRequest>,
    ) -> Result<Response<v1::CompleteResponse>, Status> {
        future::pending().await
    }

    async fn embed_stream(
        &self,
        _: Request<Streaming<v1::EmbedRequest>>,
    ) -> Result<Response<Self::EmbedStreamStream>, Status> {
        future::pending().await
    }

    async fn rerank(
        &self,
        _: Request<v1::RerankRequest>,
    ) -> Result<Response<v1::RerankResponse>, Status> {
        future::pending().await
    }

    async fn classify(
        &self,
        _: Request<v1::ClassifyRequest>,
    ) -> Result<Response<v1::ClassifyResponse>, Status> {
        future::pending().await
    }

    async fn tokenize(
        &self,
        _: Request<v1::TokenizeRequest>,
    ) -> Result<Response<v1::TokenizeResponse>, Status> {
        future::pending().await
    }

    async fn detokenize(
        &self,
        _: Request<v1::DetokenizeRequest>,
    ) -> Result<Response<v1::DetokenizeResponse>, Status> {
        future::pending().await
    }
}

/// Starts a server; it, and its address.
fn serve(does: Does, tls: Option<ServerTlsConfig>) -> (Remembering, String) {
    let server = Remembering {
        does,
        asked: Arc::default(),
        left: Arc::default(),
        embedded: Arc::default(),
    };
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap().to_string();
    let mut builder = Server::builder();
    if let Some(tls) = tls {
        builder = builder.tls_config(tls).unwrap();
    }
    let router = builder.add_service(InferenceServer::new(server.clone()));
    tokio::spawn(router.serve_with_incoming(incoming));
    (server, address)
}

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    bench: BenchArgs,
}

async fn bench(address: &str, flags: &[&str]) -> Result<Report, BenchError> {
    let words = ["bench", "--quiet", "--addr", address];
    let Cli { bench } = Cli::try_parse_from(words.iter().chain(flags)).unwrap();
    measure(&bench, CancellationToken::new()).await
}

#[tokio::test]
async fn what_flags_ask_for_is_sent() {
    let (server, address) = serve(Does::Answers, None);
    let flags = "-n 20 -c 4 --connections 2 --model m --max-tokens 9 --ignore-eos --deadlines 50% \
                 --deadline 1500ms --embed 25% --api-key secret --prompt-tokens 5";
    let mut flags: Vec<&str> = flags.split(' ').filter(|flag| !flag.is_empty()).collect();
    flags.extend(["--header", "x-tenant-id: blue"]);
    let report = bench(&address, &flags).await.unwrap();
    let asked = server.asked.lock().unwrap();
    assert_eq!(report.requests.completed, asked.len() as u64);
    assert_eq!(
        report.requests.embedded,
        server.embedded.load(Ordering::Relaxed)
    );
    assert_eq!(report.requests.completed + report.requests.embedded, 20);
    assert_eq!(report.tokens.output, 3 * report.requests.completed);
    assert_eq!(report.latencies.ttft.count, report.requests.completed);
    assert_eq!(report.latencies.itl.count, 2 * report.requests.completed);
    let mut hurried = 0;
    for (metadata, request) in &*asked {
        assert_eq!(metadata.get("authorization").unwrap(), "Bearer secret");
        assert_eq!(metadata.get("x-tenant-id").unwrap(), "blue");
        assert_eq!(request.model, "m");
        let stopping = request.stopping.as_ref().unwrap();
        assert_eq!((stopping.max_tokens, stopping.ignore_eos), (Some(9), true));
        let Some(Input::Prompt(text)) = &request.input else {
            panic!("no prompt: {request:?}")
        };
        assert_eq!(text.split(' ').count(), 5);
        match request.deadline_ms {
            Some(1500) => hurried += 1,
            other => assert_eq!(other, None),
        }
    }
    assert!(
        hurried > 0 && hurried < asked.len(),
        "{hurried} of {}",
        asked.len()
    );
}

#[tokio::test]
async fn a_request_that_is_left_or_overdue_ends_at_the_server() {
    for (flags, left, overdue) in [
        (
            &[
                "-n",
                "6",
                "-c",
                "3",
                "--cancel",
                "100%",
                "--cancel-after",
                "2",
            ][..],
            6,
            0,
        ),
        (&["-n", "4", "-c", "4", "--timeout", "20ms"], 0, 4),
    ] {
        let (server, address) = serve(Does::Waits, None);
        let report = bench(&address, flags).await.unwrap();
        assert_eq!(
            (report.requests.left, report.requests.failed),
            (left, overdue)
        );
        assert!(report.errors.iter().all(|error| error.code == "TIMEOUT"));
        // A call that ran out of time may not have arrived.
        let begun = server.asked.lock().unwrap().len() as u64;
        let mut seen = server.left.subscribe();
        seen.wait_for(|seen| *seen >= begun).await.unwrap();
        assert!(overdue > 0 || begun == left);
    }
}

#[tokio::test]
async fn a_failure_is_counted_and_never_tried_again() {
    let (server, address) = serve(Does::Breaks, None);
    let report = bench(&address, &["-n", "5", "-c", "1"]).await.unwrap();
    assert_eq!((report.requests.failed, report.requests.begun), (5, 5));
    assert_eq!(server.asked.lock().unwrap().len(), 5);
    assert_eq!(
        (report.latencies.ttft.count, report.latencies.e2e.count),
        (5, 0)
    );
    assert_eq!(report.errors[0].code, "UNAVAILABLE");
}

/// An authority, in a folder with what it vouches for: a server and a client.
fn authority(folder: &Path) -> ServerTlsConfig {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    write("ca.pem", &authority.pem());
    let mut identities = ["lift.example", "client.example"].map(|name| {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        (certificate.pem(), key.serialize_pem())
    });
    write("client.pem", &identities[1].0);
    write("client.key", &identities[1].1);
    let (certificate, key) = std::mem::take(&mut identities[0]);
    ServerTlsConfig::new()
        .identity(Identity::from_pem(certificate, key))
        .client_ca_root(Certificate::from_pem(authority.pem()))
}

#[tokio::test]
async fn tls_is_spoken_with_certificates_of_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let (_, address) = serve(Does::Answers, Some(authority(folder.path())));
    authority(other.path());
    let file = |folder: &Path, name: &str| folder.join(name).to_str().unwrap().to_owned();
    let own = |folder: &Path| {
        vec![
            "--tls-client-cert".to_owned(),
            file(folder, "client.pem"),
            "--tls-client-key".to_owned(),
            file(folder, "client.key"),
        ]
    };
    let trust = |folder: &Path, name: &str| {
        let flags = [
            "-n",
            "4",
            "-c",
            "2",
            "--connections",
            "2",
            "--tls-server-name",
            name,
        ];
        let mut flags = flags.map(str::to_owned).to_vec();
        flags.extend(["--tls-ca".to_owned(), file(folder, "ca.pem")]);
        flags
    };
    let ask = async |flags: Vec<String>| {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        match bench(&address, &flags).await {
            Ok(report) => report.requests.completed,
            Err(error) => {
                assert_eq!(error.exit_code(), 2, "{error}");
                0
            }
        }
    };
    let (here, there) = (folder.path(), other.path());
    let good = [trust(here, "lift.example"), own(here)].concat();
    assert_eq!(ask(good).await, 4);
    for bad in [
        [trust(here, "stairs.example"), own(here)].concat(),
        [trust(there, "lift.example"), own(here)].concat(),
        [trust(here, "lift.example"), own(there)].concat(),
        trust(here, "lift.example"),
        vec!["-n".to_owned(), "4".to_owned()],
    ] {
        assert_eq!(ask(bad.clone()).await, 0, "{bad:?}");
    }
    let whom = bench(&format!("https://{address}"), &[]).await.unwrap_err();
    assert_eq!(whom.exit_code(), 78, "{whom}");
    let missing = bench(&address, &["--tls-ca", "/none"]).await.unwrap_err();
    assert_eq!(missing.exit_code(), 78, "{missing}");
}
