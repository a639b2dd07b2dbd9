//! What a model needs and what a machine gives, read from TOML.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// The models and machines that can be named.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    /// Machines by name.
    #[serde(default)]
    pub hardware: BTreeMap<String, Hardware>,
    /// Models by name.
    #[serde(default)]
    pub models: BTreeMap<String, Model>,
}

/// One accelerator.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hardware {
    /// Bytes of memory.
    pub memory: f64,
    /// The share of it for weights, KV cache and reserve.
    pub memory_share: f64,
    /// Bytes that are neither weights nor KV cache.
    pub reserve: f64,
    /// Bytes a second, as its maker says.
    pub bandwidth: f64,
    /// The share of it that is reached.
    pub bandwidth_efficiency: f64,
    /// Operations a second, as its maker says.
    pub flops: Rates,
    /// The share of them that is reached.
    pub flops_efficiency: Rates,
    /// What a step costs that computes nothing.
    pub step_overhead_us: f64,
}

/// A figure for each type of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// In bf16.
    pub bf16: f64,
    /// In fp8; where there is none, it is computed in bf16.
    pub fp8: Option<f64>,
}

impl Rates {
    fn of(self, precision: Precision) -> f64 {
        match precision {
            Precision::Bf16 => self.bf16,
            Precision::Fp8 => self.fp8.unwrap_or(self.bf16),
        }
    }
}

/// How numbers are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Two bytes each.
    Bf16,
    /// One byte each.
    Fp8,
}

impl Precision {
    /// Bytes of one number.
    pub fn bytes(self) -> f64 {
        match self {
            Self::Bf16 => 2.0,
            Self::Fp8 => 1.0,
        }
    }
}

/// A decoder's shape.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Layers.
    pub layers: u32,
    /// Values of one position between layers.
    pub hidden: u32,
    /// Heads that ask.
    pub heads: u32,
    /// Heads that are kept.
    pub kv_heads: u32,
    /// Values of one head.
    pub head_dim: u32,
    /// Values inside a feed-forward layer, which is gated: three matrices.
    pub ffn: u32,
    /// Tokens there are.
    pub vocabulary: u32,
    /// Whether the first and the last matrix are one.
    #[serde(default)]
    pub tied: bool,
    /// How weights are kept and computed with.
    pub weights: Precision,
    /// How keys and values are kept.
    pub kv: Precision,
}

/// Why a catalogue cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// The file cannot be read.
    #[error("{path}: {cause}")]
    Read {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        cause: std::io::Error,
    },
    /// The file is not such a catalogue.
    #[error("{path}: {cause}")]
    Parse {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        cause: toml::de::Error,
    },
    /// A figure makes no sense.
    #[error("hardware {name:?}: {figure} is to be above 0")]
    Figure {
        /// The machine.
        name: String,
        /// The figure.
        figure: &'static str,
    },
    /// There is no such name.
    #[error("no {kind} {name:?}; there are {known}")]
    Unknown {
        /// A model or a machine.
        kind: &'static str,
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
}

const PRESETS: &str = include_str!("presets.toml");

impl Catalogue {
    /// What is built in.
    #[expect(clippy::expect_used, reason = "a test reads the file")]
    pub fn presets() -> Self {
        toml::from_str(PRESETS).expect("the presets are a catalogue")
    }

    /// What is built in, and what a file adds or replaces.
    pub fn with_file(path: Option<&Path>) -> Result<Self, CatalogueError> {
        let mut catalogue = Self::presets();
        let Some(path) = path else {
            return Ok(catalogue);
        };
        let text = std::fs::read_to_string(path).map_err(|cause| CatalogueError::Read {
            path: path.to_owned(),
            cause,
        })?;
        let own: Self = toml::from_str(&text).map_err(|cause| CatalogueError::Parse {
            path: path.to_owned(),
            cause,
        })?;
        for (name, hardware) in &own.hardware {
            hardware.check(name)?;
        }
        catalogue.hardware.extend(own.hardware);
        catalogue.models.extend(own.models);
        Ok(catalogue)
    }

    /// A machine.
    pub fn hardware(&self, name: &str) -> Result<&Hardware, CatalogueError> {
        find("hardware", &self.hardware, name)
    }

    /// A model.
    pub fn model(&self, name: &str) -> Result<&Model, CatalogueError> {
        find("model", &self.models, name)
    }
}

fn find<'a, T>(
    kind: &'static str,
    among: &'a BTreeMap<String, T>,
    name: &str,
) -> Result<&'a T, CatalogueError> {
    among.get(name).ok_or_else(|| CatalogueError::Unknown {
        kind,
        name: name.to_owned(),
        known: among.keys().cloned().collect::<Vec<_>>().join(", "),
    })
}

impl Hardware {
    fn check(&self, name: &str) -> Result<(), CatalogueError> {
        let figures = [
            ("memory", self.memory),
            ("memory_share", self.memory_share),
            ("bandwidth", self.bandwidth),
            ("bandwidth_efficiency", self.bandwidth_efficiency),
            ("flops.bf16", self.flops.bf16),
            ("flops_efficiency.bf16", self.flops_efficiency.bf16),
            ("flops.fp8", self.flops.fp8.unwrap_or(1.0)),
            (
                "flops_efficiency.fp8",
                self.flops_efficiency.fp8.unwrap_or(1.0),
            ),
        ];
        match figures
            .iter()
            .find(|(_, value)| value.is_nan() || *value <= 0.0)
        {
            None => Ok(()),
            Some(&(figure, _)) => Err(CatalogueError::Figure {
                name: name.to_owned(),
                figure,
            }),
        }
    }

    /// Operations a second with such weights, as its maker says.
    pub fn peak(&self, precision: Precision) -> f64 {
        self.flops.of(precision)
    }

    /// Operations a second with such weights that are reached.
    pub fn reached(&self, precision: Precision) -> f64 {
        // Where there is no fp8 arithmetic, the efficiency is that of bf16, too.
        let precision = match self.flops.fp8 {
            None => Precision::Bf16,
            Some(_) => precision,
        };
        self.flops.of(precision) * self.flops_efficiency.of(precision)
    }

    /// Tokens whose keys and values fit beside a model; 0 if the model does not.
    pub fn kv_tokens(&self, model: &Model) -> u64 {
        let left = self.memory * self.memory_share - self.reserve - model.weight_bytes();
        (left.max(0.0) / model.kv_bytes()) as u64
    }
}

impl Model {
    /// Weights of the layers.
    pub fn layer_parameters(&self) -> f64 {
        let [hidden, heads, kv_heads, head_dim, ffn] = [
            self.hidden,
            self.heads,
            self.kv_heads,
            self.head_dim,
            self.ffn,
        ]
        .map(f64::from);
        let attention = 2.0 * hidden * head_dim * (heads + kv_heads);
        f64::from(self.layers) * (attention + 3.0 * hidden * ffn)
    }

    /// Weights of the last matrix, which makes logits of a row.
    pub fn head_parameters(&self) -> f64 {
        f64::from(self.hidden) * f64::from(self.vocabulary)
    }

    /// Bytes of all weights.
    pub fn weight_bytes(&self) -> f64 {
        let embedding = if self.tied {
            0.0
        } else {
            self.head_parameters()
        };
        (self.layer_parameters() + self.head_parameters() + embedding) * self.weights.bytes()
    }

    /// Bytes of weights that a step reads: all but the first matrix, of which it reads a few rows.
    pub fn read_bytes(&self) -> f64 {
        (self.layer_parameters() + self.head_parameters()) * self.weights.bytes()
    }

    /// Bytes of one token's keys and values.
    pub fn kv_bytes(&self) -> f64 {
        2.0 * f64::from(self.layers)
            * f64::from(self.kv_heads)
            * f64::from(self.head_dim)
            * self.kv.bytes()
    }

    /// Operations of attention for one position and one token that it looks at.
    pub fn attention_flops(&self) -> f64 {
        4.0 * f64::from(self.layers) * f64::from(self.heads) * f64::from(self.head_dim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_presets_have_the_sizes_that_are_known() {
        let catalogue = Catalogue::presets();
        // Billions of weights, KiB of a token's keys and values.
        for (name, parameters, kib) in [
            ("llama-3.1-8b", 8.03, 128.0),
            ("llama-3.1-8b-fp8", 8.03, 64.0),
            ("llama-3.3-70b-fp8", 70.55, 160.0),
            ("smollm2-135m", 0.1345, 22.5),
        ] {
            let model = catalogue.model(name).unwrap();
            let found = model.weight_bytes() / model.weights.bytes() / 1e9;
            assert!((found / parameters - 1.0).abs() < 0.002, "{name}: {found}");
            let found = model.kv_bytes() / 1024.0;
            assert!((found - kib).abs() < 1e-9, "{name}: {found}");
        }
        for (name, hardware) in &catalogue.hardware {
            hardware.check(name).unwrap();
        }
    }

    #[test]
    fn a_machine_without_fp8_computes_in_bf16() {
        let catalogue = Catalogue::presets();
        let a100 = catalogue.hardware("a100-80").unwrap();
        assert!((a100.reached(Precision::Fp8) - 312e12 * 0.65).abs() < 1.0);
        let h200 = catalogue.hardware("h200").unwrap();
        assert!((h200.reached(Precision::Fp8) - 1979e12 * 0.54).abs() < 1.0);
        let model = catalogue.model("llama-3.1-8b-fp8").unwrap();
        let tokens = h200.kv_tokens(model);
        assert!((1_850_000..1_900_000).contains(&tokens), "{tokens}");
    }

    #[test]
    fn a_name_that_is_not_there_is_told_with_those_that_are() {
        let error = Catalogue::presets().hardware("h300").unwrap_err();
        let said = error.to_string();
        assert!(said.contains("h300") && said.contains("h200"), "{said}");
    }

    #[test]
    fn a_spec_with_a_wrong_word_or_figure_is_refused() {
        let folder = std::env::temp_dir().join(format!("spec-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("spec.toml");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Catalogue::with_file(Some(&path))
        };
        let good = "[hardware.x]\nmemory = 1e9\nmemory_share = 1.0\nreserve = 0.0\n\
            bandwidth = 1e9\nbandwidth_efficiency = 1.0\nflops = { bf16 = 1e12 }\n\
            flops_efficiency = { bf16 = 1.0 }\nstep_overhead_us = 0.0\n";
        let catalogue = read(good).unwrap();
        assert!(catalogue.hardware("x").is_ok() && catalogue.hardware("h200").is_ok());
        assert!(read(&good.replace("reserve", "spare")).is_err());
        assert!(read(&good.replace("1e12", "0.0")).is_err());
        assert!(Catalogue::with_file(Some(&folder.join("none"))).is_err());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
