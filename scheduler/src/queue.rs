//! Who is next: waiting requests by priority band, fairly between tenants, urgent ones first.
//!
//! Inside a band every tenant has an *account*: the tokens computed for it, with output tokens
//! counted double. The tenant with the smallest account is next; a tenant that comes back after
//! a pause starts at the band's level and cannot save up. Inside a tenant preempted requests come
//! first, then the more urgent, then the earlier.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::request::{Micros, Priority, TenantId};

/// What one output token costs, in prompt tokens.
pub(crate) const OUTPUT_WEIGHT: u64 = 2;

/// A request is overtaken by requests with earlier deadlines for this long at most.
pub(crate) const PATIENCE: Micros = Micros(30_000_000);

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

/// The order between accounts, smallest first.
type Turn = (Reverse<Priority>, u64, u64, AccountId);

#[derive(Debug)]
struct Account {
    priority: Priority,
    tenant: TenantId,
    /// What it consumed, lifted to the band's level when it comes back.
    counter: u64,
    /// Its requests, waiting or running.
    live: u32,
    waiting: BTreeMap<WaitKey, u32>,
    /// Under which it stands in `Queue::turns`. The counter in there may be too small.
    turn: Option<Turn>,
}

/// All waiting requests.
#[derive(Debug)]
pub(crate) struct Queue {
    accounts: Vec<Account>,
    free: Vec<AccountId>,
    names: BTreeMap<(Priority, TenantId), AccountId>,
    /// Accounts with somebody waiting.
    turns: BTreeSet<Turn>,
    /// Accounts without a request whose counter is above their band's level.
    idle: BTreeSet<(u64, AccountId)>,
    /// Where a newcomer's counter starts, per band.
    levels: [u64; 256],
    /// Accounts with somebody waiting, per band.
    backlogged: [u32; 256],
    waiting: u32,
}

impl Queue {
    /// An empty queue.
    pub(crate) fn new() -> Self {
        Self {
            accounts: Vec::new(),
            free: Vec::new(),
            names: BTreeMap::new(),
            turns: BTreeSet::new(),
            idle: BTreeSet::new(),
            levels: [0; 256],
            backlogged: [0; 256],
            waiting: 0,
        }
    }

    /// How many requests wait.
    pub(crate) fn waiting(&self) -> u32 {
        self.waiting
    }

    /// Finds or opens the account of a new request.
    pub(crate) fn join(&mut self, priority: Priority, tenant: TenantId) -> AccountId {
        let id = if let Some(&id) = self.names.get(&(priority, tenant)) {
            id
        } else {
            let account = Account {
                priority,
                tenant,
                counter: 0,
                live: 0,
                waiting: BTreeMap::new(),
                turn: None,
            };
            let id = self.open(account);
            self.names.insert((priority, tenant), id);
            id
        };
        let account = &mut self.accounts[id.0 as usize];
        if account.live == 0 {
            self.idle.remove(&(account.counter, id));
        }
        account.live += 1;
        id
    }

    /// A request of this account has ended.
    pub(crate) fn leave(&mut self, id: AccountId) {
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
        if account.counter <= self.levels[band(account.priority)] {
            self.close(id);
            return;
        }
        self.idle.insert((account.counter, id));
        if self.idle.len() > IDLE_MAX
            && let Some((_, id)) = self.idle.pop_first()
        {
            self.close(id);
        }
    }

    /// Adds a sequence to those that wait.
    pub(crate) fn push(&mut self, id: AccountId, key: WaitKey, sequence: u32) {
        let account = &mut self.accounts[id.0 as usize];
        if account.waiting.is_empty() {
            if key.fresh {
                account.counter = account.counter.max(self.levels[band(account.priority)]);
            }
            let turn = (Reverse(account.priority), account.counter, key.arrival, id);
            account.turn = Some(turn);
            self.turns.insert(turn);
            self.backlogged[band(account.priority)] += 1;
        }
        let before = account.waiting.insert(key, sequence);
        assert!(before.is_none(), "sequence {sequence} waits twice");
        self.waiting += 1;
    }

    /// Takes a sequence out.
    pub(crate) fn remove(&mut self, id: AccountId, key: WaitKey) {
        let account = &mut self.accounts[id.0 as usize];
        let removed = account.waiting.remove(&key);
        assert!(removed.is_some(), "a sequence that should wait does not");
        self.waiting -= 1;
        if account.waiting.is_empty()
            && let Some(turn) = account.turn.take()
        {
            self.turns.remove(&turn);
            self.backlogged[band(account.priority)] -= 1;
        }
    }

    /// The sequence whose turn it is.
    pub(crate) fn first(&mut self) -> Option<u32> {
        loop {
            let turn = *self.turns.first()?;
            let account = &mut self.accounts[turn.3.0 as usize];
            if account.counter == turn.1 {
                return account.waiting.values().next().copied();
            }
            // Its counter has grown since it took this turn: it queues up again.
            self.turns.pop_first();
            let turn = (turn.0, account.counter, turn.2, turn.3);
            account.turn = Some(turn);
            self.turns.insert(turn);
        }
    }

    /// A request of this account left the queue for the first time and will compute `tokens`.
    pub(crate) fn admitted(&mut self, id: AccountId, tokens: u64) {
        let account = &mut self.accounts[id.0 as usize];
        let band = band(account.priority);
        let backlogged = u64::from(self.backlogged[band].max(1));
        let level = &mut self.levels[band];
        // At least 1, so that no stream of newcomers keeps an old account waiting for ever.
        *level = account.counter.max(*level) + (tokens / backlogged).max(1);
        account.counter += tokens;
    }

    /// This account got one more output token.
    pub(crate) fn charge_output(&mut self, id: AccountId) {
        self.accounts[id.0 as usize].counter += OUTPUT_WEIGHT;
    }

    /// Checks the counts; `live` is how many sequences there are.
    pub(crate) fn check(&self, live: u32) {
        let waiting: usize = self.accounts.iter().map(|a| a.waiting.len()).sum();
        assert_eq!(waiting, self.waiting as usize, "the queue has lost count");
        let turns = self
            .accounts
            .iter()
            .filter(|a| !a.waiting.is_empty())
            .count();
        assert_eq!(turns, self.turns.len(), "an account waits without a turn");
        let backlogged: u32 = self.backlogged.iter().sum();
        assert_eq!(turns as u32, backlogged, "a band has lost count");
        let held: u32 = self
            .names
            .values()
            .map(|id| self.accounts[id.0 as usize].live)
            .sum();
        assert_eq!(held, live, "the accounts have lost count");
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

fn band(priority: Priority) -> usize {
    usize::from(priority.0.cast_unsigned())
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
                queue: Queue::new(),
                keys: BTreeMap::new(),
                arrivals: 0,
            }
        }

        fn submit(&mut self, sequence: u32, priority: i8, tenant: u32) {
            self.arrivals += 1;
            let account = self.queue.join(Priority(priority), TenantId(tenant));
            let key = WaitKey {
                fresh: true,
                urgency: PATIENCE,
                arrival: self.arrivals,
            };
            self.keys.insert(sequence, (account, key));
            self.queue.push(account, key, sequence);
        }

        /// Admits the next one at a cost of `tokens`, and ends it.
        fn serve(&mut self, tokens: u64) -> Option<u32> {
            let sequence = self.queue.first()?;
            let (account, key) = self.keys.remove(&sequence).unwrap();
            self.queue.remove(account, key);
            self.queue.admitted(account, tokens);
            self.queue.leave(account);
            self.queue.check(self.keys.len() as u32);
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
        let mut got = [0_u64; 3];
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
