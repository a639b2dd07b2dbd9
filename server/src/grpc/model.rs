//! Models and their load, as `Control` describes them.

use engine::executor::Pooling;
use engine::handle::Health;
use proto::v1;

use crate::app::App;
use crate::registry::{Served, Task};

/// What a model is.
pub(crate) fn describe(app: &App, model: &Served) -> v1::Model {
    let facts = model.facts().clone();
    let mut described = v1::Model {
        name: model.name().to_owned(),
        state: state(app, model).into(),
        architecture: facts.architecture,
        revision: facts.revision,
        dtype: facts.dtype,
        parameters: facts.parameters,
        vocab_size: facts.vocab_size,
        context_tokens_max: facts.context_tokens_max,
        width: facts.width,
        has_chat_template: model.text().chat.is_some(),
        ..v1::Model::default()
    };
    match model {
        Served::Decoder(decoder) => {
            described.task = v1::Task::Generate.into();
            described.end_token_ids.clone_from(&decoder.end_tokens);
            described.kv_blocks = decoder.handle.stats().blocks_total;
            described.kv_block_tokens = facts.kv_block_tokens;
            described.kv_bytes_per_token = facts.kv_bytes_per_token;
        }
        Served::Encoder(encoder) => describe_task(&encoder.task, &mut described),
    }
    described
}

fn describe_task(task: &Task, described: &mut v1::Model) {
    let own = match task {
        Task::Embed(vectors) => {
            described.normalize = vectors.normalize;
            described.pooling = match vectors.pooling {
                Pooling::Cls => v1::Pooling::Cls,
                Pooling::Mean => v1::Pooling::Mean,
                Pooling::LastToken => v1::Pooling::LastToken,
            }
            .into();
            v1::Task::Embed
        }
        Task::Sparse => v1::Task::EmbedSparse,
        Task::Classify { .. } => v1::Task::Classify,
    };
    described.task = own.into();
}

/// How busy a model is.
pub(crate) fn load(app: &App, model: &Served) -> v1::Load {
    let mut load = v1::Load {
        model: model.name().to_owned(),
        state: state(app, model).into(),
        ..v1::Load::default()
    };
    match model {
        Served::Decoder(decoder) => {
            let stats = decoder.handle.stats();
            load.waiting_requests = stats.waiting;
            load.running_sequences = stats.running;
            load.kv_blocks_free = stats.blocks_free;
            load.kv_blocks_active = stats.blocks_active;
            load.kv_blocks_cached = stats.blocks_cached;
            load.kv_blocks_total = stats.blocks_total;
            load.prefix_queried_tokens = stats.prefix_queried_tokens;
            load.prefix_hit_tokens = stats.prefix_hit_tokens;
            load.preemptions = stats.preemptions;
        }
        Served::Encoder(encoder) => load.waiting_requests = encoder.handle.waiting(),
    }
    load
}

fn state(app: &App, model: &Served) -> v1::ModelState {
    let draining = app.lifecycle.draining.is_cancelled();
    match *model.health().borrow() {
        Health::Starting | Health::Restarting | Health::Serving if draining => {
            v1::ModelState::Draining
        }
        Health::Starting | Health::Restarting => v1::ModelState::Starting,
        Health::Serving => v1::ModelState::Serving,
        Health::Draining => v1::ModelState::Draining,
        Health::Down => v1::ModelState::Down,
    }
}
