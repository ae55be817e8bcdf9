//! Fuzzes archived databases that are edited: see `src/fuzzing.rs`.
#![no_main]

reseal_fuzz::target!("sqlite_edit");
