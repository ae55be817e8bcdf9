//! What nothing needs any more goes: keys first, then bytes. And before that the question whether all is here that could need something: what is
//! not in its place today (a head, a key sheet that was not copied back yet, or that hides behind a delete marker) may be put back tomorrow, and
//! must then find what it leads to.

use super::{IDENTITIES_PURPOSE, Report, identities_key, proof};
use crate::engine::event::Verdict;
use crate::engine::session::{NO_HEAD, Session, View};
use crate::repository::entry::{ChunkId, Role};
use crate::repository::{ChunkIndex, ChunkReader, DropOptions, Lease, Listed, Live, drop_chunks_while};
use crate::{Error, Result};
use std::collections::BTreeSet;

/// Drops the chunks that no head needs, and proves from a new listing that what was dropped is not there any more.
/// `view` was opened after everything that the heads name had been stored.
pub fn drop_dead(session: &Session, view: View, lease: &Lease, removed: &[Listed], report: &mut Report) -> Result<Verdict> {
    let View { dataset: of, index, reader, marks, named } = view;
    drop((marks, named));
    let dataset = of.name();
    let Needs { needed, unknown, without_key } = needs(session, dataset, &reader, &index)?;
    for what in &unknown {
        session.env.monitor.warn(&format!("{what}; until it is put back or given up (reseal rotate --lost), no key can be destroyed"));
    }
    if !unknown.is_empty() {
        return Ok(Verdict::Unknown);
    }
    // All that needs something is known, so what nothing needs can go. But where needed chunks have no key here, a sheet is missing: the packs
    // without one are not rubbish then, and a sheet may hide where things are tidied up.
    if without_key > 0 {
        session.env.monitor.warn(&format!(
            "{without_key} chunk(s) that archives need have no key here: packs without a key sheet stay, until the sheets are put back or the \
             archives given up (reseal rotate --lost)"
        ));
    }
    let dead: Vec<(ChunkId, Role)> = index.iter().filter(|(id, role)| !needed.contains(id, *role)).collect();
    // The sweep reads the sheets anew.
    drop((reader, index));
    let keep = |id: &ChunkId, role: Role| needed.contains(id, role);
    session.repo.forget_known(&of, &keep)?;
    let options = DropOptions { tidy: without_key == 0, ..DropOptions::default() };
    let dropped = drop_chunks_while(&session.repo, &of, &keep, options, &|| lease.check_cheaply())?;
    drop(needed);
    session.repo.list_known(&of, &BTreeSet::new())?;
    report.dropped.0 += dropped.chunks;
    report.dropped.1 += dropped.bytes;
    for (key, e) in dropped.damaged.iter().chain(&dropped.left) {
        session.env.monitor.warn(&format!("{key}: {e}"));
    }
    // Keys that cannot be read, or are elsewhere, may be keys of what was dropped.
    if !dropped.damaged.is_empty() || without_key > 0 {
        return Ok(Verdict::Unknown);
    }
    let fresh = session.repo.index(&of)?;
    if !fresh.damaged().is_empty() {
        return Ok(Verdict::Unknown);
    }
    let keys_left = dead.iter().any(|(id, role)| fresh.contains(id, *role));
    let proof = proof::list(session, dataset, &fresh, removed, &dropped.locked)?;
    let listed_left = proof.left > 0;
    report.listing.add(proof);
    Ok(if keys_left || listed_left {
        Verdict::Failed
    } else if dropped.left.is_empty() {
        Verdict::Pass
    } else {
        // Bytes that are left are ciphertext without a key.
        Verdict::Unknown
    })
}

/// What a dataset's archives need, as far as that can be known.
struct Needs {
    needed: Live,
    /// What is not here, or cannot be read, and may need anything.
    unknown: Vec<String>,
    /// Chunks that are needed and have no key here.
    without_key: usize,
}

fn needs(session: &Session, dataset: &str, reader: &ChunkReader, index: &ChunkIndex) -> Result<Needs> {
    let heads = session.heads(dataset)?;
    let mut unknown: Vec<String> = heads.damaged.iter().map(|(key, e)| format!("{key} cannot be read ({e})")).collect();
    for archive in session.missing_archives(dataset, &heads)? {
        unknown.push(format!("archive {archive}: {NO_HEAD}"));
    }
    if let Err(e) = session.ledger().check() {
        unknown.push(e.to_string());
    }
    let mut needed = Live::new();
    for listed in heads.latest.iter().chain(&heads.older) {
        match needed.add(reader, &listed.head) {
            Ok(()) => {}
            Err(e @ (Error::Interrupted(_) | Error::Store(_))) => return Err(e),
            Err(e) => unknown.push(format!("{}: {e}", listed.key)),
        }
    }
    let without_key = needed.iter().filter(|(id, role)| !index.contains(id, *role)).count();
    Ok(Needs { needed, unknown, without_key })
}

/// What is not in its place, of all that opens something: before what cannot be taken back.
pub fn out_of_place(session: &Session) -> Result<Vec<String>> {
    let mut out: BTreeSet<String> = session.ledger().check().err().map(|e| e.to_string()).into_iter().collect();
    for dataset in session.dataset_names()? {
        match session.is_backed_up(&dataset) {
            Ok(true) => {}
            Ok(false) => continue,
            Err(e @ Error::Damaged { .. }) => {
                out.insert(e.to_string());
                continue;
            }
            Err(e) => return Err(e),
        }
        let view = session.view(&dataset)?;
        out.extend(view.index.damaged().iter().map(|(key, e)| format!("{key}: {e}")));
        let Needs { unknown, without_key, .. } = needs(session, &dataset, &view.reader, &view.index)?;
        out.extend(unknown);
        if without_key > 0 {
            out.insert(format!("{without_key} chunk(s) that archives of {dataset} need have no key here: a key sheet is missing"));
        }
    }
    for request in session.state()?.requests.iter().filter(|r| !r.stage(session.now()).is_final()) {
        if session.repo.get_sealed(IDENTITIES_PURPOSE, &identities_key(&request.id))?.is_none() {
            out.insert(format!("{}: the identities of an open request are missing", identities_key(&request.id)));
        }
    }
    Ok(out.into_iter().collect())
}
