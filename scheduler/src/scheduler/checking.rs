//! The complete check of all counts, too slow for every step and run anyway now and then.

use super::Scheduler;

/// Plans between two complete checks. A check visits every block and compares its text: 2.5 ms for
/// 10^5 published blocks of 16 tokens (release, one Zen 4 core), 0.6 us a plan.
const CHECK_PLANS: u32 = 4096;

/// Plans after which an idle scheduler is checked.
const CHECK_IDLE_PLANS: u32 = 64;

impl Scheduler {
    /// Checks every count and list the scheduler keeps. Panics when one is wrong. O(blocks).
    pub fn check(&self) {
        self.check_blocks();
        self.check_sequences();
        self.queue.check(self.sequences.len());
        let waiting = self.sequences.iter().filter(|s| s.slot.is_none()).count();
        assert!(
            waiting == self.queue.waiting() as usize,
            "a sequence neither waits nor runs"
        );
        let deadlines = self
            .sequences
            .iter()
            .filter(|s| s.cold.deadline.is_some())
            .count();
        assert!(
            deadlines == self.deadlines.len(),
            "a deadline is lost or left over"
        );
    }

    pub(super) fn check_sometimes(&mut self) {
        self.plans_unchecked += 1;
        if self.plans_unchecked >= CHECK_PLANS {
            self.plans_unchecked = 0;
            self.check();
        }
    }

    pub(super) fn check_when_idle(&mut self) {
        if self.plans_unchecked >= CHECK_IDLE_PLANS && self.is_idle() {
            self.plans_unchecked = 0;
            self.check();
        }
    }

    /// Every block is named as often as it is counted, every slot belongs to one.
    fn check_blocks(&self) {
        let mut refs = vec![0; self.kv.pool().total() as usize + 1];
        let running = self.sequences.iter().map(|s| &s.table);
        for table in running.chain(self.fences.iter().map(|f| &f.table)) {
            for block in table {
                refs[block.0 as usize] += 1;
            }
        }
        self.kv.check(&refs);
        let slots_max = self.limits.running_max.min(self.limits.step_tokens_max);
        let mut taken = vec![false; slots_max as usize];
        let running = self.sequences.iter().filter_map(|s| s.slot);
        let fenced = self.fences.iter().map(|f| f.slot);
        for slot in running.chain(fenced).chain(self.slots.iter().copied()) {
            assert!(!taken[slot.0 as usize], "{slot:?} belongs to two");
            taken[slot.0 as usize] = true;
        }
        assert!(taken.iter().all(|&taken| taken), "a slot is lost");
    }

    /// Each sequence's own counts agree with each other.
    fn check_sequences(&self) {
        let mut running = 0;
        for sequence in self.sequences.iter() {
            let id = sequence.id;
            let tokens = sequence.cold.prompt.len() + sequence.output.len();
            assert!(
                sequence.known as usize == tokens,
                "{id:?} has lost count of its tokens"
            );
            assert!(
                sequence.known < sequence.known_max,
                "{id:?} should have ended"
            );
            if sequence.slot.is_none() {
                assert!(
                    sequence.table.is_empty(),
                    "{id:?} waits with blocks in hand"
                );
                continue;
            }
            running += 1;
            let block_tokens = self.kv.block_tokens();
            let room = sequence.table.len() as u32 * block_tokens;
            assert!(
                sequence.planned <= room,
                "{id:?} is planned beyond its blocks"
            );
            assert!(
                sequence.computed <= sequence.planned,
                "{id:?} computed what nobody planned"
            );
            assert!(
                sequence.published * block_tokens <= sequence.computed,
                "{id:?} published early"
            );
        }
        assert!(
            running == self.running_count,
            "the running sequences are miscounted"
        );
        let live = self
            .running
            .iter()
            .filter(|&&handle| self.sequences.is_current(handle));
        let ranks: Vec<_> = live
            .map(|handle| self.sequences.at(handle.index).rank())
            .collect();
        assert!(
            ranks.len() == running as usize,
            "a running sequence is not in the list"
        );
        assert!(ranks.is_sorted(), "the running list is out of order");
    }
}
