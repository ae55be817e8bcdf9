//! Cutting entries into pieces at places that their content chooses, so that an insertion changes the pieces around it and no others.
//!
//! The choice is keyed: the gear table comes from the dataset's seed, so that piece lengths tell an onlooker nothing about known
//! content. Each piece is cut from its own start, without memory of the one before, which is what lets two nights fall back
//! into step after a difference. Normalised chunking (two masks, as in FastCDC) keeps lengths near the average.

use super::{Piece, RecordCutter, RecordFormat};
use crate::datamap::Collection;
use crate::repository::{Cut, Sizes};
use crate::{Error, Result};
use std::io::Read;

/// How much of an entry's start a format sees to settle its dialect, in bytes.
pub const HEAD: usize = 64 * 1024;

/// The most that one record may take in any case, in bytes: with what stands before it in its piece it has to fit into a chunk. A larger one is
/// more likely a quote that never closes.
pub const MAX_RECORD: usize = 31 * 1024 * 1024;

/// The most that one record may take where work has so much memory: cutting, scanning and sealing each hold it once.
pub fn max_record(memory: u64) -> usize {
    usize::try_from(memory / 8).unwrap_or(MAX_RECORD).min(MAX_RECORD)
}

/// Bytes that decide about a cut: the gear forgets older ones.
const WINDOW: usize = 64;

/// Lengths of pieces in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutSizes {
    /// No piece but the last of an entry is shorter.
    pub min: usize,
    /// What lengths gather around.
    pub avg: usize,
    /// A cut is forced here. A record may still make a piece longer.
    pub max: usize,
}

impl From<Cut> for CutSizes {
    fn from(cut: Cut) -> CutSizes {
        CutSizes { min: cut.min as usize, avg: cut.avg as usize, max: cut.max as usize }
    }
}

/// Those of a repository with the usual sizes.
impl CutSizes {
    /// For entries whose records an erasure may edit: small, so that it re-seals little.
    pub fn records() -> CutSizes {
        CutSizes::from(Sizes::default().records)
    }

    /// For entries that are kept or deleted as a whole: large, for better compression and short lists.
    pub fn bytes() -> CutSizes {
        CutSizes::from(Sizes::default().opaque)
    }
}

/// A keyed table of 256 random words: the rolling hash that chooses cuts. Holds a secret: no `Debug`.
pub struct Gear {
    /// For the second byte of a pair, and for the first (shifted already).
    table: Box<([u64; 256], [u64; 256])>,
}

impl Gear {
    /// From the dataset's seed (the BLAKE3 output stream keyed with it).
    pub fn new(seed: &[u8; 32]) -> Gear {
        let mut bytes = zeroize::Zeroizing::new([0u8; 2048]);
        blake3::Hasher::new_keyed(seed).update(b"reseal gear").finalize_xof().fill(bytes.as_mut());
        let mut table = Box::new(([0u64; 256], [0u64; 256]));
        for (i, word) in bytes.chunks_exact(8).enumerate() {
            let word = word.iter().fold(0u64, |v, b| (v << 8) | u64::from(*b));
            table.0[i] = word;
            table.1[i] = word << 1;
        }
        Gear { table }
    }

    /// Where a piece that begins at the start of `bytes` is cut. `bytes` must reach to `sizes.max` or to the end of the entry.
    pub fn cut(&self, bytes: &[u8], sizes: &CutSizes) -> usize {
        let end = bytes.len().min(sizes.max);
        if end <= sizes.min {
            return end;
        }
        let bits = sizes.avg.max(64).ilog2();
        let middle = sizes.avg.clamp(sizes.min, end);
        // The window is filled before the first place where a cut may be, so that it depends on all of its bytes.
        let mut hash = 0u64;
        for b in &bytes[sizes.min.saturating_sub(WINDOW)..sizes.min] {
            hash = (hash << 1).wrapping_add(self.table.0[usize::from(*b)]);
        }
        if let Some(at) = self.find(&mut hash, &bytes[sizes.min..middle], mask(bits + 2)) {
            return sizes.min + at;
        }
        if let Some(at) = self.find(&mut hash, &bytes[middle..end], mask(bits.saturating_sub(2))) {
            return middle + at;
        }
        end
    }

    /// The end of the first window of `bytes` whose hash has no bit of `mask`; two bytes at a time, because the shift is what costs.
    #[inline(always)]
    fn find(&self, hash: &mut u64, bytes: &[u8], mask: u64) -> Option<usize> {
        let (one, two) = (&self.table.0, &self.table.1);
        let mut h = *hash;
        let pairs = bytes.chunks_exact(2);
        let rest = pairs.remainder();
        for (i, pair) in pairs.enumerate() {
            h = (h << 2).wrapping_add(two[usize::from(pair[0])]);
            if h & (mask << 1) == 0 {
                return Some(2 * i + 1);
            }
            h = h.wrapping_add(one[usize::from(pair[1])]);
            if h & mask == 0 {
                return Some(2 * i + 2);
            }
        }
        if let [last] = rest {
            h = (h << 1).wrapping_add(one[usize::from(*last)]);
            if h & mask == 0 {
                return Some(bytes.len());
            }
        }
        *hash = h;
        None
    }
}

/// `bits` ones, high up (where a bit depends on the most bytes) but one below the top, so that it can be shifted by one.
fn mask(bits: u32) -> u64 {
    let bits = bits.clamp(1, 48);
    ((1u64 << bits) - 1) << (63 - bits)
}

/// An entry's bytes with look-ahead: refilled in large reads, moved rarely.
struct Input<'a> {
    read: &'a mut dyn Read,
    entry: String,
    buf: Vec<u8>,
    start: usize,
    end: usize,
    eof: bool,
}

impl<'a> Input<'a> {
    fn new(read: &'a mut dyn Read, entry: String) -> Input<'a> {
        Input { read, entry, buf: Vec::new(), start: 0, end: 0, eof: false }
    }

    fn available(&self) -> &[u8] {
        self.buf.get(self.start..self.end).unwrap_or_default()
    }

    fn consume(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
    }

    /// Makes `want` bytes available, or all there are.
    fn fill(&mut self, want: usize) -> Result<()> {
        // Four times what is wanted, so that moving the rest to the front stays rare; for a huge record only what it takes.
        // Short entries get by with little: the buffer grows as bytes come.
        let most = if want <= 4 * 1024 * 1024 { want.saturating_mul(4) } else { want.saturating_add(want / 4) };
        let most = most.max(HEAD);
        while self.end - self.start < want && !self.eof {
            if self.end == self.buf.len() {
                if self.start > self.buf.len() / 2 || self.buf.len() >= most {
                    self.buf.copy_within(self.start..self.end, 0);
                    self.end -= self.start;
                    self.start = 0;
                } else {
                    let grown = (self.buf.len() * 4).max(HEAD).min(most);
                    self.buf.resize(grown, 0);
                }
            }
            let room = self.buf.get_mut(self.end..).unwrap_or_default();
            match self.read.read(room) {
                Ok(0) => self.eof = true,
                Ok(n) => self.end += n.min(room.len()),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::Source { what: self.entry.clone(), detail: source.to_string() }),
            }
        }
        Ok(())
    }
}

/// Cuts bytes of no known format. An iterator of pieces; their concatenation is the input.
pub struct RawCutter<'a> {
    input: Input<'a>,
    gear: &'a Gear,
    sizes: CutSizes,
    failed: bool,
}

impl<'a> RawCutter<'a> {
    /// `entry` names it in messages. Memory: about four times `sizes.max`, less for shorter entries.
    pub fn new(read: &'a mut dyn Read, entry: impl Into<String>, gear: &'a Gear, sizes: CutSizes) -> RawCutter<'a> {
        RawCutter { input: Input::new(read, entry.into()), gear, sizes, failed: false }
    }

    fn next_piece(&mut self) -> Result<Option<Vec<u8>>> {
        self.input.fill(self.sizes.max)?;
        let bytes = self.input.available();
        let piece = bytes[..self.gear.cut(bytes, &self.sizes)].to_vec();
        self.input.consume(piece.len());
        Ok((!piece.is_empty()).then_some(piece))
    }
}

impl Iterator for RawCutter<'_> {
    type Item = Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let piece = self.next_piece().transpose();
        self.failed = matches!(piece, Some(Err(_)));
        piece
    }
}

/// Cuts an entry of a record format at the first record end at or after each place that the content chooses. An iterator of pieces;
/// their concatenation is the input.
pub struct RecordPieces<'a> {
    input: Input<'a>,
    cutter: Box<dyn RecordCutter>,
    gear: &'a Gear,
    sizes: CutSizes,
    max_record: usize,
    records: u64,
    offset: u64,
    failed: bool,
}

impl<'a> RecordPieces<'a> {
    /// Looks at the entry's head, lets the format settle its dialect and stands ready to cut. `entry` names it in messages;
    /// a record of more than `max_record` bytes (see [`MAX_RECORD`]) is an [`Error::Format`].
    pub fn open(
        format: &dyn RecordFormat,
        collection: &Collection,
        read: &'a mut dyn Read,
        entry: impl Into<String>,
        gear: &'a Gear,
        sizes: CutSizes,
        max_record: usize,
    ) -> Result<RecordPieces<'a>> {
        let mut input = Input::new(read, entry.into());
        input.fill(HEAD)?;
        let head = input.available();
        let cutter = format.cutter(collection, &head[..head.len().min(HEAD)]).map_err(|e| named(e, &input.entry))?;
        Ok(RecordPieces { input, cutter, gear, sizes, max_record, records: 0, offset: 0, failed: false })
    }

    /// Records (for CSV: also the header and empty lines) in the pieces handed out so far.
    pub fn records(&self) -> u64 {
        self.records
    }

    fn next_piece(&mut self) -> Result<Option<Piece>> {
        self.input.fill(self.sizes.max)?;
        if self.input.available().is_empty() {
            return Ok(None);
        }
        let context = self.cutter.context();
        let cut = self.gear.cut(self.input.available(), &self.sizes);
        // `end`: of the last whole record, from the piece's start. `seen`: bytes after it already looked at in vain.
        let (mut end, mut seen) = (0, 0);
        while end < cut {
            let bytes = self.input.available();
            let rest = bytes.get(end..).unwrap_or_default();
            let found = self.cutter.record_end(rest, seen, self.input.eof).map_err(|e| named(e, &self.input.entry))?;
            seen = rest.len();
            match found {
                Some(0) => return Err(self.bad(end, "the format found a record without bytes")),
                Some(len) if len > self.max_record || len > rest.len() => return Err(self.too_long(end)),
                Some(len) => {
                    end += len;
                    seen = 0;
                    self.records += 1;
                }
                None if seen > self.max_record => return Err(self.too_long(end)),
                None if self.input.eof => return Err(self.bad(end, "the format found no end of the last record")),
                None => {
                    let more = seen.clamp(64 * 1024, 8 * 1024 * 1024);
                    self.input.fill(bytes.len() + more)?;
                }
            }
        }
        let bytes = self.input.available()[..end].to_vec();
        self.input.consume(end);
        self.offset += end as u64;
        Ok(Some(Piece { bytes, context }))
    }

    fn too_long(&self, end: usize) -> Error {
        self.bad(end, &format!("it is longer than {} bytes; is a quote never closed?", self.max_record))
    }

    fn bad(&self, end: usize, detail: &str) -> Error {
        Error::format(&self.input.entry, format!("record {} at byte {}: {detail}", self.records + 1, self.offset + end as u64))
    }
}

impl Iterator for RecordPieces<'_> {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let piece = self.next_piece().transpose();
        self.failed = matches!(piece, Some(Err(_)));
        piece
    }
}

/// Formats do not know which entry they work on; the driver does.
pub(super) fn named(error: Error, entry: &str) -> Error {
    match error {
        Error::Format { detail, .. } => Error::format(entry, detail),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::testing::cpu_seconds;
    use proptest::prelude::*;
    use std::collections::HashSet;

    const SMALL: CutSizes = CutSizes { min: 256, avg: 1024, max: 4096 };

    fn noise(n: usize, seed: u64) -> Vec<u8> {
        let mut out = vec![0; n];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
        out
    }

    /// Hands out a few bytes at a time, as pipes do.
    struct Drip<'a>(&'a [u8], usize);

    impl Read for Drip<'_> {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            let n = self.0.len().min(buf.len()).min(1 + self.1 % 700);
            self.1 = self.1.wrapping_mul(31).wrapping_add(7);
            buf[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    fn raw(bytes: &[u8], gear: &Gear, sizes: CutSizes) -> Vec<Vec<u8>> {
        RawCutter::new(&mut { bytes }, "x", gear, sizes).collect::<Result<_>>().unwrap()
    }

    #[test]
    fn an_insertion_changes_few_pieces() {
        let gear = Gear::new(&[7; 32]);
        let old = noise(3_000_000, 1);
        let mut new = old.clone();
        new.splice(1_500_000..1_500_000, b"inserted".iter().copied());
        let before: HashSet<Vec<u8>> = raw(&old, &gear, SMALL).into_iter().collect();
        let after = raw(&new, &gear, SMALL);
        let changed = after.iter().filter(|p| !before.contains(*p)).count();
        assert!(changed <= 3, "{changed} of {} pieces changed", after.len());
    }

    #[test]
    fn lengths_keep_their_bounds_and_gather_around_the_average() {
        let pieces = raw(&noise(4_000_000, 2), &Gear::new(&[1; 32]), SMALL);
        for p in &pieces[..pieces.len() - 1] {
            assert!((SMALL.min..=SMALL.max).contains(&p.len()), "{}", p.len());
        }
        let mean = 4_000_000 / pieces.len();
        assert!((800..1600).contains(&mean), "{mean}");
    }

    #[test]
    fn another_seed_cuts_elsewhere() {
        let bytes = noise(1_000_000, 3);
        let a: HashSet<Vec<u8>> = raw(&bytes, &Gear::new(&[1; 32]), SMALL).into_iter().collect();
        let same = raw(&bytes, &Gear::new(&[2; 32]), SMALL).iter().filter(|p| a.contains(*p)).count();
        assert!(same <= 2, "{same}");
    }

    #[test]
    fn a_failing_source_ends_the_iteration_with_its_error() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                Err(std::io::Error::other("gone"))
            }
        }
        let gear = Gear::new(&[0; 32]);
        let mut broken = Broken;
        let mut cutter = RawCutter::new(&mut broken, "a/b", &gear, SMALL);
        assert_eq!(cutter.next().unwrap().unwrap_err().to_string(), "cannot back up a/b: gone");
        assert!(cutter.next().is_none());
    }

    /// Run with `cargo test --release -- --ignored speed`.
    #[test]
    #[ignore = "a measurement"]
    fn speed_of_raw_cutting() {
        let gear = Gear::new(&[7; 32]);
        let bytes = noise(512 << 20, 1);
        for sizes in [CutSizes::bytes(), CutSizes::records()] {
            let began = cpu_seconds();
            let n = RawCutter::new(&mut bytes.as_slice(), "x", &gear, sizes).count();
            println!("{n} pieces, {:.0} MB/s", bytes.len() as f64 / 1e6 / (cpu_seconds() - began));
        }
    }

    proptest! {
        #[test]
        fn pieces_put_together_are_the_input(bytes in proptest::collection::vec(0u8..4, 0..20_000), drip in 0usize..1000) {
            let gear = Gear::new(&[3; 32]);
            let whole = raw(&bytes, &gear, SMALL);
            prop_assert_eq!(whole.concat(), bytes.clone());
            let dripped: Vec<Vec<u8>> = RawCutter::new(&mut Drip(&bytes, drip), "x", &gear, SMALL).collect::<Result<_>>().unwrap();
            prop_assert_eq!(dripped, whole);
        }
    }
}
