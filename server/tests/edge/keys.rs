//! API keys: whom each method answers, and that a tenant is who its key says.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use paternoster_client::v1;
use prost::Message as _;
use server::clock::EdgeClock;
use server::security::{Exposure, KeyHash, Quota, Security, SecurityConfig};
use tempfile::TempDir;
use tonic::metadata::{AsciiMetadataValue, MetadataValue};
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;

use crate::raw::RawClient;
use crate::world::{Plan, World, ask, eventually, reason, soon};

/// A keys file on disk.
pub(crate) struct KeysFile(TempDir);

impl KeysFile {
    pub(crate) fn of(text: &str) -> Self {
        let file = Self(tempfile::tempdir().unwrap());
        file.write(text);
        file
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("keys.toml")
    }

    fn write(&self, text: &str) {
        let new = self.0.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.path()).unwrap();
    }

    pub(crate) fn security(&self, clock: EdgeClock) -> Security {
        self.security_with(Quota::default(), clock)
    }

    /// With a quota for whom the file does not list.
    pub(crate) fn security_with(&self, default_quota: Quota, clock: EdgeClock) -> Security {
        let config = SecurityConfig {
            api_keys: vec![KeyHash::of(b"lone-key")],
            api_keys_file: Some(self.path()),
            default_quota,
            ..SecurityConfig::default()
        };
        let mut security = Security::load(config, clock).unwrap();
        security.reload_interval = Duration::from_millis(5);
        security
    }
}

/// A request that shows a key.
pub(crate) fn with_key<T>(key: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = MetadataValue::try_from(format!("Bearer {key}")).unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

const FILE: &str = r#"
[[key]]
name = "worker"
key = "worker-key"
tenant = "a"

[[key]]
name = "other worker"
key = "other-key"

[[key]]
name = "steering"
key = "admin-key"
rights = ["admin"]

[[key]]
name = "router"
key = "router-key"
rights = ["work", "tenants"]
"#;

async fn world_of(security: Security) -> World {
    World::ready_with(Plan {
        security: Arc::new(security),
        ..Plan::default()
    })
    .await
}

async fn world() -> (World, KeysFile) {
    let file = KeysFile::of(FILE);
    (world_of(file.security(EdgeClock::default())).await, file)
}

async fn complete(world: &World, key: &str, asked: v1::GenerateRequest) -> Result<u32, Status> {
    let mut inference = world.client.inference();
    let answer = soon(inference.complete(with_key(key, asked))).await?;
    Ok(answer.into_inner().usage.unwrap().cached_tokens)
}

fn is(status: &Status, code: Code, why: &str) {
    assert_eq!((status.code(), reason(status).0.as_str()), (code, why));
}

#[tokio::test]
async fn without_the_right_key_all_answers_are_the_same() {
    let (world, _file) = world().await;
    complete(&world, "worker-key", ask("hello", 1))
        .await
        .unwrap();
    let mut said = Vec::new();
    for shown in [
        None,
        Some(""),
        Some("Bearer"),
        Some("Bearer "),
        Some("Bearer wrong"),
        Some("Bearer Worker-Key"),
        Some("Bearer worker-ke"),
        Some("Bearer worker-key2"),
        Some("Basic worker-key"),
        Some("worker-key"),
    ] {
        let mut request = Request::new(ask("hello", 1));
        if let Some(shown) = shown {
            let value = AsciiMetadataValue::try_from(shown).unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        let status = world
            .client
            .inference()
            .complete(request)
            .await
            .unwrap_err();
        is(&status, Code::Unauthenticated, "BAD_API_KEY");
        said.push((status.message().to_owned(), status.details().to_vec()));
    }
    said.dedup();
    assert_eq!(said.len(), 1, "nothing tells one from another");
    // Nor does what else is wrong with it.
    let mut request = with_key("wrong", ask("hello", 1));
    let long = AsciiMetadataValue::try_from("x".repeat(129)).unwrap();
    request.metadata_mut().insert("x-tenant-id", long);
    let status = world.client.inference().complete(request).await;
    is(&status.unwrap_err(), Code::Unauthenticated, "BAD_API_KEY");
    let mut twice = with_key("worker-key", ask("hello", 1));
    let value = AsciiMetadataValue::from_static("Bearer worker-key");
    twice.metadata_mut().append("authorization", value);
    let status = world.client.inference().complete(twice).await.unwrap_err();
    is(&status, Code::Unauthenticated, "BAD_API_KEY");
}

/// The path of every method of the contract.
fn contract() -> Vec<String> {
    let set = proto::FILE_DESCRIPTOR_SET;
    let files = prost_types::FileDescriptorSet::decode(set).unwrap().file;
    let mut paths = Vec::new();
    for file in &files {
        for service in &file.service {
            for method in &service.method {
                paths.push(format!(
                    "/{}.{}/{}",
                    file.package(),
                    service.name(),
                    method.name()
                ));
            }
        }
    }
    assert!(paths.len() >= 20, "{paths:?}");
    paths
}

#[tokio::test]
async fn health_is_open_and_everything_else_is_closed() {
    let (world, _file) = world().await;
    let mut raw = RawClient::connect(world.address, 1 << 16).await;
    let health = HealthCheckRequest::default();
    let mut check = raw.call("/grpc.health.v1.Health/Check", &health).await;
    assert_eq!(check.status().await.code(), Code::Ok);
    let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let mut reflected = raw.call(reflection, &()).await;
    assert_ne!(reflected.status().await.code(), Code::Unauthenticated);
    let odd = [
        "/",
        "/nobody/thought/of",
        "//paternoster.v1.Inference/Generate",
        "/paternoster.v1.inference/generate",
        "/paternoster%2ev1.Inference/Generate",
        "/grpc.health.v1.Health/../../paternoster.v1.Inference/Generate",
        "/grpc.health.v1.health/Check",
    ];
    for path in contract().iter().map(String::as_str).chain(odd) {
        let status = raw.call(path, &()).await.status().await;
        is(&status, Code::Unauthenticated, "BAD_API_KEY");
    }
    assert_eq!(*world.device.launched().borrow(), 0, "nothing was computed");
    let unknown = "/nobody/thought/of".to_owned();
    let status = raw.call_with_key(&unknown, "worker-key").await;
    assert_eq!(status.code(), Code::Unimplemented);
}

#[tokio::test]
async fn steering_takes_a_right_of_its_own_and_so_does_work() {
    let (world, _file) = world().await;
    let mut raw = RawClient::connect(world.address, 1 << 16).await;
    for method in [
        "Abort",
        "LoadAdapter",
        "UnloadAdapter",
        "SubscribeKvEvents",
        "FlushCache",
        "Drain",
    ] {
        let path = format!("/paternoster.v1.Control/{method}");
        for key in ["worker-key", "router-key"] {
            let status = raw.call_with_key(&path, key).await;
            is(&status, Code::PermissionDenied, "RIGHT_MISSING");
        }
    }
    for key in ["worker-key", "admin-key"] {
        let path = "/paternoster.v1.Control/ListModels";
        assert_eq!(raw.call_with_key(path, key).await.code(), Code::Ok);
    }
    let status = complete(&world, "admin-key", ask("hello", 1))
        .await
        .unwrap_err();
    is(&status, Code::PermissionDenied, "RIGHT_MISSING");
    let path = "/paternoster.v1.Control/Drain";
    assert_eq!(raw.call_with_key(path, "admin-key").await.code(), Code::Ok);
    drop(raw);
    world.ended().await;
}

#[tokio::test]
async fn keys_of_the_command_line_work_and_do_not_steer() {
    let config = SecurityConfig {
        api_keys: vec![KeyHash::of(b"first"), KeyHash::of(b"second")],
        ..SecurityConfig::default()
    };
    let world = world_of(Security::load(config, EdgeClock::default()).unwrap()).await;
    for key in ["first", "second"] {
        assert_eq!(
            complete(&world, key, ask(&"x".repeat(40), 1))
                .await
                .unwrap(),
            0
        );
    }
    let warm = complete(&world, "first", ask(&"x".repeat(40), 1)).await;
    assert_eq!(warm.unwrap(), 32, "its own prefix is found again");
    let mut raw = RawClient::connect(world.address, 1 << 16).await;
    let status = raw
        .call_with_key("/paternoster.v1.Control/Drain", "first")
        .await;
    is(&status, Code::PermissionDenied, "RIGHT_MISSING");
}

#[tokio::test]
async fn a_tenant_is_who_its_key_says() {
    let (world, _file) = world().await;
    let named = |tenant: &str| v1::GenerateRequest {
        tenant: tenant.to_owned(),
        ..ask("hello", 1)
    };
    complete(&world, "worker-key", named("a")).await.unwrap();
    for key in ["worker-key", "router-key"] {
        let status = complete(&world, key, named("b")).await.unwrap_err();
        is(&status, Code::PermissionDenied, "TENANT_DENIED");
        assert_eq!(reason(&status).1, "tenant");
    }
    let told = async |key: &str, tenant: &str, asked| {
        let mut request = with_key(key, asked);
        let value = MetadataValue::try_from(tenant).unwrap();
        request.metadata_mut().insert("x-tenant-id", value);
        world.client.inference().complete(request).await.map(|_| ())
    };
    told("worker-key", "a", named("a")).await.unwrap();
    let status = told("worker-key", "b", named("")).await.unwrap_err();
    is(&status, Code::PermissionDenied, "TENANT_DENIED");
    assert_eq!(reason(&status).1, "x-tenant-id");
    told("router-key", "b", named("b")).await.unwrap();
    told("router-key", "nobody", named("")).await.unwrap();
    let status = told("router-key", "b", named("c")).await.unwrap_err();
    is(&status, Code::PermissionDenied, "TENANT_DENIED");
    // A client's own, and the one that a router put behind it.
    let mut request = with_key("router-key", ask("hello", 1));
    for tenant in ["b", "a"] {
        let value = AsciiMetadataValue::from_static(tenant);
        request.metadata_mut().append("x-tenant-id", value);
    }
    let status = world.client.inference().complete(request).await;
    is(&status.unwrap_err(), Code::InvalidArgument, "BAD_TENANT");
    let long = "x".repeat(129);
    let status = told("router-key", &long, named("")).await.unwrap_err();
    is(&status, Code::InvalidArgument, "BAD_TENANT");
}

#[tokio::test]
async fn no_tenant_finds_the_prefixes_of_another() {
    let (world, _file) = world().await;
    let prompt = "a secret of sixteen bytes and more";
    let cached = async |key: &str| complete(&world, key, ask(prompt, 1)).await.unwrap();
    assert_eq!(cached("worker-key").await, 0);
    assert_eq!(cached("worker-key").await, 32);
    assert_eq!(cached("other-key").await, 0);
    let mut request = with_key("router-key", ask(prompt, 1));
    request
        .metadata_mut()
        .insert("x-tenant-id", MetadataValue::from_static("a"));
    let answer = world.client.inference().complete(request).await.unwrap();
    assert_eq!(answer.into_inner().usage.unwrap().cached_tokens, 32);
}

#[tokio::test]
async fn keys_are_read_again_and_a_broken_file_changes_nothing() {
    let (world, file) = world().await;
    file.write("[[key]]\nname = 'next'\nkey = 'next-key'\n");
    soon(async {
        while Box::pin(complete(&world, "next-key", ask("hello", 1)))
            .await
            .is_err()
        {}
    })
    .await;
    let status = complete(&world, "worker-key", ask("hello", 1))
        .await
        .unwrap_err();
    is(&status, Code::Unauthenticated, "BAD_API_KEY");
    let failed = "paternoster_reloads_total{what=\"keys\",outcome=\"failed\"}";
    let before = world.measured(failed);
    file.write("[[key]]\nname = 'next'\nkey = \n");
    eventually(|| world.measured(failed) > before).await;
    complete(&world, "next-key", ask("hello", 1)).await.unwrap();
}

#[tokio::test]
async fn pages_and_the_contract_are_shown_to_whom_they_may_be() {
    for (exposure, without, with) in [
        (Exposure::Open, "HTTP/1.1 200", "HTTP/1.1 200"),
        (Exposure::Key, "HTTP/1.1 401", "HTTP/1.1 200"),
        (Exposure::Off, "HTTP/1.1 404", "HTTP/1.1 404"),
    ] {
        let file = KeysFile::of(FILE);
        let mut security = file.security(EdgeClock::default());
        (security.metrics, security.reflection) = (exposure, exposure);
        let world = world_of(security).await;
        for page in ["/health", "/ready"] {
            assert!(world.get(page).await.starts_with("HTTP/1.1 200"));
        }
        assert!(world.get("/metrics").await.starts_with(without));
        let page = "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                    authorization: Bearer worker-key\r\n\r\n";
        assert!(world.raw(page).await.starts_with(with));

        let mut raw = RawClient::connect(world.address, 1 << 16).await;
        for version in ["v1", "v1alpha"] {
            let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
            let status = raw.call(&path, &()).await.status().await;
            let shown = raw.call_with_key(&path, "worker-key").await;
            match exposure {
                Exposure::Open => assert_eq!(status.code(), shown.code()),
                Exposure::Key => {
                    is(&status, Code::Unauthenticated, "BAD_API_KEY");
                    assert_ne!(shown.code(), Code::Unauthenticated);
                }
                Exposure::Off => {
                    is(&status, Code::Unimplemented, "NOT_IMPLEMENTED");
                    is(&shown, Code::Unimplemented, "NOT_IMPLEMENTED");
                }
            }
        }
    }
}
