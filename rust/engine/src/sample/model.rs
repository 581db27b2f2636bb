//! A model packed for inference.
use std::sync::Arc;

use crate::rope::Rope;
use crate::{ModelConfig, Weights};

use super::buffer::Packed;
use super::kernels::Kernels;

pub struct Layer {
    pub qkv: Packed,
    pub o: Packed,
    pub gate_up: Packed,
    pub down: Packed,
}

/// Matrices are copied into panels; vectors and the embedding table are read where they are.
pub struct Model {
    pub cfg: ModelConfig,
    pub weights: Arc<Weights<f32>>,
    pub layers: Vec<Layer>,
    pub head: Packed,
    pub rope: Rope,
    pub kernels: Kernels,
}

impl Model {
    /// Packs on the threads of the current rayon pool.
    pub fn new(cfg: ModelConfig, weights: Arc<Weights<f32>>, kernels: Kernels) -> Self {
        let layers = weights.layers.iter().map(|layer| Layer {
            qkv: Packed::new(&layer.qkv, cfg.hidden),
            o: Packed::new(&layer.o, cfg.q_dim()),
            gate_up: Packed::interleaved(&layer.gate_up, cfg.hidden),
            down: Packed::new(&layer.down, cfg.intermediate),
        });
        let layers = layers.collect();
        let head = Packed::new(weights.head(), cfg.hidden);
        let rope = Rope::new(&cfg);
        Self {
            cfg,
            weights,
            layers,
            head,
            rope,
            kernels,
        }
    }
}
