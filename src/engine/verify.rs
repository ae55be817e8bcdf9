//! Verifying archives: every head, list and index chunk opens; every chunk that is needed has a key and is in its pack; with `--read-data`
//! a sample of the data chunks (or all of them) is read, opened and checked against its id.

use super::event::{Event, Verdict};
use super::session::{ATTEMPTS, NO_HEAD, Session, archive_of_key};
use crate::repository::entry::{ChunkId, Role};
use crate::repository::{ArchiveId, ChunkReader, Listed, Live};
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// What was found out about an archive.
#[derive(Debug, Clone)]
pub struct Checked {
    /// Dataset.
    pub dataset: String,
    /// The archive; `None` for what concerns the dataset as a whole.
    pub archive: Option<ArchiveId>,
    /// Result.
    pub verdict: Verdict,
    /// What does not fit.
    pub problems: Vec<String>,
    /// Data chunks read.
    pub chunks_read: u64,
    /// Bytes of plaintext read.
    pub bytes_read: u64,
}

/// Verifies archives (all of the named datasets when `wanted` is empty). `share` is the part of the data to read, 0 to 1.
pub fn verify(session: &Session, wanted: &[String], share: f64) -> Result<Vec<Checked>> {
    let mut by_dataset: BTreeMap<String, Vec<Listed>> = BTreeMap::new();
    let mut out = Vec::new();
    if wanted.is_empty() {
        for name in session.dataset_names()? {
            let heads = session.heads(&name)?;
            for (key, e) in heads.damaged {
                let archive = archive_of_key(&key);
                out.push(Checked {
                    dataset: name.clone(),
                    archive,
                    verdict: Verdict::Failed,
                    problems: vec![format!("{key}: {e}")],
                    chunks_read: 0,
                    bytes_read: 0,
                });
            }
            by_dataset.insert(name, heads.latest);
        }
    } else {
        for w in wanted {
            let listed = session.find_archive(w)?;
            by_dataset.entry(listed.head.dataset.clone()).or_default().push(listed);
        }
    }
    let scope = match share {
        s if s <= 0.0 => "structure".to_string(),
        s => format!("data {:.0}%", (s * 100.0).min(100.0)),
    };
    for (name, archives) in by_dataset {
        out.extend(missing_heads(session, &name)?);
        out.extend(dataset(session, &name, archives, share, &scope, 1)?);
    }
    Ok(out)
}

/// Archives that the ledger or the catalog knows and the store does not have any more.
fn missing_heads(session: &Session, dataset: &str) -> Result<Vec<Checked>> {
    let heads = session.repo.heads(dataset)?;
    Ok(session
        .missing_archives(dataset, &heads)?
        .into_iter()
        .map(|archive| Checked {
            dataset: dataset.to_string(),
            archive: Some(archive),
            verdict: Verdict::Failed,
            problems: vec![NO_HEAD.into()],
            chunks_read: 0,
            bytes_read: 0,
        })
        .collect())
}

fn dataset(session: &Session, name: &str, archives: Vec<Listed>, share: f64, scope: &str, attempt: u32) -> Result<Vec<Checked>> {
    let mut out = Vec::new();
    let before = session.standing()?;
    let mut again: Vec<ArchiveId> = Vec::new();
    let view = match session.view(name) {
        // Its keys are lost: that is what was to be found out, and the other datasets are verified nevertheless.
        Err(e @ Error::Damaged { .. }) => {
            let problems = vec![e.to_string()];
            out.push(Checked { dataset: name.into(), archive: None, verdict: Verdict::Failed, problems, chunks_read: 0, bytes_read: 0 });
            return Ok(out);
        }
        other => other?,
    };
    if !view.index.damaged().is_empty() {
        let problems = view.index.damaged().iter().map(|(k, e)| format!("{k}: {e}")).collect();
        out.push(Checked { dataset: name.into(), archive: None, verdict: Verdict::Failed, problems, chunks_read: 0, bytes_read: 0 });
    }
    out.extend(old_sheets(session, name)?);
    let listing = session.repo.location().data.list(&format!("packs/{name}/"))?;
    let packs: BTreeMap<String, u64> = listing.into_iter().filter_map(|o| Some((o.key.rsplit('/').next()?.to_string(), o.len))).collect();
    let salt = session.ledger().head().0 as i64;
    // A chunk shared by thirty archives is read once; what it turned out to be counts for all of them.
    let mut read: BTreeMap<(ChunkId, Role), Option<Problem>> = BTreeMap::new();
    let remote = session.repo.location().data.is_remote();
    session.env.monitor.phase(&format!("verifying {name}"), Some(archives.iter().map(|l| l.head.source_bytes).sum()));
    for listed in archives {
        session.env.stop.check("run the same command again")?;
        let mut checked = Checked {
            dataset: name.into(),
            archive: Some(listed.head.archive),
            verdict: Verdict::Pass,
            problems: Vec::new(),
            chunks_read: 0,
            bytes_read: 0,
        };
        let mut needed = Live::new();
        match needed.add(&view.reader, &listed.head) {
            Err(e) => {
                let problem = Problem::new(&e, remote);
                checked.verdict = problem.verdict;
                checked.problems.push(problem.text);
            }
            Ok(()) => {
                let mut bad = 0u64;
                let mut verdict = Verdict::Pass;
                let mut problem = |p: Problem| {
                    bad += 1;
                    verdict = verdict.and(p.verdict);
                    if bad <= 5 && !checked.problems.contains(&p.text) {
                        checked.problems.push(p.text);
                    }
                };
                let mut unread: Vec<(ChunkId, Role)> = Vec::new();
                for (id, role) in needed.iter() {
                    session.env.stop.check("run the same command again")?;
                    match view.index.get(&id, role) {
                        None => problem(Problem::damage("a chunk that it needs has no key".to_string())),
                        Some(place) if !view.index.is_there(&id, role, |pack| packs.get(&pack.to_string()).copied()) => {
                            problem(Problem::damage(format!("pack {} is missing or too short", place.pack)));
                        }
                        Some(_) if role == Role::Data && !sampled(&id, salt, share) => {}
                        Some(_) => match read.get(&(id, role)) {
                            Some(Some(known)) => problem(known.clone()),
                            Some(None) => {}
                            None => unread.push((id, role)),
                        },
                    }
                }
                for (chunk, result) in open_all(session, &view.reader, &unread, remote, &mut checked.bytes_read)? {
                    checked.chunks_read += u64::from(chunk.1 == Role::Data);
                    result.iter().cloned().for_each(&mut problem);
                    read.insert(chunk, result);
                }
                if bad > 0 {
                    checked.verdict = verdict;
                    checked.problems.push(format!("{bad} chunk(s) in all"));
                }
            }
        }
        // A generation that was replaced while it was read is no damage: the new one is what is to be verified.
        if checked.verdict != Verdict::Pass && attempt < ATTEMPTS && session.standing()? != before {
            again.push(listed.head.archive);
            continue;
        }
        session.record(&Event::ArchiveVerified {
            dataset: name.into(),
            archive: listed.head.archive,
            generation: listed.head.generation,
            scope: scope.into(),
            result: checked.verdict,
        })?;
        out.push(checked);
    }
    if !again.is_empty() {
        session.ledger().catch_up()?;
        let renewed = session.heads(name)?.latest.into_iter().filter(|l| again.contains(&l.head.archive)).collect();
        out.extend(dataset(session, name, renewed, share, scope, attempt + 1)?);
    }
    Ok(out)
}

/// What is wrong with a chunk.
#[derive(Debug, Clone)]
struct Problem {
    text: String,
    verdict: Verdict,
}

impl Problem {
    fn damage(text: String) -> Problem {
        Problem { text, verdict: Verdict::Failed }
    }

    /// A service that does not answer says nothing about what it keeps; a disk that cannot be read does.
    fn new(e: &Error, remote: bool) -> Problem {
        let passing = remote && matches!(e, Error::Store(_));
        Problem { text: e.to_string(), verdict: if passing { Verdict::Unknown } else { Verdict::Failed } }
    }
}

/// A chunk, and what is wrong with it.
type Outcome = ((ChunkId, Role), Option<Problem>);

/// Reads, opens and checks chunks; with each what is wrong with it.
fn open_all(session: &Session, reader: &ChunkReader, chunks: &[(ChunkId, Role)], remote: bool, bytes: &mut u64) -> Result<Vec<Outcome>> {
    let read = AtomicU64::new(0);
    let results: Vec<OnceLock<Option<Problem>>> = chunks.iter().map(|_| OnceLock::new()).collect();
    reader.each_parallel(chunks, &|| session.env.stop.requested(), &|n, plain| {
        if let (Ok(plain), Some((_, Role::Data))) = (&plain, chunks.get(n)) {
            read.fetch_add(plain.len() as u64, Ordering::Relaxed);
            session.env.monitor.advance(plain.len() as u64);
        }
        if let Some(slot) = results.get(n) {
            let _ = slot.set(plain.err().map(|e| Problem::new(&e, remote)));
        }
    });
    session.env.stop.check("run the same command again")?;
    *bytes += read.into_inner();
    let results = results
        .into_iter()
        .map(|slot| slot.into_inner().unwrap_or_else(|| Some(Problem::damage("a chunk that it needs was not read".into()))));
    Ok(chunks.iter().copied().zip(results).collect())
}

/// Versions of key sheets that nobody reads any more and that a store with versions has kept: keys of what was erased may be in them.
fn old_sheets(session: &Session, name: &str) -> Result<Option<Checked>> {
    let left = || -> Result<usize> {
        let versions = session.repo.location().keys.list_versions(&format!("sheets/{name}/"))?;
        Ok(versions.iter().filter(|v| v.is_delete_marker || !v.is_latest).count())
    };
    if left()? == 0 {
        return Ok(None);
    }
    // A writer removes them just after it wrote.
    std::thread::sleep(std::time::Duration::from_secs(1));
    let left = left()?;
    let problem =
        format!("{left} old version(s) of key sheets are in the store, with keys of what was erased; remove them with: reseal rotate");
    let checked =
        Checked { dataset: name.into(), archive: None, verdict: Verdict::Failed, problems: vec![problem], chunks_read: 0, bytes_read: 0 };
    Ok((left > 0).then_some(checked))
}

/// Whether a chunk is in this run's sample; every run has another.
fn sampled(id: &ChunkId, salt: i64, share: f64) -> bool {
    if share >= 1.0 {
        return true;
    }
    let hash = blake3::Hasher::new().update(&id.0).update(&salt.to_le_bytes()).finalize();
    let [a, b, c, d, ..] = *hash.as_bytes();
    f64::from(u32::from_be_bytes([a, b, c, d])) < share * f64::from(u32::MAX)
}
