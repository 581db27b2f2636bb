//! `config.json` of Hugging Face, to a [`ModelConfig`] and back. Both layouts of the rotary settings are
//! read: `rope_theta` + `rope_scaling` (transformers 4) and `rope_parameters` (transformers 5); the
//! first is written, which both versions load.
use std::path::Path;

use serde_json::{Value, json};

use super::error::FileError;
use super::fields::Fields;
use super::rope_json::{rope, rope_to_json};
use crate::config::{Family, ModelConfig, RopeScaling};

const ARCHITECTURES: [(&str, &str, Family); 3] = [
    ("LlamaForCausalLM", "llama", Family::Llama),
    ("Qwen2ForCausalLM", "qwen2", Family::Qwen2),
    ("Qwen3ForCausalLM", "qwen3", Family::Qwen3),
];
const SUPPORTED: &str = "supported: LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM";

/// The token ids that a configuration names. They are no part of the arithmetic, but a saved model
/// without them does not know where to stop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenIds {
    pub bos: Option<u32>,
    /// Every id that ends a completion.
    pub eos: Vec<u32>,
    pub pad: Option<u32>,
}

/// The text of `config.json` for `config`. `dtype` is that of the weights beside it: float32, ...
pub fn config_to_json(config: &ModelConfig, ids: &TokenIds, dtype: &str) -> String {
    let (architecture, model_type, _) = ARCHITECTURES[config.family as usize];
    let eos = match ids.eos.as_slice() {
        [] => Value::Null,
        [one] => json!(one),
        several => json!(several),
    };
    let mut out = json!({
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": config.vocab,
        "hidden_size": config.hidden,
        "intermediate_size": config.intermediate,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.rms_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": rope_to_json(&config.rope_scaling),
        "tie_word_embeddings": config.tied_head,
        "bos_token_id": ids.bos,
        "eos_token_id": eos,
        "pad_token_id": ids.pad,
        "torch_dtype": dtype,
    });
    if config.family != Family::Qwen2 {
        out["attention_bias"] = json!(config.qkv_bias);
    }
    if config.family == Family::Llama {
        out["mlp_bias"] = json!(false);
    }
    format!("{out:#}\n")
}

/// Read the text of a `config.json`; `path` only names it in errors.
pub fn config_from_json(text: &str, path: &Path) -> Result<(ModelConfig, TokenIds), FileError> {
    let value: Value = serde_json::from_str(text)
        .map_err(|error| FileError::malformed(path, format!("not valid JSON: {error}")))?;
    let Value::Object(map) = &value else {
        return Err(FileError::malformed(
            path,
            "expected a JSON object at the top",
        ));
    };
    let fields = Fields { map, path };
    let family = family(&fields)?;
    refuse_what_is_not_computed(&fields, family)?;

    let n_heads = fields.required("num_attention_heads")?;
    let hidden = fields.required("hidden_size")?;
    let n_layers = fields.required("num_hidden_layers")?;
    let context = fields
        .count("max_position_embeddings")?
        .unwrap_or(match family {
            Family::Llama => 2048,
            Family::Qwen2 | Family::Qwen3 => 32768,
        });
    // The defaults of the three configuration classes of transformers.
    let n_kv_heads = match (fields.count("num_key_value_heads")?, family) {
        (Some(n), _) => n,
        (None, Family::Llama) => n_heads,
        (None, _) if map.contains_key("num_key_value_heads") => n_heads,
        (None, _) => fields.required("num_key_value_heads")?,
    };
    let head_dim = match (fields.count("head_dim")?, family) {
        (Some(n), _) => n,
        (None, Family::Qwen3) => 128,
        (None, _) if n_heads > 0 && hidden % n_heads == 0 => hidden / n_heads,
        (None, _) => {
            return Err(FileError::malformed(
                path,
                format!(
                    "hidden_size {hidden} is no multiple of num_attention_heads {n_heads}, and head_dim is not given"
                ),
            ));
        }
    };
    refuse_sliding_window(&fields, family, n_layers)?;
    let (rope_theta, rope_scaling) = rope(&fields, context)?;
    let config = ModelConfig {
        family,
        vocab: fields.required("vocab_size")?,
        hidden,
        intermediate: fields.required("intermediate_size")?,
        n_layers,
        n_heads,
        n_kv_heads,
        head_dim,
        rms_eps: fields.number("rms_norm_eps")?.unwrap_or(1e-6),
        rope_theta,
        rope_scaling,
        context,
        qkv_bias: family == Family::Qwen2 || fields.flag("attention_bias")?,
        qk_norm: family == Family::Qwen3,
        tied_head: fields.flag("tie_word_embeddings")?,
    };
    check(&config, path)?;
    Ok((config, token_ids(&fields)?))
}

/// Refuse a configuration whose numbers cannot be a model's, before anything is sized by them.
pub fn check(config: &ModelConfig, path: &Path) -> Result<(), FileError> {
    let sizes = [
        ("vocabulary size", config.vocab, 1 << 24),
        ("hidden size", config.hidden, 1 << 20),
        ("intermediate size", config.intermediate, 1 << 24),
        ("number of layers", config.n_layers, 1 << 14),
        ("number of attention heads", config.n_heads, 1 << 14),
        ("number of key/value heads", config.n_kv_heads, 1 << 14),
        ("head dimension", config.head_dim, 1 << 14),
        ("context", config.context, 1 << 30),
    ];
    let bad = |detail: String| Err(FileError::malformed(path, detail));
    for (what, value, limit) in sizes {
        if value == 0 || value > limit {
            return bad(format!("{what} is {value}; expected 1 to {limit}"));
        }
    }
    if !config.n_heads.is_multiple_of(config.n_kv_heads) {
        return bad(format!(
            "{} attention heads are no multiple of {} key/value heads",
            config.n_heads, config.n_kv_heads
        ));
    }
    if !config.head_dim.is_multiple_of(2) {
        return bad(format!(
            "head dimension {} is odd; rotary embedding turns pairs",
            config.head_dim
        ));
    }
    if !(config.rms_eps.is_finite() && config.rms_eps >= 0.0) {
        return bad(format!(
            "RMSNorm epsilon is {}; expected a finite number >= 0",
            config.rms_eps
        ));
    }
    if !(config.rope_theta.is_finite() && config.rope_theta > 0.0) {
        return bad(format!(
            "rope_theta is {}; expected a finite number > 0",
            config.rope_theta
        ));
    }
    let (numbers, original): (&[f64], usize) = match &config.rope_scaling {
        RopeScaling::None => (&[], 1),
        RopeScaling::Linear { factor } => (&[*factor], 1),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_context,
        } => (
            &[*factor, *low_freq_factor, *high_freq_factor],
            *original_context,
        ),
        RopeScaling::Yarn {
            factor,
            beta_fast,
            beta_slow,
            original_context,
            attention_factor,
        } => (
            &[*factor, *beta_fast, *beta_slow, *attention_factor],
            *original_context,
        ),
    };
    if original == 0 || numbers.iter().any(|n| !(n.is_finite() && *n > 0.0)) {
        return bad(format!(
            "rotary scaling {:?} holds a number that is not above zero",
            config.rope_scaling
        ));
    }
    Ok(())
}

fn family(fields: &Fields<'_>) -> Result<Family, FileError> {
    let named = match fields.map.get("architectures") {
        Some(Value::Array(names)) => names.first().and_then(Value::as_str),
        _ => None,
    };
    if let Some(name) = named {
        return ARCHITECTURES
            .iter()
            .find(|row| row.0 == name)
            .map(|row| row.2)
            .ok_or_else(|| {
                FileError::unsupported(fields.path, format!("architecture `{name}`"), SUPPORTED)
            });
    }
    let model_type = fields.text("model_type")?.ok_or_else(|| {
        FileError::malformed(
            fields.path,
            format!("neither `architectures` nor `model_type` is given; {SUPPORTED}"),
        )
    })?;
    ARCHITECTURES
        .iter()
        .find(|row| row.1 == model_type)
        .map(|row| row.2)
        .ok_or_else(|| {
            FileError::unsupported(fields.path, format!("model type `{model_type}`"), SUPPORTED)
        })
}

fn refuse_what_is_not_computed(fields: &Fields<'_>, family: Family) -> Result<(), FileError> {
    let refuse = |what: String, hint: &str| Err(FileError::unsupported(fields.path, what, hint));
    if let Some(act) = fields.text("hidden_act")?
        && act != "silu"
        && act != "swish"
    {
        return refuse(format!("activation `{act}`"), "supported: silu");
    }
    if family == Family::Llama && fields.flag("mlp_bias")? {
        return refuse(
            "mlp_bias (a bias in the MLP)".into(),
            "supported: no MLP bias",
        );
    }
    for key in ["num_experts", "num_local_experts", "n_routed_experts"] {
        if fields.count(key)?.is_some_and(|n| n > 0) {
            return refuse(
                format!("a mixture of experts (`{key}`)"),
                "supported: dense models",
            );
        }
    }
    if let Some(Value::Object(quantised)) = fields.map.get("quantization_config") {
        let method = quantised
            .get("quant_method")
            .and_then(Value::as_str)
            .unwrap_or("unnamed");
        return refuse(
            format!("quantisation `{method}`"),
            "save the model dequantised as float32, float16 or bfloat16, or use its GGUF file",
        );
    }
    Ok(())
}

fn refuse_sliding_window(
    fields: &Fields<'_>,
    family: Family,
    n_layers: usize,
) -> Result<(), FileError> {
    if family == Family::Llama {
        return Ok(()); // transformers' Llama never reads these keys
    }
    let hint = "supported: full attention in every layer";
    if let Some(Value::Array(types)) = fields.map.get("layer_types") {
        if let Some(other) = types
            .iter()
            .find(|kind| kind.as_str() != Some("full_attention"))
        {
            return Err(FileError::unsupported(
                fields.path,
                format!("attention layer type {other}"),
                hint,
            ));
        }
        return Ok(());
    }
    let first = fields.count("max_window_layers")?.unwrap_or(28);
    let window = fields
        .map
        .get("sliding_window")
        .is_none_or(|value| !value.is_null());
    if fields.flag("use_sliding_window")? && window && first < n_layers {
        return Err(FileError::unsupported(
            fields.path,
            "sliding-window attention (`use_sliding_window`)",
            hint,
        ));
    }
    Ok(())
}

fn token_ids(fields: &Fields<'_>) -> Result<TokenIds, FileError> {
    let one = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let many = |key: &str| -> Result<Vec<u32>, FileError> {
        let ids = match fields.map.get(key) {
            None | Some(Value::Null) => Some(Vec::new()),
            Some(Value::Array(ids)) => ids.iter().map(one).collect(),
            // -1 is how some old configurations say "none"
            Some(value) if value.as_i64() == Some(-1) => Some(Vec::new()),
            Some(value) => one(value).map(|id| vec![id]),
        };
        ids.ok_or_else(|| fields.wrong(key, "a token id, a list of them, or null"))
    };
    Ok(TokenIds {
        bos: many("bos_token_id")?.first().copied(),
        eos: many("eos_token_id")?,
        pad: many("pad_token_id")?.first().copied(),
    })
}
