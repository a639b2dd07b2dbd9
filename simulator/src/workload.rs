//! Who asks for what, and when.
//!
//! A request's lengths are drawn from the seed, its tenant, its conversation and its turn, never
//! from what happened before: two runs that differ in a policy are asked the same.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;
use rand_distr::{Distribution as _, Exp1};

use crate::arrivals::Arrivals;
pub use crate::arrivals::Spacing;
use crate::length::Length;
use crate::text::{Text, mix};
use crate::units::nanos;

/// The longest prompt of a conversation; one that would be longer ends it.
const CONVERSATION_TOKENS_MAX: u32 = 1 << 20;

/// One request, and what is known of its sequel. Times are nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Offer {
    /// When it comes.
    pub(crate) at: u64,
    /// Whose it is.
    pub(crate) tenant: u32,
    /// The band it belongs to.
    pub(crate) priority: i8,
    /// How long after its arrival it must have ended.
    pub(crate) deadline: Option<u64>,
    /// What it says.
    pub(crate) text: Text,
    /// How much of the text is the prompt.
    pub(crate) prompt_tokens: u32,
    /// How many tokens answer it.
    pub(crate) output_tokens: u32,
    /// Where it stands in its conversation.
    turn: u32,
    turns: u32,
    /// The client of a closed loop.
    client: Option<u32>,
}

/// What is asked for, made from a few figures.
#[derive(Clone, Debug)]
pub struct Demand {
    /// Where all draws come from.
    pub seed: u64,
    /// How requests come.
    pub flow: Flow,
    /// No request comes at or after this time.
    pub until: u64,
    /// The length of prompts, or of what each turn adds.
    pub prompt: Length,
    /// The length of answers.
    pub output: Length,
    /// Shared beginnings, one for each conversation.
    pub groups: u32,
    /// The length of each of them.
    pub group_tokens: u32,
    /// The turns of a conversation.
    pub turns: Length,
    /// The mean time, exponentially distributed, between an answer and the next turn.
    pub think: u64,
    /// How long after its arrival a request must have ended.
    pub deadline: Option<u64>,
}

/// How requests come.
#[derive(Clone, Debug)]
pub enum Flow {
    /// When they come, whatever became of those before.
    Open {
        /// How they are spaced.
        spacing: Spacing,
        /// Requests a second of each tenant.
        rates: Vec<f64>,
    },
    /// Each client asks again when it was answered.
    Closed {
        /// How many.
        clients: u32,
        /// They belong to these in turn.
        tenants: u32,
    },
}

impl Flow {
    /// How many tenants there are.
    pub fn tenants(&self) -> usize {
        match self {
            Self::Open { rates, .. } => rates.len(),
            Self::Closed { tenants, .. } => *tenants as usize,
        }
    }
}

/// Requests to come, earliest first.
#[derive(Debug)]
pub(crate) struct Source {
    /// By arrival; the second number keeps the order of those that come together.
    pending: BinaryHeap<Reverse<(u64, u64, u32)>>,
    /// What stands in `pending`, by its last number.
    offers: Vec<Offer>,
    free: Vec<u32>,
    sequence: u64,
    made: Option<Made>,
}

/// Makes requests from a demand.
#[derive(Debug)]
struct Made {
    demand: Demand,
    /// Of an open loop, one for each tenant.
    arrivals: Vec<Arrivals>,
    /// Conversations begun by each tenant.
    begun: Vec<u64>,
}

impl Source {
    /// Requests that are known in advance.
    pub(crate) fn listed(offers: impl IntoIterator<Item = Offer>) -> Self {
        let mut source = Self::empty(None);
        for offer in offers {
            source.push(offer);
        }
        source
    }

    /// Requests of a demand.
    pub(crate) fn made(demand: Demand) -> Self {
        let tenants = demand.flow.tenants();
        let mut made = Made {
            arrivals: made_arrivals(&demand),
            begun: vec![0; tenants],
            demand,
        };
        let mut first: Vec<Option<Offer>> = Vec::new();
        match made.demand.flow {
            Flow::Open { .. } => {
                first.extend((0..tenants as u32).map(|tenant| made.next_arrival(tenant)));
            }
            Flow::Closed { clients, tenants } => {
                first.extend((0..clients).map(|client| made.first_of_client(client, tenants)));
            }
        }
        let mut source = Self::empty(Some(made));
        for offer in first.into_iter().flatten() {
            source.push(offer);
        }
        source
    }

    fn empty(made: Option<Made>) -> Self {
        Self {
            pending: BinaryHeap::new(),
            offers: Vec::new(),
            free: Vec::new(),
            sequence: 0,
            made,
        }
    }

    fn push(&mut self, offer: Offer) {
        let index = if let Some(index) = self.free.pop() {
            self.offers[index as usize] = offer;
            index
        } else {
            self.offers.push(offer);
            self.offers.len() as u32 - 1
        };
        self.sequence += 1;
        self.pending.push(Reverse((offer.at, self.sequence, index)));
    }

    /// When the next request comes, as far as is known now.
    pub(crate) fn next_at(&self) -> Option<u64> {
        self.pending.peek().map(|&Reverse((at, ..))| at)
    }

    /// The next request.
    pub(crate) fn take(&mut self) -> Option<Offer> {
        let Reverse((_, _, index)) = self.pending.pop()?;
        self.free.push(index);
        let offer = self.offers[index as usize];
        if offer.client.is_none()
            && offer.turn == 0
            && let Some(made) = &mut self.made
            && let Some(next) = made.next_arrival(offer.tenant)
        {
            self.push(next);
        }
        Some(offer)
    }

    /// A request has ended, one way or another: what does its client do next?
    pub(crate) fn ended(&mut self, offer: &Offer, now: u64) {
        if let Some(made) = &mut self.made
            && let Some(next) = made.sequel(offer, now)
        {
            self.push(next);
        }
    }
}

fn made_arrivals(demand: &Demand) -> Vec<Arrivals> {
    let Flow::Open { spacing, rates } = &demand.flow else {
        return Vec::new();
    };
    // A rate is of requests; what arrives are conversations.
    let turns = mean(demand.turns);
    let of = |(tenant, rate): (usize, &f64)| {
        let random =
            ChaCha8Rng::seed_from_u64(mix(demand.seed ^ 0x0061_7272 ^ (tenant as u64) << 32));
        Arrivals::new(*spacing, rate / turns, random)
    };
    rates.iter().enumerate().map(of).collect()
}

fn mean(length: Length) -> f64 {
    const DRAWS: u32 = 10_000;
    if let Length::Fixed(length) = length {
        return f64::from(length);
    }
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let sum: f64 = (0..DRAWS)
        .map(|_| f64::from(length.draw(&mut random)))
        .sum();
    sum / f64::from(DRAWS)
}

impl Made {
    /// The tenant's next request of an open loop.
    fn next_arrival(&mut self, tenant: u32) -> Option<Offer> {
        let Flow::Open { rates, .. } = &self.demand.flow else {
            return None;
        };
        if rates[tenant as usize] <= 0.0 {
            return None;
        }
        let at = self.arrivals[tenant as usize].next();
        (at < self.demand.until).then(|| self.begin(at, tenant, None))
    }

    /// The first request of a client. Its answer is cut somewhere, so that the clients do not
    /// march in step.
    fn first_of_client(&mut self, client: u32, tenants: u32) -> Option<Offer> {
        let mut offer = self.begin(0, client % tenants, Some(client));
        let mut random = ChaCha8Rng::seed_from_u64(mix(self.demand.seed ^ u64::from(client) << 20));
        offer.output_tokens = random.random_range(1..=offer.output_tokens);
        (self.demand.until > 0).then_some(offer)
    }

    /// The first turn of a conversation.
    fn begin(&mut self, at: u64, tenant: u32, client: Option<u32>) -> Offer {
        let demand = &self.demand;
        self.begun[tenant as usize] += 1;
        let number = self.begun[tenant as usize];
        let own = mix(mix(demand.seed ^ u64::from(tenant) << 40) ^ number);
        let mut random = ChaCha8Rng::seed_from_u64(own);
        let group = match demand.groups {
            0 => 0,
            groups => u64::from(random.random_range(0..groups)),
        };
        let group_tokens = if demand.groups == 0 {
            0
        } else {
            demand.group_tokens
        };
        Offer {
            at,
            tenant,
            priority: 0,
            deadline: demand.deadline,
            text: Text {
                own,
                group: mix(demand.seed ^ group),
                group_tokens,
            },
            prompt_tokens: group_tokens + demand.prompt.draw(&mut random),
            output_tokens: demand.output.draw(&mut random),
            turn: 0,
            turns: demand.turns.draw(&mut random),
            client,
        }
    }

    /// What follows on a request that ended.
    fn sequel(&mut self, offer: &Offer, now: u64) -> Option<Offer> {
        let turn = offer.turn + 1;
        let mut random = ChaCha8Rng::seed_from_u64(mix(offer.text.own ^ u64::from(turn) << 48));
        let prompt = self.demand.prompt.draw(&mut random);
        let output_tokens = self.demand.output.draw(&mut random);
        let pause: f64 = Exp1.sample(&mut random);
        let at = now + nanos(pause * self.demand.think as f64 / 1e9);
        if at >= self.demand.until {
            return None;
        }
        let prompt_tokens = offer.prompt_tokens + offer.output_tokens + prompt;
        if turn < offer.turns && prompt_tokens <= CONVERSATION_TOKENS_MAX {
            return Some(Offer {
                at,
                prompt_tokens,
                output_tokens,
                turn,
                ..*offer
            });
        }
        let client = offer.client?;
        Some(self.begin(at, offer.tenant, Some(client)))
    }
}

impl Offer {
    /// A request of a trace, which has no sequel.
    pub(crate) fn alone(at: u64, tenant: u32, text: Text, tokens: [u32; 2]) -> Self {
        let [prompt_tokens, output_tokens] = tokens;
        Self {
            at,
            tenant,
            priority: 0,
            deadline: None,
            text,
            prompt_tokens,
            output_tokens,
            turn: 0,
            turns: 1,
            client: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::SECOND;

    fn demand(flow: Flow) -> Demand {
        Demand {
            seed: 3,
            flow,
            until: 100 * SECOND,
            prompt: Length::Uniform(50, 150),
            output: Length::Uniform(10, 20),
            groups: 0,
            group_tokens: 40,
            turns: Length::Fixed(1),
            think: 0,
            deadline: None,
        }
    }

    fn open(rates: &[f64]) -> Flow {
        Flow::Open {
            spacing: Spacing::Poisson,
            rates: rates.to_vec(),
        }
    }

    /// Takes all; each is answered after `delay`.
    fn drain(demand: Demand, delay: u64) -> Vec<Offer> {
        let mut source = Source::made(demand);
        let mut offers = Vec::new();
        while let Some(at) = source.next_at() {
            let offer = source.take().unwrap();
            assert_eq!(offer.at, at);
            source.ended(&offer, at + delay);
            offers.push(offer);
        }
        offers
    }

    #[test]
    fn tenants_of_an_open_loop_come_at_their_rates() {
        let offers = drain(demand(open(&[10.0, 0.0, 40.0])), SECOND);
        let count = |tenant| offers.iter().filter(|offer| offer.tenant == tenant).count();
        assert!((900..1100).contains(&count(0)), "{}", count(0));
        assert_eq!(count(1), 0);
        assert!((3800..4200).contains(&count(2)), "{}", count(2));
        assert!(offers.is_sorted_by_key(|offer| offer.at));
        // However fast they are answered, the same is asked.
        assert_eq!(offers, drain(demand(open(&[10.0, 0.0, 40.0])), 5 * SECOND));
    }

    #[test]
    fn a_turn_continues_the_text_of_the_turn_before() {
        let mut demand = demand(open(&[5.0]));
        demand.turns = Length::Fixed(4);
        demand.groups = 2;
        demand.think = SECOND;
        let offers = drain(demand, SECOND / 2);
        let (first, others) = offers.split_first().unwrap();
        let turns: Vec<&Offer> = others
            .iter()
            .filter(|offer| offer.text == first.text)
            .collect();
        assert_eq!(turns.len(), 3);
        let mut before = first;
        for turn in turns {
            assert!(turn.at >= before.at + SECOND / 2);
            assert!(turn.prompt_tokens >= before.prompt_tokens + before.output_tokens + 50);
            before = turn;
        }
        let rate = offers.len() as f64 / 100.0;
        assert!((4.0..6.0).contains(&rate), "a rate is of requests: {rate}");
    }

    #[test]
    fn a_client_of_a_closed_loop_asks_when_it_was_answered() {
        let flow = Flow::Closed {
            clients: 7,
            tenants: 2,
        };
        let offers = drain(demand(flow), SECOND);
        assert_eq!(offers.len(), 700);
        assert_eq!(offers.iter().filter(|offer| offer.tenant == 0).count(), 400);
    }
}
