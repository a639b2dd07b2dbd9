//! What is known of each tenant, all bands together: its weight, and how much of the queue it fills.

use std::collections::BTreeMap;

use crate::policy::{Shares, Weight};
use crate::request::{Reject, TenantId};

/// Tenants remembered for their weight alone.
const IDLE_MAX: usize = 1024;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tenant {
    pub(super) weight: Weight,
    /// Requests in flight.
    pub(super) live: u32,
    /// Tokens to compute of those that wait and never ran.
    pub(super) tokens: u64,
}

/// All tenants with a request in flight, or with a weight of their own.
#[derive(Debug, Default)]
pub(super) struct Tenants {
    by_id: BTreeMap<TenantId, Tenant>,
    /// Those with nothing in flight.
    idle: usize,
    /// Tokens to compute of all that wait and never ran.
    tokens: u64,
}

impl Tenants {
    /// What is known of one.
    pub(super) fn of(&self, id: TenantId) -> Tenant {
        self.by_id.get(&id).copied().unwrap_or_default()
    }

    /// Remembers a weight. Of those who have nothing in flight the oldest names are forgotten first.
    pub(super) fn weigh(&mut self, id: TenantId, weight: Weight) {
        if weight == self.of(id).weight {
            return;
        }
        self.idle += usize::from(!self.by_id.contains_key(&id));
        self.by_id.entry(id).or_default().weight = weight;
        self.forget(id);
    }

    /// One more request of this tenant.
    pub(super) fn enter(&mut self, id: TenantId) {
        let tenant = self.by_id.get(&id);
        self.idle -= usize::from(tenant.is_some_and(|tenant| tenant.live == 0));
        self.by_id.entry(id).or_default().live += 1;
    }

    /// One request less.
    pub(super) fn leave(&mut self, id: TenantId) {
        let tenant = self.known(id);
        assert!(tenant.live > 0, "a tenant loses a request it does not have");
        tenant.live -= 1;
        if tenant.live == 0 {
            self.idle += 1;
            self.forget(id);
        }
    }

    /// One of its requests waits, with so much to compute.
    pub(super) fn wait(&mut self, id: TenantId, tokens: u32) {
        self.known(id).tokens += u64::from(tokens);
        self.tokens += u64::from(tokens);
    }

    /// It waits no more.
    pub(super) fn go(&mut self, id: TenantId, tokens: u32) {
        let tokens = u64::from(tokens);
        let tenant = self.known(id);
        assert!(
            tenant.tokens >= tokens,
            "a tenant waits for less than nothing"
        );
        tenant.tokens -= tokens;
        self.tokens -= tokens;
    }

    /// Whether another request with so much to compute would fill more of the queue than it may.
    pub(super) fn refuses(&self, id: TenantId, tokens: u32, shares: Shares) -> Option<Reject> {
        let tenant = self.of(id);
        let beyond = |waiting: u64, max: Option<u64>| {
            let max = max.filter(|&max| waiting > 0 && waiting + u64::from(tokens) > max)?;
            Some((waiting, max))
        };
        if let Some(max) = shares.requests_max
            && tenant.live >= max
        {
            let requests = tenant.live;
            let requests_max = max;
            return Some(Reject::ShareFull {
                requests,
                requests_max,
            });
        }
        if let Some((tokens, tokens_max)) = beyond(tenant.tokens, shares.tokens_max) {
            return Some(Reject::ShareTokensFull { tokens, tokens_max });
        }
        let (tokens, tokens_max) = beyond(self.tokens, shares.all_tokens_max)?;
        Some(Reject::QueueTokensFull { tokens, tokens_max })
    }

    /// Checks the counts against what the accounts hold, by tenant: requests and waiting tokens.
    pub(super) fn check(&self, held: &BTreeMap<TenantId, (u32, u64)>) {
        for (&id, tenant) in &self.by_id {
            let (live, tokens) = held.get(&id).copied().unwrap_or_default();
            assert!(
                tenant.live == live && tenant.tokens == tokens,
                "{id:?} has lost count: {tenant:?}, {live} requests, {tokens} tokens"
            );
        }
        assert!(
            held.keys().all(|id| self.by_id.contains_key(id)),
            "a tenant in flight is forgotten"
        );
        let idle = self.by_id.values().filter(|tenant| tenant.live == 0);
        assert!(idle.count() == self.idle, "the idle tenants are miscounted");
        assert!(self.idle <= IDLE_MAX, "idle tenants without end");
        let tokens: u64 = self.by_id.values().map(|tenant| tenant.tokens).sum();
        assert!(tokens == self.tokens, "the waiting tokens are miscounted");
    }

    fn known(&mut self, id: TenantId) -> &mut Tenant {
        let Some(tenant) = self.by_id.get_mut(&id) else {
            unreachable!("{id:?} has a request and is not known");
        };
        tenant
    }

    /// Drops `id` if it is idle and nothing special, or else somebody who is, if there are too many.
    fn forget(&mut self, id: TenantId) {
        let tenant = self.of(id);
        if tenant.live > 0 {
            return;
        }
        if tenant.weight == Weight::ONE {
            self.by_id.remove(&id);
            self.idle -= 1;
        } else if self.idle > IDLE_MAX {
            let oldest = self.by_id.iter().find(|(_, tenant)| tenant.live == 0);
            if let Some((&oldest, _)) = oldest {
                self.by_id.remove(&oldest);
                self.idle -= 1;
            }
        }
    }
}
