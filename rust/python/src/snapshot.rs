//! A model's weights as one value that trainers, samplers and files hand to each other.
use std::sync::Arc;

use pyo3::prelude::*;
use tinsmith_engine::{ModelConfig, Weights};

/// Weights that never change: what a trainer takes of itself, what a sampler samples from.
#[pyclass(frozen, module = "tinsmith._native")]
pub struct Snapshot {
    pub cfg: ModelConfig,
    pub weights: Arc<Weights<f32>>,
}

#[pymethods]
impl Snapshot {
    /// Number of token ids.
    #[getter]
    fn vocab(&self) -> usize {
        self.cfg.vocab
    }

    /// Longest sequence, in tokens.
    #[getter]
    fn context(&self) -> usize {
        self.cfg.context
    }
}
