//! Why a model cannot be served, and the exit code that says so.

use std::path::Path;

use models::files::FileError;
use models::load::LoadError;

use crate::exit::Exit;
use crate::registry::DuplicateName;
use crate::text::chat::TemplateError;
use crate::text::tokenizer::TokenizerLoadError;

/// Why a model cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("{model}: {cause}")]
pub struct StartError {
    /// The model's name.
    pub model: String,
    /// What is wrong.
    pub cause: Cause,
}

/// What is wrong with a model.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// Its network or its weights.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A text file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerLoadError),
    /// Its chat template.
    #[error("chat template: {0}")]
    Template(#[from] TemplateError),
    /// Its sentence-transformers configuration.
    #[error("config_sentence_transformers.json: {0}")]
    Prompts(serde_json::Error),
    /// Its default prompt is none of its prompts.
    #[error("config_sentence_transformers.json: default_prompt_name {0:?} is none of its prompts")]
    DefaultPrompt(String),
    /// It has no prompt of the name that the configuration asks for.
    #[error("--default-prompt-name: the model has no prompt {name:?}; it has: {known}")]
    UnknownPrompt {
        /// The name.
        name: String,
        /// Those there are.
        known: String,
    },
    /// Its name.
    #[error(transparent)]
    Name(#[from] DuplicateName),
}

impl Cause {
    /// The exit code of a process that could not start because of this.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Load(LoadError::Tensor { .. }) | Self::Tokenizer(_) => Exit::Data,
            Self::Load(LoadError::Config { file, .. }) if is_weights(file) => Exit::Data,
            Self::Load(LoadError::Memory(_)) => Exit::System,
            Self::Load(LoadError::Pickle(_)) => Exit::Refused,
            Self::Load(LoadError::File(file)) | Self::File(file) => match file {
                FileError::Missing(_) => Exit::Config,
                FileError::Unreadable(..) => Exit::Io,
            },
            _ => Exit::Config,
        }
    }
}

fn is_weights(file: &str) -> bool {
    Path::new(file)
        .extension()
        .is_some_and(|ending| ending == "safetensors")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_tell_what_kind_of_thing_is_wrong() {
        let config = |file: &str| {
            let (file, message) = (file.to_owned(), "wrong".to_owned());
            Cause::Load(LoadError::Config { file, message })
                .exit()
                .code()
        };
        assert_eq!(config("config.json"), 78);
        assert_eq!(config("model-00001-of-00002.safetensors"), 65);
        let tensor = LoadError::Tensor {
            file: "model.safetensors".to_owned(),
            tensor: "a".to_owned(),
            message: "wrong".to_owned(),
        };
        assert_eq!(Cause::Load(tensor).exit().code(), 65);
        assert_eq!(
            Cause::Load(LoadError::Memory("little".to_owned()))
                .exit()
                .code(),
            71
        );
        assert_eq!(
            Cause::File(FileError::Missing("tokenizer.json".to_owned()))
                .exit()
                .code(),
            78
        );
        let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        assert_eq!(
            Cause::File(FileError::Unreadable("x".to_owned(), denied))
                .exit()
                .code(),
            74
        );
    }
}
