//! How many passwords are hashed at once: as many as there are cores, and as the memory limit allows.

use std::{fs, thread};

use super::phc::MEMORY;

/// What the rest of the process needs, in bytes.
const RESERVED: u64 = 128 * 1024 * 1024;

/// The memory limits of the process's control group: version 2, then version 1.
const LIMITS: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];

/// Returns the number of threads, at least one.
pub(super) fn count() -> usize {
    // It counts the cores that the control group and the affinity leave to the process.
    let cores = thread::available_parallelism().map_or(1, usize::from);
    count_for(cores, memory_limit())
}

fn count_for(cores: usize, limit: Option<u64>) -> usize {
    let fit = limit.map(|limit| limit.saturating_sub(RESERVED) / (u64::from(MEMORY) * 1024));
    let fit = fit.and_then(|fit| usize::try_from(fit).ok()).unwrap_or(usize::MAX);
    cores.min(fit).max(1)
}

/// The memory limit in bytes; `None` if there is none.
fn memory_limit() -> Option<u64> {
    LIMITS.iter().find_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_and_memory_limit_the_threads() {
        const MIB: u64 = 1024 * 1024;
        for (cores, limit, expected) in [
            (2, None, 2),
            (64, None, 64),
            (64, Some(256 * MIB), 6),
            (2, Some(256 * MIB), 2),
            (2, Some(128 * MIB), 1),
            (2, Some(64 * MIB), 1),
            (2, Some(166 * MIB), 2),
            (2, Some(165 * MIB), 1),
        ] {
            assert_eq!(count_for(cores, limit), expected, "{cores} {limit:?}");
        }
    }
}
