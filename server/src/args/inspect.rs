//! Flags of the sub-commands that look at one model: `download`, `verify`, `info`.

use super::batching::BatchingArgs;
use super::model::{Dtype, HubArgs, LoadFormat};

/// What to download.
#[cfg(feature = "hub")]
#[derive(Clone, Debug, clap::Args)]
pub struct DownloadArgs {
    /// The model, as org/name.
    pub model: String,
    /// Its branch, tag or commit; default: main.
    #[arg(long, value_name = "REVISION")]
    pub revision: Option<String>,
    /// Where it goes.
    #[command(flatten)]
    pub hub: HubArgs,
}

/// What to hash.
#[cfg(feature = "hub")]
#[derive(Clone, Debug, clap::Args)]
pub struct VerifyArgs {
    /// The model, as org/name, or a folder.
    pub model: String,
    /// Its branch, tag or commit; default: all commits in the cache.
    #[arg(long, value_name = "REVISION")]
    pub revision: Option<String>,
    /// The folder that models of the hub are kept in.
    #[arg(long, value_name = "FOLDER")]
    pub huggingface_hub_cache: Option<std::path::PathBuf>,
}

/// What to describe.
#[derive(Clone, Debug, clap::Args)]
pub struct InfoArgs {
    /// The model, as org/name, or a folder. Of a model of the hub that is not downloaded, only its
    /// configuration is.
    pub model: String,
    /// Its branch, tag or commit; default: main.
    #[arg(long, value_name = "REVISION")]
    pub revision: Option<String>,
    /// Where it comes from.
    #[command(flatten)]
    pub hub: HubArgs,
    /// What to compute in; default: the type the weights are stored in.
    #[arg(long, help_heading = "Models")]
    pub dtype: Option<Dtype>,
    /// Where weights come from.
    #[arg(long, help_heading = "Models", default_value = "safetensors")]
    pub load_format: LoadFormat,
    /// How steps are bounded.
    #[command(flatten)]
    pub batching: BatchingArgs,
}
