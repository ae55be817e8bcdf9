//! A file that is being restored, written in any order and from several threads.

use crate::error::{Error, Result};
use crate::repository::entry::Entry;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Zeros of this length (and at multiples of it) are not written in a sparse file.
const HOLE: usize = 4096;

/// Where the content of one file goes.
#[derive(Debug)]
pub struct FileSink {
    file: File,
    shown: PathBuf,
    /// Of a sparse file: where in the content each segment starts, where in the file, and its length.
    segments: Option<Vec<(u64, u64, u64)>>,
    len: u64,
}

impl FileSink {
    pub(super) fn new(file: File, entry: &Entry, shown: PathBuf) -> Result<FileSink> {
        let mut len = entry.size;
        let mut segments = None;
        if let Some(listed) = &entry.segments {
            let mut placed = Vec::with_capacity(listed.len());
            let (mut content, mut end) = (0, 0);
            for (start, n) in listed {
                let stop = start.checked_add(*n).filter(|stop| *start >= end && *stop <= entry.size);
                end = stop.ok_or_else(|| Error::format(entry.display_path(), "its data segments overlap or reach beyond its size"))?;
                placed.push((content, *start, *n));
                content += n;
            }
            (len, segments) = (content, Some(placed));
        }
        file.set_len(entry.size).map_err(Error::io("set the length of", &shown))?;
        Ok(FileSink { file, shown, segments, len })
    }

    /// How many bytes of content the file takes: its length, or of a sparse one that of all its segments.
    pub fn content_len(&self) -> u64 {
        self.len
    }

    /// Writes a part of the entry's content. `offset` counts in the content, which of a sparse file is its segments back to
    /// back. Fails with `Damaged` when the content is longer than the entry says.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > self.len) {
            let detail = format!("its content is longer than the {} bytes that its entry names", self.len);
            return Err(Error::damaged(self.shown.display().to_string(), detail));
        }
        let Some(segments) = &self.segments else { return self.put(offset, bytes) };
        let mut rest = bytes;
        let mut at = offset;
        let first = segments.partition_point(|(content, _, n)| content + n <= at);
        for (content, start, n) in segments.iter().skip(first) {
            if rest.is_empty() {
                break;
            }
            let within = at - content;
            let here = usize::try_from(n - within).unwrap_or(usize::MAX).min(rest.len());
            let (part, later) = rest.split_at(here);
            self.put_sparsely(start + within, part)?;
            at += here as u64;
            rest = later;
        }
        Ok(())
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Writes all but the blocks that are nothing but zeros: those are there already, as holes.
    fn put_sparsely(&self, mut at: u64, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            // A run of blocks of one kind, so that data is written in one piece.
            let mut len = 0;
            let mut zeros = None;
            while len < bytes.len() {
                let block = (HOLE - (at as usize + len) % HOLE).min(bytes.len() - len);
                let is_zero = block == HOLE && bytes.get(len..len + block).is_some_and(|b| b.iter().all(|b| *b == 0));
                if *zeros.get_or_insert(is_zero) != is_zero {
                    break;
                }
                len += block;
            }
            let (part, later) = bytes.split_at(len);
            if zeros == Some(false) {
                self.put(at, part)?;
            }
            at += len as u64;
            bytes = later;
        }
        Ok(())
    }

    fn put(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, at).map_err(Error::io("write", &self.shown))
    }
}
