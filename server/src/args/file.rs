//! The configuration file: TOML whose keys are the long names of the flags, at the top or in a table
//! called like the purpose they have in the help. Each value is checked by the parser of its flag.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, Command};
use secrecy::SecretString;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::foreign;
use super::units::Expected;
use crate::security::KeyHash;

/// A file larger than this is none of ours.
const BYTES_MAX: u64 = 1 << 20;

/// The values of a file, by flag.
pub(super) type Values = BTreeMap<String, Vec<String>>;

/// What is wrong with a configuration file.
#[derive(Debug, thiserror::Error)]
#[error("{}{place}: {mistake}", .path.display())]
pub struct FileError {
    path: PathBuf,
    place: Place,
    mistake: Mistake,
}

/// A line, if one is known.
#[derive(Clone, Copy, Debug)]
struct Place(Option<usize>);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(line) => write!(f, ":{line}"),
            None => Ok(()),
        }
    }
}

/// What is wrong.
#[derive(Debug, thiserror::Error)]
enum Mistake {
    #[error("{0}")]
    Unreadable(#[from] std::io::Error),
    #[error("has more than {BYTES_MAX} bytes")]
    TooLarge,
    #[error("is not UTF-8")]
    NotText,
    #[error("is not TOML: {0}")]
    Syntax(String),
    #[error("{key}: {message}")]
    Key { key: String, message: String },
}

/// Reads a file against the flags of `serve`.
pub(super) fn read(path: &Path, serve: &Command) -> Result<Values, FileError> {
    let error = |(line, mistake)| FileError {
        path: path.to_owned(),
        place: Place(line),
        mistake,
    };
    let text = text(path).map_err(|mistake| error((None, mistake)))?;
    parse(&text, serve).map_err(|(offset, mistake)| {
        let line = offset.map(|offset: usize| {
            let before = text.get(..offset).unwrap_or_default();
            before.matches('\n').count() + 1
        });
        error((line, mistake))
    })
}

fn text(path: &Path) -> Result<String, Mistake> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(Mistake::TooLarge);
    }
    String::from_utf8(bytes).map_err(|_| Mistake::NotText)
}

/// A mistake and where it is.
type Found = (Option<usize>, Mistake);

fn parse(text: &str, serve: &Command) -> Result<Values, Found> {
    let top = DeTable::parse(text).map_err(|error| {
        let offset = error.span().map(|span| span.start);
        (offset, Mistake::Syntax(error.message().to_owned()))
    })?;
    let mut reader = Reader {
        serve,
        values: Values::new(),
    };
    for (key, value) in top.get_ref() {
        let name: &str = key.get_ref();
        match value.get_ref() {
            DeValue::Table(table) if reader.is_purpose(name) => {
                for (key, value) in table {
                    reader.take(Some(name), key.get_ref(), value)?;
                }
            }
            _ => reader.take(None, name, value)?,
        }
    }
    Ok(reader.values)
}

struct Reader<'a> {
    serve: &'a Command,
    values: Values,
}

impl Reader<'_> {
    fn is_purpose(&self, name: &str) -> bool {
        self.serve
            .get_arguments()
            .any(|arg| purpose(arg).is_some_and(|purpose| purpose == name))
    }

    /// Takes one key, which stands in `table` or at the top.
    fn take(
        &mut self,
        table: Option<&str>,
        key: &str,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<(), Found> {
        let long = key.replace('_', "-");
        let wrong = |message: String| {
            let key = printable(key);
            (Some(value.span().start), Mistake::Key { key, message })
        };
        let arg = self.arg(&long).map_err(wrong)?;
        if let (Some(table), Some(purpose)) = (table, purpose(arg))
            && table != purpose
        {
            return Err(wrong(format!(
                "stands in [{table}] and belongs in [{purpose}]"
            )));
        }
        let values = words(arg, value.get_ref()).map_err(wrong)?;
        values
            .iter()
            .try_for_each(|value| check(arg, value))
            .map_err(wrong)?;
        match self.values.insert(long, values) {
            None => Ok(()),
            Some(_) => Err(wrong("is given twice".to_owned())),
        }
    }

    fn arg(&self, long: &str) -> Result<&Arg, String> {
        let flags = || self.serve.get_arguments().filter(|arg| is_key(arg));
        let names = |arg: &Arg| -> Vec<String> {
            let aliases = arg.get_visible_aliases().unwrap_or_default();
            let names = arg.get_long().into_iter().chain(aliases);
            names.map(str::to_owned).collect()
        };
        // By its own name alone: a key under two names would be given twice unseen.
        if let Some(arg) = flags().find(|arg| arg.get_long() == Some(long)) {
            return Ok(arg);
        }
        if let Some(arg) = flags().find(|arg| names(arg).iter().any(|name| name == long)) {
            let own = arg.get_long().unwrap_or_default();
            return Err(format!("is called {own} here"));
        }
        if let Some(advice) = foreign::advice(long) {
            return Err(advice.to_owned());
        }
        let likely = flags()
            .filter_map(Arg::get_long)
            .map(|known| (strsim::jaro_winkler(known, long), known))
            .filter(|(likeness, _)| *likeness > 0.8)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        Err(match likely {
            Some((_, known)) => format!("is not a key; did you mean {known}?"),
            None => {
                "is not a key; `paternoster serve --help` lists the flags, whose names are the \
                     keys"
                    .to_owned()
            }
        })
    }
}

/// The table a flag may stand in: its heading in the help.
pub(super) fn purpose(arg: &Arg) -> Option<String> {
    arg.get_help_heading().map(str::to_lowercase)
}

/// Whether a flag is also a key: all are but those that say where the configuration is.
pub(super) fn is_key(arg: &Arg) -> bool {
    purpose(arg).is_some_and(|purpose| purpose != "configuration")
}

/// The value as it would be typed.
fn words(arg: &Arg, value: &DeValue<'_>) -> Result<Vec<String>, String> {
    match value {
        DeValue::Array(items) if matches!(arg.get_action(), ArgAction::Append) => {
            items.iter().map(|item| word(arg, item.get_ref())).collect()
        }
        one => word(arg, one).map(|word| vec![word]),
    }
}

fn word(arg: &Arg, value: &DeValue<'_>) -> Result<String, String> {
    let kind = Kind::of(arg);
    let word = match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) if kind == Kind::Other => {
            let number = i128::from_str_radix(number.as_str(), number.radix());
            number.ok().map(|number| number.to_string())
        }
        DeValue::Boolean(value) if kind == Kind::Switch => Some(value.to_string()),
        _ => None,
    };
    let Some(word) = word else {
        let expected = match kind {
            Kind::Text => "must be a string".to_owned(),
            Kind::Switch => "must be true or false".to_owned(),
            Kind::Other => expected(arg),
        };
        return Err(format!("{expected}, not {}", described(value)));
    };
    if word.contains('\0') {
        return Err("holds a NUL".to_owned());
    }
    Ok(word)
}

fn described(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// What kind of value a flag takes, as far as TOML tells kinds apart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Switch,
    Other,
}

impl Kind {
    fn of(arg: &Arg) -> Self {
        let parser = arg.get_value_parser();
        let is = |id: TypeId| parser.type_id() == id;
        if is(TypeId::of::<bool>()) {
            Self::Switch
        } else if is_secret(arg) || is(TypeId::of::<String>()) || is(TypeId::of::<PathBuf>()) {
            Self::Text
        } else {
            Self::Other
        }
    }
}

/// Whether nobody may read a flag's value.
pub(super) fn is_secret(arg: &Arg) -> bool {
    let id = arg.get_value_parser().type_id();
    id == TypeId::of::<SecretString>() || id == TypeId::of::<KeyHash>()
}

/// Checks one value by the parser of its flag alone.
fn check(arg: &Arg, value: &str) -> Result<(), String> {
    match try_value(arg, value) {
        Ok(()) => Ok(()),
        Err(error) => Err(match range(&error) {
            Some(expected) => expected.to_string(),
            None => expected(arg),
        }),
    }
}

fn try_value(arg: &Arg, value: &str) -> Result<(), clap::Error> {
    let parser: &ValueParser = arg.get_value_parser();
    let alone = Arg::new("value")
        .long("value")
        .value_parser(parser.clone())
        .num_args(1);
    let command = Command::new("file").no_binary_name(true).arg(alone);
    let typed = [format!("--value={value}")];
    command.try_get_matches_from(typed).map(|_| ())
}

fn range(error: &clap::Error) -> Option<&Expected> {
    std::error::Error::source(error)?.downcast_ref()
}

/// What a flag takes, as `must be ...`.
fn expected(arg: &Arg) -> String {
    let possible: Vec<String> = arg
        .get_possible_values()
        .iter()
        .map(|value| value.get_name().to_owned())
        .collect();
    if !possible.is_empty() {
        return format!("must be one of {}", possible.join(", "));
    }
    // No range contains this, so that the range is told.
    match try_value(arg, "?") {
        Err(error) => match (range(&error), error.get(ContextKind::ValidValue)) {
            (Some(expected), _) => expected.to_string(),
            (None, Some(ContextValue::Strings(valid))) => {
                format!("must be one of {}", valid.join(", "))
            }
            _ => "has a value that the flag does not take".to_owned(),
        },
        Ok(()) => "must be a string".to_owned(),
    }
}

/// The values a flag takes, for documents: a range or a list.
pub fn allowed(arg: &Arg) -> Option<String> {
    if Kind::of(arg) == Kind::Switch {
        return Some("true, false".to_owned());
    }
    let possible = arg.get_possible_values();
    if !possible.is_empty() {
        let names: Vec<&str> = possible
            .iter()
            .map(clap::builder::PossibleValue::get_name)
            .collect();
        return Some(names.join(", "));
    }
    let error = try_value(arg, "?").err()?;
    range(&error).map(|expected| expected.allowed().to_owned())
}

/// A key as it can be shown: short, without control characters.
fn printable(key: &str) -> String {
    let shown: String = key.chars().take(64).flat_map(char::escape_debug).collect();
    match key.chars().nth(64) {
        Some(_) => format!("{shown}..."),
        None => shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Values, String> {
        let command = super::super::command();
        parse(text, super::super::serve(&command)).map_err(|(_, mistake)| mistake.to_string())
    }

    #[test]
    fn keys_are_flags_at_the_top_or_under_their_purpose() {
        let values = parsed(
            "port = 8080\n\
             max_batch_size = 0x20\n\
             json-output = true\n\
             [models]\n\
             model-id = ['/a', 'b=/b']\n\
             served-model-name = 'x'\n\
             [limits]\n\
             drain-timeout = '5s'\n\
             limits.max-input-bytes = 1_024\n",
        );
        // A dotted key under a table is a key of that table.
        assert_eq!(
            values.unwrap_err(),
            "limits: is not a key; `paternoster serve --help` lists the flags, whose names are the keys"
        );
        let values = parsed(
            "limits.max-input-bytes = 1_024\n\
             max_batch_size = 0x20\n\
             json-output = true\n\
             [models]\n\
             model-id = ['/a', 'b=/b']\n\
             [server]\n\
             hostname = '::1'\n",
        );
        let expected = [
            ("hostname", vec!["::1"]),
            ("json-output", vec!["true"]),
            ("max-batch-size", vec!["32"]),
            ("max-input-bytes", vec!["1024"]),
            ("model-id", vec!["/a", "b=/b"]),
        ];
        let values = values.unwrap();
        let found: Vec<(&str, Vec<&str>)> = values
            .iter()
            .map(|(key, words)| (key.as_str(), words.iter().map(String::as_str).collect()))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn mistakes_name_their_key_and_what_it_takes() {
        for (text, message) in [
            ("port = 65536", "port: must be a whole number, 0 to 65535"),
            (
                "port = true",
                "port: must be a whole number, 0 to 65535, not a boolean",
            ),
            (
                "port = [1]",
                "port: must be a whole number, 0 to 65535, not a list",
            ),
            (
                "port = 1.5",
                "port: must be a whole number, 0 to 65535, not a float",
            ),
            ("hostname = 1", "hostname: must be a string, not an integer"),
            ("hostname = \"a\\u0000\"", "hostname: holds a NUL"),
            (
                "json-output = 1",
                "json-output: must be true or false, not an integer",
            ),
            (
                "dtype = 'f8'",
                "dtype: must be one of float32, float16, bfloat16",
            ),
            (
                "max-bach-size = 1",
                "max-bach-size: is not a key; did you mean max-batch-size?",
            ),
            (
                "payload-limit = 1",
                "payload-limit: is called max-message-bytes here",
            ),
            (
                "max-message-bytes = '9GB'",
                "max-message-bytes: must be bytes such as 512MiB, 1B to 1GiB",
            ),
            (
                "quantize = 'awq'",
                "quantize: weights are served as they are stored, or as --dtype says",
            ),
            (
                "[server]\ndtype = 'f32'",
                "dtype: stands in [server] and belongs in [models]",
            ),
            ("port = 1\n[server]\nport = 2", "port: is given twice"),
            (
                "max-batch-size = 1\nmax_batch_size = 2",
                "max_batch_size: is given twice",
            ),
            ("config = 'x'", "config: is not a key"),
            ("port = 1\nport = 2", "is not TOML: duplicate key"),
            (
                "model-id = [['a']]",
                "model-id: must be a string, not a list",
            ),
            ("\"a\\u001b[31m\" = 1", "a\\u{1b}[31m: is not a key"),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(error.starts_with(message), "{text}: {error}");
        }
    }

    #[test]
    fn a_file_is_bounded_and_text() {
        let folder = tempfile::tempdir().unwrap();
        let command = super::super::command();
        let serve = super::super::serve(&command);
        let message = |bytes: &[u8]| {
            let path = folder.path().join("p.toml");
            std::fs::write(&path, bytes).unwrap();
            let error = read(&path, serve).unwrap_err().to_string();
            error.replace(path.to_str().unwrap(), "p.toml")
        };
        let large = vec![b'\n'; BYTES_MAX as usize + 1];
        assert_eq!(message(&large), "p.toml: has more than 1048576 bytes");
        assert_eq!(message(b"\xff\xfe"), "p.toml: is not UTF-8");
        assert_eq!(
            message(b"\n\nport = 70000"),
            "p.toml:3: port: must be a whole number, 0 to 65535"
        );
        let missing = read(&folder.path().join("none"), serve).unwrap_err();
        assert!(
            missing.to_string().contains("none: No such file"),
            "{missing}"
        );
    }
}
