//! The tensors of a checkpoint: safetensors files, mapped, checked against what the spec expects
//! before the first one is read. Pickle is refused.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use half::{bf16, f16};
use kernels::mapped::MappedFile;
use safetensors::{Dtype, SafeTensors};

use crate::config::Config;
use crate::files::{FileError, ModelFiles};
use crate::load::LoadError;
use crate::tensors::Expected;

/// The tensors of one checkpoint.
#[derive(Debug)]
pub(crate) struct Weights {
    files: Vec<File>,
    tensors: BTreeMap<String, Tensor>,
}

#[derive(Debug)]
struct File {
    name: String,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    Mapped(MappedFile),
    Embedded(Cow<'static, [u8]>),
}

#[derive(Debug)]
struct Tensor {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Where it stands in the file.
    start: usize,
    end: usize,
}

impl Weights {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    pub(crate) fn open(files: &ModelFiles) -> Result<Self, LoadError> {
        let mut weights = Self {
            files: Vec::new(),
            tensors: BTreeMap::new(),
        };
        match open(files, SINGLE) {
            Ok(bytes) => weights.add(SINGLE, bytes)?,
            Err(FileError::Missing(_)) => weights.open_shards(files)?,
            Err(error) => return Err(error.into()),
        }
        Ok(weights)
    }

    /// Opens the one file of a module in a folder below the model's.
    pub(crate) fn open_module(files: &ModelFiles, folder: &str) -> Result<Self, LoadError> {
        let mut weights = Self {
            files: Vec::new(),
            tensors: BTreeMap::new(),
        };
        let name = format!("{folder}/{SINGLE}");
        match open(files, &name) {
            Ok(bytes) => weights.add(&name, bytes)?,
            Err(FileError::Missing(_)) => return Err(no_weights(files, &format!("{folder}/"))),
            Err(error) => return Err(error.into()),
        }
        Ok(weights)
    }

    /// That every expected tensor is there with its shape and a float dtype, and no other but
    /// those that `ignored` knows.
    pub(crate) fn check(
        &self,
        expected: &[Expected],
        ignored: impl Fn(&str) -> bool,
    ) -> Result<(), LoadError> {
        let mut known = std::collections::BTreeSet::new();
        for Expected { name, shape } in expected {
            let tensor = self.find(name)?;
            if tensor.shape != *shape {
                let message = format!("shape {:?}, expected {shape:?}", tensor.shape);
                return Err(self.error(tensor.file, name, message));
            }
            if !matches!(tensor.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
                let message = format!("dtype {:?}, expected F32, F16 or BF16", tensor.dtype);
                return Err(self.error(tensor.file, name, message));
            }
            known.insert(name.as_str());
        }
        let stranger = self
            .tensors
            .iter()
            .find(|(name, _)| !known.contains(name.as_str()) && !ignored(name));
        match stranger {
            Some((name, tensor)) => Err(self.error(
                tensor.file,
                name,
                "the architecture has no such tensor".to_owned(),
            )),
            None => Ok(()),
        }
    }

    /// Appends a tensor's values to `out`.
    pub(crate) fn append_f32(&self, name: &str, out: &mut Vec<f32>) -> Result<(), LoadError> {
        let (dtype, bytes) = self.read(name)?;
        match dtype {
            Dtype::F32 => out.extend(f32_values(bytes)),
            Dtype::F16 => out.extend(f16_values(bytes).map(f16::to_f32)),
            _ => out.extend(bf16_values(bytes).map(bf16::to_f32)),
        }
        Ok(())
    }

    /// Appends a tensor's values to `out`, rounded to bf16 where they are wider.
    pub(crate) fn append_bf16(&self, name: &str, out: &mut Vec<bf16>) -> Result<(), LoadError> {
        let (dtype, bytes) = self.read(name)?;
        match dtype {
            Dtype::F32 => out.extend(f32_values(bytes).map(bf16::from_f32)),
            Dtype::F16 => out.extend(f16_values(bytes).map(|x| bf16::from_f32(x.to_f32()))),
            _ => out.extend(bf16_values(bytes)),
        }
        Ok(())
    }

    /// Whether any tensor's name starts so.
    pub(crate) fn has_prefix(&self, prefix: &str) -> bool {
        self.tensors.keys().any(|name| name.starts_with(prefix))
    }

    fn open_shards(&mut self, files: &ModelFiles) -> Result<(), LoadError> {
        let Some(index) = files.read_optional(INDEX)? else {
            return Err(no_weights(files, ""));
        };
        let map = Config::parse(INDEX, &index)?
            .object("weight_map")?
            .ok_or_else(|| index_error("weight_map is missing"))?;
        let mut shards = BTreeMap::new();
        for (tensor, shard) in map.entries() {
            let shard = shard
                .as_str()
                .ok_or_else(|| map.wrong(tensor, "a file's name"))?;
            shards
                .entry(shard.to_owned())
                .or_insert_with(Vec::new)
                .push(modern(tensor));
        }
        if shards.is_empty() {
            return Err(index_error("weight_map is empty"));
        }
        for (shard, tensors) in shards {
            self.add(&shard, open(files, &shard)?)?;
            for tensor in tensors {
                let file = self.files.len() - 1;
                if self
                    .tensors
                    .get(&tensor)
                    .is_none_or(|found| found.file != file)
                {
                    let message = format!("{INDEX} says it is in this file; it is not");
                    return Err(self.error(file, &tensor, message));
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, name: &str, bytes: Bytes) -> Result<(), LoadError> {
        let file = self.files.len();
        let broken = |message: String| LoadError::Config {
            file: name.to_owned(),
            message,
        };
        let contents = bytes.bytes();
        let views =
            SafeTensors::deserialize(contents).map_err(|error| broken(error.to_string()))?;
        let base = contents.as_ptr() as usize;
        let mut tensors = Vec::with_capacity(views.len());
        for (tensor, view) in views.iter() {
            let start = view.data().as_ptr() as usize - base;
            let end = start + view.data().len();
            let shape = view.shape().to_vec();
            tensors.push((
                modern(tensor),
                Tensor {
                    file,
                    dtype: view.dtype(),
                    shape,
                    start,
                    end,
                },
            ));
        }
        self.files.push(File {
            name: name.to_owned(),
            bytes,
        });
        for (name, tensor) in tensors {
            if let Some(other) = self.tensors.insert(name.clone(), tensor) {
                let message = format!("stands in {} too", self.files[other.file].name);
                return Err(self.error(file, &name, message));
            }
        }
        Ok(())
    }

    fn find(&self, name: &str) -> Result<&Tensor, LoadError> {
        self.tensors.get(name).ok_or_else(|| LoadError::Tensor {
            file: match self.files.as_slice() {
                [single] => single.name.clone(),
                _ => INDEX.to_owned(),
            },
            tensor: name.to_owned(),
            message: "missing".to_owned(),
        })
    }

    fn read(&self, name: &str) -> Result<(Dtype, &[u8]), LoadError> {
        let tensor = self.find(name)?;
        let bytes = self.files[tensor.file].bytes.bytes();
        Ok((tensor.dtype, &bytes[tensor.start..tensor.end]))
    }

    fn error(&self, file: usize, tensor: &str, message: String) -> LoadError {
        LoadError::Tensor {
            file: self.files[file].name.clone(),
            tensor: tensor.to_owned(),
            message,
        }
    }
}

impl Bytes {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(file) => file.bytes(),
            Self::Embedded(bytes) => bytes,
        }
    }
}

/// Today's name of a tensor: the first BERT files called a norm's weight gamma and its bias beta.
fn modern(name: &str) -> String {
    match name.strip_suffix("LayerNorm.gamma") {
        Some(norm) => format!("{norm}LayerNorm.weight"),
        None => match name.strip_suffix("LayerNorm.beta") {
            Some(norm) => format!("{norm}LayerNorm.bias"),
            None => name.to_owned(),
        },
    }
}

fn open(files: &ModelFiles, name: &str) -> Result<Bytes, FileError> {
    match files.path(name)? {
        Some(path) => map(&path).map(Bytes::Mapped),
        None => files.read(name).map(Bytes::Embedded),
    }
}

fn map(path: &Path) -> Result<MappedFile, FileError> {
    MappedFile::open(path).map_err(|error| FileError::of(path, error))
}

/// Names the pickle file of a folder that has nothing else.
fn no_weights(files: &ModelFiles, folder: &str) -> LoadError {
    let is_there = |name: &&&str| matches!(files.has(&format!("{folder}{name}")), Ok(true));
    match PICKLES.iter().find(is_there) {
        Some(pickle) => LoadError::Pickle(format!("{folder}{pickle}")),
        None if folder.is_empty() => FileError::Missing(format!("{SINGLE} and {INDEX}")).into(),
        None => FileError::Missing(format!("{folder}{SINGLE}")).into(),
    }
}

fn index_error(message: &str) -> LoadError {
    LoadError::Config {
        file: INDEX.to_owned(),
        message: message.to_owned(),
    }
}

fn f32_values(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
}

fn f16_values(bytes: &[u8]) -> impl Iterator<Item = f16> {
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|bytes| f16::from_le_bytes(*bytes))
}

fn bf16_values(bytes: &[u8]) -> impl Iterator<Item = bf16> {
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|bytes| bf16::from_le_bytes(*bytes))
}

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const PICKLES: &[&str] = &[
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "model.pt",
];

#[cfg(test)]
mod tests;
