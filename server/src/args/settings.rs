//! What is in effect and who said so, for the log.

use std::fmt;

use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

use super::file::{self, Values};

/// One flag's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The flag's long name.
    pub flag: String,
    /// Its value as typed; a secret's is left out.
    pub value: String,
    /// Who said so.
    pub source: Source,
}

/// Who set a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flag,
    /// The environment.
    Environment,
    /// The configuration file.
    File,
    /// Nobody.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flag => "flag",
            Self::Environment => "env",
            Self::File => "file",
            Self::Default => "default",
        })
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.flag, self.value)?;
        match self.source {
            Source::Default => Ok(()),
            source => write!(f, " ({source})"),
        }
    }
}

/// What every flag of a command says.
pub(super) fn collect(command: &Command, matches: &ArgMatches, values: &Values) -> Vec<Setting> {
    command
        .get_arguments()
        .filter_map(|arg| {
            let flag = arg.get_long()?;
            let id = arg.get_id().as_str();
            let source = match matches.value_source(id)? {
                ValueSource::CommandLine => Source::Flag,
                ValueSource::EnvVariable => Source::Environment,
                _ if values.contains_key(flag) => Source::File,
                _ => Source::Default,
            };
            let value = if file::is_secret(arg) {
                "(secret)".to_owned()
            } else {
                let raw = matches.get_raw(id).into_iter().flatten();
                let words: Vec<_> = raw.map(|word| word.to_string_lossy()).collect();
                words.join(",")
            };
            Some(Setting {
                flag: flag.to_owned(),
                value,
                source,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::Arg;
    use clap::builder::ValueParser;
    use secrecy::SecretString;

    use super::*;
    use crate::args::{Args, Command as Typed};

    /// Stands in no output, whatever is printed.
    const CANARY: &str = "canary-3f9b";

    #[test]
    fn every_value_says_who_set_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.toml");
        std::fs::write(&path, "max-batch-size = 9\nmax-batch-tokens = 7\n").unwrap();
        let path = path.to_str().unwrap();
        let words = [
            "paternoster",
            "serve",
            "--config",
            path,
            "--max-batch-size",
            "8",
        ];
        let Typed::Serve(args) = Args::read(words).unwrap().command else {
            panic!("not serve");
        };
        let shown = |flag: &str| {
            let setting = args.settings.iter().find(|setting| setting.flag == flag);
            setting.unwrap().to_string()
        };
        assert_eq!(args.batching.max_batch_size, 8);
        assert_eq!(args.batching.max_batch_tokens, 7);
        assert_eq!(shown("max-batch-size"), "max-batch-size=8 (flag)");
        assert_eq!(shown("max-batch-tokens"), "max-batch-tokens=7 (file)");
        assert_eq!(
            shown("max-concurrent-requests"),
            "max-concurrent-requests=1024"
        );
    }

    #[test]
    fn a_secret_is_not_shown() {
        let secret = ValueParser::from(|text: &str| Ok::<_, String>(SecretString::from(text)));
        let arg = Arg::new("key").long("key").value_parser(secret);
        let command = Command::new("c").no_binary_name(true).arg(arg);
        let matches = command.clone().get_matches_from(["--key", CANARY]);
        let settings = collect(&command, &matches, &Values::new());
        assert_eq!(settings[0].to_string(), "key=(secret) (flag)");
    }

    #[test]
    fn no_secret_of_any_flag_is_printed() {
        let command = crate::args::command();
        for arg in crate::args::serve(&command).get_arguments() {
            if !file::is_secret(arg) {
                continue;
            }
            let flag = format!("--{}={CANARY}", arg.get_long().unwrap());
            let args = Args::read(["paternoster", "serve", &flag]).unwrap();
            assert!(!format!("{args:?}").contains(CANARY), "{flag}");
        }
    }
}
