//! `tinsmith._native`: the only door from Python into Rust.
use pyo3::prelude::*;

mod snapshot;

#[pymodule]
fn _native(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    m.add_class::<snapshot::Snapshot>()?;
    m.add("DEBUG_BUILD", cfg!(debug_assertions))?;
    Ok(())
}
