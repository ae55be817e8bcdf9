//! The verbs. Each plans first (a value that can be printed), then executes in an order that survives being cut off anywhere.

pub mod archive;
pub mod backup;
pub mod blocks;
pub mod certificate;
pub mod decide;
pub mod drill;
pub mod edit;
pub mod event;
pub mod export;
pub mod gate;
pub mod held;
pub mod identity;
pub mod intake;
pub mod keyexport;
pub mod mapcheck;
pub mod mapsuggest;
pub mod matching;
pub mod nightly;
pub mod propagate;
pub mod request;
pub mod reseal;
pub mod restore;
pub mod rotate;
pub mod session;
pub mod state;
pub mod statement;
pub mod subject;
pub mod verify;
pub mod wanted;

#[cfg(test)]
mod remote_test;

use std::time::Duration;

/// How long a lease holds without being renewed.
pub const LEASE_TTL: Duration = Duration::from_secs(120);
