//! Runs clients/scenarios.json:
//! `cargo run -p paternoster-client --example scenarios -- FILE HOST:PORT SECURE_HOST:PORT FOLDER`.
#![expect(clippy::print_stdout, reason = "a runner prints what it found")]

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use paternoster_client::v1::generate_request::Input;
use paternoster_client::v1::generate_response::Event;
use paternoster_client::v1::{self, FinishReason, Task};
use paternoster_client::{Error, Session, Tls};
use serde::Deserialize;

#[derive(Deserialize)]
struct File {
    scenarios: Vec<Scenario>,
    secure: Vec<Scenario>,
}

#[derive(Deserialize)]
struct Scenario {
    name: String,
    call: String,
    #[serde(default)]
    request: Request,
    #[serde(default)]
    expect: Expect,
    tls: Option<TlsSpec>,
    key: Option<String>,
}

/// Names of PEM files in a folder.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsSpec {
    roots: String,
    certificate: Option<String>,
    server_name: Option<String>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Request {
    prompt: Option<String>,
    messages: Option<Vec<Message>>,
    token_ids: Vec<u32>,
    model: String,
    max_tokens: Option<u32>,
    ignore_eos: bool,
    stop: Vec<String>,
    temperature: Option<f32>,
    n: Option<u32>,
    timeout_ms: Option<u64>,
    inputs: Vec<String>,
    dimensions: Option<u32>,
    normalize: Option<bool>,
    batches: Vec<Vec<String>>,
    text: String,
    deltas: u32,
}

#[derive(Clone, Deserialize)]
struct Message {
    role: String,
    content: String,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Expect {
    texts: Option<Vec<String>>,
    finish: Vec<String>,
    stop: String,
    prompt_tokens: Option<u32>,
    generated_tokens: Option<u32>,
    dimensions: usize,
    unit_length: bool,
    nearer: Option<[usize; 3]>,
    ids: Vec<u32>,
    text: String,
    names: Vec<String>,
    tasks: Vec<String>,
    error: Option<ExpectError>,
}

#[derive(Deserialize)]
struct ExpectError {
    code: String,
    reason: Option<String>,
    field: Option<String>,
}

/// What a generation gave.
#[derive(Debug, Default)]
struct Found {
    texts: Vec<String>,
    finish: Vec<String>,
    stop: String,
    prompt_tokens: u32,
    generated_tokens: u32,
}

/// Why a scenario failed: the call, or what it gave.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Call(#[from] Error),
    #[error("{0:?}")]
    Connect(#[from] tonic::transport::Error),
    #[error(transparent)]
    Read(#[from] std::io::Error),
    #[error("{0}")]
    Other(String),
}

type Outcome = Result<(), Failed>;

fn ensure(holds: bool, found: impl Into<String>) -> Outcome {
    if holds {
        Ok(())
    } else {
        Err(Failed::Other(found.into()))
    }
}

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, address, secure_address, folder] = &arguments[..] else {
        return Err("FILE HOST:PORT SECURE_HOST:PORT FOLDER".into());
    };
    let File { scenarios, secure } = serde_json::from_str(&std::fs::read_to_string(file)?)?;
    let session = Session::connect(format!("http://{address}")).await?;
    let (mut passed, mut failed) = (0, 0);
    let mut count = |scenario: &Scenario, outcome: Outcome| match outcome {
        Ok(()) => passed += 1,
        Err(error) => {
            failed += 1;
            println!("{}: {error}", scenario.name);
        }
    };
    for scenario in &scenarios {
        count(scenario, run(&session, scenario).await);
    }
    for scenario in &secure {
        let outcome = match open(scenario, secure_address, Path::new(folder)).await {
            Ok(session) => run(&session, scenario).await,
            Err(error) => judge(&scenario.expect, Err(error)),
        };
        count(scenario, outcome);
    }
    println!("rust: {passed} passed, {failed} failed");
    let good = failed == 0 && !scenarios.is_empty() && !secure.is_empty();
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Connects as a scenario's `tls` and `key` say.
async fn open(scenario: &Scenario, address: &str, folder: &Path) -> Result<Session, Failed> {
    let session = match &scenario.tls {
        Some(spec) => {
            let pem =
                |name: &str, ending: &str| std::fs::read(folder.join(format!("{name}.{ending}")));
            let mut tls = Tls::new(pem(&spec.roots, "pem")?);
            if let Some(name) = &spec.certificate {
                tls = tls.with_identity(pem(name, "pem")?, pem(name, "key")?);
            }
            if let Some(name) = &spec.server_name {
                tls = tls.with_server_name(name);
            }
            Session::connect_tls(format!("https://{address}"), tls).await?
        }
        None => Session::connect(format!("http://{address}")).await?,
    };
    match &scenario.key {
        Some(key) => session
            .with_api_key(key)
            .map_err(|error| Failed::Other(error.to_string())),
        None => Ok(session),
    }
}

async fn run(session: &Session, scenario: &Scenario) -> Outcome {
    let session = match scenario.request.timeout_ms {
        Some(ms) => session.clone().with_timeout(Duration::from_millis(ms)),
        None => session.clone(),
    };
    let (request, expect) = (&scenario.request, &scenario.expect);
    match scenario.call.as_str() {
        "generate" => {
            judge(expect, whole(&session, request, expect).await)?;
            judge(expect, streamed(&session, request, expect).await)
        }
        "embed" => judge(expect, embed(&session, request, expect).await),
        "embed_stream" => judge(expect, embed_stream(&session, request, expect).await),
        "tokenize" => judge(expect, tokenize(&session, request, expect).await),
        "models" => judge(expect, models(&session, expect).await),
        "cancel" => judge(expect, cancel(&session, request).await),
        "quota" => judge(expect, quota(&session, request).await),
        other => ensure(false, format!("no call {other}")),
    }
}

/// An error is right where it is expected.
fn judge(expect: &Expect, outcome: Outcome) -> Outcome {
    let Some(wanted) = &expect.error else {
        return outcome;
    };
    let error = match &outcome {
        Err(Failed::Call(error)) => error,
        // No connection, no call.
        Err(Failed::Connect(_)) if wanted.code == "UNAVAILABLE" => return Ok(()),
        _ => return ensure(false, format!("not the session's error: {outcome:?}")),
    };
    let same = name_of(error.code()) == wanted.code
        && wanted
            .reason
            .as_deref()
            .is_none_or(|reason| reason == error.reason())
        && (wanted.field.is_none() || wanted.field.as_deref() == error.field())
        && !error.request_id().is_empty();
    ensure(same, format!("found {error}, at {:?}", error.field()))
}

/// "InvalidArgument" as the contract spells it.
fn name_of(code: tonic::Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

fn generate_request(request: &Request) -> v1::GenerateRequest {
    let input = match (&request.prompt, &request.messages) {
        (Some(prompt), _) => Input::Prompt(prompt.clone()),
        (None, Some(messages)) => Input::Chat(v1::Chat {
            messages: messages.iter().cloned().map(chat_message).collect(),
        }),
        (None, None) => Input::TokenIds(v1::TokenIds {
            ids: request.token_ids.clone(),
        }),
    };
    v1::GenerateRequest {
        model: request.model.clone(),
        input: Some(input),
        sampling: Some(v1::Sampling {
            temperature: request.temperature,
            n: request.n,
            ..v1::Sampling::default()
        }),
        stopping: Some(v1::Stopping {
            max_tokens: request.max_tokens,
            stop: request.stop.clone(),
            ignore_eos: request.ignore_eos,
            ..v1::Stopping::default()
        }),
        ..v1::GenerateRequest::default()
    }
}

fn chat_message(Message { role, content }: Message) -> v1::ChatMessage {
    v1::ChatMessage { role, content }
}

fn finish(reason: FinishReason) -> String {
    let name = reason.as_str_name().trim_start_matches("FINISH_REASON_");
    name.to_lowercase()
}

async fn whole(session: &Session, request: &Request, expect: &Expect) -> Outcome {
    let answer = session.complete(generate_request(request)).await?;
    let usage = answer.usage.unwrap_or_default();
    let mut found = Found {
        prompt_tokens: usage.prompt_tokens,
        generated_tokens: usage.generated_tokens,
        ..Found::default()
    };
    for one in answer.completions {
        found.finish.push(finish(one.reason()));
        found.texts.push(one.text);
        found.stop = one.stop;
    }
    check(expect, &found)
}

async fn streamed(session: &Session, request: &Request, expect: &Expect) -> Outcome {
    let n = request.n.unwrap_or(1) as usize;
    let mut found = Found {
        texts: vec![String::new(); n],
        finish: vec![String::new(); n],
        ..Found::default()
    };
    let mut generation = session.generate(generate_request(request)).await?;
    while let Some(event) = generation.next().await? {
        match event {
            Event::Started(started) => found.prompt_tokens = started.prompt_tokens,
            Event::Delta(delta) => found.texts[delta.index as usize] += &delta.text,
            Event::Finished(finished) => {
                found.finish[finished.index as usize] = finish(finished.reason());
                found.generated_tokens += finished.usage.unwrap_or_default().generated_tokens;
                found.stop = finished.stop;
            }
        }
    }
    check(expect, &found)
}

fn check(expect: &Expect, found: &Found) -> Outcome {
    let same = expect.finish == found.finish
        && expect
            .texts
            .as_ref()
            .is_none_or(|texts| *texts == found.texts)
        && expect.stop == found.stop
        && expect
            .prompt_tokens
            .is_none_or(|tokens| tokens == found.prompt_tokens)
        && expect
            .generated_tokens
            .is_none_or(|tokens| tokens == found.generated_tokens);
    ensure(same, format!("found {found:?}"))
}

async fn embed(session: &Session, request: &Request, expect: &Expect) -> Outcome {
    let message = v1::EmbedRequest {
        model: request.model.clone(),
        inputs: request.inputs.clone(),
        dimensions: request.dimensions,
        normalize: request.normalize,
        ..v1::EmbedRequest::default()
    };
    let answer = session
        .call(message, async |client, message| {
            client.inference().embed(message).await
        })
        .await?;
    check_vectors(expect, &answer, request.inputs.len())
}

fn check_vectors(expect: &Expect, answer: &v1::EmbedResponse, count: usize) -> Outcome {
    let vectors: Vec<&[f32]> = answer.embeddings.iter().map(|one| &*one.values).collect();
    ensure(vectors.len() == count, format!("{} vectors", vectors.len()))?;
    for vector in &vectors {
        let unit = !expect.unit_length || (dot(vector, vector) - 1.0).abs() < 1e-3;
        ensure(
            vector.len() == expect.dimensions && unit,
            "a vector of another form",
        )?;
    }
    let Some([anchor, near, far]) = expect.nearer.map(|places| places.map(|at| vectors[at])) else {
        return Ok(());
    };
    ensure(
        dot(anchor, near) > dot(anchor, far) + 0.2,
        "the near text is not nearer",
    )
}

fn dot(left: &[f32], right: &[f32]) -> f32 {
    left.iter().zip(right).map(|(a, b)| a * b).sum()
}

async fn embed_stream(session: &Session, request: &Request, expect: &Expect) -> Outcome {
    let batches = request
        .batches
        .clone()
        .into_iter()
        .map(|inputs| v1::EmbedRequest {
            inputs,
            ..v1::EmbedRequest::default()
        });
    let mut answers = session.embed_stream(tokio_stream::iter(batches)).await?;
    for batch in &request.batches {
        let answer = answers.next().await?.unwrap_or_default();
        check_vectors(expect, &answer, batch.len())?;
        let alone = session.embed(batch).await?;
        let mut pairs = alone.iter().zip(&answer.embeddings);
        ensure(
            pairs.all(|(a, b)| dot(a, &b.values) > 0.999),
            "out of order",
        )?;
    }
    ensure(answers.next().await?.is_none(), "more answers than batches")
}

async fn tokenize(session: &Session, request: &Request, expect: &Expect) -> Outcome {
    let message = v1::TokenizeRequest {
        input: Some(v1::tokenize_request::Input::Prompt(request.text.clone())),
        ..v1::TokenizeRequest::default()
    };
    let answer = session
        .call(message, async |client, message| {
            client.inference().tokenize(message).await
        })
        .await?;
    let token_ids: Vec<u32> = answer.tokens.iter().map(|token| token.id).collect();
    ensure(token_ids == expect.ids, format!("found {token_ids:?}"))?;
    let message = v1::DetokenizeRequest {
        token_ids,
        ..v1::DetokenizeRequest::default()
    };
    let answer = session
        .call(message, async |client, message| {
            client.inference().detokenize(message).await
        })
        .await?;
    ensure(answer.text == expect.text, answer.text)
}

async fn models(session: &Session, expect: &Expect) -> Outcome {
    let message = v1::ListModelsRequest::default();
    let answer = session
        .call(message, async |client, message| {
            client.control().list_models(message).await
        })
        .await?;
    let names: Vec<&str> = answer.models.iter().map(|model| &*model.name).collect();
    let task = |task: Task| {
        task.as_str_name()
            .trim_start_matches("TASK_")
            .to_lowercase()
    };
    let tasks: Vec<String> = answer
        .models
        .iter()
        .map(|model| task(model.task()))
        .collect();
    ensure(
        expect.names == names && expect.tasks == tasks,
        format!("{names:?} {tasks:?}"),
    )
}

async fn cancel(session: &Session, request: &Request) -> Outcome {
    let mut generation = session.generate(generate_request(request)).await?;
    let mut left = request.deltas;
    while left > 0 {
        match generation.next().await? {
            Some(Event::Delta(_)) => left -= 1,
            Some(_) => {}
            None => return ensure(false, "it ended by itself"),
        }
    }
    drop(generation);
    let idle = async {
        while busy(session).await? {}
        Ok::<(), Error>(())
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), idle).await;
    waited.map_err(|_| Failed::Other("the server still works on a closed stream".to_owned()))??;
    Ok(())
}

async fn quota(session: &Session, request: &Request) -> Outcome {
    for _ in 0..3 {
        if let Err(error) = session.complete(generate_request(request)).await {
            let told = error.retry_after().is_some_and(|time| !time.is_zero());
            ensure(told, format!("without a time to come back: {error}"))?;
            return Err(error.into());
        }
    }
    Ok(())
}

async fn busy(session: &Session) -> Result<bool, Error> {
    let message = v1::GetLoadRequest::default();
    let answer = session
        .call(message, async |client, message| {
            client.control().get_load(message).await
        })
        .await?;
    let work =
        |load: &v1::Load| load.waiting_requests + load.running_sequences + load.kv_blocks_active;
    Ok(answer.loads.iter().any(|load| work(load) > 0))
}
