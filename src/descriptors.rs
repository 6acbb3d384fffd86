//! How many connections this process may have open, and how they are shared out: callers, deliveries to client apps, and
//! what the hub itself cannot do without. One kind that takes all would stop the others (F35, F43, F44).

use crate::config::Config;

/// For the database, files, and calls to gateways and invoicing APIs.
const KEPT: usize = 128;

/// Takes as many as this process may have: the system's first offer is often 1,024, made for programs that cannot count
/// further, and the second a thousand times that. Where it is refused, what there is has to do.
pub fn raise() {
    let _ = rlimit::increase_nofile_limit(ENOUGH);
}

/// More than this no hub needs.
const ENOUGH: u64 = 65_536;

/// What each kind may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// Connections of callers.
    pub callers: usize,
    /// Deliveries to client apps at the same time. As many connections again may be kept for the next ones.
    pub telling: usize,
    /// Fewer than wanted.
    pub is_short: bool,
}

impl Shares {
    /// Of what this process may have (`ulimit -n`), for what the settings want.
    pub fn of_this_process(config: &Config) -> Shares {
        let (callers, telling) = (config.max_connections, config.tell_in_flight);
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
        match soft_limit_of_files(&limits) {
            Some(limit) => Shares::of(limit, callers, telling),
            None => Shares { callers, telling, is_short: false },
        }
    }

    fn of(limit: usize, wanted_callers: usize, wanted_telling: usize) -> Shares {
        let quarter = limit / 4;
        let telling = wanted_telling.min(quarter).max(1);
        let callers = limit.saturating_sub(KEPT.min(quarter) + 2 * telling).max(1).min(wanted_callers);
        Shares { callers, telling, is_short: callers < wanted_callers || telling < wanted_telling }
    }
}

fn soft_limit_of_files(limits: &str) -> Option<usize> {
    let line = limits.lines().find_map(|l| l.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(limit: usize, callers: usize, telling: usize) {
        let shares = Shares::of(limit, 8192, 1024);
        assert_eq!((shares.callers, shares.telling), (callers, telling), "{limit}");
        assert_eq!(shares.is_short, callers < 8192 || telling < 1024);
        assert!(callers + 2 * telling <= limit, "{limit}");
    }

    #[test]
    fn nobody_gets_all() {
        check(64, 16, 16);
        check(256, 64, 64);
        check(1024, 384, 256);
        check(4096, 1920, 1024);
        check(65_536, 8192, 1024);
    }

    #[test]
    fn the_limit_of_files_is_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max open files            1024                 524288               files\n";
        assert_eq!(soft_limit_of_files(limits), Some(1024));
        assert_eq!(
            soft_limit_of_files("Max open files            unlimited            unlimited            files"),
            None
        );
    }
}
