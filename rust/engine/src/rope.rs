//! Rotary position embedding (Su et al. 2021, arXiv:2104.09864, section 3.2.2), half-split as the Llama
//! family applies it: dimension `i` turns with dimension `i + head_dim / 2`.
use std::f64::consts::PI;

use crate::{ModelConfig, RopeScaling};

/// The angular frequency of each pair of dimensions, and the factor that cosines and sines carry.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// `[head_dim / 2]`, radians a position.
    pub frequencies: Vec<f64>,
    /// 1 but for YaRN, which sharpens attention by it.
    pub scale: f64,
}

impl Rope {
    pub fn new(cfg: &ModelConfig) -> Self {
        let dim = cfg.head_dim as f64;
        let base = |i: usize| cfg.rope_theta.powf(-2.0 * i as f64 / dim);
        let half = 0..cfg.head_dim / 2;
        let (frequencies, scale) = match cfg.rope_scaling {
            RopeScaling::None => (half.map(base).collect(), 1.0),
            RopeScaling::Linear { factor } => (half.map(|i| base(i) / factor).collect(), 1.0),
            // Llama 3.1: long waves are stretched, short ones kept, those between are blended.
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_context,
            } => {
                let stretch = |freq: f64| {
                    let turns = original_context as f64 * freq / (2.0 * PI);
                    if turns < low_freq_factor {
                        freq / factor
                    } else if turns > high_freq_factor {
                        freq
                    } else {
                        let kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                        (1.0 - kept) * freq / factor + kept * freq
                    }
                };
                (half.map(|i| stretch(base(i))).collect(), 1.0)
            }
            // YaRN (Peng et al. 2023, arXiv:2309.00071, section 3.2): a ramp over dimensions.
            RopeScaling::Yarn {
                factor,
                beta_fast,
                beta_slow,
                original_context,
                attention_factor,
            } => {
                let dimension_of = |turns: f64| {
                    dim * (original_context as f64 / (turns * 2.0 * PI)).ln()
                        / (2.0 * cfg.rope_theta.ln())
                };
                let low = dimension_of(beta_fast).floor().max(0.0);
                let high = dimension_of(beta_slow).ceil().min(dim - 1.0);
                let width = if high == low { 0.001 } else { high - low };
                let blend = |i: usize| {
                    let stretched = ((i as f64 - low) / width).clamp(0.0, 1.0);
                    base(i) / factor * stretched + base(i) * (1.0 - stretched)
                };
                (half.map(blend).collect(), attention_factor)
            }
        };
        Self { frequencies, scale }
    }

    /// Cosines and sines of one position, `[head_dim / 2]` each. Angles are taken in f64: in f32 they
    /// are off by 1e-4 rad after a few thousand positions.
    pub fn angles(&self, position: usize, cos: &mut [f32], sin: &mut [f32]) {
        for ((frequency, cos), sin) in self.frequencies.iter().zip(cos).zip(sin) {
            let (s, c) = (position as f64 * frequency).sin_cos();
            *cos = (c * self.scale) as f32;
            *sin = (s * self.scale) as f32;
        }
    }
}
