//! The service `paternoster.v1.Control`: what routers and operators call.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use proto::v1;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tonic::{Request, Response, Status};

use super::tokenizer_files::TokenizerFiles;
use super::{kv_events, model, validate};
use crate::app::App;
use crate::limits::STOP_CHARS_MAX;
use crate::status::{Fault, empty_input};

/// The service over one server's state.
pub(crate) struct Control {
    app: Arc<App>,
    tokenizer_files: TokenizerFiles,
}

const INTERVAL_DEFAULT: u32 = 1_000;

impl Control {
    pub(crate) fn new(app: Arc<App>) -> Self {
        Self {
            tokenizer_files: TokenizerFiles::new(&app.registry),
            app,
        }
    }

    fn models(&self) -> Vec<v1::Model> {
        self.app
            .registry
            .models()
            .iter()
            .map(|served| model::describe(&self.app, served))
            .collect()
    }

    fn limits(&self) -> v1::ServerLimits {
        let limits = &self.app.limits;
        v1::ServerLimits {
            input_bytes_max: limits.input_bytes_max as u64,
            message_bytes_max: limits.message_bytes_max as u64,
            embed_inputs_max: limits.embed_inputs_max as u32,
            n_max: limits.n_max,
            logprobs_max: limits.logprobs_max,
            stop_strings_max: limits.stop_strings_max as u32,
            stop_chars_max: STOP_CHARS_MAX as u32,
            request_timeout_max_ms: limits.request_timeout_max.as_millis() as u64,
            stream_stall_timeout_ms: limits.stream_stall_timeout.as_millis() as u64,
        }
    }
}

fn loads(app: &App, name: &str) -> Result<Vec<v1::Load>, Fault> {
    Ok(app
        .registry
        .select(name)?
        .into_iter()
        .map(|served| model::load(app, served))
        .collect())
}

/// The state of one watcher.
struct Watch {
    app: Arc<App>,
    name: String,
    ticks: Interval,
}

impl Watch {
    /// The next answer; `None` once the server drains.
    async fn next(&mut self) -> Option<Result<v1::WatchLoadResponse, Status>> {
        tokio::select! {
            () = self.app.lifecycle.draining.cancelled() => None,
            _ = self.ticks.tick() => Some(match loads(&self.app, &self.name) {
                Ok(loads) => Ok(v1::WatchLoadResponse { loads }),
                Err(fault) => Err(fault.into()),
            }),
        }
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl v1::control_server::Control for Control {
    type WatchLoadStream = Answers<v1::WatchLoadResponse>;
    type GetTokenizerStream = Answers<v1::GetTokenizerResponse>;
    type SubscribeKvEventsStream = Answers<v1::SubscribeKvEventsResponse>;

    async fn get_info(
        &self,
        _request: Request<v1::GetInfoRequest>,
    ) -> Result<Response<v1::GetInfoResponse>, Status> {
        Ok(Response::new(v1::GetInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            models: self.models(),
            limits: Some(self.limits()),
        }))
    }

    async fn list_models(
        &self,
        _request: Request<v1::ListModelsRequest>,
    ) -> Result<Response<v1::ListModelsResponse>, Status> {
        Ok(Response::new(v1::ListModelsResponse {
            models: self.models(),
        }))
    }

    async fn get_load(
        &self,
        request: Request<v1::GetLoadRequest>,
    ) -> Result<Response<v1::GetLoadResponse>, Status> {
        let loads = loads(&self.app, &request.get_ref().model)?;
        Ok(Response::new(v1::GetLoadResponse { loads }))
    }

    async fn watch_load(
        &self,
        request: Request<v1::WatchLoadRequest>,
    ) -> Result<Response<Self::WatchLoadStream>, Status> {
        let request = request.into_inner();
        let interval_ms = request.interval_ms.unwrap_or(INTERVAL_DEFAULT);
        if !(10..=60_000).contains(&interval_ms) {
            return Err(validate::out_of_range("interval_ms", "10 to 60,000").into());
        }
        loads(&self.app, &request.model)?;
        let mut ticks = interval(Duration::from_millis(interval_ms.into()));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let watch = Watch {
            app: Arc::clone(&self.app),
            name: request.model,
            ticks,
        };
        let answers = stream::unfold(watch, |mut watch| async move {
            let answer = watch.next().await?;
            Some((answer, watch))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn abort(
        &self,
        request: Request<v1::AbortRequest>,
    ) -> Result<Response<v1::AbortResponse>, Status> {
        let request_id = &request.get_ref().request_id;
        if request_id.is_empty() {
            return Err(empty_input("request_id").into());
        }
        let aborted = self.app.running.abort(request_id) as u32;
        Ok(Response::new(v1::AbortResponse { aborted }))
    }

    async fn load_adapter(
        &self,
        _request: Request<v1::LoadAdapterRequest>,
    ) -> Result<Response<v1::LoadAdapterResponse>, Status> {
        Err(Fault::method_not_built("LoadAdapter").into())
    }

    async fn unload_adapter(
        &self,
        _request: Request<v1::UnloadAdapterRequest>,
    ) -> Result<Response<v1::UnloadAdapterResponse>, Status> {
        Err(Fault::method_not_built("UnloadAdapter").into())
    }

    async fn list_adapters(
        &self,
        _request: Request<v1::ListAdaptersRequest>,
    ) -> Result<Response<v1::ListAdaptersResponse>, Status> {
        Err(Fault::method_not_built("ListAdapters").into())
    }

    async fn get_tokenizer(
        &self,
        request: Request<v1::GetTokenizerRequest>,
    ) -> Result<Response<Self::GetTokenizerStream>, Status> {
        let model = self.app.registry.any(&request.get_ref().model)?;
        let parts = self.tokenizer_files.parts(model).await?;
        Ok(Response::new(Box::pin(parts)))
    }

    async fn subscribe_kv_events(
        &self,
        request: Request<v1::SubscribeKvEventsRequest>,
    ) -> Result<Response<Self::SubscribeKvEventsStream>, Status> {
        let request = request.into_inner();
        let decoder = self.app.registry.decoder(&request.model)?;
        let events = decoder.handle.kv_events(request.from_sequence);
        let answers = kv_events::answers(Arc::clone(&self.app), events);
        Ok(Response::new(Box::pin(answers)))
    }

    async fn flush_cache(
        &self,
        request: Request<v1::FlushCacheRequest>,
    ) -> Result<Response<v1::FlushCacheResponse>, Status> {
        let model = &request.get_ref().model;
        let decoders = if model.is_empty() {
            self.app.registry.decoders().collect()
        } else {
            vec![self.app.registry.decoder(model)?]
        };
        let mut blocks = 0;
        for decoder in decoders {
            blocks += decoder.handle.flush_cache().await.map_err(Fault::from)?;
        }
        Ok(Response::new(v1::FlushCacheResponse { blocks }))
    }

    async fn drain(
        &self,
        _request: Request<v1::DrainRequest>,
    ) -> Result<Response<v1::DrainResponse>, Status> {
        self.app.lifecycle.drain_asked.cancel();
        Ok(Response::new(v1::DrainResponse {}))
    }
}
