//! The bytes of SQLite's file format: the header, what a page is by its number, and b-tree pages.
//!
//! SQLite itself reads and writes all data; this parser exists because two things need to know *where on a page* data lies, and
//! SQLite does not tell: the scrub (which zeroes everything else) and identity blocks (which read rows page by page, without a cursor).
//! Everything here is total: hostile bytes give [`Bad`], never a panic, and every loop is bounded by the page.
//!
//! Source: <https://sqlite.org/fileformat2.html>.

use crate::Error;

/// The first bytes of every unencrypted database.
pub const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Length of the database header in bytes.
pub const HEADER: usize = 100;

/// A structure that is not what the file format says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bad {
    /// Where, counted from 1; 0 for the file as a whole.
    pub page: u32,
    /// What.
    pub what: &'static str,
}

impl std::fmt::Display for Bad {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.page {
            0 => f.write_str(self.what),
            no => write!(f, "page {no}: {}", self.what),
        }
    }
}

impl Bad {
    /// The crate's error, naming the entry.
    pub fn at(self, entry: &str) -> Error {
        Error::format(entry, self.to_string())
    }
}

/// What parsing gives.
pub type Parsed<T> = Result<T, Bad>;

pub(crate) fn be16(b: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(u16::from_be_bytes(b.get(at..at + 2)?.try_into().ok()?)))
}

pub(crate) fn be32(b: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(b.get(at..at + 4)?.try_into().ok()?))
}

/// SQLite's variable-length integer at `*at`, which moves behind it.
pub(crate) fn varint(b: &[u8], at: &mut usize) -> Option<u64> {
    let mut v = 0u64;
    for i in 0..9 {
        let c = *b.get(*at)?;
        *at += 1;
        if i == 8 {
            return Some(v << 8 | u64::from(c));
        }
        v = v << 7 | u64::from(c & 0x7f);
        if c < 0x80 {
            break;
        }
    }
    Some(v)
}

/// How text is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextEncoding {
    /// UTF-8.
    Utf8,
    /// UTF-16, little-endian.
    Utf16le,
    /// UTF-16, big-endian.
    Utf16be,
}

/// What the first hundred bytes say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Bytes per page: a power of two, 512 to 65,536.
    pub page: usize,
    /// Bytes per page that SQLite uses; the rest is reserved for an extension.
    pub usable: usize,
    /// Number of pages. Bytes behind them do not belong to the database.
    pub pages: u32,
    /// First trunk page of the freelist, or 0.
    pub free_head: u32,
    /// Whether there are pointer-map pages.
    pub auto_vacuum: bool,
    /// Bytes reserved at the end of each page.
    pub reserved: usize,
    /// Whether the file is in write-ahead-log mode (bytes 18 and 19 are 2).
    pub wal: bool,
    /// How text is stored.
    pub encoding: TextEncoding,
}

impl Header {
    /// Whether these first bytes of a file are those of an unencrypted database.
    pub fn is_magic(head: &[u8]) -> bool {
        head.starts_with(MAGIC)
    }

    /// Parses the header of a file of `len` bytes.
    pub fn parse(head: &[u8], len: u64) -> Parsed<Header> {
        let bad = |what| Bad { page: 0, what };
        let h: &[u8; HEADER] = head.get(..HEADER).and_then(|h| h.try_into().ok()).ok_or(bad("shorter than a database header"))?;
        if !Header::is_magic(h) {
            return Err(bad("not an unencrypted SQLite database"));
        }
        let page = match u16::from_be_bytes([h[16], h[17]]) {
            1 => 65_536,
            n => usize::from(n),
        };
        if !page.is_power_of_two() || page < 512 {
            return Err(bad("impossible page size"));
        }
        if (h[21], h[22], h[23]) != (64, 32, 32) {
            return Err(bad("impossible payload fractions"));
        }
        let reserved = usize::from(h[20]);
        let usable = page - reserved;
        if usable < 480 {
            return Err(bad("impossible number of reserved bytes"));
        }
        let word = |at: usize| be32(h, at).unwrap_or(0);
        let by_size = u32::try_from(len / page as u64).map_err(|_| bad("too many pages"))?;
        // The count in the header is valid only when the version that wrote it also left its mark (SQLite does the same).
        let pages = if word(28) > 0 && word(24) == word(92) { word(28) } else { by_size };
        if pages > by_size || pages == 0 {
            return Err(bad("the file is shorter than its header says"));
        }
        let encoding = match word(56) {
            0 | 1 => TextEncoding::Utf8,
            2 => TextEncoding::Utf16le,
            3 => TextEncoding::Utf16be,
            _ => return Err(bad("unknown text encoding")),
        };
        let wal = match (h[18], h[19]) {
            (2, 2) => true,
            (1, 1) => false,
            _ => return Err(bad("written by a version of SQLite that is not known here")),
        };
        Ok(Header { page, usable, pages, free_head: word(32), auto_vacuum: word(52) != 0, reserved, wal, encoding })
    }

    /// Of an empty file, which is an empty database.
    pub fn empty() -> Header {
        Header {
            page: 4096,
            usable: 4096,
            pages: 0,
            free_head: 0,
            auto_vacuum: false,
            reserved: 0,
            wal: false,
            encoding: TextEncoding::Utf8,
        }
    }

    /// Where a page begins in the file.
    pub fn offset(&self, no: u32) -> u64 {
        (u64::from(no) - 1) * self.page as u64
    }

    /// Fails when an extension uses the page's reserved bytes: it keeps a checksum or a nonce there that depends on the other bytes.
    /// Reserved bytes that are zero were only set aside (Apple's build of SQLite does that) and harm nobody.
    pub fn check_reserved(&self, no: u32, page: &[u8]) -> Parsed<()> {
        match page.get(self.usable..).is_none_or(|r| r.iter().all(|b| *b == 0)) {
            true => Ok(()),
            false => Err(Bad { page: no, what: "its reserved bytes are in use (a checksum or encryption extension)" }),
        }
    }

    /// The page that is never used because locks lie over its bytes.
    pub fn lock_page(&self) -> u32 {
        (1u32 << 30) / self.page as u32 + 1
    }

    /// Whether the page is a pointer map, which its number alone decides.
    pub fn is_pointer_map(&self, no: u32) -> bool {
        if !self.auto_vacuum || no < 2 {
            return false;
        }
        let per = self.usable as u32 / 5 + 1;
        let map = (no - 2) / per * per + 2;
        no == if map == self.lock_page() { map + 1 } else { map }
    }

    /// Most bytes of a payload that a cell of this kind keeps on its page.
    fn max_local(&self, kind: Kind) -> u64 {
        match kind {
            Kind::TableLeaf => self.usable as u64 - 35,
            _ => (self.usable as u64 - 12) * 64 / 255 - 23,
        }
    }

    /// Bytes of a payload of `len` that stay on the page of a cell of this kind.
    fn local(&self, kind: Kind, len: u64) -> u64 {
        let max = self.max_local(kind);
        if len <= max {
            return len;
        }
        let min = (self.usable as u64 - 12) * 32 / 255 - 23;
        let k = min + (len - min) % (self.usable as u64 - 4);
        if k <= max { k } else { min }
    }
}

/// Kinds of b-tree pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Inner page of an index (or of a table without row ids).
    IndexInterior,
    /// Inner page of a table.
    TableInterior,
    /// Leaf of an index (or of a table without row ids).
    IndexLeaf,
    /// Leaf of a table: rows.
    TableLeaf,
}

impl Kind {
    /// By the byte at the page's (or, on page 1, the header's) start.
    pub fn of(flag: u8) -> Option<Kind> {
        match flag {
            2 => Some(Kind::IndexInterior),
            5 => Some(Kind::TableInterior),
            10 => Some(Kind::IndexLeaf),
            13 => Some(Kind::TableLeaf),
            _ => None,
        }
    }

    /// Whether it has no children.
    pub fn is_leaf(self) -> bool {
        matches!(self, Kind::IndexLeaf | Kind::TableLeaf)
    }

    /// Whether it is of a table with row ids.
    pub fn is_table(self) -> bool {
        matches!(self, Kind::TableInterior | Kind::TableLeaf)
    }
}

/// One cell of a b-tree page, in bytes of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// Where it begins.
    pub start: u32,
    /// Behind its last byte.
    pub end: u32,
    /// Where its payload begins.
    pub payload: u32,
    /// Bytes of payload on the page.
    pub local: u32,
    /// Bytes of payload in all.
    pub len: u64,
    /// Row id (tables only).
    pub rowid: i64,
    /// First overflow page, or 0.
    pub overflow: u32,
}

impl Cell {
    /// Bytes of payload on overflow pages.
    pub fn spilled(&self) -> u64 {
        self.len - u64::from(self.local)
    }
}

/// A parsed b-tree page. Reused from page to page, so that a pass over a database does not allocate.
#[derive(Debug, Default)]
pub struct Btree {
    kind: Option<Kind>,
    /// Its cells, in key order.
    pub cells: Vec<Cell>,
    /// Children in key order, the rightmost last (inner pages only).
    pub children: Vec<u32>,
    /// Behind the array of cell pointers.
    top: u32,
    /// Freeblocks, by address.
    free: Vec<u32>,
    /// Cells and freeblock headers by address, as start << 32 | end: what the scrub keeps.
    keep: Vec<u64>,
}

impl Btree {
    /// The kind of the page parsed last.
    pub fn kind(&self) -> Option<Kind> {
        self.kind
    }

    /// Whether the page parsed last is a leaf.
    pub fn is_leaf(&self) -> bool {
        self.kind.is_some_and(Kind::is_leaf)
    }

    /// Parses page `no`, whose bytes are `p`.
    pub fn parse(&mut self, p: &[u8], no: u32, header: &Header) -> Parsed<()> {
        let bad = |what| Bad { page: no, what };
        let usable = header.usable;
        self.cells.clear();
        self.children.clear();
        self.free.clear();
        self.kind = None;
        let p = p.get(..usable).ok_or(bad("shorter than a page"))?;
        let h = if no == 1 { HEADER } else { 0 };
        let kind = p.get(h).and_then(|f| Kind::of(*f)).ok_or(bad("not a b-tree page"))?;
        let n = be16(p, h + 3).ok_or(bad("no page header"))?;
        let pointers = h + if kind.is_leaf() { 8 } else { 12 };
        let top = pointers + 2 * n;
        if top > usable {
            return Err(bad("cell pointers run past the page"));
        }
        for i in 0..n {
            let at = be16(p, pointers + 2 * i).ok_or(bad("cell pointers run past the page"))?;
            // SQLite gives every cell at least four bytes.
            if at < top || at + 4 > usable {
                return Err(bad("a cell is out of range"));
            }
            let cell = self.cell(p, at, kind, header).ok_or(bad("a cell runs past the page"))?;
            self.cells.push(cell);
        }
        if !kind.is_leaf() {
            self.children.push(be32(p, h + 8).ok_or(bad("no page header"))?);
        }
        let mut block = be16(p, h + 1).ok_or(bad("no page header"))?;
        let mut last = 0;
        while block != 0 {
            let size = be16(p, block + 2).ok_or(bad("a free block runs past the page"))?;
            if block <= last || block < top || size < 4 || block + size > usable {
                return Err(bad("a free block is out of range"));
            }
            self.free.push(block as u32);
            last = block;
            block = be16(p, block).ok_or(bad("a free block runs past the page"))?;
        }
        self.top = top as u32;
        self.kind = Some(kind);
        Ok(())
    }

    fn cell(&mut self, p: &[u8], at: usize, kind: Kind, header: &Header) -> Option<Cell> {
        let mut e = at;
        if !kind.is_leaf() {
            self.children.push(be32(p, at)?);
            e += 4;
        }
        let mut cell = Cell { start: at as u32, end: 0, payload: 0, local: 0, len: 0, rowid: 0, overflow: 0 };
        if kind == Kind::TableInterior {
            cell.rowid = varint(p, &mut e)? as i64;
        } else {
            cell.len = varint(p, &mut e)?;
            if kind == Kind::TableLeaf {
                cell.rowid = varint(p, &mut e)? as i64;
            }
            let local = header.local(kind, cell.len);
            cell.payload = e as u32;
            cell.local = local as u32;
            e = e.checked_add(usize::try_from(local).ok()?)?;
            if cell.len > local {
                cell.overflow = be32(p, e)?;
                e += 4;
            }
        }
        cell.end = e as u32;
        (e <= p.len()).then_some(cell)
    }

    /// Zeroes every byte of the page that no cell and no structure uses; how many of them were not zero.
    /// `p` are the bytes that were parsed. Fails, and changes nothing, when cells overlap.
    pub fn wipe(&mut self, p: &mut [u8], no: u32, header: &Header) -> Parsed<u64> {
        self.keep.clear();
        // A cell of fewer than four bytes has four all the same: the spare ones are wiped, but nothing else may claim them.
        self.keep.extend(self.cells.iter().map(|c| u64::from(c.start) << 32 | u64::from(c.end)));
        self.keep.extend(self.free.iter().map(|f| u64::from(*f) << 32 | u64::from(f + 4)));
        self.keep.sort_unstable();
        let mut at = u64::from(self.top);
        for k in &self.keep {
            let (start, end) = (k >> 32, k & 0xffff_ffff);
            if start < at {
                return Err(Bad { page: no, what: "cells overlap" });
            }
            at = end.max(start + 4);
        }
        let mut at = self.top as usize;
        let mut wiped = 0;
        let end = std::iter::once((header.usable as u64) << 32);
        for k in self.keep.iter().copied().chain(end) {
            let (start, end) = ((k >> 32) as usize, (k & 0xffff_ffff) as usize);
            if let Some(gap) = p.get_mut(at..start) {
                wiped += wipe(gap);
            }
            at = end;
        }
        Ok(wiped)
    }
}

/// Zeroes bytes; how many were not zero.
pub(crate) fn wipe(bytes: &mut [u8]) -> u64 {
    let dirty = bytes.iter().filter(|b| **b != 0).count() as u64;
    if dirty > 0 {
        bytes.fill(0);
    }
    dirty
}

/// A trunk page of the freelist: the next trunk (or 0) and the leaves that it lists.
pub(crate) fn trunk(p: &[u8], no: u32, header: &Header) -> Parsed<(u32, Vec<u32>)> {
    let bad = |what| Bad { page: no, what };
    let next = be32(p, 0).ok_or(bad("shorter than a page"))?;
    let n = be32(p, 4).ok_or(bad("shorter than a page"))? as usize;
    if n > header.usable / 4 - 2 {
        return Err(bad("freelist trunk lists too many pages"));
    }
    let mut leaves = Vec::with_capacity(n);
    for i in 0..n {
        let leaf = be32(p, 8 + 4 * i).ok_or(bad("freelist trunk runs past the page"))?;
        if leaf < 2 || leaf > header.pages {
            return Err(bad("freelist names a page that does not exist"));
        }
        leaves.push(leaf);
    }
    Ok((next, leaves))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn header(page: usize) -> Header {
        Header { page, usable: page, pages: 1000, free_head: 0, auto_vacuum: false, reserved: 0, wal: false, encoding: TextEncoding::Utf8 }
    }

    #[test]
    fn varints_have_one_to_nine_bytes() {
        for (bytes, value) in
            [(&[0x7f][..], 127), (&[0x81, 0x00], 128), (&[0xff; 9], u64::MAX), (&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x05], 5)]
        {
            let mut at = 0;
            assert_eq!(varint(bytes, &mut at), Some(value));
            assert_eq!(at, bytes.len());
        }
        assert_eq!(varint(&[0x80], &mut 0), None);
    }

    #[test]
    fn pointer_maps_lie_where_sqlite_puts_them() {
        let mut h = header(512);
        assert!(!h.is_pointer_map(2));
        h.auto_vacuum = true;
        assert!(h.is_pointer_map(2) && !h.is_pointer_map(3) && h.is_pointer_map(2 + 103));
        assert_eq!(h.lock_page(), 2_097_153);
    }

    proptest! {
        #[test]
        fn hostile_pages_are_an_error_or_a_page(
            mut bytes in proptest::collection::vec(any::<u8>(), 512),
            flag in prop::sample::select(vec![2u8, 5, 10, 13]),
            cells in 0u8..40,
            no in 1u32..4,
        ) {
            let at = if no == 1 { 100 } else { 0 };
            bytes[at] = flag;
            bytes[at + 3] = 0;
            bytes[at + 4] = cells;
            let h = header(512);
            let mut b = Btree::default();
            if b.parse(&bytes, no, &h).is_ok() {
                let before = bytes.clone();
                if b.wipe(&mut bytes, no, &h).is_err() {
                    prop_assert_eq!(before, bytes);
                }
            }
        }

        #[test]
        fn hostile_headers_are_an_error_or_a_header(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), len in any::<u64>(), magic in any::<bool>()) {
            if magic && bytes.len() > 24 {
                bytes[..16].copy_from_slice(MAGIC);
                bytes[21..24].copy_from_slice(&[64, 32, 32]);
            }
            let _ = Header::parse(&bytes, len);
        }

        #[test]
        fn hostile_trunks_are_an_error_or_a_list(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = trunk(&bytes, 5, &header(512));
        }
    }
}
