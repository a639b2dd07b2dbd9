//! Flags: what one request may cost, and how long things may take.

use std::time::Duration;

use super::units::{MOMENT, bytes, time, whole};
use crate::limits::LOGPROBS_MAX;

/// What requests may cost.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Calls that run or wait at once, all models together; more are refused with
    /// RESOURCE_EXHAUSTED.
    #[arg(long, value_name = "CALLS", default_value = "1024")]
    #[arg(value_parser = whole::<usize>(1..=1 << 20))]
    pub max_concurrent_requests: usize,
    /// Sequences of one generation.
    #[arg(long, value_name = "SEQUENCES", default_value = "16")]
    #[arg(value_parser = whole::<u32>(1..=128))]
    pub max_best_of: u32,
    /// Stop strings of one generation.
    #[arg(long, value_name = "STRINGS", default_value = "16")]
    #[arg(value_parser = whole::<usize>(0..=256))]
    pub max_stop_sequences: usize,
    /// Log probabilities of one token besides its own.
    #[arg(long, value_name = "TOKENS", default_value = "20")]
    #[arg(value_parser = whole::<u32>(0..=u64::from(LOGPROBS_MAX)))]
    pub max_top_n_tokens: u32,
    /// Tokens of one prompt; default: what --max-total-tokens leaves.
    #[arg(long, visible_alias = "max-input-length", value_name = "TOKENS")]
    #[arg(value_parser = whole::<u32>(1..=1 << 24))]
    pub max_input_tokens: Option<u32>,
    /// Inputs of one embedding request.
    #[arg(long, value_name = "INPUTS", default_value = "1024")]
    #[arg(value_parser = whole::<usize>(1..=1 << 16))]
    pub max_client_batch_size: usize,
    /// Cut inputs that have more tokens than their embedding model takes, as if every request asked
    /// for it.
    #[arg(long)]
    pub auto_truncate: bool,
    /// Bytes of text of one request.
    #[arg(long, value_name = "BYTES", default_value = "1MiB", value_parser = bytes(1..=1 << 30))]
    pub max_input_bytes: u64,
    /// Bytes of one message on the wire.
    #[arg(
        long,
        visible_alias = "payload-limit",
        value_name = "BYTES",
        default_value = "4MiB"
    )]
    #[arg(value_parser = bytes(1..=1 << 30))]
    pub max_message_bytes: u64,
    /// The longest time a request may take, as 90s or 10m.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = time(MOMENT))]
    pub request_timeout_max: Duration,
    /// The time a stream may stay unread before it is ended.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = time(MOMENT))]
    pub stream_stall_timeout: Duration,
    /// The time one step of a model may take without progress before its engine is restarted.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = time(MOMENT))]
    pub step_timeout: Duration,
    /// The time a model may take to load before its engine is given up.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = time(MOMENT))]
    pub start_timeout: Duration,
    /// The time running requests have after SIGTERM; with 0s they are ended at once.
    #[arg(
        long,
        visible_alias = "graceful-termination-timeout",
        value_name = "TIME"
    )]
    #[arg(default_value = "60s", value_parser = time(Duration::ZERO))]
    pub drain_timeout: Duration,
}
