//! Where the hub and its cache are, and the token: what the environment variables of
//! `huggingface_hub` say.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use ureq::http::{HeaderValue, Uri};

use crate::error::HubError;

/// Where the hub is and where its files are kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where models are kept: the folder with `models--org--name` in it.
    pub cache: PathBuf,
    /// Whether nothing may be downloaded.
    pub offline: bool,
    pub(crate) endpoint: Endpoint,
    pub(crate) token: Option<Token>,
    /// A file of certificates to trust in place of the built-in ones.
    pub(crate) certificates: Option<PathBuf>,
}

/// The hub's address. What follows it begins with a slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint(String);

/// What the hub knows us by. It prints as nothing.
#[derive(Clone)]
pub(crate) struct Token(HeaderValue);

impl Settings {
    /// The default settings with the cache at `cache`.
    pub fn with_cache(cache: PathBuf) -> Self {
        Self {
            cache,
            offline: false,
            endpoint: Endpoint(ENDPOINT.to_owned()),
            token: None,
            certificates: None,
        }
    }

    /// The hub's address.
    pub fn endpoint(&self) -> &str {
        self.endpoint.as_str()
    }

    /// What the environment says; `variable` looks one up. An empty variable is none.
    pub fn from_variables(
        variable: impl Fn(&str) -> Option<OsString>,
        cache: Option<PathBuf>,
    ) -> Result<Self, HubError> {
        let variables = Variables(&variable);
        let home = variables.hub_home();
        let cache = cache
            .or_else(|| variables.path("HF_HUB_CACHE"))
            .or_else(|| variables.path("HUGGINGFACE_HUB_CACHE"))
            .unwrap_or_else(|| home.join("hub"));
        Ok(Self {
            cache,
            offline: variables.flag("HF_HUB_OFFLINE") || variables.flag("TRANSFORMERS_OFFLINE"),
            endpoint: match variables.text("HF_ENDPOINT")? {
                Some(text) => Endpoint::parse(&text)?,
                None => Endpoint(ENDPOINT.to_owned()),
            },
            token: variables.token(&home)?,
            certificates: variables
                .path("SSL_CERT_FILE")
                .or_else(|| variables.path("REQUESTS_CA_BUNDLE")),
        })
    }
}

impl Endpoint {
    fn parse(text: &str) -> Result<Self, HubError> {
        let wrong = |message| HubError::Variable {
            name: "HF_ENDPOINT",
            message,
        };
        let uri: Uri = text.parse().map_err(|_| wrong("is no address"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(wrong("must begin with https:// or http://"));
        }
        if uri.authority().is_none_or(|it| it.as_str().contains('@')) {
            return Err(wrong("must have a host and no password; use HF_TOKEN"));
        }
        if uri.query().is_some() {
            return Err(wrong("must have no query"));
        }
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Token {
    fn parse(name: &'static str, text: &str) -> Result<Self, HubError> {
        let mut value =
            HeaderValue::from_str(&format!("Bearer {text}")).map_err(|_| HubError::Variable {
                name,
                message: "holds something that no token has",
            })?;
        value.set_sensitive(true);
        Ok(Self(value))
    }

    /// The value of the header `authorization`.
    pub(crate) fn header(&self) -> &HeaderValue {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

struct Variables<'a>(&'a dyn Fn(&str) -> Option<OsString>);

impl Variables<'_> {
    fn path(&self, name: &str) -> Option<PathBuf> {
        let value = (self.0)(name).filter(|value| !value.is_empty())?;
        let path = PathBuf::from(value);
        match (path.strip_prefix("~"), (self.0)("HOME")) {
            (Ok(rest), Some(home)) => Some(Path::new(&home).join(rest)),
            _ => Some(path),
        }
    }

    fn text(&self, name: &'static str) -> Result<Option<String>, HubError> {
        let Some(value) = (self.0)(name) else {
            return Ok(None);
        };
        let message = "is not UTF-8";
        let text = value
            .into_string()
            .map_err(|_| HubError::Variable { name, message })?;
        Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty()))
    }

    fn flag(&self, name: &str) -> bool {
        let value = (self.0)(name).unwrap_or_default();
        let value = value.to_string_lossy().to_ascii_uppercase();
        matches!(value.as_str(), "1" | "ON" | "YES" | "TRUE")
    }

    fn hub_home(&self) -> PathBuf {
        self.path("HF_HOME").unwrap_or_else(|| {
            self.path("XDG_CACHE_HOME")
                .unwrap_or_else(|| self.path("HOME").unwrap_or_default().join(".cache"))
                .join("huggingface")
        })
    }

    fn token(&self, home: &Path) -> Result<Option<Token>, HubError> {
        if self.flag("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            return Ok(None);
        }
        for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
            if let Some(text) = self.text(name)? {
                return Token::parse(name, &text).map(Some);
            }
        }
        let name = "HF_TOKEN_PATH";
        let told = self.path(name);
        let path = told.clone().unwrap_or_else(|| home.join("token"));
        match std::fs::read_to_string(&path) {
            Ok(text) if text.trim().is_empty() => Ok(None),
            Ok(text) => Token::parse(name, text.trim()).map(Some),
            Err(_) if told.is_none() => Ok(None),
            Err(error) => Err(HubError::io(&path, error)),
        }
    }
}

const ENDPOINT: &str = "https://huggingface.co";

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<Settings, HubError> {
        let find = |name: &str| {
            let pair = variables.iter().find(|(key, _)| *key == name)?;
            Some(OsString::from(pair.1))
        };
        Settings::from_variables(find, None)
    }

    #[test]
    fn the_cache_is_where_huggingface_hub_has_it() {
        let cache = |variables: &[(&str, &str)]| settings(variables).unwrap().cache;
        let home = ("HOME", "/home/a");
        assert_eq!(cache(&[home]), Path::new("/home/a/.cache/huggingface/hub"));
        assert_eq!(
            cache(&[home, ("XDG_CACHE_HOME", "/x")]),
            Path::new("/x/huggingface/hub")
        );
        assert_eq!(cache(&[home, ("HF_HOME", "/h")]), Path::new("/h/hub"));
        assert_eq!(
            cache(&[home, ("HF_HOME", "~/h")]),
            Path::new("/home/a/h/hub")
        );
        let all = [
            home,
            ("HF_HOME", "/h"),
            ("HUGGINGFACE_HUB_CACHE", "/old"),
            ("HF_HUB_CACHE", "/new"),
        ];
        assert_eq!(cache(&all), Path::new("/new"));
        assert_eq!(cache(&all[..3]), Path::new("/old"));
        let flag = Settings::from_variables(|_| Some("/v".into()), Some("/flag".into()));
        // HF_ENDPOINT=/v is refused before the cache could matter.
        assert!(flag.is_err());
    }

    #[test]
    fn endpoints_are_addresses_without_secrets() {
        let endpoint =
            |text: &str| settings(&[("HF_ENDPOINT", text)]).map(|s| s.endpoint.as_str().to_owned());
        assert_eq!(endpoint("").unwrap(), "https://huggingface.co");
        assert_eq!(
            endpoint("https://mirror.example/hf/").unwrap(),
            "https://mirror.example/hf"
        );
        for wrong in [
            "mirror.example",
            "ftp://mirror.example",
            "https://user:canary@mirror.example",
            "https://mirror.example/?q=canary",
            "https://",
        ] {
            let error = endpoint(wrong).unwrap_err();
            assert_eq!(error.exit_code(), 78);
            assert!(error.to_string().starts_with("HF_ENDPOINT: "), "{error}");
            assert!(!error.to_string().contains("canary"), "{error}");
        }
    }

    #[test]
    fn tokens_are_found_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "hf_canary_file\n").unwrap();
        let home = folder.path().to_str().unwrap();
        let token = |variables: &[(&str, &str)]| {
            let settings = settings(variables).unwrap();
            assert!(!format!("{settings:?}").contains("canary"));
            let token = settings.token?;
            Some(token.header().to_str().unwrap().to_owned())
        };
        assert_eq!(token(&[]), None);
        let file = Some("Bearer hf_canary_file".to_owned());
        assert_eq!(token(&[("HF_HOME", home)]), file);
        let path = format!("{home}/token");
        assert_eq!(token(&[("HF_TOKEN_PATH", &path)]), file);
        let both = [("HF_HOME", home), ("HF_TOKEN", " hf_canary_env\n")];
        assert_eq!(token(&both), Some("Bearer hf_canary_env".to_owned()));
        let off = [("HF_HOME", home), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")];
        assert_eq!(token(&off), None);

        let error = settings(&[("HF_TOKEN", "hf\ncanary")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "HF_TOKEN: holds something that no token has"
        );
        let error = settings(&[("HF_TOKEN_PATH", "/none")]).unwrap_err();
        assert_eq!(error.exit_code(), 74);
    }

    #[test]
    fn offline_is_a_truth_as_python_reads_it() {
        for (value, offline) in [("1", true), ("True", true), ("0", false), ("", false)] {
            assert_eq!(
                settings(&[("HF_HUB_OFFLINE", value)]).unwrap().offline,
                offline,
                "{value}"
            );
        }
    }
}
