//! Why this side refuses or ends a connection, and the count of it.

use metrics::counter;

use crate::metrics::CONNECTIONS_CLOSED;

/// Why this side refuses or ends a connection: the closed set of the label `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    /// There are too many.
    OverLimit,
    /// There are too many from its address.
    OverAddressLimit,
    /// It does not say what it speaks.
    Silent,
    /// Its TLS handshake failed.
    Handshake,
    /// It had no call for too long.
    Idle,
    /// It is old.
    Aged,
    /// It does not take what it asked for.
    Stalled,
}

impl Closing {
    /// All of them.
    pub(crate) const ALL: [Self; 7] = [
        Self::OverLimit,
        Self::OverAddressLimit,
        Self::Silent,
        Self::Handshake,
        Self::Idle,
        Self::Aged,
        Self::Stalled,
    ];

    /// Its word in metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::OverLimit => "over_limit",
            Self::OverAddressLimit => "over_address_limit",
            Self::Silent => "silent",
            Self::Handshake => "handshake",
            Self::Idle => "idle",
            Self::Aged => "aged",
            Self::Stalled => "stalled",
        }
    }

    /// Counts one.
    pub(super) fn count(self) {
        counter!(CONNECTIONS_CLOSED, "reason" => self.label()).increment(1);
    }
}
