//! Flags: what the server says of itself.

use clap::ValueEnum;

/// Logs and metrics.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Observability")]
pub struct ObservabilityArgs {
    /// Under which foreign names /metrics repeats its series.
    #[arg(long, value_name = "NAMES", default_value = "vllm")]
    pub metrics_compat: MetricsCompat,
    /// Write logs as JSON. RUST_LOG sets what is logged; default: info.
    #[arg(long)]
    pub json_output: bool,
    /// The collector to send spans of calls to, over gRPC, as http://127.0.0.1:4317; default: none.
    #[arg(long, value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    /// The service name that spans carry.
    #[arg(long, value_name = "NAME", default_value = "paternoster")]
    pub otlp_service_name: String,
}

/// Foreign names of series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MetricsCompat {
    /// Those of vLLM, which routers and dashboards read.
    Vllm,
    /// None.
    None,
}
