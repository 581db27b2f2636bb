//! SwiGLU (Shazeer 2020, eq. 6): `act = silu(gate) * up`, `silu(g) = g * sigmoid(g)`.
use crate::tensor::{LANES, Lanes, Real, vectorized};

vectorized! {
/// `gate_up` holds the gate features of a panel, then the up features.
pub fn swiglu<T: Real>(gate_up: &[Lanes<T>], act: &mut [Lanes<T>]) {
    let (gate, up) = gate_up.split_at(act.len());
    for ((g, u), act) in gate.iter().zip(up).zip(act) {
        for l in 0..LANES {
            act.0[l] = g.0[l] * g.0[l].sigmoid() * u.0[l];
        }
    }
}
}

vectorized! {
/// `d_act` becomes the activation itself (the down projection's input, which its own gradient wants), and
/// `d_gate_up` the gradient of gate and up.
pub fn swiglu_back<T: Real>(gate_up: &[Lanes<T>], d_act: &mut [Lanes<T>], d_gate_up: &mut [Lanes<T>]) {
    let n = d_act.len();
    let (gate, up) = gate_up.split_at(n);
    let (d_gate, d_up) = d_gate_up.split_at_mut(n);
    for ((((g, u), d), dg), du) in gate.iter().zip(up).zip(d_act).zip(d_gate).zip(d_up) {
        for l in 0..LANES {
            let s = g.0[l].sigmoid();
            let silu = g.0[l] * s;
            let dy = d.0[l];
            d.0[l] = silu * u.0[l];
            du.0[l] = dy * silu;
            dg.0[l] = dy * u.0[l] * (s + silu * (T::ONE - s));
        }
    }
}
}
