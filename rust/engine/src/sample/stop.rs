//! Stop strings, matched on the bytes of a completion as its tokens arrive.

/// The stop strings of a request.
#[derive(Clone, Debug)]
pub struct StopStrings {
    strings: Vec<Vec<u8>>,
    longest: usize,
}

/// How far one completion has come.
#[derive(Clone, Debug, Default)]
pub struct StopState {
    /// The last bytes that a match may still begin in.
    tail: Vec<u8>,
    /// Bytes of the completion before `tail`.
    before: usize,
}

/// A stop string that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StringMatch {
    /// Which of the request's stop strings.
    pub index: usize,
    /// Bytes of the completion before the match.
    pub start: usize,
}

impl StopStrings {
    /// Empty strings match nothing and must have been refused before.
    pub fn new(strings: Vec<Vec<u8>>) -> Self {
        let longest = strings.iter().map(Vec::len).max().unwrap_or(0);
        Self { strings, longest }
    }

    /// Add a token's bytes. The match that ends first wins; of those that end together, the one that begins first.
    pub fn push(&self, state: &mut StopState, token: &[u8]) -> Option<StringMatch> {
        if self.longest == 0 {
            return None;
        }
        let old = state.tail.len();
        state.tail.extend_from_slice(token);
        for end in old + 1..=state.tail.len() {
            let seen = &state.tail[..end];
            let found = self
                .strings
                .iter()
                .enumerate()
                .filter(|(_, s)| seen.ends_with(s))
                .max_by_key(|(_, s)| s.len());
            if let Some((index, string)) = found {
                return Some(StringMatch {
                    index,
                    start: state.before + end - string.len(),
                });
            }
        }
        let done = state.tail.len().saturating_sub(self.longest - 1);
        state.tail.drain(..done);
        state.before += done;
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition: look at the whole text after each byte.
    fn naive(strings: &[Vec<u8>], text: &[u8]) -> Option<(usize, usize)> {
        (1..=text.len()).find_map(|end| {
            let starts = (0..end)
                .find(|start| strings.iter().any(|s| s.as_slice() == &text[*start..end]))?;
            Some((starts, end))
        })
    }

    proptest! {
        #[test]
        fn a_match_is_found_wherever_token_borders_fall(
            strings in prop::collection::vec(prop::collection::vec(0u8..3, 1..5), 1..4),
            tokens in prop::collection::vec(prop::collection::vec(0u8..3, 0..4), 0..12),
        ) {
            let stops = StopStrings::new(strings.clone());
            let mut state = StopState::default();
            let mut text = Vec::new();
            for token in &tokens {
                text.extend_from_slice(token);
                let found = stops.push(&mut state, token);
                let expected = naive(&strings, &text);
                prop_assert_eq!(found.map(|m| (m.start, m.start + strings[m.index].len())), expected);
                if found.is_some() {
                    break;
                }
            }
        }
    }
}
