//! What a reviewer would otherwise have to remember, checked by machine: arrows between crates,
//! file sizes, headers, forbidden words, and documents that must name what the code has.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// The only arrows there are (docs/adr and ARCHITECTURE.md say why).
const ARROWS: &[(&str, &[&str])] = &[
    ("scheduler", &[]),
    ("kernels", &[]),
    ("proto", &[]),
    ("engine", &["scheduler"]),
    ("models", &["engine", "kernels", "scheduler"]),
    ("server", &["engine", "models", "proto"]),
    ("paternoster-client", &["proto"]),
];

/// Lines of a source file, tests left out.
const FILE_LINES_MAX: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a folder above")
        .to_owned()
}

fn metadata() -> Metadata {
    MetadataCommand::new()
        .current_dir(root())
        .other_options(["--offline".to_owned(), "--locked".to_owned()])
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

/// The part of a Rust file before its unit tests.
fn product_lines(text: &str) -> usize {
    text.lines()
        .take_while(|line| line.trim() != "#[cfg(test)]")
        .count()
}

#[test]
fn arrows_between_crates_are_the_allowed_ones() {
    let metadata = metadata();
    let members: BTreeSet<String> = metadata
        .workspace_packages()
        .iter()
        .map(|p| p.name.to_string())
        .collect();
    for package in metadata.workspace_packages() {
        let Some((_, allowed)) = ARROWS
            .iter()
            .find(|(name, _)| *name == package.name.as_str())
        else {
            assert!(
                ["benches", "tests"].contains(&package.name.as_str()),
                "{} has no arrows",
                package.name
            );
            continue;
        };
        let arrows: Vec<&str> = package
            .dependencies
            .iter()
            .filter(|d| d.kind == DependencyKind::Normal && members.contains(&d.name))
            .map(|d| d.name.as_str())
            .collect();
        for arrow in &arrows {
            assert!(
                allowed.contains(arrow),
                "{} -> {arrow} is not an allowed arrow",
                package.name
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

#[test]
fn the_changelog_has_an_unreleased_section() {
    assert!(read(&root().join("CHANGELOG.md")).contains("## [Unreleased]"));
}
