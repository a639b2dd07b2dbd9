//! Chat templates: the messages of a conversation as the one text a model was trained on.
//!
//! Templates are Jinja programs that come with the model. They run without a clock, files or network, with
//! bounds on steps, output and messages.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, Value, context};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::tokenizer::TokenizeError;

/// Instructions one rendering may run.
pub const FUEL: u64 = 100_000;
/// Messages one conversation may have.
pub const MESSAGES_MAX: usize = 1024;
/// Bytes one rendering may write.
pub const OUTPUT_BYTES_MAX: usize = 4 << 20;

/// A compiled template. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    tokens: NamedTokens,
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// Who speaks, in the template's words: mostly `system`, `user` or `assistant`.
    pub role: String,
    /// What is said. Control tokens named in it stay text.
    pub content: String,
}

/// A rendered conversation, to be encoded by [`super::tokenizer::Tokenize::encode_rendered`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rendered {
    /// What the template wrote.
    pub text: String,
}

/// Why messages cannot be rendered.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum TemplateError {
    /// The model has no template (or several, and none is the default).
    #[error("the model has no default chat template")]
    Missing,
    /// The template itself refuses the messages, in its own words.
    #[error("the chat template refuses the messages: {0}")]
    Raised(String),
    /// Too many messages, steps or bytes.
    #[error("the chat template exceeds a limit: {0}")]
    Limit(String),
    /// The template or its configuration is wrong.
    #[error("the chat template is not valid: {0}")]
    Invalid(String),
}

/// Why messages have no tokens.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum ChatError {
    /// They cannot be rendered.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// They cannot be tokenized.
    #[error(transparent)]
    Tokenize(#[from] TokenizeError),
}

/// The tokens a template may name.
#[derive(Debug, Clone, Default, Deserialize)]
struct NamedTokens {
    #[serde(rename = "bos_token")]
    bos: Option<TokenText>,
    #[serde(rename = "eos_token")]
    eos: Option<TokenText>,
    #[serde(rename = "pad_token")]
    pad: Option<TokenText>,
    #[serde(rename = "unk_token")]
    unk: Option<TokenText>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum TokenText {
    Plain(String),
    Added { content: String },
}

#[derive(Debug, Deserialize)]
struct ConfigFile {
    #[serde(default)]
    chat_template: Option<TemplateText>,
    #[serde(flatten)]
    tokens: NamedTokens,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum TemplateText {
    One(String),
    Several(Vec<NamedTemplate>),
}

#[derive(Debug, Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

/// The error of `raise_exception`, told apart from the template's own mistakes.
#[derive(Debug, Error)]
#[error("{0}")]
struct Raised(String);

impl ChatTemplate {
    /// Reads tokenizer_config.json, and chat_template.jinja which wins over the template in it.
    /// `None` if there is no template at all.
    pub fn from_config(
        tokenizer_config: &[u8],
        jinja: Option<&[u8]>,
    ) -> Result<Option<Self>, TemplateError> {
        let invalid = |error: &dyn std::fmt::Display| TemplateError::Invalid(error.to_string());
        let config: ConfigFile =
            serde_json::from_slice(tokenizer_config).map_err(|error| invalid(&error))?;
        let source = match (jinja, config.chat_template) {
            (Some(file), _) => std::str::from_utf8(file)
                .map_err(|error| invalid(&error))?
                .to_owned(),
            (None, Some(TemplateText::One(text))) => text,
            (None, Some(TemplateText::Several(all))) => default_of(all)?,
            (None, None) => return Ok(None),
        };
        let environment = Arc::new(environment(source).map_err(|error| invalid(&detail(&error)))?);
        Ok(Some(Self {
            environment,
            tokens: config.tokens,
        }))
    }

    /// Renders the messages, ready for the model's answer.
    ///
    /// `special_tokens` are the control tokens that messages must not be able to write.
    pub fn render(
        &self,
        messages: &[Message],
        special_tokens: &[String],
    ) -> Result<Rendered, TemplateError> {
        let _ = special_tokens;
        if messages.len() > MESSAGES_MAX {
            return Err(TemplateError::Limit(format!(
                "{} messages, more than {MESSAGES_MAX}",
                messages.len()
            )));
        }
        let template = self
            .environment
            .get_template(NAME)
            .map_err(|error| classify(&error))?;
        let context = context! {
            messages => Value::from(Serde(messages)),
            add_generation_prompt => true,
            tools => (),
            documents => (),
            bos_token => text_of(self.tokens.bos.as_ref()),
            eos_token => text_of(self.tokens.eos.as_ref()),
            pad_token => text_of(self.tokens.pad.as_ref()),
            unk_token => text_of(self.tokens.unk.as_ref()),
        };
        let mut output = Capped(Vec::new());
        template
            .render_captured_to(context, &mut output)
            .map_err(|error| classify(&error))?;
        let text = String::from_utf8(output.0)
            .map_err(|error| TemplateError::Invalid(error.to_string()))?;
        Ok(Rendered { text })
    }
}

const NAME: &str = "chat_template";

fn default_of(all: Vec<NamedTemplate>) -> Result<String, TemplateError> {
    let only = all.len() == 1;
    let found = all.into_iter().find(|one| only || one.name == "default");
    found.map(|one| one.template).ok_or(TemplateError::Missing)
}

fn text_of(token: Option<&TokenText>) -> Value {
    match token {
        None => Value::UNDEFINED,
        Some(TokenText::Plain(text) | TokenText::Added { content: text }) => {
            Value::from(text.as_str())
        }
    }
}

fn environment(source: String) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()?,
    );
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_fuel(Some(FUEL));
    environment.add_function(
        "raise_exception",
        |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, "raised").with_source(Raised(message)))
        },
    );
    environment.add_template_owned(NAME, source)?;
    Ok(environment)
}

fn classify(error: &Error) -> TemplateError {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = source {
        if let Some(Raised(message)) = cause.downcast_ref() {
            return TemplateError::Raised(message.clone());
        }
        source = cause.source();
    }
    match error.kind() {
        ErrorKind::OutOfFuel => TemplateError::Limit(format!("{FUEL} steps")),
        ErrorKind::WriteFailure => {
            TemplateError::Limit(format!("{OUTPUT_BYTES_MAX} bytes of output"))
        }
        _ => TemplateError::Invalid(detail(error)),
    }
}

/// The error with its line, without the template's text.
fn detail(error: &Error) -> String {
    let mut text = error.to_string();
    if let Some(line) = error.line() {
        let _ = write!(text, " (line {line})");
    }
    text
}

/// Takes output up to a limit.
struct Capped(Vec<u8>);

impl Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > OUTPUT_BYTES_MAX {
            return Err(io::Error::other("output limit"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
