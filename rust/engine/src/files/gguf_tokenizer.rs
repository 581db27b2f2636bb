//! The tokenizer in a GGUF file's metadata.
use super::error::FileError;
use super::gguf_model::GgufFile;

/// The tokenizer that a GGUF file carries, as its metadata says it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GgufTokenizer {
    /// `gpt2` is byte-level BPE; `llama` is SentencePiece.
    pub model: String,
    /// The pre-tokenizer's name in llama.cpp: `smollm`, `qwen2`, `llama-bpe`, ...
    pub pre: Option<String>,
    pub tokens: Vec<String>,
    /// 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte; empty when not given.
    pub types: Vec<i32>,
    /// `left right`, best first.
    pub merges: Vec<String>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub unk: Option<u32>,
    pub pad: Option<u32>,
    pub add_bos: Option<bool>,
    pub add_eos: Option<bool>,
    pub chat_template: Option<String>,
}

impl GgufFile {
    /// The tokenizer; refused when the file carries none.
    pub fn tokenizer(&self) -> Result<GgufTokenizer, FileError> {
        let header = self.header();
        let text = |key: &str| header.text(key).map(|found| found.map(str::to_owned));
        let (Some(model), Some(tokens)) = (
            text("tokenizer.ggml.model")?,
            header.texts(self.bytes(), "tokenizer.ggml.tokens")?,
        ) else {
            return Err(FileError::malformed(
                self.path(),
                "the file carries no tokenizer (`tokenizer.ggml.model` and `tokenizer.ggml.tokens`)",
            ));
        };
        let types = header
            .integers(self.bytes(), "tokenizer.ggml.token_type")?
            .unwrap_or_default();
        if !types.is_empty() && types.len() != tokens.len() {
            return Err(FileError::malformed(
                self.path(),
                format!("{} token types for {} tokens", types.len(), tokens.len()),
            ));
        }
        let found = GgufTokenizer {
            model,
            pre: text("tokenizer.ggml.pre")?,
            types,
            merges: header
                .texts(self.bytes(), "tokenizer.ggml.merges")?
                .unwrap_or_default(),
            bos: self.token_id("bos")?,
            eos: self.token_id("eos")?,
            unk: self.token_id("unknown")?,
            pad: self.token_id("padding")?,
            add_bos: header.flag("tokenizer.ggml.add_bos_token")?,
            add_eos: header.flag("tokenizer.ggml.add_eos_token")?,
            chat_template: text("tokenizer.chat_template")?,
            tokens,
        };
        let ids = [
            ("bos", found.bos),
            ("eos", found.eos),
            ("unknown", found.unk),
            ("padding", found.pad),
        ];
        for (name, id) in ids {
            if id.is_some_and(|id| id as usize >= found.tokens.len()) {
                return Err(FileError::malformed(
                    self.path(),
                    format!(
                        "the {name} token id is outside the {} tokens",
                        found.tokens.len()
                    ),
                ));
            }
        }
        Ok(found)
    }
}
