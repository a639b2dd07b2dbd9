//! A server of the OpenAI HTTP API as a target: what llama.cpp, vLLM and others speak. Each request
//! has a connection of its own.

use std::collections::VecDeque;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use crate::plan::{Ask, End};
use crate::prompts::{Prompt, words};
use crate::target::{Cost, Embedded, Failure, Piece, Pieces, Target};

/// A line of an answer, and an answer that is not streamed, have at most so many bytes.
const BYTES_MAX: usize = 64 << 20;

/// Where such a server is, and what every request says.
#[derive(Debug)]
pub struct OpenAi {
    authority: String,
    headers: HeaderMap,
    model: String,
}

impl OpenAi {
    /// A server at HOST:PORT, `http://` before it or not.
    pub fn new(address: &str, model: String, headers: HeaderMap) -> Self {
        let authority = address.trim_start_matches("http://").trim_end_matches('/');
        Self {
            authority: authority.to_owned(),
            headers,
            model,
        }
    }

    async fn post(
        &self,
        path: &str,
        mut body: Value,
    ) -> Result<(Response<Incoming>, Connection), Failure> {
        if !self.model.is_empty() {
            body["model"] = json!(self.model);
        }
        let body = Full::new(Bytes::from(body.to_string()));
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = path.parse().map_err(broken)?;
        *request.headers_mut() = self.headers.clone();
        let host = self.authority.parse().map_err(broken)?;
        request.headers_mut().insert(HOST, host);
        let json = "application/json".parse().map_err(broken)?;
        request.headers_mut().insert(CONTENT_TYPE, json);
        let stream = TcpStream::connect(&self.authority).await.map_err(broken)?;
        stream.set_nodelay(true).map_err(broken)?;
        let (mut requests, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let task = tokio::spawn(async move {
            // How it ends is said by the answer.
            let _ended = connection.await;
        });
        let connection = Connection(task.abort_handle());
        let response = requests.send_request(request).await.map_err(broken)?;
        if response.status() != StatusCode::OK {
            return Err(refused(response).await);
        }
        Ok((response, connection))
    }
}

/// Closed when dropped.
#[derive(Debug)]
struct Connection(AbortHandle);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Target for OpenAi {
    type Pieces = Chunks;

    async fn generate(&self, _connection: usize, ask: &Ask) -> Result<Chunks, Failure> {
        let body = json!({
            "prompt": match &ask.prompt {
                Prompt::Text(text) => json!(text),
                Prompt::Ids(ids) => json!(ids),
            },
            "max_tokens": ask.output,
            "temperature": 0,
            "ignore_eos": ask.end == End::Length,
            "stream": true,
            "stream_options": { "include_usage": true },
        });
        let (response, connection) = self.post("/v1/completions", body).await?;
        Ok(Chunks {
            body: response.into_body(),
            lines: Lines::default(),
            cost: Cost::default(),
            state: State::Runs,
            _connection: connection,
        })
    }

    async fn embed(&self, _connection: usize, ask: &Ask) -> Result<Embedded, Failure> {
        let inputs = [&ask.prompt].into_iter().chain(&ask.more);
        let inputs: Vec<String> = inputs
            .map(|prompt| match prompt {
                Prompt::Text(text) => text.clone(),
                Prompt::Ids(ids) => words(ids),
            })
            .collect();
        let body = json!({ "input": inputs });
        let (response, _connection) = self.post("/v1/embeddings", body).await?;
        let body = whole(response.into_body()).await?;
        let body: Value = serde_json::from_slice(&body).map_err(broken)?;
        Ok(Embedded {
            vectors: body["data"].as_array().map_or(0, Vec::len) as u32,
            prompt_tokens: count(&body["usage"]["prompt_tokens"]),
        })
    }
}

/// The chunks of a streamed completion. One that has text counts as one token: the API does not say
/// how many it holds.
#[derive(Debug)]
pub struct Chunks {
    body: Incoming,
    lines: Lines,
    cost: Cost,
    state: State,
    _connection: Connection,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// More may come.
    Runs,
    /// `[DONE]` came, and was not told yet.
    Done,
    /// Nothing comes any more.
    Over,
}

impl Pieces for Chunks {
    async fn next(&mut self) -> Result<Option<Piece>, Failure> {
        while self.state == State::Runs {
            while let Some(line) = self.lines.next() {
                if let Some(piece) = self.take(&line)? {
                    return Ok(Some(piece));
                }
                if self.state == State::Done {
                    break;
                }
            }
            if self.state == State::Runs {
                match self.body.frame().await {
                    Some(frame) => {
                        if let Ok(data) = frame.map_err(broken)?.into_data() {
                            self.lines.push(&data)?;
                        }
                    }
                    None => self.state = State::Over,
                }
            }
        }
        if self.state == State::Done {
            self.state = State::Over;
            return Ok(Some(Piece::Finished(self.cost)));
        }
        Ok(None)
    }
}

impl Chunks {
    /// What a line says, if it says something.
    fn take(&mut self, line: &str) -> Result<Option<Piece>, Failure> {
        let Some(data) = line.strip_prefix("data:").map(str::trim) else {
            return Ok(None);
        };
        if data == "[DONE]" {
            self.state = State::Done;
            return Ok(None);
        }
        let chunk: Value = serde_json::from_str(data).map_err(broken)?;
        if let Some(error) = chunk.get("error") {
            return Err(failure("ERROR".to_owned(), error));
        }
        if let Some(usage) = chunk.get("usage").filter(|usage| usage.is_object()) {
            self.cost = Cost {
                prompt_tokens: count(&usage["prompt_tokens"]),
                cached_tokens: count(&usage["prompt_tokens_details"]["cached_tokens"]),
            };
        }
        let text = chunk["choices"][0]["text"].as_str().unwrap_or_default();
        Ok((!text.is_empty()).then_some(Piece::Tokens(1)))
    }
}

/// Whole lines of what came so far.
#[derive(Debug, Default)]
struct Lines {
    whole: VecDeque<String>,
    rest: Vec<u8>,
}

impl Lines {
    fn push(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.rest.extend_from_slice(part);
            if self.rest.ends_with(b"\n") {
                let line = String::from_utf8_lossy(&self.rest).trim_end().to_owned();
                self.whole.push_back(line);
                self.rest.clear();
            } else if self.rest.len() > BYTES_MAX {
                return Err(broken("a line is too long"));
            }
        }
        Ok(())
    }

    fn next(&mut self) -> Option<String> {
        self.whole.pop_front()
    }
}

/// Reads a body that is not streamed.
async fn whole(mut body: Incoming) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(broken)?.into_data() {
            bytes.extend_from_slice(&data);
        }
        if bytes.len() > BYTES_MAX {
            return Err(broken("an answer is too long"));
        }
    }
    Ok(bytes)
}

async fn refused(response: Response<Incoming>) -> Failure {
    let code = format!("HTTP {}", response.status().as_u16());
    let after = response.headers().get(RETRY_AFTER);
    let seconds = after.and_then(|value| value.to_str().ok()?.parse().ok());
    let body = whole(response.into_body()).await.unwrap_or_default();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    Failure {
        retry_after: seconds.map(|seconds: u32| Duration::from_secs(seconds.into())),
        ..failure(code, &body["error"])
    }
}

/// An error as the API writes it: the type is short and of few kinds, the message is not.
fn failure(code: String, error: &Value) -> Failure {
    Failure {
        code,
        reason: error["type"].as_str().unwrap_or_default().to_owned(),
        retry_after: None,
    }
}

/// The connection or the answer is not what it should be.
fn broken(error: impl std::fmt::Display) -> Failure {
    Failure {
        code: "CONNECTION".to_owned(),
        reason: error.to_string(),
        retry_after: None,
    }
}

fn count(value: &Value) -> u32 {
    value.as_u64().unwrap_or_default() as u32
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::mix::Kind;

    fn ask() -> Ask {
        Ask {
            prompt: Prompt::Text("Hi".to_owned()),
            more: Vec::new(),
            output: 3,
            end: End::Length,
            kind: Kind::default(),
        }
    }

    /// A target whose server gives each of these answers to one request, in order.
    async fn target(answers: &'static [&'static str]) -> OpenAi {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 4096];
                let read = stream.read(&mut request).await.unwrap();
                assert!(request[..read].starts_with(b"POST /v1/"));
                // In two parts, so that lines are cut somewhere.
                let (first, second) = answer.split_at(answer.len() / 2);
                stream.write_all(first.as_bytes()).await.unwrap();
                stream.flush().await.unwrap();
                stream.write_all(second.as_bytes()).await.unwrap();
            }
        });
        OpenAi::new(
            &format!("http://{address}"),
            String::new(),
            HeaderMap::new(),
        )
    }

    const STREAM: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n\
        data: {\"choices\":[{\"text\":\"a\"}],\"usage\":null}\n\n\
        : a comment\n\n\
        data: {\"choices\":[{\"text\":\"\"}]}\n\n\
        data: {\"choices\":[{\"text\":\"b\"}]}\n\n\
        data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"prompt_tokens_details\":{\"cached_tokens\":4}}}\n\n\
        data: [DONE]\n\n";
    const FULL: &str = "HTTP/1.1 429 Too Many Requests\r\nretry-after: 3\r\nconnection: close\r\n\r\n\
        {\"error\":{\"type\":\"overloaded\",\"message\":\"later\"}}";

    #[tokio::test]
    async fn chunks_with_text_are_tokens_and_the_end_tells_the_cost() {
        let target = target(&[STREAM]).await;
        let mut chunks = target.generate(0, &ask()).await.unwrap();
        let mut pieces = Vec::new();
        while let Some(piece) = chunks.next().await.unwrap() {
            pieces.push(piece);
        }
        let cost = Cost {
            prompt_tokens: 7,
            cached_tokens: 4,
        };
        let expected = [Piece::Tokens(1), Piece::Tokens(1), Piece::Finished(cost)];
        assert_eq!(pieces, expected);
    }

    #[tokio::test]
    async fn a_refusal_says_its_type_and_when_to_come_back() {
        let target = target(&[FULL]).await;
        let failure = target.generate(0, &ask()).await.unwrap_err();
        assert_eq!(
            (failure.code.as_str(), failure.reason.as_str()),
            ("HTTP 429", "overloaded")
        );
        assert_eq!(failure.retry_after, Some(Duration::from_secs(3)));
    }
}
