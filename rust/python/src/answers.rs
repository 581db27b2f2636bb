//! Bindings of the answer grader: lists of texts in, arrays of codes out.

use std::borrow::Cow;

use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString};
use tinsmith_core::KernelError;
use tinsmith_core::answers::extract::Kind;
use tinsmith_core::answers::{self, Equality, Policy, Reason, Tier, json};

use crate::boundary::{enter, errors};

/// Adds the grader to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("ANSWER_REASONS", Reason::NAMES.to_vec())?;
    m.add("ANSWER_TIERS", Tier::NAMES.to_vec())?;
    m.add("ANSWER_MARKS", Kind::NAMES.to_vec())?;
    m.add_function(wrap_pyfunction!(grade_answers, m)?)?;
    m.add_function(wrap_pyfunction!(extract_answers, m)?)?;
    m.add_function(wrap_pyfunction!(answer_ast, m)?)?;
    Ok(())
}

/// The text of a `str`, of `bytes` or of None. What is not UTF-8 becomes the replacement character: no answer has one.
fn text<'a>(item: &'a Bound<'_, PyAny>) -> PyResult<Cow<'a, str>> {
    if item.is_none() {
        return Ok(Cow::Borrowed(""));
    }
    if let Ok(s) = item.cast::<PyString>() {
        return Ok(s.to_string_lossy());
    }
    if let Ok(b) = item.cast::<PyBytes>() {
        return Ok(String::from_utf8_lossy(b.as_bytes()));
    }
    Err(errors::DataError::new_err(format!(
        "an answer is a str, bytes or None, not {}",
        item.get_type().name()?
    )))
}

/// The items of a list, held so that their texts can be read in place: copying megabytes would hold the GIL.
fn held<'py>(items: &Bound<'py, PyList>) -> Vec<Bound<'py, PyAny>> {
    items.iter().collect()
}

fn texts<'a>(items: &'a [Bound<'_, PyAny>]) -> PyResult<Vec<Cow<'a, str>>> {
    items.iter().map(text).collect()
}

type Codes<'py, T> = Bound<'py, PyArray1<T>>;
type Graded<'py> = (
    Codes<'py, i8>,
    Codes<'py, u8>,
    Codes<'py, u8>,
    Codes<'py, f32>,
);

#[pyfunction]
fn grade_answers<'py>(
    py: Python<'py>,
    golds: &Bound<'py, PyList>,
    preds: &Bound<'py, PyList>,
    responses: bool,
    strict: bool,
) -> PyResult<Graded<'py>> {
    let (golds, preds) = (held(golds), held(preds));
    let (golds, preds) = (texts(&golds)?, texts(&preds)?);
    let policy = if strict {
        Policy::Strict
    } else {
        Policy::Relaxed
    };
    let verdicts = enter(py, || {
        if golds.len() != preds.len() {
            return Err(KernelError::Length {
                what: "preds",
                got: preds.len(),
                expected: golds.len(),
                of: "one for each gold answer",
            });
        }
        Ok(answers::grade_batch(&golds, &preds, responses, policy))
    })?;
    let equality = verdicts.iter().map(|(v, _)| match v.equality {
        Equality::Equal => 1,
        Equality::Different => 0,
        Equality::Undecided => -1,
    });
    Ok((
        equality.collect::<Vec<i8>>().into_pyarray(py),
        verdicts
            .iter()
            .map(|(v, _)| v.reason as u8)
            .collect::<Vec<_>>()
            .into_pyarray(py),
        verdicts
            .iter()
            .map(|(v, _)| v.tier as u8)
            .collect::<Vec<_>>()
            .into_pyarray(py),
        verdicts
            .iter()
            .map(|(_, seconds)| *seconds)
            .collect::<Vec<_>>()
            .into_pyarray(py),
    ))
}

/// For each text the start, the end (in characters) and the mark of its answer; (-1, -1, 0) where there is none.
#[pyfunction]
fn extract_answers(py: Python<'_>, items: &Bound<'_, PyList>) -> PyResult<Vec<(i64, i64, u8)>> {
    let items = held(items);
    let items = texts(&items)?;
    enter(py, || {
        Ok::<_, KernelError>(
            items
                .iter()
                .map(|text| match answers::extract(text) {
                    None => (-1, -1, 0),
                    Some(found) => {
                        let start = text[..found.start].chars().count();
                        let len = text[found.start..found.end].chars().count();
                        let at = |n| i64::try_from(n).unwrap_or(i64::MAX);
                        (at(start), at(start + len), found.kind as u8)
                    }
                })
                .collect(),
        )
    })
}

/// The answer as JSON (see the stub), or the name of the reason why it could not be read.
#[pyfunction]
fn answer_ast(
    py: Python<'_>,
    item: &Bound<'_, PyAny>,
) -> PyResult<(Option<String>, Option<&'static str>)> {
    let item = text(item)?;
    enter(py, || {
        Ok::<_, KernelError>(match answers::parse(&item) {
            Ok(answer) => (Some(json::answer(&answer)), None),
            Err(reason) => (None, Some(reason.name())),
        })
    })
}
