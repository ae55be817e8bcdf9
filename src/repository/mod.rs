//! (stub)
pub mod entry;
