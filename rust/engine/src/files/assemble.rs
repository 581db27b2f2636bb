//! Stored tensors to [`Weights`]: everything is checked first, then memory is taken, then all cores fill it.
use std::collections::HashSet;
use std::path::Path;

use rayon::prelude::*;

use super::error::FileError;
use super::roles::{Part, Role};
use super::tensor::StoredTensor;
use crate::config::ModelConfig;
use crate::weights::{LayerWeights, Weights};

/// A set of stored tensors under one naming scheme.
pub trait TensorSource: Sync {
    /// The tensor of a role; `None` when there is none.
    fn tensor(&self, role: Role) -> Result<Option<StoredTensor<'_>>, FileError>;
    /// The error for a tensor that must be there.
    fn missing(&self, role: Role) -> FileError;
    /// All tensor names.
    fn names(&self) -> Vec<String>;
    fn name_of(&self, role: Role) -> String;
    /// What names of tensors inside layers begin with.
    fn layer_prefix(&self) -> &'static str;
    fn path(&self) -> &Path;
    /// Ends of names that hold nothing the arithmetic needs.
    fn known_extras(&self) -> &'static [&'static str];
}

struct LayerParts<'a> {
    attn_norm: StoredTensor<'a>,
    qkv: [StoredTensor<'a>; 3],
    qkv_bias: Option<[StoredTensor<'a>; 3]>,
    qk_norm: Option<[StoredTensor<'a>; 2]>,
    o: StoredTensor<'a>,
    mlp_norm: StoredTensor<'a>,
    gate_up: [StoredTensor<'a>; 2],
    down: StoredTensor<'a>,
}

/// Read all weights that `config` asks for, and the names of stored tensors that it has no place for.
pub fn assemble(
    config: &ModelConfig,
    source: &impl TensorSource,
) -> Result<(Weights<f32>, Vec<String>), FileError> {
    let expect = |role: Role| -> Result<StoredTensor<'_>, FileError> {
        let tensor = source.tensor(role)?.ok_or_else(|| source.missing(role))?;
        let expected = role.shape(config);
        if tensor.shape != expected {
            return Err(FileError::Shape {
                path: tensor.file.into(),
                tensor: tensor.name,
                expected,
                found: tensor.shape,
            });
        }
        Ok(tensor)
    };
    let embed = expect(Role::Embed)?;
    let final_norm = expect(Role::FinalNorm)?;
    let head = if config.tied_head {
        None
    } else {
        Some(expect(Role::Head)?)
    };
    let mut parts = Vec::new();
    for i in 0..config.n_layers {
        let part = |part: Part| expect(Role::Layer(i, part));
        refuse_output_bias(source, i)?;
        parts.push(LayerParts {
            attn_norm: part(Part::AttnNorm)?,
            qkv: [part(Part::Q)?, part(Part::K)?, part(Part::V)?],
            qkv_bias: match config.qkv_bias {
                true => Some([part(Part::QBias)?, part(Part::KBias)?, part(Part::VBias)?]),
                false => None,
            },
            qk_norm: if config.qk_norm {
                Some([part(Part::QNorm)?, part(Part::KNorm)?])
            } else {
                None
            },
            o: part(Part::O)?,
            mlp_norm: part(Part::MlpNorm)?,
            gate_up: [part(Part::Gate)?, part(Part::Up)?],
            down: part(Part::Down)?,
        });
    }
    let unused = unused(config, source)?;

    let layers = parts
        .par_iter()
        .map(|layer| LayerWeights {
            attn_norm: widen(&[&layer.attn_norm]),
            qkv: widen(&layer.qkv.each_ref()),
            qkv_bias: layer
                .qkv_bias
                .as_ref()
                .map(|parts| widen(&parts.each_ref())),
            q_norm: layer.qk_norm.as_ref().map(|[q, _]| widen(&[q])),
            k_norm: layer.qk_norm.as_ref().map(|[_, k]| widen(&[k])),
            o: widen(&[&layer.o]),
            mlp_norm: widen(&[&layer.mlp_norm]),
            gate_up: widen(&layer.gate_up.each_ref()),
            down: widen(&[&layer.down]),
        })
        .collect();
    let weights = Weights {
        embed: widen(&[&embed]),
        layers,
        final_norm: widen(&[&final_norm]),
        head: head.map(|head| widen(&[&head])),
    };
    Ok((weights, unused))
}

/// The tensors' rows one after another.
fn widen(parts: &[&StoredTensor<'_>]) -> Vec<f32> {
    let sizes: Vec<usize> = parts
        .iter()
        .map(|part| part.shape.iter().product())
        .collect();
    let mut out = vec![0.0; sizes.iter().sum()];
    let mut rest = out.as_mut_slice();
    for (part, size) in parts.iter().zip(sizes) {
        let (mine, others) = rest.split_at_mut(size);
        part.widen_into(mine);
        rest = others;
    }
    out
}

/// `attention_bias` in transformers' Llama and Qwen3 also biases the output projection. A checkpoint that was converted from
/// Qwen2 carries that bias as zeros, which is the same as none.
fn refuse_output_bias(source: &impl TensorSource, layer: usize) -> Result<(), FileError> {
    match source.tensor(Role::Layer(layer, Part::OBias))? {
        Some(bias) if !bias.is_zero() => Err(FileError::unsupported(
            bias.file,
            format!("a bias of the attention output (`{}`)", bias.name),
            "supported: biases of query, key and value only",
        )),
        _ => Ok(()),
    }
}

/// Stored tensors without a role: named in the result, refused where they lie inside a layer, because there
/// they would change what the layer computes.
fn unused(config: &ModelConfig, source: &impl TensorSource) -> Result<Vec<String>, FileError> {
    let mut used: HashSet<String> = HashSet::new();
    for role in [Role::Embed, Role::FinalNorm, Role::Head] {
        used.insert(source.name_of(role));
    }
    for i in 0..config.n_layers {
        for part in Part::ALL {
            let computed = match part {
                Part::QBias | Part::KBias | Part::VBias => config.qkv_bias,
                Part::QNorm | Part::KNorm => config.qk_norm,
                _ => true,
            };
            if computed {
                used.insert(source.name_of(Role::Layer(i, part)));
            }
        }
    }
    let mut unused: Vec<String> = source
        .names()
        .into_iter()
        .filter(|name| {
            !used.contains(name) && !source.known_extras().iter().any(|end| name.ends_with(end))
        })
        .collect();
    unused.sort_unstable();
    if let Some(name) = unused
        .iter()
        .find(|name| name.starts_with(source.layer_prefix()))
    {
        return Err(FileError::unsupported(
            source.path(),
            format!("tensor `{name}`, which the configuration has no place for,"),
            "config and weights are of two models, or the architecture has parts that are not computed here",
        ));
    }
    Ok(unused)
}
