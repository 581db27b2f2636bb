//! A trainer's state in one safetensors file: values, moments, step count; exact bits.
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, View, serialize_to_file};

use crate::tensor::Exec;
use crate::train::params::Param;
use crate::train::{TrainError, Trainer};

const STEP: &str = "tinsmith.step";
const KINDS: [&str; 3] = ["", ".exp_avg", ".exp_avg_sq"];

fn kinds_mut(param: &mut Param<f32>) -> [&mut Vec<f32>; 3] {
    [&mut param.value, &mut param.m, &mut param.v]
}

struct Slice<'a> {
    shape: &'a [usize],
    values: &'a [f32],
}

impl View for Slice<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }
    fn shape(&self) -> &[usize] {
        self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        self.values
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect::<Vec<u8>>()
            .into()
    }
    fn data_len(&self) -> usize {
        size_of_val(self.values)
    }
}

impl Trainer<f32> {
    /// Writes values, moments and step count. The file appears whole or not at all. Accumulated gradients are no
    /// part of it.
    pub fn save_state(&self, path: &Path) -> Result<(), TrainError> {
        let io = |source: std::io::Error| TrainError::Io {
            path: path.display().to_string(),
            source,
        };
        let mut tensors = Vec::new();
        for param in &self.params {
            for part in &param.parts {
                for (kind, values) in KINDS.iter().zip([&param.value, &param.m, &param.v]) {
                    let values = &values[part.range.clone()];
                    tensors.push((
                        format!("{}{kind}", part.name),
                        Slice {
                            shape: &part.shape,
                            values,
                        },
                    ));
                }
            }
        }
        let metadata = HashMap::from([(STEP.to_owned(), self.step.to_string())]);
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}.tmp", std::process::id()));
        let temporary = Path::new(&temporary);
        let written = serialize_to_file(tensors, Some(metadata), temporary)
            .map_err(|e| match e {
                safetensors::SafeTensorError::IoError(e) => e,
                other => std::io::Error::other(other.to_string()),
            })
            .and_then(|()| File::open(temporary)?.sync_all())
            .and_then(|()| std::fs::rename(temporary, path))
            .and_then(|()| match path.parent() {
                Some(dir) if !dir.as_os_str().is_empty() => File::open(dir)?.sync_all(),
                _ => Ok(()),
            });
        written.map_err(|e| {
            let _ = std::fs::remove_file(temporary);
            io(e)
        })
    }

    /// Goes back to a saved state, exactly, and forgets accumulated gradients. A file of another model, rank or set
    /// of targets is refused and changes nothing.
    pub fn load_state(&mut self, path: &Path) -> Result<(), TrainError> {
        let io = |source| TrainError::Io {
            path: path.display().to_string(),
            source,
        };
        let bad = |message: String| TrainError::State {
            path: path.display().to_string(),
            message,
        };
        let bytes = std::fs::read(path).map_err(io)?;
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| bad(e.to_string()))?;
        let step = metadata
            .metadata()
            .as_ref()
            .and_then(|m| m.get(STEP))
            .and_then(|s| s.parse().ok());
        let step = step.ok_or_else(|| {
            bad(format!(
                "no step count ({STEP}); this is not a trainer's state"
            ))
        })?;
        let file = SafeTensors::deserialize(&bytes).map_err(|e| bad(e.to_string()))?;
        let expected: usize = self
            .params
            .iter()
            .map(|p| p.parts.len() * KINDS.len())
            .sum();
        let found = file.len();
        let mut views = Vec::new();
        for param in &self.params {
            for part in &param.parts {
                for kind in KINDS {
                    let name = format!("{}{kind}", part.name);
                    let view = file.tensor(&name).map_err(|_| {
                        bad(format!("tensor {name:?} is missing; the state is of another model or other LoRA targets"))
                    })?;
                    if view.dtype() != Dtype::F32 || view.shape() != part.shape {
                        return Err(bad(format!(
                            "tensor {name:?} is {:?} {:?}, this trainer's is F32 {:?}",
                            view.dtype(),
                            view.shape(),
                            part.shape
                        )));
                    }
                    views.push(view);
                }
            }
        }
        if found != expected {
            return Err(bad(format!(
                "{found} tensors, this trainer has {expected}; the state is of another one"
            )));
        }
        let mut views = views.into_iter();
        for param in &mut self.params {
            let ranges: Vec<_> = param.parts.iter().map(|part| part.range.clone()).collect();
            for range in ranges {
                for (values, view) in kinds_mut(param).into_iter().zip(views.by_ref()) {
                    for (x, bytes) in values[range.clone()]
                        .iter_mut()
                        .zip(view.data().as_chunks::<4>().0)
                    {
                        *x = f32::from_le_bytes(*bytes);
                    }
                }
            }
        }
        self.step = step;
        self.zero_grad();
        self.net.refresh(&self.params, Exec::Pool(&self.pool));
        Ok(())
    }
}
