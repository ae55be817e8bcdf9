//! Reading one file that others may be writing: what is read is what is recorded, and what changed meanwhile is told.

use super::meta;
use super::walk::{Problem, Severity};
use crate::repository::entry::Entry;
use rustix::fs::{FileType, Mode, OFlags, SeekFrom, Stat};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// The first bytes of every SQLite database.
const SQLITE_MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// More segments than this are merged over their smallest holes, so that a file full of tiny holes cannot take all memory.
const MAX_SEGMENTS: usize = 1 << 16;

/// Whether a file is an SQLite database, by its first bytes. An empty database is an empty file, and not told apart.
pub fn is_sqlite(file: &File) -> bool {
    let mut head = [0; 16];
    file.read_exact_at(&mut head, 0).is_ok() && &head == SQLITE_MAGIC
}

/// The parts of a file (offset, length) that hold data, in order, or `None` when there is no hole below `size`.
///
/// Where the file system cannot tell, a file has no holes. Moves the file's position.
pub fn segments(file: &File, size: u64) -> io::Result<Option<Vec<(u64, u64)>>> {
    let mut found: Vec<(u64, u64)> = Vec::new();
    let mut least_hole = 1;
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        if start >= size {
            break;
        }
        // At least one byte further, also when somebody punches a hole between the two questions.
        let end = rustix::fs::seek(file, SeekFrom::Hole(start)).map_err(io::Error::from)?.clamp(start + 1, size);
        add_segment(&mut found, least_hole, (start, end - start));
        while found.len() > MAX_SEGMENTS {
            least_hole *= 2;
            let mut merged = Vec::new();
            found.drain(..).for_each(|s| add_segment(&mut merged, least_hole, s));
            found = merged;
        }
        at = end;
    }
    let whole = size == 0 || found.first().is_some_and(|s| *s == (0, size));
    Ok((!whole).then_some(found))
}

fn add_segment(segments: &mut Vec<(u64, u64)>, least_hole: u64, (start, len): (u64, u64)) {
    match segments.last_mut() {
        Some(last) if start - (last.0 + last.1) < least_hole => last.1 = start + len - last.0,
        _ => segments.push((start, len)),
    }
}

/// Opens `name` in `dir` for reading if it is a regular file (or what `kind` asks for): never through a symbolic link,
/// never waiting for the other end of a pipe, and without touching its access time where that is allowed.
pub(super) fn open_quietly<Fd: AsFd>(dir: Fd, name: &[u8], kind: FileType) -> io::Result<(OwnedFd, Stat)> {
    let mut flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW;
    flags.set(OFlags::DIRECTORY, kind == FileType::Directory);
    // NOATIME is for the owner and root only, and refused to others.
    let fd = match rustix::fs::openat(&dir, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => rustix::fs::openat(&dir, name, flags, Mode::empty()),
        other => other,
    }?;
    let stat = rustix::fs::fstat(&fd)?;
    if FileType::from_raw_mode(stat.st_mode) != kind {
        return Err(io::Error::other("it is of another kind now"));
    }
    Ok((fd, stat))
}

/// A regular file being read for a backup, from its first byte to the length it had when it was opened.
///
/// As [`Read`] it yields what an archive stores as the content: the whole file, or after [`SourceFile::find_holes`] its data
/// segments back to back. Whatever happens to the file meanwhile, [`SourceFile::finish`] makes the entry fit what was read.
#[derive(Debug)]
pub struct SourceFile {
    file: File,
    at_open: Stat,
    segments: Option<Vec<(u64, u64)>>,
    /// Which segment is being read, and how far into it (or into the whole file, when there are no segments).
    at: (usize, u64),
    shrunk: bool,
}

impl SourceFile {
    /// Takes a file that was opened with [`open_quietly`].
    pub(super) fn new(fd: OwnedFd, at_open: Stat) -> SourceFile {
        SourceFile { file: File::from(fd), at_open, segments: None, at: (0, 0), shrunk: false }
    }

    /// The open file, for [`is_sqlite`] and positioned reads.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// To be read from its first byte once more: the same file, whatever has its name by now.
    pub fn again(self) -> SourceFile {
        SourceFile { segments: None, at: (0, 0), shrunk: false, ..self }
    }

    /// Its length in bytes when it was opened, holes included.
    pub fn size(&self) -> u64 {
        u64::try_from(self.at_open.st_size).unwrap_or(0)
    }

    /// Asks the file system for holes, so that reading leaves them out. Call it before the first read, and only for files
    /// whose content nothing interprets. A file that claims all its blocks is not asked.
    pub fn find_holes(&mut self) -> io::Result<()> {
        let blocks = u64::try_from(self.at_open.st_blocks).unwrap_or(0);
        if blocks.saturating_mul(512) < self.size() {
            self.segments = segments(&self.file, self.size())?;
        }
        Ok(())
    }

    /// Sets size and segments of the entry to what was read, and tells when the file changed while it was read.
    pub fn finish(self, entry: &mut Entry) -> Option<Problem> {
        let (index, within) = self.at;
        match self.segments {
            None => entry.size = within,
            Some(mut segments) => {
                if self.shrunk {
                    segments.truncate(index + 1);
                    if let Some(last) = segments.last_mut() {
                        last.1 = within;
                    }
                    segments.retain(|s| s.1 > 0);
                    entry.size = segments.last().map_or(0, |s| s.0 + s.1);
                } else {
                    entry.size = u64::try_from(self.at_open.st_size).unwrap_or(0);
                }
                entry.segments = Some(segments);
            }
        }
        let changed = match rustix::fs::fstat(&self.file) {
            Ok(now) => {
                self.shrunk
                    || (now.st_size, meta::mtime(&now), meta::ctime(&now))
                        != (self.at_open.st_size, meta::mtime(&self.at_open), meta::ctime(&self.at_open))
            }
            Err(_) => true,
        };
        changed.then(|| {
            // The next backup must not take this half-old state for the file's last one.
            entry.seen = None;
            Problem::new(&entry.path, Severity::Warning, "it changed while it was read; the archive holds what was read")
        })
    }
}

impl Read for SourceFile {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let (start, len) = match &self.segments {
                None => (0, self.size()),
                Some(segments) => match segments.get(self.at.0) {
                    Some(segment) => *segment,
                    None => return Ok(0),
                },
            };
            let left = len - self.at.1;
            if self.shrunk || buf.is_empty() {
                return Ok(0);
            }
            if left == 0 {
                if self.segments.is_none() {
                    return Ok(0);
                }
                self.at = (self.at.0 + 1, 0);
                continue;
            }
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
            let Some(part) = buf.get_mut(..want) else { return Ok(0) };
            let n = self.file.read_at(part, start + self.at.1)?;
            if n == 0 {
                self.shrunk = true;
                return Ok(0);
            }
            self.at.1 += n as u64;
            return Ok(n);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{open_source, scratch};
    use super::*;
    use std::io::Write;

    #[test]
    fn holes_are_found_and_left_out() {
        let dir = scratch();
        let path = dir.path().join("sparse");
        let file = File::create(&path).unwrap();
        file.set_len(4 << 20).unwrap();
        file.write_all_at(&[7; 65536], 1 << 20).unwrap();
        let file = File::open(&path).unwrap();
        let Some(found) = segments(&file, 4 << 20).unwrap() else {
            eprintln!("skipped: this file system keeps no holes");
            return;
        };
        assert_eq!(found, [(1 << 20, 65536)]);
        let (mut source, mut entry) = open_source(&path);
        source.find_holes().unwrap();
        let mut content = Vec::new();
        source.read_to_end(&mut content).unwrap();
        assert_eq!(content, [7; 65536]);
        assert!(source.finish(&mut entry).is_none());
        assert_eq!((entry.size, entry.segments), (4 << 20, Some(vec![(1 << 20, 65536)])));
        // One that is nothing but a hole.
        let file = File::create(&path).unwrap();
        file.set_len(1 << 20).unwrap();
        assert_eq!(segments(&file, 1 << 20).unwrap(), Some(vec![]));
        file.set_len(0).unwrap();
        assert_eq!(segments(&file, 0).unwrap(), None);
    }

    #[test]
    fn small_holes_close_when_there_are_too_many_segments() {
        let mut merged = Vec::new();
        for s in [(0, 10), (12, 3), (100, 1)] {
            add_segment(&mut merged, 4, s);
        }
        assert_eq!(merged, [(0, 15), (100, 1)]);
    }

    #[test]
    fn a_file_that_grows_is_read_to_the_length_it_had_and_told() {
        let dir = scratch();
        let path = dir.path().join("log");
        std::fs::write(&path, b"first").unwrap();
        let (mut source, mut entry) = open_source(&path);
        File::options().append(true).open(&path).unwrap().write_all(b" second").unwrap();
        let mut content = Vec::new();
        source.read_to_end(&mut content).unwrap();
        assert_eq!(content, b"first");
        let problem = source.finish(&mut entry).unwrap();
        assert!(problem.message.contains("changed while it was read"));
        assert_eq!((entry.size, entry.seen), (5, None));
    }

    #[test]
    fn a_file_that_shrinks_ends_where_it_ends() {
        let dir = scratch();
        let path = dir.path().join("log");
        std::fs::write(&path, b"first second").unwrap();
        let (mut source, mut entry) = open_source(&path);
        let mut head = [0; 3];
        source.read_exact(&mut head).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(5).unwrap();
        let mut rest = Vec::new();
        source.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"st");
        assert!(source.finish(&mut entry).is_some());
        assert_eq!(entry.size, 5);
    }

    #[test]
    fn a_pipe_is_never_waited_for() {
        let dir = scratch();
        let path = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
        let e = open_quietly(rustix::fs::CWD, path.as_os_str().as_encoded_bytes(), FileType::RegularFile).unwrap_err();
        assert!(e.to_string().contains("another kind"));
    }
}
