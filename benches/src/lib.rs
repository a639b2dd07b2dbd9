//! Benchmarks of Paternoster.
