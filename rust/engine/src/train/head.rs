//! What the output head learns: a low-rank pair, the whole matrix, or nothing.
use std::ops::Range;

use crate::ops::head::LogitGradient;
use crate::ops::project::{LowRankScratch, low_rank_inputs, low_rank_outputs, turn};
use crate::tensor::{Act, Exec, LANES, Lanes, Real, Shared, outer};
use crate::train::net::Linear;
use crate::train::params::Grads;

/// Sees the gradient of the logits one group of vocabulary rows at a time.
pub struct HeadLearner<'a, T> {
    head: &'a Linear<T>,
    grads: &'a mut Grads<T>,
    scratch: &'a mut LowRankScratch<T>,
    /// The hidden state token by token, `[hidden / 32][tokens]`, for the whole matrix.
    turned: Vec<Lanes<T>>,
    started: bool,
}

impl<'a, T: Real> HeadLearner<'a, T> {
    pub fn new(
        head: &'a Linear<T>,
        grads: &'a mut Grads<T>,
        scratch: &'a mut LowRankScratch<T>,
    ) -> Self {
        Self {
            head,
            grads,
            scratch,
            turned: Vec::new(),
            started: false,
        }
    }
}

impl<T: Real> LogitGradient<T> for HeadLearner<'_, T> {
    fn group(
        &mut self,
        rows: Range<usize>,
        d_logits: &[Lanes<T>],
        hidden: &[Lanes<T>],
        exec: Exec,
    ) {
        let (vocab, width) = (self.head.weight.rows(), self.head.weight.cols());
        let dy = Act::new(d_logits, rows.len());
        let x = Act::new(hidden, width);
        let tokens = x.panels() * LANES;
        let first = !std::mem::replace(&mut self.started, true);
        if let Some(id) = self.head.whole {
            if first {
                self.turned = vec![Lanes::ZERO; width.div_ceil(LANES) * tokens];
                for (c, out) in self.turned.chunks_mut(tokens).enumerate() {
                    turn(x.from(c * LANES), LANES.min(width - c * LANES), out);
                }
            }
            let d_w = Shared::new(&mut self.grads[id]);
            exec.each(width.div_ceil(LANES), |c| {
                // SAFETY: each task has a column panel of its own.
                let d_w = unsafe { d_w.slice(c * vocab + rows.start, rows.len()) };
                outer(dy, &self.turned[c * tokens..(c + 1) * tokens], d_w, T::ONE);
            });
        }
        for pair in &self.head.pairs {
            let d_b = &mut self.grads[pair.ids()[1]];
            low_rank_outputs(
                pair.low_rank(),
                first,
                x,
                dy,
                rows.clone(),
                d_b,
                self.scratch,
                exec,
            );
        }
    }

    fn finish(&mut self, hidden: &[Lanes<T>], exec: Exec) {
        let x = Act::new(hidden, self.head.weight.cols());
        for pair in &self.head.pairs {
            low_rank_inputs(
                pair.low_rank(),
                x,
                &mut self.grads[pair.ids()[0]],
                self.scratch,
                exec,
            );
        }
    }
}
