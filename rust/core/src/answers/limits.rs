//! What is refused before any work is spent on it. Each limit is far above any answer that a person would write.

/// Bytes of an answer.
pub const MAX_BYTES: usize = 4096;
/// Brackets, braces, functions and exponents inside one another.
pub const MAX_DEPTH: usize = 64;
/// Digits of one number.
pub const MAX_DIGITS: usize = 256;
/// Parts of an expression.
pub const MAX_NODES: usize = 2048;
/// Entries of a list, a set, a tuple or a matrix.
pub const MAX_ITEMS: usize = 256;
/// Bits of an exact number on the way to a result; `2006!` has 19,000.
pub const MAX_BITS: usize = 1 << 17;
/// The largest n whose factorial is multiplied out.
pub const MAX_FACTORIAL: usize = 8000;
/// Comparisons of parts that one pair of answers may cost: unordered lists cost the square of their length.
pub const MAX_COMPARISONS: usize = 4096;
/// Bytes at the end of a response in which an answer is looked for without a box.
pub const MAX_TAIL: usize = 16 * 1024;
