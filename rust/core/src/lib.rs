//! The kernels of post-training: batch functions over ragged arrays.
//!
//! A ragged array of B rows is a flat `values` slice and `offsets` of length B + 1;
//! row i is `values[offsets[i]..offsets[i + 1]]`.
#![forbid(unsafe_code)]
