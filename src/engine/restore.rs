//! Restoring an archive into a directory, through the gate: folders first, file pieces in parallel, in the order in which
//! they are stored, straight into place, links and folder metadata last. `--path` reads only what it needs.

use super::edit::{edited_entries, piece_sources};
use super::event::Event;
use super::gate::{Bypass, Outgoing, outgoing};
use super::session::Session;
use crate::repository::ChunkReader;
use crate::repository::entry::{Entry, EntryKind, Role};
use crate::source::globs::PathGlobs;
use crate::source::{FileSink, RestoreReport, Target, TargetOptions};
use crate::{Error, Result};
use crossbeam_channel::{Sender, bounded};
use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::archive::PieceSource;

/// Bytes that one worker fetches and writes in one go: of one large file, or of many small ones that lie together.
const BATCH: u64 = 8 << 20;
/// Pieces in a batch: making small files takes longer than reading them, and all workers should.
const PIECES: usize = 1024;
/// Where each request has a price so much is looked at before it is shared out by where it lies in packs: at first a little, so that the
/// workers begin, then more and more, so that what lies together is most of what is read.
const FAR_WINDOWS: (u64, u64) = (32 << 20, 512 << 20);
/// Pieces in a window.
const FAR_PIECES: usize = 16 << 10;
/// Files of more than one piece that are open at the same time, all workers together.
const OPEN: usize = 512;

/// What a restore did, or would do.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Entries written.
    pub entries: u64,
    /// Bytes written (holes not counted).
    pub bytes: u64,
    /// Requests whose erasure was applied on the way.
    pub replayed: Vec<String>,
    /// What could not be set (owners, attributes), in words.
    pub notes: Vec<String>,
    /// Paths, for a dry run.
    pub listed: Vec<String>,
}

/// What to restore.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Only these paths.
    pub paths: Vec<String>,
    /// Only say what would be written.
    pub dry_run: bool,
    /// A recorded decision to pass the gate.
    pub bypass: Option<Bypass>,
    /// Write into a directory that is not empty.
    pub overwrite: bool,
}

/// Restores `wanted` into `to`.
pub fn restore(session: &Session, wanted: &str, to: &Path, options: &Options) -> Result<Report> {
    // What a first attempt wrote is all there is in a folder that was empty before.
    let is_ours = !options.dry_run && std::fs::read_dir(to).map_or(true, |mut d| d.next().is_none());
    let selection = Selection::new(&options.paths)?;
    let mut begun = false;
    let read = session.reading(
        |_| false,
        |attempt| {
            if attempt > 0 && !options.dry_run {
                if !is_ours {
                    return Err(Error::Interrupted(
                        "the archive was sealed anew while it was read; what was written is incomplete: run the same command again".into(),
                    ));
                }
                empty(to)?;
            }
            let out = outgoing(session, wanted, options.bypass.as_ref())?;
            if options.dry_run {
                let report = preview(&out, &selection)?;
                return Ok((out, report));
            }
            let target = open(to, options)?;
            begun = true;
            let report = fill(session, &out, target, &selection)?;
            Ok((out, report))
        },
    );
    // An interruption says so itself.
    if begun && matches!(&read, Err(e) if !matches!(e, Error::Interrupted(_))) {
        let again = if options.overwrite { "the same command again" } else { "the same command with --overwrite" };
        session.env.monitor.warn(&format!("what was restored so far is incomplete; {again} completes it, once the cause is gone"));
    }
    let (out, report) = read?;
    let report = none_is_an_error(report, &selection)?;
    if !options.dry_run {
        session.record(&Event::Restored {
            dataset: out.listed.head.dataset.clone(),
            archive: out.listed.head.archive,
            how: "restore".into(),
            replayed: out.gated.replayed.len() as u64,
        })?;
    }
    Ok(report)
}

/// Removes what is in a folder, and leaves the folder.
fn empty(dir: &Path) -> Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(Error::io("read", dir))?,
    };
    for entry in entries {
        let path = entry.map_err(Error::io("read", dir))?.path();
        match path.symlink_metadata().map_err(Error::io("read", &path))?.is_dir() {
            true => super::drill::remove_all(&path).map_err(Error::io("remove", &path))?,
            false => std::fs::remove_file(&path).map_err(Error::io("remove", &path))?,
        }
    }
    Ok(())
}

/// Which entries a list of globs asks for. A folder asked for brings what is in it; hard links bring the file they lead to.
pub struct Selection {
    globs: Option<PathGlobs>,
}

impl Selection {
    /// Everything when `paths` is empty. A leading `/` or `./` is forgiven.
    pub fn new(paths: &[String]) -> Result<Selection> {
        if paths.is_empty() {
            return Ok(Selection { globs: None });
        }
        let cleaned: Vec<String> =
            paths.iter().map(|p| p.trim_start_matches("./").trim_start_matches('/').trim_end_matches('/').to_string()).collect();
        Ok(Selection { globs: Some(PathGlobs::new(&cleaned)?) })
    }

    /// Whether an entry is asked for.
    pub fn takes(&self, entry: &Entry) -> bool {
        self.globs.as_ref().is_none_or(|g| g.covers(&entry.path, entry.kind == EntryKind::Directory))
    }

    /// Whether everything is.
    pub fn is_everything(&self) -> bool {
        self.globs.is_none()
    }
}

/// Entries that are handed out under a selection, with their pieces, in archive order. A hard link whose file is not selected carries the bytes itself.
pub fn selected(out: &Outgoing, selection: &Selection, mut visit: impl FnMut(Entry, Vec<PieceSource>) -> Result<()>) -> Result<()> {
    let mut skipped: HashMap<Vec<u8>, Entry> = HashMap::new();
    let mut stands: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
    let needs_links = !selection.is_everything();
    edited_entries(&out.archive, &out.gated.edit, |entry, change| {
        let mut entry = Arc::unwrap_or_clone(entry);
        if !selection.takes(&entry) {
            if needs_links && entry.kind == EntryKind::File {
                // Only remembered while a link may ask for it; the tree's top is small.
                skipped.insert(entry.path.clone(), entry);
            }
            return Ok(());
        }
        if let (EntryKind::Hardlink, Some(link)) = (entry.kind, entry.link.clone()) {
            if let Some(new) = stands.get(link.as_slice()) {
                entry.link = Some(serde_bytes::ByteBuf::from(new.clone()));
            } else if let Some(file) = skipped.remove(link.as_slice()) {
                stands.insert(link.to_vec(), entry.path.clone());
                let change = out.gated.edit.changed.get(link.as_slice()).map(Arc::as_ref);
                let pieces = piece_sources(&out.archive, &file, change)?;
                let size = if change.is_some() { pieces.iter().map(PieceSource::len).sum() } else { file.size };
                return visit(Entry { path: entry.path, size, ..file }, pieces);
            }
        }
        let pieces = if entry.kind == EntryKind::File { piece_sources(&out.archive, &entry, change)? } else { Vec::new() };
        if change.is_some() {
            entry.size = pieces.iter().map(PieceSource::len).sum();
        }
        visit(entry, pieces)
    })
}

/// A file that several workers write.
struct Open {
    entry: Entry,
    /// From the first piece that is written on.
    sink: Mutex<Option<Arc<FileSink>>>,
    /// Pieces that are not written yet.
    left: AtomicUsize,
}

impl Open {
    fn sink(&self, target: &Target) -> Result<Arc<FileSink>> {
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        match &*sink {
            Some(sink) => Ok(sink.clone()),
            None => Ok(sink.insert(Arc::new(target.file(&self.entry)?)).clone()),
        }
    }

    fn write(&self, target: &Target, at: u64, bytes: &[u8]) -> Result<()> {
        let sink = self.sink(target)?;
        sink.write_at(at, bytes)?;
        self.written(target, &sink)
    }

    fn written(&self, target: &Target, sink: &FileSink) -> Result<()> {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            target.finish_file(sink, &self.entry)?;
            self.sink.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        Ok(())
    }
}

/// A piece and where in the file it goes.
struct Part {
    file: Arc<Open>,
    piece: PieceSource,
    at: u64,
}

/// Collects what is fetched together.
struct Batches<'a> {
    jobs: Sender<Vec<Part>>,
    parts: Vec<Part>,
    bytes: u64,
    files: usize,
    most_bytes: u64,
    most_pieces: usize,
    most_files: usize,
    /// Where each request has a price.
    far: Option<&'a ChunkReader>,
}

impl<'a> Batches<'a> {
    fn near(jobs: Sender<Vec<Part>>, most_files: usize) -> Self {
        let (most_bytes, most_pieces) = (BATCH, PIECES);
        Batches { jobs, parts: Vec::new(), bytes: 0, files: 0, most_bytes, most_pieces, most_files, far: None }
    }

    fn far(jobs: Sender<Vec<Part>>, reader: &'a ChunkReader) -> Self {
        // Files of one window are written while those of the last one are.
        let (most_bytes, most_pieces, most_files) = (FAR_WINDOWS.0, FAR_PIECES, OPEN / 2);
        Batches { jobs, parts: Vec::new(), bytes: 0, files: 0, most_bytes, most_pieces, most_files, far: Some(reader) }
    }

    fn add(&mut self, target: &Target, entry: Entry, pieces: Vec<PieceSource>) -> Result<()> {
        let file = Arc::new(Open { entry, sink: Mutex::new(None), left: AtomicUsize::new(pieces.len().max(1)) });
        if pieces.is_empty() {
            let sink = file.sink(target)?;
            return file.written(target, &sink);
        }
        self.files += usize::from(pieces.len() > 1);
        let mut at = 0;
        for piece in pieces {
            let len = piece.len();
            self.parts.push(Part { file: file.clone(), piece, at });
            at += len;
            self.bytes += len;
            if self.bytes >= self.most_bytes || self.parts.len() >= self.most_pieces {
                self.send()?;
                // The next batch goes on with this file.
                self.files = 1;
            }
        }
        if self.files >= self.most_files { self.send() } else { Ok(()) }
    }

    fn send(&mut self) -> Result<()> {
        (self.bytes, self.files) = (0, 0);
        let parts = std::mem::take(&mut self.parts);
        if parts.is_empty() {
            return Ok(());
        }
        let send = |job| self.jobs.send(job).map_err(|_| Error::Interrupted("the workers stopped".into()));
        let Some(reader) = self.far else { return send(parts) };
        self.most_bytes = (self.most_bytes * 2).min(FAR_WINDOWS.1);
        let shares = reader.by_place(parts, |part| match &part.piece {
            PieceSource::Stored(r) => Some((r.id, Role::Data)),
            PieceSource::Fresh(_) => None,
        });
        shares.into_iter().try_for_each(send)
    }
}

/// Writes an outgoing archive below `to`.
pub fn write(session: &Session, out: &Outgoing, to: &Path, options: &Options) -> Result<Report> {
    let selection = Selection::new(&options.paths)?;
    let report = fill(session, out, open(to, options)?, &selection)?;
    none_is_an_error(report, &selection)
}

fn open(to: &Path, options: &Options) -> Result<Target> {
    Target::open(to, TargetOptions { overwrite: options.overwrite, ..TargetOptions::default() })
}

/// What would be written.
fn preview(out: &Outgoing, selection: &Selection) -> Result<Report> {
    let mut report = Report { replayed: out.gated.replayed.clone(), ..Report::default() };
    selected(out, selection, |entry, pieces| {
        report.entries += 1;
        report.bytes += pieces.iter().map(PieceSource::len).sum::<u64>();
        report.listed.push(entry.display_path());
        Ok(())
    })?;
    Ok(report)
}

/// Writes what is selected, several files at the same time.
fn fill(session: &Session, out: &Outgoing, target: Target, selection: &Selection) -> Result<Report> {
    let mut report = Report { replayed: out.gated.replayed.clone(), ..Report::default() };
    session.env.monitor.phase("restoring", Some(out.archive.head.source_bytes));
    let workers = session.repo.location().data.parallel();
    let (jobs, queue) = bounded::<Vec<Part>>(workers);
    let failed: Mutex<Option<Error>> = Mutex::new(None);
    let stop = AtomicBool::new(false);
    let bytes = AtomicU64::new(0);
    let fail = |e: Error| {
        stop.store(true, Ordering::SeqCst);
        failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
    };
    let walked = std::thread::scope(|scope| {
        for _ in 0..workers {
            let queue = queue.clone();
            let (target, stop, fail, bytes) = (&target, &stop, &fail, &bytes);
            scope.spawn(move || {
                for job in queue {
                    if stop.load(Ordering::SeqCst) {
                        continue;
                    }
                    if let Err(e) = write_batch(session, out, target, &job, bytes) {
                        fail(e);
                    }
                }
            });
        }
        drop(queue);
        let mut batches = match session.repo.location().data.is_remote() {
            false => Batches::near(jobs, (OPEN / workers).max(1)),
            true => Batches::far(jobs, &out.archive.reader),
        };
        let walked = selected(out, selection, |entry, pieces| {
            session.env.stop.check("what was restored so far is incomplete; the same command with --overwrite completes it")?;
            if stop.load(Ordering::SeqCst) {
                return Err(Error::Interrupted("a worker failed".into()));
            }
            report.entries += 1;
            match entry.kind {
                EntryKind::Directory => target.create_dir(&entry),
                EntryKind::File => batches.add(&target, entry, pieces),
                _ => target.create(&entry),
            }
        });
        let walked = walked.and_then(|()| batches.send());
        drop(batches);
        walked
    });
    if let Some(e) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(e);
    }
    walked?;
    report.notes = notes_of(&target.finish()?);
    report.bytes = bytes.into_inner();
    Ok(report)
}

/// What a restore could not do, in words.
fn notes_of(done: &RestoreReport) -> Vec<String> {
    let mut notes: Vec<String> = done.problems.iter().map(ToString::to_string).collect();
    let mut count = |n: u64, what: &str| {
        if n > 0 {
            notes.push(format!("{n} {what}"));
        }
    };
    count(done.owners_refused, "entries keep another owner than the archive says (only root can set owners)");
    count(done.set_ids_dropped, "entries lost their set-id bits with that");
    count(done.attributes_refused, "extended attributes or times were not taken by the file system");
    notes
}

fn none_is_an_error(report: Report, selection: &Selection) -> Result<Report> {
    if report.entries == 0 && !selection.is_everything() {
        return Err(Error::Usage("no entry of the archive matches --path (reseal show ARCHIVE --entries lists them)".into()));
    }
    Ok(report)
}

fn write_batch(session: &Session, out: &Outgoing, target: &Target, parts: &[Part], bytes: &AtomicU64) -> Result<()> {
    let put = |part: &Part, plain: &[u8]| {
        if session.env.stop.requested() {
            return Err(Error::Interrupted(
                "what was restored so far is incomplete; the same command with --overwrite completes it".into(),
            ));
        }
        if plain.len() as u64 != part.piece.len() {
            return Err(Error::damaged("chunk", "its length is not what the entry says"));
        }
        part.file.write(target, part.at, plain)?;
        bytes.fetch_add(plain.len() as u64, Ordering::Relaxed);
        session.env.monitor.advance(plain.len() as u64);
        Ok(())
    };
    let mut stored = Vec::with_capacity(parts.len());
    let mut ids = Vec::with_capacity(parts.len());
    for part in parts {
        match &part.piece {
            PieceSource::Stored(r) => {
                stored.push(part);
                ids.push((r.id, Role::Data));
            }
            PieceSource::Fresh(held) => put(part, &held.bytes()?)?,
        }
    }
    out.archive.reader.each(&ids, |n, plain| match stored.get(n) {
        Some(part) => put(part, plain?),
        None => Ok(()),
    })
}
