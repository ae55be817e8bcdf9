//! Fuzzes conditions, dates, periods and patterns: see `src/fuzzing.rs`.
#![no_main]

reseal_fuzz::target!("expr");
