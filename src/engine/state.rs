//! The ledger folded: where every request stands, and what is known about every archive.

use super::event::{ArchiveOutcome, Counts, Event, IdentityTokens, StorageFinding, StoreListing, Verdict};
use crate::policy::{self, clocks::Progress};
use crate::repository::{ArchiveId, Ledger, LedgerEntry};
use crate::{Error, Result};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// One request.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its id.
    pub id: String,
    /// Its clocks, approvals, hold and progress.
    pub clock: policy::Request,
    /// Tokens by dataset.
    pub datasets: BTreeMap<String, Vec<IdentityTokens>>,
    /// Statutory deadline.
    pub deadline: Option<Timestamp>,
    /// The operator's words.
    pub reason: Option<String>,
    /// Who opened it.
    pub opened_by: String,
    /// The hold in force.
    pub hold: Option<String>,
    /// Why it was cancelled or refused.
    pub ended: Option<String>,
    /// Sequence numbers of the propagations that carried it, in order.
    pub started: Vec<u64>,
    /// Sequence number of the last entry that added identities.
    pub confirmed: Option<u64>,
    /// Sequence number of the first propagation that carried it.
    pub began: Option<u64>,
    /// Moment of the first propagation.
    pub effective_at: Option<Timestamp>,
    /// The last finished propagation that carried it.
    pub finished: Option<Finished>,
    /// Later archives in which the person was found again.
    pub still_live: Vec<(String, ArchiveId, Timestamp)>,
    /// The officer's word that the person came back.
    pub came_back: Option<Timestamp>,
}

impl Request {
    /// Whether an archive was there when the erasure began: made before, as it says, or known before.
    pub fn is_later_than(&self, made: Timestamp, facts: &ArchiveFacts) -> bool {
        let began = self.started.first().copied().or(self.began);
        self.effective_at.is_some_and(|e| e > made) || facts.refused.zip(began).is_some_and(|(refused, began)| refused < began)
    }

    /// Where it stands at `now`.
    pub fn stage(&self, now: Timestamp) -> policy::State {
        self.clock.state(now)
    }
}

/// How a propagation ended for a request.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Sequence number of the end.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// Who ran it.
    pub actor: String,
    /// Whether everything is done.
    pub done: bool,
    /// Archive by archive, shared by all requests of the run; what was done is in [`State::counts`].
    pub archives: Vec<Arc<ArchiveOutcome>>,
    /// Objects gone.
    pub gone: Verdict,
    /// "changed" or "full".
    pub scope: String,
    /// Digest of the data map and policy per dataset.
    pub policies: Arc<BTreeMap<String, String>>,
    /// What the listing of the stores showed.
    pub listing: Arc<StoreListing>,
    /// What the stores do by themselves.
    pub storage: Arc<Vec<StorageFinding>>,
}

/// What the ledger knows about an archive.
#[derive(Debug, Clone, Default)]
pub struct ArchiveFacts {
    /// When it was last verified with success, and with which scope.
    pub verified_at: Option<(Timestamp, String)>,
    /// When it was last drilled with success.
    pub drilled_at: Option<Timestamp>,
    /// The last verification or drill failed.
    pub failed_at: Option<Timestamp>,
    /// The highest generation ever recorded, with the digest of its head: an older one in the store has been put back.
    pub highest: Option<(u32, String)>,
    /// Removed by retention.
    pub rotated: bool,
    /// Number of the entry that says that it was made.
    pub sealed: Option<u64>,
    /// Number of the entry that refused it first, while it was in the intake: it was there by then, whatever its host's clock said.
    pub refused: Option<u64>,
    /// Its backup time, as whoever made it said.
    pub created_at: Option<Timestamp>,
    /// The put-only host that handed it in.
    pub host: Option<String>,
}

/// A file with the keys of the repository as they were at one entry of the ledger.
#[derive(Debug, Clone)]
pub struct KeyExport {
    /// Its id.
    pub id: String,
    /// Where it is kept, in the operator's words.
    pub label: String,
    /// The last ledger entry in it.
    pub seq: u64,
    /// When it was made.
    pub at: Timestamp,
    /// Who made it.
    pub actor: String,
    /// Its destruction, as somebody recorded it: when, and in which words.
    pub destroyed: Option<(Timestamp, String)>,
    /// Requests that were erased since, archives that were removed since, key slots that were removed or root keys replaced since.
    pub since: Since,
}

/// What an export still holds and the repository does not.
#[derive(Debug, Clone, Default)]
pub struct Since {
    /// Requests that a propagation was finished for: their keys were destroyed.
    pub erased: BTreeSet<String>,
    /// Archives that retention removed.
    pub rotated: u64,
    /// Key slots removed, whose secrets still open it.
    pub slots: u64,
    /// Replacements of the root key.
    pub roots: u64,
}

impl KeyExport {
    /// Whether it is (for all that is known) still there, and holds keys that an erasure destroyed.
    pub fn is_outdated(&self) -> bool {
        self.destroyed.is_none() && !self.since.erased.is_empty()
    }
}

/// Collections, by name, and what was done in them.
pub type Done = Box<[(Arc<str>, Counts)]>;

/// Everything the ledger says.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// By id, in order of opening.
    pub requests: Vec<Request>,
    /// By archive and digest of its head, the requests for which that generation was searched, edited where needed, and verified.
    processed: HashMap<ArchiveId, HashMap<String, BTreeSet<Arc<str>>>>,
    /// Requests that were given identities, and that no run was started for since.
    reopened: BTreeSet<Arc<str>>,
    /// What was done, by request and archive: collections and counts.
    pub counts: BTreeMap<(String, ArchiveId), Done>,
    /// Names of collections and requests, each once: there are as many counts as people times archives.
    names: BTreeSet<Arc<str>>,
    /// By dataset and archive.
    pub archives: BTreeMap<(String, ArchiveId), ArchiveFacts>,
    /// The last successful drill per dataset.
    pub last_drill: BTreeMap<String, Timestamp>,
    /// Archives in the intake that did not check when that was last tried, and why.
    pub refused: BTreeMap<(String, ArchiveId), String>,
    /// Number of the entry that refused an archive first.
    first_refused: BTreeMap<(String, ArchiveId), u64>,
    /// Exports of the keys, oldest first.
    pub exports: Vec<KeyExport>,
    /// Number of the last entry.
    pub seq: u64,
}

impl State {
    /// Exports that are still there and were made before an erasure was finished: they hold keys that it destroyed.
    pub fn outdated_exports(&self) -> impl Iterator<Item = &KeyExport> {
        self.exports.iter().filter(|e| e.is_outdated())
    }

    /// Those that hold keys which the erasure of this request destroyed.
    pub fn exports_holding(&self, request: &str) -> impl Iterator<Item = &KeyExport> {
        self.outdated_exports().filter(move |e| e.since.erased.contains(request))
    }

    /// An export by id or unique prefix.
    pub fn export(&self, id: &str) -> Result<&KeyExport> {
        let mut hits = self.exports.iter().filter(|e| e.id.starts_with(&id.to_lowercase()));
        match (hits.next(), hits.next()) {
            (Some(e), None) if !id.is_empty() => Ok(e),
            (Some(_), _) => Err(Error::Usage(format!("export {id:?} is not unique; give more of its id (reseal keys exports)"))),
            (None, _) => Err(Error::Usage(format!("no export {id:?} (reseal keys exports lists them)"))),
        }
    }

    fn since_exports(&mut self, change: impl Fn(&mut Since)) {
        self.exports.iter_mut().for_each(|e| change(&mut e.since));
    }

    /// Folds a ledger.
    pub fn fold(ledger: &Ledger) -> Result<State> {
        State::fold_entries(ledger.entries())
    }

    pub(crate) fn fold_entries(entries: &[LedgerEntry]) -> Result<State> {
        let mut state = State::default();
        state.apply_all(entries)?;
        Ok(state)
    }

    /// Goes on with the entries that were appended.
    pub fn follow(&mut self, entries: &[LedgerEntry]) -> Result<()> {
        let known = entries.partition_point(|entry| entry.seq <= self.seq);
        self.apply_all(entries.get(known..).unwrap_or_default())
    }

    fn apply_all(&mut self, entries: &[LedgerEntry]) -> Result<()> {
        for entry in entries {
            self.apply(entry.seq, entry.at, &entry.actor, entry.body()?);
            self.seq = entry.seq;
        }
        Ok(())
    }

    /// A request by id or unique prefix.
    pub fn request(&self, id: &str) -> Result<&Request> {
        let mut hits = self.requests.iter().filter(|r| r.id.starts_with(id));
        match (hits.next(), hits.next()) {
            (Some(r), None) if !id.is_empty() => Ok(r),
            (Some(_), _) => Err(Error::Usage(format!("request {id:?} is not unique; give more of its id (reseal request list)"))),
            (None, _) => Err(Error::Usage(format!("no request {id:?} (reseal request list shows them)"))),
        }
    }

    /// What is known of an archive.
    pub fn facts(&self, dataset: &str, archive: &ArchiveId) -> ArchiveFacts {
        self.archives.get(&(dataset.to_string(), *archive)).cloned().unwrap_or_default()
    }

    /// Whether a request was applied to, and verified on, exactly this generation of an archive.
    pub fn was_processed(&self, request: &str, archive: &ArchiveId, digest: &str) -> bool {
        self.processed.get(archive).and_then(|generations| generations.get(digest)).is_some_and(|requests| requests.contains(request))
    }

    /// Requests that were given identities after this entry.
    pub fn given_identities_since(&self, seq: u64) -> impl Iterator<Item = &Request> {
        self.requests.iter().filter(move |r| r.confirmed.is_some_and(|confirmed| confirmed > seq))
    }

    fn archive(&mut self, dataset: String, archive: ArchiveId) -> &mut ArchiveFacts {
        self.archives.entry((dataset, archive)).or_default()
    }

    /// Remembers figures; a later run that found nothing left to do does not erase them.
    fn count(&mut self, archive: ArchiveId, counts: &BTreeMap<String, BTreeMap<String, Counts>>) {
        for (request, collections) in counts.iter().filter(|(_, c)| !c.is_empty()) {
            let done = collections.iter().map(|(name, counts)| (self.named(name), *counts)).collect();
            self.counts.insert((request.clone(), archive), done);
        }
    }

    fn process(&mut self, archive: ArchiveId, digest: &str, requests: BTreeSet<Arc<str>>) {
        let generations = self.processed.entry(archive).or_default();
        match generations.get_mut(digest) {
            Some(known) => known.extend(requests),
            None => drop(generations.insert(digest.to_string(), requests)),
        }
    }

    fn named(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return known.clone();
        }
        let name: Arc<str> = name.into();
        self.names.insert(name.clone());
        name
    }

    fn with(&mut self, id: &str, change: impl FnOnce(&mut Request)) {
        if let Some(request) = self.find(id) {
            change(request);
        }
    }

    fn find(&mut self, id: &str) -> Option<&mut Request> {
        self.requests.iter_mut().find(|r| r.id == id)
    }

    fn apply(&mut self, seq: u64, at: Timestamp, actor: &str, event: Event) {
        match event {
            Event::ArchiveSealed { dataset, archive, digest, created_at, admitted } => {
                let name = (dataset.clone(), archive);
                self.refused.remove(&name);
                let refused = self.first_refused.get(&name).copied();
                let facts = self.archive(dataset, archive);
                facts.refused = refused;
                (facts.highest, facts.sealed) = (Some((1, digest)), Some(seq));
                (facts.created_at, facts.host) = (Some(created_at), admitted.map(|(host, _)| host));
            }
            Event::IntakeRefused { dataset, archive, why } => {
                self.first_refused.entry((dataset.clone(), archive)).or_insert(seq);
                self.refused.insert((dataset, archive), why);
            }
            Event::IntakeDiscarded { dataset, archive, .. } => {
                self.refused.remove(&(dataset, archive));
            }
            Event::ArchiveResealed { dataset, archive, generation, digest, previous, complete, counts } => {
                // What was done to the generation before is in this one too.
                let before = self.processed.get(&archive).and_then(|generations| generations.get(&previous));
                let carried = before.cloned().unwrap_or_default();
                self.process(archive, &digest, carried);
                // A run that began before identities were added did not search for them.
                let complete = complete.iter().filter(|request| !self.reopened.contains(request.as_str())).cloned().collect::<Vec<_>>();
                let complete = complete.iter().map(|request| self.named(request)).collect();
                self.process(archive, &digest, complete);
                self.count(archive, &counts);
                let facts = self.archive(dataset, archive);
                if facts.highest.as_ref().is_none_or(|(g, _)| *g < generation) {
                    facts.highest = Some((generation, digest));
                }
            }
            Event::ArchiveRotated { dataset, archive, .. } => {
                self.archive(dataset, archive).rotated = true;
                self.since_exports(|s| s.rotated += 1);
            }
            Event::ArchiveVerified { dataset, archive, scope, result, .. } => {
                let facts = self.archive(dataset, archive);
                match result {
                    Verdict::Pass => facts.verified_at = Some((at, scope)),
                    Verdict::Failed => {
                        facts.verified_at = None;
                        facts.failed_at = Some(at);
                    }
                    Verdict::Unknown => {}
                }
            }
            Event::ArchiveDrilled { dataset, archive, result, .. } => {
                if result == Verdict::Pass {
                    self.last_drill.insert(dataset.clone(), at);
                }
                let facts = self.archive(dataset, archive);
                match result {
                    Verdict::Pass => {
                        facts.drilled_at = Some(at);
                        facts.verified_at = Some((at, "drill".into()));
                    }
                    _ => {
                        facts.verified_at = None;
                        facts.failed_at = Some(at);
                    }
                }
            }
            Event::RequestOpened { request, kind, datasets, received, due_at, deadline, reason, approvals_needed } => {
                let clock = policy::Request {
                    kind,
                    received,
                    opened: at,
                    due_at,
                    approvals_needed,
                    approvals: Vec::new(),
                    held: false,
                    extended: false,
                    skipped_waiting: false,
                    progress: Progress::NotStarted,
                };
                self.requests.push(Request {
                    id: request,
                    clock,
                    datasets,
                    deadline,
                    reason,
                    opened_by: actor.to_string(),
                    hold: None,
                    ended: None,
                    started: Vec::new(),
                    confirmed: None,
                    began: None,
                    effective_at: None,
                    finished: None,
                    still_live: Vec::new(),
                    came_back: None,
                });
            }
            Event::RequestApproved { request } => {
                let actor = actor.to_string();
                self.with(&request, |r| {
                    if !r.clock.approvals.contains(&actor) {
                        r.clock.approvals.push(actor);
                    }
                });
            }
            Event::RequestHeld { request, reason } => {
                self.with(&request, |r| (r.hold, r.clock.held) = (Some(reason), true));
            }
            Event::RequestReleased { request, .. } => {
                self.with(&request, |r| (r.hold, r.clock.held) = (None, false));
            }
            Event::RequestCancelled { request, reason } => {
                self.with(&request, |r| (r.ended, r.clock.progress) = (reason, Progress::Cancelled));
            }
            Event::RequestRefused { request, ground, citation } => {
                let text = citation.map_or(ground.clone(), |c| format!("{ground} ({c})"));
                self.with(&request, |r| (r.ended, r.clock.progress) = (Some(text), Progress::Refused));
            }
            Event::RequestExtended { request, deadline, .. } => {
                self.with(&request, |r| (r.deadline, r.clock.extended) = (Some(deadline), true));
            }
            Event::IdentitiesConfirmed { request, datasets } => {
                // What was searched before was not searched for these.
                for requests in self.processed.values_mut().flat_map(HashMap::values_mut) {
                    requests.remove(request.as_str());
                }
                let name = self.named(&request);
                self.reopened.insert(name);
                if let Some(r) = self.find(&request) {
                    r.started.clear();
                    r.confirmed = Some(seq);
                    for (dataset, tokens) in datasets {
                        r.datasets.entry(dataset).or_default().extend(tokens);
                    }
                }
            }
            Event::PropagationStarted { requests, effective_at, .. } => {
                for id in requests {
                    self.reopened.remove(id.as_str());
                    if let Some(r) = self.find(&id) {
                        r.clock.progress = Progress::Propagating;
                        r.started.push(seq);
                        r.began.get_or_insert(seq);
                        r.effective_at.get_or_insert(effective_at);
                    }
                }
            }
            Event::PropagationFinished { started, mut done, mut partial, mut archives, gone, scope, policies, listing, storage } => {
                // Whoever was given identities meanwhile was not searched for by them.
                let stale: BTreeSet<String> = self.given_identities_since(started).map(|r| r.id.clone()).collect();
                if !stale.is_empty() {
                    archives.iter_mut().for_each(|a| a.complete.retain(|request| !stale.contains(request)));
                    partial.extend(done.extract_if(.., |request| stale.contains(request)));
                }
                // Also of those that are done in part: what was destroyed for them is destroyed.
                self.since_exports(|s| s.erased.extend(done.iter().chain(&partial).cloned()));
                for outcome in &mut archives {
                    let complete = outcome.complete.iter().map(|request| self.named(request)).collect();
                    self.process(outcome.archive, &outcome.after.1, complete);
                    // Kept once.
                    let counts = std::mem::take(&mut outcome.requests);
                    self.count(outcome.archive, &counts);
                }
                let archives: Vec<Arc<ArchiveOutcome>> = archives.into_iter().map(Arc::new).collect();
                let (policies, listing, storage) = (Arc::new(policies), Arc::new(listing), Arc::new(storage));
                let mut ended: HashMap<&str, bool> = partial.iter().map(|p| (p.as_str(), false)).collect();
                ended.extend(done.iter().map(|d| (d.as_str(), true)));
                for r in &mut self.requests {
                    if let Some(is_done) = ended.get(r.id.as_str()).copied() {
                        r.clock.progress = if is_done { Progress::Done } else { Progress::Partial };
                        r.finished = Some(Finished {
                            seq,
                            at,
                            actor: actor.to_string(),
                            done: is_done,
                            archives: archives.iter().filter(|a| r.datasets.contains_key(&a.dataset)).cloned().collect(),
                            gone,
                            scope: scope.clone(),
                            policies: policies.clone(),
                            listing: listing.clone(),
                            storage: storage.clone(),
                        });
                    }
                }
            }
            Event::StillLive { request, dataset, archive, .. } => {
                self.with(&request, |r| r.still_live.push((dataset, archive, at)));
            }
            Event::CameBack { request, since, .. } => {
                self.with(&request, |r| r.came_back = Some(since));
            }
            Event::KeysExported { export, label } => {
                let (actor, since) = (actor.to_string(), Since::default());
                self.exports.push(KeyExport { id: export, label, seq, at, actor, destroyed: None, since });
            }
            Event::KeysExportDestroyed { export, reason } => {
                if let Some(e) = self.exports.iter_mut().find(|e| e.id == export) {
                    e.destroyed.get_or_insert((at, reason));
                }
            }
            Event::KeyRemoved { .. } => self.since_exports(|s| s.slots += 1),
            Event::KeyRotated { .. } => self.since_exports(|s| s.roots += 1),
            Event::RepositoryCreated { .. }
            | Event::KeyAdded { .. }
            | Event::KeysImported { .. }
            | Event::GateSkipped { .. }
            | Event::Restored { .. }
            | Event::Unknown => {}
        }
    }
}
