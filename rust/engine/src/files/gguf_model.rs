//! A model in a GGUF file: metadata to [`ModelConfig`], names to roles, and the tokenizer that it carries.
use std::collections::HashMap;
use std::path::Path;

use memmap2::Mmap;

use super::assemble::TensorSource;
use super::config_json::{TokenIds, check};
use super::disk;
use super::error::FileError;
use super::gguf::Header;
use super::gguf_cursor::{encoding, kind_name};
use super::roles::{Part, Role};
use super::rope_json::yarn_attention_factor;
use super::tensor::{Encoding, StoredTensor};
use crate::config::{Family, ModelConfig, RopeScaling};

const ROPE_FREQS: &str = "rope_freqs.weight";

/// A mapped, checked GGUF file.
pub struct GgufFile {
    map: Mmap,
    header: Header,
    by_name: HashMap<String, usize>,
    /// Rows of queries and keys are stored for interleaved RoPE: the `llama` architecture.
    interleaved_head_dim: Option<usize>,
}

impl GgufFile {
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let map = disk::map(path)?;
        let header = Header::parse(&map, path)?;
        let by_name = header
            .tensors
            .iter()
            .enumerate()
            .map(|(i, tensor)| (tensor.name.clone(), i))
            .collect();
        Ok(Self {
            map,
            header,
            by_name,
            interleaved_head_dim: None,
        })
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    pub fn path(&self) -> &Path {
        self.header.path()
    }

    /// The model's shape. Call before reading tensors: it settles how query and key rows are stored.
    pub fn config(&mut self) -> Result<ModelConfig, FileError> {
        let path = self.path().to_path_buf();
        let Some(arch) = self.header.text("general.architecture")?.map(str::to_owned) else {
            return Err(FileError::malformed(
                &path,
                "metadata `general.architecture` is missing",
            ));
        };
        let family = match arch.as_str() {
            "llama" => Family::Llama,
            "qwen2" => Family::Qwen2,
            "qwen3" => Family::Qwen3,
            other => {
                return Err(FileError::unsupported(
                    &path,
                    format!("GGUF architecture `{other}`"),
                    "supported: llama, qwen2, qwen3",
                ));
            }
        };
        let keys = Keys {
            header: &self.header,
            arch: &arch,
        };
        for key in ["expert_count", "attention.sliding_window"] {
            if keys.count(key)?.is_some_and(|n| n > 0) {
                return Err(FileError::unsupported(
                    &path,
                    format!("`{arch}.{key}`"),
                    "supported: dense models with full attention",
                ));
            }
        }
        let hidden = keys.required("embedding_length")?;
        let n_heads = keys.required("attention.head_count")?;
        let head_dim = match keys.count("attention.key_length")? {
            Some(n) => n,
            None if n_heads > 0 && hidden % n_heads == 0 => hidden / n_heads,
            None => {
                return Err(FileError::malformed(
                    &path,
                    format!("{hidden} embedding columns do not divide into {n_heads} heads"),
                ));
            }
        };
        for key in ["attention.value_length", "rope.dimension_count"] {
            if let Some(other) = keys.count(key)?.filter(|n| *n != head_dim) {
                return Err(FileError::unsupported(
                    &path,
                    format!("`{arch}.{key}` = {other} beside a head dimension of {head_dim}"),
                    "supported: keys, values and rotary embedding as wide as the head",
                ));
            }
        }
        let Some(embed) = self.by_name.get(&Role::Embed.gguf()) else {
            return Err(self.missing(Role::Embed));
        };
        let context = keys.required("context_length")?;
        let rope_theta = keys.number("rope.freq_base")?.unwrap_or(10_000.0);
        let mut config = ModelConfig {
            family,
            vocab: self.header.tensors[*embed].shape[0],
            hidden,
            intermediate: keys.required("feed_forward_length")?,
            n_layers: keys.required("block_count")?,
            n_heads,
            n_kv_heads: keys.count("attention.head_count_kv")?.unwrap_or(n_heads),
            head_dim,
            rms_eps: keys
                .number("attention.layer_norm_rms_epsilon")?
                .unwrap_or(1e-6),
            rope_theta,
            rope_scaling: keys.rope_scaling(context)?,
            context,
            qkv_bias: family == Family::Qwen2
                || self
                    .by_name
                    .contains_key(&Role::Layer(0, Part::QBias).gguf()),
            qk_norm: family == Family::Qwen3,
            tied_head: !self.by_name.contains_key(&Role::Head.gguf()),
        };
        check(&config, &path)?;
        if let Some(freqs) = self.stored(ROPE_FREQS)? {
            config.rope_scaling = llama3_scaling(&freqs, &config)?;
        }
        self.interleaved_head_dim = (family == Family::Llama).then_some(head_dim);
        Ok(config)
    }

    pub fn token_ids(&self) -> Result<TokenIds, FileError> {
        let mut eos = Vec::new();
        for name in ["eos", "eot"] {
            if let Some(id) = self.token_id(name)?
                && !eos.contains(&id)
            {
                eos.push(id);
            }
        }
        Ok(TokenIds {
            bos: self.token_id("bos")?,
            eos,
            pad: self.token_id("padding")?,
        })
    }

    pub fn token_id(&self, name: &str) -> Result<Option<u32>, FileError> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        match self.header.count(&key)? {
            None => Ok(None),
            Some(id) => u32::try_from(id).map(Some).map_err(|_| {
                FileError::malformed(
                    self.path(),
                    format!("metadata `{key}` is {id}, no token id"),
                )
            }),
        }
    }

    fn stored(&self, name: &str) -> Result<Option<StoredTensor<'_>>, FileError> {
        let Some(info) = self.by_name.get(name).map(|i| &self.header.tensors[*i]) else {
            return Ok(None);
        };
        let Some(encoding) = encoding(info.kind) else {
            return Err(FileError::Encoding {
                path: self.path().into(),
                tensor: name.into(),
                found: kind_name(info.kind),
                supported: "F32, F16, BF16, Q4_0, Q4_1, Q8_0",
                hint: "Fetch or convert the model in one of these, for example with `--outtype q8_0`",
            });
        };
        Ok(Some(StoredTensor {
            file: self.path(),
            name: info.name.clone(),
            encoding,
            shape: info.shape.clone(),
            bytes: &self.map[info.start..info.start + info.length],
            interleaved_heads: None,
        }))
    }
}

impl TensorSource for GgufFile {
    fn tensor(&self, role: Role) -> Result<Option<StoredTensor<'_>>, FileError> {
        let interleaved = matches!(
            role,
            Role::Layer(_, Part::Q | Part::K | Part::QBias | Part::KBias)
        );
        let found = self.stored(&role.gguf())?;
        Ok(found.map(|tensor| StoredTensor {
            interleaved_heads: self.interleaved_head_dim.filter(|_| interleaved),
            ..tensor
        }))
    }

    fn missing(&self, role: Role) -> FileError {
        FileError::MissingTensor {
            path: self.path().into(),
            tensor: role.gguf(),
            hint: "the file is not a whole model (a shard, an adapter or a vocabulary?)".into(),
        }
    }

    fn names(&self) -> Vec<String> {
        self.header
            .tensors
            .iter()
            .map(|tensor| tensor.name.clone())
            .collect()
    }

    fn name_of(&self, role: Role) -> String {
        role.gguf()
    }

    fn layer_prefix(&self) -> &'static str {
        "blk."
    }

    fn path(&self) -> &Path {
        self.header.path()
    }

    fn known_extras(&self) -> &'static [&'static str] {
        &[ROPE_FREQS, ".rotary_emb.inv_freq"]
    }
}

/// Metadata under the architecture's prefix.
struct Keys<'a> {
    header: &'a Header,
    arch: &'a str,
}

impl Keys<'_> {
    fn count(&self, key: &str) -> Result<Option<usize>, FileError> {
        self.header.count(&format!("{}.{key}", self.arch))
    }

    fn required(&self, key: &str) -> Result<usize, FileError> {
        self.count(key)?.ok_or_else(|| {
            FileError::malformed(
                self.header.path(),
                format!("metadata `{}.{key}` is missing", self.arch),
            )
        })
    }

    fn number(&self, key: &str) -> Result<Option<f64>, FileError> {
        self.header.number(&format!("{}.{key}", self.arch))
    }

    fn rope_scaling(&self, context: usize) -> Result<RopeScaling, FileError> {
        let kind = self
            .header
            .text(&format!("{}.rope.scaling.type", self.arch))?;
        let factor = match self.number("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => self.number("rope.scale_linear")?,
        };
        Ok(match (kind, factor) {
            (Some("none"), _) | (None, None) => RopeScaling::None,
            (None, Some(factor)) | (Some("linear"), Some(factor)) if factor == 1.0 => {
                RopeScaling::None
            }
            (None | Some("linear"), Some(factor)) => RopeScaling::Linear { factor },
            (Some("yarn"), Some(factor)) => RopeScaling::Yarn {
                factor,
                beta_fast: self.number("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                beta_slow: self.number("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                original_context: self
                    .count("rope.scaling.original_context_length")?
                    .unwrap_or(context),
                attention_factor: self.number("rope.scaling.attn_factor")?.unwrap_or(1.0)
                    * yarn_attention_factor(factor),
            },
            (Some("linear" | "yarn"), None) => {
                return Err(FileError::malformed(
                    self.header.path(),
                    format!("metadata `{}.rope.scaling.factor` is missing", self.arch),
                ));
            }
            (Some(other), _) => {
                return Err(FileError::unsupported(
                    self.header.path(),
                    format!("rotary scaling `{other}`"),
                    "supported: none, linear, yarn, llama3",
                ));
            }
        })
    }
}

/// GGUF keeps Llama 3's scaling as a divisor for each frequency, not as its four numbers. Every released
/// Llama 3 model has the same last three (1, 4, 8192); the factor is the largest divisor. What these four
/// give is compared with the file, so another scaling is refused, never approximated.
fn llama3_scaling(
    stored: &StoredTensor<'_>,
    config: &ModelConfig,
) -> Result<RopeScaling, FileError> {
    let half = config.head_dim / 2;
    if stored.shape != [half] || stored.encoding != Encoding::F32 {
        return Err(FileError::malformed(
            stored.file,
            format!(
                "`{ROPE_FREQS}` has shape {:?}; expected [{half}] in F32",
                stored.shape
            ),
        ));
    }
    let mut divisors = vec![0.0f32; half];
    stored.widen_into(&mut divisors);
    let factor = divisors.iter().fold(1.0f32, |most, x| most.max(*x));
    if divisors.iter().all(|x| *x == 1.0) {
        return Ok(RopeScaling::None);
    }
    let (low, high, original) = (1.0f64, 4.0f64, 8192usize);
    for (i, divisor) in divisors.iter().enumerate() {
        let frequency = config
            .rope_theta
            .powf(-2.0 * i as f64 / config.head_dim as f64);
        let turns = original as f64 * frequency / std::f64::consts::TAU;
        let smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0);
        let expected = 1.0 / ((1.0 - smooth) / f64::from(factor) + smooth);
        if (f64::from(*divisor) - expected).abs() > 1e-3 * expected {
            return Err(FileError::unsupported(
                stored.file,
                format!("the rotary scaling in `{ROPE_FREQS}`"),
                "supported: that of Llama 3 (low 1, high 4, original context 8192); load the Hugging Face directory instead",
            ));
        }
    }
    Ok(RopeScaling::Llama3 {
        factor: factor.into(),
        low_freq_factor: low,
        high_freq_factor: high,
        original_context: original,
    })
}
