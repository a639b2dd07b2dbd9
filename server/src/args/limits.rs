//! Flags: what one request may cost, and how long things may take.

use std::time::Duration;

use super::units::{MOMENT, bytes, time, whole};

/// What requests may cost.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Calls that run or wait at once, all models together; more are refused with
    /// RESOURCE_EXHAUSTED.
    #[arg(long, value_name = "CALLS", default_value = "1024")]
    #[arg(value_parser = whole::<usize>(1..=1 << 20))]
    pub max_concurrent_requests: usize,
    /// Bytes of text of one request.
    #[arg(long, value_name = "BYTES", default_value = "1MiB", value_parser = bytes(1..=1 << 30))]
    pub max_input_bytes: u64,
    /// Bytes of one message on the wire.
    #[arg(long, value_name = "BYTES", default_value = "4MiB", value_parser = bytes(1..=1 << 30))]
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
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = time(Duration::ZERO))]
    pub drain_timeout: Duration,
}
