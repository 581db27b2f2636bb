//! The backward half of the walk.
use super::{Keep, Part, Workspace, each_panel};
use crate::ops::attention::{Heads, attend_back};
use crate::ops::head::target_logprobs_back;
use crate::ops::norm::{rms_norm, rms_norm_again, rms_norm_back, rms_norm_weight_gradient};
use crate::ops::rope::rotate;
use crate::ops::swiglu::swiglu_back;
use crate::tensor::lanes::grow;
use crate::tensor::{Act, Exec, LANES, Lanes, Real};
use crate::train::head::HeadLearner;
use crate::train::net::{Layer, Net, Vector};
use crate::train::params::Grads;

impl<T: Real> Workspace<T> {
    /// Adds the gradients for `d loss / d logprob`, `[tokens * per_position]`, to `grads`. The last call of
    /// `forward` was for the same part, with `keep`.
    pub fn backward(
        &mut self,
        net: &Net<T>,
        part: Part<T>,
        d_logprobs: &[T],
        grads: &mut Grads<T>,
    ) {
        let c = &net.config;
        let (panels, width, exec) = (part.layout.panels(), c.hidden, part.exec);
        let hidden = &self.hidden[..panels * width];
        let d_normed = grow(&mut self.d_normed, panels * width);
        let given = (part.targets, d_logprobs, part.per_position);
        let mut learner = HeadLearner::new(&net.head, grads, &mut self.low_rank);
        target_logprobs_back(
            &net.head.weight,
            hidden,
            given,
            &mut self.head,
            d_normed,
            &mut learner,
            exec,
        );
        let d_x = grow(&mut self.d_x, panels * width);
        let last = &self.inputs[c.n_layers][..panels * width];
        norm_back(
            &net.final_norm,
            last,
            &self.last_scale,
            d_normed,
            d_x,
            false,
            grads,
            exec,
        );
        for l in (0..net.layers.len()).rev() {
            let layer = &net.layers[l];
            if !net.learns_below(l + 1) {
                return;
            }
            let slot = if self.keep == Some(Keep::All) { l } else { 0 };
            if self.keep == Some(Keep::Inputs) {
                self.layer_forward(net, layer, (l, slot), part, None);
            }
            self.mlp_backward(net, layer, slot, part, grads);
            if !net.learns_from_attention_of(l) {
                return;
            }
            self.attention_backward(net, l, slot, part, grads);
        }
        if let Some(id) = net.embed {
            let d_embed = &mut grads[id];
            for (t, &token) in part.tokens.iter().enumerate() {
                let d_x = &self.d_x[t / LANES * width..][..width];
                for (f, d) in d_x.iter().enumerate() {
                    d_embed[f / LANES * c.vocab + token as usize].0[f % LANES] += d.0[t % LANES];
                }
            }
        }
    }

    fn mlp_backward(
        &mut self,
        net: &Net<T>,
        layer: &Layer<T>,
        slot: usize,
        part: Part<T>,
        grads: &mut Grads<T>,
    ) {
        let c = &net.config;
        let (panels, width, inner, exec) =
            (part.layout.panels(), c.hidden, c.intermediate, part.exec);
        let s = &self.inner[slot];
        let d_x = &mut self.d_x[..panels * width];
        let act = grow(&mut self.act, panels * inner);
        layer
            .down
            .weight
            .mul_t(Act::new(d_x, width), act, T::ONE, false, exec);
        let d_gate_up = grow(&mut self.d_gate_up, panels * 2 * inner);
        each_panel(
            exec,
            (act, inner),
            (d_gate_up, 2 * inner),
            |p, act, d_gate_up| {
                swiglu_back(
                    &s.gate_up[p * 2 * inner..(p + 1) * 2 * inner],
                    act,
                    d_gate_up,
                );
            },
        );
        let (low_rank, d_gate_up) = (&mut self.low_rank, Act::new(d_gate_up, 2 * inner));
        layer.down.gradients(
            Act::new(act, inner),
            Act::new(d_x, width),
            grads,
            low_rank,
            exec,
        );
        let x_mid = &s.x_mid[..panels * width];
        if layer.gate_up.learns() {
            let normed = grow(&mut self.normed, panels * width);
            norm_again(&layer.mlp_norm, x_mid, &s.scale_mid, normed, exec);
            layer
                .gate_up
                .gradients(Act::new(normed, width), d_gate_up, grads, low_rank, exec);
        }
        let d_normed = grow(&mut self.d_normed, panels * width);
        layer
            .gate_up
            .weight
            .mul_t(d_gate_up, d_normed, T::ONE, false, exec);
        norm_back(
            &layer.mlp_norm,
            x_mid,
            &s.scale_mid,
            d_normed,
            d_x,
            true,
            grads,
            exec,
        );
    }

    fn attention_backward(
        &mut self,
        net: &Net<T>,
        l: usize,
        slot: usize,
        part: Part<T>,
        grads: &mut Grads<T>,
    ) {
        let layer = &net.layers[l];
        let c = &net.config;
        let (panels, width, exec) = (part.layout.panels(), c.hidden, part.exec);
        let (q, qk, all) = (c.q_dim(), c.q_dim() + c.kv_dim(), c.qkv_dim());
        let s = &self.inner[slot];
        let d_x = &mut self.d_x[..panels * width];
        let attended = &s.attended[..panels * q];
        layer.o.gradients(
            Act::new(attended, q),
            Act::new(d_x, width),
            grads,
            &mut self.low_rank,
            exec,
        );
        let d_attended = grow(&mut self.d_attended, panels * q);
        layer
            .o
            .weight
            .mul_t(Act::new(d_x, width), d_attended, T::ONE, false, exec);
        let d_qkv = grow(&mut self.d_qkv, panels * all);
        let qkv = &s.qkv[..panels * all];
        attend_back(
            Heads::of(c),
            qkv,
            part.layout,
            (attended, d_attended),
            &s.logsumexp,
            d_qkv,
            exec,
        );

        let turn = &self.turn;
        each_panel(exec, (d_qkv, all), (&mut [], 0), |p, d_qkv, _| {
            rotate(
                &mut d_qkv[..qk],
                &turn[p * c.head_dim..(p + 1) * c.head_dim],
                true,
            );
        });
        if let Some(norms) = &layer.qk_norm {
            qk_norm_back(net, norms, &s.raw, d_qkv, grads);
        }
        if let Some(id) = layer.qkv_bias.as_ref().and_then(|bias| bias.id) {
            for d_qkv in d_qkv.chunks(all) {
                for (sum, d) in grads[id].iter_mut().zip(d_qkv) {
                    sum.0.iter_mut().zip(&d.0).for_each(|(sum, &d)| *sum += d);
                }
            }
        }
        let x = &self.inputs[l][..panels * width];
        let d_qkv = Act::new(d_qkv, all);
        if layer.qkv.learns() {
            let normed = grow(&mut self.normed, panels * width);
            norm_again(&layer.attn_norm, x, &s.scale, normed, exec);
            layer.qkv.gradients(
                Act::new(normed, width),
                d_qkv,
                grads,
                &mut self.low_rank,
                exec,
            );
        }
        if net.learns_below(l) {
            let d_normed = grow(&mut self.d_normed, panels * width);
            layer.qkv.weight.mul_t(d_qkv, d_normed, T::ONE, false, exec);
            norm_back(
                &layer.attn_norm,
                x,
                &s.scale,
                d_normed,
                d_x,
                true,
                grads,
                exec,
            );
        }
    }
}

fn norm_again<T: Real>(
    vector: &Vector<T>,
    x: &[Lanes<T>],
    scale: &[Lanes<T>],
    out: &mut [Lanes<T>],
    exec: Exec,
) {
    let width = vector.weight.len();
    each_panel(exec, (out, width), (&mut [], 0), |p, out, _| {
        rms_norm_again(
            &x[p * width..(p + 1) * width],
            &vector.weight,
            &scale[p],
            out,
        );
    });
}

#[allow(clippy::too_many_arguments)]
fn norm_back<T: Real>(
    vector: &Vector<T>,
    x: &[Lanes<T>],
    scale: &[Lanes<T>],
    dy: &[Lanes<T>],
    dx: &mut [Lanes<T>],
    add: bool,
    grads: &mut Grads<T>,
    exec: Exec,
) {
    let width = vector.weight.len();
    each_panel(exec, (dx, width), (&mut [], 0), |p, dx, _| {
        let span = p * width..(p + 1) * width;
        rms_norm_back(
            &x[span.clone()],
            &vector.weight,
            &scale[p],
            &dy[span],
            dx,
            add,
        );
    });
    if let Some(id) = vector.id {
        for ((x, dy), scale) in x.chunks(width).zip(dy.chunks(width)).zip(scale) {
            rms_norm_weight_gradient(x, scale, dy, &mut grads[id]);
        }
    }
}

/// Through the QK norm: `d_qkv` holds the gradient after it and is given the one before it.
fn qk_norm_back<T: Real>(
    net: &Net<T>,
    norms: &[Vector<T>; 2],
    raw: &[Lanes<T>],
    d_qkv: &mut [Lanes<T>],
    grads: &mut Grads<T>,
) {
    let c = &net.config;
    let qk = c.q_dim() + c.kv_dim();
    let mut again = vec![Lanes::ZERO; c.head_dim];
    let mut dy = vec![Lanes::ZERO; c.head_dim];
    for (d_qkv, raw) in d_qkv.chunks_mut(c.qkv_dim()).zip(raw.chunks(qk)) {
        for (i, (d, raw)) in d_qkv
            .chunks_mut(c.head_dim)
            .zip(raw.chunks(c.head_dim))
            .enumerate()
        {
            let vector = &norms[usize::from(i >= c.n_heads)];
            let scale = rms_norm(raw, &vector.weight, T::of(c.rms_eps), &mut again);
            dy.copy_from_slice(d);
            rms_norm_back(raw, &vector.weight, &scale, &dy, d, false);
            if let Some(id) = vector.id {
                rms_norm_weight_gradient(raw, &scale, &dy, &mut grads[id]);
            }
        }
    }
}
