//! Flags: how steps are bounded, and what computes them.

use super::units::{bytes, whole};

/// How steps are bounded.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Batching")]
pub struct BatchingArgs {
    /// Tokens of one sequence, prompt and output together; default: what the model was made for.
    #[arg(long, value_name = "TOKENS", value_parser = whole::<u32>(1..=1 << 24))]
    pub max_total_tokens: Option<u32>,
    /// Tokens computed in one step, all sequences together. Longer prompts take several steps.
    /// At least --max-batch-size; default: 512, or --max-batch-size if that is more.
    #[arg(long, value_name = "TOKENS", value_parser = whole::<u32>(1..=1 << 20))]
    pub max_batch_prefill_tokens: Option<u32>,
    /// Sequences that run at once in one model.
    #[arg(long, value_name = "SEQUENCES", default_value = "64")]
    #[arg(value_parser = whole::<u32>(1..=1 << 16))]
    pub max_batch_size: u32,
    /// Sequences that wait for one model; more are refused with RESOURCE_EXHAUSTED. Default: as many as
    /// run, so that nobody waits longer than about the time a request runs.
    #[arg(long, value_name = "SEQUENCES", value_parser = whole::<u32>(1..=1 << 20))]
    pub max_waiting_requests: Option<u32>,
    /// Tokens of one batch of an embedding model. A model that takes longer inputs has batches of one
    /// such input.
    #[arg(long, value_name = "TOKENS", default_value = "16384")]
    #[arg(value_parser = whole::<u32>(1..=1 << 24))]
    pub max_batch_tokens: u32,
    /// Inputs of one batch of an embedding model.
    #[arg(long, value_name = "INPUTS", default_value = "512")]
    #[arg(value_parser = whole::<u32>(1..=1 << 16))]
    pub max_batch_requests: u32,
    /// Memory for the KV cache of each model, as 1GiB or 512MiB; default: the smaller of 1GiB and a
    /// quarter of the machine's memory.
    #[arg(long, value_name = "BYTES", value_parser = bytes(1..=1 << 50))]
    pub kv_cache_size: Option<u64>,
    /// Threads that compute; default: one for each core.
    #[arg(long, value_name = "THREADS", value_parser = whole::<usize>(1..=1024))]
    pub threads: Option<usize>,
    /// Texts that are tokenized at once; default: one for each core.
    #[arg(long, visible_alias = "validation-workers", value_name = "THREADS")]
    #[arg(value_parser = whole::<usize>(1..=1024))]
    pub tokenization_workers: Option<usize>,
}
