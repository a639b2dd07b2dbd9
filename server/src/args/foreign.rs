//! Flags of TGI and TEI that there are not, and what to do instead. They are refused, never taken and
//! ignored.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// What to do instead of a foreign flag.
pub(super) fn advice(long: &str) -> Option<&'static str> {
    FOREIGN
        .iter()
        .find(|(names, _)| names.contains(&long))
        .map(|(_, advice)| *advice)
}

/// Says of an unknown flag what replaces it, if that is known.
pub(super) fn explain(error: clap::Error, command: &mut clap::Command) -> clap::Error {
    if error.kind() != ErrorKind::UnknownArgument {
        return error;
    }
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else {
        return error;
    };
    let long = flag.trim_start_matches('-').split('=').next();
    match long.and_then(advice) {
        Some(advice) => {
            let message = format!("{flag}: {advice}");
            command.error(ErrorKind::UnknownArgument, message)
        }
        None => error,
    }
}

/// The flags of TGI 3 and TEI 1 that mean nothing here, or nothing yet.
pub const FOREIGN: [(&[&str], &str); 23] = [
    (
        &["quantize"],
        "weights are served as they are stored, or as --dtype says",
    ),
    (
        &["kv-cache-dtype"],
        "keys and values are kept in what --dtype says",
    ),
    (
        &["trust-remote-code"],
        "no code of a model is ever run; leave it out",
    ),
    (&["speculate"], "there is no speculative decoding"),
    (
        &["rope-scaling", "rope-factor"],
        "what config.json says under rope_scaling applies; change it there",
    ),
    (&["lora-adapters"], "there are no adapters"),
    (
        &["tokenizer-config-path"],
        "tokenizer_config.json and chat_template.jinja are read from the model's folder",
    ),
    (
        &["tokenizer-name"],
        "tokenizer.json is read from the model's folder",
    ),
    (
        &["weights-cache-override"],
        "give the folder of the weights as --model-id",
    ),
    (
        &["disable-custom-kernels", "cuda-graphs"],
        "what computes is chosen for the machine; leave it out",
    ),
    (
        &[
            "sharded",
            "num-shard",
            "shard-uds-path",
            "master-addr",
            "master-port",
        ],
        "one process computes a whole model; leave it out",
    ),
    (
        &["cuda-memory-fraction"],
        "--kv-cache-size says what the KV cache may take",
    ),
    (
        &["max-batch-total-tokens"],
        "--kv-cache-size bounds the tokens that are kept, --max-batch-prefill-tokens those of a step",
    ),
    (
        &["waiting-served-ratio", "max-waiting-tokens"],
        "waiting requests may join in every step, so there is nothing to weigh; leave it out",
    ),
    (
        &["enable-prefill-logprobs"],
        "there are no log probabilities of prompts",
    ),
    (
        &["disable-grammar-support"],
        "there are no grammars; leave it out",
    ),
    (
        &["prometheus-port"],
        "/metrics is on the serving port; leave it out",
    ),
    (
        &["cors-allow-origin"],
        "there is no HTTP API that a browser could call; leave it out",
    ),
    (
        &["ngrok", "ngrok-authtoken", "ngrok-edge"],
        "there is no tunnel; start one beside the server",
    ),
    (
        &["usage-stats"],
        "no usage is reported to anybody; leave it out",
    ),
    (
        &["env"],
        "the effective configuration is logged at every start; leave it out",
    ),
    (
        &["watermark-gamma", "watermark-delta"],
        "there are no watermarks",
    ),
    (
        &["max-image-fetch-size", "dense-path"],
        "there are no images, and dense layers after pooling are those that modules.json names",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_flag_of_ours_is_foreign() {
        let command = super::super::command();
        let serve = command.find_subcommand("serve").unwrap();
        let mut names: Vec<&str> = FOREIGN
            .iter()
            .flat_map(|(names, _)| *names)
            .copied()
            .collect();
        for arg in serve.get_arguments() {
            let aliases = arg.get_all_aliases().unwrap_or_default();
            for name in arg.get_long().into_iter().chain(aliases) {
                assert_eq!(advice(name), None, "--{name} is a flag");
            }
        }
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "a name stands twice");
    }

    #[test]
    fn every_foreign_flag_is_refused_with_advice() {
        for (names, advice) in FOREIGN {
            for name in names {
                for typed in [vec![format!("--{name}")], vec![format!("--{name}=1")]] {
                    let words = ["paternoster", "serve"].map(str::to_owned);
                    let words = words.into_iter().chain(typed);
                    let error = super::super::Args::read(words).unwrap_err().to_string();
                    assert!(error.contains(advice), "{error}");
                    assert!(error.contains(&format!("--{name}")), "{error}");
                }
            }
        }
    }
}
