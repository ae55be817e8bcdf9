//! Fuzzes databases on their way into an archive: see `src/fuzzing.rs`.
#![no_main]

reseal_fuzz::target!("sqlite_cut");
