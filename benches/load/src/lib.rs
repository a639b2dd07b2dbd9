//! The load generator: `paternoster bench`.
//!
//! A [`plan`] says what each request is, by its number and the seed; [`arrivals`] says when it is
//! due; a [`target`] answers it; a [`call`] is measured into a [`tally`]; a [`report`] is read off
//! the tally. Memory is bounded: times go into histograms as they happen, and the seconds of a run
//! into a series that is folded when it grows long.
#![forbid(unsafe_code)]

pub mod args;
pub mod arrivals;
pub mod call;
mod clock;
pub mod command;
pub mod effort;
pub mod grpc;
pub mod histogram;
mod html;
pub mod length;
pub mod mix;
pub mod openai;
pub mod plan;
mod progress;
pub mod prompts;
pub mod report;
pub mod run;
pub mod schedule;
pub mod series;
mod svg;
mod table;
pub mod tally;
pub mod target;
mod units;
