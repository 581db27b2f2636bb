//! AdamW (Loshchilov and Hutter 2019, algorithm 2) as `torch.optim.AdamW` does it, after clipping by global norm
//! as `torch.nn.utils.clip_grad_norm_` does it.
use rayon::prelude::*;

use crate::tensor::{Lanes, Real};
use crate::train::params::{Grads, Param};
use crate::train::{TrainError, params::Form};

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    pub learning_rate: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    /// Decoupled: each step first shrinks a weight by `learning_rate * weight_decay` of itself.
    pub weight_decay: f64,
    /// Gradients are scaled so that their global norm is at most this; 0 is off.
    pub grad_clip_norm: f64,
}

impl AdamW {
    pub fn check(&self) -> Result<(), TrainError> {
        let unsigned = [
            ("learning_rate", self.learning_rate),
            ("eps", self.eps),
            ("weight_decay", self.weight_decay),
            ("grad_clip_norm", self.grad_clip_norm),
        ];
        for (name, value) in unsigned {
            if !(value.is_finite() && value >= 0.0) {
                return Err(TrainError::Setting(format!(
                    "{name} is {value}; it must be finite and not negative"
                )));
            }
        }
        for (name, value) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            if !(0.0..1.0).contains(&value) {
                return Err(TrainError::Setting(format!(
                    "{name} is {value}; it must be at least 0 and below 1"
                )));
            }
        }
        Ok(())
    }
}

/// The global L2 norm, summed in f64 in a fixed order.
pub fn grad_norm<T: Real>(params: &[Param<T>], grads: &Grads<T>) -> f64 {
    let squares = |(param, held): (&Param<T>, &Vec<Lanes<T>>)| -> f64 {
        match param.form {
            Form::Vector => held.iter().map(|lanes| lanes.sum().f64().powi(2)).sum(),
            _ => held
                .iter()
                .map(|lanes| lanes.0.iter().map(|x| x.f64() * x.f64()).sum::<f64>())
                .sum(),
        }
    };
    let parts: Vec<f64> = params.par_iter().zip(grads).map(squares).collect();
    parts.iter().sum::<f64>().sqrt()
}

/// Step number `step` (from 1); gives the gradient norm before clipping. A norm that is not finite changes nothing.
pub fn step<T: Real>(
    params: &mut [Param<T>],
    grads: &Grads<T>,
    step: u64,
    s: &AdamW,
) -> Result<f64, TrainError> {
    s.check()?;
    let norm = grad_norm(params, grads);
    if !norm.is_finite() {
        return Err(TrainError::NonFinite(format!(
            "the gradient norm of optimizer step {step} is {norm}; weights and moments are as they were"
        )));
    }
    let clip = if s.grad_clip_norm > 0.0 {
        (s.grad_clip_norm / (norm + 1e-6)).min(1.0)
    } else {
        1.0
    };
    let time = i32::try_from(step).unwrap_or(i32::MAX);
    let correct1 = 1.0 - s.beta1.powi(time);
    let correct2 = (1.0 - s.beta2.powi(time)).sqrt();
    let keep = T::of(1.0 - s.learning_rate * s.weight_decay);
    let size = T::of(s.learning_rate / correct1);
    let [clip, b1, b2, c1, c2, correct2, eps] = [
        clip,
        s.beta1,
        s.beta2,
        1.0 - s.beta1,
        1.0 - s.beta2,
        correct2,
        s.eps,
    ]
    .map(T::of);
    params.par_iter_mut().zip(grads).for_each(|(p, held)| {
        let gradient = p.gradient(held);
        for (((w, m), v), g) in p.value.iter_mut().zip(&mut p.m).zip(&mut p.v).zip(gradient) {
            let g = g * clip;
            *m = *m * b1 + g * c1;
            *v = *v * b2 + g * g * c2;
            *w = *w * keep - size * *m / (v.sqrt() / correct2 + eps);
        }
    });
    Ok(norm)
}
