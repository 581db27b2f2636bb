//! Model files: errors to Python, the model class, tokenizers in GGUF, adapters.
use std::path::{Path, PathBuf};
use std::sync::Arc;

use numpy::{PyArray2, PyArrayMethods, PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use tinsmith_engine::files::{self, Adapter, AdapterTensor, FileError, SaveDtype, TokenIds};
use tinsmith_engine::{ModelConfig, Weights};

use crate::boundary::{IntoPyErr, enter, errors};
use crate::snapshot::Snapshot;

impl IntoPyErr for FileError {
    /// Nothing there: `ModelNotFoundError`. The system refused: `WorldError` with its errno. Else `ModelError`.
    fn into_py_err(self) -> PyErr {
        let message = self.to_string();
        match &self {
            Self::Missing { .. } => errors::ModelNotFoundError::new_err(message),
            Self::Io { source, .. } => match source.raw_os_error() {
                Some(code) => errors::WorldError::new_err((code, message)),
                None => errors::WorldError::new_err(message),
            },
            _ => errors::ModelError::new_err(message),
        }
    }
}

/// A model in memory: its shape and its weights in f32, shared by all that is made of it.
#[pyclass(frozen, module = "tinsmith._native")]
pub struct Model {
    pub cfg: ModelConfig,
    pub weights: Arc<Weights<f32>>,
    pub ids: TokenIds,
    unused: Vec<String>,
}

#[pymethods]
impl Model {
    /// Load a Hugging Face directory or a .gguf file.
    #[staticmethod]
    fn load(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let loaded = enter(py, || files::load(&path))?;
        Ok(Self {
            cfg: loaded.config,
            weights: Arc::new(loaded.weights),
            ids: loaded.ids,
            unused: loaded.unused,
        })
    }

    /// Fresh weights for the shape in the text of a Hugging Face config.json; the same for the same seed.
    #[staticmethod]
    fn random(py: Python<'_>, config_json: &str, seed: u64) -> PyResult<Self> {
        let (cfg, ids) = files::config_from_json(config_json, Path::new("config.json"))
            .map_err(IntoPyErr::into_py_err)?;
        let weights = Arc::new(py.detach(|| Weights::random(&cfg, seed)));
        Ok(Self {
            cfg,
            weights,
            ids,
            unused: Vec::new(),
        })
    }

    /// The text of a Hugging Face config.json for this model in float32.
    fn config_json(&self) -> String {
        files::config_to_json(&self.cfg, &self.ids, SaveDtype::F32.name())
    }

    /// Number of weights; a tied head counts once.
    #[getter]
    fn num_parameters(&self) -> usize {
        self.weights.num_parameters()
    }

    /// Number of token ids.
    #[getter]
    fn vocab_size(&self) -> usize {
        self.cfg.vocab
    }

    /// Longest sequence, in tokens.
    #[getter]
    fn context(&self) -> usize {
        self.cfg.context
    }

    /// Token ids that end a completion, as the file says.
    #[getter]
    fn eos_ids(&self) -> Vec<u32> {
        self.ids.eos.clone()
    }

    /// Tensors in the file that the model has no use for.
    #[getter]
    fn unused_tensors(&self) -> Vec<String> {
        self.unused.clone()
    }

    /// These weights, for a sampler.
    fn snapshot(&self) -> Snapshot {
        Snapshot {
            cfg: self.cfg.clone(),
            weights: Arc::clone(&self.weights),
        }
    }

    /// Write config.json and model.safetensors; dtype is float32, float16 or bfloat16.
    #[pyo3(signature = (directory, dtype = "float32"))]
    fn save_merged(&self, py: Python<'_>, directory: PathBuf, dtype: &str) -> PyResult<()> {
        let dtype = SaveDtype::named(dtype).ok_or_else(|| {
            errors::ConfigError::new_err(format!(
                "dtype {dtype:?}: one of float32, float16, bfloat16"
            ))
        })?;
        enter(py, || {
            files::save_merged(&directory, &self.cfg, &self.weights, dtype, &self.ids)
        })
    }
}

/// The tokenizer that a GGUF file carries.
#[pyfunction]
fn read_gguf_tokenizer(py: Python<'_>, path: PathBuf) -> PyResult<Bound<'_, PyDict>> {
    let found = enter(py, || files::gguf_tokenizer(&path))?;
    let out = PyDict::new(py);
    out.set_item("model", found.model)?;
    out.set_item("pre", found.pre)?;
    out.set_item("tokens", found.tokens)?;
    out.set_item("types", found.types)?;
    out.set_item("merges", found.merges)?;
    out.set_item("bos", found.bos)?;
    out.set_item("eos", found.eos)?;
    out.set_item("unk", found.unk)?;
    out.set_item("pad", found.pad)?;
    out.set_item("add_bos", found.add_bos)?;
    out.set_item("add_eos", found.add_eos)?;
    out.set_item("chat_template", found.chat_template)?;
    Ok(out)
}

type NamedArrays<'py> = Vec<(String, Bound<'py, PyArray2<f32>>)>;

/// Write a LoRA adapter in PEFT layout.
#[pyfunction]
#[pyo3(signature = (directory, tensors, *, rank, alpha, base_model))]
fn save_adapter(
    py: Python<'_>,
    directory: PathBuf,
    tensors: Vec<(String, PyReadonlyArray2<'_, f32>)>,
    rank: usize,
    alpha: f64,
    base_model: String,
) -> PyResult<()> {
    let tensors = tensors
        .into_iter()
        .map(|(name, array)| {
            let shape = [array.shape()[0], array.shape()[1]];
            AdapterTensor {
                name,
                shape,
                values: array.as_array().iter().copied().collect(),
            }
        })
        .collect();
    let adapter = Adapter {
        rank,
        alpha,
        base_model,
        tensors,
    };
    enter(py, || files::save_adapter(&directory, &adapter))
}

/// Read a LoRA adapter in PEFT layout: (meta, tensors).
#[pyfunction]
fn load_adapter(
    py: Python<'_>,
    directory: PathBuf,
) -> PyResult<(Bound<'_, PyDict>, NamedArrays<'_>)> {
    let adapter = enter(py, || files::load_adapter(&directory))?;
    let meta = PyDict::new(py);
    meta.set_item("rank", adapter.rank)?;
    meta.set_item("alpha", adapter.alpha)?;
    meta.set_item("base_model", &adapter.base_model)?;
    meta.set_item("target_modules", adapter.target_modules())?;
    let mut tensors = Vec::new();
    for tensor in adapter.tensors {
        let flat = numpy::PyArray1::from_vec(py, tensor.values);
        tensors.push((tensor.name, flat.reshape(tensor.shape)?));
    }
    Ok((meta, tensors))
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Model>()?;
    m.add_function(wrap_pyfunction!(read_gguf_tokenizer, m)?)?;
    m.add_function(wrap_pyfunction!(save_adapter, m)?)?;
    m.add_function(wrap_pyfunction!(load_adapter, m)?)?;
    Ok(())
}
