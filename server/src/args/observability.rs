//! Flags: what the server says of itself.

use clap::ValueEnum;

/// Logs and metrics.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Observability")]
pub struct ObservabilityArgs {
    /// Under whose names /metrics repeats its series. May be given several times.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "NAMES",
        default_value = "vllm"
    )]
    pub metrics_compat: Vec<MetricsCompat>,
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
    /// Those of TGI.
    Tgi,
    /// Those of TEI.
    Tei,
    /// None; it stands alone.
    None,
}

impl ObservabilityArgs {
    /// Under whose names the series are repeated; `None` where that contradicts itself.
    pub(crate) fn dialects(&self) -> Option<Vec<MetricsCompat>> {
        let mut names = self.metrics_compat.clone();
        names.dedup();
        match names.as_slice() {
            [MetricsCompat::None] => Some(Vec::new()),
            several if several.contains(&MetricsCompat::None) => None,
            _ => Some(names),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Args, Command};

    #[test]
    fn names_of_several_may_be_asked_for_and_none_stands_alone() {
        use MetricsCompat::{Tei, Tgi, Vllm};
        let dialects = |flags: &[&str]| {
            let words = ["paternoster", "serve"].iter().chain(flags);
            match Args::read(words).unwrap().command {
                Command::Serve(serve) => serve.observability.dialects(),
                _ => panic!("not serve"),
            }
        };
        let flag = "--metrics-compat";
        assert_eq!(dialects(&[]), Some(vec![Vllm]));
        assert_eq!(dialects(&[flag, "tgi,tei"]), Some(vec![Tgi, Tei]));
        let several = [flag, "vllm", flag, "tei"];
        assert_eq!(dialects(&several), Some(vec![Vllm, Tei]));
        assert_eq!(dialects(&[flag, "none"]), Some(Vec::new()));
        assert_eq!(dialects(&[flag, "tgi,none"]), None);
    }
}
