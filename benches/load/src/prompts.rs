//! What requests say: one text, the lines of a file, or made-up texts of drawn lengths that may
//! share beginnings.

use std::path::Path;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;
use serde::Deserialize;

use crate::length::Length;

/// What is continued or embedded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Text.
    Text(String),
    /// Tokens, used as they are.
    Ids(Vec<u32>),
}

/// A prompt, and the length of its answer where the file said one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// The prompt.
    pub prompt: Prompt,
    /// Tokens to ask for at most.
    pub output: Option<u32>,
}

/// Where prompts come from.
#[derive(Clone, Debug)]
pub enum Prompts {
    /// Always the same text.
    Same(String),
    /// One of these, in turn.
    Listed(Vec<Said>),
    /// Made up.
    Made(Made),
}

/// Made-up prompts.
#[derive(Clone, Debug)]
pub struct Made {
    /// Tokens, or words, of each, the shared beginning left out.
    pub length: Length,
    /// Beginnings, one of which each prompt has; none if empty.
    pub prefixes: Vec<Prompt>,
    /// What they are made of.
    pub of: Matter,
}

/// What made-up prompts are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matter {
    /// Common English words: about one token each, so lengths hold about.
    Words,
    /// Token ids below this: lengths hold exactly.
    Ids(u32),
}

/// The first ids are left out: models keep their special tokens there.
const FIRST_ID: u32 = 3;

impl Prompts {
    /// The prompt of the request with this number.
    pub fn draw(&self, number: u64, random: &mut impl Rng) -> Said {
        let prompt = match self {
            Self::Same(text) => Prompt::Text(text.clone()),
            Self::Listed(said) => return said[(number % said.len() as u64) as usize].clone(),
            Self::Made(made) => made.draw(random),
        };
        Said {
            prompt,
            output: None,
        }
    }
}

impl Made {
    /// Prompts with `count` shared beginnings of `tokens` tokens.
    pub fn new(length: Length, of: Matter, count: u32, tokens: u32, seed: u64) -> Self {
        // A stream of numbers of their own: requests have those of their number.
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(u64::MAX);
        let prefixes = (0..count).map(|_| of.draw(tokens, &mut random)).collect();
        Self {
            length,
            prefixes,
            of,
        }
    }

    fn draw(&self, random: &mut impl Rng) -> Prompt {
        let length = self.length.draw(random);
        let own = self.of.draw(length, random);
        if self.prefixes.is_empty() {
            return own;
        }
        let prefix = &self.prefixes[random.random_range(0..self.prefixes.len())];
        match (prefix, own) {
            (Prompt::Ids(prefix), Prompt::Ids(own)) => {
                Prompt::Ids(prefix.iter().copied().chain(own).collect())
            }
            (Prompt::Text(prefix), Prompt::Text(own)) => Prompt::Text(format!("{prefix} {own}")),
            (_, own) => own,
        }
    }
}

impl Matter {
    fn draw(self, length: u32, random: &mut impl Rng) -> Prompt {
        match self {
            Self::Words => {
                let words = (0..length).map(|_| WORDS[random.random_range(0..WORDS.len())]);
                Prompt::Text(words.collect::<Vec<_>>().join(" "))
            }
            Self::Ids(vocabulary) => {
                let ids = FIRST_ID.min(vocabulary.saturating_sub(1))..vocabulary.max(1);
                Prompt::Ids(
                    (0..length)
                        .map(|_| random.random_range(ids.clone()))
                        .collect(),
                )
            }
        }
    }
}

/// Reads prompts, one a line: text, or JSON with `prompt` and perhaps `max_tokens`.
pub fn read(path: &Path) -> Result<Vec<Said>, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| format!("{shown}: {error}"))?;
    parse(&text).map_err(|error| format!("{shown}: {error}"))
}

fn parse(text: &str) -> Result<Vec<Said>, String> {
    #[derive(Deserialize)]
    struct Line {
        prompt: String,
        max_tokens: Option<u32>,
    }
    let mut said = Vec::new();
    let lines = text.lines().enumerate();
    for (number, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        let (prompt, output) = if line.starts_with('{') {
            let parsed: Line = serde_json::from_str(line)
                .map_err(|error| format!("line {}: {error}", number + 1))?;
            (parsed.prompt, parsed.max_tokens)
        } else {
            (line.to_owned(), None)
        };
        said.push(Said {
            prompt: Prompt::Text(prompt),
            output,
        });
    }
    if said.is_empty() {
        return Err("no prompt in it".to_owned());
    }
    Ok(said)
}

/// A text with a word for each id.
pub(crate) fn words(ids: &[u32]) -> String {
    let words = ids.iter().map(|id| WORDS[*id as usize % WORDS.len()]);
    words.collect::<Vec<_>>().join(" ")
}

/// Common words of one syllable or two.
const WORDS: [&str; 128] = [
    "about",
    "after",
    "again",
    "air",
    "all",
    "also",
    "always",
    "and",
    "another",
    "answer",
    "any",
    "are",
    "ask",
    "away",
    "back",
    "because",
    "been",
    "before",
    "began",
    "below",
    "between",
    "book",
    "both",
    "but",
    "call",
    "came",
    "can",
    "car",
    "change",
    "city",
    "close",
    "come",
    "could",
    "country",
    "cut",
    "day",
    "did",
    "different",
    "does",
    "down",
    "each",
    "earth",
    "eat",
    "end",
    "enough",
    "even",
    "every",
    "example",
    "eye",
    "face",
    "family",
    "far",
    "father",
    "feet",
    "few",
    "find",
    "first",
    "follow",
    "food",
    "for",
    "found",
    "four",
    "from",
    "get",
    "girl",
    "give",
    "good",
    "great",
    "group",
    "grow",
    "hand",
    "hard",
    "have",
    "head",
    "hear",
    "help",
    "here",
    "high",
    "home",
    "house",
    "how",
    "idea",
    "important",
    "just",
    "keep",
    "kind",
    "know",
    "land",
    "large",
    "last",
    "later",
    "learn",
    "leave",
    "left",
    "letter",
    "life",
    "light",
    "like",
    "line",
    "list",
    "little",
    "live",
    "long",
    "look",
    "made",
    "make",
    "many",
    "may",
    "mean",
    "men",
    "might",
    "mile",
    "more",
    "most",
    "mother",
    "mountain",
    "move",
    "much",
    "must",
    "name",
    "near",
    "need",
    "never",
    "new",
    "next",
    "night",
    "number",
    "often",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn made(of: Matter, prefixes: u32) -> Prompts {
        Prompts::Made(Made::new(Length::Fixed(5), of, prefixes, 3, 11))
    }

    fn draw(prompts: &Prompts, number: u64) -> Prompt {
        let mut random = ChaCha8Rng::seed_from_u64(number);
        prompts.draw(number, &mut random).prompt
    }

    #[test]
    fn made_prompts_have_their_length_and_share_their_prefix() {
        let prompts = made(Matter::Ids(50), 2);
        let beginnings: std::collections::BTreeSet<Vec<u32>> = (0..50)
            .map(|number| match draw(&prompts, number) {
                Prompt::Ids(ids) => {
                    assert_eq!(ids.len(), 8);
                    assert!(ids.iter().all(|id| (FIRST_ID..50).contains(id)));
                    ids[..3].to_vec()
                }
                Prompt::Text(text) => panic!("{text}"),
            })
            .collect();
        assert_eq!(beginnings.len(), 2);
        let Prompt::Text(text) = draw(&made(Matter::Words, 0), 1) else {
            panic!("ids")
        };
        assert_eq!(text.split(' ').count(), 5);
        assert_eq!(words(&[0, 127, 128]), "about often about");
        assert_eq!(draw(&prompts, 4), draw(&prompts, 4));
        assert_ne!(draw(&prompts, 4), draw(&prompts, 5));
    }

    #[test]
    fn prompts_are_read_from_lines_of_text_and_of_json() {
        let said = parse("Hello there\n\n{\"prompt\": \"Hi\", \"max_tokens\": 7}\n").unwrap();
        let text = |text: &str| Prompt::Text(text.to_owned());
        assert_eq!(
            (&said[0].prompt, said[0].output),
            (&text("Hello there"), None)
        );
        assert_eq!((&said[1].prompt, said[1].output), (&text("Hi"), Some(7)));
        assert_eq!(draw(&Prompts::Listed(said), 3), text("Hi"));
        assert!(parse("\n").is_err());
        assert!(parse("{\"no\": 1}").unwrap_err().starts_with("line 1: "));
    }
}
