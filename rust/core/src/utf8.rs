//! Bytes that arrive in pieces, to text.

use rayon::prelude::*;

use crate::Result;
use crate::ragged::Rows;

/// An incremental UTF-8 decoder. Each maximal invalid subpart becomes one U+FFFD (Unicode 16,
/// section 3.9, "substitution of maximal subparts"); a character that is cut off by the end of a
/// piece is held back (at most three bytes) until the next piece completes or breaks it. Whatever
/// the pieces, the text is the same, and equals that of Python's incremental decoder with
/// `errors="replace"`, piece by piece.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    held: Vec<u8>,
}

impl Decoder {
    pub fn new() -> Self {
        Self::default()
    }

    /// Text that is certain after this piece.
    pub fn push(&mut self, piece: &[u8]) -> String {
        if self.held.is_empty() {
            return self.decode(piece);
        }
        let mut bytes = std::mem::take(&mut self.held);
        bytes.extend_from_slice(piece);
        self.decode(&bytes)
    }

    /// Ends the text: a character still held is broken off, one U+FFFD. The decoder is new again.
    pub fn finish(&mut self) -> String {
        let held = !std::mem::take(&mut self.held).is_empty();
        if held {
            "\u{FFFD}".to_owned()
        } else {
            String::new()
        }
    }

    fn decode(&mut self, mut bytes: &[u8]) -> String {
        let mut text = String::with_capacity(bytes.len());
        loop {
            match std::str::from_utf8(bytes) {
                Ok(valid) => {
                    text.push_str(valid);
                    return text;
                }
                Err(error) => {
                    let (valid, rest) = bytes.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    match error.error_len() {
                        Some(invalid) => {
                            text.push('\u{FFFD}');
                            bytes = &rest[invalid..];
                        }
                        None => {
                            self.held.extend_from_slice(rest);
                            return text;
                        }
                    }
                }
            }
        }
    }
}

/// The text of each row of bytes, each decoded on its own and to its end.
pub fn decode_rows(bytes: &[u8], offsets: &[i64]) -> Result<Vec<String>> {
    let rows = Rows::new("offsets", offsets, bytes.len())?;
    let decode = |row: usize| String::from_utf8_lossy(&bytes[rows.range(row)]).into_owned();
    Ok(if bytes.len() < 1 << 16 {
        (0..rows.count()).map(decode).collect()
    } else {
        (0..rows.count())
            .into_par_iter()
            .with_min_len(16)
            .map(decode)
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_give_the_text_of_the_whole(
            pieces in prop::collection::vec(prop::collection::vec(prop_oneof![any::<u8>(), 0x80u8..0xF5], 0..5), 0..8),
        ) {
            let mut decoder = Decoder::new();
            let mut text: String = pieces.iter().map(|p| decoder.push(p)).collect();
            text.push_str(&decoder.finish());
            prop_assert_eq!(text, String::from_utf8_lossy(&pieces.concat()).into_owned());
        }
    }

    #[test]
    fn a_cut_character_waits_for_its_rest() {
        let mut decoder = Decoder::new();
        assert_eq!(decoder.push("a😀".as_bytes().split_at(3).0), "a");
        assert_eq!(decoder.push("a😀".as_bytes().split_at(3).1), "😀");
        assert_eq!(decoder.push(&[0xE2, 0x82]), "");
        assert_eq!(decoder.push(b"x"), "\u{FFFD}x");
        assert_eq!(decoder.push(&[0xF0]), "");
        assert_eq!(decoder.finish(), "\u{FFFD}");
        assert_eq!(decoder.push(b"ok"), "ok");
    }
}
