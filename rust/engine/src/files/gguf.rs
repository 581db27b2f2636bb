//! The GGUF container, versions 2 and 3: metadata and tensor table, nothing of models. Every count, length
//! and offset is checked against the bytes that are there before anything is made of it; arrays stay
//! where they are until someone asks for them.
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::error::FileError;
use super::tensor::Encoding;

/// A metadata value. An array is where it lies: its elements' type, how many, and the first byte.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Int(i128),
    Float(f64),
    Bool(bool),
    Text(String),
    Array {
        kind: u32,
        count: usize,
        start: usize,
    },
}

#[derive(Clone, Debug)]
pub struct TensorInfo {
    pub name: String,
    /// Slowest axis first: the reverse of the file's order.
    pub shape: Vec<usize>,
    /// ggml's number of the type.
    pub kind: u32,
    /// From the start of the file.
    pub start: usize,
    /// 0 where the type is unknown here.
    pub length: usize,
}

/// A checked header.
#[derive(Debug)]
pub struct Header {
    path: PathBuf,
    values: HashMap<String, Value>,
    pub tensors: Vec<TensorInfo>,
}

const U32: u32 = 4;
const I32: u32 = 5;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// Bytes of a fixed-size metadata type.
const fn width(kind: u32) -> Option<usize> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        U32 | I32 | 6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

pub fn encoding(kind: u32) -> Option<Encoding> {
    Some(match kind {
        0 => Encoding::F32,
        1 => Encoding::F16,
        2 => Encoding::Q4_0,
        3 => Encoding::Q4_1,
        8 => Encoding::Q8_0,
        30 => Encoding::Bf16,
        _ => return None,
    })
}

/// ggml's name of a tensor type, for errors.
pub fn kind_name(kind: u32) -> String {
    const NAMES: [&str; 16] = [
        "F32", "F16", "Q4_0", "Q4_1", "Q4_2", "Q4_3", "Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K",
        "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K",
    ];
    NAMES
        .get(kind as usize)
        .map_or_else(|| format!("ggml type {kind}"), ToString::to_string)
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

/// A place in the bytes; every step is checked.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    path: &'a Path,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize, what: &str) -> Result<&'a [u8], FileError> {
        let end = self.at.checked_add(count);
        let Some(taken) = end.and_then(|end| self.bytes.get(self.at..end)) else {
            return Err(FileError::Truncated {
                path: self.path.into(),
                what: what.into(),
                expected: end.map_or(u64::MAX, |end| end as u64),
                found: self.bytes.len() as u64,
            });
        };
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], FileError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N, what)?);
        Ok(out)
    }

    fn u32(&mut self, what: &str) -> Result<u32, FileError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64, FileError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A number of items of at least `least` bytes each: refused where the rest of the file cannot hold them.
    fn count(&mut self, least: usize, what: &str) -> Result<usize, FileError> {
        let count = self.u64(what)?;
        let left = self.bytes.len() - self.at;
        let needed = usize::try_from(count)
            .ok()
            .and_then(|n| n.checked_mul(least))
            .filter(|n| *n <= left);
        if needed.is_none() {
            return Err(FileError::Truncated {
                path: self.path.into(),
                what: format!("{what} ({count} items)"),
                expected: count
                    .saturating_mul(least as u64)
                    .saturating_add(self.at as u64),
                found: self.bytes.len() as u64,
            });
        }
        Ok(count as usize)
    }

    fn text(&mut self, what: &str) -> Result<String, FileError> {
        let length = self.count(1, what)?;
        let raw = self.take(length, what)?;
        String::from_utf8(raw.to_vec()).map_err(|error| {
            FileError::malformed(self.path, format!("{what} is not UTF-8: {error}"))
        })
    }

    fn value(&mut self, kind: u32, key: &str) -> Result<Value, FileError> {
        Ok(match kind {
            0 => Value::Int(u8::from_le_bytes(self.array(key)?).into()),
            1 => Value::Int(i8::from_le_bytes(self.array(key)?).into()),
            2 => Value::Int(u16::from_le_bytes(self.array(key)?).into()),
            3 => Value::Int(i16::from_le_bytes(self.array(key)?).into()),
            U32 => Value::Int(self.u32(key)?.into()),
            I32 => Value::Int(self.u32(key)?.cast_signed().into()),
            6 => Value::Float(f32::from_le_bytes(self.array(key)?).into()),
            7 => match self.array::<1>(key)? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => {
                    return Err(FileError::malformed(
                        self.path,
                        format!("metadata `{key}` is the bool {other}"),
                    ));
                }
            },
            STRING => Value::Text(self.text(&format!("metadata `{key}`"))?),
            ARRAY => self.skip_array(key)?,
            10 => Value::Int(self.u64(key)?.into()),
            11 => Value::Int(self.u64(key)?.cast_signed().into()),
            12 => Value::Float(f64::from_le_bytes(self.array(key)?)),
            other => {
                return Err(FileError::malformed(
                    self.path,
                    format!("metadata `{key}` has the unknown type {other}"),
                ));
            }
        })
    }

    fn skip_array(&mut self, key: &str) -> Result<Value, FileError> {
        let kind = self.u32(key)?;
        let what = format!("the array `{key}`");
        let (count, start) = match (kind, width(kind)) {
            (STRING, _) => {
                let count = self.count(8, &what)?;
                let start = self.at;
                for _ in 0..count {
                    let length = self.count(1, &what)?;
                    self.take(length, &what)?;
                }
                (count, start)
            }
            (_, Some(width)) => {
                let count = self.count(width, &what)?;
                let start = self.at;
                self.take(count * width, &what)?;
                (count, start)
            }
            (ARRAY, _) => {
                return Err(FileError::unsupported(
                    self.path,
                    format!("{what}, an array of arrays,"),
                    "supported: flat arrays",
                ));
            }
            (other, None) => {
                return Err(FileError::malformed(
                    self.path,
                    format!("{what} has elements of the unknown type {other}"),
                ));
            }
        };
        Ok(Value::Array { kind, count, start })
    }

    /// One row of the tensor table; `start` is still relative to the data.
    fn tensor(&mut self, i: usize) -> Result<TensorInfo, FileError> {
        let name = self.text(&format!("the name of tensor {i}"))?;
        let bad = |path: &Path, detail: String| {
            FileError::malformed(path, format!("tensor `{name}` {detail}"))
        };
        let rank = self.u32(&name)?;
        if !(1..=4).contains(&rank) {
            return Err(bad(self.path, format!("has {rank} axes; expected 1 to 4")));
        }
        let mut axes = Vec::new();
        for _ in 0..rank {
            axes.push(self.u64(&name)?);
        }
        let kind = self.u32(&name)?;
        let offset = self.u64(&name)?;
        let overflow = || {
            bad(
                self.path,
                format!("has axes {axes:?}, more than memory can address"),
            )
        };
        let mut shape = Vec::new();
        let mut count = 1usize;
        for axis in &axes {
            let axis = usize::try_from(*axis).map_err(|_| overflow())?;
            count = count.checked_mul(axis).ok_or_else(overflow)?;
            shape.insert(0, axis);
        }
        let row = shape.last().copied().unwrap_or(0);
        let length = match encoding(kind) {
            None => 0,
            Some(encoding) => {
                if encoding.bytes(row).is_none() {
                    return Err(bad(
                        self.path,
                        format!(
                            "has rows of {row}, no whole number of {} blocks",
                            kind_name(kind)
                        ),
                    ));
                }
                encoding.bytes(count).ok_or_else(overflow)?
            }
        };
        let start = usize::try_from(offset).map_err(|_| overflow())?;
        Ok(TensorInfo {
            name,
            shape,
            kind,
            start,
            length,
        })
    }
}
