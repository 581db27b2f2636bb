//! The embedded engine: Llama, Qwen2 and Qwen3 decoders on the CPU, forward and backward written out.
pub mod batch;
pub mod config;
pub mod files;
pub mod ops;
pub mod rope;
pub mod sample;
pub mod tensor;
pub mod train;
pub mod weights;

pub use config::{Family, ModelConfig, RopeScaling};
pub use weights::{LayerWeights, Weights};
