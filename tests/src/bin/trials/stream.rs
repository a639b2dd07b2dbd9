//! One generation over the client's library.

use paternoster_client::v1::generate_response::Event;
use paternoster_client::v1::{GenerateRequest, GenerateResponse};
use paternoster_client::{Client, prompt};
use tonic::{Status, Streaming};

/// A request for exactly this many tokens.
pub(crate) fn ask(text: &str, tokens: u32) -> GenerateRequest {
    let mut request = prompt(text, tokens);
    if let Some(stopping) = &mut request.stopping {
        stopping.ignore_eos = true;
    }
    request
}

/// A generation that runs, and what came of it.
#[derive(Debug)]
pub(crate) struct Stream {
    messages: Streaming<GenerateResponse>,
    pub(crate) tokens: Vec<u32>,
    pub(crate) finished: bool,
}

impl Stream {
    pub(crate) async fn open(client: &Client, request: GenerateRequest) -> Result<Self, Status> {
        let answer = client.inference().generate(request).await?;
        Ok(Self {
            messages: answer.into_inner(),
            tokens: Vec::new(),
            finished: false,
        })
    }

    /// Takes the next message; `false` after the last.
    pub(crate) async fn step(&mut self) -> Result<bool, Status> {
        let Some(message) = self.messages.message().await? else {
            return Ok(false);
        };
        match message.event {
            Some(Event::Delta(delta)) => self.tokens.extend(delta.token_ids),
            Some(Event::Finished(_)) => self.finished = true,
            _ => {}
        }
        Ok(true)
    }

    /// Reads to the end.
    pub(crate) async fn read(&mut self) -> Result<(), Status> {
        while self.step().await? {}
        Ok(())
    }
}

/// The tokens of a whole generation.
pub(crate) async fn whole(client: &Client, request: GenerateRequest) -> Result<Vec<u32>, Status> {
    let mut stream = Stream::open(client, request).await?;
    stream.read().await?;
    if stream.finished {
        Ok(stream.tokens)
    } else {
        Err(Status::data_loss("the stream ended without `finished`"))
    }
}
