//! Ragged rows: checked offsets, and whole-row chunks for rayon.

use std::ops::Range;

use rayon::prelude::*;

use crate::{KernelError, Result};

/// Elements per parallel chunk: about 20 us of work, well above the cost of handing it out.
/// A constant, so that the way a sum is cut does not depend on the number of threads.
const CHUNK: usize = 1 << 14;

/// Checked offsets: they start at 0, never fall and end at the length of the values.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    offsets: &'a [i64],
}

impl<'a> Rows<'a> {
    /// Checks `offsets` against `len` values; `what` names the array in the error.
    pub fn new(what: &'static str, offsets: &'a [i64], len: usize) -> Result<Self> {
        let bad = |index, why| Err(KernelError::Offsets { what, index, why });
        match offsets.first() {
            None => {
                return bad(
                    0,
                    "are empty; B rows need B + 1 offsets that start at 0".into(),
                );
            }
            Some(&first) if first != 0 => return bad(0, format!("start at {first}, not 0")),
            Some(_) => {}
        }
        if let Some(i) = offsets.windows(2).position(|w| w[1] < w[0]) {
            let (a, b) = (offsets[i], offsets[i + 1]);
            return bad(i + 1, format!("fall from {a} to {b}"));
        }
        let last = offsets[offsets.len() - 1];
        if usize::try_from(last) != Ok(len) {
            return bad(
                offsets.len() - 1,
                format!("end at {last}, but there are {len} values"),
            );
        }
        Ok(Self { offsets })
    }

    /// The number of rows, B.
    pub fn count(&self) -> usize {
        self.offsets.len() - 1
    }

    /// The number of elements in all rows.
    pub fn total(&self) -> usize {
        self.start(self.count())
    }

    fn start(&self, row: usize) -> usize {
        self.offsets[row] as usize
    }

    /// Where row `row` lies in the flat values.
    pub fn range(&self, row: usize) -> Range<usize> {
        self.start(row)..self.start(row + 1)
    }

    /// Every row's range, in order.
    pub fn iter(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.offsets
            .windows(2)
            .map(|w| w[0] as usize..w[1] as usize)
    }

    /// Runs of whole rows with about `CHUNK` elements each.
    fn chunks(&self) -> Vec<Range<usize>> {
        let mut chunks = Vec::new();
        let mut first = 0;
        for row in 0..self.count() {
            // An empty row costs too, hence `+ rows`.
            let size = self.start(row + 1) - self.start(first) + (row + 1 - first);
            if size >= CHUNK {
                chunks.push(first..row + 1);
                first = row + 1;
            }
        }
        if first < self.count() {
            chunks.push(first..self.count());
        }
        chunks
    }

    /// Calls `f(row, output of the row)` for every row, in parallel when there is enough to do, and
    /// returns the results in row order. `out` has `width` elements for each element of the rows.
    /// The error is that of the first bad row, whatever thread met one first.
    pub fn map<T, R, F>(&self, out: &mut [T], width: usize, f: F) -> Result<Vec<R>>
    where
        T: Send,
        R: Send,
        F: Fn(usize, &mut [T]) -> Result<R> + Sync,
    {
        let run = |rows: Range<usize>, mut out: &mut [T]| -> Result<Vec<R>> {
            let mut results = Vec::with_capacity(rows.len());
            for row in rows {
                let (head, tail) = out.split_at_mut(self.range(row).len() * width);
                results.push(f(row, head)?);
                out = tail;
            }
            Ok(results)
        };
        let chunks = self.chunks();
        if chunks.len() <= 1 {
            return run(0..self.count(), out);
        }
        let mut rest = out;
        let mut jobs = Vec::with_capacity(chunks.len());
        for rows in chunks {
            let size = (self.start(rows.end) - self.start(rows.start)) * width;
            let (head, tail) = rest.split_at_mut(size);
            jobs.push((rows, head));
            rest = tail;
        }
        let parts: Vec<Result<Vec<R>>> = jobs
            .into_par_iter()
            .map(|(rows, out)| run(rows, out))
            .collect();
        let mut all = Vec::with_capacity(self.count());
        for part in parts {
            all.extend(part?);
        }
        Ok(all)
    }
}

/// Refuses a column whose length is not that of what it runs along.
pub fn same_length(
    what: &'static str,
    got: usize,
    expected: usize,
    of: &'static str,
) -> Result<()> {
    if got == expected {
        return Ok(());
    }
    Err(KernelError::Length {
        what,
        got,
        expected,
        of,
    })
}

/// Refuses NaN and infinities, by row and index.
pub fn finite(what: &'static str, row: usize, values: &[f64]) -> Result<()> {
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(index) => Err(KernelError::Value {
            what,
            row,
            index,
            value: values[index],
            why: "must be finite",
        }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bad_offsets_are_refused_by_index() {
        let message = |offsets: &[i64], len| Rows::new("x", offsets, len).unwrap_err().to_string();
        assert!(message(&[], 0).contains("empty"));
        assert!(message(&[1, 2], 2).contains("start at 1"));
        assert_eq!(
            message(&[0, 3, 2, 4], 4),
            "x: offsets fall from 3 to 2 (at offsets[2])"
        );
        assert!(message(&[0, 3], 4).contains("end at 3, but there are 4"));
        assert!(message(&[0, -1], 0).contains("fall"));
        assert!(message(&[0, i64::MAX], 1).contains("end at"));
    }

    proptest! {
        #[test]
        fn rows_are_visited_once_in_order_and_see_their_own_output(
            lengths in prop::collection::vec(0usize..3000, 0..40), width in 1usize..3,
        ) {
            let mut offsets = vec![0i64];
            for n in &lengths { offsets.push(offsets[offsets.len() - 1] + *n as i64); }
            let total = *offsets.last().unwrap() as usize;
            let rows = Rows::new("x", &offsets, total).unwrap();
            let mut out = vec![usize::MAX; total * width];
            let seen = rows.map(&mut out, width, |row, out| { out.fill(row); Ok((row, out.len())) }).unwrap();
            prop_assert_eq!(seen, lengths.iter().enumerate().map(|(i, n)| (i, n * width)).collect::<Vec<_>>());
            for (row, range) in rows.iter().enumerate() {
                prop_assert!(out[range.start * width..range.end * width].iter().all(|v| *v == row));
            }
        }

        #[test]
        fn the_first_bad_row_is_the_one_reported(n in 1usize..40, bad in 0usize..40) {
            let offsets: Vec<i64> = (0..=n as i64).map(|i| i * 2000).collect();
            let rows = Rows::new("x", &offsets, n * 2000).unwrap();
            let mut out = vec![0u8; n * 2000];
            let got = rows.map(&mut out, 1, |row, _| {
                if row >= bad { Err(KernelError::Row { row, why: "bad".into() }) } else { Ok(()) }
            });
            prop_assert_eq!(got.is_err(), bad < n);
            if let Err(KernelError::Row { row, .. }) = got { prop_assert_eq!(row, bad); }
        }
    }
}
