//! Health, reflection, `Control`, and what holds for every call: sizes, panics, unknown methods.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use futures_util::stream;
use paternoster_client::v1;
use paternoster_client::v1::generate_response::Event;
use server::byte_tokenizer;
use server::text::chat::Rendered;
use server::text::detokenize::{Decoding, decode};
use server::text::tokenizer::{
    ControlTokens, EncodeOptions, Pair, Placed, PoolLimits, SpecialTokens, Tokenize, TokenizeError,
    TokenizerPool,
};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::world::{Plan, VOCABULARY, World, ask, eventually, reason, soon};

pub(crate) async fn channel(world: &World) -> Channel {
    let address = format!("http://{}", world.address);
    Channel::from_shared(address)
        .unwrap()
        .connect()
        .await
        .unwrap()
}

#[tokio::test]
async fn reflection_lists_the_services_in_both_versions() {
    use tonic_reflection::pb::{v1, v1alpha};
    let world = World::ready().await;
    let mut client =
        v1::server_reflection_client::ServerReflectionClient::new(channel(&world).await);
    let ask = v1::server_reflection_request::MessageRequest::ListServices(String::new());
    let request = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(ask),
    };
    let mut answers = client
        .server_reflection_info(stream::iter([request]))
        .await
        .unwrap()
        .into_inner();
    let answer = soon(answers.message())
        .await
        .unwrap()
        .unwrap()
        .message_response
        .unwrap();
    let v1::server_reflection_response::MessageResponse::ListServicesResponse(listed) = answer
    else {
        panic!("{answer:?}");
    };
    let names: Vec<String> = listed
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    let mut client =
        v1alpha::server_reflection_client::ServerReflectionClient::new(channel(&world).await);
    let ask = v1alpha::server_reflection_request::MessageRequest::ListServices(String::new());
    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(ask),
    };
    let mut answers = client
        .server_reflection_info(stream::iter([request]))
        .await
        .unwrap()
        .into_inner();
    let answer = soon(answers.message())
        .await
        .unwrap()
        .unwrap()
        .message_response
        .unwrap();
    let v1alpha::server_reflection_response::MessageResponse::ListServicesResponse(listed) = answer
    else {
        panic!("{answer:?}");
    };
    let old_names: Vec<String> = listed
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    for service in [
        "paternoster.v1.Inference",
        "paternoster.v1.Control",
        "grpc.health.v1.Health",
        "tei.v1.Info",
        "tei.v1.Embed",
        "tei.v1.Predict",
        "tei.v1.Rerank",
        "tei.v1.Tokenize",
    ] {
        assert!(names.contains(&service.to_owned()), "{names:?}");
        assert!(old_names.contains(&service.to_owned()), "{old_names:?}");
    }
}

#[tokio::test]
async fn a_method_that_does_not_exist_is_unimplemented() {
    let world = World::ready().await;
    let mut client = tonic::client::Grpc::new(channel(&world).await);
    client.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/paternoster.v1.Inference/Nothing");
    let codec = tonic_prost::ProstCodec::<v1::DrainRequest, v1::DrainResponse>::default();
    let request = tonic::Request::new(v1::DrainRequest {});
    let status = client.unary(request, path, codec).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    let page = world.get("/metrics").await;
    assert!(page.contains("paternoster_requests_total{method=\"other\",code=\"UNIMPLEMENTED\"}"));
}

#[tokio::test]
async fn a_message_above_the_limit_is_refused_with_the_right_code() {
    let world = World::ready().await;
    let large = "x".repeat(world.app.limits.message_bytes_max + 1);
    let check = |status: Status| {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        assert_eq!(reason(&status).0, "MESSAGE_TOO_LARGE");
    };
    check(world.client.generate(ask(&large, 1)).await.unwrap_err());
    check(world.client.embed([large.clone()]).await.unwrap_err());
    let request = v1::EmbedRequest {
        inputs: vec![large],
        ..v1::EmbedRequest::default()
    };
    let answers = world
        .client
        .inference()
        .embed_stream(stream::iter([request]))
        .await
        .unwrap();
    check(soon(answers.into_inner().message()).await.unwrap_err());
}

/// The bytes as tokens, but `!` breaks it: in a prompt, and in a text that is generated.
#[derive(Debug)]
struct Fragile(Arc<dyn Tokenize>);

impl Tokenize for Fragile {
    fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, TokenizeError> {
        assert!(!text.contains('!'), "a planted panic");
        self.0.encode(text, options)
    }
    fn encode_pair(&self, texts: [&str; 2], options: EncodeOptions) -> Result<Pair, TokenizeError> {
        self.0.encode_pair(texts, options)
    }
    fn encode_placed(
        &self,
        text: &str,
        special_tokens: SpecialTokens,
    ) -> Result<Vec<Placed>, TokenizeError> {
        self.0.encode_placed(text, special_tokens)
    }
    fn encode_rendered(&self, rendered: &Rendered) -> Result<Vec<u32>, TokenizeError> {
        self.0.encode_rendered(rendered)
    }
    fn piece(&self, id: u32) -> Option<String> {
        assert_ne!(id, BREAKS, "a planted panic");
        self.0.piece(id)
    }
    fn is_special(&self, id: u32) -> bool {
        self.0.is_special(id)
    }
    fn control_tokens(&self) -> &ControlTokens {
        self.0.control_tokens()
    }
    fn id(&self, piece: &str) -> Option<u32> {
        self.0.id(piece)
    }
    fn vocab_size(&self) -> usize {
        self.0.vocab_size()
    }
    fn decoding(&self) -> &Decoding {
        self.0.decoding()
    }
}

/// The token whose text cannot be had: `q`.
const BREAKS: u32 = 113;

#[tokio::test]
async fn a_panic_costs_its_own_call_and_is_internal() {
    let bytes = TokenizerPool::from_json(&byte_tokenizer::json(), PoolLimits::default()).unwrap();
    let fragile: Arc<dyn Tokenize> = Arc::new(Fragile(Arc::clone(bytes.tokenizer())));
    let world = World::ready_with(Plan {
        tokenizer: Some(fragile),
        ..Plan::default()
    })
    .await;
    let status = world.client.generate(ask("bang!", 1)).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).0.as_str()),
        (Code::Internal, "PANIC")
    );
    let breaking = (0..1000)
        .map(|number| format!("prompt {number}"))
        .find(|prompt| world.expected_text(prompt, 20).contains('q'))
        .unwrap();
    let mut events = world.client.generate(ask(&breaking, 20)).await.unwrap();
    let status = loop {
        match soon(events.next()).await {
            Ok(event) => assert!(event.is_some(), "it ended"),
            Err(status) => break status,
        }
    };
    assert_eq!(
        (status.code(), reason(&status).0.as_str()),
        (Code::Internal, "PANIC")
    );
    world.blocks_are_free().await;
    let sound = (0..1000)
        .map(|number| format!("sound {number}"))
        .find(|prompt| !world.expected_text(prompt, 5).contains('q'))
        .unwrap();
    world
        .client
        .inference()
        .complete(ask(&sound, 5))
        .await
        .unwrap();
    let page = world.get("/metrics").await;
    let counted = page
        .lines()
        .find(|line| line.starts_with("paternoster_panics_total "))
        .unwrap();
    assert!(counted.ends_with(" 2"), "{counted}");
}

/// As [`Fragile`], but `!` is a token that no model has, and a text with `~` waits.
#[derive(Debug)]
struct Odd {
    bytes: Arc<dyn Tokenize>,
    waits: Mutex<Receiver<()>>,
}

impl Tokenize for Odd {
    fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, TokenizeError> {
        if text.contains('~') {
            // An end of the sender is as good as a word.
            let _told = self.waits.lock().unwrap().recv();
        }
        let mut ids = self.bytes.encode(text, options)?;
        for id in ids.iter_mut().filter(|id| **id == u32::from(b'!')) {
            *id = VOCABULARY;
        }
        Ok(ids)
    }
    fn encode_pair(&self, texts: [&str; 2], options: EncodeOptions) -> Result<Pair, TokenizeError> {
        self.bytes.encode_pair(texts, options)
    }
    fn encode_placed(
        &self,
        text: &str,
        special_tokens: SpecialTokens,
    ) -> Result<Vec<Placed>, TokenizeError> {
        self.bytes.encode_placed(text, special_tokens)
    }
    fn encode_rendered(&self, rendered: &Rendered) -> Result<Vec<u32>, TokenizeError> {
        self.bytes.encode_rendered(rendered)
    }
    fn piece(&self, id: u32) -> Option<String> {
        self.bytes.piece(id)
    }
    fn is_special(&self, id: u32) -> bool {
        self.bytes.is_special(id)
    }
    fn control_tokens(&self) -> &ControlTokens {
        self.bytes.control_tokens()
    }
    fn id(&self, piece: &str) -> Option<u32> {
        self.bytes.id(piece)
    }
    fn vocab_size(&self) -> usize {
        self.bytes.vocab_size()
    }
    fn decoding(&self) -> &Decoding {
        self.bytes.decoding()
    }
}

async fn odd_world() -> (World, SyncSender<()>) {
    let bytes = TokenizerPool::from_json(&byte_tokenizer::json(), PoolLimits::default()).unwrap();
    let (tell, waits) = sync_channel(1);
    let odd: Arc<dyn Tokenize> = Arc::new(Odd {
        bytes: Arc::clone(bytes.tokenizer()),
        waits: Mutex::new(waits),
    });
    let plan = Plan {
        tokenizer: Some(odd),
        ..Plan::default()
    };
    (World::ready_with(plan).await, tell)
}

#[tokio::test]
async fn tokens_that_the_model_does_not_have_are_refused() {
    let (world, _tell) = odd_world().await;
    let expected = |field: &str| ("TOKEN_ID_OUT_OF_RANGE".to_owned(), field.to_owned());
    let status = world.client.embed(["fine", "bang!"]).await.unwrap_err();
    assert_eq!(reason(&status), expected("inputs[1]"));
    let status = world.client.generate(ask("bang!", 1)).await.unwrap_err();
    assert_eq!(reason(&status), expected("input"));
    assert_eq!(world.client.embed(["fine"]).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_deadline_holds_while_a_text_is_tokenized() {
    let (world, tell) = odd_world().await;
    // Long enough for a thread of its own.
    let hurried = v1::GenerateRequest {
        deadline_ms: Some(30),
        ..ask(&"~".repeat(4096), 1)
    };
    let status = soon(world.client.generate(hurried)).await.unwrap_err();
    assert_eq!(reason(&status).0, "DEADLINE_EXCEEDED");
    drop(tell);
}

#[tokio::test]
async fn control_tells_what_is_served_and_how_busy_it_is() {
    let world = World::ready().await;
    eventually(|| world.decoder().handle.stats().blocks_total > 0).await;
    let mut control = world.client.control();
    let info = control
        .get_info(v1::GetInfoRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(info.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(info.limits.unwrap().n_max, 16);
    let models = control
        .list_models(v1::ListModelsRequest {})
        .await
        .unwrap()
        .into_inner()
        .models;
    assert_eq!(models, info.models);
    let [decoder, encoder] = &models[..] else {
        panic!("{models:?}")
    };
    assert_eq!(
        (decoder.name.as_str(), decoder.task()),
        ("tiny", v1::Task::Generate)
    );
    assert_eq!(
        (decoder.state(), decoder.vocab_size),
        (v1::ModelState::Serving, VOCABULARY)
    );
    assert_eq!((decoder.kv_blocks, decoder.kv_block_tokens), (256, 16));
    assert!(decoder.has_chat_template);
    assert_eq!(
        (encoder.name.as_str(), encoder.task()),
        ("vectors", v1::Task::Embed)
    );
    assert_eq!(
        (encoder.pooling(), encoder.normalize),
        (v1::Pooling::Mean, true)
    );

    world
        .client
        .inference()
        .complete(ask("hello", 3))
        .await
        .unwrap();
    let one = v1::GetLoadRequest {
        model: "tiny".to_owned(),
    };
    let loads = control.get_load(one).await.unwrap().into_inner().loads;
    assert_eq!(loads.len(), 1);
    assert_eq!(
        (loads[0].kv_blocks_total, loads[0].prefix_queried_tokens),
        (256, 5)
    );
    let none = v1::GetLoadRequest {
        model: "none".to_owned(),
    };
    assert_eq!(
        control.get_load(none).await.unwrap_err().code(),
        Code::NotFound
    );
}

#[tokio::test]
async fn load_is_watched_until_the_drain() {
    let world = World::ready().await;
    let request = v1::WatchLoadRequest {
        model: String::new(),
        interval_ms: Some(10),
    };
    let mut loads = world
        .client
        .control()
        .watch_load(request)
        .await
        .unwrap()
        .into_inner();
    for _ in 0..3 {
        assert_eq!(soon(loads.message()).await.unwrap().unwrap().loads.len(), 2);
    }
    let slow = v1::WatchLoadRequest {
        model: String::new(),
        interval_ms: Some(9),
    };
    let status = world.client.control().watch_load(slow).await.unwrap_err();
    assert_eq!(
        reason(&status),
        ("OUT_OF_RANGE".to_owned(), "interval_ms".to_owned())
    );
    world.shutdown.cancel();
    while soon(loads.message()).await.unwrap().is_some() {}
    world.ended().await;
}

#[tokio::test]
async fn the_tokenizer_is_handed_out_and_works_alone() {
    let world = World::ready().await;
    let mut parts = world
        .client
        .control()
        .get_tokenizer(v1::GetTokenizerRequest::default())
        .await
        .unwrap()
        .into_inner();
    let (mut file, mut template_bytes) = (String::new(), 0);
    while let Some(part) = soon(parts.message()).await.unwrap() {
        match part.file.as_str() {
            "tokenizer.json" => file.push_str(&part.text),
            other => {
                assert_eq!(other, "chat_template.jinja");
                template_bytes += part.text.len();
            }
        }
    }
    assert_eq!(template_bytes, 1 << 20);
    assert_eq!(file.into_bytes(), byte_tokenizer::json());

    let mut inference = world.client.inference();
    let request = v1::TokenizeRequest {
        input: Some(v1::tokenize_request::Input::Prompt("a b".to_owned())),
        ..v1::TokenizeRequest::default()
    };
    let tokens = inference
        .tokenize(request)
        .await
        .unwrap()
        .into_inner()
        .tokens;
    let ids: Vec<u32> = tokens.iter().map(|token| token.id).collect();
    assert_eq!(ids, [97, 32, 98]);
    assert_eq!(tokens[1].text, "\u{120}");
    let request = v1::DetokenizeRequest {
        token_ids: ids,
        ..v1::DetokenizeRequest::default()
    };
    assert_eq!(
        inference
            .detokenize(request)
            .await
            .unwrap()
            .into_inner()
            .text,
        "a b"
    );
}

#[tokio::test]
async fn what_is_not_built_says_so() {
    let world = World::ready().await;
    let mut control = world.client.control();
    for status in [
        control
            .load_adapter(v1::LoadAdapterRequest::default())
            .await
            .unwrap_err(),
        control
            .unload_adapter(v1::UnloadAdapterRequest::default())
            .await
            .unwrap_err(),
        control
            .list_adapters(v1::ListAdaptersRequest::default())
            .await
            .unwrap_err(),
    ] {
        assert_eq!(
            (status.code(), reason(&status).0.as_str()),
            (Code::Unimplemented, "NOT_IMPLEMENTED")
        );
    }
}

#[tokio::test]
async fn the_wrong_kind_of_model_is_a_precondition() {
    let world = World::ready().await;
    let generate = v1::GenerateRequest {
        model: "vectors".to_owned(),
        ..ask("x", 1)
    };
    let status = world.client.generate(generate).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).0.as_str()),
        (Code::FailedPrecondition, "WRONG_TASK")
    );
    let embed = v1::EmbedRequest {
        model: "tiny".to_owned(),
        inputs: vec!["x".to_owned()],
        ..v1::EmbedRequest::default()
    };
    let status = world.client.inference().embed(embed).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).0.as_str()),
        (Code::FailedPrecondition, "WRONG_TASK")
    );
}

#[tokio::test]
async fn an_answer_goes_on_where_its_prompt_ends() {
    // Without a decoder, all pieces but the first have a space before them.
    let mut spaced: serde_json::Value = serde_json::from_slice(&byte_tokenizer::json()).unwrap();
    spaced["decoder"] = serde_json::Value::Null;
    let limits = PoolLimits::default();
    let spaced = TokenizerPool::from_json(spaced.to_string().as_bytes(), limits).unwrap();
    let world = World::ready_with(Plan {
        tokenizer: Some(Arc::clone(spaced.tokenizer())),
        ..Plan::default()
    })
    .await;
    let answer = async |echo| {
        let mut request = ask("hello", 4);
        let output = v1::Output {
            echo,
            ..Default::default()
        };
        request.output = Some(output);
        let mut events = world.client.generate(request).await.unwrap();
        let (mut text, mut ids) = (String::new(), Vec::new());
        while let Some(event) = soon(events.next()).await.unwrap() {
            if let Event::Delta(delta) = event {
                text.push_str(&delta.text);
                ids.extend(delta.token_ids);
            }
        }
        (text, decode(&**spaced.tokenizer(), &ids))
    };
    let (echoed, whole) = answer(true).await;
    assert_eq!(echoed, whole);
    let (plain, _) = answer(false).await;
    assert_eq!(whole.strip_prefix("h e l l o"), Some(&*plain));
}
