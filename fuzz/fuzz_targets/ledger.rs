//! Fuzzes the ledger's entries and what they say: see `src/fuzzing.rs`.
#![no_main]

reseal_fuzz::target!("ledger");
