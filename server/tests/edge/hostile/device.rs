//! Devices that go wrong under a server: what it costs, and whom.

use std::time::Duration;

use engine::fake::Fault;
use tonic::Code;

use super::{CANARY, roomy, withstand, withstand_uncounted};
use crate::world::{Plan, World, ask, eventually, reason, soon};

#[tokio::test]
async fn row_51_values_that_are_not_finite() {
    let world = World::ready_with(roomy()).await;
    world.device.hold();
    let mut sick = world.client.generate(ask(CANARY, 100)).await.unwrap();
    eventually(|| world.device.admitted() == 1).await;
    world.device.fail_next(Fault::NotFinite(0));
    world.device.allow(1);
    let mut others = super::Bystander::begin_all(&world).await;
    let status = loop {
        match soon(sick.next()).await {
            Ok(event) => assert!(event.is_some(), "it ended well"),
            Err(status) => break status,
        }
    };
    assert_eq!(
        (status.code(), reason(&status).0.as_str()),
        (Code::Internal, "NUMERICAL_ERROR")
    );
    world.device.release();
    for other in others.drain(..) {
        other.end(&world).await;
    }
    world.blocks_are_free().await;
    super::sound(&world).await;
}

/// The engine dies under everybody. They are replayed, and notice nothing.
async fn replayed(fault: Fault, plan: impl Fn() -> Plan) {
    withstand_uncounted(plan, async |world| {
        let before = world.device.starts();
        let mut events = world
            .stepping(world.client.generate(ask(CANARY, 100)))
            .await
            .unwrap();
        world.device.fail_next(fault);
        let mut text = String::new();
        let reading = async {
            while let Some(event) = events.next().await.unwrap() {
                super::take(&mut text, event);
            }
        };
        world.stepping(reading).await;
        assert_eq!(text, world.expected_text(CANARY, 100));
        assert!(
            world.device.starts() > before,
            "the engine was not restarted"
        );
        world.device.release_hung();
    })
    .await;
}

#[tokio::test]
async fn row_52_a_step_that_hangs() {
    let plan = || Plan {
        step_timeout: Duration::from_millis(200),
        ..roomy()
    };
    replayed(Fault::Hang, plan).await;
}

#[tokio::test]
async fn row_53_an_engine_that_panics() {
    replayed(Fault::Panic, roomy).await;
}

#[tokio::test]
async fn row_53_a_step_that_fails() {
    replayed(Fault::Error, roomy).await;
}

#[tokio::test]
async fn row_62_a_step_that_has_no_memory() {
    replayed(Fault::OutOfMemory, roomy).await;
}

#[tokio::test]
async fn row_54_a_drain_under_load() {
    let world = World::ready_with(roomy()).await;
    world.device.hold();
    let bystanders = super::Bystander::begin_all(&world).await;
    world.shutdown.cancel();
    soon(world.app.lifecycle.draining.cancelled()).await;
    let late = soon(world.client.generate(ask(CANARY, 1)))
        .await
        .unwrap_err();
    assert_eq!(
        (late.code(), reason(&late).0.as_str()),
        (Code::Unavailable, "DRAINING")
    );
    world.device.release();
    for bystander in bystanders {
        bystander.end(&world).await;
    }
    world.ended().await;
}

#[tokio::test]
async fn row_55_a_second_signal_under_load() {
    let world = World::ready_with(roomy()).await;
    world.device.hold();
    let bystanders = super::Bystander::begin_all(&world).await;
    world.shutdown.cancel();
    soon(world.app.lifecycle.draining.cancelled()).await;
    world.app.lifecycle.abort.cancel();
    world.device.allow(1);
    for mut bystander in bystanders {
        let status = loop {
            match soon(bystander.events.next()).await {
                Ok(event) => assert!(event.is_some(), "it ended well"),
                Err(status) => break status,
            }
        };
        assert_eq!(status.code(), Code::Unavailable);
    }
    world.device.release();
    world.ended().await;
}

/// Nothing at all is the smallest attack: it shows that the rows compare what they should.
#[tokio::test]
async fn row_00_nobody_attacks() {
    withstand(async |_| Vec::new()).await;
}
