//! Forward and backward through all layers for one micro-batch.
use crate::batch::Layout;
use crate::ops::attention::{Heads, attend, attend_back};
use crate::ops::head::{HeadState, target_logprobs, target_logprobs_back};
use crate::ops::norm::{rms_norm, rms_norm_again, rms_norm_back, rms_norm_weight_gradient};
use crate::ops::project::LowRankScratch;
use crate::ops::rope::{RopeTable, rotate};
use crate::ops::swiglu::{swiglu, swiglu_back};
use crate::tensor::lanes::grow;
use crate::tensor::{Act, Exec, LANES, Lanes, Real, Shared};
use crate::train::head::HeadLearner;
use crate::train::net::{Layer, Net, Vector};
use crate::train::params::Grads;

/// What the forward pass leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Nothing: no backward pass follows.
    Nothing,
    /// The input of each layer; its backward pass begins with its forward pass again.
    Inputs,
    /// All that the backward pass reads.
    All,
}

/// What a layer computes before its output and its backward pass reads, `[panels][...]` each.
#[derive(Debug, Default)]
struct Inner<T> {
    /// 1 / rms of the input.
    scale: Vec<Lanes<T>>,
    /// Normed and rotated.
    qkv: Vec<Lanes<T>>,
    /// Queries and keys before norm and rotation, with a QK norm.
    raw: Vec<Lanes<T>>,
    attended: Vec<Lanes<T>>,
    logsumexp: Vec<Lanes<T>>,
    /// The residual stream before the MLP, and 1 / rms of it.
    x_mid: Vec<Lanes<T>>,
    scale_mid: Vec<Lanes<T>>,
    gate_up: Vec<Lanes<T>>,
}

/// Activations of one micro-batch, reused from one to the next.
#[derive(Debug, Default)]
pub struct Workspace<T> {
    keep: Option<Keep>,
    /// The residual stream before each layer and after the last; two in turn when nothing is kept.
    inputs: Vec<Vec<Lanes<T>>>,
    /// One a layer, or one for all.
    inner: Vec<Inner<T>>,
    /// cos and sin of each panel, `[panels][head_dim]`.
    turn: Vec<Lanes<T>>,
    last_scale: Vec<Lanes<T>>,
    hidden: Vec<Lanes<T>>,
    head: HeadState<T>,
    normed: Vec<Lanes<T>>,
    act: Vec<Lanes<T>>,
    d_x: Vec<Lanes<T>>,
    d_normed: Vec<Lanes<T>>,
    d_gate_up: Vec<Lanes<T>>,
    d_attended: Vec<Lanes<T>>,
    d_qkv: Vec<Lanes<T>>,
    low_rank: LowRankScratch<T>,
}

/// A micro-batch and who works on it.
#[derive(Clone, Copy)]
pub struct Part<'a, T> {
    pub layout: &'a Layout,
    pub tokens: &'a [i32],
    pub targets: &'a [i32],
    pub per_position: usize,
    pub embedding: &'a [T],
    pub rope: &'a RopeTable<T>,
    pub exec: Exec<'a>,
}

/// Runs `work` on each panel of two outputs with `a` and `b` features a panel.
fn each_panel<T: Real>(
    exec: Exec,
    (x, a): (&mut [Lanes<T>], usize),
    (y, b): (&mut [Lanes<T>], usize),
    work: impl Fn(usize, &mut [Lanes<T>], &mut [Lanes<T>]) + Sync + Send,
) {
    let panels = x.len() / a;
    let (x, y) = (Shared::new(x), Shared::new(y));
    exec.each(panels, |p| {
        // SAFETY: one task a panel.
        let (x, y) = unsafe { (x.slice(p * a, a), y.slice(p * b, b)) };
        work(p, x, y);
    });
}

impl<T: Real> Workspace<T> {
    /// Logprobs of the targets, `[tokens * per_position]`. `backward` may follow unless nothing is kept.
    pub fn forward(&mut self, net: &Net<T>, part: Part<T>, keep: Keep, logprobs: &mut [T]) {
        let c = &net.config;
        let (panels, width, exec) = (part.layout.panels(), c.hidden, part.exec);
        self.keep = Some(keep);
        let inputs = if keep == Keep::Nothing {
            2
        } else {
            c.n_layers + 1
        };
        self.inputs
            .resize_with(inputs.max(self.inputs.len()), Vec::new);
        let inner = if keep == Keep::All { c.n_layers } else { 1 };
        self.inner
            .resize_with(inner.max(self.inner.len()), Inner::default);
        let turn = grow(&mut self.turn, panels * c.head_dim);
        for (p, turn) in turn.chunks_mut(c.head_dim).enumerate() {
            part.rope
                .panel(&part.layout.positions()[p * LANES..(p + 1) * LANES], turn);
        }
        embed(part, width, grow(&mut self.inputs[0], panels * width));
        for l in 0..c.n_layers {
            let (from, to) = if keep == Keep::Nothing {
                (l % 2, (l + 1) % 2)
            } else {
                (l, l + 1)
            };
            let mut out = std::mem::take(&mut self.inputs[to]);
            grow(&mut out, panels * width);
            let slot = if keep == Keep::All { l } else { 0 };
            let out_now = Some(&mut out[..panels * width]);
            self.layer_forward(net, &net.layers[l], (from, slot), part, out_now);
            self.inputs[to] = out;
        }
        let last = if keep == Keep::Nothing {
            c.n_layers % 2
        } else {
            c.n_layers
        };
        let last = &self.inputs[last][..panels * width];
        let hidden = grow(&mut self.hidden, panels * width);
        norm(
            &net.final_norm,
            net,
            last,
            hidden,
            grow(&mut self.last_scale, panels),
            exec,
        );
        let (k, kept) = (part.per_position, keep != Keep::Nothing);
        target_logprobs(
            &net.head.weight,
            hidden,
            part.targets,
            k,
            kept,
            &mut self.head,
            logprobs,
            exec,
        );
    }

    /// Layer `layer` from input `from` through `inner[slot]`; without `out`, up to what the backward pass reads.
    fn layer_forward(
        &mut self,
        net: &Net<T>,
        layer: &Layer<T>,
        (from, slot): (usize, usize),
        part: Part<T>,
        out: Option<&mut [Lanes<T>]>,
    ) {
        let c = &net.config;
        let (panels, width, exec) = (part.layout.panels(), c.hidden, part.exec);
        let heads = Heads::of(c);
        let s = &mut self.inner[slot];
        let x = &self.inputs[from][..panels * width];
        let normed = grow(&mut self.normed, panels * width);
        norm(
            &layer.attn_norm,
            net,
            x,
            normed,
            grow(&mut s.scale, panels),
            exec,
        );

        let qkv = grow(&mut s.qkv, panels * c.qkv_dim());
        layer
            .qkv
            .weight
            .mul(Act::new(normed, width), qkv, None, exec);
        let (qk, q) = (c.q_dim() + c.kv_dim(), c.q_dim());
        let raw_width = if layer.qk_norm.is_some() { qk } else { 0 };
        let raw = grow(&mut s.raw, panels * raw_width);
        let turn = &self.turn;
        each_panel(exec, (qkv, c.qkv_dim()), (raw, raw_width), |p, qkv, raw| {
            if let Some(bias) = &layer.qkv_bias {
                for (row, &b) in qkv.iter_mut().zip(&bias.weight) {
                    row.0.iter_mut().for_each(|x| *x += b);
                }
            }
            if let Some(norms) = &layer.qk_norm {
                raw.copy_from_slice(&qkv[..qk]);
                for (i, (head, raw)) in qkv
                    .chunks_mut(c.head_dim)
                    .zip(raw.chunks(c.head_dim))
                    .enumerate()
                {
                    let weight = &norms[usize::from(i >= c.n_heads)].weight;
                    rms_norm(raw, weight, T::of(c.rms_eps), head);
                }
            }
            rotate(
                &mut qkv[..qk],
                &turn[p * c.head_dim..(p + 1) * c.head_dim],
                false,
            );
        });

        let attended = grow(&mut s.attended, panels * q);
        attend(
            heads,
            qkv,
            part.layout,
            attended,
            grow(&mut s.logsumexp, panels * c.n_heads),
            exec,
        );
        let x_mid = grow(&mut s.x_mid, panels * width);
        layer
            .o
            .weight
            .mul(Act::new(attended, q), x_mid, Some(x), exec);

        norm(
            &layer.mlp_norm,
            net,
            x_mid,
            normed,
            grow(&mut s.scale_mid, panels),
            exec,
        );
        let inner = c.intermediate;
        let gate_up = grow(&mut s.gate_up, panels * 2 * inner);
        layer
            .gate_up
            .weight
            .mul(Act::new(normed, width), gate_up, None, exec);
        let Some(out) = out else { return };
        let act = grow(&mut self.act, panels * inner);
        each_panel(exec, (act, inner), (&mut [], 0), |p, act, _| {
            swiglu(&gate_up[p * 2 * inner..(p + 1) * 2 * inner], act);
        });
        layer
            .down
            .weight
            .mul(Act::new(act, inner), out, Some(x_mid), exec);
    }

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

fn embed<T: Real>(part: Part<T>, width: usize, x: &mut [Lanes<T>]) {
    let pads = part.layout.panels() * LANES;
    for t in 0..pads {
        let panel = &mut x[t / LANES * width..][..width];
        match part.tokens.get(t) {
            Some(&token) => {
                let row = &part.embedding[token as usize * width..][..width];
                panel
                    .iter_mut()
                    .zip(row)
                    .for_each(|(x, &e)| x.0[t % LANES] = e);
            }
            None => panel.iter_mut().for_each(|x| x.0[t % LANES] = T::ZERO),
        }
    }
}

fn norm<T: Real>(
    vector: &Vector<T>,
    net: &Net<T>,
    x: &[Lanes<T>],
    out: &mut [Lanes<T>],
    scale: &mut [Lanes<T>],
    exec: Exec,
) {
    let (width, eps) = (vector.weight.len(), T::of(net.config.rms_eps));
    each_panel(exec, (out, width), (scale, 1), |p, out, scale| {
        scale[0] = rms_norm(&x[p * width..(p + 1) * width], &vector.weight, eps, out);
    });
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
