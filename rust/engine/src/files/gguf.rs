//! The GGUF container, versions 2 and 3: metadata and tensor table, nothing of models. Every count, length
//! and offset is checked against the bytes that are there before anything is made of it; arrays stay
//! where they are until someone asks for them.
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::error::FileError;
use super::gguf_cursor::{Cursor, I32, STRING, TensorInfo, U32, Value};

/// A checked header.
#[derive(Debug)]
pub struct Header {
    path: PathBuf,
    values: HashMap<String, Value>,
    pub tensors: Vec<TensorInfo>,
}

impl Header {
    /// Read the header out of a whole file's bytes; `path` only names it in errors.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self, FileError> {
        let mut at = Cursor { bytes, at: 0, path };
        let bad = |detail: String| FileError::malformed(path, detail);
        if at.take(4, "the magic number")? != b"GGUF" {
            return Err(bad("does not start with `GGUF`; is it a GGUF file?".into()));
        }
        let version = at.u32("the version")?;
        if !(2..=3).contains(&version) {
            let order = if (2..=3).contains(&version.swap_bytes()) {
                " (big-endian)"
            } else {
                ""
            };
            return Err(FileError::unsupported(
                path,
                format!("GGUF version {version}{order}"),
                "supported: 2 and 3, little-endian",
            ));
        }
        // A tensor takes at least 24 bytes of the table, a metadata entry at least 13.
        let n_tensors = at.count(24, "the tensor table")?;
        let n_values = at.count(13, "the metadata")?;

        let mut values = HashMap::new();
        for i in 0..n_values {
            let key = at.text(&format!("the key of metadata entry {i}"))?;
            let kind = at.u32(&key)?;
            let value = at.value(kind, &key)?;
            if values.insert(key.clone(), value).is_some() {
                return Err(bad(format!("metadata key `{key}` is there twice")));
            }
        }
        let mut tensors: Vec<TensorInfo> = Vec::new();
        for i in 0..n_tensors {
            tensors.push(at.tensor(i)?);
        }
        let mut header = Self {
            path: path.into(),
            values,
            tensors,
        };
        header.place_tensors(bytes.len(), at.at)?;
        Ok(header)
    }

    /// Turn offsets into places in the file; refuse what lies outside it, unaligned, twice, or on another.
    fn place_tensors(&mut self, file: usize, table_end: usize) -> Result<(), FileError> {
        let path = &self.path;
        let alignment = match self.values.get("general.alignment") {
            None => 32,
            Some(Value::Int(n)) if (1..=1 << 20).contains(n) && (*n as u64).is_power_of_two() => {
                *n as usize
            }
            Some(other) => {
                return Err(FileError::malformed(
                    path,
                    format!("general.alignment is {other:?}; expected a power of two"),
                ));
            }
        };
        let data = table_end.next_multiple_of(alignment);
        let mut seen = std::collections::HashSet::new();
        for tensor in &mut self.tensors {
            let name = &tensor.name;
            if !seen.insert(name.clone()) {
                return Err(FileError::malformed(
                    path,
                    format!("tensor `{name}` is there twice"),
                ));
            }
            if !tensor.start.is_multiple_of(alignment) {
                return Err(FileError::malformed(
                    path,
                    format!(
                        "tensor `{name}` starts at offset {}, which is not aligned to {alignment}",
                        tensor.start
                    ),
                ));
            }
            let end = tensor
                .start
                .checked_add(data)
                .and_then(|start| start.checked_add(tensor.length));
            let Some(end) = end.filter(|end| *end <= file) else {
                return Err(FileError::Truncated {
                    path: path.clone(),
                    what: format!("tensor `{name}`"),
                    expected: end.map_or(u64::MAX, |end| end as u64),
                    found: file as u64,
                });
            };
            tensor.start = end - tensor.length;
        }
        let mut order: Vec<&TensorInfo> = self.tensors.iter().collect();
        order.sort_by_key(|tensor| (tensor.start, tensor.length));
        for pair in order.windows(2) {
            if pair[0].start + pair[0].length > pair[1].start {
                return Err(FileError::malformed(
                    path,
                    format!("tensors `{}` and `{}` overlap", pair[0].name, pair[1].name),
                ));
            }
        }
        Ok(())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn text(&self, key: &str) -> Result<Option<&str>, FileError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(key, other, "a string")),
        }
    }

    pub fn count(&self, key: &str) -> Result<Option<usize>, FileError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(value @ Value::Int(n)) => usize::try_from(*n)
                .map(Some)
                .map_err(|_| self.wrong(key, value, "a whole number >= 0")),
            Some(other) => Err(self.wrong(key, other, "a whole number")),
        }
    }

    pub fn number(&self, key: &str) -> Result<Option<f64>, FileError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Float(x)) => Ok(Some(*x)),
            Some(Value::Int(n)) => Ok(Some(*n as f64)),
            Some(other) => Err(self.wrong(key, other, "a number")),
        }
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>, FileError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(self.wrong(key, other, "true or false")),
        }
    }

    /// An array of strings out of `bytes`, which must be those that the header was read from.
    pub fn texts(&self, bytes: &[u8], key: &str) -> Result<Option<Vec<String>>, FileError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Array {
                kind: STRING,
                count,
                start,
            }) => {
                let mut at = Cursor {
                    bytes,
                    at: *start,
                    path: &self.path,
                };
                (0..*count)
                    .map(|i| at.text(&format!("`{key}` [{i}]")))
                    .collect::<Result<_, _>>()
                    .map(Some)
            }
            Some(other) => Err(self.wrong(key, other, "an array of strings")),
        }
    }

    /// An array of 32-bit integers.
    pub fn integers(&self, bytes: &[u8], key: &str) -> Result<Option<Vec<i32>>, FileError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Array {
                kind: I32 | U32,
                count,
                start,
            }) => {
                let mut at = Cursor {
                    bytes,
                    at: *start,
                    path: &self.path,
                };
                (0..*count)
                    .map(|_| at.u32(key).map(u32::cast_signed))
                    .collect::<Result<_, _>>()
                    .map(Some)
            }
            Some(other) => Err(self.wrong(key, other, "an array of 32-bit integers")),
        }
    }

    fn wrong(&self, key: &str, found: &Value, expected: &str) -> FileError {
        let found: String = format!("{found:?}").chars().take(80).collect();
        FileError::malformed(
            &self.path,
            format!("metadata `{key}` is {found}; expected {expected}"),
        )
    }
}
