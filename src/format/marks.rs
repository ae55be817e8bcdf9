//! Identity blocks: for one piece of an entry, the tokens of the values by which its records can be found, and a filter of the words in
//! its texts.
//!
//! They are what makes finding a person in thirty archives a scan over small metadata: no data chunk is opened for it.
//! A block depends only on its piece and on what the map probes, so archives share blocks as they share data.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// One token of one record. Compared as it is stored.
#[derive(Debug, Clone, Copy)]
pub struct MarkRow {
    /// Index into the entry's list of covered probes.
    pub probe: u16,
    /// Record within the piece, or row id.
    pub record: i64,
    /// The first eight bytes of the token (big-endian). A stored block keeps the first four of them and has zeros for the others: a hit is
    /// confirmed on the record itself.
    pub token: u64,
}

impl PartialEq for MarkRow {
    fn eq(&self, other: &MarkRow) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for MarkRow {}

impl PartialOrd for MarkRow {
    fn partial_cmp(&self, other: &MarkRow) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for MarkRow {
    fn cmp(&self, other: &MarkRow) -> std::cmp::Ordering {
        (self.probe, self.record, self.short()).cmp(&(other.probe, other.record, other.short()))
    }
}

impl MarkRow {
    /// The part of the token that every block has.
    pub fn short(&self) -> u32 {
        (self.token >> 32) as u32
    }
}

/// A block's tokens by probe, without the records that they belong to, and its filter of text: enough to know that a piece holds nobody
/// who is wanted.
pub struct Summary {
    /// Probes that have tokens, and how many, in the order in which their tokens follow each other.
    probes: Box<[(u16, u32)]>,
    /// Short tokens.
    tokens: Box<[u32]>,
    /// [`Marks::text`].
    pub text: Option<Box<[u8]>>,
    /// [`Marks::malformed`].
    pub malformed: u32,
}

impl Summary {
    /// The short tokens of a probe; a hostile block may have several lists of them.
    pub fn of_probe(&self, probe: u16) -> impl Iterator<Item = &[u32]> {
        let mut at = 0usize;
        self.probes.iter().filter_map(move |(p, n)| {
            let from = at;
            at = at.saturating_add(*n as usize);
            self.tokens.get(from..at).filter(|_| *p == probe)
        })
    }

    /// Bytes of memory, roughly.
    pub fn memory(&self) -> usize {
        64 + self.probes.len() * 8 + self.tokens.len() * 4 + self.text.as_ref().map_or(0, |t| t.len())
    }
}

/// The identity block of one piece.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks {
    /// What an editor needs at the piece's start; see [`super::Piece::context`].
    pub context: Vec<u8>,
    /// Number of records in the piece (0 for databases).
    pub records: u32,
    /// Sorted by probe, then record.
    pub rows: Vec<MarkRow>,
    /// The filter over the texts of the fields that are searched for mentions ([`super::text_filter`]); `None`: they may mention anybody.
    pub text: Option<Vec<u8>>,
    /// Records that could not be read: they have no rows, and nobody can be found in them.
    pub malformed: u32,
}

/// The stored form: columns, so that a block is mostly the tokens themselves.
#[derive(Serialize, Deserialize)]
struct Stored {
    #[serde(rename = "c", with = "serde_bytes")]
    context: Vec<u8>,
    #[serde(rename = "n")]
    records: u32,
    /// Per probe that has rows: (probe, count).
    #[serde(rename = "p")]
    probes: Vec<(u16, u32)>,
    /// LEB128 zigzag differences of record numbers, starting from 0 again with each probe.
    #[serde(rename = "r", with = "serde_bytes")]
    records_delta: Vec<u8>,
    /// Four bytes each, big-endian; eight in blocks of earlier versions.
    #[serde(rename = "t", with = "serde_bytes")]
    tokens: Vec<u8>,
    #[serde(rename = "f", default, skip_serializing_if = "Option::is_none", with = "serde_bytes")]
    text: Option<Vec<u8>>,
    #[serde(rename = "m", default, skip_serializing_if = "is_zero")]
    malformed: u32,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// What a summary takes from the stored form, where it lies.
#[derive(Deserialize)]
struct Seen<'b> {
    #[serde(rename = "p")]
    probes: Vec<(u16, u32)>,
    #[serde(rename = "t", borrow)]
    tokens: &'b serde_bytes::Bytes,
    #[serde(rename = "f", default, borrow)]
    text: Option<&'b serde_bytes::Bytes>,
    #[serde(rename = "m", default)]
    malformed: u32,
}

impl Marks {
    /// Encodes to CBOR.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut rows = self.rows.clone();
        rows.sort_unstable();
        let mut stored = Stored {
            context: self.context.clone(),
            records: self.records,
            probes: Vec::new(),
            records_delta: Vec::with_capacity(rows.len() * 2),
            tokens: Vec::with_capacity(rows.len() * 4),
            text: self.text.clone(),
            malformed: self.malformed,
        };
        let mut previous = 0i64;
        for row in &rows {
            match stored.probes.last_mut() {
                Some((probe, count)) if *probe == row.probe => *count += 1,
                _ => {
                    stored.probes.push((row.probe, 1));
                    previous = 0;
                }
            }
            put_varint(&mut stored.records_delta, zigzag(row.record.wrapping_sub(previous)));
            previous = row.record;
            stored.tokens.extend_from_slice(&row.short().to_be_bytes());
        }
        let mut out = Vec::new();
        ciborium::into_writer(&stored, &mut out).map_err(|e| Error::damaged("identity block", e.to_string()))?;
        Ok(out)
    }

    /// Decodes what [`Marks::encode`] made; hostile bytes are an error.
    pub fn decode(bytes: &[u8]) -> Result<Marks> {
        let stored: Stored = read(bytes)?;
        let mut rows = Vec::with_capacity(stored.tokens.len() / 4);
        let mut at = 0;
        let mut tokens = shorts(&stored.probes, &stored.tokens)?;
        for (probe, n) in &stored.probes {
            let mut record = 0i64;
            for _ in 0..*n {
                let delta = get_varint(&stored.records_delta, &mut at).ok_or_else(|| bad("record numbers end early"))?;
                record = record.wrapping_add(unzigzag(delta));
                let token = tokens.next().map(|t| u64::from(t) << 32).ok_or_else(|| bad("tokens end early"))?;
                rows.push(MarkRow { probe: *probe, record, token });
            }
        }
        drop(tokens);
        Ok(Marks { context: stored.context, records: stored.records, rows, text: stored.text, malformed: stored.malformed })
    }

    /// Only what tells whether a piece may hold somebody, in a fraction of the time.
    pub fn summary(bytes: &[u8]) -> Result<Summary> {
        let seen: Seen<'_> = read(bytes)?;
        let tokens = shorts(&seen.probes, seen.tokens)?.collect();
        Ok(Summary { tokens, probes: seen.probes.into(), text: seen.text.map(|t| Box::from(&**t)), malformed: seen.malformed })
    }

    /// The rows of a probe.
    pub fn of_probe(&self, probe: u16) -> impl Iterator<Item = &MarkRow> {
        // Rows are sorted by probe.
        let from = self.rows.partition_point(|r| r.probe < probe);
        self.rows.iter().skip(from).take_while(move |r| r.probe == probe)
    }
}

fn bad(detail: &str) -> Error {
    Error::damaged("identity block", detail)
}

fn read<'b, T: Deserialize<'b>>(bytes: &'b [u8]) -> Result<T> {
    minicbor_serde::from_slice(bytes).map_err(|_| bad("its fields are not as expected"))
}

/// The first four bytes of each token.
fn shorts(probes: &[(u16, u32)], tokens: &[u8]) -> Result<impl Iterator<Item = u32>> {
    let count: u64 = probes.iter().map(|(_, n)| u64::from(*n)).sum();
    let width = match tokens.len() as u64 {
        len if Some(len) == count.checked_mul(4) => 4,
        len if Some(len) == count.checked_mul(8) => 8,
        _ => return Err(bad("the number of tokens does not fit")),
    };
    Ok(tokens.chunks_exact(width).filter_map(|t| Some(u32::from_be_bytes(*t.first_chunk()?))))
}

fn zigzag(v: i64) -> u64 {
    ((v << 1) ^ (v >> 63)) as u64
}

fn unzigzag(v: u64) -> i64 {
    ((v >> 1) as i64) ^ -((v & 1) as i64)
}

fn put_varint(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push((v as u8) | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

fn get_varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut v = 0u64;
    for shift in (0..64).step_by(7) {
        let b = *bytes.get(*at)?;
        *at += 1;
        v |= u64::from(b & 0x7f) << shift;
        if b < 0x80 {
            return Some(v);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_block_decodes_to_what_was_encoded(rows in proptest::collection::vec((0u16..5, any::<i64>(), any::<u64>()), 0..200), context in any::<Vec<u8>>(), malformed in 0u32..3, text in any::<Option<Vec<u8>>>()) {
            let mut rows: Vec<MarkRow> = rows.into_iter().map(|(probe, record, token)| MarkRow { probe, record, token }).collect();
            rows.iter_mut().for_each(|row| row.token = u64::from(row.short()) << 32);
            rows.sort_unstable();
            let marks = Marks { context, records: 7, rows, text, malformed };
            let encoded = marks.encode().unwrap();
            let summary = Marks::summary(&encoded).unwrap();
            prop_assert_eq!(summary.text.as_deref(), marks.text.as_deref());
            prop_assert_eq!(summary.malformed, malformed);
            for probe in 0..6 {
                let tokens: Vec<u32> = summary.of_probe(probe).flatten().copied().collect();
                prop_assert_eq!(tokens, marks.of_probe(probe).map(MarkRow::short).collect::<Vec<_>>());
            }
            prop_assert_eq!(summary.tokens.len(), marks.rows.len());
            prop_assert_eq!(Marks::decode(&encoded).unwrap(), marks);
        }

        #[test]
        fn blocks_with_long_tokens_are_still_read(tokens in proptest::collection::vec(any::<u64>(), 0..50)) {
            let stored = Stored {
                context: vec![1],
                records: 50,
                probes: if tokens.is_empty() { vec![] } else { vec![(3, tokens.len() as u32)] },
                records_delta: vec![2; tokens.len()],
                tokens: tokens.iter().flat_map(|t| t.to_be_bytes()).collect(),
                malformed: 0,
                text: None,
            };
            let mut bytes = Vec::new();
            ciborium::into_writer(&stored, &mut bytes).unwrap();
            let shorts: Vec<u32> = Marks::decode(&bytes).unwrap().rows.iter().map(MarkRow::short).collect();
            prop_assert_eq!(shorts, tokens.iter().map(|t| (t >> 32) as u32).collect::<Vec<_>>());
        }

        #[test]
        fn hostile_bytes_are_an_error_or_a_block(bytes in any::<Vec<u8>>()) {
            let _ = (Marks::decode(&bytes), Marks::summary(&bytes));
        }
    }
}
