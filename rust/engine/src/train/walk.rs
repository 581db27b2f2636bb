//! Forward and backward through all layers for one micro-batch.
mod back;

use crate::batch::Layout;
use crate::ops::attention::{Heads, attend};
use crate::ops::head::{HeadState, target_logprobs};
use crate::ops::norm::rms_norm;
use crate::ops::project::LowRankScratch;
use crate::ops::rope::{RopeTable, rotate};
use crate::ops::swiglu::swiglu;
use crate::tensor::lanes::grow;
use crate::tensor::{Act, Exec, LANES, Lanes, Real, Shared};
use crate::train::net::{Layer, Net, Vector};

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
