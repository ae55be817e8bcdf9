//! Propagating erasures into existing archives.
//!
//! Plan: which requests, which archives, what would be deleted, rewritten, kept, and what cannot be done. Execute, in the order that keeps
//! everything safe (`docs/format.md`, "re-seal"): ledger `started` → new packs and sheets → new heads → read the new generations
//! back and verify → ledger `resealed` → remove the old heads → drop keys and ciphertext that nothing needs → list the store and prove the
//! old objects absent → ledger `finished`. Interrupted anywhere, running it again completes it.

mod bytes;
mod check;
mod dropping;
mod editing;
mod execute;
mod people;
mod plan;
mod proof;
mod readback;

pub use bytes::ByteSearch;
#[cfg(test)]
pub(super) use check::no_collateral;
pub use check::{Scope, needs_change};
pub use dropping::{drop_dead, out_of_place};
pub use execute::execute;
pub use people::{IDENTITIES_PURPOSE, People, REQUESTS, identities_key, request_people, token_mentions};
pub use plan::{ArchivePlan, DatasetPlan, Plan, choose_requests, is_made_after, is_processed as plan_is_processed, plan};
pub use proof::storage;

use super::event::{ArchiveOutcome, StorageFinding, StoreListing, Verdict};
use super::session::Traffic;
use super::state::KeyExport;
use std::collections::BTreeMap;

/// What the user asked for.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Only these requests; all due ones when empty.
    pub requests: Vec<String>,
    /// How much is searched afterwards.
    pub scope: Scope,
    /// Skip the waiting, for this reason.
    pub now: Option<String>,
}

/// What a propagation did.
#[derive(Debug, Clone)]
pub struct Report {
    /// Sequence number of its start; 0 when nothing was due.
    pub started: u64,
    /// Archive by archive.
    pub archives: Vec<ArchiveOutcome>,
    /// Requests done.
    pub done: Vec<String>,
    /// Requests of which something is left.
    pub partial: Vec<String>,
    /// Whether the replaced objects are gone.
    pub gone: Verdict,
    /// Bytes read from the store.
    pub bytes_read: u64,
    /// Bytes written to the store.
    pub bytes_written: u64,
    /// Chunks dropped, and the bytes of ciphertext that went with them.
    pub dropped: (u64, u64),
    /// What the listing of the store showed.
    pub listing: StoreListing,
    /// What the stores do by themselves.
    pub storage: Vec<StorageFinding>,
    /// Requests and bytes, by kind.
    pub traffic: Traffic,
    /// Identities found on the person's records that the request does not name, per request: kind → how many values.
    pub also_known: BTreeMap<String, BTreeMap<String, u64>>,
    /// Exports of the keys that still hold what was destroyed.
    pub exports: Vec<KeyExport>,
}

impl Report {
    /// Nothing done yet.
    pub fn empty() -> Report {
        Report {
            started: 0,
            archives: Vec::new(),
            done: Vec::new(),
            partial: Vec::new(),
            gone: Verdict::Pass,
            bytes_read: 0,
            bytes_written: 0,
            dropped: (0, 0),
            listing: StoreListing::default(),
            storage: Vec::new(),
            traffic: Traffic::default(),
            also_known: BTreeMap::new(),
            exports: Vec::new(),
        }
    }
}

impl Report {
    /// Adds what a run after it did; not what the caller counts for all of them.
    fn add(&mut self, run: Report) {
        if self.started == 0 {
            self.started = run.started;
        }
        for outcome in run.archives {
            match self.archives.iter_mut().find(|a| a.archive == outcome.archive && a.dataset == outcome.dataset) {
                Some(before) => before.follow(outcome),
                None => self.archives.push(outcome),
            }
        }
        self.done.extend(run.done);
        self.partial.extend(run.partial);
        self.gone = self.gone.and(run.gone);
        self.dropped.0 += run.dropped.0;
        self.dropped.1 += run.dropped.1;
        self.listing.add(run.listing);
        for finding in run.storage {
            if !self.storage.contains(&finding) {
                self.storage.push(finding);
            }
        }
        for (request, kinds) in run.also_known {
            self.also_known.entry(request).or_default().extend(kinds);
        }
    }

    /// The exit code: 0 done, 3 something is left, 4 a verification failed.
    pub fn exit_code(&self) -> u8 {
        let failed = self.gone == Verdict::Failed || self.archives.iter().any(|a| a.verification == Verdict::Failed);
        match (failed, self.partial.is_empty() && self.exports.is_empty()) {
            (true, _) => 4,
            (_, false) => 3,
            _ => 0,
        }
    }
}
