//! Health from the first moment to the last, and every way a drain can go.

use std::sync::mpsc::sync_channel;
use std::time::Duration;

use paternoster_client::v1;
use paternoster_client::v1::generate_response::Event;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tonic::Code;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use crate::world::{Plan, World, ask, reason, soon};

const INFERENCE: &str = "paternoster.v1.Inference";

struct Health(HealthClient<Channel>);

impl Health {
    async fn of(world: &World) -> Self {
        let address = format!("http://{}", world.address);
        let channel = Channel::from_shared(address)
            .unwrap()
            .connect()
            .await
            .unwrap();
        Self(HealthClient::new(channel))
    }

    async fn check(&mut self, service: &str) -> ServingStatus {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        soon(self.0.check(request))
            .await
            .unwrap()
            .get_ref()
            .status()
    }
}

#[tokio::test]
async fn health_turns_when_the_engine_does() {
    let (open, gate) = sync_channel::<()>(1);
    let executors = move |device: engine::fake::FakeDevice| {
        let mut make = device.executors();
        let factory: engine::handle::Factory<dyn engine::executor::Executor> =
            Box::new(move || {
                gate.recv().unwrap();
                make()
            });
        factory
    };
    let plan = Plan {
        executors: Some(Box::new(executors)),
        ..Plan::default()
    };
    let world = World::start(plan).await;
    let mut health = Health::of(&world).await;
    for service in ["", INFERENCE, "paternoster.v1.Control", "model/tiny"] {
        assert_eq!(
            health.check(service).await,
            ServingStatus::NotServing,
            "{service}"
        );
    }
    assert_eq!(health.check("liveness").await, ServingStatus::Serving);
    assert!(world.get("/ready").await.starts_with("HTTP/1.1 503"));
    assert!(world.get("/health").await.starts_with("HTTP/1.1 200"));
    let request = HealthCheckRequest {
        service: INFERENCE.to_owned(),
    };
    let mut watch = health.0.watch(request).await.unwrap().into_inner();
    assert_eq!(
        soon(watch.message()).await.unwrap().unwrap().status(),
        ServingStatus::NotServing
    );

    open.send(()).unwrap();
    while soon(watch.message()).await.unwrap().unwrap().status() != ServingStatus::Serving {}
    for service in ["", "paternoster.v1.Control", "model/tiny", "model/vectors"] {
        assert_eq!(
            health.check(service).await,
            ServingStatus::Serving,
            "{service}"
        );
    }
    let request = HealthCheckRequest {
        service: "nobody".to_owned(),
    };
    assert_eq!(
        health.0.check(request).await.unwrap_err().code(),
        Code::NotFound
    );

    world.shutdown.cancel();
    while soon(watch.message()).await.unwrap().unwrap().status() != ServingStatus::NotServing {}
    drop(watch);
    world.ended().await;
}

#[tokio::test]
async fn an_engine_that_restarts_is_alive_and_not_ready() {
    let world = World::ready().await;
    let mut health = Health::of(&world).await;
    let mut readiness = world.app.readiness.subscribe();
    world.device.hang_starts();
    world.device.fail_next(engine::fake::Fault::Error);
    let mut stream = world.client.generate(ask("hello", 8)).await.unwrap();
    soon(readiness.wait_for(|readiness| !readiness.ready))
        .await
        .unwrap();
    assert_eq!(health.check("liveness").await, ServingStatus::Serving);
    assert_eq!(
        health.check("model/tiny").await,
        ServingStatus::NotServing,
        "no router sends more"
    );
    assert!(world.get("/health").await.starts_with("HTTP/1.1 200"));
    assert!(world.get("/ready").await.starts_with("HTTP/1.1 503"));

    world.device.release_hung();
    let mut text = String::new();
    while let Some(event) = soon(stream.next()).await.unwrap() {
        if let Event::Delta(delta) = event {
            text += &delta.text;
        }
    }
    assert_eq!(text, world.expected_text("hello", 8), "it was replayed");
    soon(readiness.wait_for(|readiness| readiness.ready))
        .await
        .unwrap();
}

#[tokio::test]
async fn an_engine_that_goes_down_takes_health_with_it() {
    let world = World::ready().await;
    let mut readiness = world.app.readiness.subscribe();
    world.device.fail_starts(100);
    world.device.fail_next(engine::fake::Fault::Error);
    let status = match world.client.generate(ask("hello", 5)).await {
        Err(status) => status,
        Ok(mut events) => loop {
            match soon(events.next()).await {
                Ok(event) => assert!(event.is_some(), "it ended"),
                Err(status) => break status,
            }
        },
    };
    assert_eq!(
        (status.code(), reason(&status).0.as_str()),
        (Code::Unavailable, "ENGINE_DOWN")
    );
    soon(readiness.wait_for(|readiness| !readiness.ready))
        .await
        .unwrap();
    assert_eq!(
        Health::of(&world).await.check(INFERENCE).await,
        ServingStatus::NotServing
    );
    assert_eq!(
        Health::of(&world).await.check("model/vectors").await,
        ServingStatus::Serving
    );
    world
        .client
        .embed(["the other model still answers"])
        .await
        .unwrap();
}

#[tokio::test]
async fn a_drain_lets_running_work_end_beside_a_silent_connection() {
    let world = World::ready().await;
    let mut silent = TcpStream::connect(world.address).await.unwrap();
    world.device.hold();
    let mut events = world.client.generate(ask("hello", 30)).await.unwrap();
    world.device.allow(2);
    assert!(matches!(
        soon(events.next()).await.unwrap(),
        Some(Event::Started(_))
    ));

    let mut control = world.client.control();
    control.drain(v1::DrainRequest {}).await.unwrap();
    soon(world.app.lifecycle.draining.cancelled()).await;
    assert_eq!(
        Health::of(&world).await.check("").await,
        ServingStatus::NotServing
    );
    assert!(world.get("/ready").await.starts_with("HTTP/1.1 503"));
    let status = world.client.generate(ask("late", 1)).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).0.as_str()),
        (Code::Unavailable, "DRAINING")
    );
    let retry = status.get_details_retry_info().unwrap();
    assert_eq!(retry.retry_delay, Some(Duration::from_secs(1)));
    assert_eq!(
        status.metadata().get("grpc-retry-pushback-ms").unwrap(),
        "1000"
    );

    world.device.release();
    let mut text = String::new();
    let mut finished = 0;
    while let Some(event) = soon(events.next()).await.unwrap() {
        match event {
            Event::Delta(delta) => text.push_str(&delta.text),
            Event::Finished(_) => finished += 1,
            Event::Started(_) => panic!("it started twice"),
        }
    }
    assert_eq!((text, finished), (world.expected_text("hello", 30), 1));
    world.ended().await;
    let mut byte = [0];
    assert_eq!(soon(silent.read(&mut byte)).await.unwrap(), 0);
}

#[tokio::test]
async fn a_drain_lets_an_admitted_call_submit_the_rest_of_its_work() {
    let world = World::ready().await;
    world.encoder.hold();
    let mut launched = world.encoder.launched();
    let before = *launched.borrow_and_update();
    let client = world.client.clone();
    let inputs: Vec<String> = (0..300).map(|number| format!("input {number}")).collect();
    let embedding = tokio::spawn(async move { client.embed(inputs).await });
    soon(launched.wait_for(|&steps| steps > before))
        .await
        .unwrap();
    world.shutdown.cancel();
    soon(world.app.lifecycle.draining.cancelled()).await;
    let mut control = world.client.control();
    let models = control.list_models(v1::ListModelsRequest {}).await.unwrap();
    for model in &models.get_ref().models {
        assert_eq!(model.state(), v1::ModelState::Draining);
    }
    world.encoder.release();
    assert_eq!(soon(embedding).await.unwrap().unwrap().len(), 300);
    world.ended().await;
}

#[tokio::test]
async fn watchers_do_not_hold_up_the_end() {
    let world = World::ready().await;
    let mut health = Health::of(&world).await;
    let request = HealthCheckRequest {
        service: String::new(),
    };
    let mut watch = health.0.watch(request).await.unwrap().into_inner();
    assert!(soon(watch.message()).await.unwrap().is_some());
    world.shutdown.cancel();
    world.ended().await;
    while let Ok(Some(status)) = soon(watch.message()).await {
        assert_eq!(status.status(), ServingStatus::NotServing);
    }
}

#[tokio::test]
async fn a_second_signal_ends_what_still_runs() {
    let world = World::ready().await;
    world.device.hold();
    let mut events = world.client.generate(ask("hello", 400)).await.unwrap();
    world.device.allow(2);
    assert!(soon(events.next()).await.unwrap().is_some());
    world.shutdown.cancel();
    soon(world.app.lifecycle.draining.cancelled()).await;
    world.app.lifecycle.abort.cancel();
    let status = loop {
        // Step by step, so that the stream cannot come to its own end before it is aborted.
        world.device.allow(1);
        match soon(events.next()).await {
            Ok(event) => assert!(event.is_some(), "it ended well"),
            Err(status) => break status,
        }
    };
    world.device.release();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    world.ended().await;
}

#[tokio::test]
async fn a_drain_has_a_limit_even_when_the_device_hangs() {
    let mut plan = Plan::default();
    plan.limits.drain_timeout = Duration::from_millis(20);
    let world = World::ready_with(plan).await;
    let device = world.device.clone();
    device.hold();
    let _events = world.client.generate(ask("hello", 400)).await.unwrap();
    world.shutdown.cancel();
    world.ended().await;
    device.release();
}

#[tokio::test]
async fn the_health_command_answers_by_its_exit_code() {
    let world = World::ready().await;
    let ask = |addr: String, service: &str| server::args::health::HealthArgs {
        addr: Some(addr),
        health_port: None,
        port: 1,
        service: service.to_owned(),
        timeout: Duration::from_secs(5),
        tls_ca: None,
        tls_server_name: None,
        tls_client_cert: None,
        tls_client_key: None,
    };
    let address = world.address.to_string();
    let code = async |args| server::probe::ask(&args).await.code_and_text().0;
    assert_eq!(code(ask(address.clone(), INFERENCE)).await, 0);
    assert_eq!(code(ask("no address".to_owned(), "")).await, 1);
    let nobody = server::probe::ask(&ask("127.0.0.1:1".to_owned(), "")).await;
    let (code_of_nobody, text) = nobody.code_and_text();
    assert_eq!(code_of_nobody, 2);
    assert!(
        text.starts_with("127.0.0.1:1: Connection refused"),
        "{text}"
    );
    assert_eq!(code(ask(address.clone(), "nobody")).await, 3);
    world.device.fail_starts(100);
    world.device.fail_next(engine::fake::Fault::Error);
    let mut readiness = world.app.readiness.subscribe();
    let _failed = world.client.generate(crate::world::ask("hello", 5)).await;
    soon(readiness.wait_for(|readiness| !readiness.ready))
        .await
        .unwrap();
    assert_eq!(code(ask(address, "")).await, 4);
}
