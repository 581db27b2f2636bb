//! One stored tensor: where its bytes are, how they are encoded, and how they widen to f32.
use std::path::Path;

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};
use rayon::prelude::*;

/// How numbers are stored. The block formats hold 32 weights a block, `d` and `m` as f16
/// (ggml's `block_q4_0`, `block_q4_1`, `block_q8_0`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    F32,
    F16,
    Bf16,
    /// `d`, 16 bytes of nibbles: weight = (nibble - 8) * d.
    Q4_0,
    /// `d`, `m`, 16 bytes of nibbles: weight = nibble * d + m.
    Q4_1,
    /// `d`, 32 signed bytes: weight = byte * d.
    Q8_0,
}

const BLOCK: usize = 32;

impl Encoding {
    /// (weights a block, bytes a block).
    const fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Q4_0 => (BLOCK, 18),
            Self::Q4_1 => (BLOCK, 20),
            Self::Q8_0 => (BLOCK, 34),
        }
    }

    /// Bytes of `count` weights; `None` where they do not fill whole blocks or the number overflows.
    pub fn bytes(self, count: usize) -> Option<usize> {
        let (weights, bytes) = self.block();
        if !count.is_multiple_of(weights) {
            return None;
        }
        (count / weights).checked_mul(bytes)
    }

    /// Widen `bytes` into `out`; both hold the same number of weights.
    fn decode(self, bytes: &[u8], out: &mut [f32]) {
        debug_assert_eq!(self.bytes(out.len()), Some(bytes.len()));
        match self {
            Self::F32 => {
                for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *value = f32::from_le_bytes(*raw);
                }
            }
            Self::Bf16 => {
                for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *value = bf16::from_le_bytes(*raw).to_f32();
                }
            }
            Self::F16 => decode_f16(bytes, out),
            Self::Q4_0 => decode_blocks::<18>(bytes, out, |block, values| {
                let d = f16_at(block, 0);
                for (j, byte) in block[2..].iter().enumerate() {
                    values[j] = f32::from((byte & 15) as i8 - 8) * d;
                    values[j + 16] = f32::from((byte >> 4) as i8 - 8) * d;
                }
            }),
            Self::Q4_1 => decode_blocks::<20>(bytes, out, |block, values| {
                let (d, m) = (f16_at(block, 0), f16_at(block, 2));
                for (j, byte) in block[4..].iter().enumerate() {
                    values[j] = f32::from(byte & 15) * d + m;
                    values[j + 16] = f32::from(byte >> 4) * d + m;
                }
            }),
            Self::Q8_0 => decode_blocks::<34>(bytes, out, |block, values| {
                let d = f16_at(block, 0);
                for (value, byte) in values.iter_mut().zip(&block[2..]) {
                    *value = f32::from(*byte as i8) * d;
                }
            }),
        }
    }
}

fn f16_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn decode_blocks<const BYTES: usize>(
    bytes: &[u8],
    out: &mut [f32],
    decode: impl Fn(&[u8; BYTES], &mut [f32; BLOCK]),
) {
    for (block, values) in bytes
        .as_chunks::<BYTES>()
        .0
        .iter()
        .zip(out.as_chunks_mut::<BLOCK>().0)
    {
        decode(block, values);
    }
}

/// In pieces through an aligned buffer: a mapped tensor may lie at an odd address.
fn decode_f16(bytes: &[u8], out: &mut [f32]) {
    let mut bits = [0u16; 512];
    for (raw, values) in bytes.chunks(1024).zip(out.chunks_mut(512)) {
        for (bit, pair) in bits.iter_mut().zip(raw.as_chunks::<2>().0) {
            *bit = u16::from_le_bytes(*pair);
        }
        bits[..values.len()]
            .reinterpret_cast::<f16>()
            .convert_to_f32_slice(values);
    }
}

/// A tensor inside a mapped file. `bytes` is exactly as long as shape and encoding say.
#[derive(Clone, Debug)]
pub struct StoredTensor<'a> {
    pub file: &'a Path,
    pub name: String,
    pub encoding: Encoding,
    /// Row-major, slowest axis first.
    pub shape: Vec<usize>,
    pub bytes: &'a [u8],
    /// Rows come in pairs for interleaved RoPE, in heads of this many rows (the `llama` architecture
    /// in GGUF): row 2j + p of a head is row p * head_dim / 2 + j of the half-split layout.
    pub interleaved_heads: Option<usize>,
}

impl StoredTensor<'_> {
    /// Write the weights, widened to f32, over `out` (as long as the shape says), on all cores.
    pub fn widen_into(&self, out: &mut [f32]) {
        let columns = match (self.shape.as_slice(), self.interleaved_heads) {
            ([_], Some(_)) => 1,
            ([.., last], _) => *last,
            ([], _) => 1,
        };
        let Some(row_bytes) = self.encoding.bytes(columns).filter(|bytes| *bytes > 0) else {
            return;
        };
        let rows_a_task = (1 << 16) / columns + 1;
        out.par_chunks_mut(rows_a_task * columns)
            .enumerate()
            .for_each(|(task, out)| {
                let first = task * rows_a_task;
                match self.interleaved_heads {
                    None => {
                        let start = first * row_bytes;
                        let len = out.len() / columns * row_bytes;
                        self.encoding.decode(&self.bytes[start..start + len], out);
                    }
                    Some(head_dim) => {
                        for (i, row) in out.chunks_exact_mut(columns).enumerate() {
                            let start = interleaved_row(first + i, head_dim) * row_bytes;
                            self.encoding
                                .decode(&self.bytes[start..start + row_bytes], row);
                        }
                    }
                }
            });
    }

    /// True when every weight is zero (either sign).
    pub fn is_zero(&self) -> bool {
        let mut values = vec![0.0; self.shape.iter().product()];
        self.widen_into(&mut values);
        values.iter().all(|value| *value == 0.0)
    }
}

/// Where the interleaved layout keeps row `row` of the half-split layout.
fn interleaved_row(row: usize, head_dim: usize) -> usize {
    let (head, within) = (row / head_dim, row % head_dim);
    let half = head_dim / 2;
    head * head_dim + 2 * (within % half) + within / half
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn q4_0_subtracts_eight_and_puts_low_nibbles_first() {
        let mut block = vec![0u8; 18];
        block[..2].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        block[2] = 0x9F;
        let mut out = [0.0; 32];
        Encoding::Q4_0.decode(&block, &mut out);
        assert_eq!((out[0], out[16], out[1]), (3.5, 0.5, -4.0));
    }

    #[test]
    fn q4_1_adds_the_minimum() {
        let mut block = vec![0u8; 20];
        block[..2].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        block[2..4].copy_from_slice(&f16::from_f32(-2.0).to_le_bytes());
        block[4 + 15] = 0x3F;
        let mut out = [0.0; 32];
        Encoding::Q4_1.decode(&block, &mut out);
        assert_eq!((out[15], out[31], out[0]), (5.5, -0.5, -2.0));
    }

    #[test]
    fn q8_0_is_signed() {
        let mut block = vec![0u8; 34];
        block[..2].copy_from_slice(&f16::from_f32(2.0).to_le_bytes());
        block[2] = 0xFF;
        block[33] = 127;
        let mut out = [0.0; 32];
        Encoding::Q8_0.decode(&block, &mut out);
        assert_eq!((out[0], out[31]), (-2.0, 254.0));
    }

    #[test]
    fn halves_widen_exactly_at_every_length_and_alignment() {
        for count in [1usize, 7, 511, 512, 513, 1500] {
            let values: Vec<f32> = (0..count).map(|i| i as f32 / 8.0 - 50.0).collect();
            let mut shifted = vec![0u8];
            shifted.extend(values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()));
            let mut out = vec![0.0; count];
            Encoding::F16.decode(&shifted[1..], &mut out);
            assert_eq!(out, values);
        }
    }

    #[test]
    fn interleaved_rows_come_back_half_split() {
        // One head of four rows, stored as (0, 2, 1, 3): the rows named by their half-split index.
        let stored: Vec<f32> = vec![0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0];
        let bytes: Vec<u8> = stored.iter().flat_map(|v| v.to_le_bytes()).collect();
        let mut tensor = StoredTensor {
            file: Path::new("x"),
            name: "q".into(),
            encoding: Encoding::F32,
            shape: vec![8, 1],
            bytes: &bytes,
            interleaved_heads: Some(4),
        };
        let mut out = vec![0.0; 8];
        tensor.widen_into(&mut out);
        assert_eq!(out, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
        tensor.shape = vec![8];
        tensor.widen_into(&mut out);
        assert_eq!(out, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    }
}
