//! Which replica a request goes to, and what the router knows of them.
//!
//! Replicas report their load every `period`; between two reports a gateway knows what it sent
//! itself, and which of that has ended. With a period of 0 it always knows all. Several gateways
//! share the arrivals in turn and tell each other nothing.

use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;

use crate::text::mix;
use crate::workload::Offer;

/// How a replica is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Routing {
    /// One after the other.
    RoundRobin,
    /// Any.
    Random,
    /// The one with the fewest requests.
    LeastRequests,
    /// The one with the fewest prompt tokens of requests that have not ended.
    LeastTokens,
    /// Of two drawn, the one with fewer requests.
    PowerOfTwo,
    /// Always the same for a shared beginning, unless it has --load-bound times the mean load.
    PrefixAffinity,
    /// Always the same for a conversation, with the same bound.
    SessionAffinity,
}

/// What a router is.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// How it chooses.
    pub routing: Routing,
    /// Nanoseconds between two reports of a replica; 0: it knows all at once.
    pub period: u64,
    /// How many there are that do not know of each other.
    pub gateways: u32,
    /// Affinity passes over who has more than this many times the mean load.
    pub load_bound: f64,
    /// Where draws come from.
    pub seed: u64,
}

/// Requests and prompt tokens that have not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) requests: i64,
    pub(crate) tokens: i64,
}

impl Load {
    fn add(&mut self, tokens: u32) {
        self.requests += 1;
        self.tokens += i64::from(tokens);
    }

    fn subtract(&mut self, tokens: u32) {
        self.requests -= 1;
        self.tokens -= i64::from(tokens);
    }
}

/// All gateways.
#[derive(Debug)]
pub(crate) struct Router {
    rules: Rules,
    /// What is.
    loads: Vec<Load>,
    /// What was reported.
    reported: Vec<Load>,
    /// What each gateway changed since: by gateway, then replica.
    own: Vec<Load>,
    reports: u64,
    /// Whose turn it is, as each gateway believes.
    turns: Vec<usize>,
    sent: u64,
    random: ChaCha8Rng,
    view: Vec<Load>,
}

impl Router {
    /// Over so many idle replicas.
    pub(crate) fn new(rules: Rules, replicas: u32) -> Self {
        let replicas = replicas as usize;
        let mut random = ChaCha8Rng::seed_from_u64(mix(rules.seed ^ 0x726f_7574));
        Self {
            rules,
            loads: vec![Load::default(); replicas],
            reported: vec![Load::default(); replicas],
            own: vec![Load::default(); replicas * rules.gateways as usize],
            reports: 0,
            turns: (0..rules.gateways)
                .map(|_| random.random_range(0..replicas))
                .collect(),
            sent: 0,
            random,
            view: vec![Load::default(); replicas],
        }
    }

    /// It is later now: replicas may have reported.
    pub(crate) fn tick(&mut self, now: u64) {
        let Some(reports) = now.checked_div(self.rules.period) else {
            return;
        };
        if reports > self.reports {
            self.reports = reports;
            self.reported.copy_from_slice(&self.loads);
            self.own.fill(Load::default());
        }
    }

    /// Chooses a gateway and a replica, and sends.
    pub(crate) fn send(&mut self, offer: &Offer) -> (u32, u32) {
        let gateway = (self.sent % u64::from(self.rules.gateways)) as u32;
        self.sent += 1;
        self.look(gateway);
        let turn = &mut self.turns[gateway as usize];
        *turn = (*turn + 1) % self.loads.len();
        let turn = *turn;
        let replica = self.choose(offer, turn);
        self.loads[replica].add(offer.prompt_tokens);
        let at = self.own_at(gateway, replica);
        self.own[at].add(offer.prompt_tokens);
        (gateway, replica as u32)
    }

    /// A request has ended.
    pub(crate) fn ended(&mut self, gateway: u32, replica: u32, offer: &Offer) {
        let replica = replica as usize;
        self.loads[replica].subtract(offer.prompt_tokens);
        let at = self.own_at(gateway, replica);
        self.own[at].subtract(offer.prompt_tokens);
    }

    fn own_at(&self, gateway: u32, replica: usize) -> usize {
        gateway as usize * self.loads.len() + replica
    }

    /// What a gateway believes.
    fn look(&mut self, gateway: u32) {
        if self.rules.period == 0 {
            self.view.copy_from_slice(&self.loads);
            return;
        }
        let from = self.own_at(gateway, 0);
        let own = &self.own[from..from + self.loads.len()];
        for ((view, reported), own) in self.view.iter_mut().zip(&self.reported).zip(own) {
            view.requests = (reported.requests + own.requests).max(0);
            view.tokens = (reported.tokens + own.tokens).max(0);
        }
    }

    fn choose(&mut self, offer: &Offer, turn: usize) -> usize {
        let count = self.view.len();
        match self.rules.routing {
            Routing::RoundRobin => turn,
            Routing::Random => self.random.random_range(0..count),
            Routing::LeastRequests => self.least(turn, |load| load.requests),
            Routing::LeastTokens => self.least(turn, |load| load.tokens),
            Routing::PowerOfTwo => {
                let first = self.random.random_range(0..count);
                let second = self.random.random_range(0..count);
                if self.view[second].requests < self.view[first].requests {
                    second
                } else {
                    first
                }
            }
            Routing::PrefixAffinity if offer.text.group_tokens > 0 => self.affine(offer.text.group),
            Routing::PrefixAffinity | Routing::SessionAffinity => self.affine(offer.text.own),
        }
    }

    /// The least loaded; ties are broken by turns, so that idle replicas share the work.
    fn least(&self, turn: usize, of: impl Fn(&Load) -> i64) -> usize {
        let count = self.view.len();
        let order = (0..count).map(|step| (turn + step) % count);
        order.min_by_key(|&at| of(&self.view[at])).unwrap_or(0)
    }

    /// Of those that are not overloaded, the one with the highest hash of key and replica: most
    /// keys stay where they are when a replica comes or goes.
    fn affine(&self, key: u64) -> usize {
        let requests: i64 = self.view.iter().map(|load| load.requests).sum();
        let mean = (requests + 1) as f64 / self.view.len() as f64;
        let bound = (mean * self.rules.load_bound).ceil();
        let open = |&at: &usize| (self.view[at].requests as f64) < bound;
        (0..self.view.len())
            .filter(open)
            .max_by_key(|&at| mix(key ^ mix(at as u64)))
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Text;

    fn rules(routing: Routing) -> Rules {
        Rules {
            routing,
            period: 0,
            gateways: 1,
            load_bound: 1.25,
            seed: 1,
        }
    }

    fn offer(own: u64, group: u64) -> Offer {
        let text = Text {
            own,
            group,
            group_tokens: 32,
        };
        Offer::alone(0, 0, text, [100, 10])
    }

    /// How many of 600 requests that do not end each of 6 replicas gets; 20 groups.
    fn spread(rules: Rules) -> Vec<usize> {
        let mut router = Router::new(rules, 6);
        let mut counts = vec![0; 6];
        for own in 0..600 {
            router.tick(own * 1000);
            counts[router.send(&offer(own, own % 20)).1 as usize] += 1;
        }
        counts
    }

    #[test]
    fn loads_are_as_even_as_the_policy_promises() {
        for (routing, most) in [
            (Routing::RoundRobin, 100),
            (Routing::LeastRequests, 100),
            (Routing::LeastTokens, 100),
            (Routing::PowerOfTwo, 105),
            (Routing::PrefixAffinity, 126),
            (Routing::SessionAffinity, 126),
            (Routing::Random, 140),
        ] {
            let counts = spread(rules(routing));
            assert_eq!(counts.iter().sum::<usize>(), 600);
            let found = counts.iter().max().unwrap();
            assert!(*found <= most, "{routing:?}: {counts:?}");
        }
    }

    #[test]
    fn affinity_keeps_a_group_together_while_there_is_room() {
        let mut rules = rules(Routing::PrefixAffinity);
        rules.load_bound = 100.0;
        let mut router = Router::new(rules, 6);
        let homes: Vec<u32> = (0..40)
            .map(|own| router.send(&offer(own, own % 4)).1)
            .collect();
        assert!((0..40).all(|at| homes[at] == homes[at % 4]), "{homes:?}");
    }

    #[test]
    fn gateways_that_hear_nothing_pile_up() {
        let mut blind = rules(Routing::LeastRequests);
        blind.period = u64::MAX;
        blind.gateways = 3;
        // Each of the three sees its own third only, so all begin with the same replicas.
        let mut router = Router::new(blind, 6);
        for own in 0..6 {
            router.send(&offer(own, 0));
        }
        assert!(router.loads.iter().any(|load| load.requests != 1));
        // One that counts what it sends needs no report.
        blind.gateways = 1;
        assert_eq!(spread(blind), [100; 6]);
    }

    #[test]
    fn what_ended_is_not_counted() {
        let mut router = Router::new(rules(Routing::LeastRequests), 2);
        for own in 0..10 {
            let offer = offer(own, 0);
            let (gateway, replica) = router.send(&offer);
            router.ended(gateway, replica, &offer);
        }
        assert_eq!(router.loads, [Load::default(); 2]);
        assert_eq!(router.own, [Load::default(); 2]);
    }
}
