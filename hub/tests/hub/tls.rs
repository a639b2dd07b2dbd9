//! A hub that is not who it says it is: that is said at once, because it will be the same the next
//! time; what is in the cache is served all the same.

use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hub::HubError;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection};

use crate::server::{FakeHub, assert_whole};

/// A certificate for these names, as a server and as a file have it.
struct Identity {
    server: Arc<ServerConfig>,
    pem: String,
}

impl Identity {
    fn of(name: &str, is_expired: bool) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        if is_expired {
            params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        }
        let certificate = params.self_signed(&key).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )
            .unwrap();
        Self {
            server: Arc::new(server),
            pem: certificate.pem(),
        }
    }
}

/// Shakes hands with whoever comes, and says nothing more; counts them.
fn listen(identity: Option<&Identity>) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let (counted, config) = (
        Arc::clone(&count),
        identity.map(|it| Arc::clone(&it.server)),
    );
    // It ends with the process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            counted.fetch_add(1, Ordering::SeqCst);
            answer(stream.unwrap(), config.clone());
        }
    });
    (address, count)
}

fn answer(mut stream: TcpStream, config: Option<Arc<ServerConfig>>) {
    let Some(config) = config else {
        // Whatever was asked, this is not TLS.
        let mut hello = [0; 16];
        drop(stream.read(&mut hello));
        drop(std::io::Write::write_all(
            &mut stream,
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
        ));
        return;
    };
    let mut connection = ServerConnection::new(config).unwrap();
    while connection.is_handshaking() {
        if connection.complete_io(&mut stream).is_err() {
            return;
        }
    }
}

#[test]
fn whoever_cannot_be_trusted_is_asked_once() {
    let good = Identity::of("127.0.0.1", false);
    let other = Identity::of("hub.example", false);
    let old = Identity::of("127.0.0.1", true);
    let cases: [(Option<&Identity>, Option<&Identity>, &str); 4] = [
        (Some(&good), None, "UnknownIssuer"),
        (Some(&other), Some(&other), "not valid for name"),
        (Some(&old), Some(&old), "expired"),
        (None, None, "it does not speak TLS"),
    ];
    for (server, trusted, message) in cases {
        let (address, count) = listen(server);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("trusted.pem");
        let mut variables = vec![("HF_ENDPOINT", address.as_str())];
        if let Some(trusted) = trusted {
            std::fs::write(&file, &trusted.pem).unwrap();
            variables.push(("SSL_CERT_FILE", file.to_str().unwrap()));
        }
        let client = FakeHub::start().client_with(&folder.path().join("cache"), &variables);
        let error = client.fetch("main").unwrap_err();
        assert!(matches!(error, HubError::Tls { .. }), "{error:?}");
        assert!(error.to_string().contains(message), "{message}: {error}");
        assert_eq!(error.exit_code(), 74);
        assert_eq!(count.load(Ordering::SeqCst), 1, "{message}");
        assert!(client.clock.waits().is_empty(), "{message}");
    }
}

#[test]
fn the_cache_serves_without_a_hub_that_can_be_trusted() {
    let (hub, folder) = (FakeHub::start(), tempfile::tempdir().unwrap());
    let cache: &Path = folder.path();
    let before = hub.client(cache).fetch("main").unwrap();
    let (address, _) = listen(Some(&Identity::of("127.0.0.1", false)));
    let client = hub.client_with(cache, &[("HF_ENDPOINT", address.as_str())]);
    let snapshot = client.fetch("main").unwrap();
    assert_eq!(snapshot.commit, before.commit);
    assert_whole(&snapshot);
    assert_eq!(
        client.seen.count("Warning"),
        1,
        "{:?}",
        client.seen.events()
    );
    assert!(client.clock.waits().is_empty());
}
