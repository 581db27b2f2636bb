//! Each operation of a decoder layer: forward and backward, side by side, one panel at a time.
// Lanes of several arrays are walked together by index: that is what the compiler turns into vector code.
#![allow(clippy::needless_range_loop)]

pub mod attention;
pub mod head;
pub mod norm;
pub mod project;
pub mod rope;
pub mod swiglu;

#[cfg(test)]
mod tests;
