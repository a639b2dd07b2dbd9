//! What a reviewer would otherwise have to remember, checked by machine: arrows between crates,
//! file sizes, headers, forbidden words, and documents that must name what the code has.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// The only arrows there are (docs/adr and ARCHITECTURE.md say why), and those of tests alone.
struct Arrows {
    from: &'static str,
    product: &'static [&'static str],
    tests: &'static [&'static str],
}

const ARROWS: &[Arrows] = &[
    arrows("scheduler", &[], &[]),
    arrows("kernels", &[], &[]),
    arrows("proto", &[], &[]),
    arrows("hub", &[], &[]),
    arrows("engine", &["scheduler"], &["engine"]),
    arrows("models", &["engine", "kernels", "scheduler"], &[]),
    arrows(
        "server",
        &["engine", "hub", "load", "models", "proto", "simulator"],
        &["engine", "paternoster-client"],
    ),
    arrows("load", &["paternoster-client"], &[]),
    arrows("paternoster-client", &["proto"], &[]),
    arrows("simulator", &["scheduler"], &[]),
];
/// Members that may look at everything.
const ONLOOKERS: &[&str] = &["benches", "tests"];

const fn arrows(
    from: &'static str,
    product: &'static [&'static str],
    tests: &'static [&'static str],
) -> Arrows {
    Arrows {
        from,
        product,
        tests,
    }
}

/// What `kernels` takes from outside, each with its reason: this is where unsafe code is.
const KERNELS_TAKES: &[(&str, &str)] = &[
    ("half", "the types bf16 and f16"),
    ("libc", "only tests: they put data before a forbidden page"),
    (
        "memmap2",
        "weights are read, and large buffers made, as maps",
    ),
    ("proptest", "only tests: random shapes"),
];

/// Lines of a source file, tests left out.
const FILE_LINES_MAX: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a folder above")
        .to_owned()
}

/// The members and what their manifests name. Nothing is resolved, so nothing has to be downloaded.
fn metadata() -> Metadata {
    MetadataCommand::new()
        .current_dir(root())
        .no_deps()
        .other_options(["--offline".to_owned()])
        .exec()
        .expect("cargo metadata")
}

/// Every tracked-looking file with one of these endings, build output and data left out.
fn files(endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)
            .expect("readable")
            .map(|e| e.expect("entry"))
        {
            let (path, name) = (
                entry.path(),
                entry.file_name().into_string().expect("UTF-8"),
            );
            if path.is_dir() {
                let skip = name.starts_with("target") || name.starts_with('.') && name != ".ci";
                if !skip && name != "node_modules" && name != "__pycache__" {
                    folders.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root())
        .unwrap_or(path)
        .display()
        .to_string()
}

/// The lines of a Rust file before its module of unit tests.
fn product_lines(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let tests = lines.windows(2).position(|pair| {
        pair[0] == "#[cfg(test)]" && (pair[1].starts_with("mod ") || pair[1].starts_with("pub"))
    });
    tests.unwrap_or(lines.len())
}

#[test]
fn arrows_between_crates_are_the_allowed_ones() {
    let metadata = metadata();
    let packages = metadata.workspace_packages();
    let members: BTreeSet<&str> = packages.iter().map(|p| p.name.as_str()).collect();
    for package in &packages {
        let name = package.name.as_str();
        if ONLOOKERS.contains(&name) {
            continue;
        }
        let allowed = ARROWS.iter().find(|arrows| arrows.from == name);
        let allowed = allowed.unwrap_or_else(|| panic!("{name} has no line in ARROWS"));
        for dependency in &package.dependencies {
            let to = dependency.name.as_str();
            let fine = match dependency.kind {
                DependencyKind::Normal => allowed.product.contains(&to),
                DependencyKind::Development => {
                    allowed.product.contains(&to) || allowed.tests.contains(&to)
                }
                _ => false,
            };
            assert!(
                fine || !members.contains(to),
                "{name} -> {to} ({}) is not an allowed arrow",
                dependency.kind
            );
        }
    }
}

#[test]
fn kernels_take_little_from_outside() {
    let metadata = metadata();
    let mut packages = metadata.workspace_packages().into_iter();
    let kernels = packages.find(|package| package.name.as_str() == "kernels");
    let found: BTreeSet<&str> = kernels
        .expect("kernels is a member")
        .dependencies
        .iter()
        .map(|dependency| dependency.name.as_str())
        .collect();
    let expected: BTreeSet<&str> = KERNELS_TAKES.iter().map(|(name, _)| *name).collect();
    assert_eq!(found, expected, "KERNELS_TAKES is the list with reasons");
}

#[test]
fn the_server_names_models_in_one_place() {
    for path in files(&[".rs"]) {
        let wiring = path.starts_with(root().join("server/src/load"));
        if !path.starts_with(root().join("server/src")) || wiring {
            continue;
        }
        for (number, line) in read(&path).lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            let named = code
                .match_indices("models::")
                .any(|(at, _)| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'));
            assert!(
                !named,
                "{}:{}: models is wired in server/src/load alone",
                shown(&path),
                number + 1
            );
        }
    }
}

/// A family is a file in `models/src/families` and has lines in the registry. Each of its functions
/// there has a golden case, of one of the function's architectures, that a test names.
#[test]
fn every_family_is_registered_and_proven() {
    let models = root().join("models");
    let mut registry = read(&models.join("src/registry.rs"));
    registry.retain(|c| !c.is_whitespace());
    let golden = models.join("tests/golden");
    let tests = read(&golden.join("decoders.rs")) + &read(&golden.join("encoders.rs"));
    let cases: Vec<String> = files(&["config.json"])
        .iter()
        .filter(|path| path.starts_with(&golden))
        .filter(|path| {
            let case = path.parent().and_then(Path::file_name).expect("a folder");
            tests.contains(&format!("\"{}\"", case.display()))
        })
        .map(|path| read(path))
        .collect();
    let families: Vec<PathBuf> = files(&[".rs"])
        .into_iter()
        .filter(|path| path.parent() == Some(&models.join("src/families")))
        .filter(|path| !path.ends_with("mod.rs") && !path.ends_with("tests.rs"))
        .collect();
    assert!(families.len() >= 5, "families are found");
    for path in families {
        let family = path.file_stem().and_then(|stem| stem.to_str());
        let start = format!("{}::", family.expect("UTF-8"));
        let mut functions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        // `Architecture",family::function),`, however the lines are broken.
        for entry in registry.split("(\"") {
            if let Some((architecture, rest)) = entry.split_once("\",")
                && let Some(function) = rest.split([',', ')']).next()
                && function.starts_with(&start)
            {
                functions.entry(function).or_default().push(architecture);
            }
        }
        assert!(
            !functions.is_empty(),
            "{} is not in the registry",
            shown(&path)
        );
        for (function, architectures) in functions {
            assert!(
                architectures
                    .iter()
                    .map(|name| format!("\"{name}\""))
                    .any(|name| cases.iter().any(|config| config.contains(&name))),
                "{function} has no golden case"
            );
        }
    }
}

#[test]
fn the_scheduler_has_no_dependency() {
    let metadata = metadata();
    let scheduler = metadata
        .workspace_packages()
        .into_iter()
        .find(|p| p.name.as_str() == "scheduler")
        .expect("the scheduler is a member");
    let normal: Vec<_> = scheduler
        .dependencies
        .iter()
        .filter(|d| d.kind != DependencyKind::Development)
        .collect();
    assert!(normal.is_empty(), "scheduler depends on {normal:?}");
}

#[test]
fn rust_files_have_a_header_and_fit() {
    for path in files(&[".rs"]) {
        let text = read(&path);
        assert!(
            text.starts_with("//!"),
            "{} does not start with `//!`",
            shown(&path)
        );
        let lines = product_lines(&text);
        assert!(
            lines <= FILE_LINES_MAX,
            "{} has {lines} lines",
            shown(&path)
        );
    }
}

#[test]
fn nothing_is_left_unfinished() {
    let words = ["TODO", "FIXME", "XXX", "unimplemented!(", "todo!("];
    for path in files(&[".rs", ".proto", ".py", ".toml"]) {
        if path.ends_with("tests/tests/tidy.rs") {
            continue;
        }
        for (number, line) in read(&path).lines().enumerate() {
            for word in words {
                assert!(
                    !line.contains(word),
                    "{}:{}: {word}",
                    shown(&path),
                    number + 1
                );
            }
            assert!(
                !line.trim_start().starts_with("#[ignore"),
                "{}:{}: an ignored test proves nothing",
                shown(&path),
                number + 1
            );
        }
    }
}

#[test]
fn unsafe_stays_in_kernels() {
    for path in files(&[".rs"]) {
        if path.starts_with(root().join("kernels")) || path.ends_with("tests/tests/tidy.rs") {
            continue;
        }
        for (number, line) in read(&path).lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            assert!(
                !code.contains("unsafe ") && !code.contains("unsafe{"),
                "{}:{}: unsafe outside kernels",
                shown(&path),
                number + 1
            );
        }
    }
}

/// Clippy reads one file for a crate, so the scheduler's stricter one repeats the workspace's.
#[test]
fn the_scheduler_keeps_the_workspace_bans() {
    let own = read(&root().join("scheduler/clippy.toml"));
    for line in read(&root().join("clippy.toml")).lines() {
        assert!(own.contains(line), "scheduler/clippy.toml lacks: {line}");
    }
}

#[test]
fn the_changelog_has_an_unreleased_section() {
    assert!(read(&root().join("CHANGELOG.md")).contains("## [Unreleased]"));
}
