//! Who this process is, so that others can tell when it is dead: a temporary file or a lease whose holder no longer runs may be
//! taken over at once, without waiting for it to expire.
//!
//! A process is only ever called dead by somebody who would see it alive: same boot of the same kernel, same pid namespace.
//! Everything else (another machine of the same name, another container) is unknown, and waits.

use serde::{Deserialize, Serialize};

/// Identifies a process among all on this kernel since it booted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// The kernel's boot id, 32 hex digits; empty where the system has none.
    pub boot: String,
    /// The pid namespace's inode number; 0 where the system has none.
    pub namespace: u64,
    /// Process number.
    pub pid: u32,
    /// When it started, in clock ticks since boot: tells a reused number.
    pub start: u64,
}

/// Whether a process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alive {
    /// It does.
    Yes,
    /// It certainly does not.
    No,
    /// It runs where this process cannot look.
    Unknown,
}

impl ProcessId {
    /// This process.
    pub fn current() -> ProcessId {
        let pid = std::process::id();
        ProcessId { boot: boot_id(), namespace: namespace(), pid, start: started(pid).unwrap_or(0) }
    }

    /// Whether this process still runs.
    pub fn alive(&self) -> Alive {
        let here = ProcessId::current();
        if self.boot.is_empty() || self.namespace == 0 || self.start == 0 || self.boot != here.boot || self.namespace != here.namespace {
            return Alive::Unknown;
        }
        match started(self.pid) {
            Some(start) if start == self.start => Alive::Yes,
            Some(_) => Alive::No,
            // What others run may be hidden (`hidepid`); whether the number is taken is told all the same.
            None => match i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw).map(rustix::process::test_kill_process) {
                None | Some(Err(rustix::io::Errno::SRCH)) => Alive::No,
                Some(_) => Alive::Unknown,
            },
        }
    }
}

/// The machine's name, for messages. Not an identity.
pub fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().chars().filter(|c| !c.is_control()).take(64).collect()
}

fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.chars().filter(char::is_ascii_hexdigit).take(32).collect()
}

fn namespace() -> u64 {
    let link = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    link.to_string_lossy().chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0)
}

/// Field 22 of `/proc/<pid>/stat`; the name before it may hold spaces and brackets, so counting starts after the last bracket.
fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_dead_only_to_who_would_see_it_alive() {
        let me = ProcessId::current();
        assert_eq!(me.alive(), Alive::Yes);
        assert_eq!(ProcessId { start: me.start + 1, ..me.clone() }.alive(), Alive::No);
        // Above all numbers that the kernel gives.
        assert_eq!(ProcessId { pid: i32::MAX as u32, ..me.clone() }.alive(), Alive::No);
        assert_eq!(ProcessId { pid: u32::MAX, ..me.clone() }.alive(), Alive::No);
        assert_eq!(ProcessId { boot: "0".repeat(32), ..me.clone() }.alive(), Alive::Unknown);
        assert_eq!(ProcessId { namespace: 1, ..me }.alive(), Alive::Unknown);
    }
}
