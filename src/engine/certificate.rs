//! The certificate of a request: what was done, to which copies, how it was verified, what remains and until when. JSON, signed Ed25519 by the
//! repository's key; the fields follow NIST SP 800-88r2's certificate of sanitization, mapped to archives.
//!
//! A certificate names the person only by a reference made from keyed tokens: it can be handed out, kept and published.

use super::event::{ArchiveOutcome, Counts, LockedObject, Verdict};
use super::identity::subject_reference;
use super::session::Session;
use super::state::{KeyExport, Request, State};
use crate::crypto::sign;
use crate::{Error, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Version of the certificate's shape.
pub const VERSION: u32 = 1;

/// Makes the signed certificate of a request. Fails with `Refused` when no propagation has finished for it.
pub fn make(session: &Session, id: &str) -> Result<Value> {
    let state = session.state()?;
    let request = state.request(id)?;
    let Some(finished) = &request.finished else {
        return Err(Error::Refused(format!("request {} has not been propagated yet; there is nothing to certify", request.id)));
    };
    let mut collections: BTreeMap<(String, String), Counts> = BTreeMap::new();
    let mut archives = Vec::new();
    for a in &finished.archives {
        // The figures of the run that did the work, not of a later one that only looked.
        let done = state.counts.get(&(request.id.clone(), a.archive)).map(|done| &**done).unwrap_or_default();
        for (collection, counts) in done {
            collections.entry((a.dataset.clone(), collection.to_string())).or_default().add(counts);
        }
        archives.push(archive_with(a, &request.id, done.iter().map(|(c, n)| (&**c, n))));
    }
    let mut surviving = surviving(session, &request.id, finished.archives.as_slice())?;
    let late = admitted_late(session, &state, request)?;
    let nothing_left = late.is_empty();
    surviving.extend(late);
    let mut not_covered: Vec<String> = [
        "the live source, which is the controller's own to erase",
        "copies of the repository that were made before together with a key slot and its secret",
    ]
    .map(String::from)
    .into();
    let mut all_known = true;
    for name in session.not_covered(request)? {
        if session.is_unknown(&name)? {
            all_known = false;
            not_covered
                .push(format!("dataset {name}: it has archives, and the configuration does not know it, so nobody looked into them"));
        } else {
            not_covered.push(format!("dataset {name}: the request is not about it"));
        }
    }
    let exports: Vec<Value> = state.exports_holding(&request.id).map(export_json).collect();
    let ledger = session.ledger();
    let position = ledger.entries().iter().find(|e| e.seq == finished.seq).map(|e| hex::encode(e.hash));
    let body = json!({
        "certificate": "reseal erasure certificate",
        "version": VERSION,
        "repository": session.repo.id().to_string(),
        "request": {
            "id": request.id,
            "kind": request.clock.kind.to_string(),
            "ground": ground(request),
            "received": request.clock.received.to_string(),
            "due_at": request.clock.due_at.to_string(),
            "deadline": request.deadline.map(|d| d.to_string()),
        },
        "subject": request.datasets.iter().map(|(d, t)| (d.clone(), Value::from(subject_reference(t)))).collect::<serde_json::Map<_, _>>(),
        "effective_at": request.effective_at.map(|t| t.to_string()),
        "completed_at": finished.at.to_string(),
        "performed_by": finished.actor,
        "state": request.stage(session.now()).to_string(),
        "result": result_word(&request.id, finished.done, finished.gone, &finished.archives, nothing_left && all_known && exports.is_empty()),
        "sanitization": {
            "method": "cryptographic erase and deletion",
            "technique": "records removed or rewritten inside the archives; affected chunks sealed anew under new keys; keys of the old chunks destroyed; old ciphertext wiped or deleted",
            "tool": crate::TOOL,
            "policy": *finished.policies,
        },
        "verification": {
            "method": "the new generations were read back: byte search for every variant of every identity, record by record search, comparison of all that was not edited, and a new listing of the store",
            "scope": finished.scope,
            "old_objects_absent": finished.gone.to_string(),
            "listing": {
                "objects": finished.listing.objects,
                "old_versions": finished.listing.old_versions,
                "delete_markers": finished.listing.delete_markers,
                "left": finished.listing.left,
            },
        },
        "storage": finished.storage.iter().map(|f| json!({ "place": f.place, "aspect": f.aspect, "result": f.result, "finding": f.text })).collect::<Vec<_>>(),
        "locked": locked_json(&finished.listing.locked),
        "collections": collections.iter().map(|((d, c), n)| counts_json(d, c, n)).collect::<Vec<_>>(),
        "archives": archives,
        "surviving_copies": surviving,
        "surviving_key_exports": exports,
        "not_covered": not_covered,
        "audit": { "entry": finished.seq, "hash": position },
    });
    drop(ledger);
    let bytes = canonical(&body);
    let signature = session.repo.signing_key()?.sign(&bytes);
    Ok(json!({
        "body": body,
        "signature": { "algorithm": "Ed25519", "public_key": hex::encode(session.repo.verifying_key().to_bytes()), "value": hex::encode(signature) },
    }))
}

fn ground(request: &Request) -> Value {
    let law = match request.clock.kind {
        crate::policy::Kind::SubjectRequest => "GDPR Art. 17(1)",
        crate::policy::Kind::Deletion => "deletion by the controller",
    };
    json!({ "basis": law, "reason": request.reason })
}

/// A file that still holds the destroyed keys, for all that is recorded.
fn export_json(e: &KeyExport) -> Value {
    json!({ "export": e.id, "label": e.label, "made_at": e.at.to_string(), "ledger_entry": e.seq })
}

fn result_word(request: &str, done: bool, gone: Verdict, archives: &[Arc<ArchiveOutcome>], nothing_else: bool) -> &'static str {
    let is_complete = |a: &ArchiveOutcome| a.complete.iter().any(|c| c == request);
    let worst = archives.iter().fold(gone, |v, a| if is_complete(a) { v } else { v.and(a.verification).and(Verdict::Unknown) });
    match (done && nothing_else, worst) {
        (true, Verdict::Pass) => "PASS",
        (_, Verdict::Failed) => "FAILED",
        _ => "UNKNOWN",
    }
}

fn counts_json(dataset: &str, collection: &str, n: &Counts) -> Value {
    json!({
        "dataset": dataset, "collection": collection, "found": n.found, "deleted": n.deleted, "anonymised": n.anonymised,
        "pseudonymised": n.pseudonymised, "retained": n.retained, "failed": n.failed,
    })
}

/// One archive for JSON: the certificate's and the propagation's own report have the same shape.
pub fn archive_json(a: &ArchiveOutcome, request: &str) -> Value {
    archive_with(a, request, a.requests.get(request).into_iter().flatten().map(|(c, n)| (c.as_str(), n)))
}

fn archive_with<'c>(a: &ArchiveOutcome, request: &str, counts: impl Iterator<Item = (&'c str, &'c Counts)>) -> Value {
    json!({
        "dataset": a.dataset,
        "archive": a.archive.to_string(),
        "backup_time": a.created_at.to_string(),
        "before": { "generation": a.before.0, "digest": a.before.1 },
        "after": { "generation": a.after.0, "digest": a.after.1 },
        "mode": a.mode,
        "collections": counts.map(|(c, n)| counts_json(&a.dataset, c, n)).collect::<Vec<_>>(),
        "verification": if a.complete.iter().any(|c| c == request) { "PASS".to_string() } else { a.verification.and(Verdict::Unknown).to_string() },
        "left": a.left,
        "notes": a.notes,
    })
}

/// Ciphertext that a lock keeps, and until when: its keys are destroyed.
pub fn locked_json(locked: &[LockedObject]) -> Vec<Value> {
    locked.iter().map(|l| json!({ "object": l.key, "keys": "destroyed", "locked_until": l.until.map(|t| t.to_string()) })).collect()
}

/// Copies that are still there and hold, or may hold, something of the person.
fn surviving(session: &Session, request: &str, archives: &[Arc<ArchiveOutcome>]) -> Result<Vec<Value>> {
    let mut out = Vec::new();
    for a in archives.iter().filter(|a| !a.complete.iter().any(|c| c == request)) {
        let still_there = session.repo.dataset(&a.dataset)?.is_some() && session.listed(&a.dataset, &a.archive)?.is_some();
        if still_there {
            let last = match session.config.datasets.get(&a.dataset) {
                Some(config) => super::rotate::ends(session, config)?.get(&a.archive).copied().flatten().map(|t| t.to_string()),
                None => None,
            };
            out.push(json!({ "dataset": a.dataset, "archive": a.archive.to_string(), "why": a.left, "can_exist_until": last }));
        }
    }
    Ok(out)
}

/// Archives that a put-only host made before the erasure, and that were admitted only after it: nobody searched them for it.
fn admitted_late(session: &Session, state: &State, request: &Request) -> Result<Vec<Value>> {
    let mut out = Vec::new();
    for ((dataset, archive), facts) in &state.archives {
        let is_older = facts.created_at.is_some_and(|made| request.is_later_than(made, facts));
        let digest = facts.highest.as_ref().map(|(_, digest)| digest.as_str()).unwrap_or_default();
        let late = facts.host.is_some() && facts.sealed > request.started.first().copied();
        let concerned = late && is_older && !facts.rotated && request.datasets.contains_key(dataset);
        if concerned && !state.was_processed(&request.id, archive, digest) && session.listed(dataset, archive)?.is_some() {
            let why = ["handed in by a put-only host and admitted after the erasure; what is left is erased whenever it is restored"];
            out.push(json!({ "dataset": dataset, "archive": archive.to_string(), "why": why, "can_exist_until": null }));
        }
    }
    Ok(out)
}

/// The bytes that are signed: a domain line, then JSON without white space, members in the order written.
fn canonical(body: &Value) -> Vec<u8> {
    [b"reseal certificate v1\n".as_slice(), body.to_string().as_bytes()].concat()
}

/// What checking a certificate found.
#[derive(Debug, Clone)]
pub struct CheckedCertificate {
    /// The request it is about.
    pub request: String,
    /// Its result: PASS, FAILED or UNKNOWN.
    pub result: String,
    /// Hex of the key that signed it.
    pub public_key: String,
    /// Whether that is the opened repository's key; `None` when no repository was there to compare with.
    pub ours: Option<bool>,
    /// Whether the audit chain has the entry that it names; `None` without a repository.
    pub in_chain: Option<bool>,
}

/// Checks signature and, with a repository, key and place in the audit chain. Fails with `Verification` when the signature does not fit.
pub fn check(text: &str, session: Option<&Session>) -> Result<CheckedCertificate> {
    let not_one = || Error::Usage("this is not a reseal certificate".into());
    let value: Value = serde_json::from_str(text).map_err(|_| not_one())?;
    let body = value.get("body").ok_or_else(not_one)?;
    let field = |name: &str| value.pointer(&format!("/signature/{name}")).and_then(Value::as_str).ok_or_else(not_one);
    let public_key: [u8; 32] = hex::decode(field("public_key")?).ok().and_then(|k| k.try_into().ok()).ok_or_else(not_one)?;
    let signature: [u8; 64] = hex::decode(field("value")?).ok().and_then(|k| k.try_into().ok()).ok_or_else(not_one)?;
    if !sign::VerifyingKey::from_bytes(&public_key).is_some_and(|k| k.verify(&canonical(body), &signature)) {
        return Err(Error::Verification("the certificate's signature does not fit its text: it was changed after it was signed".into()));
    }
    let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_string();
    let (mut ours, mut in_chain) = (None, None);
    if let Some(session) = session {
        ours = Some(session.repo.verifying_key().to_bytes() == public_key);
        let (seq, hash) = (body.pointer("/audit/entry").and_then(Value::as_u64), text("/audit/hash"));
        in_chain = Some(session.ledger().entries().iter().any(|e| Some(e.seq) == seq && hex::encode(e.hash) == hash));
    }
    Ok(CheckedCertificate { request: text("/request/id"), result: text("/result"), public_key: hex::encode(public_key), ours, in_chain })
}
