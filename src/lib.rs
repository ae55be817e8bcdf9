//! reseal: backups that can forget.
//!
//! The map of the house, from the top; a room uses only rooms below it:
//!
//! | room | idea |
//! |---|---|
//! | [`cli`] | a file per command: arguments, rendering, prompts. The only place that prints |
//! | [`engine`] | the verbs, each plan (pure, printable) → execute: backup, restore, export, propagate, rotate, verify, drill |
//! | [`source`] | where backups come from and restores go to: folders, SQLite snapshots, commands; tar streams |
//! | [`format`] | how an entry's bytes are cut into pieces that can be edited alone, and edited |
//! | [`datamap`] | whose records are whose: collections, identities, references, strategies |
//! | [`policy`] | retention, clocks, holds, deadlines: pure functions of facts and a `now` |
//! | [`repository`] | heads, packs, sheets, slots, ledger, leases: objects, and the orders that keep them safe |
//! | [`catalog`] | the local database: what was seen before (so that a rollback shows), and the journal |
//! | [`config`] | reseal.yaml: raw form → resolved form, every error with its place |
//! | [`crypto`] | seal and open, key derivation, signatures |
//! | [`store`] | the object store: a local directory, a bucket |
//!
//! A backup flows `source → format (cut) → repository (hash, compress, seal, pack) → store`; an erasure flows
//! `ledger → engine::propagate → format (find, edit) → repository → store → verification → ledger`.

#![deny(missing_docs)]
#![deny(unsafe_op_in_unsafe_fn)]

pub mod catalog;
pub mod cli;
pub mod config;
pub mod crash;
pub mod crypto;
pub mod datamap;
pub mod engine;
pub mod env;
pub mod error;
pub mod format;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod memory;
pub mod policy;
pub mod repository;
pub mod source;
pub mod store;

pub use error::{Error, Result};

/// Program and version, as it stands in heads, the ledger and certificates.
pub const TOOL: &str = concat!("reseal ", env!("CARGO_PKG_VERSION"));
