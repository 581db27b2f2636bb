//! The one way into Rust: the GIL is released, a panic is caught, an error becomes Python's.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use numpy::{Element, PyReadonlyArray1};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use tinsmith_core::KernelError;

/// The exceptions of `tinsmith.domain.errors`, looked up when one is raised.
pub mod errors {
    pyo3::import_exception!(tinsmith.domain.errors, ConfigError);
    pyo3::import_exception!(tinsmith.domain.errors, DataError);
    pyo3::import_exception!(tinsmith.domain.errors, ModelError);
    pyo3::import_exception!(tinsmith.domain.errors, ModelNotFoundError);
    pyo3::import_exception!(tinsmith.domain.errors, ShapeError);
    pyo3::import_exception!(tinsmith.domain.errors, TrainingError);
    pyo3::import_exception!(tinsmith.domain.errors, WorldError);
}

/// An error of a Rust crate that knows its Python exception.
pub trait IntoPyErr {
    fn into_py_err(self) -> PyErr;
}

impl IntoPyErr for KernelError {
    /// A `ConfigError` for a name or option, a `ShapeError` for arrays: both are `ValueError`s.
    fn into_py_err(self) -> PyErr {
        let message = self.to_string();
        match self {
            Self::Unknown { .. } | Self::Option { .. } => errors::ConfigError::new_err(message),
            _ => errors::ShapeError::new_err(message),
        }
    }
}

/// Runs `work` without the GIL.
pub fn enter<T, E, F>(py: Python<'_>, work: F) -> PyResult<T>
where
    F: FnOnce() -> Result<T, E> + Send,
    T: Send,
    E: IntoPyErr + Send,
{
    match py.detach(|| catch_unwind(AssertUnwindSafe(work))) {
        Ok(result) => result.map_err(IntoPyErr::into_py_err),
        Err(panic) => Err(PyRuntimeError::new_err(format!(
            "internal error, please report it: {}",
            panic_message(panic.as_ref())
        ))),
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without a message")
}

/// The elements of a contiguous array; `what` names it in the error.
pub fn slice<'a, T: Element>(what: &str, array: &'a PyReadonlyArray1<'_, T>) -> PyResult<&'a [T]> {
    array
        .as_slice()
        .map_err(|_| errors::ShapeError::new_err(format!("{what} must be contiguous")))
}

/// The same for an array that may be absent.
pub fn optional<'a, T: Element>(
    what: &str,
    array: Option<&'a PyReadonlyArray1<'_, T>>,
) -> PyResult<Option<&'a [T]>> {
    array.map(|a| slice(what, a)).transpose()
}
