//! Flags: who may do what, and what is encrypted.

use std::path::PathBuf;

use super::units::whole;
use crate::security::{Exposure, KeyHash};

/// Who may do what.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Security")]
pub struct SecurityArgs {
    /// The server's certificate and those that lead to it, PEM; with it --port speaks TLS only. This
    /// file, the next two and --api-keys-file are read again when they change and at SIGHUP.
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// The private key of --tls-cert, PEM.
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Certificates that those of clients have to lead to, PEM; with it a client needs one.
    #[arg(long, value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
    /// A key that clients must have, as "authorization: Bearer KEY"; may be given several times. Each
    /// is a tenant of its own, api-key-1 and so on, that may work and not steer.
    #[arg(long, value_delimiter = ',', value_name = "KEY", value_parser = key)]
    pub api_key: Vec<KeyHash>,
    /// A file with keys, their rights and the quotas of tenants, TOML.
    #[arg(long, value_name = "FILE")]
    pub api_keys_file: Option<PathBuf>,
    /// Tokens of prompts and outputs that a tenant may use in a minute which --api-keys-file does not
    /// list; default: as many as there are. This and the next two need keys.
    #[arg(long, value_name = "TOKENS", value_parser = whole::<u64>(1..=1_000_000_000_000))]
    pub tenant_tokens_per_minute: Option<u64>,
    /// Calls, and requests of streams, that such a tenant may make in a minute; default: any number.
    #[arg(long, value_name = "REQUESTS", value_parser = whole::<u64>(1..=1_000_000_000_000))]
    pub tenant_requests_per_minute: Option<u64>,
    /// Calls that such a tenant may have at once; default: any number.
    #[arg(long, value_name = "CALLS")]
    #[arg(value_parser = whole::<u32>(1..=u64::from(u32::MAX)))]
    pub tenant_max_concurrent: Option<u32>,
    /// Who may ask for the contract: everybody, whoever has a key, or nobody.
    #[arg(long, default_value = "open", value_name = "open|key|off")]
    pub reflection: Exposure,
    /// Who may ask for /metrics: everybody, whoever has a key, or nobody.
    #[arg(long, default_value = "open", value_name = "open|key|off")]
    pub metrics_access: Exposure,
}

/// Keeps the hash of a key and nothing else of it.
fn key(text: &str) -> Result<KeyHash, &'static str> {
    if text.is_empty() {
        return Err("a key must not be empty");
    }
    Ok(KeyHash::of(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Args, Command, command};

    #[test]
    fn a_key_is_shown_nowhere() {
        let words = ["paternoster", "serve", "--api-key", "canary-1,canary-2"];
        let args = Args::read(words).unwrap();
        let Command::Serve(serve) = &args.command else {
            panic!("not serve");
        };
        assert_eq!(
            serve.security.api_key,
            ["canary-1", "canary-2"].map(|key| KeyHash::of(key.as_bytes()))
        );
        // What is in effect is among it.
        let debug = format!("{args:?}");
        assert!(
            debug.contains("KeyHash") && !debug.contains("canary"),
            "{debug}"
        );
        let help = command().render_long_help().to_string();
        assert!(!help.contains("canary"));
        for wrong in [
            &["--api-key", "canary-1,"][..],
            &["--api-key", "canary-1", "--port", "none"],
            &["--api-key", "canary-1", "--unknown"],
        ] {
            let words = ["paternoster", "serve"].iter().chain(wrong);
            let error = Args::read(words).unwrap_err().to_string();
            assert!(!error.contains("canary"), "{error}");
        }
    }
}
