//! A thin client of a Paternoster server.
