//! `tei.v1`: what each RPC answers.

use engine::executor::{EncodeInput, Encoded, Output};
use engine::fake::FakeDevice;
use engine::request::Token;
use futures_util::stream;
use proto::tei::v1 as tei;
use server::registry::{Meaning, Task};
use tei::embed_client::EmbedClient;
use tei::info_client::InfoClient;
use tei::predict_client::PredictClient;
use tei::rerank_client::RerankClient;
use tei::tokenize_client::TokenizeClient;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::services::channel;
use crate::world::{INPUT_TOKENS_MAX, More, Plan, WIDTH, World, reason, soon};

/// The clients of the five services over one connection.
pub(crate) struct Clients {
    pub(crate) info: InfoClient<Channel>,
    pub(crate) embed: EmbedClient<Channel>,
    pub(crate) predict: PredictClient<Channel>,
    pub(crate) rerank: RerankClient<Channel>,
    pub(crate) tokenize: TokenizeClient<Channel>,
}

impl Clients {
    pub(crate) async fn of(world: &World) -> Self {
        let channel = channel(world).await;
        Self {
            info: InfoClient::new(channel.clone()),
            embed: EmbedClient::new(channel.clone()),
            predict: PredictClient::new(channel.clone()),
            rerank: RerankClient::new(channel.clone()),
            tokenize: TokenizeClient::new(channel),
        }
    }
}

/// The encoders of [`ranking_world`] after `vectors`.
pub(crate) fn ranking_models() -> Vec<More> {
    let labels = |labels: &[&str], meaning| Task::Classify {
        labels: labels.iter().map(|&label| label.to_owned()).collect(),
        meaning,
    };
    let three = ["low", "middle", "high"];
    vec![
        More::new("classes", labels(&three, Meaning::OneOfAll)),
        More::new("ranks", labels(&["relevance"], Meaning::OneOfAll)),
        More::new("words", Task::Sparse),
        More::new("tags", labels(&three, Meaning::EachAlone)),
        More::new("amounts", labels(&["amount"], Meaning::Quantities)),
    ]
}

/// A server with a model of each kind.
pub(crate) async fn ranking_world() -> World {
    World::ready_with(Plan {
        more: ranking_models(),
        ..Plan::default()
    })
    .await
}

/// The device of a model of [`ranking_world`].
pub(crate) fn device<'a>(world: &'a World, name: &str) -> &'a FakeDevice {
    let models = ranking_models();
    let at = models.iter().position(|more| more.name == name);
    at.map_or(&world.encoder, |at| &world.more[at])
}

/// What a model gives for a text, or for two.
fn expected(world: &World, model: &str, texts: &[&str], output: Output) -> Encoded {
    let text = texts.concat();
    let tokens = text.bytes().map(|byte| Token(byte.into()));
    let segments = texts.iter().enumerate();
    let segments = segments.flat_map(|(index, text)| vec![index as u8; text.len()]);
    device(world, model).expected_encoded(&EncodeInput {
        tokens: tokens.collect(),
        segments: segments.collect(),
        output,
    })
}

/// The scores of a text, or of two, before they are scaled.
pub(crate) fn raw_scores(world: &World, model: &str, texts: &[&str]) -> Vec<f32> {
    expected(world, model, texts, Output::Scores).values
}

/// The sigmoid of a score.
pub(crate) fn probability(score: f32) -> f32 {
    1.0 / (1.0 + (-score).exp())
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

fn raw(world: &World, text: &str) -> Vec<f32> {
    let tokens: Vec<Token> = text.bytes().map(|byte| Token(byte.into())).collect();
    world.encoder.expected_vector(&tokens)
}

pub(crate) fn embed(inputs: &str) -> tei::EmbedRequest {
    tei::EmbedRequest {
        inputs: inputs.to_owned(),
        ..tei::EmbedRequest::default()
    }
}

/// A request that names its model.
pub(crate) fn to<T>(model: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let name = model.parse().unwrap();
    request.metadata_mut().insert("x-model-id", name);
    request
}

fn check(status: &Status, code: Code, expected: (&str, &str)) {
    let (reason, field) = reason(status);
    let found = (status.code(), &*reason, &*field);
    assert_eq!(found, (code, expected.0, expected.1), "{status:?}");
}

#[tokio::test]
async fn embed_scales_cuts_and_prompts_as_tei_does() {
    let world = World::ready().await;
    let mut client = Clients::of(&world).await.embed;
    let mut vector = async |request| {
        let answer = soon(client.embed(request)).await.unwrap();
        answer.into_inner().embeddings
    };
    let whole = raw(&world, "lift");
    assert!(close(&vector(embed("lift")).await, &scaled(whole.clone())));
    let kept = tei::EmbedRequest {
        normalize: Some(false),
        ..embed("lift")
    };
    assert_eq!(vector(kept).await, whole);
    let cut = tei::EmbedRequest {
        dimensions: Some(3),
        ..embed("lift")
    };
    assert!(close(&vector(cut).await, &scaled(whole[..3].to_vec())));
    let prompted = tei::EmbedRequest {
        prompt_name: Some("query".to_owned()),
        ..embed("lift")
    };
    let expected = scaled(raw(&world, "query: lift"));
    assert!(close(&vector(prompted).await, &expected));

    let long = format!("a{}b", "y".repeat(INPUT_TOKENS_MAX as usize - 1));
    for (direction, kept) in [(0, &long[..long.len() - 1]), (1, &long[1..])] {
        let cut = tei::EmbedRequest {
            truncate: true,
            truncation_direction: direction,
            ..embed(&long)
        };
        assert!(close(&vector(cut).await, &scaled(raw(&world, kept))));
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_text_is_named() {
    let world = World::ready().await;
    let mut client = Clients::of(&world).await.embed;
    let wrong = Code::InvalidArgument;
    let mut refused = async |request: tei::EmbedRequest, expected: (&str, &str)| {
        check(&client.embed(request).await.unwrap_err(), wrong, expected);
    };
    refused(embed(""), ("EMPTY_INPUT", "inputs")).await;
    let long = "y".repeat(INPUT_TOKENS_MAX as usize + 1);
    refused(embed(&long), ("CONTEXT_LENGTH_EXCEEDED", "inputs")).await;
    let large = "y".repeat(world.app.limits.input_bytes_max + 1);
    refused(embed(&large), ("INPUT_TOO_LARGE", "inputs")).await;
    for dimensions in [0, WIDTH + 1] {
        let request = tei::EmbedRequest {
            dimensions: Some(dimensions),
            ..embed("lift")
        };
        refused(request, ("OUT_OF_RANGE", "dimensions")).await;
    }
    for name in ["nobody", ""] {
        let request = tei::EmbedRequest {
            prompt_name: Some(name.to_owned()),
            ..embed("lift")
        };
        refused(request, ("UNKNOWN_PROMPT_NAME", "prompt_name")).await;
    }
}

#[tokio::test]
async fn a_server_may_cut_without_being_asked() {
    let mut plan = Plan::default();
    plan.limits.too_long = server::limits::TooLong::Cut;
    let world = World::ready_with(plan).await;
    let mut client = Clients::of(&world).await.embed;
    let long = "y".repeat(INPUT_TOKENS_MAX as usize + 9);
    let answer = client.embed(embed(&long)).await.unwrap().into_inner();
    assert_eq!(answer.metadata.unwrap().compute_tokens, INPUT_TOKENS_MAX);
}

#[tokio::test]
async fn tokens_and_words_have_their_own_embeddings() {
    let world = ranking_world().await;
    let mut client = Clients::of(&world).await.embed;
    let all = tei::EmbedAllRequest {
        inputs: "abc".to_owned(),
        ..tei::EmbedAllRequest::default()
    };
    let answer = client.embed_all(all).await.unwrap().into_inner();
    let expected_all = expected(&world, "vectors", &["abc"], Output::Tokens);
    let rows: Vec<f32> = answer
        .token_embeddings
        .iter()
        .flat_map(|token| token.embeddings.clone())
        .collect();
    assert_eq!(answer.token_embeddings.len(), 3);
    assert_eq!(rows, expected_all.values);

    let sparse = tei::EmbedSparseRequest {
        inputs: "cab".to_owned(),
        ..tei::EmbedSparseRequest::default()
    };
    let answer = client.embed_sparse(sparse).await.unwrap().into_inner();
    let expected_sparse = expected(&world, "words", &["cab"], Output::Sparse);
    let found: Vec<(u32, f32)> = answer
        .sparse_embeddings
        .iter()
        .map(|value| (value.index, value.value))
        .collect();
    assert_eq!(found, expected_sparse.sparse().collect::<Vec<_>>());
    assert_eq!(
        found.iter().map(|value| value.0).collect::<Vec<_>>(),
        [97, 98, 99]
    );
}

#[tokio::test]
async fn predictions_are_probabilities_best_first() {
    let world = ranking_world().await;
    let mut client = Clients::of(&world).await.predict;
    let request = tei::PredictRequest {
        inputs: "joy".to_owned(),
        ..tei::PredictRequest::default()
    };
    let answer = client.predict(request.clone()).await.unwrap().into_inner();
    let raw = raw_scores(&world, "classes", &["joy"]);
    let sum: f32 = raw.iter().map(|score| score.exp()).sum();
    let mut expected: Vec<(f32, &str)> = raw
        .iter()
        .map(|score| score.exp() / sum)
        .zip(["low", "middle", "high"])
        .collect();
    expected.sort_by(|a, b| b.0.total_cmp(&a.0));
    assert_eq!(answer.predictions.len(), 3);
    for (prediction, (score, label)) in answer.predictions.iter().zip(expected) {
        assert_eq!(prediction.label, label);
        assert!((prediction.score - score).abs() < 1e-5);
    }
    let raw_request = tei::PredictRequest {
        raw_scores: true,
        ..request.clone()
    };
    let answer = client.predict(raw_request).await.unwrap().into_inner();
    let highest = raw.iter().copied().fold(f32::MIN, f32::max);
    assert_eq!(answer.predictions[0].score.to_bits(), highest.to_bits());

    // One label: a sigmoid.
    let answer = client.predict(to("ranks", request)).await.unwrap();
    let score = answer.get_ref().predictions[0].score;
    let expected = probability(raw_scores(&world, "ranks", &["joy"])[0]);
    assert!((score - expected).abs() < 1e-6);
}

#[tokio::test]
async fn e10_the_second_text_of_a_pair_is_another_segment() {
    let world = ranking_world().await;
    let mut client = Clients::of(&world).await.predict;
    let mut scores = async |inputs: &[&str]| {
        let request = tei::PredictPairRequest {
            inputs: inputs.iter().map(|&text| text.to_owned()).collect(),
            raw_scores: true,
            ..tei::PredictPairRequest::default()
        };
        let answer = client.predict_pair(request).await?;
        let predictions = answer.into_inner().predictions;
        Ok::<f32, Status>(predictions[0].score)
    };
    let highest = |texts: &[&str]| {
        let raw = raw_scores(&world, "classes", texts);
        raw.into_iter().fold(f32::MIN, f32::max)
    };
    for texts in [
        &["joy", "woe"][..],
        &["jo", "ywoe"],
        &["joywoe"],
        &["", "joy"],
    ] {
        assert_eq!(
            scores(texts).await.unwrap().to_bits(),
            highest(texts).to_bits()
        );
    }
    assert_ne!(
        highest(&["joy", "woe"]).to_bits(),
        highest(&["joywoe"]).to_bits()
    );
    for (texts, expected) in [
        (&[][..], "EMPTY_INPUT"),
        (&["", ""], "EMPTY_INPUT"),
        (&["a", "b", "c"], "TOO_MANY_INPUTS"),
    ] {
        let status = scores(texts).await.unwrap_err();
        check(&status, Code::InvalidArgument, (expected, "inputs"));
    }
}

fn rerank(query: &str, texts: &[&str]) -> tei::RerankRequest {
    tei::RerankRequest {
        query: query.to_owned(),
        texts: texts.iter().map(|&text| text.to_owned()).collect(),
        ..tei::RerankRequest::default()
    }
}

/// The texts' scores beside a query, best first.
fn order(world: &World, query: &str, texts: &[&str]) -> Vec<(u32, f32)> {
    let scores = texts.iter().zip(0..);
    let mut order: Vec<(u32, f32)> = scores
        .map(|(text, index)| (index, raw_scores(world, "ranks", &[query, text])[0]))
        .collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1));
    order
}

#[tokio::test]
async fn ranks_are_sorted_and_know_their_texts() {
    let world = ranking_world().await;
    let mut client = Clients::of(&world).await.rerank;
    let texts = ["up", "down", "round", "and", "round again"];
    let expected = order(&world, "way?", &texts);
    let answer = client.rerank(rerank("way?", &texts)).await.unwrap();
    let answer = answer.into_inner();
    for (rank, (index, score)) in answer.ranks.iter().zip(&expected) {
        assert_eq!((rank.index, &rank.text), (*index, &None));
        assert!((rank.score - probability(*score)).abs() < 1e-6);
    }
    let chars = 4 * texts.len() + texts.concat().len();
    let metadata = answer.metadata.unwrap();
    assert_eq!(metadata.compute_chars as usize, chars);
    assert_eq!(metadata.compute_tokens as usize, chars);
    let told = tei::RerankRequest {
        raw_scores: true,
        return_text: true,
        ..rerank("way?", &texts)
    };
    let answer = client.rerank(told).await.unwrap().into_inner();
    for (rank, (index, score)) in answer.ranks.iter().zip(&expected) {
        assert_eq!(rank.score.to_bits(), score.to_bits());
        assert_eq!(rank.text.as_deref(), Some(texts[*index as usize]));
    }
    let wrong = Code::InvalidArgument;
    let status = client.rerank(rerank("q", &[])).await.unwrap_err();
    check(&status, wrong, ("EMPTY_INPUT", "texts"));
    let status = client.rerank(rerank("", &["a", ""])).await.unwrap_err();
    check(&status, wrong, ("EMPTY_INPUT", "texts[1]"));
    let many = vec!["a"; world.app.limits.embed_inputs_max + 1];
    let status = client.rerank(rerank("q", &many)).await.unwrap_err();
    check(&status, wrong, ("TOO_MANY_INPUTS", "texts"));
    assert!(client.rerank(rerank("q", &many[1..])).await.is_ok());
}

#[tokio::test]
async fn the_first_message_of_a_stream_says_how_ranks_are_told() {
    let world = ranking_world().await;
    let mut client = Clients::of(&world).await.rerank;
    let texts = ["up", "down", "round", "and"];
    let message = |(index, text): (usize, &&str)| tei::RerankStreamRequest {
        query: "way?".to_owned(),
        text: (*text).to_owned(),
        raw_scores: index == 0,
        return_text: index == 0,
        ..tei::RerankStreamRequest::default()
    };
    let messages: Vec<_> = texts.iter().enumerate().map(message).collect();
    let answer = soon(client.rerank_stream(stream::iter(messages.clone())))
        .await
        .unwrap();
    assert_eq!(answer.metadata().get("x-compute-tokens").unwrap(), "30");
    let ranks = answer.into_inner().ranks;
    let expected = order(&world, "way?", &texts);
    assert_eq!(ranks.len(), 4);
    for (rank, (index, score)) in ranks.iter().zip(&expected) {
        assert_eq!(rank.score.to_bits(), score.to_bits());
        assert_eq!(rank.text.as_deref(), Some(texts[*index as usize]));
    }
    let answer = client.rerank_stream(stream::iter(messages.into_iter().rev()));
    let ranks = soon(answer).await.unwrap().into_inner().ranks;
    assert!(ranks.iter().all(|rank| rank.text.is_none()));
    assert!(ranks.iter().all(|rank| (0.0..=1.0).contains(&rank.score)));
}

#[tokio::test]
async fn tokens_tell_where_they_stand_and_become_text_again() {
    let world = World::ready().await;
    let mut client = Clients::of(&world).await.tokenize;
    let request = tei::EncodeRequest {
        inputs: "a \u{e4}".to_owned(),
        add_special_tokens: true,
        prompt_name: None,
    };
    let tokens = client
        .tokenize(request.clone())
        .await
        .unwrap()
        .into_inner()
        .tokens;
    let ids: Vec<u32> = tokens.iter().map(|token| token.id).collect();
    assert_eq!(ids, [97, 32, 0xc3, 0xa4]);
    assert_eq!((tokens[1].start, tokens[1].stop), (Some(1), Some(2)));
    assert_eq!((&*tokens[0].text, tokens[0].special), ("a", false));
    let prompted = tei::EncodeRequest {
        prompt_name: Some("query".to_owned()),
        ..request.clone()
    };
    let prompted = client.tokenize(prompted).await.unwrap().into_inner().tokens;
    assert_eq!((prompted.len(), prompted[7].start), (11, Some(7)));
    let named = client.tokenize(to("tiny", request)).await.unwrap();
    assert_eq!(named.into_inner().tokens.len(), 4);

    let decode = |ids: &[u32]| tei::DecodeRequest {
        ids: ids.to_vec(),
        skip_special_tokens: true,
    };
    let text = client.decode(decode(&ids)).await.unwrap().into_inner().text;
    assert_eq!(text, "a \u{e4}");
    // As in TEI, what is no token gives no text.
    let text = client.decode(decode(&[97, 100_000])).await.unwrap();
    assert_eq!(text.into_inner().text, "a");
    let status = client.decode(decode(&[])).await.unwrap_err();
    check(&status, Code::InvalidArgument, ("EMPTY_INPUT", "ids"));
    let status = client.tokenize(tei::EncodeRequest::default()).await;
    check(
        &status.unwrap_err(),
        Code::InvalidArgument,
        ("EMPTY_INPUT", "inputs"),
    );
}

#[tokio::test]
async fn info_tells_what_is_served() {
    let world = ranking_world().await;
    let mut client = Clients::of(&world).await.info;
    let answer = client.info(tei::InfoRequest {}).await.unwrap().into_inner();
    let expected = tei::InfoResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        model_id: "vectors".to_owned(),
        model_dtype: "float32".to_owned(),
        model_type: tei::ModelType::Embedding.into(),
        max_concurrent_requests: 1024,
        max_input_length: INPUT_TOKENS_MAX,
        max_batch_tokens: 256,
        max_batch_requests: Some(8),
        max_client_batch_size: 1024,
        tokenization_workers: 4,
        ..tei::InfoResponse::default()
    };
    assert_eq!(answer, expected);
    for (name, kind) in [
        ("classes", tei::ModelType::Classifier),
        ("ranks", tei::ModelType::Reranker),
        ("words", tei::ModelType::Embedding),
    ] {
        let answer = client.info(to(name, tei::InfoRequest {})).await.unwrap();
        assert_eq!(answer.get_ref().model_type(), kind);
        assert_eq!(answer.get_ref().model_id, name);
    }
    let status = client
        .info(to("tiny", tei::InfoRequest {}))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn what_a_model_cannot_do_is_a_precondition() {
    let world = World::ready().await;
    let mut clients = Clients::of(&world).await;
    let sparse = tei::EmbedSparseRequest::default();
    let predict = tei::PredictRequest::default();
    let pair = tei::PredictPairRequest::default();
    let messages = || stream::iter([tei::RerankStreamRequest::default()]);
    for (status, text) in [
        (
            clients
                .embed
                .embed_sparse(sparse.clone())
                .await
                .unwrap_err(),
            "a sparse embedding",
        ),
        (
            clients.predict.predict(predict.clone()).await.unwrap_err(),
            "a classifier",
        ),
        (
            clients.predict.predict_pair(pair).await.unwrap_err(),
            "a classifier",
        ),
        (
            clients
                .rerank
                .rerank(rerank("q", &["a"]))
                .await
                .unwrap_err(),
            "a re-ranker",
        ),
        (
            clients.rerank.rerank_stream(messages()).await.unwrap_err(),
            "a re-ranker",
        ),
    ] {
        check(&status, Code::FailedPrecondition, ("WRONG_TASK", ""));
        assert_eq!(status.message(), format!("model is not {text} model"));
    }
    let answers = clients.predict.predict_stream(stream::iter([predict]));
    let status = answers
        .await
        .unwrap()
        .into_inner()
        .message()
        .await
        .unwrap_err();
    check(&status, Code::FailedPrecondition, ("WRONG_TASK", ""));
}

#[tokio::test]
async fn a_named_model_answers_or_says_why_not() {
    let world = ranking_world().await;
    let mut clients = Clients::of(&world).await;
    let named = clients
        .embed
        .embed(to("tiny", embed("a")))
        .await
        .unwrap_err();
    check(&named, Code::FailedPrecondition, ("WRONG_TASK", "model"));
    let named = clients
        .embed
        .embed(to("nobody", embed("a")))
        .await
        .unwrap_err();
    check(&named, Code::NotFound, ("MODEL_NOT_FOUND", "model"));
    for model in ["classes", "ranks", "words"] {
        let status = clients
            .embed
            .embed(to(model, embed("a")))
            .await
            .unwrap_err();
        check(&status, Code::FailedPrecondition, ("WRONG_TASK", "model"));
    }
    let request = to("classes", rerank("q", &["a"]));
    let status = clients.rerank.rerank(request).await.unwrap_err();
    check(&status, Code::FailedPrecondition, ("WRONG_TASK", "model"));
}
