//! Timelines: a script of what callers do, and as answer what the scheduler did.
//!
//! ```text
//! limits step=8 running=2 blocks=4x4      4 blocks of 4 tokens; also waiting=, length=, depth=, preemptions=
//! submit a prompt=6 out=3                 also priority=, tenant=, deadline=, replay=, stop=, fault=, like=b:8
//! at 50                                   the time from here on
//! step, plan, apply, run                  one step; its halves; steps until idle
//! abort a, flush, stats
//! ```
//!
//! Every request has a text of its own, prompt and output, which goes on for ever; `like=b:8`
//! takes the first eight tokens from b's. `stop=2` ends it with its second token.
//!
//! In the answer `a[0..6]` is a slice, `a[6..7]?` one whose token is pending, `a+` a token.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::num::NonZeroU32;

use scheduler::hash::BlockHash;
use scheduler::limits::{Limits, Pool};
use scheduler::plan::{Event, Outcome, Plan, Sampled};
use scheduler::request::{Micros, Priority, Request, RequestId, TenantId, Token};
use scheduler::scheduler::Scheduler;

use crate::workload::BitsHasher;

/// Plays a script and returns the timeline.
pub(crate) fn play(script: &str) -> String {
    let mut lines = script
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    let mut stage = Stage::new(&Words::new(
        lines.next().expect("a script starts with limits"),
    ));
    for line in lines {
        stage.command(&Words::new(line));
    }
    stage.said
}

/// A command line: bare words, and words of the form name=value.
struct Words<'a> {
    bare: Vec<&'a str>,
    named: BTreeMap<&'a str, &'a str>,
}

impl<'a> Words<'a> {
    fn new(line: &'a str) -> Self {
        let (named, bare): (Vec<_>, Vec<_>) = line.split(' ').partition(|word| word.contains('='));
        let named = named
            .into_iter()
            .map(|word| word.split_once('=').unwrap())
            .collect();
        Self { bare, named }
    }

    fn number(&self, name: &str) -> Option<u32> {
        self.named
            .get(name)
            .map(|value| value.parse().unwrap_or_else(|_| panic!("{name}={value}")))
    }

    fn pair(&self, name: &str, separator: char) -> Option<(&'a str, u32)> {
        let (left, right) = self.named.get(name)?.split_once(separator).unwrap();
        Some((left, right.parse().unwrap()))
    }
}

/// What the script says about a request.
struct Role {
    request: Request,
    /// The output token that ends it, counted from 1.
    stop: Option<u32>,
    fault: Option<u32>,
    /// Output tokens so far.
    drawn: u32,
}

struct Stage {
    scheduler: Scheduler,
    depth: usize,
    roles: BTreeMap<RequestId, Role>,
    flights: VecDeque<Plan>,
    now: Micros,
    said: String,
}

impl Stage {
    fn new(words: &Words<'_>) -> Self {
        assert_eq!(words.bare, ["limits"]);
        let (blocks, block_tokens) = words.pair("blocks", 'x').unwrap();
        let blocks: u32 = blocks.parse().unwrap();
        let limits = Limits {
            step_tokens_max: words.number("step").unwrap(),
            running_max: words.number("running").unwrap(),
            waiting_max: words.number("waiting").unwrap_or(16),
            sequence_tokens_max: words.number("length").unwrap_or(1000),
            preemptions_max: words.number("preemptions").unwrap_or(9),
            depth_max: words.number("depth").unwrap_or(1),
        };
        let pool = Pool {
            blocks: blocks + 1,
            block_tokens: NonZeroU32::new(block_tokens).unwrap(),
        };
        Self {
            scheduler: Scheduler::new(limits, pool, Box::new(BitsHasher { bits: 128 })),
            depth: limits.depth_max as usize,
            roles: BTreeMap::new(),
            flights: VecDeque::new(),
            now: Micros(0),
            said: String::new(),
        }
    }

    fn command(&mut self, words: &Words<'_>) {
        match words.bare[..] {
            ["submit", name] => self.submit(name, words),
            ["abort", name] => {
                let mut events = Vec::new();
                assert!(self.scheduler.abort(id_of(name), &mut events));
                self.say("abort", &events);
            }
            ["at", time] => self.now = Micros(time.parse().unwrap()),
            ["plan"] => drop(self.plan()),
            ["apply"] => self.apply(),
            ["step"] => {
                assert!(self.plan());
                self.apply();
            }
            ["run"] => self.run(),
            ["flush"] => writeln!(self.said, "flushed {}", self.scheduler.flush_cache()).unwrap(),
            ["stats"] => self.stats(),
            _ => panic!("no such command: {:?}", words.bare),
        }
        self.scheduler.check();
    }

    fn submit(&mut self, name: &str, words: &Words<'_>) {
        let id = id_of(name);
        let (model, common) = words.pair("like", ':').unwrap_or((name, 0));
        let prompt = words.number("prompt").unwrap();
        let text = |at: u32| {
            if at < common {
                token(id_of(model), at)
            } else {
                token(id, at)
            }
        };
        let replayed = words.number("replay").unwrap_or(0);
        let request = Request {
            id,
            prompt: (0..prompt).map(text).collect(),
            generated: (prompt..prompt + replayed).map(text).collect(),
            output_max: NonZeroU32::new(words.number("out").unwrap()).unwrap(),
            priority: Priority(words.number("priority").unwrap_or(0) as i8),
            deadline: words.number("deadline").map(|at| Micros(at.into())),
            tenant: TenantId(words.number("tenant").unwrap_or(0)),
            root: BlockHash(0),
        };
        let role = Role {
            request: request.clone(),
            stop: words.number("stop"),
            fault: words.number("fault"),
            drawn: replayed,
        };
        match self.scheduler.submit(request, self.now) {
            Ok(()) => drop(self.roles.insert(id, role)),
            Err(reject) => writeln!(self.said, "{name} rejected: {reject:?}").unwrap(),
        }
    }

    fn run(&mut self) {
        for _ in 0..1000 {
            if self.scheduler.is_idle() {
                return;
            }
            while self.flights.len() < self.depth && self.plan() {}
            if !self.flights.is_empty() {
                self.apply();
            }
        }
        panic!("it never ends:\n{}", self.said);
    }

    fn plan(&mut self) -> bool {
        let mut plan = Plan::default();
        let mut events = Vec::new();
        self.scheduler.plan(self.now, &mut plan, &mut events);
        // The counts say how often; `invariants` checks who.
        events.retain(|event| !matches!(event, Event::Preempted { .. }));
        let mut line = if plan.is_empty() {
            "-:".to_owned()
        } else {
            format!("{}:", plan.step)
        };
        for slice in &plan.slices {
            let name = name_of(slice.id);
            let pending = if plan.tokens_of(slice) == [Token::PENDING] {
                "?"
            } else {
                ""
            };
            write!(
                line,
                " {name}[{}..{}]{pending}",
                slice.positions.start, slice.positions.end
            )
            .unwrap();
        }
        if !(plan.is_empty() && events.is_empty()) {
            self.say(&line, &events);
        }
        let planned = !plan.is_empty();
        if planned {
            self.flights.push_back(plan);
        }
        planned
    }

    fn apply(&mut self) {
        let plan = self.flights.pop_front().unwrap();
        let mut outcome = Outcome {
            step: plan.step,
            sampled: Vec::new(),
        };
        for slice in plan.slices.iter().filter(|slice| slice.samples) {
            let role = self.roles.get_mut(&slice.id).unwrap();
            role.drawn += 1;
            let drawn = token(slice.id, role.request.prompt.len() as u32 + role.drawn - 1);
            let sampled = match Some(role.drawn) {
                number if number == role.stop => Sampled::Last(drawn),
                number if number == role.fault => Sampled::Fault,
                _ => Sampled::Token(drawn),
            };
            outcome.sampled.push((slice.id, sampled));
        }
        let mut events = Vec::new();
        self.scheduler.apply(&outcome, self.now, &mut events);
        let line = format!("{}.", outcome.step);
        self.say(&line, &events);
    }

    fn say(&mut self, line: &str, events: &[Event]) {
        self.said.push_str(line);
        for event in events {
            match *event {
                Event::Started {
                    id,
                    cached_tokens: 0,
                } => write!(self.said, " | {} starts", name_of(id)),
                Event::Started { id, cached_tokens } => {
                    write!(self.said, " | {} starts at {cached_tokens}", name_of(id))
                }
                Event::Preempted { .. } => Ok(()),
                Event::Token { id, .. } => write!(self.said, " {}+", name_of(id)),
                Event::Finished { id, finish } => {
                    write!(self.said, " | {} ends: {finish:?}", name_of(id))
                }
            }
            .unwrap();
        }
        self.said.push('\n');
    }

    fn stats(&mut self) {
        let stats = self.scheduler.stats();
        writeln!(
            self.said,
            "waiting {} running {} free {} active {} cached {} preemptions {} evictions {}",
            stats.waiting,
            stats.running,
            stats.blocks_free,
            stats.blocks_active,
            stats.blocks_cached,
            stats.preemptions,
            stats.evictions
        )
        .unwrap();
    }
}

/// The token at `position` of a request's own text.
fn token(id: RequestId, position: u32) -> Token {
    Token(id.0 as u32 * 1000 + position)
}

fn id_of(name: &str) -> RequestId {
    let [letter] = name.as_bytes() else {
        panic!("names are one letter: {name}")
    };
    RequestId(u64::from(*letter))
}

fn name_of(id: RequestId) -> char {
    char::from(id.0 as u8)
}
