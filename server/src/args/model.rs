//! Flags: which models are served.

use std::path::PathBuf;

use clap::ValueEnum;

/// Which models.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Models")]
pub struct ModelArgs {
    /// A model of the Hugging Face hub, as org/name, or a folder with a model's files. NAME=MODEL
    /// calls it NAME; may be given several times. The built-in demo models if it is not given at all.
    #[arg(long, value_delimiter = ',', value_name = "[NAME=]MODEL")]
    pub model_id: Vec<String>,
    /// The name requests call the model by, one for each --model-id in order; default: the id on the
    /// hub, or the name of the folder.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub served_model_name: Vec<String>,
    /// The branch, tag or commit of a model of the hub: one for all, or one for each --model-id in
    /// order; default: main.
    #[arg(long, value_delimiter = ',', value_name = "REVISION")]
    pub revision: Vec<String>,
    /// Where models of the hub come from and go to.
    #[command(flatten)]
    pub hub: HubArgs,
    /// What to compute in; default: the type the weights are stored in.
    #[arg(long)]
    pub dtype: Option<Dtype>,
    /// Where weights come from; dummy makes random ones and needs config.json only.
    #[arg(long, default_value = "safetensors")]
    pub load_format: LoadFormat,
    /// What embedding models make of an input: one vector, or (splade) weights of words; default: what
    /// each one's files say.
    #[arg(long)]
    pub pooling: Option<Pooling>,
    /// The name of the prompt that embedding models put before an input where a request names none;
    /// default: what each one's files say.
    #[arg(long, value_name = "NAME", conflicts_with = "default_prompt")]
    pub default_prompt_name: Option<String>,
    /// The text that embedding models put before an input where a request names no prompt.
    #[arg(long, value_name = "TEXT")]
    pub default_prompt: Option<String>,
}

/// What is made of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Pooling {
    /// The first token's vector.
    Cls,
    /// The mean over all tokens.
    Mean,
    /// The last token's vector.
    LastToken,
    /// A weight for each word of the vocabulary, by the head of a masked language model.
    Splade,
}

/// Where models of the hub come from and go to.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Models")]
pub struct HubArgs {
    /// The folder that models of the hub are kept in, shared with Python programs; default:
    /// HF_HUB_CACHE, or hub in HF_HOME, or ~/.cache/huggingface/hub.
    #[arg(long, value_name = "FOLDER")]
    pub huggingface_hub_cache: Option<PathBuf>,
    /// Take a model of the hub only at a commit: --revision must be 40 hexadecimal digits.
    #[arg(long)]
    pub require_pinned: bool,
}

/// What to compute in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    /// IEEE single precision.
    #[value(name = "float32", alias = "f32")]
    F32,
    /// IEEE half precision.
    #[value(name = "float16", alias = "f16")]
    F16,
    /// bfloat16.
    #[value(name = "bfloat16", alias = "bf16")]
    Bf16,
}

/// Where weights come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LoadFormat {
    /// Safetensors files of the folder.
    Safetensors,
    /// Random weights; config.json is enough.
    Dummy,
}
