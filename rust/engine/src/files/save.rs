//! A model out: config.json and model.safetensors, as Hugging Face lays them out.
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use super::config_json::{TokenIds, check, config_to_json};
use super::disk;
use super::error::FileError;
use super::roles::{Part, Role};
use crate::config::{Family, ModelConfig};
use crate::weights::Weights;

/// How saved weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaveDtype {
    F32,
    F16,
    Bf16,
}

impl SaveDtype {
    /// From Hugging Face's name: float32, float16, bfloat16.
    pub fn named(name: &str) -> Option<Self> {
        [Self::F32, Self::F16, Self::Bf16]
            .into_iter()
            .find(|dtype| dtype.name() == name)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
        }
    }

    const fn stored(self) -> (Dtype, usize) {
        match self {
            Self::F32 => (Dtype::F32, 4),
            Self::F16 => (Dtype::F16, 2),
            Self::Bf16 => (Dtype::BF16, 2),
        }
    }

    /// Round to nearest, ties to even.
    fn encode(self, values: &[f32], out: &mut Vec<u8>) {
        out.clear();
        for value in values {
            match self {
                Self::F32 => out.extend_from_slice(&value.to_le_bytes()),
                Self::F16 => out.extend_from_slice(&f16::from_f32(*value).to_le_bytes()),
                Self::Bf16 => out.extend_from_slice(&bf16::from_f32(*value).to_le_bytes()),
            }
        }
    }
}

/// One tensor on its way out.
pub struct OutTensor<'a> {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: &'a [f32],
}

/// Write `config.json` and `model.safetensors` into `dir`, made where it is not there. Each file appears whole or
/// not at all, the configuration last: a directory with it is complete.
pub fn save_merged(
    dir: &Path,
    config: &ModelConfig,
    weights: &Weights<f32>,
    dtype: SaveDtype,
    ids: &TokenIds,
) -> Result<(), FileError> {
    check(config, dir)?;
    // transformers' Llama and Qwen3 have no query bias without one at the output; zeros are the same as none.
    let zeros = vec![
        0.0;
        if config.qkv_bias && config.family != Family::Qwen2 {
            config.hidden
        } else {
            0
        }
    ];
    let tensors = pieces(config, weights, &zeros, dir)?;
    in_dir(dir, || {
        write_safetensors(&dir.join("model.safetensors"), &tensors, dtype)?;
        let text = config_to_json(config, ids, dtype.name());
        disk::write_atomically(&dir.join("config.json"), |out| {
            out.write_all(text.as_bytes())
        })
    })
}

/// Run `write` in `dir`; a directory that this made goes away again when it fails.
pub fn in_dir(dir: &Path, write: impl FnOnce() -> Result<(), FileError>) -> Result<(), FileError> {
    let new = disk::make_dir(dir)?;
    let written = write();
    if written.is_err() && new {
        // Refused, rightly, when a first file was already whole.
        let _ = fs::remove_dir(dir);
    }
    written
}

/// Every tensor with its Hugging Face name; fused matrices are cut into their rows.
fn pieces<'a>(
    config: &ModelConfig,
    weights: &'a Weights<f32>,
    zeros: &'a [f32],
    dir: &Path,
) -> Result<Vec<OutTensor<'a>>, FileError> {
    let mut out = Vec::new();
    let mut put = |roles: &[Role], fused: &'a [f32]| -> Result<(), FileError> {
        let mut rest = fused;
        for role in roles {
            let shape = role.shape(config);
            let Some((values, others)) = rest.split_at_checked(shape.iter().product()) else {
                return Err(wrong_size(dir, role, config, fused.len()));
            };
            out.push(OutTensor {
                name: role.huggingface(),
                shape,
                values,
            });
            rest = others;
        }
        match rest {
            [] => Ok(()),
            _ => Err(wrong_size(dir, &roles[0], config, fused.len())),
        }
    };
    put(&[Role::Embed], &weights.embed)?;
    if weights.layers.len() != config.n_layers {
        return Err(FileError::malformed(
            dir,
            format!(
                "{} layers of weights for a configuration of {}",
                weights.layers.len(),
                config.n_layers
            ),
        ));
    }
    for (i, layer) in weights.layers.iter().enumerate() {
        let role = |part| Role::Layer(i, part);
        put(&[role(Part::AttnNorm)], &layer.attn_norm)?;
        put(&[Part::Q, Part::K, Part::V].map(role), &layer.qkv)?;
        if let Some(bias) = &layer.qkv_bias {
            put(&[Part::QBias, Part::KBias, Part::VBias].map(role), bias)?;
            if config.family != Family::Qwen2 {
                put(&[role(Part::OBias)], zeros)?;
            }
        }
        for (part, norm) in [(Part::QNorm, &layer.q_norm), (Part::KNorm, &layer.k_norm)] {
            if let Some(norm) = norm {
                put(&[role(part)], norm)?;
            }
        }
        put(&[role(Part::O)], &layer.o)?;
        put(&[role(Part::MlpNorm)], &layer.mlp_norm)?;
        put(&[Part::Gate, Part::Up].map(role), &layer.gate_up)?;
        put(&[role(Part::Down)], &layer.down)?;
    }
    put(&[Role::FinalNorm], &weights.final_norm)?;
    if let Some(head) = &weights.head {
        put(&[Role::Head], head)?;
    }
    Ok(out)
}

fn wrong_size(dir: &Path, role: &Role, config: &ModelConfig, found: usize) -> FileError {
    FileError::Shape {
        path: dir.into(),
        tensor: role.huggingface(),
        expected: role.shape(config),
        found: vec![found],
    }
}

/// Stream tensors to one safetensors file, whole or not at all.
pub fn write_safetensors(
    path: &Path,
    tensors: &[OutTensor<'_>],
    dtype: SaveDtype,
) -> Result<(), FileError> {
    // The largest f32 that rounds to a finite half is below 65520.
    let too_large = |value: &f32| value.is_finite() && value.abs() >= 65520.0;
    if dtype == SaveDtype::F16
        && let Some(tensor) = tensors
            .iter()
            .find(|tensor| tensor.values.par_iter().any(too_large))
    {
        return Err(FileError::unsupported(
            path,
            format!(
                "`{}`, which holds a value beyond float16's largest, as float16",
                tensor.name
            ),
            "save as bfloat16 or float32",
        ));
    }
    let (stored, width) = dtype.stored();
    let mut at = 0;
    let mut infos = Vec::new();
    for tensor in tensors {
        let end = at + tensor.values.len() * width;
        let info = TensorInfo {
            dtype: stored,
            shape: tensor.shape.clone(),
            data_offsets: (at, end),
        };
        infos.push((tensor.name.clone(), info));
        at = end;
    }
    let about = [("format".to_owned(), "pt".to_owned())].into();
    let metadata = Metadata::new(Some(about), infos)
        .map_err(|error| FileError::malformed(path, format!("cannot be laid out: {error}")))?;
    let mut header = serde_json::to_vec(&metadata)
        .map_err(|error| FileError::io(path, "write the header of", io::Error::other(error)))?;
    // Padded with spaces, so that the data is aligned to 8 bytes.
    header.resize(header.len().next_multiple_of(8), b' ');
    disk::write_atomically(path, |out| {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        let mut bytes = Vec::new();
        for tensor in tensors {
            for values in tensor.values.chunks(1 << 16) {
                dtype.encode(values, &mut bytes);
                out.write_all(&bytes)?;
            }
        }
        Ok(())
    })
}
