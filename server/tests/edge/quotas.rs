//! Quotas of tenants: what is refused, for how long, and what is charged.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream;
use paternoster_client::v1;
use server::clock::EdgeClock;
use server::security::Quota;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::keys::{KeysFile, with_key};
use crate::world::{Plan, World, ask, reason, soon};

/// A server with quotas, and its clock.
struct Metered {
    world: World,
    seconds: Arc<AtomicU64>,
    _file: KeysFile,
}

impl Metered {
    /// The tenant `NAME` has the key `NAME-key` and this quota; `other` has none.
    async fn with(name: &str, quota: &str) -> Self {
        Self::with_default(name, quota, Quota::default()).await
    }

    /// As [`Metered::with`]; a tenant that has no table has this quota.
    async fn with_default(name: &str, quota: &str, default_quota: Quota) -> Self {
        let file = KeysFile::of(&format!(
            "[[key]]\nname = 'other'\nkey = 'other-key'\nrights = ['work', 'tenants']\n\
             [[key]]\nname = '{name}'\nkey = '{name}-key'\n\
             [[tenant]]\nname = '{name}'\n{quota}\n"
        ));
        let seconds = Arc::new(AtomicU64::new(0));
        let clock = Arc::clone(&seconds);
        let now = move || Duration::from_secs(clock.load(Ordering::SeqCst));
        let world = World::ready_with(Plan {
            security: Arc::new(file.security_with(default_quota, EdgeClock::manual(now))),
            ..Plan::default()
        })
        .await;
        Self {
            world,
            seconds,
            _file: file,
        }
    }

    fn pass(&self, seconds: u64) {
        self.seconds.fetch_add(seconds, Ordering::SeqCst);
    }

    async fn complete(&self, name: &str, prompt: &str, tokens: u32) -> Result<(), Status> {
        let request = with_key(&format!("{name}-key"), ask(prompt, tokens));
        let mut inference = self.world.client.inference();
        soon(inference.complete(request)).await.map(|_| ())
    }
}

/// What a refusal says: the quota, and when to come back.
fn refused(status: &Status) -> (String, u64) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert_eq!(reason(status).0, "QUOTA_EXCEEDED");
    let details = status.get_error_details();
    let violations = &details.quota_failure().unwrap().violations;
    assert_eq!(violations.len(), 1);
    let delay = details.retry_info().unwrap().retry_delay.unwrap();
    let pushback = status.metadata().get("grpc-retry-pushback-ms").unwrap();
    assert_eq!(pushback, delay.as_millis().to_string().as_str());
    let said = format!("{} {}", violations[0].subject, violations[0].description);
    (said, delay.as_millis() as u64)
}

#[tokio::test]
async fn a_tenant_has_so_many_calls_at_once_and_others_do_not_notice() {
    let metered = Metered::with("busy", "concurrent = 1").await;
    let world = &metered.world;
    world.device.hold();
    let mut inference = world.client.inference();
    let running = inference.generate(with_key("busy-key", ask("hello", 400)));
    let running = soon(running).await.unwrap();
    let status = metered.complete("busy", "hello", 1).await.unwrap_err();
    let said = "tenant:busy concurrent = 1".to_owned();
    assert_eq!(refused(&status), (said, 1000));
    let series = "paternoster_tenant_refusals_total{tenant=\"busy\",quota=\"concurrent\"}";
    assert!((world.measured(series) - 1.0).abs() < 0.1);
    world.device.release();
    metered.complete("other", "hello", 1).await.unwrap();
    drop(running);
    // Its place is free once the server has seen it go.
    soon(async { while metered.complete("busy", "hello", 1).await.is_err() {} }).await;
}

#[tokio::test]
async fn tokens_are_counted_in_and_out_and_debts_are_waited_for() {
    let metered = Metered::with("metered", "tokens_per_minute = 60").await;
    metered
        .complete("metered", &"x".repeat(50), 5)
        .await
        .unwrap();
    // There are five left, so one more may begin.
    metered
        .complete("metered", &"x".repeat(20), 15)
        .await
        .unwrap();
    let status = metered.complete("metered", "x", 1).await.unwrap_err();
    let said = "tenant:metered tokens_per_minute = 60".to_owned();
    assert_eq!(refused(&status), (said.clone(), 31_000));
    metered.pass(30);
    let status = metered.complete("metered", "x", 1).await.unwrap_err();
    assert_eq!(refused(&status), (said, 1000));
    metered.complete("other", "x", 1).await.unwrap();
    metered.pass(1);
    metered.complete("metered", "x", 1).await.unwrap();
    for (kind, count) in [("prompt", 71.0), ("generated", 21.0)] {
        let series =
            format!("paternoster_tenant_tokens_total{{tenant=\"metered\",kind=\"{kind}\"}}");
        let measured = metered.world.measured(&series);
        assert!((measured - count).abs() < 0.1, "{kind}: {measured}");
    }
}

/// Whoever has no table of its own: a key's tenant, and those that a key speaks for.
#[tokio::test]
async fn tenants_that_are_not_listed_have_a_quota_each() {
    let one = Quota {
        requests_per_minute: NonZeroU64::new(1),
        ..Quota::default()
    };
    let metered = Metered::with_default("listed", "requests_per_minute = 2", one).await;
    let spoken_for = async |tenant: &'static str| {
        let mut request = with_key("other-key", ask("x", 1));
        let value = AsciiMetadataValue::from_static(tenant);
        request.metadata_mut().insert("x-tenant-id", value);
        let mut inference = metered.world.client.inference();
        soon(inference.complete(request)).await.map(|_| ())
    };
    for tenant in ["guest", "another guest", "listed"] {
        spoken_for(tenant).await.unwrap();
    }
    for key in ["listed", "lone", "other"] {
        metered.complete(key, "x", 1).await.unwrap();
    }
    for status in [
        spoken_for("guest").await,
        spoken_for("another guest").await,
        spoken_for("listed").await,
        metered.complete("listed", "x", 1).await,
        metered.complete("lone", "x", 1).await,
        metered.complete("other", "x", 1).await,
    ] {
        let said = refused(&status.unwrap_err());
        assert!(said.0.contains("requests_per_minute = "), "{said:?}");
    }
    metered.pass(60);
    spoken_for("guest").await.unwrap();
    metered.complete("lone", "x", 1).await.unwrap();
}

#[tokio::test]
async fn each_request_of_a_stream_is_a_request() {
    let metered = Metered::with("streaming", "requests_per_minute = 3").await;
    let request = || v1::EmbedRequest {
        inputs: vec!["hello".to_owned()],
        ..v1::EmbedRequest::default()
    };
    let requests = stream::iter((0..5).map(move |_| request()));
    let mut inference = metered.world.client.inference();
    let answers = inference.embed_stream(with_key("streaming-key", requests));
    let mut answers = soon(answers).await.unwrap().into_inner();
    for _ in 0..3 {
        assert!(soon(answers.message()).await.unwrap().is_some());
    }
    let status = soon(answers.message()).await.unwrap_err();
    let said = "tenant:streaming requests_per_minute = 3".to_owned();
    assert_eq!(refused(&status), (said.clone(), 20_000));
    let status = metered.complete("streaming", "x", 1).await.unwrap_err();
    assert_eq!(refused(&status).0, said);
    metered.pass(20);
    metered.complete("streaming", "x", 1).await.unwrap();
}

#[tokio::test]
async fn what_is_refused_leaves_nothing_behind() {
    let metered = Metered::with("refused", "concurrent = 1").await;
    for _ in 0..20 {
        // Refused after it took its place: it has no prompt.
        let status = metered.complete("refused", "", 1).await.unwrap_err();
        assert_eq!(reason(&status).0, "EMPTY_INPUT");
    }
    metered.complete("refused", "x", 1).await.unwrap();
}

#[tokio::test]
async fn what_is_refused_costs_no_tokens() {
    let metered = Metered::with("spared", "tokens_per_minute = 60").await;
    for _ in 0..5 {
        // Its text is known by then; with so many more tokens it never fits.
        let refused = metered.complete("spared", &"x".repeat(50), 1000).await;
        assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    }
    metered
        .complete("spared", &"x".repeat(50), 5)
        .await
        .unwrap();
    for (kind, count) in [("prompt", 50.0), ("generated", 5.0)] {
        let series =
            format!("paternoster_tenant_tokens_total{{tenant=\"spared\",kind=\"{kind}\"}}");
        let measured = metered.world.measured(&series);
        assert!((measured - count).abs() < 0.1, "{kind}: {measured}");
    }
}
