//! The kernels of post-training: batch functions over ragged arrays.
//!
//! A ragged array of B rows is a flat `values` slice and `offsets` of length B + 1 that start at 0,
//! never fall and end at `values.len()`; row i is `values[offsets[i]..offsets[i + 1]]`.
//!
//! Every kernel is a pure function of its arguments: no clock, no randomness, and the same bits
//! whatever the number of threads. Large batches run on rayon in chunks of whole rows.
#![forbid(unsafe_code)]

pub mod advantages;
pub mod answers;
pub mod assembly;
pub mod error;
pub mod losses;
pub mod names;
pub mod nll;
pub mod packing;
pub mod ragged;
pub mod returns;
pub mod utf8;
pub mod wire;

pub use error::KernelError;

/// What every kernel returns.
pub type Result<T> = std::result::Result<T, KernelError>;
