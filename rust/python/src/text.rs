//! Bindings of tinsmith-text: scripts of pieces in, columns of tokens out.

use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyList, PySequence, PyString, PyTuple};
use tinsmith_text::{Encoder, Scripts, TextError, What};

use crate::boundary::{IntoPyErr, enter, errors};

type Out<'py, T> = Bound<'py, PyArray1<T>>;

impl IntoPyErr for TextError {
    fn into_py_err(self) -> PyErr {
        errors::ModelError::new_err(self.to_string())
    }
}

/// A tokenizer that encodes without the interpreter lock.
#[pyclass(frozen, module = "tinsmith._native")]
pub struct TextEncoder {
    inner: Encoder,
}

#[pymethods]
impl TextEncoder {
    #[new]
    fn new(
        py: Python<'_>,
        spec: &str,
        token_bytes: Vec<PyBackedBytes>,
        control: Vec<usize>,
    ) -> PyResult<Self> {
        let inner = enter(py, || Encoder::new(spec, &token_bytes, &control))?;
        Ok(Self { inner })
    }

    /// Ids of a text; None if it must be left to another tokenizer.
    fn encode<'py>(&self, py: Python<'py>, text: &str) -> PyResult<Option<Out<'py, i32>>> {
        let ids = enter(py, || self.inner.encode(text))?;
        Ok(ids.map(|ids| signed(&ids).into_pyarray(py)))
    }

    /// The same, and for each id the character that it starts in.
    #[allow(clippy::type_complexity)]
    fn encode_with_offsets<'py>(
        &self,
        py: Python<'py>,
        text: &str,
    ) -> PyResult<Option<(Out<'py, i32>, Out<'py, i32>)>> {
        let found = enter(py, || -> Result<_, TextError> {
            let Some(ids) = self.inner.encode(text)? else {
                return Ok(None);
            };
            let Some(starts) = self.inner.starts(text, &ids) else {
                return Ok(None);
            };
            Ok(Some((signed(&ids), characters(text, &starts))))
        })?;
        Ok(found.map(|(ids, starts)| (ids.into_pyarray(py), starts.into_pyarray(py))))
    }

    /// Offsets, ids, message, origin and special of all scripts, and the scripts that must be left to another tokenizer
    /// (their rows are empty).
    #[allow(clippy::type_complexity)]
    fn encode_scripts<'py>(
        &self,
        py: Python<'py>,
        scripts: &Bound<'py, PyList>,
    ) -> PyResult<(
        Out<'py, i64>,
        Out<'py, i32>,
        Out<'py, i32>,
        Out<'py, u8>,
        Out<'py, bool>,
        Vec<usize>,
    )> {
        let read = read(scripts)?;
        let columns = enter(py, || self.inner.encode_scripts(&read))?;
        Ok((
            columns.offsets.into_pyarray(py),
            columns.ids.into_pyarray(py),
            columns.message.into_pyarray(py),
            columns.origin.into_pyarray(py),
            columns.special.into_pyarray(py),
            columns.declined,
        ))
    }
}

fn signed(ids: &[u32]) -> Vec<i32> {
    ids.iter().map(|&id| id as i32).collect()
}

/// The characters that these bytes, in order, belong to.
fn characters(text: &str, starts: &[usize]) -> Vec<i32> {
    let bytes = text.as_bytes();
    let (mut at, mut character) = (0, -1);
    starts
        .iter()
        .map(|&start| {
            while at <= start {
                character += i32::from(bytes[at] & 0xC0 != 0x80);
                at += 1;
            }
            character
        })
        .collect()
}

/// Copies the pieces out of Python: each a text, an id or None, a message and an origin.
fn read(scripts: &Bound<'_, PyList>) -> PyResult<Scripts> {
    let mut out = Scripts::default();
    for script in scripts {
        out.start();
        if let Ok(pieces) = script.cast::<PyList>() {
            for piece in pieces {
                push(&mut out, &piece)?;
            }
        } else {
            for piece in script.cast::<PySequence>()?.try_iter()? {
                push(&mut out, &piece?)?;
            }
        }
    }
    Ok(out)
}

fn push(out: &mut Scripts, piece: &Bound<'_, PyAny>) -> PyResult<()> {
    let piece = piece.cast::<PyTuple>()?;
    let what = piece.get_borrowed_item(0)?;
    let message = piece.get_borrowed_item(1)?.extract()?;
    let origin = piece.get_borrowed_item(2)?.extract()?;
    if let Ok(text) = what.cast::<PyString>() {
        out.push_text(text.to_str()?, message, origin);
    } else if what.is_none() {
        out.push(What::Cut, message, origin);
    } else {
        out.push(What::Control(what.extract()?), message, origin);
    }
    Ok(())
}
