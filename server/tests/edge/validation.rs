//! What a request may not say: one line for each way to be wrong.

use paternoster_client::v1;
use paternoster_client::v1::generate_request::Input;
use tonic::Code;

use server::limits::{Limits, TooLong};

use crate::world::{CONTEXT, Plan, VOCABULARY, World, ask, reason};

type Change<T> = fn(&mut T);

fn sampling(request: &mut v1::GenerateRequest) -> &mut v1::Sampling {
    request.sampling.get_or_insert_default()
}

fn stopping(request: &mut v1::GenerateRequest) -> &mut v1::Stopping {
    request.stopping.get_or_insert_default()
}

fn output(request: &mut v1::GenerateRequest) -> &mut v1::Output {
    request.output.get_or_insert_default()
}

#[expect(clippy::unnecessary_wraps, reason = "the table stays short")]
fn chat(messages: &[(&str, &str)]) -> Option<Input> {
    let message = |&(role, content): &(&str, &str)| v1::ChatMessage {
        role: role.to_owned(),
        content: content.to_owned(),
    };
    Some(Input::Chat(v1::Chat {
        messages: messages.iter().map(message).collect(),
    }))
}

#[expect(clippy::unnecessary_wraps, reason = "the table stays short")]
fn tokens(ids: Vec<u32>) -> Option<Input> {
    Some(Input::TokenIds(v1::TokenIds { ids }))
}

use Code::{InvalidArgument, NotFound, Unimplemented};

const RANGE: &str = "OUT_OF_RANGE";
const TOKEN: &str = "TOKEN_ID_OUT_OF_RANGE";

/// Change, code, reason, field.
#[rustfmt::skip] // a table
const GENERATE: &[(Change<v1::GenerateRequest>, Code, &str, &str)] = &[
    (|r| r.model = "none".into(), NotFound, "MODEL_NOT_FOUND", "model"),
    (|r| r.model = "../../etc".into(), InvalidArgument, "BAD_MODEL_ID", "model"),
    (|r| r.model = "a\0b".into(), InvalidArgument, "BAD_MODEL_ID", "model"),
    (|r| r.input = None, InvalidArgument, "EMPTY_INPUT", "input"),
    (|r| r.input = Some(Input::Prompt(String::new())), InvalidArgument, "EMPTY_INPUT", "input"),
    (|r| r.input = tokens(vec![]), InvalidArgument, "EMPTY_INPUT", "input"),
    (|r| r.input = tokens(vec![1, VOCABULARY]), InvalidArgument, TOKEN, "token_ids.ids"),
    (|r| r.input = tokens(vec![u32::MAX]), InvalidArgument, TOKEN, "token_ids.ids"),
    (|r| r.input = tokens(vec![1; CONTEXT as usize]), InvalidArgument, "CONTEXT_LENGTH_EXCEEDED", "input"),
    (|r| r.input = Some(Input::Prompt("x".repeat(20_000))), InvalidArgument, "INPUT_TOO_LARGE", "prompt"),
    (|r| r.input = Some(Input::Prompt("x".repeat(600))), InvalidArgument, "CONTEXT_LENGTH_EXCEEDED", "input"),
    (|r| r.input = chat(&[]), InvalidArgument, "EMPTY_INPUT", "chat.messages"),
    (|r| r.input = chat(&[("", "hi")]), InvalidArgument, "EMPTY_INPUT", "chat.messages[0].role"),
    (|r| r.input = chat(&[("user", "hi"), ("an admin", "x")]), InvalidArgument, "BAD_ROLE", "chat.messages[1].role"),
    (|r| r.input = chat(&[("user", "hi"), (&["r"; 65].concat(), "x")]), InvalidArgument, "INPUT_TOO_LARGE", "chat.messages[1].role"),
    (|r| r.input = chat(&[("user", "x"); 1025]), InvalidArgument, "TEMPLATE_LIMIT", "chat"),
    (|r| r.input = chat(&[("user", &"x".repeat(20_000))]), InvalidArgument, "INPUT_TOO_LARGE", "chat"),
    (|r| sampling(r).temperature = Some(f32::NAN), InvalidArgument, RANGE, "sampling.temperature"),
    (|r| sampling(r).temperature = Some(-0.1), InvalidArgument, RANGE, "sampling.temperature"),
    (|r| sampling(r).temperature = Some(f32::INFINITY), InvalidArgument, RANGE, "sampling.temperature"),
    (|r| sampling(r).temperature = Some(1e38), InvalidArgument, RANGE, "sampling.temperature"),
    (|r| sampling(r).top_p = Some(0.0), InvalidArgument, RANGE, "sampling.top_p"),
    (|r| sampling(r).top_p = Some(1.01), InvalidArgument, RANGE, "sampling.top_p"),
    (|r| sampling(r).top_p = Some(f32::NAN), InvalidArgument, RANGE, "sampling.top_p"),
    (|r| sampling(r).min_p = Some(-0.5), InvalidArgument, RANGE, "sampling.min_p"),
    (|r| sampling(r).min_p = Some(2.0), InvalidArgument, RANGE, "sampling.min_p"),
    (|r| sampling(r).typical_p = Some(0.0), InvalidArgument, RANGE, "sampling.typical_p"),
    (|r| sampling(r).repetition_penalty = Some(0.0), InvalidArgument, RANGE, "sampling.repetition_penalty"),
    (|r| sampling(r).repetition_penalty = Some(f32::NEG_INFINITY), InvalidArgument, RANGE, "sampling.repetition_penalty"),
    (|r| sampling(r).frequency_penalty = Some(2.1), InvalidArgument, RANGE, "sampling.frequency_penalty"),
    (|r| sampling(r).presence_penalty = Some(-2.1), InvalidArgument, RANGE, "sampling.presence_penalty"),
    (|r| sampling(r).logit_bias = [(VOCABULARY, 1.0)].into(), InvalidArgument, TOKEN, "sampling.logit_bias"),
    (|r| sampling(r).logit_bias = [(1, 101.0)].into(), InvalidArgument, RANGE, "sampling.logit_bias"),
    (|r| sampling(r).logit_bias = [(1, f32::NAN)].into(), InvalidArgument, RANGE, "sampling.logit_bias"),
    (|r| sampling(r).logit_bias = (0..1025).map(|id| (id, 1.0)).collect(), InvalidArgument, RANGE, "sampling.logit_bias"),
    (|r| sampling(r).n = Some(0), InvalidArgument, "N_TOO_LARGE", "sampling.n"),
    (|r| sampling(r).n = Some(17), InvalidArgument, "N_TOO_LARGE", "sampling.n"),
    (|r| sampling(r).n = Some(1_000_000), InvalidArgument, "N_TOO_LARGE", "sampling.n"),
    (|r| stopping(r).max_tokens = Some(0), InvalidArgument, "MAX_TOKENS_OUT_OF_RANGE", "stopping.max_tokens"),
    (|r| stopping(r).max_tokens = Some(CONTEXT - 4), InvalidArgument, "MAX_TOKENS_OUT_OF_RANGE", "stopping.max_tokens"),
    (|r| stopping(r).max_tokens = Some(u32::MAX), InvalidArgument, "MAX_TOKENS_OUT_OF_RANGE", "stopping.max_tokens"),
    (|r| stopping(r).min_tokens = Some(11), InvalidArgument, "MIN_TOKENS_OUT_OF_RANGE", "stopping.min_tokens"),
    (|r| { *stopping(r) = v1::Stopping { min_tokens: Some(5000), ..Default::default() } }, InvalidArgument, "MIN_TOKENS_OUT_OF_RANGE", "stopping.min_tokens"),
    (|r| stopping(r).stop = vec!["x".to_owned(); 17], InvalidArgument, "STOP_TOO_MANY", "stopping.stop"),
    (|r| stopping(r).stop = vec!["x".to_owned(), "y".repeat(257)], InvalidArgument, "STOP_TOO_LONG", "stopping.stop[1]"),
    (|r| stopping(r).stop = vec![String::new()], InvalidArgument, "EMPTY_INPUT", "stopping.stop[0]"),
    (|r| stopping(r).stop_token_ids = vec![1; 65], InvalidArgument, "STOP_TOO_MANY", "stopping.stop_token_ids"),
    (|r| stopping(r).stop_token_ids = vec![VOCABULARY], InvalidArgument, TOKEN, "stopping.stop_token_ids"),
    (|r| output(r).logprobs = Some(21), InvalidArgument, "LOGPROBS_TOO_MANY", "output.logprobs"),
    (|r| output(r).logprobs = Some(1_000_000), InvalidArgument, "LOGPROBS_TOO_MANY", "output.logprobs"),
    (|r| output(r).prompt_logprobs = Some(1), Unimplemented, "NOT_IMPLEMENTED", "output.prompt_logprobs"),
    (|r| r.constraint = Some(v1::Constraint::default()), Unimplemented, "NOT_IMPLEMENTED", "constraint"),
    (|r| r.adapter = "lora".into(), Unimplemented, "NOT_IMPLEMENTED", "adapter"),
    (|r| r.request_id = "a b".into(), InvalidArgument, "BAD_REQUEST_ID", "request_id"),
    (|r| r.request_id = "\u{1b}[31m".into(), InvalidArgument, "BAD_REQUEST_ID", "request_id"),
    (|r| r.request_id = "x".repeat(129), InvalidArgument, "BAD_REQUEST_ID", "request_id"),
    (|r| r.tenant = "x".repeat(129), InvalidArgument, "BAD_TENANT", "tenant"),
    (|r| r.tenant = "a\nb".into(), InvalidArgument, "BAD_TENANT", "tenant"),
    (|r| r.priority = 101, InvalidArgument, RANGE, "priority"),
    (|r| r.priority = i32::MIN, InvalidArgument, RANGE, "priority"),
    (|r| r.deadline_ms = Some(0), InvalidArgument, RANGE, "deadline_ms"),
    (|r| r.cache_salt = "x".repeat(129), InvalidArgument, "BAD_CACHE_SALT", "cache_salt"),
    (|r| r.cache_salt = "a/b".into(), InvalidArgument, "BAD_CACHE_SALT", "cache_salt"),
];

/// What is at its limit, and right.
const RIGHT: &[Change<v1::GenerateRequest>] = &[
    |_| {},
    |r| r.model = "tiny".into(),
    |r| sampling(r).temperature = Some(0.0),
    |r| sampling(r).temperature = Some(f32::from_bits(1)),
    |r| sampling(r).temperature = Some(100.0),
    |r| sampling(r).top_k = Some(0),
    |r| sampling(r).top_k = Some(u32::MAX),
    |r| sampling(r).top_p = Some(1.0),
    |r| sampling(r).min_p = Some(0.0),
    |r| sampling(r).typical_p = Some(1.0),
    |r| sampling(r).repetition_penalty = Some(1.0),
    |r| sampling(r).frequency_penalty = Some(-2.0),
    |r| sampling(r).logit_bias = [(VOCABULARY - 1, -100.0)].into(),
    |r| sampling(r).seed = Some(u64::MAX),
    |r| sampling(r).n = Some(16),
    |r| stopping(r).min_tokens = Some(10),
    |r| stopping(r).max_tokens = Some(CONTEXT - 5),
    |r| stopping(r).stop = vec!["\u{1F6D7}".repeat(256); 16],
    |r| stopping(r).stop_token_ids = vec![VOCABULARY - 1; 64],
    |r| output(r).logprobs = Some(20),
    |r| output(r).logprobs = Some(0),
    |r| r.request_id = "x".repeat(128),
    |r| r.tenant = "Müller & Söhne".into(),
    |r| r.priority = -100,
    |r| r.deadline_ms = Some(u64::MAX),
    |r| r.cache_salt = "a.b_c-D9".into(),
    |r| r.input = tokens(vec![VOCABULARY - 1]),
];

#[tokio::test]
async fn a_wrong_generation_is_refused_by_name() {
    let world = World::ready().await;
    for (line, (change, code, why, field)) in GENERATE.iter().enumerate() {
        let mut request = ask("hello", 10);
        change(&mut request);
        let status = world.client.generate(request).await.unwrap_err();
        let found = (status.code(), reason(&status));
        assert_eq!(
            found,
            (*code, ((*why).to_owned(), (*field).to_owned())),
            "line {line}: {status:?}"
        );
        assert!(status.message().len() <= 1024, "line {line}");
    }
    world.blocks_are_free().await;
}

#[tokio::test]
async fn what_is_at_its_limit_is_right() {
    let world = World::ready().await;
    for (line, change) in RIGHT.iter().enumerate() {
        let mut request = ask("hello", 10);
        change(&mut request);
        let answer = world.client.inference().complete(request).await;
        assert!(answer.is_ok(), "line {line}: {answer:?}");
    }
}

#[tokio::test]
async fn the_configuration_sets_what_requests_may_cost() {
    let mut plan = Plan::default();
    plan.limits = Limits {
        n_max: 2,
        logprobs_max: 1,
        stop_strings_max: 1,
        embed_inputs_max: 2,
        prompt_tokens_max: Some(5),
        too_long: TooLong::Cut,
        ..plan.limits
    };
    let world = World::ready_with(plan).await;
    let changes: [(Change<v1::GenerateRequest>, Option<&str>); 8] = [
        (|r| sampling(r).n = Some(2), None),
        (|r| sampling(r).n = Some(3), Some("N_TOO_LARGE")),
        (|r| output(r).logprobs = Some(1), None),
        (|r| output(r).logprobs = Some(2), Some("LOGPROBS_TOO_MANY")),
        (|r| stopping(r).stop = vec!["x".to_owned()], None),
        (
            |r| stopping(r).stop = vec!["x".to_owned(); 2],
            Some("STOP_TOO_MANY"),
        ),
        (|r| r.input = tokens(vec![1; 5]), None),
        (
            |r| r.input = tokens(vec![1; 6]),
            Some("CONTEXT_LENGTH_EXCEEDED"),
        ),
    ];
    for (line, (change, why)) in changes.iter().enumerate() {
        let mut request = ask("hello", 10);
        change(&mut request);
        let answer = world.client.inference().complete(request).await;
        let found = answer.err().map(|status| reason(&status).0);
        assert_eq!(found.as_deref(), *why, "line {line}");
    }
    let embed = async |inputs: &[&str]| {
        let request = v1::EmbedRequest {
            inputs: inputs.iter().map(ToString::to_string).collect(),
            ..v1::EmbedRequest::default()
        };
        let answer = world.client.inference().embed(request).await;
        answer.err().map(|status| reason(&status).0)
    };
    assert_eq!(embed(&["a", "b"]).await, None);
    let many = embed(&["a", "b", "c"]).await;
    assert_eq!(many.as_deref(), Some("TOO_MANY_INPUTS"));
    // Longer than the encoder takes, and cut.
    assert_eq!(embed(&["x".repeat(4000).as_str()]).await, None);
}

/// Change, code, reason, field.
#[rustfmt::skip] // a table
const EMBED: &[(Change<v1::EmbedRequest>, Code, &str, &str)] = &[
    (|r| r.model = "none".into(), NotFound, "MODEL_NOT_FOUND", "model"),
    (|r| r.inputs.clear(), InvalidArgument, "EMPTY_INPUT", "inputs"),
    (|r| r.inputs.push(String::new()), InvalidArgument, "EMPTY_INPUT", "inputs[1]"),
    (|r| r.inputs = vec!["x".to_owned(); 1025], InvalidArgument, "TOO_MANY_INPUTS", "inputs"),
    (|r| r.inputs = vec!["x".repeat(10_000); 2], InvalidArgument, "INPUT_TOO_LARGE", "inputs"),
    (|r| r.dimensions = Some(0), InvalidArgument, RANGE, "dimensions"),
    (|r| r.dimensions = Some(9), InvalidArgument, RANGE, "dimensions"),
    (|r| r.pooling = 77, InvalidArgument, "UNKNOWN_ENUM", "pooling"),
    (|r| r.pooling = -1, InvalidArgument, "UNKNOWN_ENUM", "pooling"),
    (|r| r.prompt_name = "none".into(), InvalidArgument, "UNKNOWN_PROMPT_NAME", "prompt_name"),
    (|r| r.request_id = "a b".into(), InvalidArgument, "BAD_REQUEST_ID", "request_id"),
    (|r| r.deadline_ms = Some(0), InvalidArgument, RANGE, "deadline_ms"),
];

#[tokio::test]
async fn a_wrong_embedding_is_refused_by_name() {
    let world = World::ready().await;
    for (line, (change, code, why, field)) in EMBED.iter().enumerate() {
        let inputs = vec!["lift".to_owned()];
        let mut request = v1::EmbedRequest {
            inputs,
            ..v1::EmbedRequest::default()
        };
        change(&mut request);
        let status = world.client.inference().embed(request).await.unwrap_err();
        let found = (status.code(), reason(&status));
        assert_eq!(
            found,
            (*code, ((*why).to_owned(), (*field).to_owned())),
            "line {line}: {status:?}"
        );
    }
}

#[tokio::test]
async fn the_other_methods_check_too() {
    let world = World::ready().await;
    let mut inference = world.client.inference();
    let status = inference
        .tokenize(v1::TokenizeRequest::default())
        .await
        .unwrap_err();
    assert_eq!(
        reason(&status),
        ("EMPTY_INPUT".to_owned(), "input".to_owned())
    );
    let request = v1::DetokenizeRequest {
        token_ids: vec![VOCABULARY],
        ..Default::default()
    };
    let status = inference.detokenize(request).await.unwrap_err();
    assert_eq!(reason(&status), (TOKEN.to_owned(), "token_ids".to_owned()));
    let status = world
        .client
        .control()
        .abort(v1::AbortRequest::default())
        .await
        .unwrap_err();
    assert_eq!(
        reason(&status),
        ("EMPTY_INPUT".to_owned(), "request_id".to_owned())
    );
}
