//! `Embed` and `EmbedStream`: order, scaling, cutting, and what ends a stream.

use engine::fake::Fault;
use engine::request::Token;
use futures_util::stream;
use paternoster_client::v1;
use tonic::Code;

use crate::world::{INPUT_TOKENS_MAX, Plan, WIDTH, World, reason, soon};

fn request(inputs: &[&str]) -> v1::EmbedRequest {
    let inputs = inputs.iter().map(|&input| input.to_owned()).collect();
    v1::EmbedRequest {
        inputs,
        ..v1::EmbedRequest::default()
    }
}

async fn vectors(world: &World, request: v1::EmbedRequest) -> Vec<Vec<f32>> {
    let answer = soon(world.client.inference().embed(request))
        .await
        .unwrap()
        .into_inner();
    answer
        .embeddings
        .into_iter()
        .map(|embedding| embedding.values)
        .collect()
}

fn raw(world: &World, text: &str) -> Vec<f32> {
    let tokens: Vec<Token> = text.bytes().map(|byte| Token(byte.into())).collect();
    world.encoder.expected_vector(&tokens)
}

fn close(left: &[f32], right: &[f32]) -> bool {
    left.len() == right.len() && left.iter().zip(right).all(|(l, r)| (l - r).abs() < 1e-6)
}

fn scaled(mut vector: Vec<f32>) -> Vec<f32> {
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    for value in &mut vector {
        *value /= length;
    }
    vector
}

#[tokio::test]
async fn vectors_come_in_the_order_of_their_inputs() {
    let world = World::ready().await;
    let inputs: Vec<String> = (0..300)
        .map(|number| format!("input {number} {}", "x".repeat(number % 40)))
        .collect();
    let all = world.client.embed(inputs.clone()).await.unwrap();
    assert_eq!(all.len(), inputs.len());
    for (input, vector) in inputs.iter().zip(&all) {
        assert!(close(vector, &scaled(raw(&world, input))), "{input}");
    }
}

#[tokio::test]
async fn usage_counts_the_tokens_of_all_inputs() {
    let world = World::ready().await;
    let answer = world
        .client
        .inference()
        .embed(request(&["one", "three"]))
        .await
        .unwrap();
    assert!(answer.metadata().contains_key("x-request-id"));
    assert_eq!(answer.get_ref().usage.unwrap().prompt_tokens, 8);
    assert_eq!(answer.get_ref().model, "vectors");
}

#[tokio::test]
async fn scaling_and_cutting_follow_the_request() {
    let world = World::ready().await;
    let whole = raw(&world, "lift");
    let kept = v1::EmbedRequest {
        normalize: Some(false),
        ..request(&["lift"])
    };
    assert_eq!(vectors(&world, kept).await, vec![whole.clone()]);
    let cut = v1::EmbedRequest {
        dimensions: Some(3),
        ..request(&["lift"])
    };
    assert!(close(
        &vectors(&world, cut).await[0],
        &scaled(whole[..3].to_vec())
    ));
    let raw_cut = v1::EmbedRequest {
        dimensions: Some(WIDTH),
        normalize: Some(false),
        ..request(&["lift"])
    };
    assert_eq!(vectors(&world, raw_cut).await, [whole]);
}

#[tokio::test]
async fn long_inputs_are_cut_only_when_asked() {
    let world = World::ready().await;
    let long = "y".repeat(INPUT_TOKENS_MAX as usize + 1);
    let status = world.client.embed(["short", &long]).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let expected = ("CONTEXT_LENGTH_EXCEEDED".to_owned(), "inputs[1]".to_owned());
    assert_eq!(reason(&status), expected);
    let cut = v1::EmbedRequest {
        truncate: true,
        ..request(&[&long])
    };
    let whole = scaled(raw(&world, &long[1..]));
    assert!(close(&vectors(&world, cut).await[0], &whole));
}

#[tokio::test]
async fn a_named_prompt_goes_before_each_input() {
    let world = World::ready().await;
    let named = v1::EmbedRequest {
        prompt_name: "query".to_owned(),
        ..request(&["lift"])
    };
    let expected = scaled(raw(&world, "query: lift"));
    assert!(close(&vectors(&world, named).await[0], &expected));
}

#[tokio::test]
async fn a_vector_that_is_not_finite_fails_its_own_call() {
    let world = World::ready().await;
    world.encoder.fail_next(Fault::NotFinite(0));
    let status = world.client.embed(["sick"]).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).0.as_str()),
        (Code::Internal, "ENCODER_FAILED")
    );
    assert_eq!(world.client.embed(["sound"]).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_deadline_ends_a_call_that_waits() {
    let world = World::ready().await;
    world.encoder.hold();
    let hurried = v1::EmbedRequest {
        deadline_ms: Some(20),
        ..request(&["lift"])
    };
    let status = soon(world.client.inference().embed(hurried))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    world.encoder.release();
}

#[tokio::test]
async fn a_stream_answers_in_order() {
    let world = World::ready().await;
    let texts: Vec<String> = (0..50).map(|number| format!("text {number}")).collect();
    let requests: Vec<_> = texts.iter().map(|text| request(&[text])).collect();
    let answers = world
        .client
        .inference()
        .embed_stream(stream::iter(requests))
        .await
        .unwrap();
    let mut answers = answers.into_inner();
    for text in &texts {
        let answer = soon(answers.message()).await.unwrap().unwrap();
        assert!(
            close(&answer.embeddings[0].values, &scaled(raw(&world, text))),
            "{text}"
        );
    }
    assert!(soon(answers.message()).await.unwrap().is_none());
}

#[tokio::test]
async fn the_first_error_ends_a_stream() {
    let world = World::ready().await;
    let requests = vec![request(&["good"]), request(&[]), request(&["never"])];
    let answers = world
        .client
        .inference()
        .embed_stream(stream::iter(requests))
        .await
        .unwrap();
    let mut answers = answers.into_inner();
    assert!(soon(answers.message()).await.unwrap().is_some());
    let status = soon(answers.message()).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).0.as_str()),
        (Code::InvalidArgument, "EMPTY_INPUT")
    );
}

#[tokio::test]
async fn a_drain_ends_a_stream_that_would_go_on() {
    let world = World::ready_with(Plan::default()).await;
    let answers = world
        .client
        .inference()
        .embed_stream(stream::pending())
        .await
        .unwrap();
    world.shutdown.cancel();
    let status = soon(answers.into_inner().message()).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).0.as_str()),
        (Code::Unavailable, "DRAINING")
    );
    world.ended().await;
}
