//! Chat templates: the messages of a conversation as the one text a model was trained on.
//!
//! Templates are Jinja programs that come with the model. They run without a clock, files or network, with
//! bounds on steps, output and messages.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, Value, context};
use serde::{Deserialize, Serialize};
use thiserror::Error as ThisError;

use super::budget::OverBudget;
pub use super::budget::{BUDGET_BYTES, OPERAND_BYTES_MAX};
use super::control::{ControlTokens, Mark};
use super::date::Moment;
use super::program::Program;
pub use super::program::{FUEL, RAW_BYTES_MAX, SOURCE_BYTES_MAX};
use super::tokenizer::TokenizeError;

/// Messages one conversation may have.
pub const MESSAGES_MAX: usize = 1024;
/// Bytes of a role.
pub const ROLE_BYTES_MAX: usize = 64;

/// A compiled template. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    program: Arc<Program>,
    tokens: Arc<NamedTokens>,
    now: Option<Moment>,
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// Where, in bytes and ascending, a control token that spans or ends at the place is not the template's.
    pub(super) marks: Vec<usize>,
}

impl Rendered {
    /// A text whose control tokens are all meant.
    pub fn plain(text: String) -> Self {
        Self {
            text,
            marks: Vec::new(),
        }
    }

    /// Whether a control token here was written by a message.
    pub(super) fn is_marked(&self, at: Range<usize>) -> bool {
        let next = self.marks.partition_point(|&mark| mark <= at.start);
        self.marks.get(next).is_some_and(|&mark| mark <= at.end)
    }
}

/// Why messages cannot be rendered.
#[derive(Debug, ThisError, Clone, PartialEq, Eq)]
pub enum TemplateError {
    /// The model has no template (or several, and none is the default).
    #[error("the model has no default chat template")]
    Missing,
    /// The template itself refuses the messages, in its own words.
    #[error("the chat template refuses the messages: {0}")]
    Raised(String),
    /// A role is not a name: letters, digits, `_`, `-` and `.`, at most [`ROLE_BYTES_MAX`].
    #[error("the role of message {index} is not a name")]
    Role {
        /// The message's place in the conversation.
        index: usize,
    },
    /// Too many messages, steps or bytes.
    #[error("the chat template exceeds a limit: {0}")]
    Limit(String),
    /// The template or its configuration is wrong.
    #[error("the chat template is not valid: {0}")]
    Invalid(String),
}

/// Why messages have no tokens.
#[derive(Debug, ThisError, Clone, PartialEq, Eq)]
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
#[derive(Debug, ThisError)]
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
        let program = Program::compile(without_generation_tags(&source), environment());
        let program = program.map_err(|error| classify(&error))?;
        Ok(Some(Self {
            program: Arc::new(program),
            tokens: Arc::new(config.tokens),
            now: None,
        }))
    }

    /// The template at a moment, in seconds since 1970-01-01 00:00 UTC, for templates that write the date.
    /// Without one, `strftime_now` is undefined, as such templates expect.
    #[must_use]
    pub fn at(&self, unix_seconds: i64) -> Self {
        Self {
            now: Some(Moment::from_unix(unix_seconds)),
            ..self.clone()
        }
    }

    /// Renders the messages, ready for the model's answer.
    ///
    /// `control` are the tokens that messages must not be able to write.
    pub fn render(
        &self,
        messages: &[Message],
        control: &ControlTokens,
    ) -> Result<Rendered, TemplateError> {
        if messages.len() > MESSAGES_MAX {
            return Err(TemplateError::Limit(format!(
                "{} messages, more than {MESSAGES_MAX}",
                messages.len()
            )));
        }
        if let Some(index) = messages.iter().position(|message| !is_role(&message.role)) {
            return Err(TemplateError::Role { index });
        }
        let unmarkable = || TemplateError::Limit("messages use every noncharacter".to_owned());
        let mark = Mark::unused_in(messages).ok_or_else(unmarkable)?;
        let marked: Vec<_> = messages
            .iter()
            .map(|message| Marked {
                role: &message.role,
                content: control.mark(&message.content, mark),
            })
            .collect();
        let text = self
            .program
            .run(self.context(&marked))
            .map_err(|error| classify(&error))?;
        Ok(mark.remove(text))
    }

    fn context(&self, messages: &[Marked<'_>]) -> Value {
        let moment = self.now;
        let strftime = move |format: String| moment.map(|moment| moment.format(&format));
        context! {
            messages => Value::from(Serde(messages)),
            add_generation_prompt => true,
            tools => (),
            documents => (),
            bos_token => text_of(self.tokens.bos.as_ref()),
            eos_token => text_of(self.tokens.eos.as_ref()),
            pad_token => text_of(self.tokens.pad.as_ref()),
            unk_token => text_of(self.tokens.unk.as_ref()),
            strftime_now => moment.map_or(Value::UNDEFINED, |_| Value::from_function(strftime)),
        }
    }
}

/// A message as a template sees it.
#[derive(Debug, Serialize)]
struct Marked<'a> {
    role: &'a str,
    content: Cow<'a, str>,
}

/// Whether a role is a name: what [`ChatTemplate::render`] takes.
pub fn is_role(role: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    !role.is_empty() && role.len() <= ROLE_BYTES_MAX && role.bytes().all(letter)
}

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

/// Templates made for training mark the model's own words by a tag that Jinja does not know and that
/// writes nothing.
fn without_generation_tags(source: &str) -> String {
    let mut parts = source.split("{%");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let inside = part.split("%}").next().unwrap_or_default();
        let replacement =
            match inside.trim_matches(|one: char| one.is_whitespace() || "-+".contains(one)) {
                "generation" => inside.replace("generation", "if true"),
                "endgeneration" => inside.replace("endgeneration", "endif"),
                _ => inside.to_owned(),
            };
        text.push_str("{%");
        text.push_str(&replacement);
        text.push_str(&part[inside.len()..]);
    }
    text
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.add_function(
        "raise_exception",
        |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, "raised").with_source(Raised(message)))
        },
    );
    environment
}

fn classify(error: &Error) -> TemplateError {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = source {
        if let Some(Raised(message)) = cause.downcast_ref() {
            return TemplateError::Raised(message.clone());
        }
        if let Some(over) = cause.downcast_ref::<OverBudget>() {
            return TemplateError::Limit(over.to_string());
        }
        if let Some(limit) = cause.downcast_ref().and_then(engine_limit) {
            return TemplateError::Limit(limit);
        }
        source = cause.source();
    }
    TemplateError::Invalid(detail(error))
}

/// The engine's own limits. It has no kind of error for its recursion limit.
fn engine_limit(error: &Error) -> Option<String> {
    if error.kind() == ErrorKind::OutOfFuel {
        return Some(format!("{FUEL} steps"));
    }
    let detail = error.detail()?;
    (detail == "recursion limit exceeded").then(|| detail.to_owned())
}

/// The error with its line, without the template's text.
fn detail(error: &Error) -> String {
    let mut text = error.kind().to_string();
    if let Some(why) = error.detail() {
        let _ = write!(text, ": {why}");
    }
    if let Some(line) = error.line() {
        let _ = write!(text, " (line {line})");
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A template of the same constructs as one family's, with what it makes of a short conversation.
    struct Family {
        template: &'static str,
        expect: &'static str,
    }

    const FAMILIES: [(&str, Family); 7] = [
        ("chatml", Family {
            template: "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
            expect: "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Hi <|im_end|>\n<|im_start|>assistant\nHo.<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n",
        }),
        ("llama-3", Family {
            template: "{{- bos_token }}
{%- if strftime_now is defined %}
    {%- set date_string = strftime_now('%d %b %Y') %}
{%- else %}
    {%- set date_string = 'no date' %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = '' %}
{%- endif %}
{{- '<|sh|>system<|eh|>\n\n' }}
{{- 'Today: ' ~ date_string ~ '\n' ~ system_message }}
{{- '<|eot|>' }}
{%- for message in messages %}
    {%- if not (message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|sh|>' + message['role'] + '<|eh|>\n\n' + message['content'] | trim + '<|eot|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|sh|>assistant<|eh|>\n\n' }}
{%- endif %}
",
            expect: "<s><|sh|>system<|eh|>\n\nToday: 26 Jul 2024\nBe brief.<|eot|><|sh|>user<|eh|>\n\nHi<|eot|><|sh|>assistant<|eh|>\n\nHo.<|eot|><|sh|>user<|eh|>\n\n2+2?<|eot|><|sh|>assistant<|eh|>\n\n",
        }),
        ("mistral", Family {
            template: "{%- if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set turns = messages[1:] %}{% else %}{% set turns = messages %}{% endif %}
{{- bos_token }}
{%- for m in turns %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate.') }}{% endif %}
{%- if m.role == 'user' %}
{%- if loop.last and system is defined %}{{ '[INST] ' + system + '\n\n' + m.content + '[/INST]' }}{% else %}{{ '[INST] ' + m.content + '[/INST]' }}{% endif %}
{%- else %}{{ ' ' + m.content + eos_token }}{% endif %}
{%- endfor %}",
            expect: "<s>[INST]  Hi [/INST] Ho.</s>[INST] Be brief.\n\n2+2?[/INST]",
        }),
        ("gemma", Family {
            template: "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{%- set first = messages[0]['content'] + '\n\n' -%}{%- set loop_messages = messages[1:] -%}{% else %}{%- set first = '' -%}{%- set loop_messages = messages -%}{% endif %}{% for message in loop_messages %}{% if message['role'] == 'assistant' %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<sot>' + role + '\n' + (first if loop.first else '') }}{% if message['content'] is string %}{{ message['content'] | trim }}{% elif message['content'] is iterable %}{% for item in message['content'] %}{{ item.text }}{% endfor %}{% endif %}{{ '<eot>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<sot>model\n' }}{% endif %}",
            expect: "<s><sot>user\nBe brief.\n\nHi<eot>\n<sot>model\nHo.<eot>\n<sot>user\n2+2?<eot>\n<sot>model\n",
        }),
        ("qwen-3", Family {
            template: "{%- if tools %}{{- tools | tojson }}{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == 'user' and not(message.content.startswith('<tool>') and message.content.endswith('</tool>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == 'assistant' %}
        {%- if '</think>' in content %}{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}
        {%- if loop.index0 > ns.last_query_index %}{{- '(late)' }}{%- endif %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>' }}{%- endif %}{%- endif %}",
            expect: "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Hi <|im_end|>\n<|im_start|>assistant\nHo.<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n",
        }),
        ("phi-3", Family {
            template: "{% for m in messages %}{% if m.role not in ['system', 'user', 'assistant'] %}{% continue %}{% endif %}{{ '<|' + m.role + '|>' + '\n' + m.content + '<|end|>' + '\n' }}{% endfor %}{% generation %}{{ '<|assistant|>\n' }}{%- endgeneration %}
",
            expect: "<|system|>\nBe brief.<|end|>\n<|user|>\n Hi <|end|>\n<|assistant|>\nHo.<|end|>\n<|user|>\n2+2?<|end|>\n<|assistant|>\n",
        }),
        ("macros and json", Family {
            template: "{%- macro line(m, last=false) -%}{{ {'role': m.role, 'n': [1, 2.0, none, true], 'é': m.content} | tojson }}{{ '' if last else '\n' }}{%- endmacro -%}
{%- for m in messages if m.role != 'system' -%}{{ line(m, last=loop.last) }}{%- endfor -%}",
            expect: "{\"role\": \"user\", \"n\": [1, 2.0, null, true], \"é\": \" Hi \"}\n{\"role\": \"assistant\", \"n\": [1, 2.0, null, true], \"é\": \"Ho.\"}\n{\"role\": \"user\", \"n\": [1, 2.0, null, true], \"é\": \"2+2?\"}",
        }),
    ];

    fn conversation() -> Vec<Message> {
        let said = [
            ("system", "Be brief."),
            ("user", " Hi "),
            ("assistant", "Ho."),
            ("user", "2+2?"),
        ];
        said.map(|(role, content)| message(role, content)).to_vec()
    }

    fn message(role: &str, content: &str) -> Message {
        Message {
            role: role.to_owned(),
            content: content.to_owned(),
        }
    }

    fn template(source: &str) -> Result<ChatTemplate, TemplateError> {
        let config = json!({
            "chat_template": source,
            "bos_token": { "content": "<s>", "lstrip": false, "special": true },
            "eos_token": "</s>",
            "pad_token": null,
            "model_max_length": 1e30,
        });
        ChatTemplate::from_config(config.to_string().as_bytes(), None).map(Option::unwrap)
    }

    fn render(source: &str, messages: &[Message]) -> Result<String, TemplateError> {
        let moment = 1_721_952_000; // 2024-07-26
        Ok(template(source)?
            .at(moment)
            .render(messages, &ControlTokens::new([]))?
            .text)
    }

    #[test]
    fn templates_of_every_family_render() {
        for (name, family) in FAMILIES {
            let text = render(family.template, &conversation());
            assert_eq!(text.as_deref(), Ok(family.expect), "{name}");
        }
    }

    #[test]
    fn the_date_is_undefined_until_given() {
        let source = "{{ strftime_now('%Y') if strftime_now is defined else 'none' }}";
        let plain = template(source).unwrap();
        let text =
            |template: &ChatTemplate| template.render(&[], &ControlTokens::new([])).unwrap().text;
        assert_eq!(
            (text(&plain), text(&plain.at(0))),
            ("none".to_owned(), "1970".to_owned())
        );
    }

    #[test]
    fn templates_come_from_several_places() {
        let check = |config: serde_json::Value,
                     jinja: Option<&str>,
                     expect: Result<Option<&str>, TemplateError>| {
            let template =
                ChatTemplate::from_config(config.to_string().as_bytes(), jinja.map(str::as_bytes));
            let text = template.map(|found| {
                found.map(|template| template.render(&[], &ControlTokens::new([])).unwrap().text)
            });
            assert_eq!(
                text,
                expect.map(|found| found.map(str::to_owned)),
                "{config}"
            );
        };
        let named = |name: &str| json!({ "name": name, "template": name });
        check(json!({}), None, Ok(None));
        check(json!({ "chat_template": null }), None, Ok(None));
        check(json!({ "chat_template": "one" }), None, Ok(Some("one")));
        check(
            json!({ "chat_template": "one" }),
            Some("file"),
            Ok(Some("file")),
        );
        check(
            json!({ "chat_template": [named("tool_use"), named("default")] }),
            None,
            Ok(Some("default")),
        );
        check(
            json!({ "chat_template": [named("tool_use")] }),
            None,
            Ok(Some("tool_use")),
        );
        check(
            json!({ "chat_template": [named("a"), named("b")] }),
            None,
            Err(TemplateError::Missing),
        );
    }

    #[test]
    fn errors_name_their_cause() {
        let check = |source: &str, messages: &[Message], expect: TemplateError| {
            assert_eq!(render(source, messages), Err(expect), "{source}");
        };
        let user = [message("user", "hi")];
        let mistral = &FAMILIES[2].1;
        let twice = [message("user", "a"), message("user", "b")];
        check(
            mistral.template,
            &twice,
            TemplateError::Raised("Roles must alternate.".to_owned()),
        );
        check(
            "{% for %}",
            &user,
            TemplateError::Invalid(
                "syntax error: unexpected end of block, expected in (line 1)".to_owned(),
            ),
        );
        check(
            "\n{{ nothing.at.all }}",
            &user,
            TemplateError::Invalid("undefined value (line 2)".to_owned()),
        );
        check(
            "{{ 'a' | shout }}",
            &user,
            TemplateError::Invalid("unknown filter: shout (line 1)".to_owned()),
        );
        check(
            "",
            &[message("user", "a"), message("us er", "b")],
            TemplateError::Role { index: 1 },
        );
        check("", &[message("", "a")], TemplateError::Role { index: 0 });
        let many = vec![message("user", ""); MESSAGES_MAX + 1];
        check(
            "",
            &many,
            TemplateError::Limit("1025 messages, more than 1024".to_owned()),
        );
        let all_marks: String = ('\u{FDD0}'..='\u{FDEF}').collect();
        check(
            "",
            &[message("user", &all_marks)],
            TemplateError::Limit("messages use every noncharacter".to_owned()),
        );
    }
}
