//! The sampler of the embedded engine.
use std::sync::Arc;

use numpy::{IntoPyArray, PyArray1, PyArray2, PyReadonlyArray1};
use pyo3::exceptions::{PyMemoryError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use tinsmith_engine::sample::{
    Completion, Finished, Options, Request, SampleError, Sampler as Engine, StopMatch, StopReason,
    TokenLogprob,
};

use crate::boundary::{IntoPyErr, enter, errors, slice};
use crate::snapshot::Snapshot;

impl IntoPyErr for SampleError {
    fn into_py_err(self) -> PyErr {
        let message = self.to_string();
        match self {
            Self::Invalid(_) | Self::TooLarge { .. } => errors::ConfigError::new_err(message),
            Self::Memory(_) => PyMemoryError::new_err(message),
            Self::NotFinite { .. } | Self::Broken => PyRuntimeError::new_err(message),
        }
    }
}

/// Continuous batching over one fixed set of weights.
#[pyclass(frozen, module = "tinsmith._native")]
pub struct Sampler {
    engine: Engine,
}

fn token_ids(what: &str, tokens: &[i32]) -> PyResult<Vec<u32>> {
    let id = |(at, token): (usize, &i32)| {
        u32::try_from(*token).map_err(|_| {
            errors::ShapeError::new_err(format!("{what}[{at}] = {token}: ids are 0 or more"))
        })
    };
    tokens.iter().enumerate().map(id).collect()
}

#[pymethods]
impl Sampler {
    #[new]
    #[pyo3(signature = (snapshot, *, threads, kv_tokens, token_bytes=None))]
    fn new(
        py: Python<'_>,
        snapshot: &Snapshot,
        threads: usize,
        kv_tokens: usize,
        token_bytes: Option<Vec<Vec<u8>>>,
    ) -> PyResult<Self> {
        let (cfg, weights) = (snapshot.cfg.clone(), Arc::clone(&snapshot.weights));
        let options = Options { threads, kv_tokens };
        let engine = enter(py, || {
            Engine::new(cfg, weights, options, token_bytes.map(Arc::new))
        })?;
        Ok(Self { engine })
    }

    #[pyo3(signature = (prompt, *, n=1, max_tokens, temperature=1.0, top_k=0, top_p=1.0, seed=0, stop_ids=Vec::new(),
                        stop_strings=Vec::new(), prompt_logprobs=false, topk=0, topk_prompt=0))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn submit(
        &self,
        py: Python<'_>,
        prompt: PyReadonlyArray1<'_, i32>,
        n: usize,
        max_tokens: usize,
        temperature: f64,
        top_k: usize,
        top_p: f64,
        seed: u64,
        stop_ids: Vec<u32>,
        stop_strings: Vec<Vec<u8>>,
        prompt_logprobs: bool,
        topk: usize,
        topk_prompt: usize,
    ) -> PyResult<u64> {
        let request = Request {
            prompt: token_ids("prompt", slice("prompt", &prompt)?)?,
            n,
            max_tokens,
            temperature,
            top_k,
            top_p,
            seed,
            stop_ids,
            stop_strings,
            top_logprobs: topk,
            prompt_logprobs,
            top_prompt_logprobs: topk_prompt,
        };
        enter(py, || self.engine.submit(request))
    }

    fn cancel(&self, py: Python<'_>, id: u64) -> PyResult<()> {
        enter(py, || self.engine.cancel(id))
    }

    fn interrupt(&self) {
        self.engine.interrupt();
    }

    fn run<'py>(&self, py: Python<'py>, max_steps: usize) -> PyResult<Bound<'py, PyList>> {
        let finished = enter(py, || self.engine.run(max_steps))?;
        let answers = finished.into_iter().map(|finished| answer(py, finished));
        PyList::new(py, answers.collect::<PyResult<Vec<_>>>()?)
    }

    fn score<'py>(
        &self,
        py: Python<'py>,
        tokens: PyReadonlyArray1<'_, i32>,
        offsets: PyReadonlyArray1<'_, i64>,
    ) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let tokens = token_ids("tokens", slice("tokens", &tokens)?)?;
        let offsets = slice("offsets", &offsets)?;
        let wrong = || {
            errors::ShapeError::new_err(
                "offsets must start at 0, never fall and end at len(tokens)",
            )
        };
        let row = |pair: &[i64]| {
            let (start, end) = (
                usize::try_from(pair[0]).ok()?,
                usize::try_from(pair[1]).ok()?,
            );
            tokens.get(start..end).map(<[u32]>::to_vec)
        };
        let ends = (offsets.first().copied(), offsets.last().copied());
        if ends != (Some(0), i64::try_from(tokens.len()).ok()) {
            return Err(wrong());
        }
        let rows = offsets
            .windows(2)
            .map(row)
            .collect::<Option<Vec<_>>>()
            .ok_or_else(wrong)?;
        let scores = enter(py, || self.engine.score(rows))?;
        Ok(scores.concat().into_pyarray(py))
    }

    #[getter]
    fn pending(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(enter(py, || self.engine.stats())?.pending)
    }

    #[getter]
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = enter(py, || self.engine.stats())?;
        let dict = PyDict::new(py);
        dict.set_item("steps", stats.steps)?;
        dict.set_item("tokens_prefilled", stats.tokens_prefilled)?;
        dict.set_item("tokens_sampled", stats.tokens_sampled)?;
        dict.set_item("pending", stats.pending)?;
        dict.set_item("decoding", stats.decoding)?;
        dict.set_item("pages_in_use", stats.pages_in_use)?;
        dict.set_item("pages", stats.pages)?;
        Ok(dict)
    }
}

fn answer<'py>(py: Python<'py>, finished: Finished) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("id", finished.id)?;
    let completions = finished
        .completions
        .into_iter()
        .map(|one| completion(py, one));
    dict.set_item("completions", completions.collect::<PyResult<Vec<_>>>()?)?;
    dict.set_item(
        "prompt_logprobs",
        finished
            .prompt_logprobs
            .map(|logprobs| logprobs.into_pyarray(py)),
    )?;
    set_top(
        &dict,
        ["prompt_top_ids", "prompt_top_logprobs"],
        &finished.top_prompt_logprobs,
    )?;
    dict.set_item("error", finished.error.map(|error| error.to_string()))?;
    Ok(dict)
}

fn completion<'py>(py: Python<'py>, one: Completion) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    let tokens: Vec<i32> = one.tokens.iter().map(|id| *id as i32).collect();
    dict.set_item("tokens", tokens.into_pyarray(py))?;
    dict.set_item("logprobs", one.logprobs.into_pyarray(py))?;
    set_top(&dict, ["top_ids", "top_logprobs"], &one.top_logprobs)?;
    let reason = match one.stop_reason {
        StopReason::Stop => "stop",
        StopReason::Length => "length",
        StopReason::Cancelled => "cancelled",
    };
    dict.set_item("stop_reason", reason)?;
    let stop_string = match one.stop_match {
        Some(StopMatch::String(found)) => Some((found.index, found.start)),
        Some(StopMatch::Token(_)) | None => None,
    };
    dict.set_item("stop_string", stop_string)?;
    Ok(dict)
}

/// Two `[N, k]` arrays, or None when nothing was asked for. A row without entries is -1 and NaN.
fn set_top(dict: &Bound<'_, PyDict>, names: [&str; 2], rows: &[Vec<TokenLogprob>]) -> PyResult<()> {
    let py = dict.py();
    let k = rows.iter().map(Vec::len).max().unwrap_or(0);
    if k == 0 {
        dict.set_item(names[0], py.None())?;
        return dict.set_item(names[1], py.None());
    }
    let full = |row: &Vec<TokenLogprob>| {
        if row.is_empty() {
            vec![(u32::MAX, f32::NAN); k]
        } else {
            row.clone()
        }
    };
    let rows: Vec<Vec<TokenLogprob>> = rows.iter().map(full).collect();
    let column = |f: &dyn Fn(&TokenLogprob) -> i32| -> Vec<Vec<i32>> {
        rows.iter().map(|row| row.iter().map(f).collect()).collect()
    };
    dict.set_item(
        names[0],
        PyArray2::from_vec2(py, &column(&|(id, _)| *id as i32))?,
    )?;
    let logprobs: Vec<Vec<f32>> = rows
        .iter()
        .map(|row| row.iter().map(|(_, logprob)| *logprob).collect())
        .collect();
    dict.set_item(names[1], PyArray2::from_vec2(py, &logprobs)?)
}
