//! Decoding rows from their bytes, without SQLite: a record's header, the values of a few columns, payload that spills onto
//! overflow pages. Identity blocks are made with this while a backup streams past.

use super::pages::{Bad, Cell, Header, Parsed, TextEncoding, be32, varint};
use super::{Image, read_page};
use crate::Result;
use crate::datamap::Value;
use std::borrow::Cow;

/// Values whose bytes end beyond this many bytes of a record are not read for identity blocks; the table is then not covered.
const FARTHEST: u64 = 16 << 20;

/// Text as SQLite hands it over: bytes that are not valid in the database's encoding are not text.
/// Used for rows decoded here and for rows that SQLite returns, so that both give the same tokens.
pub fn text(bytes: &[u8]) -> Value<'_> {
    match std::str::from_utf8(bytes) {
        Ok(t) => Value::Text(Cow::Borrowed(t)),
        Err(_) => Value::Bytes(Cow::Borrowed(bytes)),
    }
}

fn stored_text(bytes: &[u8], encoding: TextEncoding) -> Value<'_> {
    let unit = match encoding {
        TextEncoding::Utf8 => return text(bytes),
        TextEncoding::Utf16le => u16::from_le_bytes,
        TextEncoding::Utf16be => u16::from_be_bytes,
    };
    let mut units = bytes.chunks_exact(2).map(|c| unit([c.first().copied().unwrap_or(0), c.get(1).copied().unwrap_or(0)]));
    let mut out = String::with_capacity(bytes.len());
    // As SQLite does it, which takes any surrogate and what follows it for a pair: what it shows is what has to be found.
    while let Some(first) = units.next().map(u32::from) {
        let c = match (first, units.clone().next().map(u32::from)) {
            (0xd800..0xe000, Some(second)) => {
                units.next();
                ((first & 0x3ff) + 0x40) << 10 | (second & 0x3ff)
            }
            (0xd800..0xe000, None) => {
                let mut out = out.into_bytes();
                out.extend([0xed, 0x80 | (first >> 6 & 0x3f) as u8, 0x80 | (first & 0x3f) as u8]);
                return Value::Bytes(Cow::Owned(out));
            }
            _ => first,
        };
        out.push(char::from_u32(c).unwrap_or(char::REPLACEMENT_CHARACTER));
    }
    Value::Text(Cow::Owned(out))
}

/// Bytes that a value of this serial type takes; `None` for types that do not exist.
pub(super) fn width(serial: u64) -> Option<u64> {
    Some(match serial {
        0 | 8 | 9 => 0,
        n @ 1..=4 => n,
        5 => 6,
        6 | 7 => 8,
        10 | 11 => return None,
        n => (n - 12) / 2,
    })
}

fn value<'p>(serial: u64, bytes: &'p [u8], encoding: TextEncoding) -> Value<'p> {
    match serial {
        0 => Value::Null,
        1..=6 => {
            let negative = bytes.first().is_some_and(|b| b & 0x80 != 0);
            Value::Integer(bytes.iter().fold(if negative { -1i64 } else { 0 }, |v, b| v << 8 | i64::from(*b)))
        }
        7 => Value::Real(bytes.try_into().map(f64::from_be_bytes).unwrap_or(f64::NAN)),
        8 => Value::Integer(0),
        9 => Value::Integer(1),
        n if n % 2 == 0 => Value::Bytes(Cow::Borrowed(bytes)),
        _ => stored_text(bytes, encoding),
    }
}

/// Where the wanted columns of a record lie: serial type, start and end of each; `None` for a column that the record does not have,
/// because it was added to the table later. Reused from row to row.
pub type Spans = Vec<Option<(u64, u64, u64)>>;

/// Decodes the columns `want` (indices into the record, ascending) of one cell of page `no`, whose bytes are `page`, into `found`.
/// Returns the payload in which they lie: the page's own bytes, or a copy where the row spills.
pub fn locate<'p>(
    image: &dyn Image,
    header: &Header,
    (no, page): (u32, &'p [u8]),
    cell: &Cell,
    want: &[usize],
    found: &mut Spans,
) -> Result<Cow<'p, [u8]>> {
    let bad = |what| Bad { page: no, what }.at(&image.path());
    let local = page.get(cell.payload as usize..(cell.payload + cell.local) as usize).ok_or_else(|| bad("a cell runs past the page"))?;
    let mut fetched: Cow<'_, [u8]> = Cow::Borrowed(local);
    let head = varint(local, &mut 0).ok_or_else(|| bad("a record has no header"))?;
    if head > cell.len {
        return Err(bad("a record's header is longer than the record"));
    }
    if head > fetched.len() as u64 {
        fetched = Cow::Owned(payload(image, header, no, local, cell, head)?);
    }
    spans(&fetched, head, cell.len, want, found).map_err(bad)?;
    let end = found.iter().flatten().map(|(_, _, end)| *end).max().unwrap_or(0);
    if end > fetched.len() as u64 {
        fetched = Cow::Owned(payload(image, header, no, local, cell, end)?);
    }
    Ok(fetched)
}

/// The value of a column that [`locate`] has found in `payload`.
pub fn decode<'p>(payload: &'p [u8], span: (u64, u64, u64), encoding: TextEncoding) -> Value<'p> {
    let (serial, start, end) = span;
    value(serial, payload.get(start as usize..end as usize).unwrap_or_default(), encoding)
}

fn spans(payload: &[u8], head: u64, len: u64, want: &[usize], out: &mut Spans) -> Result<(), &'static str> {
    out.clear();
    let types = payload.get(..head as usize).ok_or("a record's header ends early")?;
    let mut at = 0;
    varint(types, &mut at).ok_or("a record has no header")?;
    let mut want = want.iter().copied().peekable();
    let (mut column, mut start) = (0, head);
    while at < types.len() && want.peek().is_some() {
        let serial = varint(types, &mut at).ok_or("a record's header ends early")?;
        let end = start.checked_add(width(serial).ok_or("a value has an impossible type")?).ok_or("a record ends early")?;
        if end > len {
            return Err("a record ends early");
        }
        if want.peek() == Some(&column) {
            want.next();
            out.push(Some((serial, start, end)));
        }
        column += 1;
        start = end;
    }
    out.extend(want.map(|_| None));
    Ok(())
}

/// The first `upto` bytes of a cell's payload, from its page and its overflow chain.
fn payload(image: &dyn Image, header: &Header, no: u32, local: &[u8], cell: &Cell, upto: u64) -> Result<Vec<u8>> {
    let bad = |page, what| Bad { page, what }.at(&image.path());
    if upto > FARTHEST {
        return Err(bad(no, "a value lies too far inside its row to be indexed"));
    }
    let mut out = local.to_vec();
    let mut buf = vec![0; header.page];
    let mut next = cell.overflow;
    while (out.len() as u64) < upto {
        if next < 2 || next > header.pages {
            return Err(bad(no, "an overflow chain leads outside the database"));
        }
        read_page(image, header, next, &mut buf)?;
        let take = (cell.len - out.len() as u64).min(header.usable as u64 - 4) as usize;
        if take == 0 {
            return Err(bad(no, "an overflow chain ends early"));
        }
        out.extend_from_slice(buf.get(4..4 + take).ok_or_else(|| bad(next, "shorter than a page"))?);
        next = be32(&buf, 0).unwrap_or(0);
    }
    Ok(out)
}

/// Follows an overflow chain of `len` bytes from page `first`: each page and how many of its bytes are used, link included.
pub fn chain(image: &dyn Image, header: &Header, first: u32, len: u64, visit: &mut dyn FnMut(u32, usize) -> Parsed<()>) -> Result<()> {
    let per = header.usable as u64 - 4;
    let (mut next, mut left) = (first, len);
    let mut link = [0; 4];
    while left > 0 {
        if next < 2 || next > header.pages {
            return Err(Bad { page: next, what: "an overflow chain leads outside the database" }.at(&image.path()));
        }
        let used = left.min(per);
        visit(next, used as usize + 4).map_err(|b| b.at(&image.path()))?;
        left -= used;
        if left > 0 {
            image.read_at(header.offset(next), &mut link)?;
            next = u32::from_be_bytes(link);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn integers_are_signed_and_of_any_width() {
        for (serial, bytes, want) in [
            (1, vec![0xff], -1),
            (2, vec![0x01, 0x00], 256),
            (3, vec![0xff, 0xff, 0xfe], -2),
            (5, vec![0, 0, 0, 0, 1, 0], 256),
            (6, i64::MIN.to_be_bytes().to_vec(), i64::MIN),
        ] {
            assert_eq!(value(serial, &bytes, TextEncoding::Utf8), Value::Integer(want));
        }
    }

    proptest! {
        #[test]
        fn utf16_text_is_what_sqlite_makes_of_it(units in proptest::collection::vec(prop_oneof![0xd7feu16..0xe003, 0x40u16..0x60, any::<u16>()], 0..12)) {
            let bytes: Vec<u8> = units.iter().flat_map(|u| u.to_le_bytes()).collect();
            let db = rusqlite::Connection::open_in_memory().unwrap();
            db.execute_batch("PRAGMA encoding = 'UTF-16le'").unwrap();
            let sqlite = db.query_row("SELECT CAST(?1 AS TEXT)", [&bytes], |r| Ok(crate::format::sqlite::rows::from_sql(r.get_ref(0)?))).unwrap();
            prop_assert_eq!(stored_text(&bytes, TextEncoding::Utf16le), sqlite);
        }
    }

    #[test]
    fn utf16_text_becomes_text() {
        let bytes: Vec<u8> = "Jörg 🦀".encode_utf16().flat_map(u16::to_be_bytes).collect();
        assert_eq!(value(13 + 2 * bytes.len() as u64, &bytes, TextEncoding::Utf16be), Value::Text("Jörg 🦀".into()));
    }

    proptest! {
        #[test]
        fn hostile_records_are_an_error_or_values(bytes in proptest::collection::vec(any::<u8>(), 1..80), len in 0u64..100) {
            if let Some(head) = varint(&bytes, &mut 0) {
                let _ = spans(&bytes, head, len, &[0, 2, 5], &mut Spans::new());
            }
        }
    }
}
