//! NDJSON (JSON Lines): one JSON value per line. Fields are dotted paths (see [`path`]); an edit replaces a value's bytes and
//! nothing else, so that key order, spacing and number spelling of every record survive.
//!
//! Blank lines are kept and not records. A line that is not JSON is a record without values: it is kept, counted as
//! malformed, and cannot be matched; whoever scans must report it. Where a rewritten value lies within another rewritten
//! one, the outer one wins.

mod parser;
mod path;

use super::splice::Splice;
use super::{Decision, NewValue, Record, RecordCutter, RecordFormat, Scanned};
use crate::datamap::{Collection, Value};
use crate::{Error, Result};
use parser::{Leaves, Spans, walk};
use path::Paths;

/// JSON Lines.
#[derive(Debug)]
pub struct Ndjson;

/// The one instance.
pub static NDJSON: Ndjson = Ndjson;

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// A line: start, end of its content, start of the next.
struct Line {
    start: usize,
    content: usize,
    next: usize,
}

/// Lines of a piece that are not blank, a byte order mark left out.
fn lines(piece: &[u8]) -> impl Iterator<Item = Line> {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let rest = piece.get(at..).filter(|r| !r.is_empty())?;
            let end = memchr::memchr(b'\n', rest);
            let next = at + end.map_or(rest.len(), |n| n + 1);
            let mut content = at + end.unwrap_or(rest.len());
            if content > at && piece.get(content - 1) == Some(&b'\r') {
                content -= 1;
            }
            let bom = if rest.starts_with(BOM) { BOM.len() } else { 0 };
            let line = Line { start: (at + bom).min(content), content, next };
            at = next;
            if !piece.get(line.start..line.content).unwrap_or_default().iter().all(u8::is_ascii_whitespace) {
                return Some(line);
            }
        }
    })
}

impl RecordFormat for Ndjson {
    fn name(&self) -> &'static str {
        "ndjson"
    }

    fn cutter(&self, collection: &Collection, _head: &[u8]) -> Result<Box<dyn RecordCutter>> {
        match collection.dialect.encoding.as_deref() {
            None | Some("utf-8" | "utf8" | "UTF-8") => Ok(Box::new(Cutter)),
            Some(_) => Err(Error::format("", "NDJSON is UTF-8; another encoding is set")),
        }
    }

    fn columns(&self, _context: &[u8]) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn unmapped(&self, _context: &[u8], piece: &[u8], mapped: &[String]) -> Result<Vec<String>> {
        let paths = Paths::new(mapped)?;
        let mut leaves = Leaves::default();
        for line in lines(piece) {
            // What precedes the fault in a malformed line has names, too.
            let _ = walk(piece.get(line.start..line.content).unwrap_or_default(), &paths, &mut leaves);
        }
        Ok(leaves.0.into_iter().collect())
    }

    fn scan(
        &self,
        _context: &[u8],
        piece: &[u8],
        fields: &[String],
        visit: &mut dyn FnMut(&Record<'_>) -> Result<Decision>,
    ) -> Result<Scanned> {
        let paths = Paths::new(fields)?;
        let mut scanned = Scanned::default();
        let mut splice = Splice::new(piece);
        let mut values: Vec<Vec<Value<'_>>> = vec![Vec::new(); fields.len()];
        let mut spans = Spans::default();
        for line in lines(piece) {
            let text = piece.get(line.start..line.content).unwrap_or_default();
            spans.0.clear();
            values.iter_mut().for_each(Vec::clear);
            let valid = walk(text, &paths, &mut spans).unwrap_or_else(|_| {
                spans.0.clear();
                scanned.malformed += 1;
                ""
            });
            for (field, span) in &spans.0 {
                if let Some(values) = values.get_mut(*field) {
                    values.push(parser::value(valid.get(span.clone()).unwrap_or_default()));
                }
            }
            let record = Record { index: scanned.records, span: line.start..line.next, content: line.start..line.content, values: &values };
            scanned.records += 1;
            match visit(&record)? {
                Decision::Keep => {}
                Decision::Delete => {
                    splice.replace(line.start..line.next, b"");
                    scanned.deleted += 1;
                }
                Decision::Rewrite(changes) => {
                    let edits = edits(&changes, &spans)?;
                    for (at, end, new) in &edits {
                        splice.replace(line.start + at..line.start + end, json(new).as_bytes());
                    }
                    scanned.rewritten += u32::from(!edits.is_empty());
                }
            }
        }
        scanned.bytes = splice.finish();
        Ok(scanned)
    }
}

/// The replacements within a line, by place; the outer before the inner.
fn edits<'c>(changes: &'c [(usize, Vec<Option<NewValue>>)], spans: &Spans) -> Result<Vec<(usize, usize, &'c NewValue)>> {
    let mut edits = Vec::new();
    for (field, new) in changes {
        let mut places = spans.0.iter().filter(|(f, _)| f == field).map(|(_, span)| span);
        for new in new {
            let span = places.next().ok_or_else(misfit)?;
            if let Some(new) = new {
                edits.push((span.start, span.end, new));
            }
        }
        if places.next().is_some() {
            return Err(misfit());
        }
    }
    edits.sort_by_key(|(start, end, _)| (*start, std::cmp::Reverse(*end)));
    Ok(edits)
}

fn misfit() -> Error {
    Error::format("", "new values do not fit the record's values")
}

fn json(new: &NewValue) -> String {
    match new {
        NewValue::Null => "null".to_string(),
        NewValue::Text(text) => serde_json::Value::from(text.as_str()).to_string(),
    }
}

/// A record ends with its line feed. No dialect, so no context.
struct Cutter;

impl RecordCutter for Cutter {
    fn context(&self) -> Vec<u8> {
        Vec::new()
    }

    fn record_end(&mut self, buf: &[u8], seen: usize, last: bool) -> Result<Option<usize>> {
        let rest = buf.get(seen..).unwrap_or_default();
        Ok(memchr::memchr(b'\n', rest).map(|n| seen + n + 1).or(last.then_some(buf.len())))
    }
}

#[cfg(test)]
mod tests;
