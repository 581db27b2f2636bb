//! Numbers, their layout in memory, and products of them.
pub mod exec;
pub mod kernel;
pub mod lanes;
pub mod product;
pub mod real;

pub use exec::{Exec, Shared};
pub use lanes::{Act, LANES, Lanes};
pub use product::{Packed, outer, panels_of, product_rate};
pub(crate) use real::vectorized;
pub use real::{Isa, Real, isa};

#[cfg(test)]
mod tests;
