//! Deterministic random numbers for initial weights, the same on every machine.
use crate::config::ModelConfig;
use crate::tensor::Real;
use crate::weights::{LayerWeights, Weights};

/// xoshiro256++ (Blackman and Vigna 2021), seeded by SplitMix64.
#[derive(Clone, Debug)]
pub struct Random([u64; 4]);

impl Random {
    pub fn new(seed: u64) -> Self {
        let mut x = seed;
        Self(std::array::from_fn(|_| {
            x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = x;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }))
    }

    fn next(&mut self) -> u64 {
        let s = &mut self.0;
        let out = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        out
    }

    /// In `[0, 1)`, 53 bits.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Standard normal (Box and Muller 1958); the second of each pair is thrown away.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }
}

impl<T: Real> Weights<T> {
    /// Fresh weights: matrices normal with standard deviation 0.02 (as `transformers` starts these families),
    /// norms one, biases zero.
    pub fn random(config: &ModelConfig, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut matrix = |rows: usize, cols: usize| -> Vec<T> {
            (0..rows * cols)
                .map(|_| T::of(0.02 * random.normal()))
                .collect()
        };
        let ones = |n: usize| vec![T::ONE; n];
        let c = config;
        Self {
            embed: matrix(c.vocab, c.hidden),
            layers: (0..c.n_layers)
                .map(|_| LayerWeights {
                    attn_norm: ones(c.hidden),
                    qkv: matrix(c.qkv_dim(), c.hidden),
                    qkv_bias: c.qkv_bias.then(|| vec![T::ZERO; c.qkv_dim()]),
                    q_norm: c.qk_norm.then(|| ones(c.head_dim)),
                    k_norm: c.qk_norm.then(|| ones(c.head_dim)),
                    o: matrix(c.hidden, c.q_dim()),
                    mlp_norm: ones(c.hidden),
                    gate_up: matrix(2 * c.intermediate, c.hidden),
                    down: matrix(c.hidden, c.intermediate),
                })
                .collect(),
            final_norm: ones(c.hidden),
            head: (!c.tied_head).then(|| matrix(c.vocab, c.hidden)),
        }
    }
}
