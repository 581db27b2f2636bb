//! A model's weights in memory. Every matrix is row-major `[out, in]`, as Hugging Face stores it,
//! with q, k, v fused to one matrix and gate, up to another, so that each is one product.

/// One decoder layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerWeights<T> {
    /// `[hidden]`, before attention.
    pub attn_norm: Vec<T>,
    /// `[q_dim + 2 * kv_dim, hidden]`: query rows, key rows, value rows.
    pub qkv: Vec<T>,
    /// `[q_dim + 2 * kv_dim]`.
    pub qkv_bias: Option<Vec<T>>,
    /// `[head_dim]`, one for all query heads (Qwen3).
    pub q_norm: Option<Vec<T>>,
    /// `[head_dim]`, one for all key heads (Qwen3).
    pub k_norm: Option<Vec<T>>,
    /// `[hidden, q_dim]`.
    pub o: Vec<T>,
    /// `[hidden]`, before the MLP.
    pub mlp_norm: Vec<T>,
    /// `[2 * intermediate, hidden]`: gate rows, then up rows.
    pub gate_up: Vec<T>,
    /// `[hidden, intermediate]`.
    pub down: Vec<T>,
}

/// All weights of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights<T> {
    /// `[vocab, hidden]`.
    pub embed: Vec<T>,
    pub layers: Vec<LayerWeights<T>>,
    /// `[hidden]`.
    pub final_norm: Vec<T>,
    /// `[vocab, hidden]`; `None` when the head is the embedding table.
    pub head: Option<Vec<T>>,
}

impl<T> Weights<T> {
    /// The output head, `[vocab, hidden]`.
    pub fn head(&self) -> &[T] {
        self.head.as_deref().unwrap_or(&self.embed)
    }

    /// Number of weights; a tied head counts once.
    pub fn num_parameters(&self) -> usize {
        let optional = |values: &Option<Vec<T>>| values.as_ref().map_or(0, Vec::len);
        let layers = self.layers.iter().map(|layer| {
            let fixed = [
                &layer.attn_norm,
                &layer.qkv,
                &layer.o,
                &layer.mlp_norm,
                &layer.gate_up,
                &layer.down,
            ];
            fixed.map(Vec::len).iter().sum::<usize>()
                + optional(&layer.qkv_bias)
                + optional(&layer.q_norm)
                + optional(&layer.k_norm)
        });
        self.embed.len() + layers.sum::<usize>() + self.final_norm.len() + optional(&self.head)
    }
}
