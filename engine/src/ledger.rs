//! What outlives a life of the loop: every stream, with all that a replay needs.
//!
//! A token enters `Stream::generated` in the moment it enters the mailbox, under one lock. So
//! whenever a life ends, what was generated is what the reader gets, and a replay neither loses nor
//! repeats a token.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasherDefault;
use std::num::NonZeroU32;
use std::sync::Arc;

use scheduler::hash::{BlockHash, Scatter};
use scheduler::policy::Weight;
use scheduler::request::{Micros, Priority, Request, RequestId, TenantId, Token};

use crate::handle::{End, Generated};
use crate::mailbox::Mailbox;
use crate::record::Phase;
use crate::sampling::Sampling;

/// One request from its submission to its end.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) prompt: Arc<[Token]>,
    pub(crate) sampling: Arc<Sampling>,
    pub(crate) output_max: NonZeroU32,
    pub(crate) priority: Priority,
    pub(crate) arrived: Micros,
    pub(crate) deadline: Option<Micros>,
    pub(crate) tenant: String,
    pub(crate) weight: Weight,
    pub(crate) root: BlockHash,
    pub(crate) mailbox: Arc<Mailbox>,
    /// What the reader was given.
    pub(crate) generated: Vec<Token>,
    /// Sampled, and not yet confirmed by the scheduler's event.
    pub(crate) pending: Option<Generated>,
    /// When the last token came.
    pub(crate) token_at: Micros,
    /// Whether the reader was told of the start.
    pub(crate) started: bool,
    /// Whether the current life's executor knows it.
    pub(crate) admitted: bool,
    /// Failures since its last token that it was being computed in.
    pub(crate) failures: u32,
    /// Why the engine itself ends it; overrides the scheduler's reason.
    pub(crate) ending: Option<End>,
}

impl Stream {
    /// Where it is on its way.
    pub(crate) fn phase(&self) -> Phase {
        match (self.started, self.generated.is_empty()) {
            (false, _) => Phase::Queue,
            (true, true) => Phase::Prefill,
            (true, false) => Phase::Decode,
        }
    }

    /// What the scheduler is told of it; after a restart it goes on behind `generated`.
    pub(crate) fn request(&self, id: RequestId, tenant: TenantId) -> Request {
        Request {
            id,
            prompt: Arc::clone(&self.prompt),
            generated: self.generated.clone(),
            output_max: self.output_max,
            priority: self.priority,
            deadline: self.deadline,
            tenant,
            root: self.root,
        }
    }

    /// Whether its reader is gone: the ledger's is the last claim on the mailbox.
    pub(crate) fn is_abandoned(&self) -> bool {
        Arc::strong_count(&self.mailbox) == 1
    }
}

/// The streams of one engine, in the care of one life at a time.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// The life that may touch it.
    pub(crate) life: u64,
    /// Whether that life sees to deadlines and aborts by now; until then its supervisor does.
    pub(crate) taken: bool,
    pub(crate) streams: HashMap<RequestId, Box<Stream>, BuildHasherDefault<Scatter>>,
    /// Whom the executor was told to compute and has not: they are to blame if it fails. Who is in two
    /// steps in flight is in here twice.
    pub(crate) planned: Vec<RequestId>,
    pub(crate) tenants: Tenants,
}

impl Ledger {
    /// The streams' ids in order of arrival.
    pub(crate) fn ids(&self) -> Vec<RequestId> {
        let mut ids: Vec<_> = self.streams.keys().copied().collect();
        ids.sort_unstable();
        ids
    }
}

/// Numbers for tenants' names. Names without a request in flight are kept, so that a tenant keeps
/// its place in the fair order, until there are too many of them.
#[derive(Debug, Default)]
pub(crate) struct Tenants {
    numbers: BTreeMap<String, Tenant>,
    next: u32,
}

#[derive(Debug)]
struct Tenant {
    id: TenantId,
    in_flight: u32,
}

impl Tenants {
    /// The number of `name`, for one more request.
    pub(crate) fn enter(&mut self, name: &str) -> TenantId {
        if let Some(tenant) = self.numbers.get_mut(name) {
            tenant.in_flight += 1;
            return tenant.id;
        }
        if self.numbers.len() >= TENANTS_MAX {
            self.numbers.retain(|_, tenant| tenant.in_flight > 0);
        }
        let id = TenantId(self.next);
        self.next = self.next.wrapping_add(1);
        self.numbers
            .insert(name.to_owned(), Tenant { id, in_flight: 1 });
        id
    }

    /// The number of `name`, which has a request in flight.
    pub(crate) fn number(&self, name: &str) -> TenantId {
        let tenant = self.numbers.get(name);
        assert!(tenant.is_some(), "a request in flight has no tenant");
        tenant.map_or(TenantId::default(), |tenant| tenant.id)
    }

    /// One request of `name` has ended.
    pub(crate) fn leave(&mut self, name: &str) {
        let tenant = self.numbers.get_mut(name);
        assert!(tenant.is_some(), "a tenant leaves that never entered");
        if let Some(tenant) = tenant {
            tenant.in_flight -= 1;
        }
    }
}

/// Names kept; those of requests in flight, which have a bound of their own, come on top.
const TENANTS_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_keeps_its_number_and_the_table_stays_small() {
        let mut tenants = Tenants::default();
        let first = tenants.enter("first");
        for i in 0..3 * TENANTS_MAX {
            let name = i.to_string();
            tenants.enter(&name);
            tenants.leave(&name);
        }
        assert_eq!(tenants.enter("first"), first);
        assert!(tenants.numbers.len() <= TENANTS_MAX);
    }
}
