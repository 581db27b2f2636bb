//! Bindings of tinsmith-core: each takes arrays, enters Rust once and gives arrays.

use std::collections::BTreeMap;

use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use tinsmith_core::advantages::{self, Estimator};
use tinsmith_core::assembly::{self, Advantages, Episodes};
use tinsmith_core::losses::{Columns, Loss, OptionValue};
use tinsmith_core::packing::{self, Packing};
use tinsmith_core::returns::{self, Distance};
use tinsmith_core::{KernelError, names, nll, utf8};

use crate::boundary::{enter, optional, slice};

type In<'py, T> = PyReadonlyArray1<'py, T>;
type Out<'py, T> = Bound<'py, PyArray1<T>>;

/// Adds the kernels to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("LOSSES", Loss::names().to_vec())?;
    m.add("ADVANTAGE_ESTIMATORS", Estimator::names().to_vec())?;
    m.add_class::<Utf8Decoder>()?;
    m.add_function(wrap_pyfunction!(discounted_sums, m)?)?;
    m.add_function(wrap_pyfunction!(gae, m)?)?;
    m.add_function(wrap_pyfunction!(kl_penalty, m)?)?;
    m.add_function(wrap_pyfunction!(group_advantages, m)?)?;
    m.add_function(wrap_pyfunction!(check_loss, m)?)?;
    m.add_function(wrap_pyfunction!(loss_denominator, m)?)?;
    m.add_function(wrap_pyfunction!(token_loss, m)?)?;
    m.add_function(wrap_pyfunction!(row_nll, m)?)?;
    m.add_function(wrap_pyfunction!(assemble, m)?)?;
    m.add_function(wrap_pyfunction!(pack, m)?)?;
    m.add_function(wrap_pyfunction!(minibatches, m)?)?;
    m.add_function(wrap_pyfunction!(decode_utf8, m)?)?;
    Ok(())
}

fn distance(name: &str) -> Result<Distance, KernelError> {
    match name {
        "positions" => Ok(Distance::Positions),
        "unmasked" => Ok(Distance::Unmasked),
        _ => Err(names::unknown("distance", name, &["positions", "unmasked"])),
    }
}

#[pyfunction]
fn discounted_sums<'py>(
    py: Python<'py>,
    values: In<'py, f64>,
    offsets: In<'py, i64>,
    mask: Option<In<'py, bool>>,
    gamma: f64,
    distance_name: &str,
) -> PyResult<Out<'py, f64>> {
    let (values, offsets) = (slice("values", &values)?, slice("offsets", &offsets)?);
    let mask = optional("mask", mask.as_ref())?;
    let out = enter(py, || {
        returns::discounted_sums(values, offsets, mask, gamma, distance(distance_name)?)
    })?;
    Ok(out.into_pyarray(py))
}

#[pyfunction]
#[allow(clippy::too_many_arguments)]
fn gae<'py>(
    py: Python<'py>,
    rewards: In<'py, f64>,
    values: In<'py, f64>,
    bootstraps: In<'py, f64>,
    offsets: In<'py, i64>,
    mask: Option<In<'py, bool>>,
    gamma: f64,
    lambda_: f64,
) -> PyResult<Out<'py, f64>> {
    let (rewards, values) = (slice("rewards", &rewards)?, slice("values", &values)?);
    let (bootstraps, offsets) = (
        slice("bootstraps", &bootstraps)?,
        slice("offsets", &offsets)?,
    );
    let mask = optional("mask", mask.as_ref())?;
    let out = enter(py, || {
        returns::gae(rewards, values, bootstraps, offsets, mask, gamma, lambda_)
    })?;
    Ok(out.into_pyarray(py))
}

#[pyfunction]
#[allow(clippy::too_many_arguments)]
fn kl_penalty<'py>(
    py: Python<'py>,
    logprobs: In<'py, f32>,
    reference_logprobs: In<'py, f32>,
    offsets: In<'py, i64>,
    mask: In<'py, bool>,
    coef: f64,
    gamma: f64,
    distance_name: &str,
) -> PyResult<(Out<'py, f32>, f64, usize)> {
    let q = slice("logprobs", &logprobs)?;
    let (reference, mask) = (
        slice("reference_logprobs", &reference_logprobs)?,
        slice("mask", &mask)?,
    );
    let offsets = slice("offsets", &offsets)?;
    let (out, sum, count) = enter(py, || {
        returns::kl_penalty(
            q,
            reference,
            offsets,
            mask,
            coef,
            gamma,
            distance(distance_name)?,
        )
    })?;
    Ok((out.into_pyarray(py), sum, count))
}

#[pyfunction]
fn group_advantages<'py>(
    py: Python<'py>,
    rewards: In<'py, f64>,
    offsets: In<'py, i64>,
    estimator: &str,
    eps: f64,
    k: usize,
) -> PyResult<Out<'py, f64>> {
    let (rewards, offsets) = (slice("rewards", &rewards)?, slice("offsets", &offsets)?);
    let out = enter(py, || {
        advantages::group_advantages(rewards, offsets, Estimator::parse(estimator, eps, k)?)
    })?;
    Ok(out.into_pyarray(py))
}

/// An option's value: a number or a name.
#[derive(FromPyObject)]
enum Given {
    Number(f64),
    Text(String),
}

/// A loss from a name and a dict of options. Public for the bindings of the trainer.
pub fn parse_loss(name: &str, options: BTreeMap<String, OptionValue>) -> Result<Loss, KernelError> {
    Loss::parse(name, options.iter().map(|(k, v)| (k.as_str(), v)))
}

/// The options of a loss as Python gives them.
pub fn loss_options(options: &Bound<'_, PyDict>) -> PyResult<BTreeMap<String, OptionValue>> {
    let mut out = BTreeMap::new();
    for (key, value) in options.iter() {
        let value = match value.extract::<Given>()? {
            Given::Number(x) => OptionValue::Number(x),
            Given::Text(s) => OptionValue::Text(s),
        };
        out.insert(key.extract::<String>()?, value);
    }
    Ok(out)
}

#[pyfunction]
fn check_loss(py: Python<'_>, name: &str, options: &Bound<'_, PyDict>) -> PyResult<()> {
    let options = loss_options(options)?;
    enter(py, || parse_loss(name, options).map(|_| ()))
}

#[pyfunction]
#[allow(clippy::too_many_arguments)]
fn loss_denominator(
    py: Python<'_>,
    name: &str,
    options: &Bound<'_, PyDict>,
    offsets: In<'_, i64>,
    weights: Option<In<'_, f32>>,
    logprobs: Option<In<'_, f32>>,
    advantages: Option<In<'_, f32>>,
    reference_logprobs: Option<In<'_, f32>>,
    targets_per_position: usize,
) -> PyResult<f64> {
    let options = loss_options(options)?;
    let offsets = slice("offsets", &offsets)?;
    let columns = Columns {
        weights: optional("weights", weights.as_ref())?,
        sampled_logprobs: optional("logprobs", logprobs.as_ref())?,
        advantages: optional("advantages", advantages.as_ref())?,
        reference_logprobs: optional("reference_logprobs", reference_logprobs.as_ref())?,
        targets_per_position,
    };
    enter(py, || {
        parse_loss(name, options)?.denominator(offsets, &columns)
    })
}

type LossResult<'py> = (f64, Out<'py, f32>, BTreeMap<&'static str, f64>);

#[pyfunction]
#[allow(clippy::too_many_arguments)]
fn token_loss<'py>(
    py: Python<'py>,
    name: &str,
    options: &Bound<'py, PyDict>,
    offsets: In<'py, i64>,
    learner_logprobs: In<'py, f32>,
    weights: Option<In<'py, f32>>,
    logprobs: Option<In<'py, f32>>,
    advantages: Option<In<'py, f32>>,
    reference_logprobs: Option<In<'py, f32>>,
    targets_per_position: usize,
    denominator: Option<f64>,
) -> PyResult<LossResult<'py>> {
    let options = loss_options(options)?;
    let (offsets, lp) = (
        slice("offsets", &offsets)?,
        slice("learner_logprobs", &learner_logprobs)?,
    );
    let columns = Columns {
        weights: optional("weights", weights.as_ref())?,
        sampled_logprobs: optional("logprobs", logprobs.as_ref())?,
        advantages: optional("advantages", advantages.as_ref())?,
        reference_logprobs: optional("reference_logprobs", reference_logprobs.as_ref())?,
        targets_per_position,
    };
    let out = enter(py, || {
        let loss = parse_loss(name, options)?;
        let denominator = match denominator {
            Some(d) => d,
            None => loss.denominator(offsets, &columns)?,
        };
        loss.evaluate(offsets, lp, &columns, denominator)
    })?;
    let metrics = out.metrics.entries().into_iter().collect();
    Ok((out.value, out.gradient.into_pyarray(py), metrics))
}

#[pyfunction]
fn row_nll<'py>(
    py: Python<'py>,
    offsets: In<'py, i64>,
    logprobs: In<'py, f32>,
    weights: In<'py, f32>,
) -> PyResult<(Out<'py, f64>, Out<'py, f64>)> {
    let (offsets, lp) = (slice("offsets", &offsets)?, slice("logprobs", &logprobs)?);
    let weights = slice("weights", &weights)?;
    let (sums, totals) = enter(py, || nll::row_nll(offsets, lp, weights))?;
    Ok((sums.into_pyarray(py), totals.into_pyarray(py)))
}

#[pyfunction]
#[allow(clippy::too_many_arguments)]
fn assemble<'py>(
    py: Python<'py>,
    observations: Vec<In<'py, i32>>,
    actions: In<'py, i32>,
    action_offsets: In<'py, i64>,
    logprobs: In<'py, f32>,
    episode_offsets: In<'py, i64>,
    episode_advantages: Option<In<'py, f64>>,
    token_advantages: Option<In<'py, f32>>,
    masked: In<'py, bool>,
    policy_versions: In<'py, i32>,
) -> PyResult<Bound<'py, PyDict>> {
    let advantages = match (&episode_advantages, &token_advantages) {
        (_, Some(a)) => Advantages::PerToken(slice("advantages", a)?),
        (Some(a), None) => Advantages::PerEpisode(slice("advantages", a)?),
        (None, None) => Advantages::PerEpisode(&[]),
    };
    let observations = observations
        .iter()
        .map(|o| slice("observations", o))
        .collect::<PyResult<Vec<_>>>()?;
    let episodes = Episodes {
        observations: &observations,
        actions: slice("actions", &actions)?,
        action_offsets: slice("action_offsets", &action_offsets)?,
        logprobs: slice("logprobs", &logprobs)?,
        episode_offsets: slice("episode_offsets", &episode_offsets)?,
        advantages,
        masked: slice("masked", &masked)?,
        policy_versions: slice("policy_versions", &policy_versions)?,
    };
    let out = enter(py, || assembly::assemble(&episodes))?;
    let columns = PyDict::new(py);
    columns.set_item("offsets", out.offsets.into_pyarray(py))?;
    columns.set_item("episodes", out.episodes.into_pyarray(py))?;
    columns.set_item("tokens", out.tokens.into_pyarray(py))?;
    columns.set_item("targets", out.targets.into_pyarray(py))?;
    columns.set_item("weights", out.weights.into_pyarray(py))?;
    columns.set_item("logprobs", out.logprobs.into_pyarray(py))?;
    columns.set_item("advantages", out.advantages.into_pyarray(py))?;
    columns.set_item("turns", out.turns.into_pyarray(py))?;
    columns.set_item("sampled", out.sampled.into_pyarray(py))?;
    columns.set_item("policy_versions", out.policy_versions.into_pyarray(py))?;
    Ok(columns)
}

#[pyfunction]
fn pack<'py>(
    py: Python<'py>,
    lengths: In<'py, i64>,
    budget: i64,
    method: &str,
) -> PyResult<(Out<'py, i64>, Out<'py, i64>)> {
    let lengths = slice("lengths", &lengths)?;
    let (items, offsets) = enter(py, || {
        let packing = match method {
            "in_order" => Packing::InOrder,
            "best_fit" => Packing::BestFit,
            _ => return Err(names::unknown("packing", method, &["in_order", "best_fit"])),
        };
        packing::pack(lengths, budget, packing)
    })?;
    Ok((items.into_pyarray(py), offsets.into_pyarray(py)))
}

#[pyfunction]
fn minibatches<'py>(
    py: Python<'py>,
    lengths: In<'py, i64>,
    n: usize,
    by: &str,
) -> PyResult<Out<'py, i64>> {
    let lengths = slice("lengths", &lengths)?;
    let offsets = enter(py, || {
        let by_tokens = match by {
            "tokens" => true,
            "count" => false,
            _ => return Err(names::unknown("balance", by, &["tokens", "count"])),
        };
        packing::minibatches(lengths, n, by_tokens)
    })?;
    Ok(offsets.into_pyarray(py))
}

#[pyfunction]
fn decode_utf8(py: Python<'_>, values: In<'_, u8>, offsets: In<'_, i64>) -> PyResult<Vec<String>> {
    let (values, offsets) = (slice("values", &values)?, slice("offsets", &offsets)?);
    enter(py, || utf8::decode_rows(values, offsets))
}

/// Bytes in pieces to text; see the stub.
#[pyclass(module = "tinsmith._native")]
struct Utf8Decoder(utf8::Decoder);

#[pymethods]
impl Utf8Decoder {
    #[new]
    fn new() -> Self {
        Self(utf8::Decoder::new())
    }

    fn push(&mut self, piece: &[u8]) -> String {
        self.0.push(piece)
    }

    fn finish(&mut self) -> String {
        self.0.finish()
    }
}
