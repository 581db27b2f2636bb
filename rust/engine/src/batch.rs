//! Ragged batches: rows of tokens end to end, checked once, cut into micro-batches of whole rows.
use std::ops::Range;

use crate::tensor::LANES;
use crate::train::TrainError;

/// B rows, N tokens in all, K targets a position. Row i is `tokens[offsets[i]..offsets[i + 1]]`.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// `[N]`
    pub tokens: &'a [i32],
    /// `[B + 1]`
    pub offsets: &'a [i64],
    /// `[N * K]`
    pub targets: &'a [i32],
    /// K
    pub per_position: usize,
}

impl Batch<'_> {
    /// Refuses anything but a batch that a model of this vocabulary and context can take.
    pub fn check(&self, vocab: usize, context: usize) -> Result<(), TrainError> {
        let n = self.tokens.len();
        let shape = |message: String| Err(TrainError::Input(message));
        if self.per_position == 0 || self.targets.len() != n * self.per_position {
            return shape(format!(
                "{} targets for {n} tokens at {} targets a position",
                self.targets.len(),
                self.per_position
            ));
        }
        if self.offsets.first() != Some(&0) || self.offsets.last() != Some(&(n as i64)) {
            return shape(format!(
                "offsets must run from 0 to the number of tokens, {n}; they are {:?} to {:?}",
                self.offsets.first(),
                self.offsets.last()
            ));
        }
        for (row, pair) in self.offsets.windows(2).enumerate() {
            if pair[1] < pair[0] {
                return shape(format!(
                    "offsets fall at row {row}: from {} to {}",
                    pair[0], pair[1]
                ));
            }
            let length = (pair[1] - pair[0]) as usize;
            if length > context {
                return shape(format!(
                    "row {row} has {length} tokens; the model's context is {context}"
                ));
            }
        }
        let k = self.per_position;
        for (what, ids, each) in [("token", self.tokens, 1), ("target", self.targets, k)] {
            let outside = ids.iter().position(|&id| id < 0 || id as usize >= vocab);
            if let Some(i) = outside {
                let (row, position) = self.locate(i / each);
                return shape(format!(
                    "row {row}, position {position}: {what} id {} is outside the vocabulary of {vocab}",
                    ids[i]
                ));
            }
        }
        Ok(())
    }

    /// (row, position in it) of a token.
    pub fn locate(&self, token: usize) -> (usize, usize) {
        let row = self
            .offsets
            .partition_point(|&o| o as usize <= token)
            .saturating_sub(1);
        (row, token - self.offsets[row] as usize)
    }

    pub fn span(&self, rows: &Range<usize>) -> Range<usize> {
        self.offsets[rows.start] as usize..self.offsets[rows.end] as usize
    }

    /// Whole rows, in order, as many to a part as `budget` tokens allow; a longer row is a part of its own.
    pub fn cut(&self, budget: usize) -> Vec<Range<usize>> {
        let mut parts = Vec::new();
        let mut start = 0;
        for row in 0..self.offsets.len() - 1 {
            if row > start && self.span(&(start..row + 1)).len() > budget {
                parts.push(start..row);
                start = row;
            }
        }
        if start < self.offsets.len() - 1 {
            parts.push(start..self.offsets.len() - 1);
        }
        parts.retain(|rows| !self.span(rows).is_empty());
        parts
    }
}

/// How the tokens of a micro-batch lie in panels. The lanes after the last token form a row of their own:
/// they see only each other, and nothing flows back from them.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    tokens: usize,
    starts: Vec<u32>,
    positions: Vec<u32>,
}

impl Layout {
    pub fn new(batch: &Batch, rows: &Range<usize>) -> Self {
        let base = batch.offsets[rows.start];
        let tokens = batch.span(rows).len();
        let padded = tokens.next_multiple_of(LANES);
        let mut layout = Self {
            tokens,
            starts: Vec::with_capacity(padded),
            positions: Vec::with_capacity(padded),
        };
        let ends = batch.offsets[rows.start + 1..=rows.end]
            .iter()
            .map(|&o| (o - base) as u32);
        for end in ends.chain([padded as u32]) {
            let start = layout.starts.len() as u32;
            layout.starts.extend((start..end).map(|_| start));
            layout.positions.extend(0..end - start);
        }
        layout
    }

    pub fn tokens(&self) -> usize {
        self.tokens
    }
    pub fn panels(&self) -> usize {
        self.starts.len() / LANES
    }
    /// First token of each lane's row, `[panels * 32]`.
    pub fn starts(&self) -> &[u32] {
        &self.starts
    }
    /// Position of each lane in its row.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }
    pub fn longest(&self) -> usize {
        self.positions.iter().max().map_or(0, |&p| p as usize + 1)
    }
}
