//! How the process holds memory. GNU's allocator makes up to eight arenas a processor, each of which keeps what was freed in it for itself:
//! with many short-lived threads that is a fifth of all memory, and the bound that the configuration gives is meant for the process.

/// Two arenas, for all threads. Does nothing where the allocator is another. Called before there are threads.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn few_arenas() {
    // SAFETY: no other thread runs yet, and the call only sets a number; what it answers (whether the setting is known) changes nothing.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

/// Gives what was freed back to the system, from the middle of the arenas too: what comes next is of other sizes and finds little room between
/// what was left.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn give_back() {
    // SAFETY: it takes its own locks, moves nothing that is in use, and says only whether there was something to give.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// See above.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn few_arenas() {}

/// See above.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn give_back() {}
