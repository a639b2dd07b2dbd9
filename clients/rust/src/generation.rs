//! One generation, over as many attempts as it takes to the first token.

use tonic::Status;

use crate::call::Call;
use crate::error::Error;
use crate::v1::GenerateRequest;
use crate::v1::generate_response::Event;
use crate::{Client, Events};

/// One generation. Dropping it ends the work on the server.
#[derive(Debug)]
pub struct Generation {
    client: Client,
    call: Call,
    request: GenerateRequest,
    /// The stream of this attempt; `None` before it is open, and after the end.
    stream: Option<Events>,
    /// Whether a token arrived: what was used already is not made again.
    tokens: bool,
    unfinished: u32,
    ended: bool,
}

impl Generation {
    pub(crate) async fn open(
        client: Client,
        call: Call,
        request: GenerateRequest,
    ) -> Result<Self, Error> {
        let n = request.sampling.as_ref().and_then(|sampling| sampling.n);
        let mut generation = Self {
            client,
            call,
            request,
            stream: None,
            tokens: false,
            unfinished: n.unwrap_or(1).max(1),
            ended: false,
        };
        while let Err(status) = generation.connect().await {
            generation.call.again(status, generation.tokens).await?;
        }
        Ok(generation)
    }

    /// The next event; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Event>, Error> {
        while !self.ended {
            match self.step().await {
                Ok(Some(event)) => {
                    self.note(&event);
                    return Ok(Some(event));
                }
                Ok(None) => self.end()?,
                Err(status) => {
                    self.stream = None;
                    let again = self.call.again(status, self.tokens).await;
                    self.ended = again.is_err();
                    again?;
                }
            }
        }
        Ok(None)
    }

    /// The next piece of text, whatever sequence it belongs to; `None` after the last.
    pub async fn text(&mut self) -> Result<Option<String>, Error> {
        while let Some(event) = self.next().await? {
            if let Event::Delta(delta) = event {
                return Ok(Some(delta.text));
            }
        }
        Ok(None)
    }

    async fn step(&mut self) -> Result<Option<Event>, Status> {
        self.connect().await?;
        match &mut self.stream {
            Some(stream) => self.call.bound(stream.next()).await,
            None => Ok(None),
        }
    }

    async fn connect(&mut self) -> Result<(), Status> {
        if self.stream.is_none() {
            let request = self.call.request(self.request.clone());
            self.stream = Some(self.call.bound(self.client.generate(request)).await?);
        }
        Ok(())
    }

    fn note(&mut self, event: &Event) {
        match event {
            Event::Started(_) => {}
            Event::Delta(_) => self.tokens = true,
            Event::Finished(_) => {
                self.tokens = true;
                self.unfinished = self.unfinished.saturating_sub(1);
            }
        }
    }

    /// A stream that ended well has finished every sequence.
    fn end(&mut self) -> Result<(), Error> {
        self.ended = true;
        self.stream = None;
        if self.unfinished == 0 {
            return Ok(());
        }
        let status = Status::data_loss("the stream ended before its sequences did");
        Err(self.call.error(status, true))
    }
}
