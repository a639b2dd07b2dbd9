//! `tei.v1.Info`: the server and one of its models.

use proto::tei::v1 as tei;
use tonic::{Code, Request, Response, Status};

use super::Tei;
use crate::registry::{Encoder, Served, Task};
use crate::status::Fault;

#[tonic::async_trait]
impl tei::info_server::Info for Tei {
    async fn info(
        &self,
        request: Request<tei::InfoRequest>,
    ) -> Result<Response<tei::InfoResponse>, Status> {
        let (asker, context, _) = self.taken(request)?;
        let registry = &self.app.registry;
        let model = match &asker.model {
            Some(name) => match registry.any(name)? {
                Served::Encoder(encoder) => Some(encoder),
                Served::Decoder(_) => None,
            },
            None => registry.encoders().next(),
        };
        let model = model.ok_or_else(|| {
            let message = "model is not an embedding, classifier or re-ranker model";
            Fault::new(Code::FailedPrecondition, "WRONG_TASK", message)
        })?;
        context.report.set_model(&model.name, &model.facts);
        Ok(Response::new(self.describe(model)))
    }
}

impl Tei {
    fn describe(&self, model: &Encoder) -> tei::InfoResponse {
        let (limits, facts) = (&self.app.limits, &model.facts);
        let known = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let some = |number: u32| (number > 0).then_some(number);
        tei::InfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            sha: None,
            docker_label: None,
            model_id: model.name.clone(),
            model_sha: known(&facts.revision),
            model_dtype: dtype(&facts.dtype).to_owned(),
            model_type: model_type(&model.task).into(),
            max_concurrent_requests: limits.calls_max as u32,
            max_input_length: facts.context_tokens_max,
            max_batch_tokens: facts.batch_tokens_max,
            max_batch_requests: some(facts.batch_inputs_max),
            max_client_batch_size: limits.embed_inputs_max as u32,
            tokenization_workers: model.text.pool.limits().concurrent_max as u32,
        }
    }
}

fn model_type(task: &Task) -> tei::ModelType {
    match task {
        Task::Embed(_) | Task::Sparse => tei::ModelType::Embedding,
        Task::Classify { labels, .. } if labels.len() == 1 => tei::ModelType::Reranker,
        Task::Classify { .. } => tei::ModelType::Classifier,
    }
}

/// The name that TEI has for a type.
fn dtype(own: &str) -> &str {
    match own {
        "f32" => "float32",
        "f16" => "float16",
        "bf16" => "bfloat16",
        other => other,
    }
}
