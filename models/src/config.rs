//! Reads `config.json` key by key; every complaint names the file, the key and the value.

use serde_json::{Map, Value};

use crate::load::LoadError;

/// One JSON object of a configuration file.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    file: String,
    /// What stands before a key in messages: `rope_scaling.` inside that object.
    prefix: String,
    values: Map<String, Value>,
}

impl Config {
    /// Parses the bytes of `file`, which must hold an object.
    pub(crate) fn parse(file: &str, bytes: &[u8]) -> Result<Self, LoadError> {
        let broken = |message: String| LoadError::Config {
            file: file.to_owned(),
            message,
        };
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(values)) => Ok(Self {
                file: file.to_owned(),
                prefix: String::new(),
                values,
            }),
            Ok(other) => Err(broken(format!(
                "expected an object, found {}",
                brief(&other)
            ))),
            Err(error) => Err(broken(error.to_string())),
        }
    }

    /// Parses the bytes of `file`, which must hold a list of objects.
    pub(crate) fn parse_list(file: &str, bytes: &[u8]) -> Result<Vec<Self>, LoadError> {
        let broken = |message: String| LoadError::Config {
            file: file.to_owned(),
            message,
        };
        let list = match serde_json::from_slice(bytes) {
            Ok(Value::Array(list)) => list,
            Ok(other) => {
                let found = brief(&other);
                return Err(broken(format!("expected a list of objects, found {found}")));
            }
            Err(error) => return Err(broken(error.to_string())),
        };
        let object = |(index, value)| match value {
            Value::Object(values) => Ok(Self {
                file: file.to_owned(),
                prefix: format!("[{index}]."),
                values,
            }),
            other => {
                let found = brief(&other);
                Err(broken(format!(
                    "[{index}]: expected an object, found {found}"
                )))
            }
        };
        list.into_iter().enumerate().map(object).collect()
    }

    /// The value of a key; null counts as absent.
    pub(crate) fn value(&self, key: &str) -> Option<&Value> {
        self.values.get(key).filter(|value| !value.is_null())
    }

    /// All keys and values.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.values.iter()
    }

    /// Whether the key is there, be it null.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// A whole number in `1..=max`, which must be there.
    pub(crate) fn count(&self, key: &str, max: u32) -> Result<u32, LoadError> {
        self.count_optional(key, max)?
            .ok_or_else(|| self.missing(key))
    }

    /// A whole number in `1..=max`, or nothing.
    pub(crate) fn count_optional(&self, key: &str, max: u32) -> Result<Option<u32>, LoadError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        match value.as_u64().and_then(|number| u32::try_from(number).ok()) {
            Some(number) if (1..=max).contains(&number) => Ok(Some(number)),
            _ => Err(self.wrong(key, &format!("a whole number from 1 to {max}"))),
        }
    }

    /// A positive finite number, which must be there.
    pub(crate) fn positive(&self, key: &str) -> Result<f64, LoadError> {
        self.positive_optional(key)?
            .ok_or_else(|| self.missing(key))
    }

    /// A positive finite number, or nothing.
    pub(crate) fn positive_optional(&self, key: &str) -> Result<Option<f64>, LoadError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        match value.as_f64() {
            Some(number) if number.is_finite() && number > 0.0 => Ok(Some(number)),
            _ => Err(self.wrong(key, "a positive number")),
        }
    }

    /// True or false; `default` when absent.
    pub(crate) fn flag(&self, key: &str, default: bool) -> Result<bool, LoadError> {
        match self.value(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(self.wrong(key, "true or false")),
        }
    }

    /// A string, or nothing.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>, LoadError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(key, "a string")),
        }
    }

    /// A list of strings, or nothing.
    pub(crate) fn texts(&self, key: &str) -> Result<Option<Vec<&str>>, LoadError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        let texts = value
            .as_array()
            .map(|list| list.iter().map(Value::as_str).collect());
        match texts {
            Some(Some(texts)) => Ok(Some(texts)),
            _ => Err(self.wrong(key, "a list of strings")),
        }
    }

    /// One token id, a list of them, or nothing.
    pub(crate) fn tokens(&self, key: &str) -> Result<Option<Vec<u32>>, LoadError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        let token = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let tokens = match value {
            Value::Array(list) => list.iter().map(token).collect(),
            single => token(single).map(|id| vec![id]),
        };
        tokens
            .map(Some)
            .ok_or_else(|| self.wrong(key, "a token id or a list of them"))
    }

    /// An object inside this one, or nothing.
    pub(crate) fn object(&self, key: &str) -> Result<Option<Self>, LoadError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Object(values)) => Ok(Some(Self {
                file: self.file.clone(),
                prefix: format!("{}{key}.", self.prefix),
                values: values.clone(),
            })),
            Some(_) => Err(self.wrong(key, "an object")),
        }
    }

    /// Refuses any value of `key` but the allowed ones; absent is allowed.
    pub(crate) fn only(&self, key: &str, allowed: &[Value]) -> Result<(), LoadError> {
        match self.value(key) {
            Some(value) if !allowed.iter().any(|one| same(one, value)) => {
                Err(self.unsupported(key, allowed))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a key that is set: neither null nor false nor an empty list.
    pub(crate) fn without(&self, key: &str) -> Result<(), LoadError> {
        match self.value(key) {
            None | Some(Value::Bool(false)) => Ok(()),
            Some(Value::Array(list)) if list.is_empty() => Ok(()),
            Some(_) => Err(self.unsupported(key, &[])),
        }
    }

    /// The refusal of a value that is understood and not supported, and what would be.
    pub(crate) fn unsupported(&self, key: &str, allowed: &[Value]) -> LoadError {
        let found = self.value(key).map_or_else(|| "nothing".to_owned(), brief);
        let allowed: Vec<String> = allowed.iter().map(brief).collect();
        let instead = match allowed.as_slice() {
            [] => String::new(),
            _ => format!(" (only {})", allowed.join(" or ")),
        };
        let Self { file, prefix, .. } = self;
        LoadError::Unsupported(format!("{file}: {prefix}{key} = {found}{instead}"))
    }

    /// The complaint about a value that is not what it has to be.
    pub(crate) fn wrong(&self, key: &str, expected: &str) -> LoadError {
        let found = self.value(key).map_or_else(|| "nothing".to_owned(), brief);
        self.error(format!(
            "{}{key} = {found}: expected {expected}",
            self.prefix
        ))
    }

    /// The complaint about a key that is not there.
    pub(crate) fn missing(&self, key: &str) -> LoadError {
        self.error(format!("{}{key} is missing", self.prefix))
    }

    /// A complaint about this file in free words.
    pub(crate) fn error(&self, message: String) -> LoadError {
        LoadError::Config {
            file: self.file.clone(),
            message,
        }
    }
}

/// Equality in which 1 and 1.0 are the same number.
fn same(left: &Value, right: &Value) -> bool {
    match (left.as_f64(), right.as_f64()) {
        (Some(left), Some(right)) => left.to_bits() == right.to_bits(),
        _ => left == right,
    }
}

/// A value as it stands in the file, cut where it gets long.
fn brief(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(VALUE_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// 80: a message with a longer value does not fit one line of a log.
const VALUE_CHARS_MAX: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(text: &str) -> Config {
        Config::parse("config.json", text.as_bytes()).unwrap()
    }

    fn message<T: std::fmt::Debug>(result: Result<T, LoadError>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn complaints_name_file_key_and_value() {
        let config = config(
            r#"{"a": 0, "b": "x", "c": -1.5, "d": 1, "e": {"f": "g"}, "eos": [1, "2"], "n": null}"#,
        );
        assert_eq!(message(config.count("z", 9)), "config.json: z is missing");
        assert_eq!(message(config.count("n", 9)), "config.json: n is missing");
        assert_eq!(
            message(config.count("a", 9)),
            "config.json: a = 0: expected a whole number from 1 to 9"
        );
        assert_eq!(
            message(config.count("b", 9)),
            "config.json: b = \"x\": expected a whole number from 1 to 9"
        );
        assert_eq!(
            message(config.positive("c")),
            "config.json: c = -1.5: expected a positive number"
        );
        assert_eq!(
            message(config.flag("d", true)),
            "config.json: d = 1: expected true or false"
        );
        assert_eq!(
            message(config.tokens("eos")),
            "config.json: eos = [1,\"2\"]: expected a token id or a list of them"
        );
        let inner = config.object("e").unwrap().unwrap();
        assert_eq!(
            message(inner.only("f", &[json!("default"), json!("linear")])),
            "not supported: config.json: e.f = \"g\" (only \"default\" or \"linear\")"
        );
    }

    #[test]
    fn broken_files_are_errors() {
        for text in ["", "[1]", "{", "{\"a\": 1,}"] {
            assert!(
                Config::parse("config.json", text.as_bytes()).is_err(),
                "{text}"
            );
        }
    }

    #[test]
    fn whole_floats_equal_whole_numbers() {
        assert!(
            config(r#"{"partial_rotary_factor": 1}"#)
                .only("partial_rotary_factor", &[json!(1.0)])
                .is_ok()
        );
    }

    #[test]
    fn long_values_are_cut() {
        let text = format!(r#"{{"a": "{}"}}"#, "é".repeat(200));
        assert!(message(config(&text).flag("a", true)).len() < 250);
    }
}
