//! Scripts: what formats write, piece by piece, and the columns that become of it.

use rayon::prelude::*;

use crate::encoder::{Encoder, TextError};

/// What a piece is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Text, up to this byte of all text; it starts where the text before it ends.
    Text(usize),
    /// A control token.
    Control(i32),
    /// A border: texts before and after it are not one run.
    Cut,
}

/// One piece, and the two numbers that each of its tokens carries.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    pub what: What,
    pub message: i32,
    pub origin: u8,
}

/// Many scripts: the text of all of them and the pieces of all of them.
#[derive(Clone, Debug, Default)]
pub struct Scripts {
    pub text: String,
    pub pieces: Vec<Piece>,
    /// Of each script: its first piece, and the byte at which its text starts.
    pub starts: Vec<(usize, usize)>,
}

impl Scripts {
    /// Starts a script; the pieces pushed from now on are its own.
    pub fn start(&mut self) {
        self.starts.push((self.pieces.len(), self.text.len()));
    }

    pub fn push_text(&mut self, text: &str, message: i32, origin: u8) {
        self.text.push_str(text);
        self.push(What::Text(self.text.len()), message, origin);
    }

    pub fn push(&mut self, what: What, message: i32, origin: u8) {
        self.pieces.push(Piece {
            what,
            message,
            origin,
        });
    }
}

/// The tokens of many scripts: row `i` is `offsets[i]..offsets[i + 1]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    pub offsets: Vec<i64>,
    pub ids: Vec<i32>,
    pub message: Vec<i32>,
    pub origin: Vec<u8>,
    pub special: Vec<bool>,
    /// Scripts that were declined: their rows are empty.
    pub declined: Vec<usize>,
}

#[derive(Default)]
struct Row {
    ids: Vec<i32>,
    message: Vec<i32>,
    origin: Vec<u8>,
    special: Vec<bool>,
}

impl Row {
    fn push(&mut self, id: i32, piece: &Piece, special: bool) {
        self.ids.push(id);
        self.message.push(piece.message);
        self.origin.push(piece.origin);
        self.special.push(special);
    }
}

/// Scripts that one thread takes at a time.
const CHUNK: usize = 16;

impl Encoder {
    /// Texts that follow one another are encoded as one run; each token carries the numbers of the piece that it starts
    /// in.
    ///
    /// # Errors
    /// `Text` when the tokenizer fails.
    pub fn encode_scripts(&self, scripts: &Scripts) -> Result<Columns, TextError> {
        let chunks: Vec<Vec<Option<Row>>> = (0..scripts.starts.len().div_ceil(CHUNK))
            .into_par_iter()
            .map(|chunk| {
                let end = ((chunk + 1) * CHUNK).min(scripts.starts.len());
                (chunk * CHUNK..end)
                    .map(|i| self.encode_script(scripts, i))
                    .collect()
            })
            .collect::<Result<_, _>>()?;
        let rows: Vec<Option<Row>> = chunks.into_iter().flatten().collect();
        let total = rows.iter().flatten().map(|row| row.ids.len()).sum();
        let mut out = Columns {
            offsets: vec![0],
            ids: Vec::with_capacity(total),
            message: Vec::with_capacity(total),
            origin: Vec::with_capacity(total),
            special: Vec::with_capacity(total),
            declined: Vec::new(),
        };
        for (i, row) in rows.iter().enumerate() {
            match row {
                Some(row) => {
                    out.ids.extend_from_slice(&row.ids);
                    out.message.extend_from_slice(&row.message);
                    out.origin.extend_from_slice(&row.origin);
                    out.special.extend_from_slice(&row.special);
                }
                None => out.declined.push(i),
            }
            out.offsets.push(out.ids.len() as i64);
        }
        Ok(out)
    }

    /// The tokens of script `i`; none if it is declined.
    fn encode_script(&self, scripts: &Scripts, i: usize) -> Result<Option<Row>, TextError> {
        let (first, mut at) = scripts.starts[i];
        let end = scripts
            .starts
            .get(i + 1)
            .map_or(scripts.pieces.len(), |&(piece, _)| piece);
        let pieces = &scripts.pieces[first..end];
        let mut row = Row::default();
        let mut next = 0;
        while let Some(piece) = pieces.get(next) {
            match piece.what {
                What::Control(id) => row.push(id, piece, true),
                What::Cut => {}
                What::Text(_) => {
                    let run: Vec<(usize, &Piece)> = pieces[next..]
                        .iter()
                        .map_while(|p| match p.what {
                            What::Text(end) => Some((end, p)),
                            _ => None,
                        })
                        .collect();
                    next += run.len();
                    if !self.encode_run(&scripts.text, at, &run, &mut row)? {
                        return Ok(None);
                    }
                    at = run.last().map_or(at, |&(end, _)| end);
                    continue;
                }
            }
            next += 1;
        }
        Ok(Some(row))
    }

    /// Adds the tokens of a run of pieces, each with the byte it ends at; false if it is declined.
    fn encode_run(
        &self,
        text: &str,
        start: usize,
        run: &[(usize, &Piece)],
        row: &mut Row,
    ) -> Result<bool, TextError> {
        let Some(&(end, last)) = run.last() else {
            return Ok(true);
        };
        let text = &text[start..end];
        let Some(ids) = self.encode(text)? else {
            return Ok(false);
        };
        if run.len() == 1 {
            for id in ids {
                row.push(id as i32, last, false);
            }
            return Ok(true);
        }
        let Some(starts) = self.starts(text, &ids) else {
            return Ok(false);
        };
        let mut owner = 0;
        for (id, at) in ids.into_iter().zip(starts) {
            while owner + 1 < run.len() && start + at >= run[owner].0 {
                owner += 1;
            }
            row.push(id as i32, run[owner].1, false);
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    /// One token a byte, and `ab`, `bc`.
    fn encoder() -> Encoder {
        let level = "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false}";
        let mut bytes: Vec<Vec<u8>> = (0..128u8).map(|b| vec![b]).collect();
        bytes.extend([b"ab".to_vec(), b"bc".to_vec(), b"abc".to_vec()]);
        let vocab: serde_json::Map<String, serde_json::Value> = bytes
            .iter()
            .enumerate()
            .map(|(id, b)| {
                let spelled = b.iter().map(|&c| match c {
                    0x21..=0x7e => char::from(c),
                    0x7f => char::from_u32(0x121).unwrap(),
                    _ => char::from_u32(0x100 + u32::from(c)).unwrap(),
                });
                (spelled.collect(), id.into())
            })
            .collect();
        let json = format!(
            "{{\"version\":\"1.0\",\"added_tokens\":[],\"normalizer\":null,\"pre_tokenizer\":{level},\
             \"post_processor\":null,\"decoder\":{level},\"model\":{{\"type\":\"BPE\",\"vocab\":{},\
             \"merges\":[\"a b\",\"b c\",\"ab c\"]}}}}",
            serde_json::Value::Object(vocab)
        );
        Encoder::new(&json, &bytes, &[130]).unwrap()
    }

    #[test]
    fn a_token_belongs_to_the_piece_that_it_starts_in() {
        let mut scripts = Scripts::default();
        scripts.start();
        scripts.push(What::Control(200), 0, 0);
        scripts.push_text("xa", 0, 1);
        scripts.push_text("b", 1, 2);
        scripts.push_text("y", 2, 3);
        scripts.push(What::Cut, 0, 0);
        scripts.push_text("b", 3, 4);
        let columns = encoder().encode_scripts(&scripts).unwrap();
        assert_eq!(columns.ids, [200, 120, 128, 121, 98]);
        assert_eq!(columns.message, [0, 0, 0, 2, 3]);
        assert_eq!(columns.origin, [0, 1, 1, 3, 4]);
        assert_eq!(columns.special, [true, false, false, false, false]);
        assert_eq!(columns.offsets, [0, 5]);
    }

    #[test]
    fn a_text_that_gives_a_control_token_is_declined_and_nothing_else() {
        let mut scripts = Scripts::default();
        for text in ["ab", "abc", "b"] {
            scripts.start();
            scripts.push_text(text, 0, 0);
        }
        let columns = encoder().encode_scripts(&scripts).unwrap();
        assert_eq!(columns.declined, [1]);
        assert_eq!(columns.offsets, [0, 1, 1, 2]);
    }

    #[test]
    fn a_long_s_is_left_to_others() {
        assert_eq!(encoder().encode("a'ſ").unwrap(), None);
    }

    proptest! {
        #[test]
        fn however_a_text_is_cut_into_pieces_its_ids_stay(text in "[abx]{0,20}", cuts in prop::collection::vec(0..20usize, 0..4)) {
            prop_assume!(!text.contains("abc"));
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|&c| c < text.len()).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let mut scripts = Scripts::default();
            scripts.start();
            for (i, pair) in cuts.windows(2).enumerate() {
                scripts.push_text(&text[pair[0]..pair[1]], i as i32, 0);
            }
            let columns = encoder().encode_scripts(&scripts).unwrap();
            let whole = encoder().encode(&text).unwrap().unwrap();
            prop_assert_eq!(columns.ids.iter().map(|&id| id as u32).collect::<Vec<_>>(), whole);
            prop_assert!(columns.message.windows(2).all(|p| p[0] <= p[1]));
        }
    }
}
