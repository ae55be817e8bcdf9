//! How the process holds memory. GNU's allocator makes up to eight arenas a processor, each of which keeps what was freed in it for itself:
//! with many short-lived threads that is a fifth of all memory, and the bound that the configuration gives is meant for the process. And once
//! a large buffer was freed, it puts the next ones among the small ones, where the room between them is lost.

/// Buffers of so many bytes are kept apart, and given back when they are freed: packs, windows of a restore.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const APART: libc::c_int = 4 << 20;
/// Free bytes at an arena's end that are kept for what comes next.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const SPARE: libc::c_int = 32 << 20;

/// Two arenas, for all threads, and large buffers apart. Does nothing where the allocator is another. Called before there are threads.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn settle() {
    // SAFETY: no other thread runs yet, and the calls only set numbers; what they answer (whether the setting is known) changes nothing.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
        libc::mallopt(libc::M_MMAP_THRESHOLD, APART);
        libc::mallopt(libc::M_TRIM_THRESHOLD, SPARE);
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
pub fn settle() {}

/// See above.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn give_back() {}
