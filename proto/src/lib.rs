//! The public contract: generated messages, clients and servers.
