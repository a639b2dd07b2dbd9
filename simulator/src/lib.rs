//! `paternoster simulate`: the scheduler on a virtual clock.
//!
//! A discrete-event simulation of replicas, each of them the real `scheduler` crate with an executor
//! that computes nothing and takes the time that a cost model gives to each plan. Nothing else is
//! modelled: no network, no tokenizer, no sampling. What the scheduler decides here, it decides in
//! the server.
//!
//! What always holds:
//! - The same flags give the same report, bit for bit; only the wall clock's figure differs. A run
//!   does no I/O and reads no clock but for its progress.
//! - No event is skipped or merged: each step of each replica is planned and applied.
//! - A request's length, text and first arrival depend on the seed, its tenant and its number
//!   alone, so that two policies are asked the same.
//!
//! To read on: [`simulation`] is the loop, [`cost`] says how long a step takes, [`workload`] who
//! asks for what, [`router`] which replica gets it, [`report`] what came of it.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod args;
mod arrivals;
pub mod calibration;
mod clock;
pub mod command;
pub mod cost;
mod experiment;
mod histogram;
mod jobs;
pub mod length;
pub mod machine;
mod plot;
mod progress;
pub mod published;
mod replica;
pub mod report;
pub mod router;
pub mod simulation;
mod sweep;
mod table;
mod tally;
mod text;
mod trace;
mod units;
pub mod workload;
