//! `tinsmith._native`: the only door from Python into Rust.
mod answers;
mod boundary;
mod engine;
mod kernels;

use mimalloc::MiMalloc;
use pyo3::prelude::*;

/// Columns and activations come and go by the megabyte; the system's allocator gives their pages back each time, and
/// touching new ones costs more than filling them.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

mod files;
mod sampling;
mod snapshot;
mod text;
mod wire;

#[pymodule]
fn _native(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    m.add_class::<snapshot::Snapshot>()?;
    files::register(m)?;
    m.add_class::<sampling::Sampler>()?;
    m.add_class::<text::TextEncoder>()?;
    engine::register(m)?;
    m.add("DEBUG_BUILD", cfg!(debug_assertions))?;
    kernels::register(m)?;
    answers::register(m)?;
    wire::register(m)?;
    // PyO3 lists names as it adds them; the stub is the list that people read and stubtest checks.
    m.delattr("__all__")
}
