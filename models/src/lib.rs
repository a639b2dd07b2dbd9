//! Networks, weights and sampling. Turns a plan into tensors and tokens; never touches the
//! network, and knows neither wire nor text.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod files;
pub mod load;
