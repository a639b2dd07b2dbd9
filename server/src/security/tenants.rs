//! Tenants: what each may use, and what it has used. They outlive the keys file they stand in, so
//! that reading it again forgives nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::{SharedString, counter};

use super::bucket::Bucket;
use crate::metrics::{TENANT_REFUSALS, TENANT_TOKENS};

/// Tenants with series of their own; further ones are `other`.
const LABELS_MAX: usize = 64;
/// Tenants that no keys file lists and whose usage is remembered one by one; further ones share.
const GUESTS_MAX: usize = 4096;
/// The name of those that share.
const OTHERS: &str = "other";

/// What a tenant may use; `None` is as much as there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Tokens of prompts and outputs together.
    pub tokens_per_minute: Option<NonZeroU64>,
    /// Calls, and requests of streams.
    pub requests_per_minute: Option<NonZeroU64>,
    /// Calls at once.
    pub concurrent: Option<NonZeroU32>,
}

/// Tokens of which kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tokens {
    /// They came in.
    Prompt,
    /// They went out.
    Generated,
}

impl Tokens {
    /// The word for it in metrics.
    fn label(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::Generated => "generated",
        }
    }
}

/// The words for the quotas in metrics and errors.
const CONCURRENT: &str = "concurrent";
const TOKENS_PER_MINUTE: &str = "tokens_per_minute";
const REQUESTS_PER_MINUTE: &str = "requests_per_minute";

/// What a tenant used up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exceeded {
    /// Whose.
    pub(crate) tenant: String,
    /// What.
    pub(crate) quota: &'static str,
    /// How much there is of it.
    pub(crate) limit: u64,
    /// When there is more; `None` when one of its own calls has ended.
    pub(crate) wait: Option<Duration>,
}

/// One tenant.
#[derive(Debug)]
pub struct Tenant {
    name: String,
    label: SharedString,
    usage: Mutex<Usage>,
}

#[derive(Debug, Default)]
struct Usage {
    tokens: Option<Bucket>,
    requests: Option<Bucket>,
    running: u32,
    quota: Quota,
}

/// One of a tenant's calls at once, until it is dropped.
#[derive(Debug)]
pub(crate) struct Slot(Arc<Tenant>);

impl Tenant {
    /// A tenant that has used nothing; its series begin at 0.
    fn new(name: &str, label: &str, quota: Quota, now: Duration) -> Arc<Self> {
        let label = SharedString::from(label.to_owned());
        for kind in [Tokens::Prompt, Tokens::Generated].map(Tokens::label) {
            counter!(TENANT_TOKENS, "tenant" => label.clone(), "kind" => kind).absolute(0);
        }
        for quota in [CONCURRENT, TOKENS_PER_MINUTE, REQUESTS_PER_MINUTE] {
            counter!(TENANT_REFUSALS, "tenant" => label.clone(), "quota" => quota).absolute(0);
        }
        let tenant = Self {
            name: name.to_owned(),
            label,
            usage: Mutex::default(),
        };
        tenant.set_quota(quota, now);
        Arc::new(tenant)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Begins a request, or says what there is not enough of. It pays for its tokens as they become
    /// known: whoever has any left may ask, and owes what it takes beyond that.
    pub(crate) fn admit(self: &Arc<Self>, now: Duration) -> Result<Slot, Exceeded> {
        let mut usage = self.usage();
        let quota = usage.quota;
        if let Some(most) = quota.concurrent
            && usage.running >= most.get()
        {
            return Err(self.exceeded(CONCURRENT, most.into(), None));
        }
        for (word, limit, bucket) in [
            (TOKENS_PER_MINUTE, quota.tokens_per_minute, usage.tokens),
            (
                REQUESTS_PER_MINUTE,
                quota.requests_per_minute,
                usage.requests,
            ),
        ] {
            let (Some(limit), Some(mut bucket)) = (limit, bucket) else {
                continue;
            };
            let wait = bucket.wait(1, now);
            if !wait.is_zero() {
                return Err(self.exceeded(word, limit, Some(wait)));
            }
        }
        if let Some(requests) = &mut usage.requests {
            requests.charge(1, now);
        }
        usage.running += 1;
        drop(usage);
        Ok(Slot(Arc::clone(self)))
    }

    /// Takes tokens off what it has.
    pub(crate) fn charge(&self, kind: Tokens, count: u64, now: Duration) {
        let tenant = self.label.clone();
        counter!(TENANT_TOKENS, "tenant" => tenant, "kind" => kind.label()).increment(count);
        if let Some(tokens) = &mut self.usage().tokens {
            tokens.charge(count, now);
        }
    }

    fn exceeded(&self, quota: &'static str, limit: NonZeroU64, wait: Option<Duration>) -> Exceeded {
        let tenant = self.label.clone();
        counter!(TENANT_REFUSALS, "tenant" => tenant, "quota" => quota).increment(1);
        Exceeded {
            tenant: self.name.clone(),
            quota,
            limit: limit.get(),
            wait,
        }
    }

    fn set_quota(&self, quota: Quota, now: Duration) {
        let mut usage = self.usage();
        usage.quota = quota;
        let Usage {
            tokens, requests, ..
        } = &mut *usage;
        for (bucket, rate) in [
            (tokens, quota.tokens_per_minute),
            (requests, quota.requests_per_minute),
        ] {
            match (&mut *bucket, rate) {
                (Some(bucket), Some(rate)) => bucket.set_rate(rate, now),
                (None, Some(rate)) => *bucket = Some(Bucket::new(rate, now)),
                (_, None) => *bucket = None,
            }
        }
    }

    /// Whether to forget it forgives nothing.
    fn is_clear(&self, now: Duration) -> bool {
        let mut usage = self.usage();
        let Usage {
            tokens,
            requests,
            running,
            ..
        } = &mut *usage;
        let full = |bucket: &mut Option<Bucket>| bucket.as_mut().is_none_or(|b| b.is_full(now));
        *running == 0 && full(tokens) && full(requests)
    }

    fn usage(&self) -> MutexGuard<'_, Usage> {
        // Nothing that can panic is done while it is locked.
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut usage = self.0.usage();
        usage.running = usage.running.saturating_sub(1);
    }
}

/// All tenants: those that a keys file lists or gives a key, and guests that others speak for.
#[derive(Debug, Default)]
pub(super) struct Tenants {
    table: Mutex<Table>,
    /// What each guest may use.
    guest_quota: Quota,
}

#[derive(Debug, Default)]
struct Table {
    by_name: BTreeMap<String, Arc<Tenant>>,
    guests: BTreeMap<String, Arc<Tenant>>,
    /// Stands for the guests beyond [`GUESTS_MAX`].
    others: Option<Arc<Tenant>>,
    /// Names that have series, for series are never forgotten.
    labels: BTreeSet<String>,
}

impl Tenants {
    /// No tenants yet; guests may use this.
    pub(super) fn new(guest_quota: Quota) -> Self {
        Self {
            table: Mutex::default(),
            guest_quota,
        }
    }

    /// The tenants that there are now, with what each may use. Others are forgotten once nothing of
    /// theirs runs.
    pub(super) fn renew(&self, quotas: &BTreeMap<String, Quota>, now: Duration) {
        let mut table = self.table();
        let Table {
            by_name,
            guests,
            labels,
            ..
        } = &mut *table;
        by_name.retain(|name, tenant| quotas.contains_key(name) || Arc::strong_count(tenant) > 1);
        for (name, quota) in quotas {
            if labels.len() < LABELS_MAX {
                labels.insert(name.clone());
            }
            let known = by_name.get(name).cloned();
            let tenant = known.or_else(|| guests.remove(name)).unwrap_or_else(|| {
                let labelled = labels.contains(name);
                let label = if labelled { name.as_str() } else { OTHERS };
                Tenant::new(name, label, *quota, now)
            });
            tenant.set_quota(*quota, now);
            by_name.insert(name.clone(), tenant);
        }
    }

    /// The tenant of a name that a key has.
    pub(super) fn get(&self, name: &str) -> Option<Arc<Tenant>> {
        self.table().by_name.get(name).cloned()
    }

    /// Where the usage of a name that was spoken for is counted; nowhere while guests have no quota.
    pub(super) fn account(&self, name: &str, now: Duration) -> Option<Arc<Tenant>> {
        let mut table = self.table();
        if let Some(tenant) = table.by_name.get(name) {
            return Some(Arc::clone(tenant));
        }
        let quota = self.guest_quota;
        if quota == Quota::default() {
            return None;
        }
        if let Some(guest) = table.guests.get(name) {
            return Some(Arc::clone(guest));
        }
        if table.guests.len() >= GUESTS_MAX {
            let used = |guest: &Arc<Tenant>| Arc::strong_count(guest) > 1 || !guest.is_clear(now);
            table.guests.retain(|_, guest| used(guest));
        }
        let table = &mut *table;
        if table.guests.len() >= GUESTS_MAX {
            let others = table
                .others
                .get_or_insert_with(|| Tenant::new(OTHERS, OTHERS, quota, now));
            return Some(Arc::clone(others));
        }
        let guest = Tenant::new(name, OTHERS, quota, now);
        table.guests.insert(name.to_owned(), Arc::clone(&guest));
        Some(guest)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::ZERO;

    fn quota(tokens: u64, requests: u64, concurrent: u32) -> Quota {
        Quota {
            tokens_per_minute: NonZeroU64::new(tokens),
            requests_per_minute: NonZeroU64::new(requests),
            concurrent: NonZeroU32::new(concurrent),
        }
    }

    fn with(quota: Quota) -> (Tenants, Arc<Tenant>) {
        let tenants = Tenants::default();
        tenants.renew(&[("a".to_owned(), quota)].into(), START);
        let tenant = tenants.get("a").unwrap();
        (tenants, tenant)
    }

    #[test]
    fn calls_at_once_are_counted_until_they_end() {
        let (_tenants, tenant) = with(quota(0, 0, 2));
        let first = tenant.admit(START).unwrap();
        let _second = tenant.admit(START).unwrap();
        let exceeded = tenant.admit(START).unwrap_err();
        assert_eq!(
            (exceeded.quota, exceeded.limit, exceeded.wait),
            ("concurrent", 2, None)
        );
        drop(first);
        tenant.admit(START).unwrap();
    }

    #[test]
    fn tokens_are_paid_when_they_are_known() {
        let (_tenants, tenant) = with(quota(60, 0, 0));
        let _slot = tenant.admit(START).unwrap();
        tenant.charge(Tokens::Prompt, 50, START);
        tenant.admit(START).unwrap();
        tenant.charge(Tokens::Generated, 40, START);
        let exceeded = tenant.admit(START).unwrap_err();
        assert_eq!(
            (exceeded.quota, exceeded.limit, exceeded.wait),
            ("tokens_per_minute", 60, Some(Duration::from_secs(31)))
        );
        tenant.admit(Duration::from_secs(31)).unwrap();
    }

    #[test]
    fn a_refused_request_costs_nothing() {
        let (_tenants, tenant) = with(quota(0, 2, 1));
        let slot = tenant.admit(START).unwrap();
        for _ in 0..10 {
            assert_eq!(tenant.admit(START).unwrap_err().quota, "concurrent");
        }
        drop(slot);
        drop(tenant.admit(START).unwrap());
        let exceeded = tenant.admit(START).unwrap_err();
        assert_eq!(exceeded.quota, "requests_per_minute");
        assert_eq!(exceeded.wait, Some(Duration::from_secs(30)));
    }

    #[test]
    fn reading_the_quotas_again_forgives_nothing() {
        let (tenants, tenant) = with(quota(60, 0, 0));
        tenant.charge(Tokens::Prompt, 120, START);
        let same = [("a".to_owned(), quota(60, 0, 0))].into();
        tenants.renew(&same, START);
        tenant.admit(START).unwrap_err();
        let free = [("a".to_owned(), Quota::default())].into();
        tenants.renew(&free, START);
        tenant.admit(START).unwrap();
    }

    #[test]
    fn series_are_bounded_whatever_names_come_and_go() {
        let tenants = Tenants::default();
        for number in 0..3 * LABELS_MAX {
            let name = format!("tenant {number}");
            let named = [(name.clone(), Quota::default())].into();
            tenants.renew(&named, START);
            let label = tenants.get(&name).unwrap().label.clone();
            let expected = if number < LABELS_MAX { &name } else { "other" };
            assert_eq!(label, SharedString::from(expected.to_owned()));
        }
    }

    #[test]
    fn tenants_that_are_gone_are_forgotten() {
        let (tenants, tenant) = with(Quota::default());
        tenants.renew(&BTreeMap::new(), START);
        assert!(tenants.get("a").is_some(), "something of it runs");
        drop(tenant);
        tenants.renew(&BTreeMap::new(), START);
        assert!(tenants.get("a").is_none());
    }

    #[test]
    fn guests_have_a_quota_each_or_none() {
        let tenants = Tenants::new(quota(0, 1, 0));
        let guest = |name| tenants.account(name, START).unwrap();
        guest("a").admit(START).unwrap();
        assert_eq!(guest("a").admit(START).unwrap_err().tenant, "a");
        guest("b").admit(START).unwrap();
        assert!(tenants.get("a").is_none(), "no key is a guest's");
        assert!(Tenants::new(Quota::default()).account("a", START).is_none());
    }

    #[test]
    fn a_guest_that_is_listed_keeps_what_it_owes() {
        let tenants = Tenants::new(quota(60, 0, 0));
        let guest = tenants.account("a", START).unwrap();
        guest.charge(Tokens::Prompt, 120, START);
        let listed = [("a".to_owned(), quota(60, 0, 0))].into();
        tenants.renew(&listed, START);
        let tenant = tenants.account("a", START).unwrap();
        assert!(Arc::ptr_eq(&tenant, &guest));
        tenant.admit(START).unwrap_err();
    }

    #[test]
    fn names_without_end_are_not_remembered_without_end() {
        let tenants = Tenants::new(quota(0, 1, 0));
        let use_up = |name: &str, now| {
            let guest = tenants.account(name, now).unwrap();
            guest.admit(now).map(drop)
        };
        for number in 0..GUESTS_MAX {
            use_up(&format!("guest {number}"), START).unwrap();
        }
        // Those beyond have one quota together, and nobody's usage was forgotten for them.
        use_up("one more", START).unwrap();
        assert_eq!(use_up("another", START).unwrap_err().tenant, OTHERS);
        use_up("guest 0", START).unwrap_err();
        let later = Duration::from_mins(2);
        use_up("another", later).unwrap();
        assert_eq!(tenants.table().guests.len(), 1, "nobody else used anything");
    }
}
