//! Which models are served, and by which names.

use std::path::{Path, PathBuf};

use super::{ConfigError, Files, ModelSource};
use crate::args::model::ModelArgs;
use crate::registry::is_name;

/// The models to serve, each with its name.
pub(super) fn resolve(args: &ModelArgs) -> Result<Vec<ModelSource>, ConfigError> {
    if args.model_id.is_empty() {
        return demo_models();
    }
    if args.served_model_name.len() > args.model_id.len() {
        let message = "more names than --model-id".to_owned();
        return Err(ConfigError {
            flag: "served-model-name",
            message,
        });
    }
    let mut models: Vec<ModelSource> = Vec::new();
    for (index, id) in args.model_id.iter().enumerate() {
        let model = model(id, args.served_model_name.get(index))?;
        if models.iter().any(|earlier| earlier.name == model.name) {
            let message = format!("two models are named {}; name them NAME=FOLDER", model.name);
            return Err(ConfigError {
                flag: "model-id",
                message,
            });
        }
        models.push(model);
    }
    Ok(models)
}

#[cfg(feature = "demo")]
#[expect(clippy::unnecessary_wraps, reason = "the other build has none")]
fn demo_models() -> Result<Vec<ModelSource>, ConfigError> {
    let demo = |name: &str, files| ModelSource {
        name: name.to_owned(),
        files,
    };
    Ok(vec![
        demo("demo", Files::DemoDecoder),
        demo("demo-embed", Files::DemoEncoder),
    ])
}

#[cfg(not(feature = "demo"))]
fn demo_models() -> Result<Vec<ModelSource>, ConfigError> {
    Err(ConfigError {
        flag: "model-id",
        message: "is needed: this binary was built without the demo models".to_owned(),
    })
}

fn model(id: &str, served_name: Option<&String>) -> Result<ModelSource, ConfigError> {
    let error = |message| ConfigError {
        flag: "model-id",
        message,
    };
    let (given, folder) = match id.split_once('=') {
        // A folder may have such a name itself.
        _ if Path::new(id).is_dir() => (None, id),
        Some((name, folder)) if is_name(name) => (Some(name.to_owned()), folder),
        _ => (None, id),
    };
    let path = PathBuf::from(folder);
    if !path.is_dir() {
        return Err(error(format!(
            "{folder} is not a folder (models are not downloaded yet; give a local folder)"
        )));
    }
    let base = path.canonicalize().ok();
    let base = base
        .as_deref()
        .and_then(|path| path.file_name())
        .and_then(|name| name.to_str());
    let name = served_name
        .cloned()
        .or(given)
        .or_else(|| base.map(str::to_owned));
    let name = name.unwrap_or_default();
    if !is_name(&name) {
        return Err(error(format!(
            "{name:?} cannot name a model; use NAME=FOLDER"
        )));
    }
    Ok(ModelSource {
        name,
        files: Files::Folder(path),
    })
}
