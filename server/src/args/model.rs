//! Flags: which models are served.

use clap::ValueEnum;

/// Which models.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Models")]
pub struct ModelArgs {
    /// A folder with a model's files, or NAME=FOLDER to call it NAME; may be given several times.
    /// The built-in demo models if it is not given at all.
    #[arg(long, value_delimiter = ',', value_name = "[NAME=]FOLDER")]
    pub model_id: Vec<String>,
    /// The name requests call the model by, one for each --model-id in order; default: the name of
    /// the folder.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub served_model_name: Vec<String>,
    /// What to compute in; default: the type the weights are stored in.
    #[arg(long)]
    pub dtype: Option<Dtype>,
    /// Where weights come from; dummy makes random ones and needs config.json only.
    #[arg(long, default_value = "safetensors")]
    pub load_format: LoadFormat,
    /// How embedding models make one vector of an input; default: what each one's files say.
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

/// How one vector is made of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Pooling {
    /// The first token's vector.
    Cls,
    /// The mean over all tokens.
    Mean,
    /// The last token's vector.
    LastToken,
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
