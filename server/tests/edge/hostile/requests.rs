//! Requests that say what no request may say.

use std::fmt::Write as _;

use paternoster_client::v1;
use paternoster_client::v1::generate_request::Input;
use paternoster_client::v1::generate_response::Event;
use tonic::{Code, Request};

use super::{CANARY, Ended, refused, roomy, said, withstand, withstand_with};
use crate::world::{CONTEXT, Plan, VOCABULARY, World, ask, soon};

use Code::{FailedPrecondition, InvalidArgument, NotFound, Ok as Fine};

/// An ordinary request, changed.
fn with(change: impl FnOnce(&mut v1::GenerateRequest)) -> v1::GenerateRequest {
    let mut request = ask(CANARY, 10);
    change(&mut request);
    request
}

fn sampled(change: impl FnOnce(&mut v1::Sampling)) -> v1::GenerateRequest {
    with(|request| change(request.sampling.get_or_insert_default()))
}

fn stopped(change: impl FnOnce(&mut v1::Stopping)) -> v1::GenerateRequest {
    with(|request| change(request.stopping.get_or_insert_default()))
}

fn output(change: impl FnOnce(&mut v1::Output)) -> v1::GenerateRequest {
    with(|request| change(request.output.get_or_insert_default()))
}

fn tokens(ids: Vec<u32>) -> v1::GenerateRequest {
    with(|request| request.input = Some(Input::TokenIds(v1::TokenIds { ids })))
}

fn chat(messages: Vec<(&str, String)>) -> v1::GenerateRequest {
    let message = |(role, content): (&str, String)| v1::ChatMessage {
        role: role.to_owned(),
        content,
    };
    let messages = messages.into_iter().map(message).collect();
    with(|request| request.input = Some(Input::Chat(v1::Chat { messages })))
}

/// Each of these is refused with its code, reason and field.
async fn all_refused(
    world: &World,
    requests: Vec<(v1::GenerateRequest, (Code, &str, &str))>,
) -> Vec<Ended> {
    let mut ended = Vec::new();
    for (request, expected) in requests {
        ended.push(refused(world, request, expected).await);
    }
    ended
}

/// Each of these is invalid for the same reason and field.
async fn invalid(
    world: &World,
    (why, field): (&str, &str),
    requests: impl IntoIterator<Item = v1::GenerateRequest>,
) -> Vec<Ended> {
    let expected = (InvalidArgument, why, field);
    let requests = requests.into_iter().map(|request| (request, expected));
    all_refused(world, requests.collect()).await
}

#[tokio::test]
async fn row_01_nothing_to_work_on() {
    withstand(async |world| {
        let requests = vec![
            (
                with(|r| r.input = None),
                (InvalidArgument, "EMPTY_INPUT", "input"),
            ),
            (ask("", 1), (InvalidArgument, "EMPTY_INPUT", "input")),
            (tokens(vec![]), (InvalidArgument, "EMPTY_INPUT", "input")),
            (
                chat(vec![]),
                (InvalidArgument, "EMPTY_INPUT", "chat.messages"),
            ),
        ];
        let mut ended = all_refused(world, requests).await;
        let nothing: [&str; 0] = [];
        let status = world.client.embed(nothing).await.unwrap_err();
        assert_eq!(said(&status).1, "EMPTY_INPUT");
        ended.push(("Embed", InvalidArgument));
        ended
    })
    .await;
}

#[tokio::test]
async fn row_02_a_prompt_longer_than_the_context() {
    withstand(async |world| {
        let long = [
            ask(&CANARY.repeat(100), 1),
            tokens(vec![1; CONTEXT as usize]),
        ];
        invalid(world, ("CONTEXT_LENGTH_EXCEEDED", "input"), long).await
    })
    .await;
}

#[tokio::test]
async fn row_03_text_above_the_limit_is_not_tokenized() {
    let plan = || {
        let mut plan = roomy();
        plan.limits.message_bytes_max = 8 << 20;
        plan
    };
    withstand_with(plan, async |world| {
        let text = format!("{CANARY}{}", "a".repeat(4 << 20));
        let long = [ask(&text, 1)];
        let mut ended = invalid(world, ("INPUT_TOO_LARGE", "prompt"), long).await;
        let long = [chat(vec![("user", text)])];
        ended.extend(invalid(world, ("INPUT_TOO_LARGE", "chat"), long).await);
        ended
    })
    .await;
}

#[tokio::test]
async fn row_07_numbers_of_tokens_out_of_range() {
    withstand(async |world| {
        let counts = [0, CONTEXT, CONTEXT - 5, u32::MAX, u32::MAX - 5];
        let requests = counts.map(|count| stopped(|stopping| stopping.max_tokens = Some(count)));
        let expected = ("MAX_TOKENS_OUT_OF_RANGE", "stopping.max_tokens");
        invalid(world, expected, requests).await
    })
    .await;
}

#[tokio::test]
async fn row_08_cve_2026_114051_more_tokens_at_least_than_at_most() {
    withstand(async |world| {
        let requests = [
            stopped(|stopping| stopping.min_tokens = Some(11)),
            stopped(|stopping| stopping.min_tokens = Some(u32::MAX)),
            stopped(|stopping| {
                stopping.max_tokens = None;
                stopping.min_tokens = Some(u32::MAX);
            }),
        ];
        let expected = ("MIN_TOKENS_OUT_OF_RANGE", "stopping.min_tokens");
        invalid(world, expected, requests).await
    })
    .await;
}

#[tokio::test]
async fn row_09_cve_2026_34756_a_million_sequences() {
    withstand(async |world| {
        let requests = [0, 17, 1_000_000, u32::MAX].map(|n| sampled(|s| s.n = Some(n)));
        invalid(world, ("N_TOO_LARGE", "sampling.n"), requests).await
    })
    .await;
}

#[tokio::test]
async fn row_10_cve_2026_116173_more_log_probabilities_than_there_are() {
    withstand(async |world| {
        let counts = [21, 1_000_000, u32::MAX];
        let requests = counts.map(|count| output(|output| output.logprobs = Some(count)));
        invalid(world, ("LOGPROBS_TOO_MANY", "output.logprobs"), requests).await
    })
    .await;
}

/// The tokenizer of this server knows 256 tokens, its model 300: ids between are right.
#[tokio::test]
async fn row_11_cve_2026_93840_tokens_that_the_logits_do_not_have() {
    const WHY: &str = "TOKEN_ID_OUT_OF_RANGE";
    withstand(async |world| {
        let mut ended = Vec::new();
        for id in [VOCABULARY, VOCABULARY + 1, u32::MAX] {
            let expected = |field| (InvalidArgument, WHY, field);
            let requests = vec![
                (tokens(vec![1, id]), expected("token_ids.ids")),
                (
                    sampled(|s| s.logit_bias = [(id, 1.0)].into()),
                    expected("sampling.logit_bias"),
                ),
                (
                    stopped(|s| s.stop_token_ids = vec![id]),
                    expected("stopping.stop_token_ids"),
                ),
            ];
            ended.extend(all_refused(world, requests).await);
        }
        let padded = tokens(vec![VOCABULARY - 1, 256]);
        let mut inference = world.client.inference();
        world.stepping(inference.complete(padded)).await.unwrap();
        ended.push(("Complete", Fine));
        ended
    })
    .await;
}

#[tokio::test]
async fn row_12_numbers_that_are_none() {
    type Field = fn(&mut v1::Sampling, f32);
    const FIELDS: [(&str, Field); 7] = [
        ("sampling.temperature", |s, v| s.temperature = Some(v)),
        ("sampling.top_p", |s, v| s.top_p = Some(v)),
        ("sampling.min_p", |s, v| s.min_p = Some(v)),
        ("sampling.typical_p", |s, v| s.typical_p = Some(v)),
        ("sampling.repetition_penalty", |s, v| {
            s.repetition_penalty = Some(v);
        }),
        ("sampling.frequency_penalty", |s, v| {
            s.frequency_penalty = Some(v);
        }),
        ("sampling.presence_penalty", |s, v| {
            s.presence_penalty = Some(v);
        }),
    ];
    withstand(async |world| {
        let mut ended = Vec::new();
        for (field, set) in FIELDS {
            let wrong = [
                f32::NAN,
                f32::INFINITY,
                f32::NEG_INFINITY,
                -1e38,
                1e38,
                -3.0,
            ];
            let requests = wrong.map(|value| sampled(|sampling| set(sampling, value)));
            ended.extend(invalid(world, ("OUT_OF_RANGE", field), requests).await);
        }
        let mut denormal = sampled(|sampling| sampling.temperature = Some(f32::from_bits(1)));
        denormal.stopping.get_or_insert_default().max_tokens = Some(2);
        let mut inference = world.client.inference();
        world.stepping(inference.complete(denormal)).await.unwrap();
        ended.push(("Complete", Fine));
        ended
    })
    .await;
}

#[tokio::test]
async fn row_13_stop_strings_without_end() {
    let plan = || {
        let mut plan = roomy();
        plan.limits.message_bytes_max = 2 << 20;
        plan
    };
    withstand_with(plan, async |world| {
        let expected = |why, field| (InvalidArgument, why, field);
        let requests = vec![
            (
                stopped(|s| s.stop = vec![CANARY.to_owned(); 10_000]),
                expected("STOP_TOO_MANY", "stopping.stop"),
            ),
            (
                stopped(|s| s.stop = vec!["x".repeat(1 << 20)]),
                expected("STOP_TOO_LONG", "stopping.stop[0]"),
            ),
            (
                stopped(|s| s.stop = vec![String::new()]),
                expected("EMPTY_INPUT", "stopping.stop[0]"),
            ),
            (
                stopped(|s| s.stop_token_ids = vec![1; 10_000]),
                expected("STOP_TOO_MANY", "stopping.stop_token_ids"),
            ),
        ];
        all_refused(world, requests).await
    })
    .await;
}

#[tokio::test]
async fn row_14_enum_numbers_that_nobody_defined() {
    withstand(async |world| {
        let mut ended = Vec::new();
        for pooling in [77, -1, i32::MIN, i32::MAX] {
            let request = v1::EmbedRequest {
                inputs: vec![CANARY.to_owned()],
                pooling,
                ..v1::EmbedRequest::default()
            };
            let status = world.client.inference().embed(request).await.unwrap_err();
            let expected = (
                InvalidArgument,
                "UNKNOWN_ENUM".to_owned(),
                "pooling".to_owned(),
            );
            assert_eq!(said(&status), expected);
            ended.push(("Embed", InvalidArgument));
        }
        ended
    })
    .await;
}

#[tokio::test]
async fn row_19_a_model_that_is_not_served() {
    withstand(async |world| {
        let requests = vec![(
            with(|r| r.model = "somebody/else".into()),
            (NotFound, "MODEL_NOT_FOUND", "model"),
        )];
        all_refused(world, requests).await
    })
    .await;
}

#[tokio::test]
async fn row_20_names_that_are_paths() {
    const NAMES: [&str; 8] = [
        "../../etc/passwd",
        "/etc/passwd",
        "a\0b",
        "%2e%2e/x",
        "a/../b",
        "a\\b",
        "a b",
        "\u{1b}[31m",
    ];
    withstand(async |world| {
        let mut requests: Vec<_> = NAMES.map(|name| with(|r| r.model = name.into())).into();
        requests.push(with(|r| r.model = "x".repeat(5000)));
        invalid(world, ("BAD_MODEL_ID", "model"), requests).await
    })
    .await;
}

#[tokio::test]
async fn row_21_the_wrong_kind_of_model() {
    withstand(async |world| {
        let requests = vec![(
            with(|r| r.model = "vectors".into()),
            (FailedPrecondition, "WRONG_TASK", "model"),
        )];
        let mut ended = all_refused(world, requests).await;
        let request = v1::EmbedRequest {
            inputs: vec![CANARY.to_owned()],
            model: "tiny".to_owned(),
            ..v1::EmbedRequest::default()
        };
        let status = world.client.inference().embed(request).await.unwrap_err();
        assert_eq!(said(&status).1, "WRONG_TASK");
        ended.push(("Embed", FailedPrecondition));
        ended
    })
    .await;
}

/// A conversation without end; what a template itself may do is in the tests of `text::budget`.
#[tokio::test]
async fn row_28_conversations_that_a_template_multiplies() {
    withstand(async |world| {
        let message = ("user", CANARY.to_owned());
        let requests = [chat(vec![message; 1025])];
        invalid(world, ("TEMPLATE_LIMIT", "chat"), requests).await
    })
    .await;
}

#[tokio::test]
async fn row_43_request_ids_that_are_none() {
    withstand(async |world| {
        let mut inference = world.client.inference();
        let mut ended = Vec::new();
        // One that lives already, one that is not an id, one that names a colour.
        for id in [
            "bystander",
            "a b",
            "\u{7f}[31m".trim_start_matches('\u{7f}'),
        ] {
            let mut request = Request::new(ask(CANARY, 1));
            request
                .metadata_mut()
                .insert("x-request-id", id.parse().unwrap());
            let answer = world.stepping(inference.complete(request)).await.unwrap();
            let named = answer
                .metadata()
                .get("x-request-id")
                .unwrap()
                .to_str()
                .unwrap();
            assert_eq!(named == id, id == "bystander", "{named}");
            ended.push(("Complete", Fine));
        }
        let requests = ["a\nb", "\u{1b}[31m", "a b"].map(|id| with(|r| r.request_id = id.into()));
        ended.extend(invalid(world, ("BAD_REQUEST_ID", "request_id"), requests).await);
        ended
    })
    .await;
}

/// What somebody with another salt has computed is not found.
#[tokio::test]
async fn row_49_another_tenants_prefix_is_not_found() {
    withstand(async |world| {
        let prompt = "p".repeat(64);
        let cached = async |salt: &str| {
            let mut request = ask(&prompt, 1);
            request.cache_salt = salt.to_owned();
            let mut events = world.client.generate(request).await.unwrap();
            let mut cached = 0;
            while let Some(event) = events.next().await.unwrap() {
                if let Event::Finished(finished) = event {
                    cached = finished.usage.unwrap().cached_tokens;
                }
            }
            cached
        };
        let found = async {
            [
                cached("one").await,
                cached("two").await,
                cached("one").await,
            ]
        };
        let [first, other, again] = world.stepping(found).await;
        assert_eq!((first, other), (0, 0));
        // All but the last, which is computed in any case.
        assert_eq!(again, 63);
        vec![("Generate", Fine); 3]
    })
    .await;
}

#[tokio::test]
async fn row_50_cve_2026_105756_salts_that_are_none() {
    withstand(async |world| {
        let mut salts = vec!["a/b".to_owned(), "a\0".to_owned(), "\u{1F6D7}".to_owned()];
        salts.push("x".repeat(40_000));
        let requests = salts.into_iter().map(|salt| with(|r| r.cache_salt = salt));
        invalid(world, ("BAD_CACHE_SALT", "cache_salt"), requests).await
    })
    .await;
}

#[tokio::test]
async fn row_65_line_breaks_and_colours_in_what_is_said_back() {
    withstand(async |world| {
        let mut requests = vec![with(|r| r.model = format!("{CANARY}\r\n\u{1b}[31mERROR"))];
        let mut long = String::new();
        for number in 0..500 {
            write!(long, "\u{1b}[{number}m").unwrap();
        }
        requests.push(with(|r| r.model = long));
        let mut ended = Vec::new();
        for request in requests {
            let status = soon(world.client.generate(request)).await.unwrap_err();
            assert_eq!(status.code(), InvalidArgument);
            let printable = |c: char| !c.is_control();
            assert!(
                status.message().chars().all(printable),
                "{:?}",
                status.message()
            );
            ended.push(("Generate", InvalidArgument));
        }
        ended
    })
    .await;
}

/// What its pool could never hold is an answer, not an endless wait.
#[tokio::test]
async fn row_37_a_prompt_that_can_never_fit() {
    let small = || Plan {
        blocks: 17,
        ..Plan::default()
    };
    let world = World::ready_with(small()).await;
    let expected = (InvalidArgument, "CONTEXT_LENGTH_EXCEEDED", "input");
    refused(&world, ask(&"p".repeat(300), 1), expected).await;
    let expected = (
        InvalidArgument,
        "MAX_TOKENS_OUT_OF_RANGE",
        "stopping.max_tokens",
    );
    refused(&world, ask(&"p".repeat(200), 100), expected).await;
    world
        .client
        .inference()
        .complete(ask(&"p".repeat(200), 56))
        .await
        .unwrap();
    world.blocks_are_free().await;
}
