//! Text to tokens, for chats: a script of texts and control tokens becomes ids, each with what its piece says.
//!
//! The byte pair encoding itself is that of `fastokens`. What this crate adds is the run: texts that follow one another
//! are encoded as one, and each token is traced back to the piece that it starts in, by the bytes that it stands for.
//! A script whose tokens do not spell its text byte for byte (a normalizer changed it, the vocabulary lacks a byte) is
//! declined where it matters, and left to a slower tokenizer that keeps track of such changes.
#![forbid(unsafe_code)]

mod encoder;
mod script;

pub use encoder::{Encoder, TextError};
pub use script::{Columns, Piece, Scripts, What};
