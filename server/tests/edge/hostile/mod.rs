//! What is thrown at a server, and what must hold afterwards, whatever it was. `SECURITY.md` names
//! the row of each test.
//!
//! Every attack meets a server twice: one that idles, and one that runs 32 streams. Afterwards the
//! streams have the text they have alone, every KV block is free, health says SERVING, a new call is
//! answered, the calls counted are those of the attack, and no log line holds what clients sent.

mod device;
mod frames;
mod life;
mod requests;
mod wire;

use std::collections::BTreeMap;

use futures_util::future::join_all;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use paternoster_client::v1::generate_response::Event;
use paternoster_client::{Client, Events, v1};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::lines::Lines;
use crate::world::{Plan, World, ask, reason, soon};

/// Streams that run beside an attack, and the tokens of each.
const BYSTANDERS: usize = 32;
const TOKENS: usize = 300;
/// Stands in what attackers send, and must stand nowhere else.
const CANARY: &str = "canary";

/// A call that the attack makes the server count: its method and its code.
type Ended = (&'static str, Code);

/// Whether there is somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Company {
    Nobody,
    Bystanders,
}

/// An ordinary server with room for the bystanders and an attacker.
fn roomy() -> Plan {
    Plan {
        running_max: BYSTANDERS as u32 + 8,
        blocks: 1025,
        ..Plan::default()
    }
}

/// Attacks a server, once idle and once busy. Its device is held meanwhile: an attack that needs
/// steps takes them by `World::stepping`.
async fn withstand(attack: impl AsyncFn(&World) -> Vec<Ended>) {
    withstand_with(roomy, attack).await;
}

async fn withstand_with(plan: impl Fn() -> Plan, attack: impl AsyncFn(&World) -> Vec<Ended>) {
    withstand_counting(plan, async |world| Some(attack(world).await)).await;
}

/// As [`withstand`], where chance decides how many calls are begun before the connection is lost.
async fn withstand_uncounted(plan: impl Fn() -> Plan, attack: impl AsyncFn(&World)) {
    withstand_counting(plan, async |world| {
        attack(world).await;
        None
    })
    .await;
}

async fn withstand_counting(
    plan: impl Fn() -> Plan,
    attack: impl AsyncFn(&World) -> Option<Vec<Ended>>,
) {
    for company in [Company::Nobody, Company::Bystanders] {
        let (lines, _recording) = Lines::record();
        let recorder = PrometheusBuilder::new().build_recorder();
        let page = recorder.handle();
        let _counting = metrics::set_default_local_recorder(&recorder);
        let world = World::ready_with(plan()).await;
        world.device.hold();
        let bystanders = match company {
            Company::Nobody => Vec::new(),
            Company::Bystanders => Bystander::begin_all(&world).await,
        };
        let before = calls(&page);
        if let Some(ended) = attack(&world).await {
            counted(&page, &before, &ended).await;
        }
        world.device.release();
        for bystander in bystanders {
            bystander.end(&world).await;
        }
        world.blocks_are_free().await;
        sound(&world).await;
        assert!(!lines.text().contains(CANARY), "{}", lines.text());
    }
}

/// A stream of somebody else.
struct Bystander {
    prompt: String,
    events: Events,
    text: String,
}

impl Bystander {
    /// Streams that have begun to flow.
    async fn begin_all(world: &World) -> Vec<Self> {
        let begun = (0..BYSTANDERS).map(|number| Self::begin(&world.client, number));
        world.stepping(join_all(begun)).await
    }

    async fn begin(client: &Client, number: usize) -> Self {
        let prompt = format!("bystander {number}");
        let request = ask(&prompt, TOKENS as u32);
        let mut events = client.generate(request).await.unwrap();
        let mut text = String::new();
        while text.is_empty() {
            take(&mut text, events.next().await.unwrap().unwrap());
        }
        Self {
            prompt,
            events,
            text,
        }
    }

    /// Reads the rest, which must be as if nobody else was there.
    async fn end(mut self, world: &World) {
        while let Some(event) = soon(self.events.next()).await.unwrap() {
            take(&mut self.text, event);
        }
        assert_eq!(self.text, world.expected_text(&self.prompt, TOKENS));
    }
}

fn take(text: &mut String, event: Event) {
    if let Event::Delta(delta) = event {
        text.push_str(&delta.text);
    }
}

/// Calls by method and code.
type Calls = BTreeMap<(String, String), u64>;

/// The calls that this thread's recorder counts.
fn calls(page: &PrometheusHandle) -> Calls {
    let read = |line: &str| {
        let series = line.strip_prefix("paternoster_requests_total{method=\"")?;
        let (method, rest) = series.split_once("\",code=\"")?;
        let (code, count) = rest.split_once("\"} ")?;
        Some(((method.to_owned(), code.to_owned()), count.parse().unwrap()))
    };
    page.render().lines().filter_map(read).collect()
}

/// Waits until the calls since `before` are those of the attack; says what they are if they never are.
async fn counted(page: &PrometheusHandle, before: &Calls, ended: &[Ended]) {
    let mut expected = before.clone();
    for (method, code) in ended {
        let key = ((*method).to_owned(), code_name(*code).to_owned());
        *expected.entry(key).or_default() += 1;
    }
    let reached = async {
        while calls(page) != expected {
            tokio::task::yield_now().await;
        }
    };
    let reached = tokio::time::timeout(std::time::Duration::from_secs(20), reached).await;
    assert!(reached.is_ok(), "{:?}, not {expected:?}", calls(page));
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        other => panic!("no row ends with {other:?}"),
    }
}

/// The server is SERVING and answers.
async fn sound(world: &World) {
    let address = format!("http://{}", world.address);
    let channel = tonic::transport::Endpoint::from_shared(address).unwrap();
    let channel = soon(channel.connect()).await.unwrap();
    let mut health = HealthClient::new(channel.clone());
    let request = HealthCheckRequest {
        service: "paternoster.v1.Inference".to_owned(),
    };
    let status = soon(health.check(request)).await.unwrap();
    assert_eq!(status.get_ref().status(), ServingStatus::Serving);
    let mut inference = Client::over(channel).inference();
    let answer = soon(inference.complete(ask("afterwards", 3)))
        .await
        .unwrap();
    let text: String = answer
        .get_ref()
        .completions
        .iter()
        .map(|done| done.text.as_str())
        .collect();
    assert_eq!(text, world.expected_text("afterwards", 3));
}

/// What an error says: code, reason and field.
fn said(status: &Status) -> (Code, String, String) {
    let (reason, field) = reason(status);
    (status.code(), reason, field)
}

/// A generation that is refused with this code, reason and field.
async fn refused(
    world: &World,
    request: v1::GenerateRequest,
    (code, why, field): (Code, &str, &str),
) -> Ended {
    let status = soon(world.client.generate(request)).await.unwrap_err();
    assert_eq!(
        said(&status),
        (code, why.to_owned(), field.to_owned()),
        "{status:?}"
    );
    assert!(status.message().len() <= 1024);
    ("Generate", code)
}
