//! Flags: where the configuration comes from.

use std::path::PathBuf;

/// Where the configuration comes from.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Configuration")]
pub struct ConfigurationArgs {
    /// A TOML file whose keys are the names of the flags. A flag counts more than the environment,
    /// which counts more than the file, which counts more than a default.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Check the configuration and what can be read of the models, and end: with 0 if it can be
    /// served, else as serving would.
    #[arg(long)]
    pub check_config: bool,
}
