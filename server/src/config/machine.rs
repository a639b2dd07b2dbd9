//! The machine, as far as defaults depend on it.

/// The machine, as far as defaults depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Cores this process may use.
    pub cores: usize,
    /// Bytes of memory this process may use; `None` if unknown.
    pub memory_bytes: Option<u64>,
}

impl Machine {
    /// The machine this runs on.
    pub fn detect() -> Self {
        let read = |path| std::fs::read_to_string(path).ok();
        let total = read("/proc/meminfo").as_deref().and_then(mem_total);
        let group = read("/sys/fs/cgroup/memory.max").and_then(|text| text.trim().parse().ok());
        Self {
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_bytes: [total, group].into_iter().flatten().min(),
        }
    }

    /// Memory for KV that leaves room for everything else.
    pub(super) fn kv_cache_bytes(self) -> u64 {
        self.memory_bytes
            .map_or(KV_CACHE_BYTES, |bytes| (bytes / 4).min(KV_CACHE_BYTES))
    }
}

const KV_CACHE_BYTES: u64 = 1 << 30;

fn mem_total(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_machine_is_read() {
        assert_eq!(
            mem_total("MemFree: 1 kB\nMemTotal:  2048 kB\n"),
            Some(2 << 20)
        );
        assert_eq!(mem_total("nothing"), None);
    }
}
