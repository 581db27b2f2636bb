//! `tinsmith._native`: the only door from Python into Rust.
mod boundary;
mod engine;
mod kernels;

use pyo3::prelude::*;

mod files;
mod sampling;
mod snapshot;

#[pymodule]
fn _native(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    m.add_class::<snapshot::Snapshot>()?;
    files::register(m)?;
    m.add_class::<sampling::Sampler>()?;
    engine::register(m)?;
    m.add("DEBUG_BUILD", cfg!(debug_assertions))?;
    kernels::register(m)?;
    // PyO3 lists names as it adds them; the stub is the list that people read and stubtest checks.
    m.delattr("__all__")
}
