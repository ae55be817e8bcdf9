//! Fuzzes reseal.json and leases: see `src/fuzzing.rs`.
#![no_main]

reseal_fuzz::target!("params");
