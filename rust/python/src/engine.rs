//! The trainer of the embedded engine.
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use numpy::{
    IntoPyArray, PyArray1, PyArrayDyn, PyArrayMethods, PyReadonlyArray1, PyReadonlyArrayDyn,
    PyUntypedArrayMethods,
};
use pyo3::exceptions::{PyFloatingPointError, PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use tinsmith_core::losses::{Columns, LossMetrics};
use tinsmith_engine::batch::Batch;
use tinsmith_engine::files::{self, Adapter, AdapterTensor, SaveDtype, TokenIds};
use tinsmith_engine::train::{AdamW, Learn, Settings, TrainError, Trainer as Engine};

use crate::boundary::{IntoPyErr, enter, errors, slice};
use crate::files::Model;
use crate::kernels::{loss_options, parse_loss};
use crate::snapshot::Snapshot;

impl IntoPyErr for TrainError {
    fn into_py_err(self) -> PyErr {
        let message = self.to_string();
        match self {
            Self::Setting(_) => errors::ConfigError::new_err(message),
            Self::Input(_) => errors::ShapeError::new_err(message),
            Self::State { .. } => PyValueError::new_err(message),
            Self::NoGradient => errors::TrainingError::new_err(message),
            Self::NonFinite(_) => PyFloatingPointError::new_err(message),
            Self::Cancelled | Self::Pool { .. } => PyRuntimeError::new_err(message),
            Self::Io { source, .. } => match source.raw_os_error() {
                Some(code) => PyOSError::new_err((code, message)),
                None => PyOSError::new_err(message),
            },
            Self::Loss(error) => error.into_py_err(),
        }
    }
}

/// Trains LoRA or all weights of a model. One call at a time; others wait.
#[pyclass(frozen, module = "tinsmith._native")]
pub struct Trainer {
    engine: Mutex<Engine<f32>>,
    cancel: Arc<AtomicBool>,
    ids: TokenIds,
}

type Ids<'py> = PyReadonlyArray1<'py, i32>;
type Targets<'py> = PyReadonlyArrayDyn<'py, i32>;
type Floats<'py> = Bound<'py, PyArrayDyn<f32>>;
type Named<'py> = Bound<'py, PyDict>;

/// The arrays of a batch, held while Rust reads them.
struct Given<'py> {
    tokens: Ids<'py>,
    offsets: PyReadonlyArray1<'py, i64>,
    targets: Targets<'py>,
}

impl Given<'_> {
    fn batch(&self) -> PyResult<Batch<'_>> {
        let n = self.tokens.len();
        let shape = self.targets.shape();
        let per_position = match shape {
            [rows] if *rows == n => 1,
            [rows, k] if *rows == n => *k,
            _ => {
                let message = format!(
                    "targets have shape {shape:?}; expected [{n}] or [{n}, K], as tokens have [{n}]"
                );
                return Err(errors::ShapeError::new_err(message));
            }
        };
        let contiguous = |_| errors::ShapeError::new_err("targets must be contiguous");
        Ok(Batch {
            tokens: slice("tokens", &self.tokens)?,
            offsets: slice("offsets", &self.offsets)?,
            targets: self.targets.as_slice().map_err(contiguous)?,
            per_position,
        })
    }

    fn shaped<'py>(&self, py: Python<'py>, values: Vec<f32>) -> PyResult<Floats<'py>> {
        values.into_pyarray(py).reshape(self.targets.shape())
    }
}

impl Trainer {
    /// Runs `work` on the engine without the GIL.
    fn with<R: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut Engine<f32>) -> Result<R, TrainError> + Send,
    ) -> PyResult<R> {
        // A panic leaves only scratch behind: values change after all that can fail.
        enter(py, || {
            work(&mut self.engine.lock().unwrap_or_else(PoisonError::into_inner))
        })
    }
}

#[pymethods]
impl Trainer {
    #[new]
    #[pyo3(signature = (
        model, *, lora_rank, lora_alpha, seed, train_attn, train_mlp, train_unembed, threads, micro_batch_tokens
    ))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        model: &Model,
        lora_rank: Option<usize>,
        lora_alpha: f64,
        seed: u64,
        train_attn: bool,
        train_mlp: bool,
        train_unembed: bool,
        threads: usize,
        micro_batch_tokens: usize,
    ) -> PyResult<Self> {
        let learn = match lora_rank {
            None => Learn::All,
            Some(rank) => Learn::LowRank {
                rank,
                alpha: lora_alpha,
                seed,
                attention: train_attn,
                mlp: train_mlp,
                unembed: train_unembed,
            },
        };
        let settings = Settings {
            learn,
            threads,
            micro_batch_tokens,
        };
        let engine = enter(py, || {
            Engine::new(&model.cfg, Arc::clone(&model.weights), settings)
        })?;
        Ok(Self {
            cancel: engine.canceller(),
            engine: Mutex::new(engine),
            ids: model.ids.clone(),
        })
    }

    /// Logprobs of the targets, in their shape.
    fn forward<'py>(
        &self,
        py: Python<'py>,
        tokens: Ids<'py>,
        offsets: PyReadonlyArray1<'py, i64>,
        targets: Targets<'py>,
    ) -> PyResult<Floats<'py>> {
        let given = Given {
            tokens,
            offsets,
            targets,
        };
        let batch = given.batch()?;
        let logprobs = self.with(py, |engine| engine.forward(&batch))?;
        given.shaped(py, logprobs)
    }

    /// Adds the gradient of a loss by name; gives (logprobs, loss, metrics).
    #[allow(clippy::too_many_arguments)]
    fn forward_backward<'py>(
        &self,
        py: Python<'py>,
        tokens: Ids<'py>,
        offsets: PyReadonlyArray1<'py, i64>,
        targets: Targets<'py>,
        loss: &str,
        columns: Bound<'py, PyDict>,
        options: Bound<'py, PyDict>,
    ) -> PyResult<(Floats<'py>, f64, Named<'py>)> {
        let given = Given {
            tokens,
            offsets,
            targets,
        };
        let batch = given.batch()?;
        let loss = parse_loss(loss, loss_options(&options)?).map_err(IntoPyErr::into_py_err)?;
        let column = |name: &str| -> PyResult<Option<Vec<f32>>> {
            let Some(array) = columns.get_item(name)? else {
                return Ok(None);
            };
            let array = array.cast_into::<PyArrayDyn<f32>>().map_err(|_| {
                errors::ShapeError::new_err(format!("column {name:?} must be a float32 array"))
            })?;
            Ok(Some(array.readonly().as_array().iter().copied().collect()))
        };
        let names = ["weights", "logprobs", "advantages", "reference_logprobs"];
        for name in columns.keys() {
            let name: String = name.extract()?;
            if !names.contains(&name.as_str()) {
                return Err(errors::ShapeError::new_err(format!(
                    "column {name:?} is not one of {names:?}"
                )));
            }
        }
        let [weights, sampled, advantages, reference] = [
            column(names[0])?,
            column(names[1])?,
            column(names[2])?,
            column(names[3])?,
        ];
        let all = Columns {
            weights: weights.as_deref(),
            sampled_logprobs: sampled.as_deref(),
            advantages: advantages.as_deref(),
            reference_logprobs: reference.as_deref(),
            targets_per_position: batch.per_position,
        };
        let (logprobs, parts) = self.with(py, |engine| {
            let denominator = loss.denominator(batch.offsets, &all)?;
            engine.forward_backward(&batch, |rows, logprobs| {
                let span = batch.span(rows);
                let offsets: Vec<i64> = batch.offsets[rows.start..=rows.end]
                    .iter()
                    .map(|o| o - span.start as i64)
                    .collect();
                let wide = span.start * batch.per_position..span.end * batch.per_position;
                let part = Columns {
                    weights: all.weights.map(|w| &w[wide.clone()]),
                    sampled_logprobs: all.sampled_logprobs.map(|q| &q[span.clone()]),
                    advantages: all.advantages.map(|a| &a[span.clone()]),
                    reference_logprobs: all.reference_logprobs.map(|r| &r[span.clone()]),
                    targets_per_position: batch.per_position,
                };
                let out = loss.evaluate(&offsets, logprobs, &part, denominator)?;
                Ok((out.gradient, out.metrics))
            })
        })?;
        let mut sum = LossMetrics::default();
        parts.iter().for_each(|part| sum.merge(part));
        let metrics = PyDict::new(py);
        for (name, value) in sum.entries() {
            metrics.set_item(name, value)?;
        }
        Ok((given.shaped(py, logprobs)?, sum.loss, metrics))
    }

    /// Adds the gradient of a loss whose derivative by each target's logprob is `grads`; gives the logprobs.
    fn backward<'py>(
        &self,
        py: Python<'py>,
        tokens: Ids<'py>,
        offsets: PyReadonlyArray1<'py, i64>,
        targets: Targets<'py>,
        grads: PyReadonlyArrayDyn<'py, f32>,
    ) -> PyResult<Floats<'py>> {
        let given = Given {
            tokens,
            offsets,
            targets,
        };
        let batch = given.batch()?;
        let grads = grads
            .as_slice()
            .map_err(|_| errors::ShapeError::new_err("grads must be contiguous"))?;
        let logprobs = self.with(py, |engine| engine.backward(&batch, grads))?;
        given.shaped(py, logprobs)
    }

    /// One AdamW step; gives {"grad_norm": global norm before clipping}. The gradients are cleared.
    #[allow(clippy::too_many_arguments)]
    fn optim_step<'py>(
        &self,
        py: Python<'py>,
        learning_rate: f64,
        beta1: f64,
        beta2: f64,
        eps: f64,
        weight_decay: f64,
        grad_clip_norm: f64,
    ) -> PyResult<Named<'py>> {
        let settings = AdamW {
            learning_rate,
            beta1,
            beta2,
            eps,
            weight_decay,
            grad_clip_norm,
        };
        let norm = self.with(py, |engine| engine.optim_step(&settings))?;
        let metrics = PyDict::new(py);
        metrics.set_item("grad_norm", norm)?;
        Ok(metrics)
    }

    fn zero_grad(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |engine| {
            engine.zero_grad();
            Ok(())
        })
    }

    /// Optimizer steps taken.
    #[getter]
    fn step_count(&self, py: Python<'_>) -> PyResult<u64> {
        self.with(py, |engine| Ok(engine.step_count()))
    }

    /// Parameters that the optimizer moves.
    #[getter]
    fn num_trained(&self, py: Python<'_>) -> PyResult<usize> {
        self.with(py, |engine| Ok(engine.num_trained()))
    }

    /// The accumulated gradient of every trained tensor, by name.
    fn gradients<'py>(&self, py: Python<'py>) -> PyResult<Named<'py>> {
        named(py, self.with(py, |engine| Ok(engine.gradients()))?)
    }

    /// Every trained tensor, by name: Hugging Face's, or PEFT's for LoRA.
    fn parameters<'py>(&self, py: Python<'py>) -> PyResult<Named<'py>> {
        named(py, self.with(py, |engine| Ok(engine.parameters()))?)
    }

    /// Replaces trained tensors by name.
    fn set_parameters(&self, py: Python<'_>, tensors: Bound<'_, PyDict>) -> PyResult<()> {
        let mut given = Vec::new();
        for (name, array) in tensors {
            let array: PyReadonlyArrayDyn<'_, f32> = array.extract()?;
            given.push((
                name.extract::<String>()?,
                array.as_array().iter().copied().collect(),
            ));
        }
        self.with(py, |engine| engine.set_parameters(&given))
    }

    fn save_state(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        self.with(py, |engine| engine.save_state(&path))
    }

    fn load_state(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        self.with(py, |engine| engine.load_state(&path))
    }

    /// The weights as they are now, LoRA merged.
    fn snapshot(&self, py: Python<'_>) -> PyResult<Snapshot> {
        let (cfg, weights) = self.with(py, |engine| Ok(engine.snapshot()))?;
        Ok(Snapshot { cfg, weights })
    }

    /// Write the LoRA pairs in PEFT layout.
    #[pyo3(signature = (directory, base_model = ""))]
    fn save_adapter(&self, py: Python<'_>, directory: PathBuf, base_model: &str) -> PyResult<()> {
        let (learn, tensors) = self.with(py, |engine| {
            Ok((engine.settings().learn, engine.parameters()))
        })?;
        let Learn::LowRank { rank, alpha, .. } = learn else {
            return Err(PyValueError::new_err(
                "all weights are trained, there is no adapter; use save_merged",
            ));
        };
        let tensors = tensors
            .into_iter()
            .map(|(name, shape, values)| AdapterTensor {
                name: name
                    .strip_prefix("base_model.model.")
                    .unwrap_or(&name)
                    .to_owned(),
                shape: [shape[0], shape[1]],
                values,
            })
            .collect();
        let adapter = Adapter {
            rank,
            alpha,
            base_model: base_model.to_owned(),
            tensors,
        };
        enter(py, || files::save_adapter(&directory, &adapter))
    }

    /// Write config.json and model.safetensors of the merged weights; dtype is float32, float16 or bfloat16.
    #[pyo3(signature = (directory, dtype = "float32"))]
    fn save_merged(&self, py: Python<'_>, directory: PathBuf, dtype: &str) -> PyResult<()> {
        let dtype = SaveDtype::named(dtype).ok_or_else(|| {
            PyValueError::new_err(format!(
                "dtype {dtype:?}: one of float32, float16, bfloat16"
            ))
        })?;
        let (cfg, weights) = self.with(py, |engine| Ok(engine.snapshot()))?;
        enter(py, || {
            files::save_merged(&directory, &cfg, &weights, dtype, &self.ids)
        })
    }

    /// Stops the call that runs, between two micro-batches; it raises RuntimeError.
    fn cancel(&self) {
        self.cancel.store(true, Ordering::Relaxed);
    }
}

fn named(py: Python<'_>, tensors: Vec<(String, Vec<usize>, Vec<f32>)>) -> PyResult<Named<'_>> {
    let out = PyDict::new(py);
    for (name, shape, values) in tensors {
        let array: Bound<'_, PyArray1<f32>> = values.into_pyarray(py);
        out.set_item(name, array.reshape(shape)?)?;
    }
    Ok(out)
}

/// Floating-point operations a second in matrix products on `threads` threads, measured for a moment.
#[pyfunction]
fn matmul_rate(py: Python<'_>, threads: usize) -> PyResult<f64> {
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    if threads == 0 || threads > available {
        let message = format!("threads is {threads}; this machine has 1 to {available}");
        return Err(errors::ConfigError::new_err(message));
    }
    enter(py, || {
        Ok::<_, TrainError>(tinsmith_engine::tensor::product_rate(threads))
    })
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(matmul_rate, m)?)?;
    m.add_class::<Trainer>()
}
