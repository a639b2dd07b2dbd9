//! What a server says of itself on `/metrics`.

/// The series of one scrape.
#[derive(Debug)]
pub(crate) struct Metrics(Vec<(String, f64)>);

impl Metrics {
    pub(crate) fn parse(page: &str) -> Self {
        let series = page.lines().filter(|line| !line.starts_with('#'));
        let series = series.filter_map(|line| {
            let (key, value) = line.rsplit_once(' ')?;
            Some((key.to_owned(), value.parse().ok()?))
        });
        Self(series.collect())
    }

    /// The sum of all series of a metric with this label, as `state="active"`; 0 if there is none.
    pub(crate) fn sum(&self, name: &str, label: &str) -> u64 {
        let matching = self.0.iter().filter(|(key, _)| {
            key.strip_prefix(name)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
                && key.contains(label)
        });
        matching.map(|(_, value)| *value).sum::<f64>() as u64
    }

    /// How many series there are.
    pub(crate) fn series(&self) -> u64 {
        self.0.len() as u64
    }

    /// KV blocks that sequences use.
    pub(crate) fn active(&self) -> u64 {
        self.sum("paternoster_kv_blocks", "state=\"active\"")
    }

    /// KV blocks in all.
    pub(crate) fn blocks(&self) -> u64 {
        self.sum("paternoster_kv_blocks", "")
    }

    /// Calls and sequences that have not ended.
    pub(crate) fn running(&self) -> u64 {
        self.sum("paternoster_calls_in_flight", "")
            + self.sum("paternoster_requests_running", "")
            + self.sum("paternoster_requests_waiting", "")
    }

    /// Generations that ended with this code; all of them without one.
    pub(crate) fn calls(&self, code: &str) -> u64 {
        let generations = self.0.iter().filter(|(key, _)| {
            key.starts_with("paternoster_requests_total{")
                && key.contains("method=\"Generate\"")
                && (code.is_empty() || key.contains(&format!("code=\"{code}\"")))
        });
        generations.map(|(_, value)| *value).sum::<f64>() as u64
    }

    /// Whether nothing runs.
    pub(crate) fn idle(&self) -> bool {
        self.active() == 0 && self.running() == 0
    }
}
