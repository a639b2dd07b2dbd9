//! The command line as typed; `config` resolves it.
//!
//! Flags stand in one small struct for each purpose. What all have in common, their environment
//! variables above all, is added to the whole command in one place, [`command`]. The values of a
//! configuration file become the defaults of the flags.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

pub mod batching;
pub mod configuration;
pub mod file;
pub mod foreign;
pub mod health;
pub mod inspect;
pub mod limits;
pub mod listener;
pub mod model;
pub mod observability;
pub mod security;
pub mod settings;
pub mod units;

/// What the user typed. [`Args::read`] reads it: the plain parser of this type knows no environment.
#[derive(Debug, Parser)]
#[command(name = "paternoster", version, max_term_width = 100)]
#[command(about = "Serves language models and embedding models over gRPC.")]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do. `crate::commands` does it.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve models; without --model-id the built-in demo models.
    Serve(Box<ServeArgs>),
    /// Ask a running server for its health: exits with 0 if it is SERVING, 1 if there is no such
    /// address, 2 if it cannot be reached, 3 if it does not answer, 4 if it is not SERVING.
    Health(health::HealthArgs),
    /// Put a running server under load, and measure its answers.
    Bench(Box<::load::args::BenchArgs>),
    /// Say what servers would do under a load, by simulation.
    Simulate(Box<::simulator::args::SimulateArgs>),
    /// Download a model of the Hugging Face hub, and print its folder.
    #[cfg(feature = "hub")]
    Download(inspect::DownloadArgs),
    /// Hash the files of a model, in the cache or in a folder, and compare with what is known of them:
    /// exits with 0 if all weights are good, 65 if a file is bad, 78 if no hash of weights is known.
    #[cfg(feature = "hub")]
    Verify(inspect::VerifyArgs),
    /// Say what a model is, what memory it takes with these flags, and whether this machine has it.
    Info(Box<inspect::InfoArgs>),
}

/// How to serve. Every flag is also an environment variable of the same name in capitals.
#[derive(Clone, Debug, clap::Args)]
pub struct ServeArgs {
    /// Which models.
    #[command(flatten)]
    pub models: model::ModelArgs,
    /// How steps are bounded.
    #[command(flatten)]
    pub batching: batching::BatchingArgs,
    /// Where to listen.
    #[command(flatten)]
    pub listener: listener::ListenerArgs,
    /// What requests may cost.
    #[command(flatten)]
    pub limits: limits::LimitArgs,
    /// Who may do what.
    #[command(flatten)]
    pub security: security::SecurityArgs,
    /// Logs and metrics.
    #[command(flatten)]
    pub observability: observability::ObservabilityArgs,
    /// Where the configuration comes from.
    #[command(flatten)]
    pub configuration: configuration::ConfigurationArgs,
    /// What is in effect and who said so.
    #[arg(skip)]
    pub settings: Vec<settings::Setting>,
}

/// Why what was typed cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The command line or the environment; or only its help was asked for.
    #[error("{0}")]
    Typed(#[from] clap::Error),
    /// The configuration file.
    #[error("{0}")]
    File(#[from] file::FileError),
}

impl Args {
    /// Reads a command line, whose first word is the program, the environment and the configuration
    /// file that they name.
    pub fn read<T>(words: impl IntoIterator<Item = T>) -> Result<Self, ReadError>
    where
        T: Into<OsString> + Clone,
    {
        let words: Vec<OsString> = words.into_iter().map(Into::into).collect();
        let mut command = command();
        let mut matches = typed(&mut command, &words)?;
        let mut values = file::Values::new();
        let named = matches.subcommand_matches("serve");
        let named = named.and_then(|serve| serve.get_one::<PathBuf>("config"));
        if let Some(path) = named {
            values = file::read(path, serve(&command))?;
            command = command.mut_subcommand("serve", |serve| with_defaults(serve, &values));
            matches = typed(&mut command, &words)?;
        }
        let settings = matches
            .subcommand_matches("serve")
            .map(|matches| settings::collect(serve(&command), matches, &values));
        let mut args =
            Self::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))?;
        if let (Command::Serve(args), Some(settings)) = (&mut args.command, settings) {
            args.settings = settings;
        }
        Ok(args)
    }
}

fn typed(command: &mut clap::Command, words: &[OsString]) -> Result<clap::ArgMatches, clap::Error> {
    command
        .try_get_matches_from_mut(words)
        .map_err(|error| foreign::explain(error, command))
}

fn with_defaults(serve: clap::Command, values: &file::Values) -> clap::Command {
    serve.mut_args(
        |arg| match arg.get_long().and_then(|long| values.get(long)) {
            Some(values) => arg.default_values(values.clone()),
            None => arg,
        },
    )
}

/// The flags of `serve`.
#[expect(clippy::expect_used, reason = "the derive above makes it")]
pub fn serve(command: &clap::Command) -> &clap::Command {
    command.find_subcommand("serve").expect("a sub-command")
}

/// The command with what its flags have in common. Those of `serve` read the environment, and so does
/// every flag of another sub-command that has the name of one of them.
pub fn command() -> clap::Command {
    let command = Args::command();
    let variables: Vec<(String, String)> = serve(&command)
        .get_arguments()
        .filter_map(|arg| {
            let long = arg.get_long()?;
            Some((long.to_owned(), variable(long)?))
        })
        .collect();
    let with_variable = |arg: Arg| {
        let of = |arg: &Arg| {
            let (_, variable) = variables
                .iter()
                .find(|(long, _)| arg.get_long() == Some(long))?;
            Some(variable.clone())
        };
        match of(&arg) {
            // Values are hidden in the help: some are secrets.
            Some(variable) => arg.env(variable).hide_env_values(true),
            None => arg,
        }
    };
    command.mut_subcommands(|sub| sub.mut_args(|arg| with_variable(switch(arg))))
}

/// The environment variable of a flag of `serve`.
fn variable(long: &str) -> Option<String> {
    match long {
        // These names alone say too little, or mean something else in many environments.
        "hostname" => Some("PATERNOSTER_HOSTNAME".to_owned()),
        "config" => Some("PATERNOSTER_CONFIG".to_owned()),
        // A thing to do, not a setting.
        "check-config" => None,
        _ => Some(long.replace('-', "_").to_uppercase()),
    }
}

/// A switch also takes a value, so that a flag can undo what the environment sets.
fn switch(arg: Arg) -> Arg {
    if !matches!(arg.get_action(), ArgAction::SetTrue) {
        return arg;
    }
    arg.action(ArgAction::Set)
        .num_args(0..=1)
        .value_name("true|false")
        .hide_possible_values(true)
        .default_missing_value("true")
        .default_value("false")
        .value_parser(clap::builder::BoolishValueParser::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_names_every_flag() {
        let mut command = command().term_width(100);
        let serve = command.find_subcommand_mut("serve").unwrap();
        insta::assert_snapshot!("serve_help", serve.render_long_help());
        let health = command.find_subcommand_mut("health").unwrap();
        insta::assert_snapshot!("health_help", health.render_long_help());
        let info = command.find_subcommand_mut("info").unwrap();
        insta::assert_snapshot!("info_help", info.render_long_help());
    }

    #[test]
    fn the_flags_agree_with_each_other() {
        command().debug_assert();
    }

    #[test]
    fn a_probe_asks_the_port_of_its_environment() {
        let command = command();
        let health = command.find_subcommand("health").unwrap();
        let port = health.get_arguments().find(|arg| arg.get_id() == "port");
        assert_eq!(port.unwrap().get_env(), Some("PORT".as_ref()));
        let address = |flags: &[&str]| {
            let typed = ["paternoster", "health"].iter().chain(flags);
            let Command::Health(args) = Args::read(typed).unwrap().command else {
                panic!("not health");
            };
            args.address()
        };
        assert_eq!(address(&["--port", "8080"]), "127.0.0.1:8080");
        assert_eq!(address(&["--port", "8080", "--addr", "a:1"]), "a:1");
        let plain = ["--port", "8080", "--health-port", "9"];
        assert_eq!(address(&plain), "127.0.0.1:9");
        let tls = [&plain[..], &["--tls-ca", "ca.pem"]].concat();
        assert_eq!(address(&tls), "127.0.0.1:8080");
        let port = |name| health.get_arguments().find(|arg| arg.get_id() == name);
        let variable = port("health_port").unwrap().get_env();
        assert_eq!(variable, Some("HEALTH_PORT".as_ref()));
    }

    #[test]
    fn nothing_may_be_bounded_by_zero() {
        let message = |flag: &str, value: &str| {
            let typed = ["paternoster", "serve", flag, value];
            Args::read(typed).unwrap_err().to_string()
        };
        for flag in [
            "--max-waiting-requests",
            "--max-concurrent-requests",
            "--max-connections",
            "--max-input-bytes",
            "--max-message-bytes",
            "--max-total-tokens",
            "--kv-cache-size",
            "--threads",
            "--tokenization-workers",
            "--stream-stall-timeout",
            "--request-timeout-max",
            "--step-timeout",
            "--start-timeout",
        ] {
            let message = message(flag, "0");
            let line = message.lines().next().unwrap_or_default();
            assert!(line.starts_with("error: invalid value '0'"), "{line}");
            assert!(line.contains(flag), "{line}");
            assert!(
                line.contains(", 1 to ") || line.contains(", 1B to ") || line.contains(", 1ms to "),
                "{line}"
            );
        }
    }

    #[test]
    fn a_switch_can_be_turned_off() {
        let json = |flags: &[&str]| {
            let typed = ["paternoster", "serve"].iter().chain(flags);
            let Command::Serve(args) = Args::read(typed).unwrap().command else {
                panic!("not serve");
            };
            args.observability.json_output
        };
        assert!(!json(&[]));
        assert!(json(&["--json-output"]));
        assert!(json(&["--json-output=on"]));
        assert!(!json(&["--json-output", "false"]));
    }
}
