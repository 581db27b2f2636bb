//! Model files: Hugging Face directories and GGUF in, Hugging Face directories and PEFT adapters out.
//!
//! What a file says is checked against what it is (lengths, shapes, encodings, overlaps) before memory is taken for
//! it; a hostile file is refused with an error, never a panic, and never takes more than a small multiple of its size.
mod assemble;
mod config_json;
mod disk;
mod error;
mod fields;
mod gguf;
mod gguf_cursor;
mod gguf_model;
mod gguf_tokenizer;
mod peft;
mod roles;
mod rope_json;
mod safetensors_file;
mod save;
mod tensor;

use std::path::{Path, PathBuf};

pub use config_json::{TokenIds, config_from_json, config_to_json};
pub use error::FileError;
pub use gguf_tokenizer::GgufTokenizer;
pub use peft::{Adapter, AdapterTensor, load_adapter, save_adapter};
pub use save::{SaveDtype, save_merged};

use crate::config::ModelConfig;
use crate::weights::Weights;
use assemble::{TensorSource, assemble};
use gguf_model::GgufFile;
use roles::Role;
use safetensors_file::SafetensorsDir;
use tensor::StoredTensor;

const CONFIG: &str = "config.json";
const CONFIG_LIMIT: u64 = 16 << 20;

/// What a model was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    HuggingFace,
    Gguf,
}

/// A model in memory.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: ModelConfig,
    pub weights: Weights<f32>,
    pub ids: TokenIds,
    pub source: Source,
    /// Stored tensors that the model has no use for.
    pub unused: Vec<String>,
}

/// Load a Hugging Face directory or a `.gguf` file, widened to f32.
pub fn load(path: &Path) -> Result<Loaded, FileError> {
    if path.is_dir() {
        return load_directory(path);
    }
    if !path.exists() {
        return Err(FileError::Missing {
            path: path.into(),
            what: "no such file or directory".into(),
            hint: "expected a Hugging Face model directory or a .gguf file".into(),
        });
    }
    match path.extension().and_then(|end| end.to_str()) {
        Some("gguf") => load_gguf(path),
        Some("safetensors") => Err(FileError::unsupported(
            path,
            "a safetensors file on its own",
            "give the directory that holds it, with its config.json",
        )),
        _ => Err(FileError::unsupported(
            path,
            "this kind of file",
            "expected a Hugging Face model directory or a .gguf file",
        )),
    }
}

fn load_directory(dir: &Path) -> Result<Loaded, FileError> {
    let path = dir.join(CONFIG);
    if !path.is_file() {
        return Err(FileError::Missing {
            path: dir.into(),
            what: format!("no {CONFIG} in this directory"),
            hint: "expected a directory that transformers' save_pretrained(...) wrote, or give the path of a .gguf file".into(),
        });
    }
    let (config, ids) = config_from_json(&disk::read_text(&path, CONFIG_LIMIT)?, &path)?;
    let source = Directory {
        tensors: SafetensorsDir::open(dir)?,
        config: path,
    };
    let (weights, unused) = assemble(&config, &source)?;
    Ok(Loaded {
        config,
        weights,
        ids,
        source: Source::HuggingFace,
        unused,
    })
}

fn load_gguf(path: &Path) -> Result<Loaded, FileError> {
    let mut file = GgufFile::open(path)?;
    let config = file.config()?;
    let ids = file.token_ids()?;
    let (weights, unused) = assemble(&config, &file)?;
    Ok(Loaded {
        config,
        weights,
        ids,
        source: Source::Gguf,
        unused,
    })
}

/// The tokenizer that a GGUF file carries.
pub fn gguf_tokenizer(path: &Path) -> Result<GgufTokenizer, FileError> {
    GgufFile::open(path)?.tokenizer()
}

/// A Hugging Face directory as a source of tensors.
struct Directory {
    tensors: SafetensorsDir,
    config: PathBuf,
}

impl TensorSource for Directory {
    fn tensor(&self, role: Role) -> Result<Option<StoredTensor<'_>>, FileError> {
        self.tensors.tensor(&role.huggingface())
    }

    fn missing(&self, role: Role) -> FileError {
        let hint = match role {
            Role::Head => "set `tie_word_embeddings` to true in config.json if the head is the embedding table".into(),
            _ => format!("{} asks for it; config and weights are of two models", self.config.display()),
        };
        FileError::MissingTensor {
            path: self.tensors.index.clone(),
            tensor: role.huggingface(),
            hint,
        }
    }

    fn names(&self) -> Vec<String> {
        self.tensors.names.keys().cloned().collect()
    }

    fn name_of(&self, role: Role) -> String {
        role.huggingface()
    }

    fn layer_prefix(&self) -> &'static str {
        "model.layers."
    }

    fn path(&self) -> &Path {
        &self.tensors.index
    }

    fn known_extras(&self) -> &'static [&'static str] {
        &["rotary_emb.inv_freq"]
    }
}
