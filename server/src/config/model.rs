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
    if args.revision.len() > args.model_id.len() {
        let message = "more revisions than --model-id".to_owned();
        let flag = "revision";
        return Err(ConfigError { flag, message });
    }
    for (index, id) in args.model_id.iter().enumerate() {
        let revision = match args.revision.as_slice() {
            [one] => Some(one),
            several => several.get(index),
        };
        let place = Place {
            revision: revision.map(String::as_str),
            pinned: args.hub.require_pinned,
        };
        let model = model(id, args.served_model_name.get(index), place)?;
        if models.iter().any(|earlier| earlier.name == model.name) {
            let message = format!("two models are named {}; name them NAME=MODEL", model.name);
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
        revision: None,
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

/// Which of a model's revisions is meant.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "hub"), expect(dead_code, reason = "of the hub"))]
pub(crate) struct Place<'a> {
    /// The branch, tag or commit.
    pub(crate) revision: Option<&'a str>,
    /// Whether only commits are taken.
    pub(crate) pinned: bool,
}

fn model(
    id: &str,
    served_name: Option<&String>,
    place: Place<'_>,
) -> Result<ModelSource, ConfigError> {
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
    let files = files(folder, place)?;
    let base = match &files {
        Files::Folder(path) => path.canonicalize().ok().and_then(|path| {
            let name = path.file_name()?.to_str()?;
            Some(name.to_owned())
        }),
        #[cfg(any(feature = "hub", feature = "demo"))]
        _ => Some(folder.to_owned()),
    };
    let name = served_name.cloned().or(given).or(base);
    let name = name.unwrap_or_default();
    if !is_name(&name) {
        return Err(error(format!(
            "{name:?} cannot name a model; use NAME=MODEL"
        )));
    }
    Ok(ModelSource {
        name,
        files,
        revision: None,
    })
}

/// Where the files of `id` are: in the folder of that name, or else on the hub.
#[cfg_attr(not(feature = "hub"), expect(unused_variables, reason = "of the hub"))]
pub(crate) fn files(id: &str, place: Place<'_>) -> Result<Files, ConfigError> {
    let path = PathBuf::from(id);
    if path.is_dir() {
        return Ok(Files::Folder(path));
    }
    #[cfg(feature = "hub")]
    return on_hub(id, place).map(|(model, revision)| Files::Hub(model, revision));
    #[cfg(not(feature = "hub"))]
    Err(ConfigError {
        flag: "model-id",
        message: format!("{} (this binary was built without the hub)", no_model(id)),
    })
}

/// Why `id` is nothing that could be served.
fn no_model(id: &str) -> String {
    let path = Path::new(id);
    if id.is_empty() {
        "is empty; without it and without MODEL_ID the demo models are served".to_owned()
    } else if path.is_file() {
        format!(
            "{id} is a file; give the folder that has config.json, a tokenizer and *.safetensors"
        )
    } else if id.starts_with(['/', '.', '~']) {
        format!("{id} is not a folder: there is none of this name")
    } else {
        format!("{id} is not a folder, and not a model of the hub (org/name)")
    }
}

/// The model that `id` is on the hub.
#[cfg(feature = "hub")]
pub(crate) fn on_hub(
    id: &str,
    place: Place<'_>,
) -> Result<(hub::ModelId, hub::Revision), ConfigError> {
    let error = |flag, message| Err(ConfigError { flag, message });
    let Ok(model) = id.parse::<hub::ModelId>() else {
        return error("model-id", no_model(id));
    };
    let revision = match place.revision {
        None => hub::Revision::default(),
        Some(revision) => match revision.parse::<hub::Revision>() {
            Ok(revision) => revision,
            Err(wrong) => return error("revision", wrong.to_string()),
        },
    };
    if place.pinned && revision.commit().is_none() {
        let revision = revision.to_string();
        let wrong = hub::HubError::NotPinned { model, revision };
        return error("revision", wrong.to_string());
    }
    Ok((model, revision))
}
