//! Which format serves an entry: by the collection's word, by the entry's name, by its first bytes, in this order.
//! Adding a record format is one line in [`RECORDS`] and, where names tell, one in [`by_extension`].

use super::RecordFormat;
use super::csv::{CSV, TSV};
use super::ndjson::NDJSON;
use crate::datamap::Collection;
use crate::{Error, Result};

/// The record formats.
static RECORDS: [&'static dyn RecordFormat; 3] = [&CSV, &TSV, &NDJSON];

/// First bytes of every SQLite database.
const SQLITE_MAGIC: &[u8] = b"SQLite format 3\0";

/// What serves an entry.
#[derive(Clone, Copy)]
pub enum Serves {
    /// A sequence of records.
    Records(&'static dyn RecordFormat),
    /// A database.
    Sqlite,
    /// The entry as a whole is the record.
    Path,
}

impl Serves {
    /// As the configuration and [`crate::repository::entry::Mapped::format`] call it.
    pub fn name(self) -> &'static str {
        match self {
            Serves::Records(format) => format.name(),
            Serves::Sqlite => "sqlite",
            Serves::Path => "path",
        }
    }
}

impl std::fmt::Debug for Serves {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Names that `format:` accepts.
pub fn names() -> Vec<&'static str> {
    RECORDS.iter().map(|f| f.name()).chain(["sqlite", "path"]).collect()
}

/// By name; `jsonl` is NDJSON's other name.
pub fn by_name(name: &str) -> Option<Serves> {
    match name {
        "sqlite" => Some(Serves::Sqlite),
        "path" => Some(Serves::Path),
        "jsonl" => Some(Serves::Records(&NDJSON)),
        _ => RECORDS.iter().find(|f| f.name() == name).map(|f| Serves::Records(*f)),
    }
}

/// What serves this entry for this collection. `path` as stored, `head` its first bytes (all there are, or some tens of KiB).
///
/// Fails when the collection does not say and neither name nor bytes tell, or when the bytes contradict what must be a database.
pub fn serve(collection: &Collection, path: &[u8], head: &[u8]) -> Result<Serves> {
    let unclear = |detail: String| Error::format(crate::repository::entry::display_path(path), detail);
    let serves = match &collection.format {
        Some(name) => by_name(name).ok_or_else(|| unclear(format!("format {name:?} is none of {}", names().join(", "))))?,
        None => detect(path, head).ok_or_else(|| {
            unclear(format!(
                "neither its name nor its bytes tell the format; set `format:` in collection {} ({})",
                collection.name,
                names().join(", ")
            ))
        })?,
    };
    match serves {
        // An empty file is an empty database.
        Serves::Sqlite if !head.is_empty() && !head.starts_with(SQLITE_MAGIC) => {
            Err(unclear("it is no SQLite database, or an encrypted one".into()))
        }
        Serves::Records(_) if head.starts_with(SQLITE_MAGIC) => Err(unclear(format!("it is an SQLite database, not {}", serves.name()))),
        _ => Ok(serves),
    }
}

/// What the entry's first bytes and name tell. A database says so itself, whatever it is called.
pub fn detect(path: &[u8], head: &[u8]) -> Option<Serves> {
    if head.starts_with(SQLITE_MAGIC) {
        return Some(Serves::Sqlite);
    }
    let name = path.rsplit(|b| *b == b'/').next().unwrap_or(path).to_ascii_lowercase();
    let extension = name.rsplit(|b| *b == b'.').next().filter(|e| e.len() < name.len()).unwrap_or_default();
    by_extension(extension).or_else(|| sniff(head))
}

fn by_extension(extension: &[u8]) -> Option<Serves> {
    match extension {
        b"csv" | b"psv" | b"ssv" => Some(Serves::Records(&CSV)),
        b"tsv" | b"tab" => Some(Serves::Records(&TSV)),
        b"ndjson" | b"jsonl" | b"ldjson" => Some(Serves::Records(&NDJSON)),
        b"db" | b"sqlite" | b"sqlite3" | b"db3" => Some(Serves::Sqlite),
        _ => None,
    }
}

/// Lines that begin with a brace and end with one are NDJSON; two or more lines that a delimiter cuts into as many cells are CSV.
fn sniff(head: &[u8]) -> Option<Serves> {
    // The last line may be cut off.
    let mut lines: Vec<&[u8]> = head.split(|b| *b == b'\n').map(<[u8]>::trim_ascii).collect();
    if lines.len() > 1 {
        lines.pop();
    }
    lines.retain(|l| !l.is_empty());
    let json = |l: &&[u8]| l.starts_with(b"{") && l.ends_with(b"}");
    if !lines.is_empty() && lines.iter().all(json) {
        return Some(Serves::Records(&NDJSON));
    }
    let cells = |delimiter: u8| {
        let mut counts = lines.iter().take(20).map(|l| memchr::memchr_iter(delimiter, l).count());
        let first = counts.next().unwrap_or_default();
        first > 0 && lines.len() > 1 && counts.all(|n| n == first)
    };
    let tabular = [b'\t', b';', b'|', b','].into_iter().any(cells);
    (tabular && !head.contains(&0)).then_some(Serves::Records(&CSV))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(path: &str, head: &[u8]) -> Option<&'static str> {
        detect(path.as_bytes(), head).map(Serves::name)
    }

    #[test]
    fn names_and_first_bytes_tell() {
        assert_eq!(name("a/b.csv", b""), Some("csv"));
        assert_eq!(name("B.TSV", b"a"), Some("tsv"));
        assert_eq!(name("x.tab", b""), Some("tsv"));
        assert_eq!(name("x.jsonl", b""), Some("ndjson"));
        assert_eq!(name("events.log", b"{\"a\":1}\r\n{\"b\":2}\n{\"c"), Some("ndjson"));
        assert_eq!(name("list.txt", b"a\tb\n1\t2\n3\t4"), Some("csv"));
        assert_eq!(name("notes.txt", b"Dear Sir,\nhow are you\n"), None);
        assert_eq!(name("anything", b"SQLite format 3\0...."), Some("sqlite"));
        assert_eq!(name("crm.db", b""), Some("sqlite"));
        assert_eq!(name("csv", b""), None);
        assert_eq!(name("pretty.json", b"{\n \"a\": 1\n}\n"), None);
    }

    #[test]
    fn every_name_is_known() {
        for n in names() {
            assert_eq!(by_name(n).unwrap().name(), n);
        }
        assert!(by_name("xml").is_none());
    }
}
