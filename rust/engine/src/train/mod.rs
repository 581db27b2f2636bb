//! The trainer: forward, backward and AdamW for LoRA or all weights.
mod head;
pub mod net;
pub mod optim;
pub mod params;
mod plan;
pub mod random;
mod state;
mod trainer;
pub mod walk;

use thiserror::Error;

pub use net::Learn;
pub use optim::AdamW;
pub use trainer::{Settings, Trainer};

/// Why a call was refused or stopped. Whatever it is, weights, moments, step count and the gradients of earlier
/// calls are as they were.
#[derive(Debug, Error)]
pub enum TrainError {
    /// A setting out of range.
    #[error("{0}")]
    Setting(String),
    /// A batch that the model cannot take; the message names row and position.
    #[error("{0}")]
    Input(String),
    /// A loss, logprob or gradient that is NaN or infinite.
    #[error("{0}")]
    NonFinite(String),
    /// An optimizer step with nothing to use.
    #[error(
        "no gradient was accumulated since the last optimizer step: call forward_backward or backward first"
    )]
    NoGradient,
    /// What a loss refused.
    #[error(transparent)]
    Loss(#[from] tinsmith_core::KernelError),
    /// `Trainer::canceller` was used.
    #[error("training was cancelled between two micro-batches")]
    Cancelled,
    /// A state file that does not fit this trainer.
    #[error("{path}: {message}")]
    State { path: String, message: String },
    #[error("{path}: {source}")]
    Io {
        path: String,
        source: std::io::Error,
    },
    #[error("the pool of {threads} threads did not start: {message}")]
    Pool { threads: usize, message: String },
}
