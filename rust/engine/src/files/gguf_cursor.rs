//! Steps through the bytes of a GGUF header: values, arrays, rows of the tensor table.
use std::path::Path;

use super::error::FileError;
use super::tensor::Encoding;

/// A metadata value. An array is where it lies: its elements' type, how many, and the first byte.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
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

pub const U32: u32 = 4;
pub const I32: u32 = 5;
pub const STRING: u32 = 8;
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

/// A place in the bytes; every step is checked.
pub struct Cursor<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
    pub path: &'a Path,
}

impl<'a> Cursor<'a> {
    pub fn take(&mut self, count: usize, what: &str) -> Result<&'a [u8], FileError> {
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

    pub fn u32(&mut self, what: &str) -> Result<u32, FileError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64, FileError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A number of items of at least `least` bytes each: refused where the rest of the file cannot hold them.
    pub fn count(&mut self, least: usize, what: &str) -> Result<usize, FileError> {
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

    pub fn text(&mut self, what: &str) -> Result<String, FileError> {
        let length = self.count(1, what)?;
        let raw = self.take(length, what)?;
        String::from_utf8(raw.to_vec()).map_err(|error| {
            FileError::malformed(self.path, format!("{what} is not UTF-8: {error}"))
        })
    }

    pub fn value(&mut self, kind: u32, key: &str) -> Result<Value, FileError> {
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
    pub fn tensor(&mut self, i: usize) -> Result<TensorInfo, FileError> {
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
