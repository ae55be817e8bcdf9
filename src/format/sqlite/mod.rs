//! SQLite databases: taken consistently while they are written to, cut into runs of pages, and edited *inside* the archive.
//!
//! The bytes of a database are stored as fixed runs of [`RUN`] bytes, so a page's place tells its run and an edit re-seals only
//! the runs whose pages changed. Nothing here ever writes plaintext to a disk. The rooms:
//!
//! | room | idea |
//! |---|---|
//! | [`pages`], [`record`] | the file format: headers, b-tree pages, rows |
//! | [`scrub`] | zeroes whatever is not live data, when the archive is made and after an edit |
//! | [`snapshot`] | a consistent view of a live database, its write-ahead log folded in |
//! | [`cut`], [`marks`], `text` | cuts an image into runs, makes their identity blocks |
//! | [`overlay`] | the archived runs, with written pages kept aside |
//! | [`vfs`] | lets SQLite open an overlay: the only unsafe code |
//! | [`schema`] | tables, columns, keys, triggers |
//! | [`editor`] | finding and erasing, behind [`super::EntryEditor`] |

mod apply;
mod check;
mod connect;
mod conserve;
pub mod cut;
pub mod editor;
mod emit;
mod foreign;
mod fulltext;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod levels;
pub mod marks;
pub mod overlay;
mod owners;
pub mod pages;
pub mod place;
pub mod record;
mod rows;
pub mod schema;
pub mod scrub;
pub mod snapshot;
pub mod spool;
mod text;
mod transaction;
pub mod vfs;

use crate::Result;
use pages::Header;

/// Bytes of a run: the unit in which databases are cut, sealed and edited. Every page size divides it.
pub const RUN: usize = crate::repository::RUN as usize;

/// The bytes of a database, read at random. What is read does not change during the image's life.
pub trait Image {
    /// For messages.
    fn path(&self) -> String;
    /// Length in bytes.
    fn len(&self) -> u64;
    /// Whether it holds no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Fills `buf` from `offset`; fails when the image ends before.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()>;
    /// The `index`-th run: [`RUN`] bytes, the last one shorter.
    fn run(&self, index: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.run_into(index, &mut bytes)?;
        Ok(bytes)
    }
    /// The same into a buffer, in place of what it holds.
    fn run_into(&self, index: u64, buf: &mut Vec<u8>) -> Result<()> {
        let offset = index * RUN as u64;
        buf.resize(self.len().saturating_sub(offset).min(RUN as u64) as usize, 0);
        self.read_at(offset, buf)
    }
    /// Number of runs.
    fn runs(&self) -> u64 {
        self.len().div_ceil(RUN as u64)
    }
    /// The header, parsed.
    fn header(&self) -> Result<Header> {
        let mut head = vec![0; self.len().min(pages::HEADER as u64) as usize];
        self.read_at(0, &mut head)?;
        Header::parse(&head, self.len()).map_err(|b| b.at(&self.path()))
    }
}

/// Bytes in memory are an image (tests, small files).
impl Image for Vec<u8> {
    fn path(&self) -> String {
        "database".into()
    }
    fn len(&self) -> u64 {
        self.as_slice().len() as u64
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let bytes = usize::try_from(offset)
            .ok()
            .and_then(|o| self.get(o..o.checked_add(buf.len())?))
            .ok_or_else(|| crate::Error::format(self.path(), "ends early"))?;
        buf.copy_from_slice(bytes);
        Ok(())
    }
}

/// Reads page `no` (counted from 1) into `buf`, which is one page long.
pub(crate) fn read_page(image: &dyn Image, header: &Header, no: u32, buf: &mut [u8]) -> Result<()> {
    image.read_at(header.offset(no), buf)
}

#[cfg(test)]
mod tests;
