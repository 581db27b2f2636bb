//! Rotary position embedding on panels; the frequencies are `crate::rope`'s.
use crate::config::ModelConfig;
use crate::tensor::{LANES, Lanes, Real, vectorized};

/// cos and sin of every position and frequency, as far as asked for yet.
#[derive(Clone, Debug)]
pub struct RopeTable<T> {
    rope: crate::rope::Rope,
    /// `[position][head_dim / 2]` of (cos, sin).
    table: Vec<(T, T)>,
}

impl<T: Real> RopeTable<T> {
    pub fn new(config: &ModelConfig) -> Self {
        Self {
            rope: crate::rope::Rope::new(config),
            table: Vec::new(),
        }
    }

    /// Makes the table long enough for `positions` positions.
    pub fn reach(&mut self, positions: usize) {
        let half = self.rope.frequencies.len();
        for position in self.table.len() / half..positions {
            for f in &self.rope.frequencies {
                let (sin, cos) = (position as f64 * f).sin_cos();
                self.table
                    .push((T::of(cos * self.rope.scale), T::of(sin * self.rope.scale)));
            }
        }
    }

    /// cos, then sin, of the tokens of a panel, `[head_dim]`.
    pub fn panel(&self, positions: &[u32], out: &mut [Lanes<T>]) {
        let half = self.rope.frequencies.len();
        let (cos, sin) = out.split_at_mut(half);
        for (l, &position) in positions.iter().enumerate().take(LANES) {
            let row = &self.table[position as usize * half..][..half];
            for (i, &(c, s)) in row.iter().enumerate() {
                cos[i].0[l] = c;
                sin[i].0[l] = s;
            }
        }
    }
}

vectorized! {
/// Turns the features of consecutive heads in place; `back` turns the other way, which is the gradient.
pub fn rotate<T: Real>(heads: &mut [Lanes<T>], turn: &[Lanes<T>], back: bool) {
    let half = turn.len() / 2;
    let (cos, sin) = turn.split_at(half);
    let sign = if back { -T::ONE } else { T::ONE };
    for head in heads.chunks_exact_mut(2 * half) {
        let (first, second) = head.split_at_mut(half);
        for (((a, b), c), s) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            for l in 0..LANES {
                let (x, y, s) = (a.0[l], b.0[l], s.0[l] * sign);
                a.0[l] = x * c.0[l] - y * s;
                b.0[l] = y * c.0[l] + x * s;
            }
        }
    }
}
}
