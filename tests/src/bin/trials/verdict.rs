//! What a trial found: facts, and what should hold and does not.

use serde_json::{Map, Value};

use crate::clock::Stopwatch;

/// One trial's result.
#[derive(Debug)]
pub(crate) struct Verdict {
    name: &'static str,
    facts: Map<String, Value>,
    failures: Vec<String>,
    begun: Stopwatch,
}

impl Verdict {
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            facts: Map::new(),
            failures: Vec::new(),
            begun: Stopwatch::start(),
        }
    }

    /// Something measured.
    pub(crate) fn fact(&mut self, name: &str, value: impl Into<Value>) {
        self.facts.insert(name.to_owned(), value.into());
    }

    /// Something measured that has to be this.
    pub(crate) fn equal(&mut self, name: &str, found: u64, expected: u64) {
        self.fact(name, found);
        if found != expected {
            self.fails(format!("{name} is {found}, not {expected}"));
        }
    }

    /// Something measured that may not be more.
    pub(crate) fn at_most(&mut self, name: &str, found: u64, bound: u64) {
        self.fact(name, found);
        if found > bound {
            self.fails(format!("{name} is {found}, above {bound}"));
        }
    }

    /// Something that should hold and does not.
    pub(crate) fn fails(&mut self, what: String) {
        self.failures.push(what);
    }

    pub(crate) fn holds(&self) -> bool {
        self.failures.is_empty()
    }

    /// Prints it.
    pub(crate) fn say(self) -> Self {
        let line = serde_json::json!({
            "trial": self.name,
            "holds": self.holds(),
            "seconds": self.begun.elapsed().as_secs_f64(),
            "facts": self.facts,
            "failures": self.failures,
        });
        println!("{line}");
        self
    }
}
