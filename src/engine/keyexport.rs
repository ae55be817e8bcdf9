//! Exporting the keys' side for the day on which its place is lost, and bringing it back. See [`crate::repository::export`] for what is in the file.
//!
//! Every export is recorded before its file is written: a file with all keys that nobody knows of must not exist. One that is recorded and was never
//! written is named until somebody says that it is not there, which costs nothing but a question.

use super::event::Event;
use super::propagate::identities_key;
use super::session::Session;
use super::state::State;
use crate::crypto::secret::Secret;
use crate::env::random_bytes;
use crate::repository::export::{self, Export, ImportPlan};
use crate::repository::{Ledger, Location, Repository};
use crate::store::memory::Memory;
use crate::{Error, Result};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The lease that openings of requests hold, and the one of slots and root: with the datasets' own, nothing changes under an export.
const LEASES: [&str; 2] = ["keys", super::request::LEASE];

/// An export that is recorded and has to be written.
pub struct Exported {
    /// Its id.
    pub id: String,
    /// The last ledger entry in it.
    pub ledger: u64,
    /// The file.
    pub bytes: Vec<u8>,
    /// Objects in it.
    pub objects: usize,
    /// Key sheets in it.
    pub sheets: usize,
    /// Objects that do not open, and are in it as they are.
    pub damaged: Vec<(String, Error)>,
}

/// Records an export and collects it, while nobody writes.
pub fn export(session: &Session, label: &str) -> Result<Exported> {
    let mut leases = Vec::new();
    for name in session.repo.datasets()? {
        leases.push(session.repo.lease(&name, super::LEASE_TTL)?);
    }
    for name in LEASES {
        leases.push(session.repo.lease(name, super::LEASE_TTL)?);
    }
    session.ledger().catch_up()?;
    session.ledger().check()?;
    let id = hex::encode(random_bytes::<6>(session.env.random.as_ref())?);
    let ledger = session.record(&Event::KeysExported { export: id.clone(), label: label.to_string() })?;
    let (export, damaged) = Export::collect(&session.repo, &id, ledger)?;
    for lease in &leases {
        lease.check()?;
    }
    let (objects, sheets) = (export.objects.len(), export.sheets());
    Ok(Exported { id, ledger, bytes: export.encode()?, objects, sheets, damaged })
}

/// Records that an export does not exist any more.
pub fn destroyed(session: &Session, id: &str, reason: &str) -> Result<String> {
    let state = session.state()?;
    let export = state.export(id)?;
    if let Some((at, _)) = &export.destroyed {
        return Err(Error::Refused(format!("that export {} is gone was recorded at {at} already", export.id)));
    }
    if reason.trim().is_empty() {
        return Err(Error::Usage("the reason is empty; say how the export was destroyed".into()));
    }
    session.record(&Event::KeysExportDestroyed { export: export.id.clone(), reason: reason.to_string() })?;
    Ok(export.id.clone())
}

/// What an import did, and what the repository that it woke cannot do.
#[derive(Debug)]
pub struct Imported {
    /// What was written.
    pub plan: ImportPlan,
    /// Heads that do not open, or that name a later state than the export's: made, sealed anew or erased from since.
    pub later: Vec<String>,
    /// Packs of which the export has no key sheet: what is only in them cannot be opened any more.
    pub closed_packs: u64,
}

/// Brings an export back to the keys store of `location`. `from` is the export, opened from memory with a secret: what does not open is not written.
pub fn import(export: &Export, from: &Arc<Repository>, location: &Location, secret: &Secret) -> Result<ImportPlan> {
    let ledger = Ledger::load(from)?;
    ledger.check()?;
    if ledger.head().0 != export.ledger {
        return Err(Error::damaged("the export", format!("its ledger ends at entry {}, not at {}", ledger.head().0, export.ledger)));
    }
    let mut plan = export::plan_import(export, from, location)?;
    if !plan.empty {
        let gone = destroyed_since(export, from, location, secret)?;
        plan.write.retain(|key| !gone.contains(key));
    }
    export::import(export, &plan, &*location.keys)?;
    Ok(plan)
}

/// What the place does not have because somebody took it away: slots that were removed, and identities of requests that are over. Told by the ledger of
/// what the place will be, looked at in memory.
fn destroyed_since(export: &Export, from: &Arc<Repository>, location: &Location, secret: &Secret) -> Result<BTreeSet<String>> {
    let mut objects = export.objects.clone();
    for key in export::stored(&*location.keys)? {
        objects.insert(key.clone(), location.keys.get(&key)?);
    }
    let keys = Arc::new(Memory::new(location.keys.describe(), objects));
    let repo = Arc::new(Repository::open(Location { data: location.data.clone(), keys }, secret, from.env())?);
    let ledger = Ledger::load(&repo)?;
    ledger.check()?;
    let mut gone = BTreeSet::new();
    for entry in ledger.entries() {
        if let Ok(Event::KeyRemoved { slot }) = entry.body() {
            gone.insert(format!("slots/{slot}"));
        }
    }
    let over = State::fold(&ledger)?.requests.into_iter().filter(|r| r.stage(repo.env().now()).is_final());
    gone.extend(over.map(|r| identities_key(&r.id)));
    Ok(gone)
}

/// Records the import in the repository that it woke, and looks at what it cannot open.
pub fn imported(repo: &Arc<Repository>, export: &Export, plan: ImportPlan, actor: &str) -> Result<Imported> {
    let mut ledger = Ledger::load(repo)?;
    let known = ledger.head().0;
    ledger.append(actor, &Event::KeysImported { export: export.id.clone(), ledger: export.ledger })?;
    let mut later = Vec::new();
    for name in repo.datasets()? {
        let heads = repo.heads(&name)?;
        later.extend(heads.damaged.into_iter().map(|(key, _)| key));
        later.extend(heads.latest.into_iter().filter(|l| l.head.ledger_epoch > known).map(|l| l.key));
    }
    later.sort();
    Ok(Imported { plan, later, closed_packs: export::packs_without_sheet(repo)? })
}
