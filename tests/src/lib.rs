//! Nothing but tests of the repository itself, in `tests/`: `tidy` checks its shape, `docs` holds
//! its documents to the code.
//!
//! Beside them, `e2e` drives the release binary with foreign clients; pytest runs it (`e2e/run.sh`).
