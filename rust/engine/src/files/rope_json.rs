//! The rotary settings of `config.json`, in the layouts of transformers 4 and 5.
use serde_json::{Map, Value, json};

use super::error::FileError;
use super::fields::Fields;
use crate::config::RopeScaling;

const SUPPORTED_ROPE: &str = "supported: default, linear, llama3, yarn";

/// The value of `rope_scaling`.
pub fn rope_to_json(scaling: &RopeScaling) -> Value {
    match scaling {
        RopeScaling::None => Value::Null,
        RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_context,
        } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_context,
        }),
        RopeScaling::Yarn {
            factor,
            beta_fast,
            beta_slow,
            original_context,
            attention_factor,
        } => json!({
            "rope_type": "yarn",
            "factor": factor,
            "beta_fast": beta_fast,
            "beta_slow": beta_slow,
            "original_max_position_embeddings": original_context,
            "attention_factor": attention_factor,
        }),
    }
}

/// (theta, scaling), from either layout.
pub fn rope(fields: &Fields<'_>, context: usize) -> Result<(f64, RopeScaling), FileError> {
    let empty = Map::new();
    let map = match (
        fields.map.get("rope_scaling"),
        fields.map.get("rope_parameters"),
    ) {
        (Some(Value::Object(map)), _) if !map.is_empty() => map,
        (_, Some(Value::Object(map))) => map,
        (None | Some(Value::Null | Value::Object(_)), None | Some(Value::Null)) => &empty,
        _ => {
            return Err(FileError::malformed(
                fields.path,
                "the rotary settings are no JSON object",
            ));
        }
    };
    let rope = Fields {
        map,
        path: fields.path,
    };
    if map.values().any(Value::is_object) {
        return Err(FileError::unsupported(
            fields.path,
            "a rotary embedding per layer type",
            "supported: one for all layers",
        ));
    }
    for source in [fields, &rope] {
        if source
            .number("partial_rotary_factor")?
            .is_some_and(|part| part != 1.0)
        {
            return Err(FileError::unsupported(
                fields.path,
                "partial_rotary_factor",
                "supported: 1.0",
            ));
        }
    }
    let theta = match rope.number("rope_theta")? {
        Some(theta) => theta,
        None => fields.number("rope_theta")?.unwrap_or(10_000.0),
    };
    let original = || -> Result<usize, FileError> {
        Ok(match fields.count("original_max_position_embeddings")? {
            Some(n) => n,
            None => rope
                .count("original_max_position_embeddings")?
                .unwrap_or(context),
        })
    };
    let kind = match rope.text("rope_type")? {
        Some(kind) => Some(kind),
        None => rope.text("type")?,
    };
    let scaling = match kind.unwrap_or("default") {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear {
            factor: rope.required_number("factor")?,
        },
        "llama3" => RopeScaling::Llama3 {
            factor: rope.required_number("factor")?,
            low_freq_factor: rope.required_number("low_freq_factor")?,
            high_freq_factor: rope.required_number("high_freq_factor")?,
            original_context: original()?,
        },
        "yarn" => yarn(&rope, original()?, context)?,
        other => {
            return Err(FileError::unsupported(
                fields.path,
                format!("rotary scaling `{other}`"),
                SUPPORTED_ROPE,
            ));
        }
    };
    Ok((theta, scaling))
}

fn yarn(
    rope: &Fields<'_>,
    original_context: usize,
    context: usize,
) -> Result<RopeScaling, FileError> {
    if rope.map.get("truncate").and_then(Value::as_bool) == Some(false) {
        return Err(FileError::unsupported(
            rope.path,
            "yarn with truncate = false",
            "supported: truncate = true",
        ));
    }
    let factor = match rope.number("factor")? {
        Some(factor) => factor,
        None => context as f64 / original_context.max(1) as f64,
    };
    let attention_factor = match rope.number("attention_factor")? {
        Some(given) => given,
        None => {
            let ratio = |scale: f64| {
                if factor <= 1.0 {
                    1.0
                } else {
                    0.1 * scale * factor.ln() + 1.0
                }
            };
            let mscale = rope.number("mscale")?.filter(|m| *m != 0.0);
            let all_dim = rope.number("mscale_all_dim")?.filter(|m| *m != 0.0);
            match (mscale, all_dim) {
                (Some(mscale), Some(all_dim)) => ratio(mscale) / ratio(all_dim),
                _ => yarn_attention_factor(factor),
            }
        }
    };
    Ok(RopeScaling::Yarn {
        factor,
        beta_fast: rope
            .number("beta_fast")?
            .filter(|beta| *beta != 0.0)
            .unwrap_or(32.0),
        beta_slow: rope
            .number("beta_slow")?
            .filter(|beta| *beta != 0.0)
            .unwrap_or(1.0),
        original_context,
        attention_factor,
    })
}

/// sqrt(1/t) = 0.1 ln(s) + 1: YaRN (Peng et al. 2023), equation 22.
pub fn yarn_attention_factor(factor: f64) -> f64 {
    if factor <= 1.0 {
        1.0
    } else {
        0.1 * factor.ln() + 1.0
    }
}
