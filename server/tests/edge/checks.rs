//! What the binary says of models before it loads them: mistakes are named, and end as serving would;
//! nobody is asked.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use crate::configuration::{said, serve};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const OK: &str = "configuration ok\n";
const LLAMA: &str = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
    "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "vocab_size": 512, "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5}"#;
const WEIGHTS: &str = "model.safetensors";

/// Writes a model's folder that has nothing but this.
fn bare(folder: &Path, config: &str) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("config.json"), config).unwrap();
}

/// Writes a model's folder that can be served.
fn whole(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo/decoder/model");
    for entry in fs::read_dir(demo).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
}

/// Writes folders that are models but for one thing.
fn mistaken(root: &Path) {
    let copy = |name: &str| {
        whole(&root.join(name));
        root.join(name)
    };
    bare(&root.join("bare"), LLAMA);
    bare(&root.join("cut"), "{\"architectures\": [");
    let strange = LLAMA.replace("Llama", "Mamba").replace("llama", "mamba");
    bare(&root.join("strange"), &strange);
    copy("whole");
    for (name, bytes) in [("short", 3_000_000), ("empty", 3)] {
        let weights = fs::File::options()
            .write(true)
            .open(copy(name).join(WEIGHTS));
        weights.unwrap().set_len(bytes).unwrap();
    }
    fs::remove_file(copy("silent").join("tokenizer.json")).unwrap();
}

/// The exit code, and what went to standard output and to standard error.
fn check(flags: &[&str], variables: &[(&str, &str)]) -> (i32, String, String) {
    let output = serve(&[flags, &["--check-config"]].concat(), variables);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code().unwrap(), printed, said(&output))
}

/// Folders, more flags, and what comes of them.
const MISTAKES: &[(&str, &[&str], i32, &str)] = &[
    ("", &[], 78, "--model-id: is empty"),
    (
        "/none",
        &[],
        78,
        "/none is not a folder: there is none of this name",
    ),
    (
        "./nothing",
        &[],
        78,
        "./nothing is not a folder: there is none of this name",
    ),
    (
        "{}/whole/config.json",
        &[],
        78,
        "is a file; give the folder that has config.json",
    ),
    ("{}/cut", &[], 78, "config.json"),
    ("{}/strange", &[], 78, "Mamba"),
    ("{}/silent", &[], 78, "tokenizer.json: no such file"),
    // Its weights are missing.
    ("{}/bare", &[], 78, "safetensors"),
    (
        "{}/short",
        &[],
        65,
        "model.safetensors: incomplete metadata, file not fully covered",
    ),
    ("{}/empty", &[], 65, "model.safetensors: header too small"),
    (
        "{}/whole",
        &["--tls-cert", "/none", "--tls-key", "/none"],
        78,
        "--tls-cert /none: No such file",
    ),
];

#[test]
fn a_check_says_what_serving_would_say() {
    let folder = tempfile::tempdir().unwrap();
    mistaken(folder.path());
    let root = folder.path().to_str().unwrap();
    for (model, more, code, message) in MISTAKES {
        let model = model.replace("{}", root);
        let flags = [&["--model-id", model.as_str()], *more].concat();
        let (found, printed, said) = check(&flags, &[]);
        assert_eq!((found, printed.as_str()), (*code, ""), "{flags:?}: {said}");
        assert!(said.contains(message), "{said}");
        let served = serve(&[&flags[..], &["--port", "0"]].concat(), &[]);
        assert_eq!(served.status.code(), Some(*code), "{flags:?}");
    }
    let ok = (0, OK.to_owned(), String::new());
    assert_eq!(check(&[], &[]), ok);
    assert_eq!(check(&["--model-id", &format!("{root}/whole")], &[]), ok);
    let bare = format!("{root}/bare");
    assert_eq!(
        check(&["--load-format", "dummy", "--model-id", &bare], &[]),
        ok
    );
}

#[test]
fn a_check_says_of_models_of_the_hub_what_a_start_would_do() {
    // Nobody may be asked; whoever is would know.
    let hub = TcpListener::bind("127.0.0.1:0").unwrap();
    hub.set_nonblocking(true).unwrap();
    let endpoint = format!("http://{}", hub.local_addr().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("hub/models--org--demo");
    let snapshot = model.join("snapshots").join(COMMIT);
    whole(&snapshot);
    fs::create_dir_all(model.join("refs")).unwrap();
    fs::write(model.join("refs/main"), COMMIT).unwrap();
    let home = folder.path().to_str().unwrap();
    let check = |flags: &[&str], offline: &str| {
        let variables = [("HF_ENDPOINT", endpoint.as_str()), ("HF_HOME", home)];
        check(
            flags,
            &[&variables[..], &[("HF_HUB_OFFLINE", offline)]].concat(),
        )
    };
    let cache = format!("in the cache {home}/hub");
    let here = ["--model-id", "org/demo"];
    let pinned = ["--model-id", "org/demo", "--revision", COMMIT];
    let there = ["--model-id", "other=org/other", "--revision", "v2"];
    let found = format!("org/demo: commit {COMMIT} {cache}");
    let newer = format!("{found}, unless {endpoint} names a newer one for main\n{OK}");
    let missing = format!(
        "other: not {cache}; a start downloads org/other at v2 from {endpoint}, and what it is \
         shows only then\n{OK}"
    );
    let refused = format!("org/other at v2 is not {cache}, and HF_HUB_OFFLINE is set");
    for (flags, offline, code, text) in [
        (&here[..], "", 0, &newer),
        (&here, "1", 0, &format!("{found}\n{OK}")),
        (&pinned, "", 0, &format!("{found}\n{OK}")),
        (&there, "", 0, &missing),
        (&there, "1", 78, &refused),
    ] {
        let (found, printed, said) = check(flags, offline);
        assert_eq!(found, code, "{flags:?} {offline}: {printed}{said}");
        let place = if code == 0 { printed } else { said };
        assert!(place.contains(text.as_str()), "{place}");
    }
    // What is in the cache is looked into.
    fs::write(snapshot.join(WEIGHTS), "cut").unwrap();
    let (code, _, said) = check(&here, "");
    assert_eq!(code, 65, "{said}");
    assert!(hub.accept().is_err(), "the hub was asked");
}

#[test]
fn without_hashes_a_folder_is_only_looked_into() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    whole(folder);
    let verify = |expected: i32, texts: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_paternoster"));
        let output = command
            .arg("verify")
            .arg(folder)
            .env_clear()
            .output()
            .unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let told = printed + &said(&output);
        assert_eq!(output.status.code(), Some(expected), "{told}");
        for text in texts {
            assert!(told.contains(text), "{text}: {told}");
        }
    };
    verify(
        78,
        &[
            ": 0 good, 0 bad, 5 of which no hash is known\n",
            "nothing to verify against: no hash is known of config.json, ",
            " and 1 more. The files fit together as LlamaForCausalLM",
        ],
    );
    // A hash of what is not the weights does not verify the weights.
    let notes = folder.join(".cache/huggingface/download");
    fs::create_dir_all(&notes).unwrap();
    fs::write(folder.join("a.json"), "hello\n").unwrap();
    let note = "x\nce013625030ba8dba906f756967f9e9ca394464a\n1.5\n";
    fs::write(notes.join("a.json.metadata"), note).unwrap();
    verify(78, &[": 1 good, 0 bad, 5 of", "nothing to verify against"]);

    fs::write(folder.join(WEIGHTS), "cut").unwrap();
    verify(65, &["model.safetensors: header too small"]);
    fs::remove_file(folder.join(WEIGHTS)).unwrap();
    verify(0, &[": 1 good, ", "; no weights among them\n"]);
    fs::remove_dir_all(folder.join(".cache")).unwrap();
    verify(78, &["model.safetensors and"]);
}
