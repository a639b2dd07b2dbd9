//! A hub in this process: one port with the hub's routes, which redirects large files to a second
//! port, the content network. A hook may answer in its place.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use hub::clock::{Clock, Stop};
use hub::observe::{Event, Observer};
use hub::{Hub, HubError, Settings, Snapshot, Want};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

pub(crate) const MODEL: &str = "org/tiny";
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub(crate) const TOKEN: &str = "hf_canary_0123456789";

/// The repository: large files are those of safetensors.
pub(crate) fn files() -> BTreeMap<String, Vec<u8>> {
    let text = |text: &str| text.as_bytes().to_vec();
    let index = r#"{"weight_map": {"a": "model-00001-of-00002.safetensors",
                                    "b": "model-00002-of-00002.safetensors"}}"#;
    BTreeMap::from([
        (".gitattributes".to_owned(), text("* text")),
        ("1_Pooling/config.json".to_owned(), text("{}")),
        ("README.md".to_owned(), text("# Tiny")),
        ("config.json".to_owned(), text(r#"{"architectures": []}"#)),
        (
            "model-00001-of-00002.safetensors".to_owned(),
            noise(1, 300_000),
        ),
        (
            "model-00002-of-00002.safetensors".to_owned(),
            noise(2, 200_000),
        ),
        ("model.safetensors.index.json".to_owned(), text(index)),
        ("pytorch_model.bin".to_owned(), noise(3, 100)),
        ("tokenizer.json".to_owned(), text(r#"{"version": "1.0"}"#)),
        ("tokenizer_config.json".to_owned(), text("{}")),
    ])
}

/// Those of them that are downloaded.
pub(crate) const NEEDED: [&str; 7] = [
    "1_Pooling/config.json",
    "config.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

pub(crate) const SHARD: &str = "model-00001-of-00002.safetensors";

fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed;
    let mut byte = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    };
    (0..count).map(|_| byte()).collect()
}

fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(value.into(), 16).unwrap();
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(digit).collect()
}

fn is_large(path: &str) -> bool {
    let ending = path.rsplit('.').next();
    matches!(ending, Some("safetensors" | "bin"))
}

/// The name that a file has among the blobs.
pub(crate) fn blob(path: &str, bytes: &[u8]) -> String {
    if is_large(path) {
        return hex(&Sha256::digest(bytes));
    }
    let mut hasher = Sha1::new();
    hasher.update(format!("blob {}\0", bytes.len()));
    hasher.update(bytes);
    hex(&hasher.finalize())
}

/// What was asked.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Of the content network, and not of the hub.
    pub(crate) is_cdn: bool,
    /// With its query.
    pub(crate) path: String,
    /// In lower case.
    pub(crate) headers: BTreeMap<String, String>,
}

impl Request {
    pub(crate) fn is_for(&self, file: &str) -> bool {
        let path = self.path.split('?').next().unwrap();
        path.ends_with(&format!("/resolve/{COMMIT}/{file}"))
    }

    /// The first byte that is asked for.
    pub(crate) fn offset(&self) -> Option<usize> {
        let range = self.headers.get("range")?.strip_prefix("bytes=")?;
        range.strip_suffix('-')?.parse().ok()
    }
}

/// What is answered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// The connection ends after so many bytes of the body.
    pub(crate) cut: Option<usize>,
}

impl Answer {
    pub(crate) fn status(status: u16) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    pub(crate) fn body(body: impl Into<Vec<u8>>) -> Self {
        Self {
            status: 200,
            body: body.into(),
            ..Self::default()
        }
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn cut(mut self, bytes: usize) -> Self {
        self.cut = Some(bytes);
        self
    }
}

type Hook = dyn Fn(&Request, &Contents) -> Option<Answer> + Send + Sync;

/// What the hub has and where its content network is.
pub(crate) struct Contents {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    pub(crate) hub: String,
    pub(crate) cdn: String,
    requests: Mutex<Vec<Request>>,
    hook: Box<Hook>,
}

pub(crate) struct FakeHub {
    pub(crate) contents: Arc<Contents>,
    closing: Arc<AtomicBool>,
    acceptors: Vec<(SocketAddr, JoinHandle<()>)>,
}

impl FakeHub {
    /// Serves the repository as a hub should.
    pub(crate) fn start() -> Self {
        Self::with(files(), |_, _| None)
    }

    /// The same, but `hook` may answer first.
    pub(crate) fn hooked(
        hook: impl Fn(&Request, &Contents) -> Option<Answer> + Send + Sync + 'static,
    ) -> Self {
        Self::with(files(), hook)
    }

    /// Serves these files.
    pub(crate) fn with(
        files: BTreeMap<String, Vec<u8>>,
        hook: impl Fn(&Request, &Contents) -> Option<Answer> + Send + Sync + 'static,
    ) -> Self {
        let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
        let listeners = [listen(), listen()];
        let [hub, cdn] = listeners
            .each_ref()
            .map(|listener| listener.local_addr().unwrap());
        let contents = Arc::new(Contents {
            files,
            hub: format!("http://{hub}"),
            cdn: format!("http://{cdn}"),
            requests: Mutex::default(),
            hook: Box::new(hook),
        });
        let closing = Arc::new(AtomicBool::new(false));
        let accept = |(listener, is_cdn): (TcpListener, bool)| {
            let address = listener.local_addr().unwrap();
            let (contents, closing) = (Arc::clone(&contents), Arc::clone(&closing));
            let thread = std::thread::spawn(move || {
                for stream in listener.incoming() {
                    if closing.load(Ordering::SeqCst) {
                        return;
                    }
                    let contents = Arc::clone(&contents);
                    // A client that goes away is none of our business.
                    std::thread::spawn(move || drop(serve(&stream.unwrap(), is_cdn, &contents)));
                }
            });
            (address, thread)
        };
        let [hub, cdn] = listeners;
        let acceptors = [(hub, false), (cdn, true)].map(accept).into();
        Self {
            contents,
            closing,
            acceptors,
        }
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.contents.requests.lock().unwrap().clone()
    }

    /// How often contents of a file were sent.
    pub(crate) fn sent(&self, file: &str) -> usize {
        let requests = self.requests();
        let sent = requests
            .iter()
            .filter(|request| request.is_for(file) && request.is_cdn == is_large(file));
        sent.count()
    }

    /// Settings for this hub, with a cache and with more variables.
    pub(crate) fn settings(&self, cache: &Path, more: &[(&str, &str)]) -> Settings {
        let endpoint = [("HF_ENDPOINT", self.contents.hub.as_str())];
        let variable = |name: &str| {
            let pairs = more.iter().chain(&endpoint);
            let mut found = pairs.filter(|(key, _)| *key == name);
            found.next().map(|(_, value)| OsString::from(value))
        };
        Settings::from_variables(variable, Some(cache.to_owned())).unwrap()
    }

    pub(crate) fn client(&self, cache: &Path) -> Client {
        self.client_with(cache, &[])
    }

    pub(crate) fn client_with(&self, cache: &Path, more: &[(&str, &str)]) -> Client {
        let clock = Arc::new(TestClock::default());
        let settings = self.settings(cache, more);
        Client {
            hub: Hub::with_clock(settings, Arc::clone(&clock) as Arc<dyn Clock>).unwrap(),
            clock,
            seen: Seen::default(),
        }
    }
}

impl Drop for FakeHub {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::SeqCst);
        for (address, thread) in self.acceptors.drain(..) {
            // Wakes the acceptor.
            drop(TcpStream::connect(address));
            thread.join().unwrap();
        }
    }
}

/// A client by a clock of its own, and what it told.
pub(crate) struct Client {
    pub(crate) hub: Hub,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) seen: Seen,
}

impl Client {
    pub(crate) fn fetch(&self, revision: &str) -> Result<Snapshot, HubError> {
        self.fetch_so_much(revision, Want::Everything)
    }

    pub(crate) fn fetch_so_much(&self, revision: &str, want: Want) -> Result<Snapshot, HubError> {
        let model = MODEL.parse().unwrap();
        self.hub.fetch(&model, &revision.parse()?, want, &self.seen)
    }
}

/// Passes time at once and remembers how much.
#[derive(Debug, Default)]
pub(crate) struct TestClock(Mutex<Vec<Duration>>);

impl TestClock {
    pub(crate) fn waits(&self) -> Vec<Duration> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn pass(&self, time: Duration) {
        self.0.lock().unwrap().push(time);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Duration {
        self.0.lock().unwrap().iter().sum()
    }

    fn date(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }

    fn wait(&self, time: Duration, _: &Stop) {
        self.pass(time);
        std::thread::yield_now();
    }
}

/// Everything that was told, as text.
#[derive(Debug, Default)]
pub(crate) struct Seen(Mutex<Vec<String>>);

impl Seen {
    pub(crate) fn events(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn count(&self, kind: &str) -> usize {
        let events = self.events();
        events
            .iter()
            .filter(|event| event.starts_with(kind))
            .count()
    }
}

impl Observer for Seen {
    fn note(&self, event: &Event<'_>) {
        self.0.lock().unwrap().push(format!("{event:?}"));
    }
}

/// Every file below a folder with its contents, links followed.
pub(crate) fn tree(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap();
                let name = name.to_str().unwrap().to_owned();
                found.insert(name, std::fs::read(&path).unwrap_or_default());
            }
        }
    }
    found
}

/// That a folder holds what the hub has of the needed files, and nothing else.
pub(crate) fn assert_whole(snapshot: &Snapshot) {
    let mut expected = files();
    expected.retain(|name, _| NEEDED.contains(&name.as_str()));
    assert!(tree(&snapshot.folder) == expected, "{snapshot:?}");
}

/// The file of a shard's bytes among the blobs.
pub(crate) fn shard_blob(cache: &Path) -> std::path::PathBuf {
    let blobs = cache.join("models--org--tiny/blobs");
    blobs.join(blob(SHARD, &files()[SHARD]))
}

fn serve(stream: &TcpStream, is_cdn: bool, contents: &Contents) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.to_owned()),
            None => break,
        };
    }
    let request = Request {
        is_cdn,
        path,
        headers,
    };
    contents.requests.lock().unwrap().push(request.clone());
    let hooked = (contents.hook)(&request, contents);
    let answer = hooked.unwrap_or_else(|| contents.answer(&request));
    send(stream, &answer)
}

fn send(mut stream: &TcpStream, answer: &Answer) -> std::io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {} X\r\nconnection: close\r\n",
        answer.status
    )?;
    let told = |name: &str| answer.headers.iter().any(|(header, _)| *header == name);
    if !told("content-length") && !told("transfer-encoding") {
        write!(stream, "content-length: {}\r\n", answer.body.len())?;
    }
    for (name, value) in &answer.headers {
        write!(stream, "{name}: {value}\r\n")?;
    }
    let cut = answer.cut.unwrap_or(answer.body.len());
    stream.write_all(b"\r\n")?;
    stream.write_all(&answer.body[..cut])?;
    stream.flush()
}

impl Contents {
    /// What a hub and its content network answer.
    pub(crate) fn answer(&self, request: &Request) -> Answer {
        let path = request.path.split('?').next().unwrap();
        if let Some(rest) = path.strip_prefix("/api/models/org/tiny/") {
            return match rest.split_once('/') {
                Some(("revision", "main" | "refs%2Fpr%2F1" | COMMIT)) => {
                    Answer::body(format!(r#"{{"id": "{MODEL}", "sha": "{COMMIT}"}}"#))
                }
                Some(("tree", COMMIT)) => Answer::body(self.listing()),
                _ => Answer::status(404).header("x-error-code", "RevisionNotFound"),
            };
        }
        let file = path.split_once(&format!("/resolve/{COMMIT}/"));
        let Some((name, contents)) = file.and_then(|(_, name)| self.files.get_key_value(name))
        else {
            return Answer::status(404).header("x-error-code", "EntryNotFound");
        };
        if is_large(name) && !request.is_cdn {
            let blob = blob(name, contents);
            return Answer::status(302)
                .header(
                    "location",
                    format!("{}{path}?Signature=canary_signed", self.cdn),
                )
                .header("x-repo-commit", COMMIT)
                .header("x-linked-size", contents.len().to_string())
                .header("x-linked-etag", format!("\"{blob}\""));
        }
        ranged(contents, request.offset()).header("x-repo-commit", COMMIT)
    }

    pub(crate) fn listing(&self) -> String {
        let entries = self.files.iter().map(|(name, bytes)| {
            let (size, blob) = (bytes.len(), blob(name, bytes));
            if is_large(name) {
                let pointer = "1".repeat(40);
                format!(
                    r#"{{"type": "file", "path": "{name}", "oid": "{pointer}", "size": {size},
                        "lfs": {{"oid": "{blob}", "size": {size}, "pointerSize": 134}}}}"#
                )
            } else {
                format!(r#"{{"type": "file", "path": "{name}", "oid": "{blob}", "size": {size}}}"#)
            }
        });
        let folder = r#"{"type": "directory", "path": "1_Pooling", "oid": "0", "size": 0}"#;
        let entries: Vec<String> = entries.chain([folder.to_owned()]).collect();
        format!("[{}]", entries.join(","))
    }
}

/// All of some bytes, or what is left from `offset` on.
pub(crate) fn ranged(bytes: &[u8], offset: Option<usize>) -> Answer {
    let total = bytes.len();
    match offset {
        None => Answer::body(bytes),
        Some(offset) if offset < total => {
            let range = format!("bytes {offset}-{}/{total}", total - 1);
            let mut answer = Answer::body(&bytes[offset..]).header("content-range", range);
            answer.status = 206;
            answer
        }
        Some(_) => Answer::status(416).header("content-range", format!("bytes */{total}")),
    }
}
