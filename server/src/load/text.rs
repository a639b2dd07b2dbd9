//! The texts around a model: its tokenizer, its chat template, and what goes before inputs.

use std::collections::BTreeMap;
use std::sync::Arc;

use models::files::{FileError, ModelFiles};
use models::load::ModelInfo;
use serde::Deserialize;

use super::cause::Cause;
use crate::args::model::LoadFormat;
use crate::byte_tokenizer;
use crate::config::{Config, DefaultPrompt};
use crate::registry::TextTools;
use crate::text::chat::ChatTemplate;
use crate::text::room::TokenizerRoom;

/// The texts around a model.
pub(super) struct Text {
    pub(super) tools: TextTools,
    /// Texts to put before inputs, by name.
    pub(super) prompts: BTreeMap<String, String>,
    /// The one that goes before an input where a request names none.
    pub(super) default_prompt: Option<String>,
}

impl Text {
    /// Reads them all.
    pub(super) fn read(
        config: &Config,
        files: &ModelFiles,
        info: &ModelInfo,
        room: &TokenizerRoom,
    ) -> Result<Self, Cause> {
        let tools = text_tools(config, files, room)?;
        let prompts = match info.task {
            models::load::Task::Generate => Prompts::default(),
            _ => Prompts::read(files)?,
        };
        let asked = match info.task {
            models::load::Task::Embed(_) => config.embedding.prompt.as_ref(),
            _ => None,
        };
        Ok(Self {
            tools,
            default_prompt: prompts.default_text(asked)?,
            prompts: prompts.prompts,
        })
    }
}

fn text_tools(
    config: &Config,
    files: &ModelFiles,
    room: &TokenizerRoom,
) -> Result<TextTools, Cause> {
    let tokenizer = match (files.read("tokenizer.json"), config.load_format) {
        (Err(FileError::Missing(_)), LoadFormat::Dummy) => byte_tokenizer::json().into(),
        (read, _) => read?,
    };
    let pool = room.pool_from_json(&tokenizer)?;
    let tokenizer_config = files.read_optional("tokenizer_config.json")?;
    let jinja = files.read_optional("chat_template.jinja")?;
    let chat = ChatTemplate::from_config(
        tokenizer_config.as_deref().unwrap_or(b"{}"),
        jinja.as_deref(),
    )?;
    let files = files.clone();
    Ok(TextTools {
        pool,
        chat,
        files: Arc::new(move |name| files.read_optional(name).ok().flatten()),
    })
}

/// What sentence-transformers files say about texts to put before inputs.
#[derive(Debug, Default, Deserialize)]
struct Prompts {
    #[serde(default)]
    prompts: BTreeMap<String, String>,
    #[serde(default)]
    default_prompt_name: Option<String>,
}

impl Prompts {
    fn read(files: &ModelFiles) -> Result<Self, Cause> {
        match files.read_optional("config_sentence_transformers.json")? {
            Some(bytes) => Self::parse(&bytes),
            None => Ok(Self::default()),
        }
    }

    /// The text that goes before an input where a request names no prompt.
    fn default_text(&self, asked: Option<&DefaultPrompt>) -> Result<Option<String>, Cause> {
        let name = match asked {
            Some(DefaultPrompt::Text(text)) => return Ok(Some(text.clone())),
            Some(DefaultPrompt::Named(name)) => Some(name),
            None => self.default_prompt_name.as_ref(),
        };
        let Some(name) = name else { return Ok(None) };
        let text = self.prompts.get(name).cloned();
        text.map(Some).ok_or_else(|| {
            let known: Vec<&str> = self.prompts.keys().map(String::as_str).collect();
            Cause::UnknownPrompt {
                name: name.clone(),
                known: known.join(", "),
            }
        })
    }

    fn parse(json: &[u8]) -> Result<Self, Cause> {
        let prompts: Self = serde_json::from_slice(json).map_err(Cause::Prompts)?;
        match &prompts.default_prompt_name {
            Some(name) if !prompts.prompts.contains_key(name) => {
                Err(Cause::DefaultPrompt(name.clone()))
            }
            _ => Ok(prompts),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_prompt_is_one_of_the_prompts() {
        let parse = |json: &str| Prompts::parse(json.as_bytes());
        let known = r#"{"prompts": {"query": "q: "}, "default_prompt_name": "query"}"#;
        let prompts = parse(known).unwrap();
        let text = |asked| prompts.default_text(asked);
        let own = text(None).unwrap();
        assert_eq!(own.as_deref(), Some("q: "));
        let asked = DefaultPrompt::Text("other: ".to_owned());
        let given = text(Some(&asked)).unwrap();
        assert_eq!(given.as_deref(), Some("other: "));
        let error = text(Some(&DefaultPrompt::Named("passage".to_owned()))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "--default-prompt-name: the model has no prompt \"passage\"; it has: query"
        );
        assert!(parse(r#"{"prompts": {}, "default_prompt_name": null}"#).is_ok());
        let error = parse(r#"{"prompts": {}, "default_prompt_name": "query"}"#).unwrap_err();
        assert!(matches!(&error, Cause::DefaultPrompt(name) if name == "query"));
        assert_eq!(error.exit().code(), 78);
    }
}
