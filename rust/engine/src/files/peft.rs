//! LoRA adapters in the layout of peft: adapter_config.json and adapter_model.safetensors.
use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::disk;
use super::error::FileError;
use super::fields::Fields;
use super::safetensors_file::SafetensorsFile;
use super::save::{OutTensor, SaveDtype, in_dir, write_safetensors};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// peft's wrapper around a model.
const PREFIX: &str = "base_model.model.";
const LIMIT: u64 = 1 << 20;

/// One factor: `model.layers.0.self_attn.q_proj.lora_A.weight` is `[rank, in]`, `...lora_B.weight` is `[out, rank]`.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterTensor {
    pub name: String,
    pub shape: [usize; 2],
    pub values: Vec<f32>,
}

/// A LoRA adapter: W + alpha / rank * B A for every module that `tensors` names (Hu et al. 2021, section 4.1).
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    pub rank: usize,
    pub alpha: f64,
    /// What it was trained on; peft only reports it.
    pub base_model: String,
    pub tensors: Vec<AdapterTensor>,
}

impl Adapter {
    /// The last part of every adapted module's name, sorted: `down_proj`, `q_proj`, ...
    pub fn target_modules(&self) -> Vec<String> {
        let modules: BTreeSet<&str> = self
            .tensors
            .iter()
            .filter_map(|tensor| split(&tensor.name)?.0.rsplit('.').next())
            .collect();
        modules.into_iter().map(str::to_owned).collect()
    }

    /// Each module has both factors, of this rank, and nothing else is there.
    fn check(&self, path: &Path) -> Result<(), FileError> {
        if self.rank == 0 || !(self.alpha.is_finite()) {
            return Err(FileError::malformed(
                path,
                format!("rank {} and alpha {}", self.rank, self.alpha),
            ));
        }
        if self.tensors.is_empty() {
            return Err(FileError::malformed(path, "the adapter holds no tensors"));
        }
        let names: BTreeSet<&str> = self
            .tensors
            .iter()
            .map(|tensor| tensor.name.as_str())
            .collect();
        for tensor in &self.tensors {
            let Some((module, factor)) = split(&tensor.name) else {
                return Err(FileError::unsupported(
                    path,
                    format!("adapter tensor `{}`", tensor.name),
                    "supported: the lora_A and lora_B weights of linear layers",
                ));
            };
            let (other, axis) = if factor == 'A' { ('B', 0) } else { ('A', 1) };
            let other = format!("{module}.lora_{other}.weight");
            if !names.contains(other.as_str()) {
                return Err(FileError::MissingTensor {
                    path: path.into(),
                    tensor: other,
                    hint: format!("`{}` is there without it", tensor.name),
                });
            }
            if tensor.shape[axis] != self.rank
                || tensor.shape[0].checked_mul(tensor.shape[1]) != Some(tensor.values.len())
            {
                let mut expected = tensor.shape.to_vec();
                expected[axis] = self.rank;
                return Err(FileError::Shape {
                    path: path.into(),
                    tensor: tensor.name.clone(),
                    expected,
                    found: tensor.shape.to_vec(),
                });
            }
        }
        Ok(())
    }
}

/// (module, A or B).
fn split(name: &str) -> Option<(&str, char)> {
    let stem = name.strip_suffix(".weight")?;
    match (stem.strip_suffix(".lora_A"), stem.strip_suffix(".lora_B")) {
        (Some(module), _) => Some((module, 'A')),
        (_, Some(module)) => Some((module, 'B')),
        _ => None,
    }
}

/// Write `adapter` into `dir` in float32. Each file appears whole or not at all, the configuration last.
pub fn save_adapter(dir: &Path, adapter: &Adapter) -> Result<(), FileError> {
    adapter.check(dir)?;
    let alpha = if adapter.alpha.fract() == 0.0 && adapter.alpha.abs() < 1e15 {
        json!(adapter.alpha as i64)
    } else {
        json!(adapter.alpha)
    };
    let text = format!(
        "{:#}\n",
        json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": adapter.base_model,
            "r": adapter.rank,
            "lora_alpha": alpha,
            "target_modules": adapter.target_modules(),
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": false,
            "use_rslora": false,
            "use_dora": false,
            "modules_to_save": null,
            "inference_mode": true,
        })
    );
    let tensors: Vec<OutTensor<'_>> = adapter
        .tensors
        .iter()
        .map(|tensor| OutTensor {
            name: format!("{PREFIX}{}", tensor.name),
            shape: tensor.shape.to_vec(),
            values: &tensor.values,
        })
        .collect();
    in_dir(dir, || {
        write_safetensors(&dir.join(WEIGHTS), &tensors, SaveDtype::F32)?;
        disk::write_atomically(&dir.join(CONFIG), |out| out.write_all(text.as_bytes()))
    })
}

/// Read an adapter that this or peft wrote. What changes the formula (DoRA, rsLoRA, a rank or alpha per module, biases,
/// whole modules) is refused by name.
pub fn load_adapter(dir: &Path) -> Result<Adapter, FileError> {
    let path = dir.join(CONFIG);
    let text = disk::read_text(&path, LIMIT)?;
    let value: Value = serde_json::from_str(&text)
        .map_err(|error| FileError::malformed(&path, format!("not valid JSON: {error}")))?;
    let Value::Object(map) = &value else {
        return Err(FileError::malformed(
            &path,
            "expected a JSON object at the top",
        ));
    };
    let fields = Fields { map, path: &path };
    let refuse = |what: String| {
        Err(FileError::unsupported(
            &path,
            what,
            "supported: plain LoRA on linear layers",
        ))
    };
    let kind = fields.text("peft_type")?.unwrap_or("unnamed");
    if kind != "LORA" {
        return refuse(format!("adapter type `{kind}`"));
    }
    for key in ["use_dora", "use_rslora", "fan_in_fan_out", "lora_bias"] {
        if fields.flag(key)? {
            return refuse(format!("`{key}`"));
        }
    }
    for key in [
        "rank_pattern",
        "alpha_pattern",
        "modules_to_save",
        "layer_replication",
        "trainable_token_indices",
    ] {
        let empty = match map.get(key) {
            None | Some(Value::Null) => true,
            Some(Value::Array(items)) => items.is_empty(),
            Some(Value::Object(items)) => items.is_empty(),
            Some(_) => false,
        };
        if !empty {
            return refuse(format!("`{key}`"));
        }
    }
    if let Some(bias) = fields.text("bias")?.filter(|bias| *bias != "none") {
        return refuse(format!("bias `{bias}`"));
    }
    let file = SafetensorsFile::open(&dir.join(WEIGHTS))?;
    let mut tensors = Vec::new();
    for name in file.names() {
        let Some(stored) = file.tensor(&name)? else {
            continue;
        };
        let [rows, columns] = stored.shape[..] else {
            return refuse(format!(
                "adapter tensor `{name}` of {} axes",
                stored.shape.len()
            ));
        };
        let mut values = vec![0.0; rows * columns];
        stored.widen_into(&mut values);
        let name = name.strip_prefix(PREFIX).unwrap_or(&name).to_owned();
        tensors.push(AdapterTensor {
            name,
            shape: [rows, columns],
            values,
        });
    }
    let adapter = Adapter {
        rank: fields.required("r")?,
        alpha: fields.required_number("lora_alpha")?,
        base_model: fields
            .text("base_model_name_or_path")?
            .unwrap_or_default()
            .to_owned(),
        tensors,
    };
    adapter.check(dir)?;
    Ok(adapter)
}
