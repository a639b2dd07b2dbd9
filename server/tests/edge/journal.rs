//! The line that each call leaves in the log.

use paternoster_client::v1;

use crate::lines::Lines;
use crate::world::{Plan, World, ask, reason};

#[tokio::test]
async fn each_call_leaves_one_line_and_no_text() {
    let (lines, _recording) = Lines::record();
    let mut plan = Plan::default();
    plan.limits.calls_max = 1;
    let world = World::ready_with(plan).await;
    let named = v1::GenerateRequest {
        request_id: "mine".to_owned(),
        ..ask("a secret", 4)
    };
    let mut inference = world.client.inference();
    inference.complete(named).await.unwrap();
    inference.complete(ask("", 4)).await.unwrap_err();
    world.client.embed(["a secret", ""]).await.unwrap_err();
    world.client.embed(["one secret", "two"]).await.unwrap();
    world.device.hold();
    let running = world.client.generate(ask("a secret", 400)).await.unwrap();
    let refused = inference.complete(ask("a secret", 4)).await.unwrap_err();
    assert_eq!(reason(&refused).0, "QUEUE_FULL");
    assert!(refused.metadata().contains_key("x-request-id"));
    drop(running);
    crate::world::eventually(|| lines.calls().len() == 6).await;
    world.device.release();

    let calls = lines.calls();
    let ends: Vec<[&str; 3]> = calls
        .iter()
        .map(|call| ["method", "code", "reason"].map(|key| call[key].as_str().unwrap_or("")))
        .collect();
    assert_eq!(
        ends,
        [
            ["Complete", "OK", ""],
            ["Complete", "INVALID_ARGUMENT", "EMPTY_INPUT"],
            ["Embed", "INVALID_ARGUMENT", "EMPTY_INPUT"],
            ["Embed", "OK", ""],
            ["Complete", "RESOURCE_EXHAUSTED", "QUEUE_FULL"],
            ["Generate", "CANCELLED", "CANCELLED"],
        ]
    );
    let first = &calls[0];
    assert_eq!(first["request_id"], "mine");
    assert_eq!(
        (&first["model"], &first["finish"]),
        (&"tiny".into(), &"LENGTH".into())
    );
    assert_eq!(
        (&first["n"], &first["prompt_tokens"]),
        (&1.into(), &8.into())
    );
    assert_eq!(first["generated_tokens"], 4);
    for time in ["queue_ms", "first_token_ms", "per_token_ms", "total_ms"] {
        assert!(first[time].is_number(), "no {time} in {first}");
    }
    assert!(first["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert_eq!(
        (&calls[3]["n"], &calls[3]["model"]),
        (&2.into(), &"vectors".into())
    );
    assert!(!lines.text().contains("secret"));
}
