//! Requests from a file: one JSON object a line. `docs/simulator.md` is the reference.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use crate::length::LENGTH_MAX;
use crate::text::{Text, mix};
use crate::units::nanos;
use crate::workload::Offer;

/// Tenants that a trace may name.
pub(crate) const TENANTS_MAX: usize = 1024;

/// Seconds that a trace may last.
const SECONDS_MAX: f64 = 1e7;

/// A line.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    arrival: f64,
    prompt_tokens: u32,
    output_tokens: u32,
    #[serde(default)]
    tenant: String,
    #[serde(default)]
    priority: i8,
    deadline: Option<f64>,
    prefix_group: Option<String>,
    #[serde(default)]
    prefix_tokens: u32,
    conversation: Option<String>,
}

/// A file, read.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    /// By arrival.
    pub(crate) offers: Vec<Offer>,
    /// Their tenants, in the order of their first lines.
    pub(crate) tenants: Vec<String>,
}

/// Reads a file.
pub(crate) fn read(path: &Path) -> Result<Trace, String> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| format!("{}: {error}", path.display()))?;
    parse(&text).map_err(|error| format!("{}:{error}", path.display()))
}

fn parse(text: &str) -> Result<Trace, String> {
    let mut trace = Trace {
        offers: Vec::new(),
        tenants: Vec::new(),
    };
    let mut tenants: HashMap<String, u32> = HashMap::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let at = |error: String| format!("{}: {error}", number + 1);
        let line: Line = serde_json::from_str(line).map_err(|error| at(error.to_string()))?;
        line.check().map_err(at)?;
        let tenant = match tenants.get(&line.tenant) {
            Some(&tenant) => tenant,
            None if tenants.len() == TENANTS_MAX => {
                return Err(at(format!("more than {TENANTS_MAX} tenants")));
            }
            None => {
                let tenant = trace.tenants.len() as u32;
                trace.tenants.push(line.tenant.clone());
                tenants.insert(line.tenant.clone(), tenant);
                tenant
            }
        };
        trace.offers.push(line.offer(tenant, number as u64));
    }
    if trace.offers.is_empty() {
        return Err(" no request in it".to_owned());
    }
    trace.offers.sort_by_key(|offer| offer.at);
    Ok(trace)
}

impl Line {
    fn check(&self) -> Result<(), String> {
        let lengths = [self.prompt_tokens, self.output_tokens];
        if lengths
            .iter()
            .any(|length| !(1..=LENGTH_MAX).contains(length))
        {
            return Err(format!("a length is not 1 to {LENGTH_MAX}"));
        }
        if !(0.0..SECONDS_MAX).contains(&self.arrival) {
            return Err(format!("arrival is not 0 to {SECONDS_MAX} seconds"));
        }
        match self.deadline {
            Some(deadline) if !(deadline > 0.0 && deadline < SECONDS_MAX) => {
                Err(format!("deadline is not 0 to {SECONDS_MAX} seconds"))
            }
            _ => Ok(()),
        }
    }

    fn offer(&self, tenant: u32, number: u64) -> Offer {
        let own = match &self.conversation {
            Some(name) => mix(name_of(name)),
            None => mix(number ^ 0x0061_6c6f_6e65),
        };
        let (group, group_tokens) = match &self.prefix_group {
            Some(name) => (name_of(name), self.prefix_tokens),
            None => (0, 0),
        };
        let text = Text {
            own,
            group,
            group_tokens,
        };
        let tokens = [self.prompt_tokens, self.output_tokens];
        let mut offer = Offer::alone(nanos(self.arrival), tenant, text, tokens);
        offer.priority = self.priority;
        offer.deadline = self.deadline.map(nanos);
        offer
    }
}

fn name_of(name: &str) -> u64 {
    name.bytes()
        .fold(0xcbf2_9ce4, |hash, byte| mix(hash ^ u64::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_requests_in_the_order_of_their_arrival() {
        let trace = parse(
            r#"{"arrival": 2.5, "prompt_tokens": 30, "output_tokens": 5, "tenant": "b", "priority": 3}
               {"arrival": 0.5, "prompt_tokens": 20, "output_tokens": 4, "tenant": "a", "deadline": 1.5,
                "prefix_group": "g", "prefix_tokens": 16}"#
                .replace(",\n", ",")
                .as_str(),
        );
        let trace = trace.unwrap();
        assert_eq!(trace.tenants, ["b", "a"]);
        let [first, second] = trace.offers[..] else {
            panic!("two requests");
        };
        assert_eq!((first.at, first.tenant), (500_000_000, 1));
        assert_eq!(first.deadline, Some(1_500_000_000));
        assert_eq!(first.text.group_tokens, 16);
        assert_eq!((second.priority, second.prompt_tokens), (3, 30));
    }

    #[test]
    fn turns_of_a_conversation_share_its_text() {
        let line = |conversation: &str, prompt: u32| {
            format!(
                r#"{{"arrival": 1, "prompt_tokens": {prompt}, "output_tokens": 5, "conversation": "{conversation}"}}"#
            )
        };
        let text = [line("x", 20), line("x", 60), line("y", 60)].join("\n");
        let offers = parse(&text).unwrap().offers;
        assert_eq!(offers[0].text, offers[1].text);
        assert_ne!(offers[0].text, offers[2].text);
    }

    #[test]
    fn a_line_that_is_no_request_is_named() {
        for (bad, says) in [
            (r#"{"arrival": 1, "prompt_tokens": 5}"#, "output_tokens"),
            (
                r#"{"arrival": 1, "prompt_tokens": 0, "output_tokens": 5}"#,
                "length",
            ),
            (
                r#"{"arrival": -1, "prompt_tokens": 1, "output_tokens": 5}"#,
                "arrival",
            ),
            (
                r#"{"arrival": 1, "prompt_tokens": 1, "output_tokens": 5, "deadline": 0}"#,
                "deadline",
            ),
            (
                r#"{"arrival": 1, "prompt_tokens": 1, "output_tokens": 5, "user": 1}"#,
                "user",
            ),
            ("x", "expected"),
            ("", "no request"),
        ] {
            let error = parse(&format!("\n{bad}")).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
