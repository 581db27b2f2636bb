//! The nearest known name, for an error that helps.

use crate::KernelError;

/// Levenshtein distance in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

/// The known name closest to `given`: one that it begins, else the one fewest edits away, unless even
/// that one shares too little with it.
pub fn nearest(given: &str, known: &[&str]) -> Option<String> {
    let begun = known
        .iter()
        .filter(|name| given.len() >= 3 && name.starts_with(given));
    let edited = known
        .iter()
        .map(|name| (distance(given, name), name))
        .min()
        .filter(|(d, name)| *d <= given.chars().count().max(name.len()) / 2)
        .map(|(_, name)| name);
    begun.min().or(edited).map(|name| (*name).to_owned())
}

/// The error for a name that is not among `known`.
pub fn unknown(what: &'static str, given: &str, known: &[&str]) -> KernelError {
    KernelError::Unknown {
        what,
        given: given.to_owned(),
        nearest: nearest(given, known),
        known: known.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_slip_finds_its_name_and_noise_finds_none() {
        let known = ["token_sum", "token_mean", "sequence_mean"];
        assert_eq!(nearest("token_men", &known).as_deref(), Some("token_mean"));
        assert_eq!(nearest("seq", &known).as_deref(), Some("sequence_mean"));
        assert_eq!(nearest("xyzzy", &known), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
