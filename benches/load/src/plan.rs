//! What each request is, as a function of its number and the seed: a run is repeated by its seed,
//! however its requests overlap.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;

use crate::length::Length;
use crate::mix::{Kind, Mix};
use crate::prompts::{Prompt, Prompts};

/// What is asked of the server.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where every drawn number comes from.
    pub seed: u64,
    /// What is said.
    pub prompts: Prompts,
    /// Tokens to ask for at most.
    pub output: Length,
    /// Whether generations go on after the model's end.
    pub end: End,
    /// The kinds of requests.
    pub mix: Mix,
    /// Texts of one embedding request.
    pub embed_inputs: u32,
}

/// What ends a generation before its longest length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The model may.
    Model,
    /// Nothing, so that all have the length asked for.
    Length,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The prompt; of an embedding the first text.
    pub prompt: Prompt,
    /// The other texts of an embedding.
    pub more: Vec<Prompt>,
    /// Tokens to ask for at most.
    pub output: u32,
    /// What ends it earlier.
    pub end: End,
    /// Its kind.
    pub kind: Kind,
}

impl Plan {
    /// The request with this number.
    pub fn ask(&self, number: u64) -> Ask {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(number);
        let kind = self.mix.draw(&mut random);
        let output = self.output.draw(&mut random);
        let said = self.prompts.draw(number, &mut random);
        let others = if kind.embed { self.embed_inputs - 1 } else { 0 };
        let more = (0..u64::from(others)).map(|other| {
            let number = number.wrapping_add(other + 1);
            self.prompts.draw(number, &mut random).prompt
        });
        Ask {
            prompt: said.prompt,
            more: more.collect(),
            output: said.output.unwrap_or(output),
            end: self.end,
            kind,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompts::{Made, Matter};

    fn plan(seed: u64) -> Plan {
        Plan {
            seed,
            prompts: Prompts::Made(Made::new(Length::Uniform(1, 9), Matter::Words, 0, 0, seed)),
            output: Length::Uniform(1, 99),
            end: End::Length,
            mix: Mix {
                embed: 0.5,
                ..Mix::default()
            },
            embed_inputs: 3,
        }
    }

    #[test]
    fn a_request_follows_from_its_number_and_the_seed() {
        let asks: Vec<Ask> = (0..20).map(|number| plan(1).ask(number)).collect();
        assert_eq!(asks[7], plan(1).ask(7));
        assert_ne!(asks[7], plan(2).ask(7));
        assert!(asks.iter().any(|ask| ask.kind.embed));
        for ask in asks {
            assert_eq!(ask.more.len(), if ask.kind.embed { 2 } else { 0 });
        }
    }
}
