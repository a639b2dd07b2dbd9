//! TLS: who is believed, and that certificates can be replaced while streams run.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use paternoster_client::Client;
use paternoster_client::v1::generate_response::Event;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use server::clock::EdgeClock;
use server::security::{Security, SecurityConfig, TlsFiles};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::world::{Plan, World, ask, eventually, soon};

/// Who signs certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
struct Pair {
    cert: String,
    key: String,
    der: CertificateDer<'static>,
}

impl Authority {
    fn named(name: &str) -> Self {
        Self::until(name, 2100)
    }

    /// One that ends with the year before.
    fn until(name: &str, year: i32) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    /// A new certificate of `localhost`, for servers and clients.
    fn sign(&self) -> Pair {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2090, 1, 1);
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.0).unwrap();
        Pair {
            cert: cert.pem(),
            key: key.serialize_pem(),
            der: cert.der().clone(),
        }
    }

    /// A client of HTTP/1.1 that trusts it.
    fn client(&self, identity: Option<Pair>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(Pair { key, der, .. }) => {
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![der], key).unwrap()
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config
    }

    fn trusted(&self) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(self.0.pem()))
            .domain_name("localhost")
    }
}

/// The files of a server.
struct Folder(TempDir);

impl Folder {
    fn with(pair: &Pair, clients: Option<&Authority>) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.replace(pair);
        if let Some(clients) = clients {
            std::fs::write(folder.path("ca.pem"), clients.0.pem()).unwrap();
        }
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// As a secret is replaced: each file whole, one after the other.
    fn replace(&self, pair: &Pair) {
        for (name, text) in [("cert.pem", &pair.cert), ("key.pem", &pair.key)] {
            let new = self.path("new");
            std::fs::write(&new, text).unwrap();
            std::fs::rename(new, self.path(name)).unwrap();
        }
    }

    fn files(&self) -> TlsFiles {
        let client_ca = self.path("ca.pem");
        TlsFiles {
            cert: self.path("cert.pem"),
            key: self.path("key.pem"),
            client_ca: client_ca.exists().then_some(client_ca),
        }
    }

    fn security(&self) -> Arc<Security> {
        let config = SecurityConfig {
            tls: Some(self.files()),
            ..SecurityConfig::default()
        };
        let mut security = Security::load(config, EdgeClock::default()).unwrap();
        security.reload_interval = Duration::from_millis(5);
        Arc::new(security)
    }
}

async fn world(folder: &Folder, trust: ClientTlsConfig) -> World {
    let mut plan = Plan {
        security: folder.security(),
        trust: Some(trust),
        ..Plan::default()
    };
    plan.limits.greeting_timeout = Duration::from_millis(500);
    World::ready_with(plan).await
}

/// Whether a client that shows itself so gets an answer.
async fn answered(world: &World, tls: ClientTlsConfig) -> bool {
    let endpoint = Endpoint::from_shared(format!("https://{}", world.address)).unwrap();
    let Ok(channel) = soon(endpoint.tls_config(tls).unwrap().connect()).await else {
        return false;
    };
    let mut inference = Client::over(channel).inference();
    soon(inference.complete(ask("hello", 1))).await.is_ok()
}

/// A connection that speaks HTTP/1.1, and what the server shows on it.
async fn shown(
    world: &World,
    authority: &Authority,
) -> (
    tokio_rustls::client::TlsStream<TcpStream>,
    CertificateDer<'static>,
) {
    let stream = TcpStream::connect(world.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let connect = TlsConnector::from(Arc::new(authority.client(None))).connect(name, stream);
    let stream = soon(connect).await.unwrap();
    let (_, session) = stream.get_ref();
    let leaf = session.peer_certificates().unwrap()[0].clone();
    (stream, leaf)
}

#[tokio::test]
async fn a_server_is_believed_for_its_certificate() {
    let authority = Authority::named("ours");
    let folder = Folder::with(&authority.sign(), None);
    let world = world(&folder, authority.trusted()).await;
    assert!(answered(&world, authority.trusted()).await);
    assert!(!answered(&world, Authority::named("other").trusted()).await);
    assert!(!answered(&world, authority.trusted().domain_name("elsewhere")).await);
    let before = world.measured("paternoster_connections_closed_total{reason=\"handshake\"}");
    let plain = world.get("/ready").await;
    assert!(!plain.contains("HTTP/"), "answered in plain: {plain}");
    let refused = || world.measured("paternoster_connections_closed_total{reason=\"handshake\"}");
    eventually(|| refused() > before).await;

    let (mut page, _) = shown(&world, &authority).await;
    let request = b"GET /ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    page.write_all(request).await.unwrap();
    let mut answer = String::new();
    soon(page.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // 2090-01-01.
    let series = "paternoster_tls_certificate_expiry_timestamp_seconds{certificate=\"server\"}";
    assert!((world.measured(series) - 3_786_912_000.0).abs() < 1.0);
}

#[tokio::test]
async fn a_client_needs_a_certificate_where_one_is_wanted() {
    let (ours, theirs) = (Authority::named("ours"), Authority::named("theirs"));
    let folder = Folder::with(&ours.sign(), Some(&theirs));
    let identity = |authority: &Authority| {
        let pair = authority.sign();
        ours.trusted()
            .identity(Identity::from_pem(pair.cert, pair.key))
    };
    let world = world(&folder, identity(&theirs)).await;
    assert!(answered(&world, identity(&theirs)).await);
    assert!(!answered(&world, ours.trusted()).await, "it shows nothing");
    assert!(!answered(&world, identity(&ours)).await);
    assert!(!answered(&world, identity(&Authority::named("theirs"))).await);
}

#[tokio::test]
async fn an_authority_that_has_expired_is_believed_no_more() {
    let ours = Authority::named("ours");
    let (expired, theirs) = (Authority::until("old", 2020), Authority::named("new"));
    let folder = Folder::with(&ours.sign(), Some(&expired));
    let both = format!("{}{}", expired.0.pem(), theirs.0.pem());
    std::fs::write(folder.path("ca.pem"), both).unwrap();
    let identity = |pair: Pair| {
        ours.trusted()
            .identity(Identity::from_pem(pair.cert, pair.key))
    };
    let world = world(&folder, identity(theirs.sign())).await;
    assert!(answered(&world, identity(theirs.sign())).await);
    assert!(!answered(&world, identity(expired.sign())).await);
}

/// A session that is taken up again shows no certificate.
#[tokio::test]
async fn where_clients_show_certificates_each_handshake_is_whole() {
    let (ours, theirs) = (Authority::named("ours"), Authority::named("theirs"));
    for clients in [None, Some(&theirs)] {
        let folder = Folder::with(&ours.sign(), clients);
        let pair = theirs.sign();
        let identity = Identity::from_pem(&pair.cert, &pair.key);
        let world = world(&folder, ours.trusted().identity(identity)).await;
        let config = Arc::new(ours.client(Some(pair)));
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let stream = TcpStream::connect(world.address).await.unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            let connect = TlsConnector::from(Arc::clone(&config)).connect(name, stream);
            let mut stream = soon(connect).await.unwrap();
            // What a session is taken up by comes with the first answer.
            let request = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
            stream.write_all(request).await.unwrap();
            let mut answer = String::new();
            soon(stream.read_to_string(&mut answer)).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            kinds.push(stream.get_ref().1.handshake_kind().unwrap());
        }
        let again = match clients {
            None => HandshakeKind::Resumed,
            Some(_) => HandshakeKind::Full,
        };
        assert_eq!(kinds, [HandshakeKind::Full, again]);
    }
}

#[tokio::test]
async fn certificates_are_replaced_a_hundred_times_under_a_stream() {
    let authority = Authority::named("ours");
    let folder = Folder::with(&authority.sign(), None);
    let world = world(&folder, authority.trusted()).await;
    world.device.hold();
    let mut running = world.client.generate(ask("hello", 300)).await.unwrap();
    for _ in 0..100 {
        let next = authority.sign();
        folder.replace(&next);
        // Files are looked at again and again; a handshake between two looks shows the old one.
        while shown(&world, &authority).await.1 != next.der {}
        world.device.allow(2);
    }
    assert!(answered_held(&world, &authority).await);
    world.device.release();
    let mut text = String::new();
    while let Some(event) = soon(running.next()).await.unwrap() {
        if let Event::Delta(delta) = event {
            text += &delta.text;
        }
    }
    assert_eq!(text, world.expected_text("hello", 300));
}

/// As [`answered`], while the device is held.
async fn answered_held(world: &World, authority: &Authority) -> bool {
    let endpoint = Endpoint::from_shared(format!("https://{}", world.address)).unwrap();
    let endpoint = endpoint.tls_config(authority.trusted()).unwrap();
    let client = Client::over(soon(endpoint.connect()).await.unwrap());
    client.embed(["hello"]).await.is_ok()
}

#[tokio::test]
async fn a_bad_pair_changes_nothing() {
    let authority = Authority::named("ours");
    let first = authority.sign();
    let folder = Folder::with(&first, None);
    let world = world(&folder, authority.trusted()).await;
    let failed = "paternoster_reloads_total{what=\"tls\",outcome=\"failed\"}";
    let second = authority.sign();
    for bad in [
        Pair {
            key: authority.sign().key,
            cert: second.cert.clone(),
            der: second.der.clone(),
        },
        Pair {
            cert: "no certificate".to_owned(),
            key: second.key.clone(),
            der: second.der.clone(),
        },
    ] {
        let before = world.measured(failed);
        folder.replace(&bad);
        eventually(|| world.measured(failed) > before).await;
        assert_eq!(shown(&world, &authority).await.1, first.der);
    }
    let before = world.measured(failed);
    std::fs::remove_file(folder.path("key.pem")).unwrap();
    world.app.security.reload();
    eventually(|| world.measured(failed) > before).await;
    assert_eq!(shown(&world, &authority).await.1, first.der);
    folder.replace(&second);
    while shown(&world, &authority).await.1 != second.der {}
    assert!(answered(&world, authority.trusted()).await);
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_cut_off() {
    let authority = Authority::named("ours");
    let folder = Folder::with(&authority.sign(), None);
    let world = world(&folder, authority.trusted()).await;
    // The beginning of a hello of 512 bytes.
    let hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    let mut streams = Vec::new();
    for length in 0..hello.len() {
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        stream.write_all(&hello[..length]).await.unwrap();
        streams.push(stream);
    }
    assert!(answered(&world, authority.trusted()).await);
    for mut stream in streams {
        let mut answer = Vec::new();
        let _read = soon(stream.read_to_end(&mut answer)).await;
        assert!(answer.is_empty());
    }
}

#[tokio::test]
async fn the_health_command_speaks_tls() {
    let (ours, theirs) = (Authority::named("ours"), Authority::named("theirs"));
    let folder = Folder::with(&ours.sign(), Some(&theirs));
    let client = theirs.sign();
    let identity = Identity::from_pem(&client.cert, &client.key);
    let world = world(&folder, ours.trusted().identity(identity)).await;
    for (name, text) in [
        ("ours.pem", ours.0.pem()),
        ("client.pem", client.cert),
        ("client.key", client.key),
    ] {
        std::fs::write(folder.path(name), text).unwrap();
    }
    let code = async |ca: Option<&str>, client: Option<&str>| {
        let path = |name: &str| Some(folder.path(name));
        let args = server::args::health::HealthArgs {
            addr: Some(world.address.to_string()),
            health_port: None,
            port: 1,
            service: String::new(),
            timeout: Duration::from_secs(5),
            tls_ca: ca.and_then(path),
            tls_server_name: Some("localhost".to_owned()),
            tls_client_cert: client.and_then(path),
            tls_client_key: client.and_then(|_| path("client.key")),
        };
        server::probe::ask(&args).await.code_and_text().0
    };
    assert_eq!(code(Some("ours.pem"), Some("client.pem")).await, 0);
    assert_ne!(code(Some("ours.pem"), None).await, 0);
    assert_ne!(code(None, None).await, 0);
    assert_eq!(code(Some("missing.pem"), None).await, 1);
}

#[test]
fn files_that_cannot_be_used_are_named_and_not_quoted() {
    let authority = Authority::named("ours");
    let pair = authority.sign();
    let folder = Folder::with(&pair, Some(&authority));
    let load = |config: TlsFiles| {
        let config = SecurityConfig {
            tls: Some(config),
            ..SecurityConfig::default()
        };
        Security::load(config, EdgeClock::default()).map(|_| ())
    };
    load(folder.files()).unwrap();
    std::fs::write(folder.path("canary.pem"), "canary").unwrap();
    let (files, bad) = (folder.files(), folder.path("canary.pem"));
    let names = |error: server::security::LoadError, path: &Path| {
        assert_eq!(error.path, path);
        assert!(!error.message.contains("canary"), "{error}");
    };
    let mut config = files.clone();
    config.cert.clone_from(&bad);
    names(load(config).unwrap_err(), &bad);
    let mut config = files.clone();
    config.key.clone_from(&bad);
    names(load(config).unwrap_err(), &bad);
    let mut config = files.clone();
    config.client_ca = Some(bad.clone());
    names(load(config).unwrap_err(), &bad);
    let mut config = files;
    config.key = folder.path("missing.pem");
    names(load(config).unwrap_err(), &folder.path("missing.pem"));
}
