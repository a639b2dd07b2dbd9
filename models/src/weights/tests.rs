//! Hostile files: each is an error that names the file and, where there is one, the tensor.

use std::path::Path;

use safetensors::tensor::{TensorView, serialize};
use tempfile::TempDir;

use super::*;

fn expected() -> Vec<Expected> {
    [("a", vec![2, 3]), ("b", vec![4])]
        .map(|(name, shape)| Expected {
            name: name.to_owned(),
            shape,
        })
        .into()
}

/// A safetensors file of zeros.
fn file(tensors: &[(&str, Dtype, &[usize])]) -> Vec<u8> {
    let zeros = [0_u8; 1024];
    let views = tensors.iter().map(|(name, dtype, shape)| {
        let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        let view = TensorView::new(*dtype, shape.to_vec(), &zeros[..bytes]).unwrap();
        ((*name).to_owned(), view)
    });
    serialize(views, None).unwrap()
}

fn good() -> Vec<u8> {
    file(&[("a", Dtype::F32, &[2, 3]), ("b", Dtype::BF16, &[4])])
}

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

fn open_and_check(folder: &Path) -> Result<Weights, LoadError> {
    let weights = Weights::open(&ModelFiles::Folder(folder.to_owned()))?;
    weights.check(&expected(), |name| name == "ignored")?;
    Ok(weights)
}

/// The message without the folder's name.
fn refusal(files: &[(&str, &[u8])]) -> String {
    let folder = folder(files);
    let message = open_and_check(folder.path()).unwrap_err().to_string();
    message.replace(&format!("{}/", folder.path().display()), "")
}

#[test]
fn good_files_are_read_whole_or_in_shards() {
    let ignored = file(&[
        ("a", Dtype::F32, &[2, 3]),
        ("b", Dtype::F16, &[4]),
        ("ignored", Dtype::I64, &[2]),
    ]);
    for bytes in [good(), ignored] {
        assert!(open_and_check(folder(&[(SINGLE, &bytes)]).path()).is_ok());
    }
    let shards = folder(&[
        (
            INDEX,
            br#"{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}"#,
        ),
        ("1.safetensors", &file(&[("a", Dtype::F32, &[2, 3])])),
        ("2.safetensors", &file(&[("b", Dtype::F32, &[4])])),
    ]);
    assert!(open_and_check(shards.path()).is_ok());
}

#[test]
fn wrong_tensors_are_named() {
    let a: (&str, Dtype, &[usize]) = ("a", Dtype::F32, &[2, 3]);
    let files = [
        file(&[a]),
        file(&[a, ("b", Dtype::F32, &[5])]),
        file(&[a, ("b", Dtype::F32, &[2, 2])]),
        file(&[a, ("b", Dtype::F64, &[4])]),
        file(&[a, ("b", Dtype::I8, &[4])]),
        file(&[a, ("b", Dtype::F32, &[4]), ("c", Dtype::F32, &[1])]),
    ];
    let messages: Vec<String> = files
        .iter()
        .map(|bytes| refusal(&[(SINGLE, bytes)]))
        .collect();
    insta::assert_debug_snapshot!("wrong_tensors", messages);
}

#[test]
fn broken_files_are_named() {
    let good = good();
    let mut overlapping = good.clone();
    let offset = overlapping
        .windows(7)
        .position(|bytes| bytes == b"[0,24],")
        .or_else(|| overlapping.windows(6).position(|bytes| bytes == b"[0,24]"));
    if let Some(offset) = offset {
        overlapping[offset + 3] = b'9';
    }
    let files: [&[u8]; 6] = [
        b"",
        b"\xff\xff\xff\xff\xff\xff\xff\xff{}",
        b"\x08\0\0\0\0\0\0\0not json",
        &good[..good.len() - 1],
        &good[..20],
        &overlapping,
    ];
    for bytes in files {
        let message = refusal(&[(SINGLE, bytes)]);
        assert!(message.starts_with("model.safetensors: "), "{message}");
    }
}

/// Every cut and every changed byte of a small file gives an error or a valid file, never a panic.
#[test]
fn no_damage_panics() {
    let good = good();
    let damaged = |bytes: Vec<u8>| {
        let leaked: &'static [u8] = Vec::leak(bytes);
        let files: &'static [(&str, &[u8])] = Vec::leak(vec![(SINGLE, leaked)]);
        if let Ok(weights) = Weights::open(&ModelFiles::Embedded(files))
            && weights.check(&expected(), |_| true).is_ok()
        {
            let mut values = Vec::new();
            weights.append_f32("a", &mut values).unwrap();
            assert_eq!(values.len(), 6);
        }
    };
    for length in 0..good.len() {
        damaged(good[..length].to_vec());
    }
    for index in 0..good.len() {
        for flip in [1, 0x10, 0x80] {
            let mut bytes = good.clone();
            bytes[index] ^= flip;
            damaged(bytes);
        }
    }
}

#[test]
fn wrong_indexes_and_folders_are_named() {
    let one = file(&[("a", Dtype::F32, &[2, 3])]);
    let index = |map: &str| format!(r#"{{"weight_map": {map}}}"#).into_bytes();
    let outside = index(r#"{"a": "../1.safetensors"}"#);
    let absent = index(r#"{"a": "1.safetensors", "b": "2.safetensors"}"#);
    let elsewhere = index(r#"{"a": "1.safetensors", "b": "1.safetensors"}"#);
    let short = index(r#"{"a": "1.safetensors"}"#);
    let twice = index(r#"{"a": "1.safetensors", "b": "2.safetensors"}"#);
    let with_index = |map: &[u8]| refusal(&[(INDEX, map), ("1.safetensors", &one)]);
    let messages = [
        refusal(&[]),
        refusal(&[("pytorch_model.bin", b"PK")]),
        with_index(b"{}"),
        with_index(&index("{}")),
        with_index(&index(r#"{"a": 1}"#)),
        with_index(&outside),
        with_index(&absent),
        with_index(&elsewhere),
        with_index(&short),
        refusal(&[
            (INDEX, &twice),
            ("1.safetensors", &one),
            ("2.safetensors", &good()),
        ]),
    ];
    insta::assert_debug_snapshot!("wrong_indexes", messages);
}

#[test]
fn values_convert_exactly_or_round() {
    let floats = [1.0_f32, -2.5, 0.333_333_34, 65504.0, -0.0, 1e-3];
    let f32s: Vec<u8> = floats.iter().flat_map(|x| x.to_le_bytes()).collect();
    let f16s: Vec<u8> = floats
        .iter()
        .flat_map(|x| f16::from_f32(*x).to_le_bytes())
        .collect();
    let bf16s: Vec<u8> = floats
        .iter()
        .flat_map(|x| bf16::from_f32(*x).to_le_bytes())
        .collect();
    let cases = [
        (Dtype::F32, &f32s),
        (Dtype::F16, &f16s),
        (Dtype::BF16, &bf16s),
    ];
    for (dtype, bytes) in cases {
        let view = TensorView::new(dtype, vec![2, 3], bytes).unwrap();
        let folder = folder(&[(SINGLE, &serialize([("a", view)], None).unwrap())]);
        let weights = Weights::open(&ModelFiles::Folder(folder.path().to_owned())).unwrap();
        let (mut wide, mut narrow) = (Vec::new(), Vec::new());
        weights.append_f32("a", &mut wide).unwrap();
        weights.append_bf16("a", &mut narrow).unwrap();
        let stored = |x: f32| match dtype {
            Dtype::F16 => f16::from_f32(x).to_f32(),
            Dtype::BF16 => bf16::from_f32(x).to_f32(),
            _ => x,
        };
        assert_eq!(wide, floats.map(stored));
        assert_eq!(narrow, floats.map(|x| bf16::from_f32(stored(x))));
    }
}

#[test]
fn the_first_bert_files_names_are_understood() {
    assert_eq!(
        modern("bert.embeddings.LayerNorm.gamma"),
        "bert.embeddings.LayerNorm.weight"
    );
    assert_eq!(modern("x.LayerNorm.beta"), "x.LayerNorm.bias");
    assert_eq!(modern("x.gamma"), "x.gamma");
}
