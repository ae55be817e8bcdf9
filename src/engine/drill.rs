//! Restore drills: an archive is restored for real into a scratch place, and what comes out is checked. Only a drill tells that a backup
//! restores; nothing else does.

use super::archive::PieceReader;
use super::event::{Event, Verdict};
use super::gate::{Replayed, outgoing, search_by_tokens};
use super::propagate::needs_change;
use super::restore::{Options, Selection, selected, write};
use super::session::Session;
use crate::config::{self, DrillCheck};
use crate::repository::ArchiveId;
use crate::repository::entry::{Entry, EntryKind};
use crate::{Error, Result};
use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags};
use std::io::Read;
use std::path::{Path, PathBuf};

/// One check and its result.
#[derive(Debug, Clone)]
pub struct Check {
    /// What was checked.
    pub name: String,
    /// The result.
    pub verdict: Verdict,
    /// What was seen; no values of records.
    pub detail: String,
}

/// What a drill found.
#[derive(Debug, Clone)]
pub struct Report {
    /// Dataset.
    pub dataset: String,
    /// Archive.
    pub archive: ArchiveId,
    /// Its backup time.
    pub created_at: Timestamp,
    /// The worst of the checks.
    pub verdict: Verdict,
    /// Seconds that the restore took (recovery time).
    pub restore_seconds: f64,
    /// Bytes restored.
    pub bytes: u64,
    /// Entries restored.
    pub entries: u64,
    /// Seconds between backup and drill (what would be lost).
    pub backup_age_seconds: i64,
    /// Check by check.
    pub checks: Vec<Check>,
}

/// Scratch folders are called this, the process id, and something random.
const PREFIX: &str = "reseal-drill-";

/// Removes what a killed drill left behind: it is a whole restored archive.
fn sweep_scratch(base: &Path) {
    let Ok(listing) = std::fs::read_dir(base) else { return };
    for entry in listing.flatten() {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|n| n.strip_prefix(PREFIX)) else { continue };
        let pid = rest.split('-').next().unwrap_or_default();
        let alive = pid.parse::<u32>().is_ok_and(|pid| Path::new(&format!("/proc/{pid}")).exists());
        if !alive && entry.file_type().is_ok_and(|t| t.is_dir()) {
            let _ = remove_all(&entry.path());
        }
    }
}

/// A scratch folder that goes away with everything in it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(session: &Session) -> Result<Scratch> {
        let base = std::env::temp_dir();
        sweep_scratch(&base);
        let name = format!("{PREFIX}{}-{}", std::process::id(), hex::encode(crate::env::random_bytes::<8>(session.env.random.as_ref())?));
        let path = base.join(name);
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().recursive(false).mode(0o700).create(&path).map_err(Error::io("create", &path))?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = remove_all(&self.0);
    }
}

/// Removes a tree, read-only folders included.
pub(super) fn remove_all(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if std::fs::remove_dir_all(dir).is_ok() {
        return Ok(());
    }
    let mut stack = vec![dir.to_path_buf()];
    while let Some(d) = stack.pop() {
        let _ = std::fs::set_permissions(&d, std::fs::Permissions::from_mode(0o700));
        for e in std::fs::read_dir(&d)?.flatten() {
            if e.file_type().is_ok_and(|t| t.is_dir()) {
                stack.push(e.path());
            }
        }
    }
    std::fs::remove_dir_all(dir)
}

/// Drills a dataset's latest archive (or `wanted`).
pub fn drill(session: &Session, config: &config::Dataset, wanted: Option<&str>) -> Result<Report> {
    // An archive that is sealed anew meanwhile is no failed drill.
    let (report, generation) =
        session.reading(|(r, _): &(Report, u32)| r.verdict != Verdict::Pass, |_| attempt(session, config, wanted))?;
    session.record(&Event::ArchiveDrilled {
        dataset: config.name.clone(),
        archive: report.archive,
        generation,
        result: report.verdict,
        restore_seconds: report.restore_seconds,
        bytes: report.bytes,
    })?;
    Ok(report)
}

fn attempt(session: &Session, config: &config::Dataset, wanted: Option<&str>) -> Result<(Report, u32)> {
    let name = wanted.map_or_else(|| format!("{}@latest", config.name), str::to_string);
    let out = outgoing(session, &name, None)?;
    let scratch = Scratch::new(session)?;
    let target = scratch.0.join("restored");
    let started = std::time::Instant::now();
    let restored = write(session, &out, &target, &Options::default());
    let restore_seconds = started.elapsed().as_secs_f64();
    let head = out.listed.head.clone();
    let mut report = Report {
        dataset: config.name.clone(),
        archive: head.archive,
        created_at: head.created_at,
        verdict: Verdict::Pass,
        restore_seconds,
        bytes: 0,
        entries: 0,
        backup_age_seconds: session.now().as_second() - head.created_at.as_second(),
        checks: Vec::new(),
    };
    let mut add = |name: &str, verdict: Verdict, detail: String| report.checks.push(Check { name: name.into(), verdict, detail });
    match restored {
        Err(e @ Error::Interrupted(_)) => return Err(e),
        Err(e) => add("restore", Verdict::Failed, e.to_string()),
        Ok(done) => {
            (report.bytes, report.entries) = (done.bytes, done.entries);
            add("restore", Verdict::Pass, format!("{} entries, {} bytes", done.entries, done.bytes));
            let mut databases: Vec<(String, PathBuf)> = Vec::new();
            let mut files: Vec<(String, PathBuf)> = Vec::new();
            let checks = config.drill.as_ref().map(|d| d.checks.as_slice()).unwrap_or_default();
            let compared = compare(session, &out, &target, &mut databases, &mut |entry, path| {
                if checks.iter().any(|c| c.entry.is_match(&entry.path)) {
                    files.push((entry.display_path(), path.to_path_buf()));
                }
            })?;
            add("contents", if compared.1.is_empty() { Verdict::Pass } else { Verdict::Failed }, summary(compared.0, &compared.1));
            for (entry, path) in &databases {
                for (check, verdict, detail) in check_database(path) {
                    add(&format!("{check} of {entry}"), verdict, detail);
                }
            }
            if let Some(drill) = &config.drill {
                for check in &drill.checks {
                    let (verdict, detail) = configured_check(check, &files);
                    add(&format!("configured check of {}", check.entry.source), verdict, detail);
                }
            }
            let (verdict, detail) = nobody_erased(session, config, &out)?;
            add("erased persons absent", verdict, detail);
        }
    }
    report.verdict = report.checks.iter().fold(Verdict::Pass, |v, c| v.and(c.verdict));
    Ok((report, head.generation))
}

fn summary(compared: u64, wrong: &[String]) -> String {
    match wrong {
        [] => format!("{compared} files are byte for byte what the archive holds"),
        some => format!("{} of {compared} files differ: {}", some.len(), some.iter().take(5).cloned().collect::<Vec<_>>().join(", ")),
    }
}

/// Reads every restored file back and compares its chunks' digests with the archive's.
fn compare(
    session: &Session,
    out: &super::gate::Outgoing,
    target: &Path,
    databases: &mut Vec<(String, PathBuf)>,
    each: &mut dyn FnMut(&Entry, &Path),
) -> Result<(u64, Vec<String>)> {
    use std::os::unix::ffi::OsStrExt;
    let mut wrong = Vec::new();
    let mut count = 0;
    session.env.monitor.phase("comparing", Some(out.archive.head.source_bytes));
    selected(out, &Selection::new(&[])?, |entry, pieces| {
        session.env.stop.check("the drill was not finished")?;
        if entry.kind != EntryKind::File {
            return Ok(());
        }
        count += 1;
        let path = target.join(std::ffi::OsStr::from_bytes(&entry.path));
        let mut stored = PieceReader::new(out.archive.reader.clone(), pieces);
        if !same(&entry, &path, &mut stored)? {
            wrong.push(entry.display_path());
        }
        session.env.monitor.advance(entry.size);
        each(&entry, &path);
        if entry.mapped.as_ref().is_some_and(|m| m.format == "sqlite") {
            databases.push((entry.display_path(), path));
        }
        Ok(())
    })?;
    Ok((count, wrong))
}

fn same(entry: &Entry, path: &Path, stored: &mut PieceReader) -> Result<bool> {
    use std::io::{Seek, SeekFrom};
    let Ok(mut file) = std::fs::File::open(path) else { return Ok(false) };
    if !file.metadata().is_ok_and(|m| m.len() == entry.size) {
        return Ok(false);
    }
    let whole = vec![(0, entry.size)];
    let mut buf = vec![0u8; 1 << 20];
    let mut expected = vec![0u8; 1 << 20];
    for (offset, len) in entry.segments.as_ref().unwrap_or(&whole) {
        if file.seek(SeekFrom::Start(*offset)).is_err() {
            return Ok(false);
        }
        let mut left = *len;
        while left > 0 {
            let n = left.min(buf.len() as u64) as usize;
            if file.read_exact(&mut buf[..n]).is_err() {
                return Ok(false);
            }
            stored.read_exact(&mut expected[..n]).map_err(|e| Error::damaged(entry.display_path(), e.to_string()))?;
            if buf[..n] != expected[..n] {
                return Ok(false);
            }
            left -= n as u64;
        }
    }
    Ok(true)
}

fn open_copy(path: &Path) -> rusqlite::Result<Connection> {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
}

fn check_database(path: &Path) -> Vec<(&'static str, Verdict, String)> {
    let db = match open_copy(path) {
        Ok(db) => db,
        Err(e) => return vec![("integrity_check", Verdict::Failed, e.to_string())],
    };
    let mut out = Vec::new();
    let answer: rusqlite::Result<String> = db.query_row("PRAGMA integrity_check(1)", [], |r| r.get(0));
    out.push(match answer {
        Ok(ok) if ok == "ok" => ("integrity_check", Verdict::Pass, ok),
        // An index on a collation or function that only the application has cannot be checked here.
        Err(e)
            if e.to_string().contains("no such collation")
                || e.to_string().contains("no such function")
                || e.to_string().contains("no such module") =>
        {
            ("integrity_check", Verdict::Unknown, e.to_string())
        }
        Ok(bad) => ("integrity_check", Verdict::Failed, bad),
        Err(e) => ("integrity_check", Verdict::Failed, e.to_string()),
    });
    let violations: rusqlite::Result<i64> = db.query_row("SELECT count(*) FROM pragma_foreign_key_check", [], |r| r.get(0));
    out.push(match violations {
        Ok(0) => ("foreign_key_check", Verdict::Pass, "no violation".into()),
        Ok(n) => ("foreign_key_check", Verdict::Failed, format!("{n} violation(s)")),
        Err(e) => ("foreign_key_check", Verdict::Unknown, e.to_string()),
    });
    out
}

fn number(value: rusqlite::types::ValueRef<'_>) -> rusqlite::Result<f64> {
    use rusqlite::types::ValueRef;
    match value {
        ValueRef::Integer(i) => Ok(i as f64),
        ValueRef::Real(r) => Ok(r),
        other => Err(rusqlite::Error::InvalidColumnType(0, "the check's result".into(), other.data_type())),
    }
}

fn configured_check(check: &DrillCheck, files: &[(String, PathBuf)]) -> (Verdict, String) {
    let chosen: Vec<&(String, PathBuf)> = files.iter().filter(|(entry, _)| check.entry.is_match(entry.as_bytes())).collect();
    let [(_, path)] = chosen.as_slice() else {
        return (Verdict::Failed, format!("{} entries match; the check needs exactly one", chosen.len()));
    };
    let value = match &check.sql {
        Some(sql) => open_copy(path).and_then(|db| db.query_row(sql, [], |r| number(r.get_ref(0)?))).map_err(|e| e.to_string()),
        None => std::fs::metadata(path).map(|m| m.len() as f64).map_err(|e| e.to_string()),
    };
    match value {
        Err(e) => (Verdict::Failed, e),
        Ok(v) => {
            let low = check.min.is_some_and(|m| v < m as f64);
            let high = check.max.is_some_and(|m| v > m as f64);
            let bounds = [check.min.map(|m| format!("at least {m}")), check.max.map(|m| format!("at most {m}"))]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join(", ");
            (if low || high { Verdict::Failed } else { Verdict::Pass }, format!("{v} ({bounds})"))
        }
    }
}

/// Nobody in the ledger may be in what comes out.
fn nobody_erased(session: &Session, config: &config::Dataset, out: &super::gate::Outgoing) -> Result<(Verdict, String)> {
    let state = session.state()?;
    let facts = state.facts(&config.name, &out.listed.head.archive);
    let people: Vec<&[super::event::IdentityTokens]> = state
        .requests
        .iter()
        .filter(|r| r.is_later_than(out.listed.head.created_at, &facts))
        .filter_map(|r| r.datasets.get(&config.name).map(Vec::as_slice))
        .collect();
    if people.is_empty() {
        return Ok((Verdict::Pass, "no erasure is later than this archive".into()));
    }
    if !out.gated.edit.is_empty() {
        // The search looks at what is stored; what the gate changed was verified record by record when it was edited.
        return Ok((Verdict::Pass, format!("{} erasure(s) were applied by the restore gate", out.gated.replayed.len())));
    }
    let Replayed { matches, decided, .. } = search_by_tokens(session, config, &out.view, &out.listed, &people)?;
    if let Some((entry, why)) = matches.failed.first() {
        return Ok((Verdict::Unknown, format!("{entry} could not be searched: {why}")));
    }
    let left = decided
        .iter()
        .filter(|d| d.ground.is_none() && matches.records.get(d.index).is_some_and(|m| needs_change(config, &d.disposition, &m.found)))
        .count();
    let kept = decided.iter().filter(|d| d.ground.is_some()).count();
    Ok(match left + matches.paths.len() {
        0 => (
            Verdict::Pass,
            format!("{} erased person(s) searched for: nothing left of them ({kept} record(s) kept on a ground)", people.len()),
        ),
        n => (Verdict::Failed, format!("{n} record(s) of erased persons are still there")),
    })
}
