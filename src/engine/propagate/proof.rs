//! The proof that what was removed is gone: a new listing of everything a dataset has in the stores, with every version and delete marker,
//! and what the stores do by themselves that would make such a listing worth less.

use crate::Result;
use crate::engine::event::{LockedObject, StorageFinding, StoreListing, Verdict};
use crate::engine::session::Session;
use crate::repository::{ChunkIndex, Listed, at_once, hands};
use crate::store::{Aspect, Finding, Level, Store};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// What is not a dataset's alone and holds keys or identities. Ledger entries are never replaced or removed, and leases hold neither.
const SHARED: [&str; 6] = ["datasets/", "requests/", "slots/", "signing/", "records/", "certificates/"];

/// How often it is listed while something seems to be left.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(500);

/// Lists a dataset's objects: `fresh` is what its key sheets say now, `removed` the heads that must be gone, `locked` what a lock keeps.
pub fn list(
    session: &Session,
    dataset: &str,
    fresh: &ChunkIndex,
    removed: &[Listed],
    locked: &[(String, Option<Timestamp>)],
) -> Result<StoreListing> {
    for attempt in 1.. {
        let (listing, left) = once(session, dataset, fresh, removed, locked)?;
        if left.is_empty() || attempt == ATTEMPTS {
            for what in left {
                session.env.monitor.warn(&format!("{what} is still there"));
            }
            return Ok(listing);
        }
        // Somebody else may just be between writing an object and removing what it replaced.
        std::thread::sleep(PAUSE);
    }
    Ok(StoreListing::default())
}

/// One listing, and what should not be in it.
fn once(
    session: &Session,
    dataset: &str,
    fresh: &ChunkIndex,
    removed: &[Listed],
    locked: &[(String, Option<Timestamp>)],
) -> Result<(StoreListing, Vec<String>)> {
    let location = session.repo.location();
    let (mut out, mut left) = (StoreListing::default(), Vec::new());
    let locked: BTreeMap<&str, Option<Timestamp>> = locked.iter().map(|(k, until)| (k.as_str(), *until)).collect();
    let removed: BTreeSet<&str> = removed.iter().map(|l| l.key.as_str()).collect();
    // Packs of the intake have their sheets there.
    let waiting = session.repo.pending(dataset)?.into_iter().flat_map(|p| p.packs).map(|p| p.to_string());
    let known: BTreeSet<String> = fresh.packs().iter().map(|p| p.id.to_string()).chain(waiting).collect();
    let mut wanted: Vec<(&Arc<dyn Store>, String)> =
        ["archives", "packs"].map(|folder| (&location.data, format!("{folder}/{dataset}/"))).into_iter().collect();
    wanted.push((&location.keys, format!("sheets/{dataset}/")));
    wanted.extend(SHARED.map(|folder| (&location.keys, folder.to_string())));
    let listed = at_once(hands(&*location.keys), wanted, |(store, prefix)| Ok((store, store.list_versions(&prefix)?, prefix)))?;
    for (store, objects, prefix) in listed {
        let (heads, packs) = (prefix.starts_with("archives/"), prefix.starts_with("packs/"));
        for object in objects {
            match (object.is_delete_marker, object.is_latest) {
                (true, _) => out.delete_markers += 1,
                (false, true) => out.objects += 1,
                (false, false) => out.old_versions += 1,
            }
            let may_be = match object.key.as_str() {
                key if heads => !removed.contains(key),
                key if packs => key.rsplit('/').next().is_some_and(|pack| known.contains(pack)),
                _ => true,
            };
            // Whatever is not the one current version is left over, and so is what should not be there at all. But a pack that was sent twice,
            // because the first answer got lost, is twice the same pack: both go when it goes.
            let kept = locked.contains_key(object.key.as_str());
            let twice = packs && !object.is_delete_marker && may_be;
            if !kept && !twice && (object.is_delete_marker || !object.is_latest || !may_be) {
                left.push(format!("{}: {}", store.describe(), object.key));
            }
        }
    }
    out.left = left.len() as u64;
    out.locked = locked.into_iter().map(|(key, until)| LockedObject { key: key.to_string(), until }).collect();
    Ok((out, left))
}

/// What the stores do by themselves, for the certificate; and whether keys may be kept where nobody destroys them.
pub fn storage(session: &Session) -> (Vec<StorageFinding>, Verdict) {
    let location = session.repo.location();
    let keys = location.keys.inspect();
    let mut verdict = Verdict::Pass;
    for finding in &keys {
        if keeps_keys(finding) {
            session.env.monitor.warn(&format!(
                "{}: {}: {}: whether destroyed keys are gone everywhere is UNKNOWN",
                finding.place,
                finding.aspect.as_str(),
                finding.text
            ));
            verdict = verdict.and(Verdict::Unknown);
        }
    }
    let data = if Arc::ptr_eq(&location.data, &location.keys) { Vec::new() } else { location.data.inspect() };
    let all = keys.into_iter().chain(data).map(|f| StorageFinding {
        place: f.place,
        aspect: f.aspect.as_str().to_string(),
        result: f.level.as_str().to_string(),
        text: f.text,
    });
    (all.collect(), verdict)
}

/// Whether keys that are destroyed in this store may live on: copied elsewhere, locked, or removable only with a second factor. What a service
/// does not offer at all keeps nothing.
fn keeps_keys(finding: &Finding) -> bool {
    match finding.aspect {
        Aspect::Replication => matches!(finding.level, Level::Warning | Level::Unknown),
        Aspect::Locks | Aspect::Versions => finding.level == Level::Warning,
        Aspect::Lifecycle => false,
    }
}
