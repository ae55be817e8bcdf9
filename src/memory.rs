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

/// See above.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn few_arenas() {}
