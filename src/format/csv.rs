//! CSV and its relatives (tab, semicolon, pipe), as they are found in the wild: RFC 4180 quoting, any mix of line ends, ragged
//! rows, byte order marks, Excel's `sep=` line, four encodings. Malformed quotes are read as the common readers read them
//! (Python's `csv`, Rust's `csv`): literally, never as an error, because a backup must not fail on them.
//!
//! Editing replaces a cell's span or removes a record's and leaves every other byte alone. What is not a data record is never
//! visited and always kept: the header, empty lines, the byte order mark.
//!
//! - A column name that occurs several times addresses all columns of that name: a person must not stay in the second one.
//! - Cells beyond the last named column are addressed by their number, counted from 1 ("7").
//! - Deleting the last record of a file without a final line end leaves the line end of the record before it.

mod text;

use super::splice::Splice;
use super::{Decision, NewValue, Record, RecordCutter, RecordFormat, Scanned, cutter::HEAD};
use crate::datamap::{Collection, Value};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeSet;
use text::{Encoding, Narrow, Text, Wide};

/// Delimited text. Two of them are registered: "csv" detects the delimiter, "tsv" takes the tab unless told otherwise.
#[derive(Debug)]
pub struct Csv {
    name: &'static str,
    delimiter: Option<u8>,
}

/// The delimiter is detected.
pub static CSV: Csv = Csv { name: "csv", delimiter: None };

/// The delimiter is the tab.
pub static TSV: Csv = Csv { name: "tsv", delimiter: Some(b'\t') };

/// What an editor needs at a piece's start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Context {
    delimiter: u8,
    quote: u8,
    encoding: String,
    /// Names from the header; numbers where there is none.
    columns: Vec<String>,
    /// Whether the header is still to come: it is the first record of this piece.
    header: bool,
    /// Bytes at the piece's start that precede the first record: byte order mark and `sep=` line.
    prefix: u32,
}

impl Context {
    fn decode(bytes: &[u8]) -> Result<(Context, Signs, Encoding)> {
        let context: Context = ciborium::from_reader(bytes).map_err(|e| Error::damaged("CSV context", e.to_string()))?;
        let signs = Signs::new(context.delimiter, context.quote)?;
        let encoding = Encoding::from_name(&context.encoding)?;
        Ok((context, signs, encoding))
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        // Writing plain fields to memory cannot fail; an empty context would fail to decode, not be misread.
        let _ = ciborium::into_writer(self, &mut out);
        out
    }
}

/// The two bytes that structure a file, beside line ends.
#[derive(Debug, Clone, Copy)]
struct Signs {
    delimiter: u8,
    quote: u8,
}

impl Signs {
    fn new(delimiter: u8, quote: u8) -> Result<Signs> {
        let usable = |b: u8| b.is_ascii() && b != b'\r' && b != b'\n';
        if usable(delimiter) && usable(quote) && delimiter != quote {
            Ok(Signs { delimiter, quote })
        } else {
            Err(Error::format("", "delimiter and quote must be two different ASCII characters other than line ends"))
        }
    }
}

/// One cell, in code units.
#[derive(Debug, Clone, Copy)]
struct Cell {
    start: usize,
    end: usize,
    /// Begins with a quote.
    quoted: bool,
    /// What lies between the quotes is the value as it is.
    plain: bool,
}

/// A parsed record, in code units.
struct Row {
    /// End of the last cell.
    content: usize,
    /// Start of what follows.
    next: usize,
    /// Whether a line end, or the end of the bytes, closed it.
    complete: bool,
}

fn is_line_end(unit: u16) -> bool {
    unit == u16::from(b'\n') || unit == u16::from(b'\r')
}

/// Parses the record at `at` into `cells`. The same automaton as Python's `csv` reader.
fn parse<T: Text>(text: T, at: usize, signs: Signs, cells: &mut Vec<Cell>) -> Row {
    cells.clear();
    let (quote, delimiter) = (u16::from(signs.quote), u16::from(signs.delimiter));
    let len = text.len();
    let mut start = at;
    loop {
        let quoted = start < len && text.unit(start) == quote;
        let mut plain = true;
        let mut from = start;
        if quoted {
            from = start + 1;
            loop {
                let Some(q) = text.find(from, signs.quote) else {
                    cells.push(Cell { start, end: len, quoted, plain: false });
                    return Row { content: len, next: len, complete: false };
                };
                from = q + 1;
                if from < len && text.unit(from) == quote {
                    plain = false;
                    from += 1;
                } else {
                    break;
                }
            }
        }
        // Unquoted cells, and what wrongly follows a closing quote: literal up to the delimiter or line end.
        let end = text.find3(from, signs.delimiter, b'\n', b'\r').unwrap_or(len);
        cells.push(Cell { start, end, quoted, plain: plain && end == from || !quoted });
        if end < len && text.unit(end) == delimiter {
            start = end + 1;
            continue;
        }
        return Row { content: end, next: after_line_end(text, end), complete: end < len };
    }
}

/// The place after the line end at `at`, if there is one.
fn after_line_end<T: Text>(text: T, at: usize) -> usize {
    if at >= text.len() {
        return text.len();
    }
    let crlf = text.unit(at) == u16::from(b'\r') && at + 1 < text.len() && text.unit(at + 1) == u16::from(b'\n');
    at + if crlf { 2 } else { 1 }
}

/// Runs `$body` with `$text` being the piece in the code units of its encoding.
macro_rules! with_text {
    ($encoding:expr, $bytes:expr, |$text:ident| $body:expr) => {
        match $encoding {
            Encoding::Utf8 | Encoding::Windows1252 => {
                let $text = Narrow($bytes);
                $body
            }
            Encoding::Utf16Le => {
                let $text = Wide::<false>($bytes);
                $body
            }
            Encoding::Utf16Be => {
                let $text = Wide::<true>($bytes);
                $body
            }
        }
    };
}

/// The text of a cell.
fn value<'a, T: Text>(piece: &'a [u8], cell: Cell, signs: Signs, encoding: Encoding) -> Cow<'a, str> {
    let bytes = |from: usize, to: usize| piece.get(from * T::WIDTH..to * T::WIDTH).unwrap_or_default();
    if !cell.quoted {
        return encoding.decode(bytes(cell.start, cell.end));
    }
    if cell.plain {
        return encoding.decode(bytes(cell.start + 1, cell.end.saturating_sub(1)));
    }
    // Decoded first: quotes are ASCII, so text tells them as well as bytes do.
    let raw = encoding.decode(bytes(cell.start + 1, cell.end));
    let quote = char::from(signs.quote);
    let mut out = String::with_capacity(raw.len());
    let mut rest: &str = &raw;
    while let Some(q) = rest.find(quote) {
        out.push_str(rest.get(..q).unwrap_or_default());
        rest = rest.get(q + 1..).unwrap_or_default();
        match rest.strip_prefix(quote) {
            Some(after) => {
                out.push(quote);
                rest = after;
            }
            // The closing quote; whatever follows is literal.
            None => break,
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// The bytes of a cell with a new value, in the quoting of the old one. `alone`: the record has no other cell, so that an empty
/// one must be quoted or the record would become an empty line.
fn new_cell(new: &NewValue, old: Cell, alone: bool, signs: Signs, encoding: Encoding) -> Result<Vec<u8>> {
    let text = match new {
        NewValue::Null => "",
        NewValue::Text(text) => text,
    };
    let (quote, delimiter) = (char::from(signs.quote), char::from(signs.delimiter));
    let needed = text.contains([quote, delimiter, '\r', '\n']) || (alone && text.is_empty());
    if old.quoted || needed {
        let doubled = text.replace(quote, &format!("{quote}{quote}"));
        encoding.encode(&format!("{quote}{doubled}{quote}"))
    } else {
        encoding.encode(text)
    }
}

/// Which cells a field name addresses.
fn addressed(field: &str, columns: &[String]) -> Vec<usize> {
    let named: Vec<usize> = columns.iter().enumerate().filter(|(_, c)| *c == field).map(|(i, _)| i).collect();
    match field.parse::<usize>() {
        Ok(number) if named.is_empty() && number > columns.len() => vec![number - 1],
        _ => named,
    }
}

impl RecordFormat for Csv {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cutter(&self, collection: &Collection, head: &[u8]) -> Result<Box<dyn RecordCutter>> {
        let dialect = &collection.dialect;
        let whole = head.len() < HEAD;
        let encoding = match &dialect.encoding {
            Some(name) => Encoding::from_name(name)?,
            None => Encoding::detect(head, whole),
        };
        let quote = dialect.quote.unwrap_or(b'"');
        let bom = if head.starts_with(encoding.bom()) { encoding.bom().len() } else { 0 };
        with_text!(encoding, head, |text| {
            let (separator, prefix) = separator_line(text, bom / width(text));
            let delimiter =
                dialect.delimiter.or(separator).or(self.delimiter).unwrap_or_else(|| detect_delimiter(text, prefix, quote, whole));
            let signs = Signs::new(delimiter, quote)?;
            let header = dialect.header.unwrap_or(true);
            let mut cells = Vec::new();
            let mut at = prefix;
            while at < text.len() && is_line_end(text.unit(at)) {
                at = after_line_end(text, at);
            }
            let mut columns = Vec::new();
            if at < text.len() {
                let row = parse(text, at, signs, &mut cells);
                if !row.complete && !whole {
                    return Err(Error::format("", format!("the first record is longer than {HEAD} bytes; is the quote right?")));
                }
                columns = match header {
                    true => cells.iter().map(|c| cell_text(text, head, *c, signs, encoding).into_owned()).collect(),
                    false => (1..=cells.len()).map(|n| n.to_string()).collect(),
                };
            }
            let prefix_bytes = prefix * width(text);
            let context = Context {
                delimiter,
                quote,
                encoding: encoding.name().to_string(),
                columns,
                header,
                prefix: u32::try_from(prefix_bytes).unwrap_or_default(),
            };
            Ok(Box::new(Cutter { context, signs, encoding, at: prefix, quoted: false }))
        })
    }

    fn columns(&self, context: &[u8]) -> Result<Vec<String>> {
        Ok(Context::decode(context)?.0.columns)
    }

    fn unmapped(&self, context: &[u8], piece: &[u8], mapped: &[String]) -> Result<Vec<String>> {
        let (context, signs, encoding) = Context::decode(context)?;
        let named = context.columns.len();
        let most = with_text!(encoding, piece, |text| {
            let mut most = named;
            rows(text, &context, signs, |_, _, cells: &[Cell]| {
                most = most.max(cells.len());
                Ok(())
            })?;
            most
        });
        let mut seen = BTreeSet::new();
        let columns = context.columns.iter().cloned().chain((named + 1..=most).map(|n| n.to_string()));
        Ok(columns.filter(|c| !mapped.contains(c) && seen.insert(c.clone())).collect())
    }

    fn scan(
        &self,
        context: &[u8],
        piece: &[u8],
        fields: &[String],
        visit: &mut dyn FnMut(&Record<'_>) -> Result<Decision>,
    ) -> Result<Scanned> {
        let (context, signs, encoding) = Context::decode(context)?;
        let wanted: Vec<Vec<usize>> = fields.iter().map(|f| addressed(f, &context.columns)).collect();
        with_text!(encoding, piece, |text| scan(text, piece, &context, signs, encoding, &wanted, visit))
    }
}

/// Bytes of this text in windows-1252, where it can be written so: verification searches for them.
pub(super) fn windows_1252(text: &str) -> Option<Vec<u8>> {
    Encoding::Windows1252.encode(text).ok()
}

/// The character of a byte in windows-1252.
pub(super) fn from_windows_1252(byte: u8) -> char {
    text::from_1252(byte)
}

fn width<T: Text>(_: T) -> usize {
    T::WIDTH
}

fn cell_text<'a, T: Text>(_: T, piece: &'a [u8], cell: Cell, signs: Signs, encoding: Encoding) -> Cow<'a, str> {
    value::<T>(piece, cell, signs, encoding)
}

/// Goes over the data records: calls `each` with where a record starts, how it ended and its cells.
fn rows<T: Text>(text: T, context: &Context, signs: Signs, mut each: impl FnMut(usize, &Row, &[Cell]) -> Result<()>) -> Result<()> {
    let mut cells = Vec::new();
    let mut header = context.header;
    let mut at = (context.prefix as usize / T::WIDTH).min(text.len());
    while at < text.len() {
        if is_line_end(text.unit(at)) {
            at = after_line_end(text, at);
            continue;
        }
        let row = parse(text, at, signs, &mut cells);
        if header {
            header = false;
        } else {
            each(at, &row, &cells)?;
        }
        at = row.next;
    }
    Ok(())
}

fn scan<T: Text>(
    text: T,
    piece: &[u8],
    context: &Context,
    signs: Signs,
    encoding: Encoding,
    wanted: &[Vec<usize>],
    visit: &mut dyn FnMut(&Record<'_>) -> Result<Decision>,
) -> Result<Scanned> {
    let mut scanned = Scanned::default();
    let mut splice = Splice::new(piece);
    let mut values: Vec<Vec<Value<'_>>> = vec![Vec::new(); wanted.len()];
    rows(text, context, signs, |at, row, cells| {
        for (values, wanted) in values.iter_mut().zip(wanted) {
            values.clear();
            let cells = wanted.iter().filter_map(|i| cells.get(*i));
            values.extend(cells.map(|cell| Value::Text(value::<T>(piece, *cell, signs, encoding))));
        }
        // Half a code unit at the very end goes with the record that it cuts off.
        let end = if row.complete { row.next * T::WIDTH } else { piece.len() };
        let span = at * T::WIDTH..end;
        let record = Record { index: scanned.records, span: span.clone(), content: at * T::WIDTH..row.content * T::WIDTH, values: &values };
        scanned.records += 1;
        match visit(&record)? {
            Decision::Keep => {}
            Decision::Delete => {
                splice.replace(span, b"");
                scanned.deleted += 1;
            }
            Decision::Rewrite(changes) => {
                let mut edits: Vec<(Cell, &NewValue)> = Vec::new();
                for (field, new) in &changes {
                    let cells: Vec<Cell> =
                        wanted.get(*field).map(|w| w.iter().filter_map(|i| cells.get(*i).copied()).collect()).unwrap_or_default();
                    if cells.len() != new.len() {
                        return Err(Error::format("", "new values do not fit the record's cells"));
                    }
                    edits.extend(cells.into_iter().zip(new).filter_map(|(c, n)| Some((c, n.as_ref()?))));
                }
                edits.sort_by_key(|(cell, _)| cell.start);
                edits.dedup_by_key(|(cell, _)| cell.start);
                for (cell, new) in &edits {
                    let bytes = new_cell(new, *cell, cells.len() == 1, signs, encoding)?;
                    splice.replace(cell.start * T::WIDTH..cell.end * T::WIDTH, &bytes);
                }
                scanned.rewritten += u32::from(!edits.is_empty());
            }
        }
        Ok(())
    })?;
    scanned.bytes = splice.finish();
    Ok(scanned)
}

/// Excel's first line `sep=;` says the delimiter and is no record: (delimiter, where the first record may start).
fn separator_line<T: Text>(text: T, at: usize) -> (Option<u8>, usize) {
    let sep = b"sep=".iter().enumerate().all(|(i, b)| text.unit(at + i) == u16::from(*b));
    let end = at + 5;
    match u8::try_from(text.unit(at + 4)) {
        Ok(delimiter) if sep && end < text.len() && is_line_end(text.unit(end)) => (Some(delimiter), after_line_end(text, end)),
        _ => (None, at),
    }
}

/// The delimiter that gives the most records the same number of cells (more than one); the comma when none does.
fn detect_delimiter<T: Text>(text: T, from: usize, quote: u8, whole: bool) -> u8 {
    let mut best = (b',', (false, 0, 0));
    for delimiter in [b',', b';', b'\t', b'|'] {
        let Ok(signs) = Signs::new(delimiter, quote) else { continue };
        let mut counts: Vec<usize> = Vec::new();
        let mut cells = Vec::new();
        let mut at = from;
        while at < text.len() && counts.len() < 200 {
            if is_line_end(text.unit(at)) {
                at = after_line_end(text, at);
                continue;
            }
            let row = parse(text, at, signs, &mut cells);
            // What the head cuts off says nothing; a file that is one unfinished record still does.
            if row.complete || whole || counts.is_empty() {
                counts.push(cells.len());
            }
            at = row.next;
        }
        let alike = |n: usize| counts.iter().filter(|c| **c == n).count();
        let usual = counts.iter().copied().filter(|n| *n > 1).max_by_key(|n| (alike(*n), *n)).unwrap_or_default();
        if usual > 1 {
            let share = alike(usual) * 100 / counts.len();
            let score = (counts.first() == Some(&usual), share, usual);
            if score > best.1 {
                best = (delimiter, score);
            }
        }
    }
    best.0
}

/// Finds where records end; keeps its place and whether a quote is open between calls.
struct Cutter {
    context: Context,
    signs: Signs,
    encoding: Encoding,
    /// Units of the current record that were looked at. Starts after the prefix.
    at: usize,
    quoted: bool,
}

impl Cutter {
    fn end<T: Text>(&mut self, text: T, last: bool) -> Option<usize> {
        let Signs { quote, delimiter } = self.signs;
        let first = self.context.prefix as usize / T::WIDTH;
        let len = text.len();
        loop {
            let found = match self.quoted {
                true => text.find(self.at, quote),
                false => text.find3(self.at, quote, b'\n', b'\r'),
            };
            let Some(p) = found else {
                self.at = len.max(self.at);
                return last.then_some(len);
            };
            let more = p + 1 < len;
            if self.quoted {
                if !more && !last {
                    self.at = p;
                    return None;
                }
                if more && text.unit(p + 1) == u16::from(quote) {
                    self.at = p + 2;
                } else {
                    self.at = p + 1;
                    self.quoted = false;
                }
            } else if text.unit(p) == u16::from(quote) {
                // Only at the start of a cell does a quote open anything.
                self.quoted = p == first || (p > first && text.unit(p - 1) == u16::from(delimiter));
                self.at = p + 1;
            } else if text.unit(p) == u16::from(b'\r') && !more && !last {
                self.at = p;
                return None;
            } else {
                return Some(after_line_end(text, p));
            }
        }
    }
}

impl RecordCutter for Cutter {
    fn context(&self) -> Vec<u8> {
        self.context.encode()
    }

    fn record_end(&mut self, buf: &[u8], _seen: usize, last: bool) -> Result<Option<usize>> {
        let found = with_text!(self.encoding, buf, |text| {
            let end = self.end(text, last);
            end.map(|units| {
                let first = self.context.prefix as usize / width(text);
                let empty = (first..units).all(|i| is_line_end(text.unit(i)));
                // Half a code unit at the very end belongs to the last record.
                let bytes = if units == text.len() && last { buf.len() } else { units * width(text) };
                (bytes, empty)
            })
        });
        Ok(found.map(|(bytes, empty)| {
            self.context.header &= empty;
            self.context.prefix = 0;
            self.at = 0;
            self.quoted = false;
            bytes
        }))
    }
}

#[cfg(test)]
mod tests;
