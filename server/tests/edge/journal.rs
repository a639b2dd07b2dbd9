//! The line that each call leaves in the log.

use paternoster_client::v1;

use crate::lines::Lines;
use crate::world::{Plan, REVISION, World, ask, reason};

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
    assert_eq!(first["revision"], REVISION);
    assert_eq!(first["preemptions"], 0);
    // What is not known, or does not apply, is left out.
    assert_eq!(calls[3]["revision"], serde_json::Value::Null);
    assert_eq!(calls[3]["preemptions"], serde_json::Value::Null);
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

#[tokio::test]
async fn the_line_counts_the_preemptions_of_all_sequences() {
    let (lines, _recording) = Lines::record();
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let _counting = metrics::set_default_local_recorder(&recorder);
    // 7 blocks for each of the two, of 8.
    let plan = Plan {
        blocks: 9,
        ..Plan::default()
    };
    let world = World::ready_with(plan).await;
    let mut request = ask("too much", 100);
    request.sampling = Some(v1::Sampling {
        n: Some(2),
        temperature: Some(0.0),
        ..v1::Sampling::default()
    });
    // The second one has come when the first has made one step.
    world.device.hold();
    let mut inference = world.client.inference();
    let answer = world.stepping(inference.complete(request)).await.unwrap();
    let trailers = answer.metadata();
    assert_eq!(trailers.get("x-model-revision").unwrap(), REVISION);
    let expected = world.expected_text("too much", 100);
    for completion in &answer.get_ref().completions {
        assert_eq!(completion.text, expected);
    }
    let calls = lines.calls();
    let preemptions = calls[0]["preemptions"].as_u64().unwrap();
    assert!(preemptions > 0, "{}", calls[0]);
    let counted = format!("paternoster_preemptions_total{{model=\"tiny\"}} {preemptions}\n");
    let page = recorder.handle().render();
    assert!(page.contains(&counted), "{counted}{page}");
}
