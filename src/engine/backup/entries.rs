//! One entry after the other: what the source has, cut by the format that the data map says, or as plain bytes.

use super::assembly::{Assembly, Flight, Line, Made};
use super::parent::{Known, Parent, ParentArchive};
use super::pipeline::{Coverage, MarkJob, Pipeline};
use super::{EntryCounts, source_error};
use crate::config::{self, Config, Source};
use crate::datamap::EntryPattern;
use crate::engine::matching::is_path_collection;
use crate::env::Env;
use crate::format::cutter::{Gear, RawCutter, RecordPieces, max_record};
use crate::format::registry::{self, Serves};
use crate::format::{RecordFormat, sqlite};
use crate::repository::entry::{Entry, EntryKind, Mapped, Time, Tree};
use crate::source::PathGlobs;
use crate::source::command::{CommandLine, CommandStream, standard_input};
use crate::source::file::{SourceFile, is_sqlite};
use crate::source::patient::Patient;
use crate::source::walk::{LOGS, Problem, Severity, Walk, WalkItem, WalkOptions, Walked};
use crate::{Error, Result};
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Bytes at an entry's start by which its format is told.
const HEAD: usize = 65536;

/// What a run adds up to.
#[derive(Default)]
pub struct Totals {
    /// Entries.
    pub entries: u64,
    /// Bytes of plaintext in the archive.
    pub source_bytes: u64,
    /// Bytes read from the source.
    pub read_bytes: u64,
    /// New, changed, unchanged.
    pub counts: EntryCounts,
    /// What went wrong.
    pub problems: Vec<(Severity, String)>,
}

/// A backup's way through its source.
pub struct Run<'a> {
    whole: &'a Config,
    env: &'a Env,
    config: &'a config::Dataset,
    pipeline: &'a Pipeline<'a>,
    parent: ParentArchive,
    raw_gear: Gear,
    totals: Totals,
    flight: Flight,
    line: Line<'a>,
    /// Paths that could not be stored: hard links to them must stand for themselves.
    lost: HashSet<Vec<u8>>,
}

impl<'a> Run<'a> {
    /// Of one dataset.
    pub fn new(
        whole: &'a Config,
        env: &'a Env,
        config: &'a config::Dataset,
        pipeline: &'a Pipeline<'a>,
        parent: ParentArchive,
        gear_seed: [u8; 32],
    ) -> Run<'a> {
        let flight = Flight::new(whole.memory);
        Run {
            whole,
            env,
            config,
            pipeline,
            parent,
            raw_gear: Gear::new(&gear_seed),
            totals: Totals::default(),
            line: Line::new(&flight),
            flight,
            lost: HashSet::new(),
        }
    }

    /// Hands every entry to `emit`, in archive order.
    pub fn all(&mut self, emit: &mut dyn FnMut(Entry) -> Result<()>) -> Result<()> {
        self.source(emit)?;
        while let Some(made) = self.line.next(true) {
            self.complete(made, emit)?;
        }
        Ok(())
    }

    fn source(&mut self, emit: &mut dyn FnMut(Entry) -> Result<()>) -> Result<()> {
        match &self.config.source {
            Source::Paths { roots, include, exclude, exclude_caches, one_file_system } => {
                let options = WalkOptions {
                    include: globs(include)?,
                    exclude: globs(exclude)?,
                    exclude_caches: *exclude_caches,
                    one_file_system: *one_file_system,
                    skip_repository: self.whole.own_folders(),
                };
                let roots: Vec<(Vec<u8>, PathBuf)> = roots.iter().map(|r| (r.stored.clone().into_bytes(), r.path.clone())).collect();
                self.paths(&roots, options, emit)
            }
            Source::Sqlite { path, entry } => {
                let entry = self.stream_entry(entry, Some(path))?;
                let made = self.database(entry, path, None)?;
                self.emit(made, emit)
            }
            Source::Command { argv, entry } => {
                let line = CommandLine::Argv(argv.iter().map(Into::into).collect());
                let stream = CommandStream::spawn(&self.config.name, &line, self.whole.folder())?;
                let output = stream.output()?;
                let made = self.stream(entry, output)?;
                // Only a command that says it succeeded makes an archive.
                stream.finish().map_err(|e| self.stopped_or(e))?;
                self.emit(made, emit)
            }
            Source::Stdin { entry } => {
                let made = self.stream(entry, standard_input()?)?;
                self.emit(made, emit)
            }
        }
    }

    /// What it added up to.
    pub fn finish(self) -> Totals {
        self.totals
    }

    /// Lines an entry up, and emits whose turn it is.
    fn emit(&mut self, made: impl Into<Made<'a>>, emit: &mut dyn FnMut(Entry) -> Result<()>) -> Result<()> {
        self.line.push(made);
        while let Some(made) = self.line.next(false) {
            self.complete(made, emit)?;
        }
        Ok(())
    }

    fn complete(&mut self, made: Made<'a>, emit: &mut dyn FnMut(Entry) -> Result<()>) -> Result<()> {
        let Made { mut entry, coming, coverage } = made;
        if let Some(assembly) = coming {
            let (tree, read) = assembly.finish()?;
            self.totals.read_bytes += read;
            entry.content = Some(tree);
        }
        self.report_malformed(&entry, coverage.as_deref());
        self.totals.entries += 1;
        self.totals.source_bytes += entry.content.as_ref().map_or(0, |t| t.len());
        emit(entry)
    }

    fn problem(&mut self, problem: Problem) {
        if problem.severity > Severity::Note {
            self.env.monitor.warn(&problem.to_string());
        } else {
            self.env.monitor.detail(&problem.to_string());
        }
        self.totals.problems.push((problem.severity, problem.to_string()));
    }

    fn paths(&mut self, roots: &[(Vec<u8>, PathBuf)], options: WalkOptions, emit: &mut dyn FnMut(Entry) -> Result<()>) -> Result<()> {
        self.env.monitor.phase(&format!("backing up {}", self.config.name), None);
        // The archive of the parent outlives the run's borrow of it.
        let archive = std::mem::replace(&mut self.parent, ParentArchive::none());
        let mut parent = archive.read();
        for walked in Walk::of_roots(roots, options)? {
            self.env.stop.check("no archive was made; run the same command again")?;
            match walked {
                Walked::Problem(p) => self.problem(p),
                Walked::Item(item) => {
                    if let Some(made) = self.item(*item, &mut parent)? {
                        self.emit(made, emit)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn item(&mut self, mut item: WalkItem, parent: &mut Parent<'_>) -> Result<Option<Made<'a>>> {
        if let Some(p) = item.problem.take() {
            self.problem(p);
        }
        if let Some(database) = &item.sidecar_of
            && !self.lost.contains(database)
        {
            self.env.monitor.detail(&format!("{}: is in the snapshot of its database", item.entry.display_path()));
            return Ok(None);
        }
        if let (EntryKind::Hardlink, Some(link)) = (item.entry.kind, &item.entry.link)
            && self.lost.contains(link.as_slice())
        {
            item.unlink();
        }
        if item.entry.kind != EntryKind::File {
            return Ok(Some(item.entry.into()));
        }
        let before = parent.at(&item.entry.path)?;
        let collections = self.collections_of(&item.entry.path);
        if let Some(old) = &before
            && (item.without_log || !has_write_ahead_log(&item.path))
            && parent.unchanged(old, &item.entry, !collections.is_empty())
            && parent.is_whole(old)?
        {
            self.totals.counts.unchanged += 1;
            // Status that does not touch the bytes (owner, mode) is always what the source says now; ctime was equal, so it is the same.
            let entry = Entry {
                size: old.size,
                segments: old.segments.clone(),
                content: old.content.clone(),
                mapped: old.mapped.clone(),
                ..item.entry
            };
            self.env.monitor.advance(entry.size);
            return Ok(Some(entry.into()));
        }
        match &before {
            Some(_) => self.totals.counts.changed += 1,
            None => self.totals.counts.new += 1,
        }
        let known = parent.known(before.as_ref())?;
        match item.open() {
            Ok(file) => self.file(item, file, collections, known),
            Err(p) => {
                self.lost.insert(item.entry.path.clone());
                self.problem(p);
                Ok(None)
            }
        }
    }

    /// Collections whose records an entry holds (not those of which it is a record itself).
    fn collections_of(&self, path: &[u8]) -> Vec<usize> {
        let map = &self.config.map;
        (0..map.collections.len())
            .filter(|c| !is_path_collection(&map.collections[*c]) && map.collections[*c].entry.matches(path).is_some())
            .collect()
    }

    fn file(&mut self, item: WalkItem, mut file: SourceFile, collections: Vec<usize>, known: Known) -> Result<Option<Made<'a>>> {
        let mut entry = item.entry;
        let mut known = Some(known);
        if is_sqlite(file.file()) {
            match self.database(entry.clone(), &item.path, Some((collections.clone(), known.take().unwrap_or_default()))) {
                Ok(made) => return Ok(Some(made.into())),
                Err(e @ (Error::Interrupted(_) | Error::Store(_))) => return Err(e),
                Err(e) => {
                    // Better a copy of its bytes than nothing; but a copy of a database that is being written to may not open.
                    let what = format!("no snapshot could be taken ({e}); its bytes are stored as they are");
                    self.problem(Problem { path: entry.path.clone(), severity: Severity::Warning, message: what });
                    self.lost.insert(entry.path.clone());
                }
            }
        }
        let format = self.record_format(&entry, &collections, Some(&file))?;
        let covers = Arc::new(Coverage::new(&self.config.map, &collections));
        let known = known.unwrap_or_default().covering(&if format.is_some() { covers.keys() } else { Vec::new() });
        let mut assembly = Assembly::new(self.pipeline, &self.flight, known);
        let mut coverage = None;
        if let Some(format) = format {
            match self.records(&entry, format, &covers, &collections, &mut file, &mut assembly) {
                Ok(()) => {
                    entry.mapped = Some(Mapped { format: format.name().into(), covers: covers.keys(), scrubbed: false });
                    coverage = Some(covers);
                }
                Err(e @ Error::Format { .. }) => {
                    // What cannot be cut into records is still backed up; an erasure will say that it cannot be edited.
                    self.problem(Problem {
                        path: entry.path.clone(),
                        severity: Severity::Warning,
                        message: format!("{e}; stored as plain bytes, which no erasure can edit"),
                    });
                    return Ok(Some(self.again_as_bytes(entry, file.again())?.into()));
                }
                Err(e) => return Err(e),
            }
        } else {
            if let Err(e) = file.find_holes() {
                self.env.monitor.detail(&format!("{}: holes cannot be told: {e}", entry.display_path()));
            }
            self.raw(&entry, &mut file, &mut assembly)?;
        }
        if let Some(p) = file.finish(&mut entry) {
            self.problem(p);
        }
        Ok(Some(Made { entry, coming: Some(assembly.close()), coverage }))
    }

    /// Records that are not of their format are stored, and nobody can be found in them: the user must know.
    fn report_malformed(&mut self, entry: &Entry, coverage: Option<&Coverage>) {
        let malformed = coverage.map_or(0, |c| c.malformed.load(Ordering::Relaxed));
        if malformed > 0 {
            let message = format!("{malformed} record(s) are malformed; they are stored, but no person can be found in them");
            self.problem(Problem { path: entry.path.clone(), severity: Severity::Warning, message });
        }
    }

    /// Reads a file from its start once more, as plain bytes.
    fn again_as_bytes(&mut self, mut entry: Entry, mut file: SourceFile) -> Result<Entry> {
        let mut assembly = Assembly::new(self.pipeline, &self.flight, Known::default());
        self.raw(&entry, &mut file, &mut assembly)?;
        let (tree, read) = assembly.finish()?;
        self.totals.read_bytes += read;
        entry.size = tree.len();
        entry.content = Some(tree);
        // Not to be taken for a good state of it by the next backup.
        entry.seen = None;
        Ok(entry)
    }

    fn record_format(&self, entry: &Entry, collections: &[usize], file: Option<&SourceFile>) -> Result<Option<&'static dyn RecordFormat>> {
        if collections.is_empty() {
            return Ok(None);
        }
        let mut head = vec![0; HEAD];
        let n = match file {
            Some(f) => f.file().read_at(&mut head, 0).map_err(|e| source_error(entry.display_path(), e))?,
            None => 0,
        };
        head.truncate(n);
        self.record_format_of(entry, collections, &head)
    }

    fn record_format_of(&self, entry: &Entry, collections: &[usize], head: &[u8]) -> Result<Option<&'static dyn RecordFormat>> {
        for c in collections {
            if let Ok(Serves::Records(format)) = registry::serve(&self.config.map.collections[*c], &entry.path, head) {
                return Ok(Some(format));
            }
        }
        Ok(None)
    }

    fn raw(&self, entry: &Entry, from: &mut dyn Read, assembly: &mut Assembly<'_>) -> Result<()> {
        for bytes in RawCutter::new(from, entry.display_path(), &self.raw_gear, self.pipeline.writer().sizes().opaque.into()) {
            let bytes = bytes?;
            self.one_more(&bytes)?;
            assembly.piece(bytes, &[], || Ok(MarkJob::None))?;
        }
        Ok(())
    }

    fn records(
        &self,
        entry: &Entry,
        format: &'static dyn RecordFormat,
        coverage: &Arc<Coverage>,
        collections: &[usize],
        from: &mut dyn Read,
        assembly: &mut Assembly<'_>,
    ) -> Result<()> {
        let collection = &self.config.map.collections[collections[0]];
        let most = max_record(self.whole.memory);
        let sizes = self.pipeline.writer().sizes().records.into();
        for piece in RecordPieces::open(format, collection, from, entry.display_path(), &self.raw_gear, sizes, most)? {
            let piece = piece?;
            self.one_more(&piece.bytes)?;
            let coverage = coverage.clone();
            let context = piece.context.clone();
            assembly.piece(piece.bytes, &context, move || Ok(MarkJob::Records { format, context: piece.context, coverage }))?;
        }
        Ok(())
    }

    /// A database, by a snapshot that never touches a disk.
    fn database(&mut self, mut entry: Entry, path: &Path, found: Option<(Vec<usize>, Known)>) -> Result<Entry> {
        let (collections, known) = match found {
            Some(found) => found,
            None => {
                let collections = self.collections_of(&entry.path);
                let archive = std::mem::replace(&mut self.parent, ParentArchive::none());
                let mut parent = archive.read();
                let before = parent.at(&entry.path)?;
                (collections, parent.known(before.as_ref())?)
            }
        };
        let known = Cell::new(known);
        let read_database = |in_place: bool| -> Result<Option<(Tree, u64, sqlite::cut::CutReport)>> {
            let options = sqlite::snapshot::Options { in_place, ..sqlite::snapshot::Options::default() };
            let snapshot = sqlite::snapshot::Snapshot::open_with(path, &options)?;
            let read = self.sealed_database(&snapshot, &collections, known.take());
            match read {
                Err(e @ (Error::Interrupted(_) | Error::Store(_))) => Err(e),
                read if snapshot.is_unchanged()? => read.map(Some),
                _ => Ok(None),
            }
        };
        let (tree, read, report) = match read_database(true)? {
            Some(done) => done,
            None => {
                let what = "somebody wrote to it while it was read; reading it again from a copy";
                self.env.monitor.detail(&format!("{}: {what}", entry.display_path()));
                match read_database(false)? {
                    Some(done) => done,
                    None => return Err(Error::Source { what: entry.display_path(), detail: "a copy of it changed".into() }),
                }
            }
        };
        self.totals.read_bytes += read;
        for warning in report.warnings {
            self.problem(Problem { path: entry.path.clone(), severity: Severity::Warning, message: warning });
        }
        entry.size = tree.len();
        entry.segments = None;
        entry.content = Some(tree);
        entry.mapped = Some(Mapped { format: "sqlite".into(), covers: report.covers, scrubbed: report.scrubbed });
        Ok(entry)
    }

    fn one_more(&self, piece: &[u8]) -> Result<()> {
        self.env.monitor.advance(piece.len() as u64);
        self.env.stop.check("no archive was made; run the same command again")
    }

    /// Cuts and stores what a snapshot holds.
    fn sealed_database(
        &self,
        snapshot: &sqlite::snapshot::Snapshot,
        collections: &[usize],
        known: Known,
    ) -> Result<(Tree, u64, sqlite::cut::CutReport)> {
        let cut = sqlite::cut::Cut::plan(snapshot, &self.config.map, collections, self.pipeline.token_key())?;
        // Blocks depend on which pages belong to which table: they are taken over only while that is the same.
        let known = known.covering(cut.covers());
        let assembly = RefCell::new(Assembly::new(self.pipeline, &self.flight, known));
        let same = &mut |run: &[u8]| match assembly.borrow_mut().unchanged(run)? {
            true => self.one_more(run).map(|()| true),
            false => Ok(false),
        };
        let report = cut.stream(same, &mut |run| {
            self.one_more(run.bytes)?;
            assembly.borrow_mut().run(run)
        })?;
        let (tree, read) = assembly.into_inner().finish()?;
        Ok((tree, read, report))
    }

    fn stream(&mut self, name: &str, from: File) -> Result<Entry> {
        let mut from = Patient::new(from, self.env.stop.clone());
        self.read_stream(name, &mut from).map_err(|e| self.stopped_or(e))
    }

    /// What fails because somebody asked to stop (Ctrl-C reaches a command on the same terminal, too) is no failure of the source.
    fn stopped_or(&self, e: Error) -> Error {
        self.env.stop.check("no archive was made; run the same command again").err().unwrap_or(e)
    }

    fn read_stream(&mut self, name: &str, from: &mut dyn Read) -> Result<Entry> {
        let mut entry = self.stream_entry(name, None)?;
        self.env.monitor.phase(&format!("backing up {}", self.config.name), None);
        let collections = self.collections_of(&entry.path);
        let archive = std::mem::replace(&mut self.parent, ParentArchive::none());
        let mut parent = archive.read();
        let before = parent.at(&entry.path)?;
        match &before {
            Some(_) => self.totals.counts.changed += 1,
            None => self.totals.counts.new += 1,
        }
        let known = parent.known(before.as_ref())?;
        let mut head = Vec::new();
        from.take(HEAD as u64).read_to_end(&mut head).map_err(|e| source_error(name, e))?;
        let format = self.record_format_of(&entry, &collections, &head)?;
        let mut whole = head.as_slice().chain(from);
        let covers = Arc::new(Coverage::new(&self.config.map, &collections));
        let known = known.covering(&if format.is_some() { covers.keys() } else { Vec::new() });
        let mut assembly = Assembly::new(self.pipeline, &self.flight, known);
        let mut coverage = None;
        match format {
            Some(format) => {
                self.records(&entry, format, &covers, &collections, &mut whole, &mut assembly)?;
                entry.mapped = Some(Mapped { format: format.name().into(), covers: covers.keys(), scrubbed: false });
                coverage = Some(covers);
            }
            None => self.raw(&entry, &mut whole, &mut assembly)?,
        }
        let (tree, read) = assembly.finish()?;
        self.totals.read_bytes += read;
        self.report_malformed(&entry, coverage.as_deref());
        entry.size = tree.len();
        entry.content = Some(tree);
        Ok(entry)
    }

    /// Metadata of an entry that no file system has, or of a single database.
    fn stream_entry(&self, name: &str, path: Option<&Path>) -> Result<Entry> {
        let now = self.env.now();
        let mut entry = Entry::bare(name.as_bytes().to_vec(), EntryKind::File);
        entry.mode = 0o600;
        entry.uid = rustix::process::getuid().as_raw();
        entry.gid = rustix::process::getgid().as_raw();
        entry.mtime = Time(now.as_second(), now.subsec_nanosecond().unsigned_abs());
        if let Some(path) = path {
            use std::os::unix::fs::MetadataExt;
            let meta = std::fs::metadata(path).map_err(|e| source_error(path.display().to_string(), e))?;
            entry.mode = meta.mode() & 0o7777;
            (entry.uid, entry.gid) = (meta.uid(), meta.gid());
            entry.mtime = Time(meta.mtime(), meta.mtime_nsec().unsigned_abs() as u32);
        }
        Ok(entry)
    }
}

fn globs(patterns: &[EntryPattern]) -> Result<PathGlobs> {
    PathGlobs::new(&patterns.iter().map(|p| p.source.as_str()).collect::<Vec<_>>())
}

/// A database's file may look untouched while its write-ahead log or journal holds changes.
fn has_write_ahead_log(path: &Path) -> bool {
    LOGS.iter().any(|suffix| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        std::fs::metadata(name).is_ok_and(|m| m.len() > 0)
    })
}
