//! The model as the training walk sees it: weights packed for the product kernel, LoRA merged in, and for each
//! of them which parameters learn from it.
use std::sync::Arc;

use crate::config::ModelConfig;
use crate::ops::project::{LowRank, LowRankScratch, low_rank_gradient, weight_gradient};
use crate::tensor::{Act, Exec, Packed, Real, panels_of};
use crate::train::params::{Form, Grads, Param};
use crate::train::random::Random;
use crate::weights::Weights;

/// Which layers learn, and how.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Learn {
    /// Every weight.
    All,
    /// `W + alpha / rank * B A` (Hu et al. 2021, section 4.1) on the chosen linear layers.
    LowRank {
        rank: usize,
        alpha: f64,
        seed: u64,
        attention: bool,
        mlp: bool,
        unembed: bool,
    },
}

/// A low-rank pair on rows `first..` of a linear layer.
#[derive(Debug)]
pub struct Pair<T> {
    first: usize,
    a: Packed<T>,
    b: Packed<T>,
    scale: T,
    /// Parameters A and B.
    ids: [usize; 2],
}

/// A linear layer: the merged weight that both passes use, and what learns.
#[derive(Debug)]
pub struct Linear<T> {
    pub weight: Packed<T>,
    pub pairs: Vec<Pair<T>>,
    /// The parameter that is the weight itself.
    pub whole: Option<usize>,
}

/// A vector weight.
#[derive(Debug)]
pub struct Vector<T> {
    pub weight: Vec<T>,
    pub id: Option<usize>,
}

#[derive(Debug)]
pub struct Layer<T> {
    pub attn_norm: Vector<T>,
    pub qkv: Linear<T>,
    pub qkv_bias: Option<Vector<T>>,
    /// On queries, on keys.
    pub qk_norm: Option<[Vector<T>; 2]>,
    pub o: Linear<T>,
    pub mlp_norm: Vector<T>,
    pub gate_up: Linear<T>,
    pub down: Linear<T>,
}

#[derive(Debug)]
pub struct Net<T> {
    pub config: ModelConfig,
    /// The weights before training; LoRA adds to them.
    base: Arc<Weights<T>>,
    pub layers: Vec<Layer<T>>,
    pub final_norm: Vector<T>,
    pub head: Linear<T>,
    /// The parameter that is the embedding.
    pub embed: Option<usize>,
}

impl<T: Real> Linear<T> {
    pub fn learns(&self) -> bool {
        self.whole.is_some() || !self.pairs.is_empty()
    }

    /// Adds what this layer's parameters learn from input `x` and output gradient `dy`.
    pub fn gradients(
        &self,
        x: Act<T>,
        dy: Act<T>,
        grads: &mut Grads<T>,
        scratch: &mut LowRankScratch<T>,
        exec: Exec,
    ) {
        for pair in &self.pairs {
            let Ok([d_a, d_b]) = grads.get_disjoint_mut(pair.ids) else {
                continue;
            };
            low_rank_gradient(
                pair.low_rank(),
                x,
                dy.from(pair.first),
                (d_a, d_b),
                scratch,
                exec,
            );
        }
        if let Some(id) = self.whole {
            weight_gradient(
                x,
                self.weight.cols(),
                dy,
                self.weight.rows(),
                &mut grads[id],
                exec,
            );
        }
    }
}

impl<T: Real> Pair<T> {
    pub fn low_rank(&self) -> LowRank<'_, T> {
        LowRank {
            a: &self.a,
            b: &self.b,
            scale: self.scale,
        }
    }
    pub fn ids(&self) -> [usize; 2] {
        self.ids
    }
}

/// Builds the parameters while the net is laid out.
struct Builder<'a, T> {
    learn: Learn,
    random: Random,
    params: &'a mut Vec<Param<T>>,
}

impl<T: Real> Builder<'_, T> {
    fn vector(&mut self, parts: Vec<(String, usize)>, value: &[T]) -> Vector<T> {
        let id = (self.learn == Learn::All).then(|| {
            self.params
                .push(Param::new(parts, 1, Form::Vector, value.to_vec()));
            self.params.len() - 1
        });
        Vector {
            weight: value.to_vec(),
            id,
        }
    }

    /// `parts` are (name without `.weight`, rows); `adapted` says whether low-rank pairs go here.
    fn linear(
        &mut self,
        parts: &[(String, usize)],
        cols: usize,
        value: &[T],
        adapted: bool,
    ) -> Linear<T> {
        let rows = value.len() / cols;
        let weight = Packed::new(rows, cols, value);
        let mut linear = Linear {
            weight,
            pairs: Vec::new(),
            whole: None,
        };
        match self.learn {
            Learn::All => {
                let parts = parts
                    .iter()
                    .map(|(name, rows)| (format!("{name}.weight"), *rows))
                    .collect();
                self.params
                    .push(Param::new(parts, cols, Form::Matrix, value.to_vec()));
                linear.whole = Some(self.params.len() - 1);
            }
            Learn::LowRank { rank, alpha, .. } if adapted => {
                let mut first = 0;
                for (name, rows) in parts {
                    // PEFT's start: A uniform within 1 / sqrt(in) (Kaiming with a = sqrt 5), B zero.
                    let bound = 1.0 / (cols as f64).sqrt();
                    let a = (0..rank * cols)
                        .map(|_| T::of(self.random.uniform(-bound, bound)))
                        .collect();
                    let mut push =
                        |half: &str, rows: usize, cols: usize, form: Form, value: Vec<T>| {
                            let name = format!("base_model.model.{name}.lora_{half}.weight");
                            self.params
                                .push(Param::new(vec![(name, rows)], cols, form, value));
                            self.params.len() - 1
                        };
                    let ids = [
                        push("A", rank, cols, Form::Transposed, a),
                        push("B", *rows, rank, Form::Matrix, vec![T::ZERO; rows * rank]),
                    ];
                    let (a, b) = (Packed::zeros(rank, cols), Packed::zeros(*rows, rank));
                    linear.pairs.push(Pair {
                        first,
                        a,
                        b,
                        scale: T::of(alpha / rank as f64),
                        ids,
                    });
                    first += rows;
                }
            }
            Learn::LowRank { .. } => {}
        }
        linear
    }
}

impl<T: Real> Net<T> {
    /// The net of a model and its parameters, at their start.
    pub fn new(config: &ModelConfig, base: Arc<Weights<T>>, learn: Learn) -> (Self, Vec<Param<T>>) {
        let mut params = Vec::new();
        let (attention, mlp, unembed, seed) = match learn {
            Learn::All => (true, true, true, 0),
            Learn::LowRank {
                attention,
                mlp,
                unembed,
                seed,
                ..
            } => (attention, mlp, unembed, seed),
        };
        let mut build = Builder {
            learn,
            random: Random::new(seed),
            params: &mut params,
        };
        let c = config;
        let named = |name: &str, rows: usize| (name.to_owned(), rows);
        let embed = (learn == Learn::All).then(|| {
            let parts = vec![named("model.embed_tokens.weight", c.vocab)];
            build.params.push(Param::new(
                parts,
                c.hidden,
                Form::Matrix,
                base.embed.clone(),
            ));
            0
        });
        let mut layers = Vec::with_capacity(c.n_layers);
        for (i, w) in base.layers.iter().enumerate() {
            let named = |name: &str, rows: usize| (format!("model.layers.{i}.{name}"), rows);
            let (q, kv, inner) = (c.q_dim(), c.kv_dim(), c.intermediate);
            let qkv = |end: &str| {
                vec![
                    named(&format!("self_attn.q_proj{end}"), q),
                    named(&format!("self_attn.k_proj{end}"), kv),
                    named(&format!("self_attn.v_proj{end}"), kv),
                ]
            };
            layers.push(Layer {
                attn_norm: build.vector(
                    vec![named("input_layernorm.weight", c.hidden)],
                    &w.attn_norm,
                ),
                qkv: build.linear(&qkv(""), c.hidden, &w.qkv, attention),
                qkv_bias: w
                    .qkv_bias
                    .as_ref()
                    .map(|bias| build.vector(qkv(".bias"), bias)),
                qk_norm: w.q_norm.as_ref().zip(w.k_norm.as_ref()).map(|(q, k)| {
                    [
                        build.vector(vec![named("self_attn.q_norm.weight", c.head_dim)], q),
                        build.vector(vec![named("self_attn.k_norm.weight", c.head_dim)], k),
                    ]
                }),
                o: build.linear(&[named("self_attn.o_proj", c.hidden)], q, &w.o, attention),
                mlp_norm: build.vector(
                    vec![named("post_attention_layernorm.weight", c.hidden)],
                    &w.mlp_norm,
                ),
                gate_up: build.linear(
                    &[named("mlp.gate_proj", inner), named("mlp.up_proj", inner)],
                    c.hidden,
                    &w.gate_up,
                    mlp,
                ),
                down: build.linear(&[named("mlp.down_proj", c.hidden)], inner, &w.down, mlp),
            });
        }
        let final_norm = build.vector(vec![named("model.norm.weight", c.hidden)], &base.final_norm);
        let head = if base.head.is_none() && learn == Learn::All {
            Linear {
                weight: Packed::new(c.vocab, c.hidden, &base.embed),
                pairs: Vec::new(),
                whole: embed,
            }
        } else {
            build.linear(&[named("lm_head", c.vocab)], c.hidden, base.head(), unembed)
        };
        let mut net = Self {
            config: config.clone(),
            base,
            layers,
            final_norm,
            head,
            embed,
        };
        net.refresh(&params, Exec::Serial);
        (net, params)
    }

    /// `[vocab, hidden]`
    pub fn embedding<'a>(&'a self, params: &'a [Param<T>]) -> &'a [T] {
        self.embed.map_or(&self.base.embed, |id| &params[id].value)
    }

    /// Takes over new parameter values: once an optimizer step, so that neither pass has a LoRA product.
    pub fn refresh(&mut self, params: &[Param<T>], exec: Exec) {
        let base = &self.base;
        for (layer, base) in self.layers.iter_mut().zip(&base.layers) {
            refresh_linear(&mut layer.qkv, &base.qkv, params, exec);
            refresh_linear(&mut layer.o, &base.o, params, exec);
            refresh_linear(&mut layer.gate_up, &base.gate_up, params, exec);
            refresh_linear(&mut layer.down, &base.down, params, exec);
            let norms = [
                Some(&mut layer.attn_norm),
                Some(&mut layer.mlp_norm),
                layer.qkv_bias.as_mut(),
            ];
            for vector in norms
                .into_iter()
                .flatten()
                .chain(layer.qk_norm.iter_mut().flatten())
            {
                refresh_vector(vector, params);
            }
        }
        refresh_vector(&mut self.final_norm, params);
        refresh_linear(&mut self.head, base.head(), params, exec);
    }

    /// Every weight as it is now, LoRA merged.
    pub fn weights(&self, params: &[Param<T>]) -> Weights<T> {
        let whole = |linear: &Linear<T>| match linear.whole {
            Some(id) => params[id].value.clone(),
            None => linear.weight.row_major(),
        };
        let tied = self.base.head.is_none() && self.head.pairs.is_empty();
        Weights {
            embed: self.embedding(params).to_vec(),
            layers: self
                .layers
                .iter()
                .map(|l| crate::weights::LayerWeights {
                    attn_norm: l.attn_norm.weight.clone(),
                    qkv: whole(&l.qkv),
                    qkv_bias: l.qkv_bias.as_ref().map(|b| b.weight.clone()),
                    q_norm: l.qk_norm.as_ref().map(|n| n[0].weight.clone()),
                    k_norm: l.qk_norm.as_ref().map(|n| n[1].weight.clone()),
                    o: whole(&l.o),
                    mlp_norm: l.mlp_norm.weight.clone(),
                    gate_up: whole(&l.gate_up),
                    down: whole(&l.down),
                })
                .collect(),
            final_norm: self.final_norm.weight.clone(),
            head: (!tied).then(|| whole(&self.head)),
        }
    }

    /// Whether anything learns in the attention half of a layer or below it.
    pub fn learns_from_attention_of(&self, layer: usize) -> bool {
        let own = &self.layers[layer];
        self.embed.is_some() || own.qkv.learns() || own.o.learns() || self.learns_below(layer)
    }

    /// Whether anything learns below a layer.
    pub fn learns_below(&self, layer: usize) -> bool {
        self.embed.is_some()
            || self.layers[..layer].iter().any(|l| {
                [&l.qkv, &l.o, &l.gate_up, &l.down]
                    .iter()
                    .any(|w| w.learns())
            })
    }
}

fn refresh_vector<T: Real>(vector: &mut Vector<T>, params: &[Param<T>]) {
    if let Some(id) = vector.id {
        vector.weight.copy_from_slice(&params[id].value);
    }
}

fn refresh_linear<T: Real>(linear: &mut Linear<T>, base: &[T], params: &[Param<T>], exec: Exec) {
    if let Some(id) = linear.whole {
        linear.weight.fill(&params[id].value);
    }
    for pair in &mut linear.pairs {
        let [a, b] = pair.ids.map(|id| &params[id]);
        pair.a.fill(&a.value);
        pair.b.fill(&b.value);
        let cols = a.cols;
        let base = &base[pair.first * cols..][..b.rows * cols];
        linear.weight.merge(
            pair.first,
            base,
            &pair.b,
            &panels_of(a.rows, cols, &a.value),
            pair.scale,
            exec,
        );
    }
}
