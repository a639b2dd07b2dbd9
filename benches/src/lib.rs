//! What the benchmarks share: a clock, medians, and models of real shapes with random weights.

pub mod clock;
pub mod shapes;
