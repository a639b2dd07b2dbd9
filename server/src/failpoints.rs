//! Failures on command, so that trials of the binary can see what comes of them. They are there with
//! the feature `failpoints` alone, which no release has; without it everything here passes through.

#[cfg(not(feature = "failpoints"))]
mod none;
#[cfg(feature = "failpoints")]
mod points;

#[cfg(not(feature = "failpoints"))]
pub(crate) use none::{check, encoder, executor, load};
#[cfg(feature = "failpoints")]
pub(crate) use points::{check, encoder, executor, load};
