//! The services: `paternoster.v1`, `tei.v1`, health and reflection, as one set of routes.

pub(crate) mod complete;
pub(crate) mod control;
pub(crate) mod embed;
pub(crate) mod encoding;
pub(crate) mod generate;
pub(crate) mod generation;
pub(crate) mod inference;
pub(crate) mod kv_events;
pub(crate) mod model;
pub(crate) mod rank;
pub(crate) mod scores;
pub(crate) mod streaming;
pub(crate) mod tokenize;
pub(crate) mod tokenizer_files;
pub(crate) mod validate;

use std::sync::Arc;

use proto::FILE_DESCRIPTOR_SET;
use proto::v1::control_server::ControlServer;
use proto::v1::inference_server::InferenceServer;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tonic_reflection::server::{Builder, Error};

use crate::app::App;
use crate::limits::QUESTION_BYTES_MAX;
use crate::tei;
use control::Control;
use inference::Inference;

/// All services of one server.
pub(crate) fn routes(app: &Arc<App>, health: &HealthReporter) -> Result<Routes, Error> {
    let message_bytes_max = app.limits.message_bytes_max;
    let inference = InferenceServer::new(Inference::new(Arc::clone(app)))
        .max_decoding_message_size(message_bytes_max);
    let control = ControlServer::new(Control::new(Arc::clone(app)))
        .max_decoding_message_size(message_bytes_max);
    let health = HealthServer::new(HealthService::from_health_reporter(health.clone()))
        .max_decoding_message_size(QUESTION_BYTES_MAX);
    let reflection = reflected().build_v1()?;
    let reflection_alpha = reflected().build_v1alpha()?;
    let routes = Routes::new(inference).add_service(control);
    Ok(tei::add_to(routes, app)
        .add_service(health)
        .add_service(reflection.max_decoding_message_size(QUESTION_BYTES_MAX))
        .add_service(reflection_alpha.max_decoding_message_size(QUESTION_BYTES_MAX))
        .prepare())
}

/// What reflection tells: the contract with its comments, health, and the details of errors.
fn reflected() -> Builder<'static> {
    Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}
