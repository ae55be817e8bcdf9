//! The identity blocks of a database's runs: tokens of the identity columns of every row, read from the leaf pages while they stream
//! past. No cursor, no second pass, no index needed.
//!
//! A run's block holds the rows whose cells lie on the run's own pages (a row's payload may spill onto pages of other runs).

use super::Image;
use super::pages::{Bad, Btree, Header, Kind, TextEncoding};
use super::record::{self, Spans};
use super::schema::{Column, Schema, Table, TableKind, quote};
use super::text::{TextColumns, covered_text};
use crate::datamap::{DataMap, Normalize, Token, TokenKey, Value};
use crate::format::blocks::TEXT;
use crate::format::text_filter::{TextFilter, TextKey};
use crate::format::{MarkRow, Marks};
use crate::{Error, Result};
use rusqlite::Connection;
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};

/// Where a probe's field comes from.
enum Source {
    /// The row id.
    RowId,
    /// This one of the columns read, or the default where the row is older than the column.
    Column(usize, Value<'static>),
}

struct TableProbe {
    index: u16,
    fields: Vec<Source>,
    norms: Vec<Normalize>,
}

/// What is read of the rows of one table.
struct TableRows {
    /// Indices into the record, ascending.
    want: Vec<usize>,
    probes: Vec<TableProbe>,
}

/// Where the values of a table's column are.
pub(super) enum TableColumn {
    /// They are the row ids.
    RowId,
    /// In the record at this index; rows that are older than the column have the default.
    Stored(usize, Value<'static>),
    /// Nowhere on the leaf pages: they are computed, or their default is.
    Unreadable,
}

/// Looks up a column.
pub(super) fn table_column(db: &Connection, table: &Table, column: &Column) -> Result<TableColumn> {
    if column.generated.is_some() {
        return Ok(TableColumn::Unreadable);
    }
    if table.rowid_alias().is_some_and(|c| c.name == column.name) {
        return Ok(TableColumn::RowId);
    }
    let Some(at) = table.stored_index(&column.name) else { return Ok(TableColumn::Unreadable) };
    Ok(match &column.default {
        None => TableColumn::Stored(at, Value::Null),
        Some(sql) => default_value(db, &column.decl_type, sql).map_or(TableColumn::Unreadable, |value| TableColumn::Stored(at, value)),
    })
}

/// Leaf pages of a run: number, bytes, and root page of the table that each belongs to.
pub(super) type Leaves<'i, 'r> = dyn Iterator<Item = (u32, &'r [u8], u32)> + 'i;

/// Which columns of which tables the identity blocks of a database are made from.
pub struct Layout {
    covers: Vec<String>,
    /// By root page.
    tables: HashMap<u32, TableRows>,
    text: TextColumns,
    /// A table of searched text turned out to be damaged.
    lost_text: Cell<bool>,
    /// Probes that turned out to be unreadable somewhere.
    lost: RefCell<BTreeSet<u16>>,
    /// Keys that could not be understood.
    unknown: bool,
}

/// Prefix of the entry in `covers` that is no probe: a digest of where the covered columns lie. Blocks of an earlier archive may be
/// used again for unchanged runs only while `covers` is equal as a whole; this entry differs when the schema has moved under them.
pub const LAYOUT: &str = "#layout:";

impl Layout {
    /// For what a map asks of these collections.
    pub fn plan(db: &Connection, schema: &Schema, map: &DataMap, collections: &[usize]) -> Result<Layout> {
        let mut layout = Layout::of(Vec::new());
        let mut digest = blake3::Hasher::new();
        for collection in collections.iter().filter_map(|i| map.collections.get(*i)) {
            for probe in &collection.probes {
                let key = probe.key(&collection.table);
                if layout.covers.contains(&key) {
                    continue;
                }
                let index = layout.covers.len();
                if layout.add(db, schema, index, &collection.table, &probe.fields, &mut digest)? {
                    layout.covers.push(key);
                }
            }
        }
        for collection in collections.iter().filter_map(|i| map.collections.get(*i)) {
            for field in collection.fields.values().filter(|f| f.scan) {
                // What cannot be read from leaf pages is not listed, and so will be searched by reading it.
                layout.text.add(db, schema, (&collection.table, &field.name), &mut digest)?;
            }
        }
        layout.covers.extend(layout.text.key());
        if !layout.covers.is_empty() {
            layout.covers.push(format!("{LAYOUT}{}", hex::encode(&digest.finalize().as_bytes()[..8])));
        }
        Ok(layout)
    }

    fn of(covers: Vec<String>) -> Layout {
        Layout {
            covers,
            tables: HashMap::new(),
            text: TextColumns::default(),
            lost_text: Cell::new(false),
            lost: RefCell::default(),
            unknown: false,
        }
    }

    /// For what the blocks of an archived entry cover, whatever today's map says.
    pub fn of_covers(db: &Connection, schema: &Schema, covers: &[String]) -> Result<Layout> {
        let mut layout = Layout::of(covers.to_vec());
        for (index, key) in covers.iter().enumerate() {
            if key.is_empty() || key.starts_with(LAYOUT) {
                continue;
            }
            if key.starts_with(TEXT) {
                for (table, column) in covered_text(key).unwrap_or_default() {
                    layout.unknown |= !layout.text.add(db, schema, (&table, &column), &mut blake3::Hasher::new())?;
                }
                layout.unknown |= layout.text.key().as_ref() != Some(key);
                continue;
            }
            let parsed = schema.tables().find_map(|t| Some((t, parse_key(key, t)?)));
            match parsed {
                Some((table, fields)) => {
                    layout.unknown |= !layout.add(db, schema, index, &table.name, &fields, &mut blake3::Hasher::new())?
                }
                // A table that this database does not have has no rows in its blocks.
                None => layout.unknown |= schema.tables().any(|t| strip_scope(key, &t.name).is_some()),
            }
        }
        Ok(layout)
    }

    /// Keys of what the blocks cover, in the order of the rows' probe numbers.
    pub fn covers(&self) -> &[String] {
        &self.covers
    }

    /// Whether blocks made by this layout are complete.
    pub fn is_complete(&self) -> bool {
        !self.unknown && self.lost.borrow().is_empty()
    }

    /// Root pages of the tables that are read.
    pub fn roots(&self) -> impl Iterator<Item = u32> {
        self.tables.keys().copied().chain(self.text.roots().filter(|root| !self.tables.contains_key(root)))
    }

    /// Adds a probe; `false` when its rows cannot be read from leaf pages.
    fn add(
        &mut self,
        db: &Connection,
        schema: &Schema,
        index: usize,
        table: &str,
        fields: &[(String, Normalize)],
        digest: &mut blake3::Hasher,
    ) -> Result<bool> {
        let Ok(index) = u16::try_from(index) else { return Ok(false) };
        // No such table, no such column: there is nothing to be found, and that is covered.
        let Some(table) = schema.table(table) else { return Ok(true) };
        if table.kind != TableKind::Rowid || table.root == 0 || schema.unreadable.contains_key(&table.name) {
            return Ok(false);
        }
        let Some(columns) = fields.iter().map(|(f, _)| table.column(f)).collect::<Option<Vec<_>>>() else { return Ok(true) };
        let mut stored = Vec::new();
        for column in columns {
            stored.push(match table_column(db, table, column)? {
                TableColumn::Unreadable => return Ok(false),
                TableColumn::RowId => None,
                TableColumn::Stored(at, default) => Some((at, default)),
            });
        }
        digest.update(&table.root.to_be_bytes());
        for field in &stored {
            digest.update(&field.as_ref().map_or(u32::MAX, |(at, _)| *at as u32).to_be_bytes());
        }
        let rows = self.tables.entry(table.root).or_insert_with(|| TableRows { want: Vec::new(), probes: Vec::new() });
        let old = rows.want.clone();
        rows.want.extend(stored.iter().flatten().map(|(at, _)| *at));
        rows.want.sort_unstable();
        rows.want.dedup();
        let want = rows.want.clone();
        // Columns that came in between move the places of those that earlier probes read.
        for source in rows.probes.iter_mut().flat_map(|p| p.fields.iter_mut()) {
            if let Source::Column(place, _) = source
                && let Some(at) = old.get(*place)
            {
                *place = want.binary_search(at).unwrap_or(*place);
            }
        }
        let fields_of = |field: Option<(usize, Value<'static>)>| match field {
            None => Source::RowId,
            Some((at, default)) => Source::Column(want.binary_search(&at).unwrap_or_default(), default),
        };
        rows.probes.push(TableProbe {
            index,
            fields: stored.into_iter().map(fields_of).collect(),
            norms: fields.iter().map(|(_, n)| *n).collect(),
        });
        Ok(true)
    }

    /// The tokens of all rows on leaf page `no` of the table with this root. Rows that cannot be decoded make the probes
    /// of the table incomplete; only reading the image may fail.
    pub fn rows_of_page(
        &self,
        image: &dyn Image,
        header: &Header,
        no: u32,
        page: &[u8],
        root: u32,
        key: &TokenKey,
    ) -> Result<Vec<MarkRow>> {
        let mut out = Vec::new();
        let Some(rows) = self.tables.get(&root) else { return Ok(out) };
        let mut tree = Btree::default();
        let read = || -> Result<()> {
            tree.parse(page, no, header).map_err(|b| b.at(&image.path()))?;
            if tree.kind() != Some(Kind::TableLeaf) {
                return Err(Bad { page: no, what: "not a page of rows" }.at(&image.path()));
            }
            let mut spans = Spans::new();
            for cell in &tree.cells {
                let payload = record::locate(image, header, (no, page), cell, &rows.want, &mut spans)?;
                rows.tokens(cell.rowid, &payload, &spans, header.encoding, key, &mut out);
            }
            Ok(())
        };
        match read_or(read)? {
            Some(()) => {}
            None => self.lost.borrow_mut().extend(rows.probes.iter().map(|p| p.index)),
        }
        Ok(out)
    }

    /// What was covered in the end: keys of probes that were unreadable somewhere are emptied.
    pub fn covered(&self) -> Vec<String> {
        let lost = self.lost.borrow();
        let is_lost = |i: usize, k: &str| u16::try_from(i).is_ok_and(|i| lost.contains(&i)) || self.lost_text.get() && k.starts_with(TEXT);
        self.covers.iter().enumerate().map(|(i, k)| if is_lost(i, k) { String::new() } else { k.clone() }).collect()
    }

    /// Hashes what a leaf page's rows have of the covered columns on overflow pages. Those may lie in other runs and change while the
    /// page does not, so this is a part of what the run's block is made from.
    fn spilled(
        &self,
        (image, header): (&dyn Image, &Header),
        (no, page): (u32, &[u8]),
        root: u32,
        digest: &mut Option<blake3::Hasher>,
        key: &TokenKey,
    ) -> Result<()> {
        let mut tree = Btree::default();
        let wants = [self.tables.get(&root).map(|t| t.want.as_slice()).unwrap_or_default(), self.text.wanted_of(root)];
        if wants.iter().all(|w| w.is_empty()) || tree.parse(page, no, header).is_err() {
            return Ok(());
        }
        let mut spans = Spans::new();
        for cell in tree.cells.iter().filter(|c| c.spilled() > 0) {
            for want in wants.iter().filter(|w| !w.is_empty()) {
                let read = read_or(|| record::locate(image, header, (no, page), cell, want, &mut spans))?;
                let far = match &read {
                    Some(Cow::Borrowed(_)) => continue,
                    Some(Cow::Owned(payload)) => payload.get(cell.local as usize..).unwrap_or_default(),
                    None => b"unreadable",
                };
                digest.get_or_insert_with(|| blake3::Hasher::new_keyed(&key.derived("reseal/v1/spilled"))).update(far);
            }
        }
        Ok(())
    }

    /// The context of a run's block, from [`Layout::spilled`] of its leaf pages: empty where nothing is.
    pub(super) fn context(&self, image: (&dyn Image, &Header), leaves: &mut Leaves<'_, '_>, key: &TokenKey) -> Result<Vec<u8>> {
        let mut digest = None;
        for (no, page, root) in leaves {
            self.spilled(image, (no, page), root, &mut digest, key)?;
        }
        Ok(digest.map(|d| d.finalize().as_bytes()[..16].to_vec()).unwrap_or_default())
    }

    /// The identity block of a run of this many bytes with these leaf pages.
    pub(super) fn block(
        &self,
        (image, header): (&dyn Image, &Header),
        leaves: &mut Leaves<'_, '_>,
        (run, context): (usize, Vec<u8>),
        key: &TokenKey,
    ) -> Result<Marks> {
        let mut rows = Vec::new();
        let text_key = TextKey::new(key);
        let mut filter = (!self.text.is_empty()).then(|| TextFilter::new(&text_key));
        for (no, page, root) in leaves {
            rows.extend(self.rows_of_page(image, header, no, page, root, key)?);
            if let Some(filter) = &mut filter {
                self.text.filter_page((image, header), (no, page), root, filter)?;
            }
        }
        rows.sort_unstable();
        rows.dedup();
        Ok(Marks { context, records: 0, rows, text: filter.and_then(|f| f.finish(run)), malformed: 0 })
    }

    /// A table's rows cannot be read somewhere: its probes and texts are not covered.
    pub(super) fn lose_table(&self, root: u32) {
        self.lost_text.set(self.lost_text.get() || self.text.roots().any(|r| r == root));
        if let Some(rows) = self.tables.get(&root) {
            self.lost.borrow_mut().extend(rows.probes.iter().map(|p| p.index));
        }
    }
}

/// Turns an error about the entry's structure into `None`; other errors (reading) stay.
fn read_or<T>(read: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
    match read() {
        Ok(value) => Ok(Some(value)),
        Err(Error::Format { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

impl TableRows {
    fn tokens(&self, rowid: i64, payload: &[u8], spans: &Spans, encoding: TextEncoding, key: &TokenKey, out: &mut Vec<MarkRow>) {
        let value = |source: &Source| -> Value<'_> {
            match source {
                Source::RowId => Value::Integer(rowid),
                Source::Column(at, default) => match spans.get(*at) {
                    Some(Some(span)) => record::decode(payload, *span, encoding),
                    _ => default.clone(),
                },
            }
        };
        for probe in &self.probes {
            let row = |token: Token| MarkRow { probe: probe.index, record: rowid, token: token.long() };
            if let ([only], [norm]) = (probe.fields.as_slice(), probe.norms.as_slice()) {
                out.extend(key.of_value(&value(only), *norm).map(row));
                continue;
            }
            let fields: Vec<Vec<Value<'_>>> = probe.fields.iter().map(|f| vec![value(f)]).collect();
            out.extend(key.of_fields(&fields, &probe.norms).into_iter().map(row));
        }
    }
}

/// The rest of a key behind its scope and opening bracket.
fn strip_scope<'k>(key: &'k str, table: &str) -> Option<&'k str> {
    let head = key.get(..table.len())?;
    head.eq_ignore_ascii_case(table).then(|| key.get(table.len()..)?.strip_prefix('(')).flatten()
}

/// More fields than any probe has.
const MOST_FIELDS: usize = 32;

/// Reads [`crate::datamap::Probe::key`] back. Names may hold any character, so the table's own columns decide where one ends.
fn parse_key(key: &str, table: &Table) -> Option<Vec<(String, Normalize)>> {
    fn fields(rest: &str, table: &Table, most: usize) -> Option<Vec<(String, Normalize)>> {
        let most = most.checked_sub(1)?;
        table.columns.iter().find_map(|column| {
            let head = rest.get(..column.name.len())?;
            let rest = rest.get(column.name.len()..)?.strip_prefix(':').filter(|_| head.eq_ignore_ascii_case(&column.name))?;
            let end = rest.find(|c: char| c != '+' && !c.is_ascii_lowercase())?;
            let (steps, rest) = rest.split_at_checked(end)?;
            let norm = Normalize::all().find(|n| n.to_string() == steps)?;
            let mut out = vec![(column.name.clone(), norm)];
            match rest {
                ")" => Some(out),
                _ => {
                    out.extend(fields(rest.strip_prefix(',')?, table, most)?);
                    Some(out)
                }
            }
        })
    }
    fields(strip_scope(key, &table.name)?, table, MOST_FIELDS)
}

/// The number of the covered probe that reads exactly these columns of a table, as they are.
pub(super) fn covering(covers: &[String], table: &Table, columns: &[&str]) -> Option<u16> {
    let fits = |key: &String| {
        parse_key(key, table).is_some_and(|fields| {
            fields.len() == columns.len()
                && fields.iter().zip(columns).all(|((f, n), c)| f.eq_ignore_ascii_case(c) && *n == Normalize::default())
        })
    };
    covers.iter().position(fits).and_then(|i| u16::try_from(i).ok())
}

/// The value that SQLite gives for a column to rows that were written before it was added.
fn default_value(db: &Connection, decl_type: &str, sql: &str) -> rusqlite::Result<Value<'static>> {
    db.execute_batch("DROP TABLE IF EXISTS temp.reseal_default")?;
    db.execute_batch(&format!(
        "CREATE TEMP TABLE reseal_default(c {} DEFAULT ({sql}), d); INSERT INTO temp.reseal_default(d) VALUES(0)",
        quote_type(decl_type)
    ))?;
    let value = db.query_row("SELECT c FROM temp.reseal_default", [], |r| Ok(super::rows::from_sql(r.get_ref(0)?)));
    db.execute_batch("DROP TABLE temp.reseal_default")?;
    value
}

fn quote_type(decl_type: &str) -> String {
    if decl_type.is_empty() { String::new() } else { quote(decl_type) }
}
