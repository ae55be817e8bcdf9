//! What the ledger records. One enum, so that the fold in [`super::state`] is the only place that interprets it.
//!
//! No event holds a plaintext identity: identities are tokens, free text is what an operator typed as a reason.
//! Unknown events of a later version are kept and skipped ([`Event::Unknown`]).

use crate::datamap::Token;
use crate::policy::Kind;
use crate::repository::ArchiveId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One identity of a request, as the ledger keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityTokens {
    /// Identity kind, or the name of a composite identity.
    pub kind: String,
    /// Words in the longest component, so that the restore gate knows how long a mention in text can be.
    pub words: u8,
    /// For every combination of normalisations: how each component was normalised, and the token.
    pub tokens: Vec<NormalizedToken>,
}

/// A token, and how the values were normalised before it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NormalizedToken {
    /// [`crate::datamap::Normalize::bits`] of each component.
    #[serde(rename = "n", with = "serde_bytes")]
    pub normalize: Vec<u8>,
    /// The token.
    #[serde(rename = "t")]
    pub token: Token,
}

/// What became of one archive in a propagation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveOutcome {
    /// Its dataset.
    pub dataset: String,
    /// The archive.
    pub archive: ArchiveId,
    /// Its backup time.
    pub created_at: Timestamp,
    /// Generation and digest of the head before.
    pub before: (u32, String),
    /// Generation and digest of the head after (the same when nothing had to change).
    pub after: (u32, String),
    /// Per request: counts per collection.
    pub requests: BTreeMap<String, BTreeMap<String, Counts>>,
    /// Requests of which nothing is left to do on this archive: searched, edited where needed, and verified.
    #[serde(default)]
    pub complete: Vec<String>,
    /// PASS, FAILED or UNKNOWN.
    pub verification: Verdict,
    /// What was not done and why; empty when everything was.
    pub left: Vec<String>,
    /// `rewrite`, `expire` or `replay`.
    pub mode: String,
    /// Absolute paths are never in here; notes for the certificate.
    pub notes: Vec<String>,
}

impl ArchiveOutcome {
    /// Adds what a later run, for other requests, did to the same archive.
    pub fn follow(&mut self, run: ArchiveOutcome) {
        self.after = run.after;
        self.requests.extend(run.requests);
        self.complete.extend(run.complete);
        self.verification = self.verification.and(run.verification);
        for (all, more) in [(&mut self.left, run.left), (&mut self.notes, run.notes)] {
            for text in more {
                if !all.contains(&text) {
                    all.push(text);
                }
            }
        }
    }
}

/// Records of one collection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Found to be the person's.
    pub found: u64,
    /// Deleted.
    pub deleted: u64,
    /// Rewritten so that only erased values remain.
    pub anonymised: u64,
    /// Of these, rewritten with a pseudonymising strategy.
    pub pseudonymised: u64,
    /// Kept on a ground (retain, preserve, shared).
    pub retained: u64,
    /// Could not be processed.
    pub failed: u64,
}

impl Counts {
    /// Adds another count.
    pub fn add(&mut self, other: &Counts) {
        self.found += other.found;
        self.deleted += other.deleted;
        self.anonymised += other.anonymised;
        self.pseudonymised += other.pseudonymised;
        self.retained += other.retained;
        self.failed += other.failed;
    }
}

/// What listings of the store showed after a sweep: the proof that what was removed is gone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreListing {
    /// Objects listed that a reader gets.
    pub objects: u64,
    /// Older versions listed, on stores that keep versions.
    pub old_versions: u64,
    /// Delete markers listed.
    pub delete_markers: u64,
    /// Of all these, what should have been gone and is not kept by a lock.
    pub left: u64,
    /// What a lock keeps: ciphertext whose keys are destroyed.
    pub locked: Vec<LockedObject>,
}

impl StoreListing {
    /// Of another dataset.
    pub fn add(&mut self, other: StoreListing) {
        self.objects += other.objects;
        self.old_versions += other.old_versions;
        self.delete_markers += other.delete_markers;
        self.left += other.left;
        self.locked.extend(other.locked);
    }
}

/// An object that a lock keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockedObject {
    /// Its key.
    pub key: String,
    /// When the lock ends; `None`: when a legal hold is ended.
    pub until: Option<Timestamp>,
}

/// What a store does by itself with what is kept in it, as found during a propagation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageFinding {
    /// The place.
    pub place: String,
    /// "versions", "lifecycle", "replication", "locks".
    pub aspect: String,
    /// "fine", "note", "warning", "UNKNOWN".
    pub result: String,
    /// In words.
    pub text: String,
}

/// The result of a check. Anything that was not checked is `Unknown`, and `Unknown` is never `Pass`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// Checked, and so.
    Pass,
    /// Not checked, or not to the end.
    #[default]
    Unknown,
    /// Checked, and not so.
    Failed,
}

impl Verdict {
    /// The worse of two.
    pub fn and(self, other: Verdict) -> Verdict {
        self.max(other)
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Verdict::Pass => "PASS",
            Verdict::Unknown => "UNKNOWN",
            Verdict::Failed => "FAILED",
        })
    }
}

/// An entry of the ledger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case", rename_all_fields = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// The repository was made.
    RepositoryCreated {
        /// Program and version.
        tool: String,
    },
    /// A backup finished.
    ArchiveSealed {
        /// Dataset.
        dataset: String,
        /// Archive.
        archive: ArchiveId,
        /// Digest of its head.
        digest: String,
        /// Backup time.
        created_at: Timestamp,
        /// Key id of the put-only host that handed it in (who is the actor then), and who admitted it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        admitted: Option<(String, String)>,
    },
    /// An archive that a put-only host handed in does not check: it is not admitted, and stays in the intake.
    IntakeRefused {
        /// Dataset.
        dataset: String,
        /// Archive.
        archive: ArchiveId,
        /// What does not fit.
        why: String,
    },
    /// An archive in the intake was thrown away.
    IntakeDiscarded {
        /// Dataset.
        dataset: String,
        /// Archive.
        archive: ArchiveId,
        /// The operator's words.
        reason: String,
    },
    /// A propagation replaced an archive's generation.
    ArchiveResealed {
        /// Dataset.
        dataset: String,
        /// Archive.
        archive: ArchiveId,
        /// The new generation.
        generation: u32,
        /// Digest of the new head.
        digest: String,
        /// Digest of the head that it replaces.
        previous: String,
        /// Requests that it is complete for.
        complete: Vec<String>,
        /// What was done, per request and collection: a crash after this must not lose the figures of the certificate.
        counts: BTreeMap<String, BTreeMap<String, Counts>>,
    },
    /// Retention removed an archive.
    ArchiveRotated {
        /// Dataset.
        dataset: String,
        /// Archive.
        archive: ArchiveId,
        /// Its last generation.
        generation: u32,
        /// The rule.
        reason: String,
    },
    /// An archive was read and checked.
    ArchiveVerified {
        /// Dataset.
        dataset: String,
        /// Archive.
        archive: ArchiveId,
        /// Generation.
        generation: u32,
        /// What was checked: "structure", "data 10%", "data 100%".
        scope: String,
        /// Result.
        result: Verdict,
    },
    /// An archive was restored for real and checked.
    ArchiveDrilled {
        /// Dataset.
        dataset: String,
        /// Archive.
        archive: ArchiveId,
        /// Generation.
        generation: u32,
        /// Result.
        result: Verdict,
        /// Seconds the restore took.
        restore_seconds: f64,
        /// Bytes restored.
        bytes: u64,
    },
    /// A request was opened.
    RequestOpened {
        /// Its id.
        request: String,
        /// Which clock.
        kind: Kind,
        /// In which datasets, with the identities' tokens in each.
        datasets: BTreeMap<String, Vec<IdentityTokens>>,
        /// When the person (or the operator's process) asked.
        received: Timestamp,
        /// Ends of the grace period: from then on it may be propagated.
        due_at: Timestamp,
        /// By when it must be done; none for deletions.
        deadline: Option<Timestamp>,
        /// The operator's words.
        reason: Option<String>,
        /// Approvals that the policy asks for.
        approvals_needed: u32,
    },
    /// One of the approvals.
    RequestApproved {
        /// The request.
        request: String,
    },
    /// A legal hold stops it.
    RequestHeld {
        /// The request.
        request: String,
        /// The ground.
        reason: String,
    },
    /// The hold ended.
    RequestReleased {
        /// The request.
        request: String,
        /// The operator's words.
        reason: Option<String>,
    },
    /// Taken back before it was due.
    RequestCancelled {
        /// The request.
        request: String,
        /// The operator's words.
        reason: Option<String>,
    },
    /// Refused with a ground.
    RequestRefused {
        /// The request.
        request: String,
        /// The ground.
        ground: String,
        /// Law or contract.
        citation: Option<String>,
    },
    /// The deadline was extended, once.
    RequestExtended {
        /// The request.
        request: String,
        /// New deadline.
        deadline: Timestamp,
        /// The recorded reason.
        reason: String,
    },
    /// Identities found on the person's records, proposed and confirmed by a person or the policy.
    IdentitiesConfirmed {
        /// The request.
        request: String,
        /// The added tokens by dataset.
        datasets: BTreeMap<String, Vec<IdentityTokens>>,
    },
    /// A propagation begins; its sequence number is the ledger epoch of what it re-seals.
    PropagationStarted {
        /// The requests it carries.
        requests: Vec<String>,
        /// The datasets.
        datasets: Vec<String>,
        /// The moment of erasure: archives with an earlier backup time are covered.
        effective_at: Timestamp,
        /// Why the waiting was skipped (`--now`).
        skipped_waiting: Option<String>,
    },
    /// A propagation ended.
    PropagationFinished {
        /// Sequence number of its start.
        started: u64,
        /// Requests that are done with it: every copy processed and verified.
        done: Vec<String>,
        /// Requests of which something is left.
        partial: Vec<String>,
        /// Archive by archive.
        archives: Vec<ArchiveOutcome>,
        /// Whether the listing showed every replaced object gone.
        gone: Verdict,
        /// "changed" or "full".
        scope: String,
        /// Digest of the data map and policy per dataset.
        policies: BTreeMap<String, String>,
        /// What the listing showed.
        #[serde(default)]
        listing: StoreListing,
        /// What the stores do by themselves.
        #[serde(default)]
        storage: Vec<StorageFinding>,
    },
    /// An erased person was found in a later backup.
    StillLive {
        /// The request.
        request: String,
        /// Dataset.
        dataset: String,
        /// The later archive.
        archive: ArchiveId,
        /// Records by collection.
        records: BTreeMap<String, u64>,
    },
    /// The officer said that an erased person came back as a new customer.
    CameBack {
        /// The request.
        request: String,
        /// From when on.
        since: Timestamp,
        /// The officer's words.
        reason: String,
    },
    /// A key slot was added.
    KeyAdded {
        /// Slot id.
        slot: String,
        /// Its label.
        label: String,
    },
    /// A key slot was removed.
    KeyRemoved {
        /// Slot id.
        slot: String,
    },
    /// The root key was replaced.
    KeyRotated {
        /// Objects sealed anew.
        objects: u64,
    },
    /// The keys' side was exported into a file, which holds everything up to this entry.
    KeysExported {
        /// Id of the export.
        export: String,
        /// Where it is kept, in the operator's words.
        label: String,
    },
    /// The keys' side was brought back from an export.
    KeysImported {
        /// Id of the export.
        export: String,
        /// The last entry in it: what was recorded later is lost, where this comes right after it.
        ledger: u64,
    },
    /// Somebody says that an export does not exist any more.
    KeysExportDestroyed {
        /// Id of the export.
        export: String,
        /// The operator's words.
        reason: String,
    },
    /// A restore, export or drill was allowed past the gate.
    GateSkipped {
        /// Dataset.
        dataset: String,
        /// Archive.
        archive: ArchiveId,
        /// Why.
        reason: String,
        /// The second person.
        approver: String,
    },
    /// An archive was restored or exported.
    Restored {
        /// Dataset.
        dataset: String,
        /// Archive.
        archive: ArchiveId,
        /// "restore", "export", "subject-export".
        how: String,
        /// Erasures that the gate applied on the way.
        replayed: u64,
    },
    /// Something that this version does not know.
    #[serde(other)]
    Unknown,
}
