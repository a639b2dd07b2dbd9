//! The binary with its own models, whose executors fail on command: what `faults` shows of fake ones
//! holds of those that are shipped. There with the feature `failpoints` alone.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use paternoster_client::v1::generate_response::Event;
use paternoster_client::{Client, v1};
use tonic::{Code, Status};

use crate::world::soon;

/// A server whose failures were asked for; it ends with its drop.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn command(failpoints: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_paternoster"));
    command
        .args([
            "serve",
            "--port",
            "0",
            "--kv-cache-size",
            "16MiB",
            "--json-output",
        ])
        .env_clear()
        .env("PATERNOSTER_FAILPOINTS", failpoints)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

async fn serve(failpoints: &str) -> (Server, Client) {
    let mut server = Server(command(failpoints).spawn().unwrap());
    let mut lines = BufReader::new(server.0.stderr.take().unwrap()).lines();
    let address = loop {
        let line: serde_json::Value =
            serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        if line["message"] == "ready" {
            break line["address"].as_str().unwrap().to_owned();
        }
    };
    // What it says from now on is read, and of no interest.
    std::thread::spawn(move || lines.for_each(drop));
    let client = Client::connect(format!("http://{address}")).await.unwrap();
    (server, client)
}

/// What the demo says to this, or why it does not.
async fn text(client: &Client) -> Result<String, Status> {
    let mut events = client
        .generate(v1::GenerateRequest {
            input: Some(v1::generate_request::Input::Prompt(
                "What is 7 + 5?".to_owned(),
            )),
            ..v1::GenerateRequest::default()
        })
        .await?;
    let mut text = String::new();
    while let Some(event) = soon(events.next()).await? {
        if let Event::Delta(delta) = event {
            text += &delta.text;
        }
    }
    Ok(text)
}

#[tokio::test]
async fn streams_and_batches_outlive_their_executors() {
    let (_server, client) = serve("").await;
    let expected = text(&client).await.unwrap();
    let vectors = client.embed(["up"]).await.unwrap();
    assert!(expected.contains("12"), "{expected}");
    // The warm-up is no step.
    for failpoints in [
        "step=panic@2,batch=error@1",
        "step=error@1,batch=panic@1",
        "step=memory@3",
    ] {
        let (_server, client) = serve(failpoints).await;
        assert_eq!(text(&client).await.unwrap(), expected, "{failpoints}");
        assert_eq!(client.embed(["up"]).await.unwrap(), vectors, "{failpoints}");
    }
}

#[tokio::test]
async fn a_row_that_is_not_finite_fails_its_request_alone() {
    let (_server, client) = serve("step=nan@2,batch=nan@1").await;
    let status = text(&client).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal, "{status}");
    let status = client.embed(["up"]).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal, "{status}");
    assert!(text(&client).await.unwrap().contains("12"));
    client.embed(["up"]).await.unwrap();
}

#[test]
fn what_cannot_be_loaded_ends_the_process() {
    for (failpoints, code) in [("load=error@1", 70), ("load=panic@1", 70), ("nonsense", 78)] {
        let output = command(failpoints).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{failpoints}: {said}");
        assert!(
            said.contains("PATERNOSTER_FAILPOINTS") || said.contains("panicked"),
            "{said}"
        );
    }
}
