//! One tokenizer: ids of a text, and where in it each of them starts.

use fastokens::Tokenizer;

/// What goes wrong with a tokenizer's description or with a text.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    #[error("not a tokenizer that can be read: {0}")]
    Description(String),
    #[error("a text of {bytes} bytes cannot be encoded: {reason}")]
    Text { bytes: usize, reason: String },
}

/// The patterns of most families split contractions off, whatever their case: `(?i:'s|...)`. By Unicode's rules the long
/// s is an s in another case there; the hand-written scanners of `fastokens` do not think so.
const LONG_S: char = 'ſ';

/// A tokenizer, with the bytes that each id stands for.
pub struct Encoder {
    tokenizer: Tokenizer,
    /// Bytes of all ids, one after the other.
    bytes: Vec<u8>,
    /// Where the bytes of each id start and, one further, end.
    starts: Vec<u32>,
    /// Ids that no text may give.
    control: Vec<bool>,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Encoder({} ids)", self.control.len())
    }
}

impl Encoder {
    /// A tokenizer from the text of its `tokenizer.json`, the bytes that each id stands for, and the ids that no text
    /// may give.
    ///
    /// # Errors
    /// `Description` for what cannot be read.
    pub fn new(
        json: &str,
        token_bytes: &[impl AsRef<[u8]>],
        control: &[usize],
    ) -> Result<Self, TextError> {
        let description = |reason: String| TextError::Description(reason);
        let value = serde_json::from_str(json).map_err(|e| description(e.to_string()))?;
        let tokenizer = Tokenizer::from_json(value).map_err(|e| description(e.to_string()))?;
        let mut bytes = Vec::new();
        let mut starts = vec![0];
        for token in token_bytes {
            bytes.extend_from_slice(token.as_ref());
            starts.push(
                u32::try_from(bytes.len())
                    .map_err(|_| description("its tokens stand for 4 GiB or more".into()))?,
            );
        }
        let mut is_control = vec![false; token_bytes.len()];
        for &id in control {
            *is_control
                .get_mut(id)
                .ok_or_else(|| description(format!("control token {id} is beyond its ids")))? =
                true;
        }
        Ok(Self {
            tokenizer,
            bytes,
            starts,
            control: is_control,
        })
    }

    /// Ids of a text; none if one of them is a control token or unknown here, or if the text holds a long s.
    ///
    /// # Errors
    /// `Text` when the tokenizer fails.
    pub fn encode(&self, text: &str) -> Result<Option<Vec<u32>>, TextError> {
        if text.contains(LONG_S) {
            return Ok(None);
        }
        let ids = self
            .tokenizer
            .encode_ordinary(text)
            .map_err(|e| TextError::Text {
                bytes: text.len(),
                reason: e.to_string(),
            })?;
        let plain = ids.iter().all(|&id| {
            self.control
                .get(id as usize)
                .is_some_and(|&control| !control)
        });
        Ok(plain.then_some(ids))
    }

    /// The byte that each id starts at; none if the ids do not spell the text.
    #[must_use]
    pub fn starts(&self, text: &str, ids: &[u32]) -> Option<Vec<usize>> {
        let text = text.as_bytes();
        let mut at = 0;
        let mut starts = Vec::with_capacity(ids.len());
        for &id in ids {
            let bytes = self.bytes_of(id)?;
            if !text.get(at..)?.starts_with(bytes) {
                return None;
            }
            starts.push(at);
            at += bytes.len();
        }
        (at == text.len()).then_some(starts)
    }

    fn bytes_of(&self, id: u32) -> Option<&[u8]> {
        let id = id as usize;
        let (start, end) = (*self.starts.get(id)?, *self.starts.get(id + 1)?);
        self.bytes.get(start as usize..end as usize)
    }
}
