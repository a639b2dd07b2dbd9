//! Who is connected: at most so many connections, and at most so many from one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Closing, Peer};

/// The open connections of one socket.
#[derive(Clone, Debug)]
pub(super) struct Census(Arc<Mutex<Count>>);

#[derive(Debug)]
struct Count {
    all: usize,
    all_max: usize,
    by_address: HashMap<IpAddr, usize>,
    by_address_max: usize,
}

/// One open connection; dropped, it leaves its place to another.
#[derive(Debug)]
pub(super) struct Seat {
    census: Census,
    /// What it is counted under; `None` for a peer without an address.
    address: Option<IpAddr>,
}

impl Census {
    pub(super) fn new(all_max: usize, by_address_max: usize) -> Self {
        Self(Arc::new(Mutex::new(Count {
            all: 0,
            all_max,
            by_address: HashMap::new(),
            by_address_max,
        })))
    }

    /// A seat for a new connection, if there is one.
    pub(super) fn enter(&self, peer: Peer) -> Result<Seat, Closing> {
        let mut count = self.count();
        if count.all >= count.all_max {
            return Err(Closing::OverLimit);
        }
        let address = match peer {
            Peer::Remote(address) => Some(counted_as(address.ip())),
            Peer::Local => None,
        };
        if let Some(address) = address {
            let max = count.by_address_max;
            let here = count.by_address.entry(address).or_insert(0);
            if *here >= max {
                return Err(Closing::OverAddressLimit);
            }
            *here += 1;
        }
        count.all += 1;
        drop(count);
        let census = self.clone();
        Ok(Seat { census, address })
    }

    fn count(&self) -> MutexGuard<'_, Count> {
        // Nothing that can panic is done while it is locked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut count = self.census.count();
        count.all -= 1;
        let Some(address) = self.address else { return };
        if let Some(here) = count.by_address.get_mut(&address) {
            *here -= 1;
            if *here == 0 {
                count.by_address.remove(&address);
            }
        }
    }
}

/// One customer has one IPv4 address, and a network of 2^64 IPv6 addresses.
fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str) -> Peer {
        Peer::Remote((address.parse::<IpAddr>().unwrap(), 1000).into())
    }

    #[test]
    fn seats_are_counted_together_and_by_address() {
        let census = Census::new(3, 2);
        let first = census.enter(peer("10.0.0.1")).unwrap();
        let second = census.enter(peer("10.0.0.1")).unwrap();
        assert_eq!(
            census.enter(peer("10.0.0.1")).unwrap_err(),
            Closing::OverAddressLimit
        );
        let third = census.enter(peer("10.0.0.2")).unwrap();
        assert_eq!(
            census.enter(peer("10.0.0.3")).unwrap_err(),
            Closing::OverLimit
        );
        drop(first);
        let again = census.enter(peer("10.0.0.1")).unwrap();
        drop((again, second, third));
        assert!(census.count().by_address.is_empty(), "nothing is kept");
        assert_eq!(census.count().all, 0);
    }

    #[test]
    fn a_refusal_counts_nothing() {
        let census = Census::new(2, 1);
        let _seat = census.enter(peer("10.0.0.1")).unwrap();
        for _ in 0..5 {
            census.enter(peer("10.0.0.1")).unwrap_err();
        }
        census.enter(peer("10.0.0.2")).unwrap();
    }

    #[test]
    fn a_network_of_ipv6_is_one_address_and_mapped_ipv4_is_ipv4() {
        for (one, other, same) in [
            ("2001:db8::1", "2001:db8:0:0:ffff:ffff:ffff:ffff", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("::ffff:10.0.0.1", "10.0.0.1", true),
            ("::ffff:10.0.0.1", "::ffff:10.0.0.2", false),
        ] {
            let census = Census::new(10, 1);
            let _seat = census.enter(peer(one)).unwrap();
            assert_eq!(census.enter(peer(other)).is_err(), same, "{one} {other}");
        }
    }

    #[test]
    fn peers_without_an_address_have_the_common_limit_alone() {
        let census = Census::new(2, 1);
        let _seats = [Peer::Local; 2].map(|peer| census.enter(peer).unwrap());
        assert_eq!(census.enter(Peer::Local).unwrap_err(), Closing::OverLimit);
    }
}
