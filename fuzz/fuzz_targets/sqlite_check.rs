//! Fuzzes what an edit of a database wrote, damaged: see `src/fuzzing.rs`.
#![no_main]

reseal_fuzz::target!("sqlite_check");
