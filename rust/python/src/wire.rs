//! Bindings of `tinsmith_core::wire`.

use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use tinsmith_core::KernelError;
use tinsmith_core::wire::{self, FLOATS, OptionValue};

use crate::boundary::{enter, slice};

/// Adds the readers and writers to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(read_address, m)?)?;
    m.add_function(wrap_pyfunction!(read_training_request, m)?)?;
    m.add_function(wrap_pyfunction!(write_training_result, m)?)
}

#[pyfunction]
fn read_address(body: &[u8]) -> Option<(&str, i32, bool)> {
    let head = wire::read_address(body).ok()?;
    Some((head.model_id, head.seq_id, head.forward_only))
}

type Ints<'py, T> = Bound<'py, PyArray1<T>>;
type Head<'a> = (&'a str, i32, bool, &'a str);
type Request<'a, 'py> = (
    Head<'a>,
    Bound<'py, PyDict>,
    Ints<'py, i64>,
    Ints<'py, i32>,
    Ints<'py, i32>,
    Bound<'py, PyDict>,
);

#[pyfunction]
fn read_training_request<'a, 'py>(
    py: Python<'py>,
    body: &'a [u8],
) -> PyResult<Option<Request<'a, 'py>>> {
    let Some(request) = enter(py, || Ok::<_, KernelError>(wire::read_request(body).ok()))? else {
        return Ok(None);
    };
    let options = PyDict::new(py);
    for (name, value) in request.options {
        match value {
            OptionValue::Number(number) => options.set_item(name, number)?,
            OptionValue::Text(text) => options.set_item(name, text)?,
        }
    }
    let floats = PyDict::new(py);
    for (name, column) in FLOATS.iter().zip(request.floats) {
        if let Some(column) = column {
            floats.set_item(name, column.into_pyarray(py))?;
        }
    }
    let head = request.address;
    Ok(Some((
        (head.model_id, head.seq_id, head.forward_only, request.loss),
        options,
        request.offsets.into_pyarray(py),
        request.tokens.into_pyarray(py),
        request.targets.into_pyarray(py),
        floats,
    )))
}

#[pyfunction]
fn write_training_result<'py>(
    py: Python<'py>,
    logprobs: PyReadonlyArray1<'py, f32>,
    offsets: PyReadonlyArray1<'py, i64>,
    metrics: Vec<(String, f64)>,
) -> PyResult<Bound<'py, PyBytes>> {
    let (logprobs, offsets) = (slice("logprobs", &logprobs)?, slice("offsets", &offsets)?);
    let body = enter(py, || {
        Ok::<_, KernelError>(wire::write_result(logprobs, offsets, &metrics))
    })?;
    Ok(PyBytes::new(py, &body))
}
