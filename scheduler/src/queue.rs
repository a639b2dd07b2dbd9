//! Who is next: waiting requests by priority band, fairly between tenants, urgent ones first.
//!
//! **Bands.** The highest band with somebody waiting is next, unless a lower one is overdue: while it
//! waited, higher bands were given [`Policy::band_patience`] of work. Then it is its turn once, the
//! most overdue band first. So while a band waits, bands above it are admitted at most
//! `band_patience` of work and the dearest request of each of them besides.
//!
//! **Tenants.** Inside a band every tenant has an *account*: the work done for it at
//! [`Policy::prices`], divided by its weight. The tenant with the smallest account is next. A tenant
//! that comes back after a pause is lifted to the band's level and has saved nothing up. The bound
//! (of virtual token counters, arXiv 2401.00588, with weights): let *I* be the most a tenant's prompt
//! cost, less what the cache held; *O* the cost of the outputs that its sequences which run at one
//! moment still bring; *w* the least weight; and *U = (I + O) / w*. Then two accounts with somebody
//! waiting are never further apart than *U*, and over any time in which both always had somebody
//! waiting, what they got, each divided by its weight, differs by at most *2 U*. Text computed again
//! after a preemption costs nothing. Why: whoever is served was the smallest, and gets no more than
//! *I + O* until he is the smallest again; nobody who waits is below the band's floor, and nobody
//! starts further above the smallest than *I / w*.
//!
//! **Inside a tenant** preempted requests come first, then the more urgent, then the earlier. A
//! request without a deadline is as urgent as one whose deadline is [`Policy::patience`] after its
//! arrival: who arrives later than that never overtakes it.
//!
//! What is next never waits while there is room for it: the order decides who, not whether.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::forecast::Ahead;
use crate::policy::{Policy, Weight};
use crate::request::{Micros, Priority, Reject, TenantId};

use self::band::{Band, Turn};
use self::meter::Meter;
use self::tenants::Tenants;

mod band;
mod meter;
mod tenants;

/// Accounts kept for tenants that have no request here at the moment.
const IDLE_MAX: usize = 1024;

/// Names one tenant in one priority band.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AccountId(u32);

/// The order inside a tenant, smallest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WaitKey {
    /// Whether it never ran: those that did go first.
    pub(crate) fresh: bool,
    /// The deadline, or when patience ends, whichever is earlier.
    pub(crate) urgency: Micros,
    /// The number of its submission.
    pub(crate) arrival: u64,
}

/// Who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiter {
    /// Its index among the sequences.
    pub(crate) sequence: u32,
    /// What it has to compute, if the cache holds nothing of it.
    pub(crate) tokens: u32,
}

#[derive(Debug)]
struct Account {
    priority: Priority,
    tenant: TenantId,
    meter: Meter,
    /// Its requests, waiting or running.
    live: u32,
    waiting: BTreeMap<WaitKey, Waiter>,
    /// What they have to compute.
    tokens: u64,
    /// Under which it stands in its band. The counter in there may be too small.
    turn: Option<Turn>,
}

/// All waiting requests.
#[derive(Debug)]
pub(crate) struct Queue {
    policy: Policy,
    accounts: Vec<Account>,
    free: Vec<AccountId>,
    names: BTreeMap<(Priority, TenantId), AccountId>,
    bands: BTreeMap<Reverse<Priority>, Band>,
    tenants: Tenants,
    /// Accounts without a request whose counter is above their band's level.
    idle: BTreeSet<(u64, AccountId)>,
    /// Accounts with outputs that are not settled.
    unsettled: Vec<AccountId>,
    waiting: u32,
}

impl Queue {
    /// An empty queue.
    pub(crate) fn new(policy: Policy) -> Self {
        Self {
            policy,
            accounts: Vec::new(),
            free: Vec::new(),
            names: BTreeMap::new(),
            bands: BTreeMap::new(),
            tenants: Tenants::default(),
            idle: BTreeSet::new(),
            unsettled: Vec::new(),
            waiting: 0,
        }
    }

    /// How many requests wait.
    pub(crate) fn waiting(&self) -> u32 {
        self.waiting
    }

    /// Why there is no room for another request with so much to compute, if there is none.
    pub(crate) fn refuses(&self, tenant: TenantId, tokens: u32) -> Option<Reject> {
        self.tenants.refuses(tenant, tokens, self.policy.shares)
    }

    /// A tenant counts with this weight from now on, in all bands.
    pub(crate) fn weigh(&mut self, tenant: TenantId, weight: Weight) {
        if self.tenants.of(tenant).weight == weight {
            return;
        }
        self.settle();
        self.tenants.weigh(tenant, weight);
        for account in self.accounts.iter_mut().filter(|a| a.tenant == tenant) {
            let before = u64::from(account.meter.weight().get());
            account.meter.set_weight(weight);
            if account.turn.is_some()
                && let Some(band) = self.bands.get_mut(&Reverse(account.priority))
            {
                band.weights = band.weights - before + u64::from(weight.get());
            }
        }
    }

    /// What the order puts before a new request.
    pub(crate) fn ahead(&mut self, priority: Priority, tenant: TenantId) -> Ahead {
        self.settle();
        let next = self.peek(priority);
        let input = u64::from(self.policy.prices.input.get());
        let mut ahead = Ahead::default();
        let mut add = |account: &Account, tokens: u64| {
            let tokens = tokens.min(account.tokens);
            let requests = account.waiting.len() as u64;
            ahead.tokens += tokens;
            ahead.requests += (tokens * requests).div_ceil(account.tokens.max(1));
        };
        let own = self.names.get(&(priority, tenant));
        let own = own.map(|id| &self.accounts[id.0 as usize]);
        let start = self.bands.get_mut(&Reverse(priority));
        let start = start.map_or(0, |band| band.start(next));
        let counter = own.map_or(start, |own| {
            let counter = own.meter.counter();
            add(own, own.tokens);
            let waits = own.turn.is_some();
            let counter = if waits { counter } else { counter.max(start) };
            counter + own.meter.scaled(own.tokens * input)
        });
        for (&Reverse(above), band) in self.bands.range(..=Reverse(priority)) {
            for &(_, _, id) in &band.turns {
                let account = &self.accounts[id.0 as usize];
                if above > priority {
                    add(account, account.tokens);
                } else if account.tenant != tenant {
                    let lead = counter.saturating_sub(account.meter.counter());
                    // Whoever is level has one request more.
                    let one = account.tokens.div_ceil(account.waiting.len() as u64);
                    add(account, account.meter.cost_of(lead) / input + one);
                }
            }
        }
        ahead
    }

    /// Finds or opens the account of a new request.
    pub(crate) fn join(&mut self, priority: Priority, tenant: TenantId) -> AccountId {
        self.tenants.enter(tenant);
        let id = if let Some(&id) = self.names.get(&(priority, tenant)) {
            id
        } else {
            let account = Account {
                priority,
                tenant,
                meter: Meter::new(self.tenants.of(tenant).weight),
                live: 0,
                waiting: BTreeMap::new(),
                tokens: 0,
                turn: None,
            };
            let id = self.open(account);
            self.names.insert((priority, tenant), id);
            id
        };
        let weight = self.tenants.of(tenant).weight;
        let account = &mut self.accounts[id.0 as usize];
        if account.live == 0 {
            self.idle.remove(&(account.meter.counter(), id));
            // Its tenant may have been forgotten meanwhile, and its weight with it.
            account.meter.set_weight(weight);
        }
        account.live += 1;
        id
    }

    /// A request of this account has ended.
    pub(crate) fn leave(&mut self, id: AccountId) {
        self.tenants.leave(self.accounts[id.0 as usize].tenant);
        let account = &mut self.accounts[id.0 as usize];
        assert!(
            account.live > 0,
            "an account loses a request it does not have"
        );
        account.live -= 1;
        if account.live > 0 {
            return;
        }
        assert!(account.turn.is_none(), "an account without requests waits");
        self.settle_one(id);
        let account = &self.accounts[id.0 as usize];
        let counter = account.meter.counter();
        let band = self.bands.get(&Reverse(account.priority));
        if band.is_none_or(|band| band.forgets(counter)) {
            self.close(id);
            return;
        }
        self.idle.insert((counter, id));
        if self.idle.len() > IDLE_MAX
            && let Some((_, id)) = self.idle.pop_first()
        {
            self.close(id);
        }
    }

    /// Adds a sequence to those that wait.
    pub(crate) fn push(&mut self, id: AccountId, key: WaitKey, waiter: Waiter) {
        self.settle();
        let account = &self.accounts[id.0 as usize];
        let (priority, tenant) = (account.priority, account.tenant);
        if account.waiting.is_empty() {
            let next = self.peek(priority);
            let above = self.served_above(priority);
            let band = self.bands.entry(Reverse(priority)).or_default();
            let account = &mut self.accounts[id.0 as usize];
            let start = if key.fresh {
                band.start(next)
            } else {
                band.floor()
            };
            account.meter.lift(start);
            if band.turns.is_empty() {
                band.mark = above;
            }
            let turn = (account.meter.counter(), key.arrival, id);
            account.turn = Some(turn);
            band.turns.insert(turn);
            band.weights += u64::from(account.meter.weight().get());
        }
        let account = &mut self.accounts[id.0 as usize];
        account.tokens += u64::from(waiter.tokens);
        let before = account.waiting.insert(key, waiter);
        assert!(before.is_none(), "{waiter:?} waits twice");
        self.tenants.wait(tenant, share(key, waiter));
        self.waiting += 1;
    }

    /// Takes a sequence out that goes nowhere.
    pub(crate) fn remove(&mut self, id: AccountId, key: WaitKey) {
        let account = &mut self.accounts[id.0 as usize];
        let Some(waiter) = account.waiting.remove(&key) else {
            unreachable!("a sequence that should wait does not");
        };
        account.tokens -= u64::from(waiter.tokens);
        self.tenants.go(account.tenant, share(key, waiter));
        self.waiting -= 1;
        if account.waiting.is_empty()
            && let Some(turn) = account.turn.take()
            && let Some(band) = self.bands.get_mut(&Reverse(account.priority))
        {
            band.turns.remove(&turn);
            band.weights -= u64::from(account.meter.weight().get());
        }
    }

    /// The sequence whose turn it is.
    pub(crate) fn first(&mut self) -> Option<u32> {
        if self.waiting == 0 {
            return None;
        }
        self.settle();
        let priority = self.next_band()?;
        let (_, _, id) = self.top(priority)?;
        let waiter = self.accounts[id.0 as usize].waiting.values().next();
        waiter.map(|waiter| waiter.sequence)
    }

    /// The sequence that [`Queue::first`] named leaves the queue and will compute `tokens` that its
    /// tenant has not paid.
    pub(crate) fn admit(&mut self, id: AccountId, key: WaitKey, tokens: u32) {
        let account = &self.accounts[id.0 as usize];
        let priority = account.priority;
        let cost = u64::from(tokens) * u64::from(self.policy.prices.input.get());
        let above = self.served_above(priority);
        let Some(band) = self.bands.get_mut(&Reverse(priority)) else {
            unreachable!("somebody waits in a band that is not there");
        };
        band.mark = above;
        band.serve(&account.meter, cost);
        self.accounts[id.0 as usize].meter.charge(cost);
        self.remove(id, key);
    }

    /// This account got one more output token.
    #[inline]
    pub(crate) fn charge_output(&mut self, id: AccountId) {
        if self.accounts[id.0 as usize].meter.note_output() {
            self.unsettled.push(id);
        }
    }

    /// Checks the counts; `live` is how many sequences there are.
    pub(crate) fn check(&self, live: u32) {
        let mut held: BTreeMap<TenantId, (u32, u64)> = BTreeMap::new();
        let mut waiting = 0;
        for (&(priority, tenant), &id) in &self.names {
            let account = &self.accounts[id.0 as usize];
            assert!(
                (account.priority, account.tenant) == (priority, tenant),
                "an account has another's name"
            );
            assert!(
                account.waiting.is_empty() == account.turn.is_none(),
                "an account waits without a turn"
            );
            let tenant_weight = self.tenants.of(tenant).weight;
            assert!(
                account.live == 0 || account.meter.weight() == tenant_weight,
                "{tenant:?} counts with another weight"
            );
            let to_compute: u64 = account.waiting.values().map(|w| u64::from(w.tokens)).sum();
            assert!(
                account.tokens == to_compute,
                "an account has lost count of its tokens"
            );
            let waiting_here = account.waiting.iter();
            let tokens = waiting_here.map(|(&key, &waiter)| u64::from(share(key, waiter)));
            if account.live > 0 {
                let of_tenant = held.entry(tenant).or_default();
                of_tenant.0 += account.live;
                of_tenant.1 += tokens.sum::<u64>();
            }
            waiting += account.waiting.len();
        }
        assert!(waiting == self.waiting as usize, "the queue has lost count");
        let of_all: u32 = held.values().map(|&(live, _)| live).sum();
        assert!(of_all == live, "the accounts have lost count");
        self.tenants.check(&held);
        self.check_bands();
    }

    /// Every turn is somebody's, and nobody who waits is below the floor.
    fn check_bands(&self) {
        let mut turns = 0;
        for (&Reverse(priority), band) in &self.bands {
            let mut weights = 0;
            for turn in &band.turns {
                let account = &self.accounts[turn.2.0 as usize];
                assert!(
                    account.turn == Some(*turn) && account.priority == priority,
                    "a turn is nobody's"
                );
                let counter = account.meter.counter();
                assert!(
                    turn.0 <= counter && counter >= band.floor(),
                    "an account is below the floor of its band"
                );
                weights += u64::from(account.meter.weight().get());
            }
            assert!(weights == band.weights, "a band has lost count");
            turns += band.turns.len();
        }
        let waiting = self.names.values().filter(|id| {
            let account = &self.accounts[id.0 as usize];
            account.turn.is_some()
        });
        assert!(waiting.count() == turns, "a turn is lost");
        let noted = self.accounts.iter().filter(|a| a.meter.unsettled() > 0);
        assert!(
            noted.count() <= self.unsettled.len(),
            "outputs are noted that nobody will settle"
        );
    }

    /// The highest band in which somebody waits, or the most overdue one.
    fn next_band(&self) -> Option<Priority> {
        let mut served_above = 0;
        let (mut next, mut overdue) = (None, self.policy.band_patience);
        for (&Reverse(priority), band) in &self.bands {
            if !band.turns.is_empty() {
                let passed_over = served_above - band.mark;
                if next.is_none() {
                    next = Some(priority);
                } else if passed_over >= overdue {
                    next = Some(priority);
                    overdue = passed_over + 1;
                }
            }
            served_above += band.served;
        }
        next
    }

    /// What bands above this one have been given.
    fn served_above(&self, priority: Priority) -> u64 {
        let above = self.bands.range(..Reverse(priority));
        above.map(|(_, band)| band.served).sum()
    }

    /// The true counter of whoever is next in a band.
    fn peek(&mut self, priority: Priority) -> Option<u64> {
        self.top(priority).map(|(counter, _, _)| counter)
    }

    /// Whose turn it is in a band.
    fn top(&mut self, priority: Priority) -> Option<Turn> {
        let band = self.bands.get_mut(&Reverse(priority))?;
        loop {
            let turn = *band.turns.first()?;
            let account = &mut self.accounts[turn.2.0 as usize];
            let counter = account.meter.counter();
            if counter == turn.0 {
                return Some(turn);
            }
            // Its counter has grown since it took this turn: it queues up again.
            band.turns.pop_first();
            let turn = (counter, turn.1, turn.2);
            account.turn = Some(turn);
            band.turns.insert(turn);
        }
    }

    /// Brings every counter up to date.
    fn settle(&mut self) {
        while let Some(id) = self.unsettled.pop() {
            self.settle_one(id);
        }
    }

    fn settle_one(&mut self, id: AccountId) {
        let account = &mut self.accounts[id.0 as usize];
        let cost = account.meter.settle(self.policy.prices);
        if cost > 0
            && let Some(band) = self.bands.get_mut(&Reverse(account.priority))
        {
            band.served += cost;
        }
    }

    fn open(&mut self, account: Account) -> AccountId {
        if let Some(id) = self.free.pop() {
            self.accounts[id.0 as usize] = account;
            id
        } else {
            self.accounts.push(account);
            AccountId(self.accounts.len() as u32 - 1)
        }
    }

    fn close(&mut self, id: AccountId) {
        let account = &self.accounts[id.0 as usize];
        assert!(
            account.live == 0 && account.waiting.is_empty(),
            "an account in use is closed"
        );
        self.names.remove(&(account.priority, account.tenant));
        self.free.push(id);
    }
}
/// What a waiter takes of its tenant's share: who has run before was let in long ago.
fn share(key: WaitKey, waiter: Waiter) -> u32 {
    if key.fresh { waiter.tokens } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A queue, and what each sequence in it needs to leave it.
    struct Line {
        queue: Queue,
        keys: BTreeMap<u32, (AccountId, WaitKey)>,
        arrivals: u64,
    }

    impl Line {
        fn new() -> Self {
            Self {
                queue: Queue::new(Policy::default()),
                keys: BTreeMap::new(),
                arrivals: 0,
            }
        }

        fn submit(&mut self, sequence: u32, priority: i8, tenant: u32) {
            self.arrivals += 1;
            let account = self.queue.join(Priority(priority), TenantId(tenant));
            let key = WaitKey {
                fresh: true,
                urgency: Micros(0),
                arrival: self.arrivals,
            };
            self.keys.insert(sequence, (account, key));
            let waiter = Waiter {
                sequence,
                tokens: 1,
            };
            self.queue.push(account, key, waiter);
        }

        /// Admits the next one at a cost of `tokens`, and ends it.
        fn serve(&mut self, tokens: u32) -> Option<u32> {
            let sequence = self.queue.first()?;
            let (account, key) = self.keys.remove(&sequence).unwrap();
            self.queue.admit(account, key, tokens);
            self.queue.leave(account);
            if self.arrivals < 200 || self.arrivals.is_multiple_of(64) {
                self.queue.check(self.keys.len() as u32);
            }
            Some(sequence)
        }
    }

    #[test]
    fn a_flood_of_one_tenant_does_not_delay_another() {
        let mut line = Line::new();
        for sequence in 0..100 {
            line.submit(sequence, 0, 1);
        }
        for _ in 0..10 {
            line.serve(50);
        }
        line.submit(1000, 0, 2);
        line.submit(1001, 0, 2);
        let served: Vec<_> = (0..5).filter_map(|_| line.serve(50)).collect();
        assert!(
            served.contains(&1000) && served.contains(&1001),
            "{served:?}"
        );
    }

    #[test]
    fn backlogged_tenants_get_equal_tokens() {
        let mut line = Line::new();
        let costs = [0, 10, 70];
        for sequence in 0..2000 {
            line.submit(sequence, 0, 1 + sequence % 2);
        }
        let mut got = [0_u32; 3];
        for _ in 0..800 {
            let next = line.queue.first().unwrap();
            let tenant = 1 + next as usize % 2;
            got[tenant] += costs[tenant];
            line.serve(costs[tenant]);
            let gap = got[1].abs_diff(got[2]);
            assert!(gap <= 2 * 70, "tenants are {gap} tokens apart: {got:?}");
        }
    }

    #[test]
    fn a_pause_saves_nothing_up() {
        let mut line = Line::new();
        for sequence in 0..50 {
            line.submit(sequence, 0, 1);
        }
        for _ in 0..40 {
            line.serve(100);
        }
        for sequence in 100..150 {
            line.submit(sequence, 0, 2);
        }
        let served: Vec<_> = (0..10).filter_map(|_| line.serve(100)).collect();
        let newcomers = served.iter().filter(|&&sequence| sequence >= 100).count();
        assert!((4..=6).contains(&newcomers), "{served:?}");
    }

    #[test]
    fn who_waits_in_another_band_does_not_change_the_shares() {
        let costs = |others: u32| {
            let mut line = Line::new();
            for sequence in 0..20 {
                line.submit(sequence, 1, 1);
            }
            for tenant in 0..others {
                line.submit(1000 + tenant, 0, 10 + tenant);
            }
            for _ in 0..10 {
                line.serve(100);
            }
            // A newcomer starts where tenant 1 stands.
            line.submit(100, 1, 2);
            line.submit(101, 1, 2);
            (0..4).filter_map(|_| line.serve(100)).collect::<Vec<_>>()
        };
        assert_eq!(costs(50), costs(0));
    }

    #[test]
    fn newcomers_without_end_do_not_starve_an_old_account() {
        let mut line = Line::new();
        line.submit(0, 0, 1);
        line.submit(1, 0, 2);
        line.serve(1_000);
        line.serve(1);
        // Tenant 1 has used much; from now on there is always a tenant that has used nothing.
        line.submit(2, 0, 1);
        for newcomer in 3..3000 {
            line.submit(newcomer, 0, newcomer);
            line.submit(newcomer + 10_000, 0, newcomer + 10_000);
            if line.serve(10) == Some(2) {
                return;
            }
        }
        panic!("tenant 1 starves");
    }

    #[test]
    fn idle_accounts_are_bounded() {
        let mut line = Line::new();
        for tenant in 0..3 * IDLE_MAX as u32 {
            line.submit(tenant, 0, tenant);
            let (account, _) = line.keys[&tenant];
            line.queue.charge_output(account);
            line.serve(1);
        }
        assert!(line.queue.names.len() <= IDLE_MAX + 1);
        assert!(line.queue.accounts.len() <= IDLE_MAX + 2);
    }
}
