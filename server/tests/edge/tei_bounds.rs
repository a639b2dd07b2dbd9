//! `tei.v1`: order, places, health, and the defects of Text Embeddings Inference that must not be here,
//! each named as in the list of them (`docs/operating.md`, For users of TEI).

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::{self, FuturesUnordered};
use proto::tei::v1 as tei;
use server::registry::Task;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::services::channel;
use crate::tei::{Clients, device, embed, ranking_models, ranking_world, to};
use crate::world::{More, Plan, VECTORS, World, eventually, reason, soon};

fn rerank(texts: usize) -> tei::RerankRequest {
    tei::RerankRequest {
        query: "way?".to_owned(),
        texts: (0..texts).map(|text| format!("text {text}")).collect(),
        ..tei::RerankRequest::default()
    }
}

#[tokio::test]
async fn a_stream_of_ten_thousand_is_answered_in_order() {
    let world = World::ready().await;
    let mut client = Clients::of(&world).await.embed;
    let text = |number: usize| format!("{number:05} {}", "x".repeat(number % 50));
    let messages = (0..10_000).map(move |number| tei::EmbedRequest {
        normalize: Some(false),
        ..embed(&text(number))
    });
    let answers = client.embed_stream(stream::iter(messages)).await.unwrap();
    let mut answers = answers.into_inner();
    for number in 0..10_000 {
        let answer = soon(answers.message()).await.unwrap().unwrap();
        let tokens = text(number);
        let tokens = tokens
            .bytes()
            .map(|byte| engine::request::Token(byte.into()));
        let expected = world.encoder.expected_vector(&tokens.collect::<Vec<_>>());
        assert_eq!(answer.embeddings, expected, "{number}");
    }
    assert!(soon(answers.message()).await.unwrap().is_none());
}

/// Sends four messages, of which the third one is wrong, and looks at the answers of the first two.
macro_rules! check {
    ($client:expr, $method:ident, $message:expr, $count:expr) => {{
        let messages = ["one", "three", "", "never"].map($message);
        let answers = $client.$method(stream::iter(messages)).await.unwrap();
        let mut answers = answers.into_inner();
        for expected in [3, 5] {
            let answer = soon(answers.message()).await.unwrap().unwrap();
            assert_eq!($count(answer), expected);
        }
        let status = soon(answers.message()).await.unwrap_err();
        assert_eq!(reason(&status).0, "EMPTY_INPUT");
    }};
}

/// Makes a message of a text.
macro_rules! message {
    ($kind:ident) => {
        |inputs: &str| tei::$kind {
            inputs: inputs.to_owned(),
            ..tei::$kind::default()
        }
    };
}

#[tokio::test]
async fn every_stream_answers_in_order_until_its_first_error() {
    let world = ranking_world().await;
    let mut clients = Clients::of(&world).await;
    let cost = |metadata: Option<tei::Metadata>| metadata.unwrap().compute_tokens;
    check!(
        clients.embed,
        embed_stream,
        embed,
        |answer: tei::EmbedResponse| { cost(answer.metadata) }
    );
    check!(
        clients.embed,
        embed_all_stream,
        message!(EmbedAllRequest),
        |answer: tei::EmbedAllResponse| { answer.token_embeddings.len() }
    );
    check!(
        clients.embed,
        embed_sparse_stream,
        message!(EmbedSparseRequest),
        |answer: tei::EmbedSparseResponse| { cost(answer.metadata) }
    );
    check!(
        clients.predict,
        predict_stream,
        message!(PredictRequest),
        |answer: tei::PredictResponse| { cost(answer.metadata) }
    );
    let pair = |text: &str| tei::PredictPairRequest {
        inputs: vec![text.to_owned(), String::new()],
        ..tei::PredictPairRequest::default()
    };
    check!(
        clients.predict,
        predict_pair_stream,
        pair,
        |answer: tei::PredictResponse| { cost(answer.metadata) }
    );
    check!(
        clients.tokenize,
        tokenize_stream,
        message!(EncodeRequest),
        |answer: tei::EncodeResponse| { answer.tokens.len() }
    );
    let decode = |text: &str| tei::DecodeRequest {
        ids: text.bytes().map(u32::from).collect(),
        skip_special_tokens: false,
    };
    check!(
        clients.tokenize,
        decode_stream,
        decode,
        |answer: tei::DecodeResponse| { answer.text.len() }
    );
}

#[tokio::test]
async fn the_cost_of_a_call_is_told_in_its_metadata() {
    let world = World::ready().await;
    let mut client = Clients::of(&world).await.embed;
    let answer = client.embed(embed("l\u{e4}ngs")).await.unwrap();
    let told = |key: &str| answer.metadata().get(key).unwrap().to_str().unwrap();
    assert_eq!(told("x-compute-type"), "cpu");
    assert_eq!(told("x-compute-characters"), "5");
    assert_eq!(told("x-compute-tokens"), "6");
    let metadata = answer.get_ref().metadata.unwrap();
    assert_eq!((metadata.compute_chars, metadata.compute_tokens), (5, 6));
    for (key, time) in [
        ("x-compute-time", metadata.total_time_ns),
        ("x-total-time", metadata.total_time_ns),
        ("x-tokenization-time", metadata.tokenization_time_ns),
        ("x-queue-time", metadata.queue_time_ns),
        ("x-inference-time", metadata.inference_time_ns),
    ] {
        assert_eq!(told(key).parse::<u64>().unwrap(), time / 1_000_000, "{key}");
    }
    let parts = metadata.tokenization_time_ns + metadata.queue_time_ns + metadata.inference_time_ns;
    assert!(parts <= metadata.total_time_ns);
}

#[tokio::test]
async fn health_tells_which_services_a_model_is_there_for() {
    let status = async |world: &World, service: &str| {
        let mut client = HealthClient::new(channel(world).await);
        let service = service.to_owned();
        let request = HealthCheckRequest { service };
        client.check(request).await.unwrap().into_inner().status()
    };
    let (embedder, all) = (World::ready().await, ranking_world().await);
    for (service, serves) in [
        ("tei.v1.Info", true),
        ("tei.v1.Tokenize", true),
        ("tei.v1.Embed", true),
        ("tei.v1.Predict", false),
        ("tei.v1.Rerank", false),
    ] {
        let expected = if serves {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        assert_eq!(status(&embedder, service).await, expected, "{service}");
        assert_eq!(status(&all, service).await, ServingStatus::Serving);
    }
}

#[tokio::test]
async fn single_calls_fail_at_once_and_streams_and_rankings_wait() {
    let mut plan = Plan {
        more: ranking_models(),
        ..Plan::default()
    };
    plan.limits.calls_max = 1;
    let world = World::ready_with(plan).await;
    let clients = Clients::of(&world).await;
    world.encoder.hold();
    let (mut first, mut second) = (clients.embed.clone(), clients.embed.clone());
    let holding = tokio::spawn(async move { first.embed(embed("first")).await });
    eventually(|| *world.encoder.launched().borrow() > 0).await;
    let status = second.embed(embed("second")).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(reason(&status).0, "QUEUE_FULL");
    // As many rankings wait as may run.
    let ranked =
        async |mut ranks: tei::rerank_client::RerankClient<Channel>| ranks.rerank(rerank(3)).await;
    let rankings = [0; 2].map(|_| ranked(clients.rerank.clone()));
    let mut rankings: FuturesUnordered<_> = rankings.into_iter().collect();
    let refused = soon(rankings.next()).await.unwrap().unwrap_err();
    assert_eq!(reason(&refused).0, "QUEUE_FULL");
    let mut words = clients.tokenize.clone();
    let message = tei::EncodeRequest {
        inputs: "third".to_owned(),
        ..tei::EncodeRequest::default()
    };
    let answers = words.tokenize_stream(stream::iter([message])).await;
    let mut answers = answers.unwrap().into_inner();
    world.encoder.release();
    soon(holding).await.unwrap().unwrap();
    let ranks = soon(rankings.next()).await.unwrap().unwrap();
    assert_eq!(ranks.get_ref().ranks.len(), 3);
    assert!(soon(answers.message()).await.unwrap().is_some());
}

#[tokio::test]
async fn e1_a_stream_without_a_message_is_refused_and_the_server_lives() {
    let world = ranking_world().await;
    let mut clients = Clients::of(&world).await;
    let status = clients
        .rerank
        .rerank_stream(stream::empty())
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(
        reason(&status),
        ("EMPTY_INPUT".to_owned(), "messages".to_owned())
    );
    assert!(clients.rerank.rerank(rerank(2)).await.is_ok());
    let answers = clients.embed.embed_stream(stream::empty()).await.unwrap();
    assert!(answers.into_inner().message().await.unwrap().is_none());
}

/// The error that a stream begins with.
async fn first<T>(answers: tonic::Response<tonic::Streaming<T>>) -> Status {
    let first = soon(answers.into_inner().message()).await;
    first.map(|_| ()).unwrap_err()
}

#[tokio::test]
async fn e2_an_unknown_direction_is_refused_wherever_it_may_stand() {
    let world = ranking_world().await;
    let mut clients = Clients::of(&world).await;
    let unknown = 77;
    macro_rules! message {
        ($kind:ident) => {
            tei::$kind {
                truncation_direction: unknown,
                ..tei::$kind::default()
            }
        };
    }
    macro_rules! streamed {
        ($client:expr, $method:ident, $kind:ident) => {
            first(
                $client
                    .$method(stream::iter([message!($kind)]))
                    .await
                    .unwrap(),
            )
            .await
        };
    }
    let (embed, predict) = (&mut clients.embed, &mut clients.predict);
    let mut told = vec![
        embed.embed(message!(EmbedRequest)).await.unwrap_err(),
        embed
            .embed_sparse(message!(EmbedSparseRequest))
            .await
            .unwrap_err(),
        embed
            .embed_all(message!(EmbedAllRequest))
            .await
            .unwrap_err(),
        streamed!(embed, embed_stream, EmbedRequest),
        streamed!(embed, embed_sparse_stream, EmbedSparseRequest),
        streamed!(embed, embed_all_stream, EmbedAllRequest),
        predict.predict(message!(PredictRequest)).await.unwrap_err(),
        predict
            .predict_pair(message!(PredictPairRequest))
            .await
            .unwrap_err(),
        streamed!(predict, predict_stream, PredictRequest),
        streamed!(predict, predict_pair_stream, PredictPairRequest),
        clients
            .rerank
            .rerank(message!(RerankRequest))
            .await
            .unwrap_err(),
    ];
    let messages = stream::iter([message!(RerankStreamRequest)]);
    told.push(clients.rerank.rerank_stream(messages).await.unwrap_err());
    for status in told {
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        let expected = ("UNKNOWN_ENUM".to_owned(), "truncation_direction".to_owned());
        assert_eq!(reason(&status), expected);
    }
}

#[tokio::test]
async fn e3_ten_times_too_many_calls_are_refused_and_no_more() {
    let crowded = More {
        waiting_max: 8,
        ..More::new("crowded", Task::Embed(VECTORS))
    };
    let world = World::ready_with(Plan {
        more: vec![crowded],
        ..Plan::default()
    })
    .await;
    let client = Clients::of(&world).await.embed;
    let calls = (0..200).map(|number| {
        let mut client = client.clone();
        async move {
            client
                .embed(to("crowded", embed(&format!("{number}"))))
                .await
        }
    });
    world.more[0].hold();
    let mut calls = Box::pin(join_all(calls));
    let refused = soon(async {
        loop {
            tokio::select! {
                biased;
                all = &mut calls => break all,
                () = tokio::task::yield_now() => {
                    world.more[0].allow(1);
                }
            }
        }
    })
    .await;
    for status in refused.into_iter().filter_map(Result::err) {
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(reason(&status).0, "QUEUE_FULL");
    }
    world.more[0].release();
    let mut client = client.clone();
    assert!(client.embed(to("crowded", embed("after"))).await.is_ok());
}

/// The sum of the series of a metric with these labels.
fn counted(page: &str, metric: &str, labels: &[&str]) -> u64 {
    let series = page.lines().filter(|line| {
        let name = line.split(['{', ' ']).next();
        name == Some(metric) && labels.iter().all(|label| line.contains(label))
    });
    let value = |line: &str| {
        line.rsplit(' ')
            .next()
            .and_then(|value| value.parse::<u64>().ok())
    };
    series.filter_map(value).sum()
}

#[tokio::test]
async fn e4_each_input_is_counted_once() {
    let world = World::ready_with(Plan {
        more: vec![More::new("e4-vectors", Task::Embed(VECTORS))],
        ..Plan::default()
    })
    .await;
    let mut client = Clients::of(&world).await.embed;
    let labels = ["model=\"e4-vectors\"", "outcome=\"encoded\""];
    let inputs = async || {
        let page = world.get("/metrics").await;
        counted(&page, "paternoster_encode_inputs_total", &labels)
    };
    assert_eq!(inputs().await, 0);
    client.embed(to("e4-vectors", embed("one"))).await.unwrap();
    assert_eq!(inputs().await, 1);
    let all = tei::EmbedAllRequest {
        inputs: "two".to_owned(),
        ..tei::EmbedAllRequest::default()
    };
    client.embed_all(to("e4-vectors", all)).await.unwrap();
    assert_eq!(inputs().await, 2);
    let messages = ["three", "four", "five"].map(embed);
    let answers = client.embed_stream(to("e4-vectors", stream::iter(messages)));
    let mut answers = answers.await.unwrap().into_inner();
    while soon(answers.message()).await.unwrap().is_some() {}
    assert_eq!(inputs().await, 5);
}

/// What a server with one wide model sends, and the most a client takes.
async fn wide(client_bytes_max: usize) -> Result<tei::EmbedAllResponse, Status> {
    let model = More {
        width: 1024,
        input_tokens_max: 8192,
        ..More::new("wide", Task::Embed(VECTORS))
    };
    let world = World::ready_with(Plan {
        more: vec![model],
        ..Plan::default()
    })
    .await;
    let client = tei::embed_client::EmbedClient::<Channel>::new(channel(&world).await);
    let request = tei::EmbedAllRequest {
        inputs: "w".repeat(8192),
        ..tei::EmbedAllRequest::default()
    };
    let mut client = client.max_decoding_message_size(client_bytes_max);
    let answer = soon(client.embed_all(to("wide", request))).await?;
    Ok(answer.into_inner())
}

#[tokio::test]
async fn e7_an_answer_of_32_mib_arrives_where_the_client_takes_it() {
    let answer = wide(40 << 20).await.unwrap();
    assert_eq!(answer.token_embeddings.len(), 8192);
    assert!(
        answer
            .token_embeddings
            .iter()
            .all(|token| token.embeddings.len() == 1024)
    );
    // The library's own limit, which TEI's clients meet.
    assert_eq!(wide(4 << 20).await.unwrap_err().code(), Code::OutOfRange);
}

#[tokio::test]
async fn e8_what_is_cancelled_leaves_the_queue_and_a_batch_is_all_or_nothing() {
    let ranks = More {
        waiting_max: 31,
        ..ranking_models().remove(1)
    };
    let world = World::ready_with(Plan {
        more: vec![ranks],
        ..Plan::default()
    })
    .await;
    let (device, handle) = (&world.more[0], &world.encoder("ranks").handle);
    let mut client = Clients::of(&world).await.rerank;
    // A batch that cannot wait as a whole is refused as a whole.
    device.hold();
    let mut running = client.clone();
    let first = tokio::spawn(async move { running.rerank(rerank(1)).await });
    eventually(|| *device.launched().borrow() > 0).await;
    let status = soon(client.rerank(rerank(32))).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(reason(&status).0, "QUEUE_FULL");
    device.allow(1);
    soon(first).await.unwrap().unwrap();
    eventually(|| handle.waiting() == 0).await;
    // One that waits and is cancelled leaves its places.
    let mut running = client.clone();
    let first = tokio::spawn(async move { running.rerank(rerank(1)).await });
    eventually(|| *device.launched().borrow() > 1).await;
    let mut waiting = client.clone();
    let second = tokio::spawn(async move { waiting.rerank(rerank(30)).await });
    eventually(|| handle.waiting() == 30).await;
    second.abort();
    device.release();
    soon(first).await.unwrap().unwrap();
    eventually(|| handle.waiting() == 0).await;
    assert_eq!(
        client
            .rerank(rerank(31))
            .await
            .unwrap()
            .get_ref()
            .ranks
            .len(),
        31
    );
}

#[tokio::test]
async fn e11_models_of_one_process_answer_side_by_side() {
    let world = ranking_world().await;
    let mut clients = Clients::of(&world).await;
    let predict = tei::PredictRequest {
        inputs: "lift".to_owned(),
        ..tei::PredictRequest::default()
    };
    let (vector, classes, ranks) = tokio::join!(
        clients.embed.embed(embed("lift")),
        clients.predict.predict(predict),
        clients.rerank.rerank(rerank(4)),
    );
    assert_eq!(vector.unwrap().get_ref().embeddings.len(), 8);
    assert_eq!(classes.unwrap().get_ref().predictions.len(), 3);
    assert_eq!(ranks.unwrap().get_ref().ranks.len(), 4);
    for model in ["classes", "ranks"] {
        assert!(*device(&world, model).launched().borrow() > 0, "{model}");
    }
}

#[tokio::test]
async fn a_stream_of_texts_to_rank_is_bounded() {
    let world = ranking_world().await;
    let mut client = Clients::of(&world).await.rerank;
    let message = tei::RerankStreamRequest {
        query: "q".to_owned(),
        text: "y".repeat(15 << 10),
        truncate: true,
        return_text: true,
        ..tei::RerankStreamRequest::default()
    };
    let most = world.app.limits.message_bytes_max / message.text.len();
    let messages = |count| stream::iter(vec![message.clone(); count]);
    let kept = soon(client.rerank_stream(messages(most))).await.unwrap();
    assert_eq!(kept.get_ref().ranks.len(), most);
    let status = soon(client.rerank_stream(messages(most + 1)))
        .await
        .unwrap_err();
    assert_eq!(
        reason(&status),
        ("INPUT_TOO_LARGE".to_owned(), "text".to_owned())
    );
}

#[tokio::test]
async fn a_drain_ends_the_streams_of_tei_too() {
    let world = ranking_world().await;
    let mut clients = Clients::of(&world).await;
    let answers = clients.embed.embed_stream(stream::pending()).await.unwrap();
    let mut ranks = clients.rerank.clone();
    let ranking = tokio::spawn(async move { ranks.rerank_stream(stream::pending()).await });
    let rerank_runs = async || {
        let page = world.get("/metrics").await;
        counted(&page, "paternoster_calls_in_flight", &["tei.RerankStream"]) > 0
    };
    soon(async { while !rerank_runs().await {} }).await;
    world.shutdown.cancel();
    let status = soon(answers.into_inner().message()).await.unwrap_err();
    assert_eq!(reason(&status).0, "DRAINING");
    let status = soon(ranking).await.unwrap().unwrap_err();
    assert_eq!(reason(&status).0, "DRAINING");
    world.ended().await;
}

#[tokio::test]
async fn a_deadline_holds_for_a_ranking_that_waits() {
    let mut plan = Plan {
        more: ranking_models(),
        ..Plan::default()
    };
    plan.limits.request_timeout_max = std::time::Duration::from_millis(30);
    let world = World::ready_with(plan).await;
    let ranks = device(&world, "ranks");
    ranks.hold();
    let mut client = Clients::of(&world).await.rerank;
    let status = soon(client.rerank(rerank(2))).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    ranks.release();
}
