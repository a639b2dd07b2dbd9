//! `Rerank` and `Classify` of `paternoster.v1`.

use paternoster_client::v1;
use server::registry::Task;
use tonic::Code;

use crate::tei::{probability, ranking_world, raw_scores};
use crate::world::{World, reason, soon};

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

fn rerank(query: &str, inputs: &[&str]) -> v1::RerankRequest {
    v1::RerankRequest {
        query: query.to_owned(),
        texts: texts(inputs),
        ..v1::RerankRequest::default()
    }
}

#[tokio::test]
async fn texts_are_ordered_by_their_scores() {
    let world = ranking_world().await;
    let inputs = ["up", "down", "round", "and", "round again"];
    let request = v1::RerankRequest {
        raw_scores: true,
        return_texts: true,
        ..rerank("which way?", &inputs)
    };
    let answer = soon(world.client.inference().rerank(request.clone()))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.model, "ranks");
    let mut expected: Vec<(usize, f32)> = inputs
        .iter()
        .map(|text| raw_scores(&world, "ranks", &["which way?", text])[0])
        .enumerate()
        .collect();
    expected.sort_by(|a, b| b.1.total_cmp(&a.1));
    assert_eq!(answer.ranks.len(), inputs.len());
    for (rank, (index, score)) in answer.ranks.iter().zip(&expected) {
        assert_eq!(rank.index as usize, *index);
        assert_eq!(rank.score.to_bits(), score.to_bits());
        assert_eq!(rank.text.as_deref(), Some(inputs[*index]));
    }
    let tokens: usize = inputs.iter().map(|text| text.len() + 10).sum();
    assert_eq!(answer.usage.unwrap().prompt_tokens as usize, tokens);

    let best = v1::RerankRequest {
        raw_scores: false,
        return_texts: false,
        top_n: Some(2),
        ..request
    };
    let answer = world.client.inference().rerank(best).await.unwrap();
    let ranks = answer.into_inner().ranks;
    assert_eq!(ranks.len(), 2);
    for (rank, (index, score)) in ranks.iter().zip(&expected) {
        assert_eq!((rank.index as usize, &rank.text), (*index, &None));
        assert!((rank.score - probability(*score)).abs() < 1e-6);
    }
}

#[tokio::test]
async fn texts_are_sorted_into_classes() {
    let world = ranking_world().await;
    let request = v1::ClassifyRequest {
        inputs: texts(&["joy", "woe"]),
        ..v1::ClassifyRequest::default()
    };
    let answer = soon(world.client.inference().classify(request.clone()))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.model, "classes");
    assert_eq!(answer.usage.unwrap().prompt_tokens, 6);
    for (classes, text) in answer.classifications.iter().zip(["joy", "woe"]) {
        let raw = raw_scores(&world, "classes", &[text]);
        let highest = (0..3).max_by(|&a, &b| raw[a].total_cmp(&raw[b])).unwrap();
        assert_eq!(classes.labels.len(), 3);
        assert_eq!(classes.labels[0].label, ["low", "middle", "high"][highest]);
        let sum: f32 = classes.labels.iter().map(|label| label.score).sum();
        assert!((sum - 1.0).abs() < 1e-5);
        assert!(classes.labels.is_sorted_by(|a, b| a.score >= b.score));
    }
    let raw = v1::ClassifyRequest {
        raw_scores: true,
        ..request
    };
    let answer = world.client.inference().classify(raw).await.unwrap();
    let labels = &answer.get_ref().classifications[0].labels;
    let mut expected = raw_scores(&world, "classes", &["joy"]);
    expected.sort_by(|a, b| b.total_cmp(a));
    let scores: Vec<f32> = labels.iter().map(|label| label.score).collect();
    assert_eq!(scores, expected);
}

#[tokio::test]
async fn labels_that_hold_each_alone_have_probabilities_of_their_own_and_quantities_none() {
    let world = ranking_world().await;
    for (model, is_probable) in [("tags", true), ("amounts", false)] {
        let request = v1::ClassifyRequest {
            model: model.to_owned(),
            inputs: texts(&["joy"]),
            ..v1::ClassifyRequest::default()
        };
        let answer = world.client.inference().classify(request).await.unwrap();
        let labels = &answer.get_ref().classifications[0].labels;
        let mut expected = raw_scores(&world, model, &["joy"]);
        if is_probable {
            expected = expected.into_iter().map(probability).collect();
        }
        expected.sort_by(|a, b| b.total_cmp(a));
        assert_eq!(labels.len(), expected.len());
        for (label, expected) in labels.iter().zip(expected) {
            assert!((label.score - expected).abs() < 1e-6, "{model} {labels:?}");
        }
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_ranking_is_named() {
    let world = ranking_world().await;
    let check = async |request: v1::RerankRequest, expected: (&str, &str)| {
        let status = world.client.inference().rerank(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        let (reason, field) = reason(&status);
        assert_eq!((&*reason, &*field), expected);
    };
    check(rerank("", &["a"]), ("EMPTY_INPUT", "query")).await;
    check(rerank("q", &[]), ("EMPTY_INPUT", "texts")).await;
    check(rerank("q", &["a", ""]), ("EMPTY_INPUT", "texts[1]")).await;
    let many = vec!["a"; 1025];
    check(rerank("q", &many), ("TOO_MANY_INPUTS", "texts")).await;
    // The query is read once for each text.
    let query = "q".repeat(1000);
    check(rerank(&query, &["a"; 17]), ("INPUT_TOO_LARGE", "texts")).await;
    let long = "y".repeat(80);
    check(
        rerank("q", &["a", &long]),
        ("CONTEXT_LENGTH_EXCEEDED", "texts[1]"),
    )
    .await;
    let none = v1::RerankRequest {
        top_n: Some(0),
        ..rerank("q", &["a"])
    };
    check(none, ("OUT_OF_RANGE", "top_n")).await;
    let cut = v1::RerankRequest {
        truncate: true,
        ..rerank("q", &["a", &long])
    };
    assert!(world.client.inference().rerank(cut).await.is_ok());
}

#[tokio::test]
async fn a_model_ranks_only_if_it_has_one_label() {
    let world = ranking_world().await;
    for model in ["classes", "vectors", "tiny"] {
        let request = v1::RerankRequest {
            model: model.to_owned(),
            ..rerank("q", &["a"])
        };
        let status = world.client.inference().rerank(request).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "{model}");
        assert_eq!(reason(&status).0, "WRONG_TASK");
    }
    let embedders = World::ready().await;
    let status = embedders
        .client
        .inference()
        .classify(v1::ClassifyRequest {
            inputs: texts(&["a"]),
            ..v1::ClassifyRequest::default()
        })
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert!(matches!(world.encoder("ranks").task, Task::Classify { .. }));
}
