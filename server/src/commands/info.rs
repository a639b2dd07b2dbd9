//! `paternoster info`.

use std::fmt::Write as _;

use crate::args::inspect::InfoArgs;
use crate::config::{self, Asked, Files, Machine, Place};
use crate::exit::{Exit, Failure};
use crate::load::{self, About};

/// Says what a model is, what memory it takes and whether this machine has it.
pub(super) async fn run(args: InfoArgs, machine: Machine) -> Result<(), Failure> {
    let done = tokio::task::spawn_blocking(move || describe(args, machine)).await;
    done.map_err(Failure::system)?
}

fn describe(args: InfoArgs, machine: Machine) -> Result<(), Failure> {
    let wrong = |error| Failure::new(Exit::Config, error);
    let place = Place {
        revision: args.revision.as_deref(),
        pinned: args.hub.require_pinned,
    };
    let asked = Asked {
        dtype: args.dtype,
        load_format: args.load_format,
        pooling: None,
        batching: config::batching(&args.batching, machine).map_err(wrong)?,
    };
    let files = config::files(&args.model, place).map_err(wrong)?;
    let source = local(files, args)?;
    let about = load::about(&source.files, asked).map_err(|cause| {
        let message = format!("{}: {cause}", source.name);
        Failure::new(cause.exit(), message)
    })?;
    answer(&text(&source, &about, machine));
    match machine.memory_bytes {
        Some(memory) if total(&about) > memory => {
            let message = format!("{} does not fit into this machine", source.name);
            Err(Failure::new(Exit::System, message))
        }
        _ => Ok(()),
    }
}

/// A model whose configuration is in a folder.
struct Local {
    name: String,
    files: Files,
    revision: Option<String>,
    /// Bytes of the files of its weights.
    stored_bytes: Option<u64>,
}

#[cfg(feature = "hub")]
fn local(files: Files, args: InfoArgs) -> Result<Local, Failure> {
    use hub::Want;

    let Files::Hub(model, revision) = files else {
        return Ok(in_folder(files, args));
    };
    let hub = crate::hub_models::open(args.hub.huggingface_hub_cache)?;
    let snapshot = crate::hub_models::fetch(&hub, (&model, &revision), Want::Config)?;
    let stored = snapshot.weights_bytes;
    Ok(Local {
        name: args.model,
        stored_bytes: stored.or_else(|| stored_bytes(&snapshot.folder)),
        files: Files::Folder(snapshot.folder),
        revision: Some(snapshot.commit.to_string()),
    })
}

#[cfg(not(feature = "hub"))]
#[expect(clippy::unnecessary_wraps, reason = "the other build may fail")]
fn local(files: Files, args: InfoArgs) -> Result<Local, Failure> {
    Ok(in_folder(files, args))
}

fn in_folder(files: Files, args: InfoArgs) -> Local {
    let stored_bytes = match &files {
        Files::Folder(folder) => stored_bytes(folder),
        #[cfg(any(feature = "hub", feature = "demo"))]
        _ => None,
    };
    Local {
        name: args.model,
        files,
        revision: None,
        stored_bytes,
    }
}

/// Bytes of the files of weights in a folder, if there are any.
fn stored_bytes(folder: &std::path::Path) -> Option<u64> {
    let entries = std::fs::read_dir(folder).ok()?.flatten();
    let is_weights = |entry: &std::fs::DirEntry| {
        let ending = std::path::Path::new(&entry.file_name())
            .extension()
            .map(ToOwned::to_owned);
        ending.is_some_and(|ending| ending == "safetensors")
    };
    let bytes = |entry: std::fs::DirEntry| std::fs::metadata(entry.path()).ok();
    let sizes = entries.filter(is_weights).filter_map(bytes);
    Some(sizes.map(|found| found.len()).sum()).filter(|bytes| *bytes > 0)
}

fn total(about: &About) -> u64 {
    about
        .weights_bytes
        .saturating_add(about.kv_bytes)
        .saturating_add(about.buffers_bytes)
}

fn text(source: &Local, about: &About, machine: Machine) -> String {
    let facts = &about.facts;
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ok = writeln!(text, "{name:<14} {value}");
    };
    line("model", &source.name);
    if let Some(revision) = &source.revision {
        line("commit", revision);
    }
    line("architecture", &facts.architecture);
    line("task", about.task);
    line("parameters", &thousands(facts.parameters));
    line("dtype", &facts.dtype);
    line(
        "context",
        &format!("{} tokens", thousands(facts.context_tokens_max.into())),
    );
    if let Some(bytes) = source.stored_bytes {
        line("stored", &format!("{} of weights", size(bytes)));
    }
    if about.kv_bytes > 0 {
        let token = facts.kv_bytes_per_token;
        line("KV", &format!("{} bytes a token", thousands(token)));
    }
    line("", "");
    line("memory", "");
    line("  weights", &size(about.weights_bytes));
    if about.kv_bytes > 0 {
        let tokens = about.kv_bytes / facts.kv_bytes_per_token.max(1);
        let cache = format!("{}: {} tokens", size(about.kv_bytes), thousands(tokens));
        line("  KV cache", &cache);
    }
    line("  buffers", &size(about.buffers_bytes));
    let total = total(about);
    let verdict = match machine.memory_bytes {
        None => size(total),
        Some(memory) if total <= memory => format!("{} of {}: fits", size(total), size(memory)),
        Some(memory) => format!("{} of {}: does not fit", size(total), size(memory)),
    };
    line("  together", &verdict);
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n")
}

/// `1234567` as `1,234,567`.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes as people read them.
fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", units[unit])
}

#[expect(clippy::print_stdout, reason = "the answer of a command")]
fn answer(text: &str) {
    println!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Facts;

    #[test]
    fn the_plan_of_a_model_is_a_page() {
        let source = Local {
            name: "org/tiny".to_owned(),
            files: Files::Folder("/x".into()),
            revision: Some("0123456789abcdef0123456789abcdef01234567".to_owned()),
            stored_bytes: Some(2_471_645_608),
        };
        let about = About {
            facts: Facts {
                architecture: "LlamaForCausalLM".to_owned(),
                dtype: "bf16".to_owned(),
                parameters: 1_235_814_400,
                context_tokens_max: 32_752,
                kv_bytes_per_token: 32_768,
                ..Facts::default()
            },
            task: "generate",
            weights_bytes: 2_471_628_800,
            kv_bytes: 1 << 30,
            buffers_bytes: 50 << 20,
        };
        let machine = |memory_bytes| Machine {
            cores: 2,
            memory_bytes,
        };
        let fits = text(&source, &about, machine(Some(24 << 30)));
        insta::assert_snapshot!("plan", fits);
        let small = text(&source, &about, machine(Some(2 << 30)));
        assert!(
            small.ends_with("3.4 GiB of 2.0 GiB: does not fit"),
            "{small}"
        );
        let unknown = text(&source, &about, machine(None));
        assert!(unknown.ends_with("  together     3.4 GiB"), "{unknown}");
    }

    #[test]
    fn figures_are_readable() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(size(512), "0.5 KiB");
        assert_eq!(size(3 << 29), "1.5 GiB");
    }
}
