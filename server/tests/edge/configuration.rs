//! The binary's configuration: what is wrong with a file is said with its key and ends with 78, what
//! counts most wins, and what is in effect is logged once.

use std::net::TcpListener;
use std::process::{Command, Output};

/// Runs `paternoster serve` to its end, with no variable but these.
pub(crate) fn serve(flags: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_paternoster"))
        .arg("serve")
        .args(flags)
        .env_clear()
        .envs(variables.iter().copied())
        .output()
        .unwrap()
}

pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

struct File {
    _folder: tempfile::TempDir,
    path: String,
}

fn file(bytes: &[u8]) -> File {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.toml");
    std::fs::write(&path, bytes).unwrap();
    File {
        path: path.to_str().unwrap().to_owned(),
        _folder: folder,
    }
}

/// Wrong files, each with what its message must name.
fn wrong_files() -> Vec<(String, String)> {
    let command = server::args::command();
    let mut files = Vec::new();
    for arg in server::args::serve(&command).get_arguments() {
        let key = arg.get_long().unwrap();
        if ["config", "check-config"].contains(&key) {
            continue;
        }
        for value in [
            "1979-05-27",
            "{ a = { b = [1, [2, 3]] } }",
            "[[[[]]]]",
            "nan",
        ] {
            files.push((format!("{key} = {value}\n"), format!("{key}: must be")));
        }
        files.push((format!("{key} = \"a\\u0000b\"\n"), format!("{key}: ")));
        files.push((format!("[{key}]\nx = 1\n"), format!("{key}: must be")));
        files.push((format!("{key}x = 1\n"), format!("{key}x: is not a key")));
        files.push((
            format!("[nothing]\n{key} = 1\n"),
            "nothing: is not a key".to_owned(),
        ));
        let allowed = server::args::file::allowed(arg);
        if allowed.is_some_and(|allowed| allowed.contains(" to ")) {
            for value in [
                "-1",
                "'9999999999999999999999999'",
                "99999999999999999999999",
                "true",
                "''",
            ] {
                files.push((format!("{key} = {value}\n"), format!("{key}: must be")));
            }
        }
    }
    let deep = format!("port = {}", "[".repeat(100_000));
    files.push((deep, "is not TOML".to_owned()));
    let long_key = format!("{} = 1", "k".repeat(100_000));
    files.push((long_key, "is not a key".to_owned()));
    files.push(("port = 1 port = 2".to_owned(), ":1: is not TOML".to_owned()));
    files
}

#[test]
fn wrong_files_are_refused_by_key() {
    let files = wrong_files();
    assert!(files.len() >= 100, "{}", files.len());
    for (text, message) in &files {
        let file = file(text.as_bytes());
        let read = server::args::Args::read(["paternoster", "serve", "--config", &file.path]);
        let error = read.expect_err(text).to_string();
        assert!(error.contains(message.as_str()), "{text}: {error}");
        assert!(error.len() < 600, "{} bytes", error.len());
    }
    // What the process makes of it does not depend on the mistake.
    for (text, message) in files.iter().step_by(files.len() / 12) {
        let file = file(text.as_bytes());
        let output = serve(&["--config", &file.path, "--check-config"], &[]);
        assert_eq!(output.status.code(), Some(78), "{text}: {}", said(&output));
        assert!(
            said(&output).contains(message.as_str()),
            "{}",
            said(&output)
        );
    }
}

#[test]
fn bytes_that_are_no_file_of_ours_are_refused() {
    for bytes in [
        &b"\0\0\0\0"[..],
        b"\xff\xfe\x00",
        b"[[[[",
        b"=",
        b"\"\"\"",
        b"a.b.c.d = 1\xf0",
    ] {
        let file = file(bytes);
        let output = serve(&["--config", &file.path, "--check-config"], &[]);
        assert_eq!(output.status.code(), Some(78), "{bytes:?}");
        assert!(said(&output).contains(&file.path), "{}", said(&output));
    }
}

#[test]
fn a_flag_counts_more_than_a_variable_than_the_file_than_a_default() {
    let file = file(b"max-batch-size = 65\n");
    let config = ["--config", file.path.as_str()];
    let variables = [("MAX_BATCH_SIZE", "66")];
    let flag = ["--max-batch-size", "67"];
    let sequences = |flags: &[&str], variables: &[(&str, &str)]| {
        // One sequence needs one token of a step, so this message tells how many there are.
        let flags = [flags, &["--max-batch-prefill-tokens", "1"]].concat();
        let output = serve(&flags, variables);
        assert_eq!(output.status.code(), Some(78));
        let said = said(&output);
        said.trim().rsplit(' ').next().unwrap().to_owned()
    };
    assert_eq!(sequences(&[], &[]), "64");
    assert_eq!(sequences(&config, &[]), "65");
    assert_eq!(sequences(&config, &variables), "66");
    assert_eq!(sequences(&[config, flag].concat(), &variables), "67");
    let file = [("PATERNOSTER_CONFIG", file.path.as_str())];
    assert_eq!(sequences(&[], &file), "65");
}

#[test]
fn the_configuration_is_logged_once_with_its_sources() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let file = file(b"max-batch-tokens = 77\n");
    let flags = [
        "--config",
        file.path.as_str(),
        "--json-output",
        "--port",
        &port,
    ];
    let output = serve(&flags, &[("MAX_BATCH_SIZE", "9")]);
    assert_eq!(output.status.code(), Some(69), "{}", said(&output));
    let said = said(&output);
    let lines: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("\"configuration\""))
        .collect();
    assert_eq!(lines.len(), 1, "{said}");
    let line: serde_json::Value = serde_json::from_str(lines[0]).unwrap();
    let given = line["given"].as_str().unwrap();
    for setting in [
        "max-batch-size=9 (env)".to_owned(),
        "max-batch-tokens=77 (file)".to_owned(),
        format!("port={port} (flag)"),
    ] {
        assert!(given.contains(&setting), "{given}");
    }
    assert!(
        line["defaults"]
            .as_str()
            .unwrap()
            .contains("hostname=127.0.0.1")
    );
}
