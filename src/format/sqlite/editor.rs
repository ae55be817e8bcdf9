//! Finding and erasing in an archived database, behind [`EntryEditor`]: the database is opened where it lies, in the archive's runs.
//!
//! Finding goes by identity blocks where they cover the probe (row ids → rows → confirmed with the full token) or the searched text, by an
//! index or a scan where they do not. [`apply`](super::apply) changes rows, [`emit`](super::emit) gives back the runs that differ.

use super::apply;
use super::connect;
use super::emit;
use super::overlay::{Limits, Overlay, Spill};
use super::owners::Owners;
use super::pages::Header;
use super::rows::{RowShape, by_name, field, from_sql};
use super::schema::{Affinity, Schema, Table, TableKind, quote};
use super::scrub::free_pages;
use super::text::as_text;
use super::vfs::Database;
use super::{Image, RUN, read_page};
use crate::datamap::{Collection, DataMap, Feed, Normalize, Probe, TokenKey, Tokens, Value};
use crate::format::{Applied, Disposition, EntryContent, EntryEditor, Found, Mentions, NewPiece, RecordKey, has_alternative, names_column};
use crate::{Error, Result};
use rusqlite::params_from_iter;
use rusqlite::types::{Value as SqlValue, ValueRef};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// An archived database, opened.
pub struct SqliteEditor<'k> {
    pub(super) content: Arc<dyn EntryContent>,
    pub(super) key: &'k TokenKey,
    pub(super) limits: Limits,
    spill: Spill,
    pub(super) overlay: Arc<Mutex<Overlay>>,
    pub(super) base: Header,
    /// The freelist as archived; empty where the whole database will be scrubbed anyway.
    pub(super) free_before: BTreeSet<u32>,
    pub(super) schema: Schema,
    /// Open until the edit is done.
    pub(super) db: Option<Database>,
    returned: HashSet<(usize, RecordKey)>,
    fell_back: bool,
    missing: BTreeSet<String>,
    pub(super) changed: bool,
    /// Rows that the edit gave new values, by table (lower case).
    pub(super) rewritten: Vec<(String, i64)>,
}

/// Values bound in one statement.
const CHUNK: usize = 256;

impl<'k> SqliteEditor<'k> {
    /// Opens a database in an archive. Fails with [`Error::Format`] when it is none, or one that cannot be edited safely:
    /// pages with reserved bytes (checksums, encryption), a damaged header or freelist, content not cut into runs.
    pub fn open(content: Arc<dyn EntryContent>, key: &'k TokenKey, limits: Limits) -> Result<SqliteEditor<'k>> {
        SqliteEditor::open_spilling(content, key, limits, Spill::default())
    }

    /// [`SqliteEditor::open`], with a place of the caller's for written pages beyond [`Limits::overlay`].
    pub fn open_spilling(content: Arc<dyn EntryContent>, key: &'k TokenKey, limits: Limits, spill: Spill) -> Result<SqliteEditor<'k>> {
        let path = content.path();
        let overlay = Overlay::new(content.clone(), &limits, spill.clone())?;
        let base = overlay.base_header().clone();
        if base.reserved != 0 {
            let mut first = vec![0; base.page];
            read_page(&overlay, &base, 1, &mut first)?;
            base.check_reserved(1, &first).map_err(|b| b.at(&path))?;
        }
        let free_before =
            if content.scrubbed() && content.pieces() > 0 { free_pages(&overlay, &base)?.into_keys().collect() } else { BTreeSet::new() };
        let overlay = Arc::new(Mutex::new(overlay));
        if content.pieces() == 0 {
            // Nothing can be found in an empty database, so nothing will be changed.
            return Ok(SqliteEditor::with(content, key, (limits, spill), overlay, (base, free_before), None, Schema::default()));
        }
        let db = connect::for_edit(&overlay, &limits, false)?;
        let schema = match Schema::load(db.connection()) {
            Ok(schema) => schema,
            Err(error) => return Err(db.take_error().unwrap_or(error)),
        };
        Ok(SqliteEditor::with(content, key, (limits, spill), overlay, (base, free_before), Some(db), schema))
    }

    fn with(
        content: Arc<dyn EntryContent>,
        key: &'k TokenKey,
        (limits, spill): (Limits, Spill),
        overlay: Arc<Mutex<Overlay>>,
        (base, free_before): (Header, BTreeSet<u32>),
        db: Option<Database>,
        schema: Schema,
    ) -> SqliteEditor<'k> {
        let returned = HashSet::new();
        SqliteEditor {
            content,
            key,
            limits,
            spill,
            overlay,
            base,
            free_before,
            schema,
            db,
            returned,
            fell_back: false,
            missing: BTreeSet::new(),
            changed: false,
            rewritten: Vec::new(),
        }
    }

    /// The database as archived, for a look at how it was before the edit.
    pub(super) fn as_archived(&self) -> Result<Database> {
        let base = Overlay::new(self.content.clone(), &self.limits, self.spill.clone())?;
        connect::for_reading_base(&Arc::new(Mutex::new(base)), &self.limits)
    }

    /// The database's schema.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Whether what [`EntryEditor::finish`] gives leaves a database whose every page has been scrubbed.
    /// It does when it was scrubbed before, or when anything was changed.
    pub fn scrubs(&self) -> bool {
        self.changed || self.content.scrubbed()
    }

    pub(super) fn overlay(&self) -> MutexGuard<'_, Overlay> {
        self.overlay.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn db(&self) -> Result<&Database> {
        self.db.as_ref().ok_or_else(|| Error::Refused(format!("{}: already edited", self.content.path())))
    }

    /// The table that a collection speaks of; `None` when this database has none of that name.
    pub(super) fn table(&self, collection: &Collection) -> Result<Option<&Table>> {
        // An edit that failed has left the schema behind.
        if self.content.pieces() > 0 {
            self.db()?;
        }
        let Some(table) = self.schema.table(&collection.table) else { return Ok(None) };
        if let Some(why) = self.schema.unreadable.get(&table.name) {
            return Err(Error::format(self.content.path(), format!("table {} cannot be read here: {why}", table.name)));
        }
        Ok(Some(table))
    }

    /// Row ids whose short token is wanted, by the identity blocks, each with the run whose block names it; `None` when they do not cover
    /// the probe.
    fn by_marks(&self, collection: &Collection, probe: &Probe, wanted: &dyn Tokens) -> Result<Option<BTreeMap<i64, usize>>> {
        let key = probe.key(&collection.table);
        let Some(index) = self.content.covers().iter().position(|c| *c == key).and_then(|i| u16::try_from(i).ok()) else { return Ok(None) };
        let mut rows = BTreeMap::new();
        for piece in self.content.candidates(index, wanted)? {
            let Some(marks) = self.content.marks(piece)? else { return Ok(None) };
            for row in marks.of_probe(index).filter(|r| wanted.contains_short(r.short())) {
                if rows.insert(row.record, piece).is_some_and(|other| other != piece) {
                    return Err(self.astray(collection));
                }
            }
        }
        Ok(Some(rows))
    }

    /// Whether a search by row id arrives in this run.
    fn lies_in(&self, table: &Table, row: i64, run: usize) -> Result<bool> {
        let overlay = self.overlay();
        let header = overlay.header()?;
        let page = Owners::default().locate(&*overlay, &header, table.root, row)?;
        Ok(page.is_some_and(|no| header.offset(no) / RUN as u64 == run as u64))
    }

    /// Keys of rows that may match, by an index of the table or by reading all of it. Every row that matches is among them.
    fn by_sql(
        &self,
        table: &Table,
        shape: &RowShape,
        columns: &[String],
        norms: &[Normalize],
        wanted: &dyn Tokens,
    ) -> Result<Vec<RecordKey>> {
        let db = self.db()?;
        let failed = |e| db.explain(format!("searching table {}", table.name))(e);
        if let Some(values) = indexable(table, columns, norms, wanted) {
            let search = || -> rusqlite::Result<Vec<RecordKey>> {
                let mut out = Vec::new();
                for chunk in values.chunks(CHUNK) {
                    let marks = vec!["?"; chunk.len()].join(", ");
                    let first = columns.first().map(|c| super::schema::quote(c)).unwrap_or_default();
                    let mut statement = db.connection().prepare(&format!("{} WHERE {first} IN ({marks})", shape.select(&[])))?;
                    let mut rows = statement.query(params_from_iter(chunk))?;
                    while let Some(row) = rows.next()? {
                        out.push(shape.key(row)?);
                    }
                }
                Ok(out)
            };
            // A missing collation makes this fail, where reading the rows does not need it.
            match search() {
                Ok(found) => return Ok(found),
                Err(error) => match db.take_error() {
                    Some(error) => return Err(error),
                    None if is_missing_extension(&error) => {}
                    None => return Err(failed(error)),
                },
            }
        }
        let scan = || -> rusqlite::Result<Vec<RecordKey>> {
            let mut out = Vec::new();
            let mut statement = db.connection().prepare(&shape.select(columns))?;
            let mut rows = statement.query([])?;
            let skip = shape.keys.len();
            while let Some(row) = rows.next()? {
                let mut values = Vec::with_capacity(columns.len());
                for i in 0..columns.len() {
                    values.push(vec![from_sql(row.get_ref(skip + i)?)]);
                }
                if wanted.key().of_fields(&values, norms).iter().any(|t| wanted.contains(t)) {
                    out.push(shape.key(row)?);
                }
            }
            Ok(out)
        };
        scan().map_err(failed)
    }

    /// Loads a row and keeps it if it really matches. `known`: an identity block names it.
    fn confirm(
        &self,
        collection: (usize, &Collection),
        shape: &RowShape,
        key: RecordKey,
        known: bool,
        holds: &mut dyn FnMut(&Found) -> Result<bool>,
    ) -> Result<Option<Found>> {
        if self.returned.contains(&(collection.0, key.clone())) {
            return Ok(None);
        }
        let db = self.db()?;
        let loaded = shape.load(db.connection(), &key).map_err(|e| db.explain(format!("reading table {}", collection.1.table))(e))?;
        let Some(values) = loaded else {
            // Blocks are made of the rows themselves, page by page: what they name is there, though a search from the root misses it.
            return match known {
                true => Err(self.astray(collection.1)),
                false => Ok(None),
            };
        };
        let found = Found { collection: collection.0, key, values: by_name(collection.1, &shape.columns, values) };
        Ok(holds(&found)?.then_some(found))
    }

    fn astray(&self, collection: &Collection) -> Error {
        let what =
            format!("a row of table {} lies where a search does not find it, so it can neither be shown nor erased", collection.table);
        Error::damaged(self.content.path(), what)
    }

    fn remember(&mut self, found: &[Found]) {
        self.returned.extend(found.iter().map(|f| (f.collection, f.key.clone())));
    }
}

/// Values to look up in an index instead of reading the whole table: only where comparing in SQL finds at least what comparing
/// canonical texts finds. Blobs are asked for as well, because a text column may hold them.
fn indexable(table: &Table, columns: &[String], norms: &[Normalize], wanted: &dyn Tokens) -> Option<Vec<SqlValue>> {
    let (column, norm) = (table.column(columns.first()?)?, norms.first()?);
    let number_like = |t: &str| t.contains(['.', 'e', 'E']) || t.len() > 18;
    let plain = wanted.plaintext()?;
    let texts: BTreeSet<&String> = plain.iter().map(|v| v.first()).collect::<Option<_>>()?;
    let exact = match column.affinity() {
        // In a STRICT table nothing is converted to it: a number is not equal to its text.
        _ if column.decl_type.eq_ignore_ascii_case("any") => false,
        Affinity::Text => true,
        // Numbers with fractions or many digits may be written in more than one way.
        Affinity::Integer | Affinity::Numeric => texts.iter().all(|t| !(number_like(t) && t.parse::<f64>().is_ok())),
        Affinity::Real | Affinity::Blob => false,
    };
    if *norm != Normalize::default() || !exact || table.kind == TableKind::Virtual || texts.iter().any(|t| t.starts_with("x'")) {
        return None;
    }
    Some(texts.into_iter().flat_map(|t| [SqlValue::Text(t.clone()), SqlValue::Blob(t.clone().into_bytes())]).collect())
}

/// Whether SQLite lacks a collation, function or module that the schema uses.
pub(super) fn is_missing_extension(error: &rusqlite::Error) -> bool {
    let text = error.to_string();
    ["no such collation", "no such function", "unknown function", "no such module", "no such tokenizer", "vtable constructor failed"]
        .iter()
        .any(|m| text.contains(m))
}

/// Names of a probe's columns as the table has them, and how each is normalised; `None` when the table lacks one of them.
fn probe_columns(table: &Table, probe: &Probe) -> Option<(Vec<String>, Vec<Normalize>)> {
    let columns: Option<Vec<String>> = probe.fields.iter().map(|(f, _)| table.column(f).map(|c| c.name.clone())).collect();
    columns.map(|c| (c, probe.fields.iter().map(|(_, n)| *n).collect()))
}

/// The probe's tokens of a row.
fn tokens_of(key: &TokenKey, probe: &Probe, found: &Found) -> Vec<crate::datamap::Token> {
    let values: Vec<Vec<Value<'static>>> = probe.fields.iter().map(|(f, _)| field(&found.values, f).cloned().unwrap_or_default()).collect();
    let norms: Vec<Normalize> = probe.fields.iter().map(|(_, n)| *n).collect();
    key.of_fields(&values, &norms)
}

fn collection_of(map: &DataMap, index: usize) -> Result<&Collection> {
    map.collections.get(index).ok_or_else(|| Error::Refused(format!("the data map has no collection number {index}")))
}

impl EntryEditor for SqliteEditor<'_> {
    fn find(&mut self, map: &DataMap, collection: usize, probe: &Probe, wanted: &dyn Tokens) -> Result<Vec<Found>> {
        let named = collection_of(map, collection)?;
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let Some(table) = self.table(named)? else {
            self.missing.insert(format!("table {}", named.table));
            return Ok(Vec::new());
        };
        let Some((columns, norms)) = probe_columns(table, probe) else {
            let names: Vec<&str> = probe.fields.iter().filter(|(f, _)| table.column(f).is_none()).map(|(f, _)| f.as_str()).collect();
            self.missing.insert(format!("column {} of table {}", names.join(", "), named.table));
            return Ok(Vec::new());
        };
        let shape = RowShape::of(table)?;
        let blocks = self.by_marks(named, probe, wanted)?;
        let keys = match &blocks {
            Some(rows) => rows.keys().map(|row| RecordKey::Row(*row)).collect(),
            None => self.by_sql(table, &shape, &columns, &norms, wanted)?,
        };
        let mut out = Vec::new();
        for key in keys {
            let run = match (&blocks, &key) {
                (Some(rows), RecordKey::Row(row)) => rows.get(row).map(|run| (*row, *run)),
                _ => None,
            };
            let mut holds = |found: &Found| -> Result<bool> {
                if !tokens_of(wanted.key(), probe, found).iter().any(|t| wanted.contains(t)) {
                    // By chance half of a token agrees, or another row has taken the id of the one that the block names.
                    return match run {
                        Some((row, run)) if !self.lies_in(table, row, run)? => Err(self.astray(named)),
                        _ => Ok(false),
                    };
                }
                match &probe.when {
                    Some(when) => when.holds(&|name| field(&found.values, name).and_then(|v| v.first()).cloned()),
                    None => Ok(true),
                }
            };
            out.extend(self.confirm((collection, named), &shape, key, run.is_some(), &mut holds)?);
        }
        self.fell_back |= blocks.is_none();
        self.remember(&out);
        Ok(out)
    }

    fn find_text(&mut self, map: &DataMap, collection: usize, mentions: &dyn Mentions) -> Result<Vec<Found>> {
        let named = collection_of(map, collection)?;
        let Some(table) = self.table(named)? else { return Ok(Vec::new()) };
        let columns: Vec<String> =
            named.fields.values().filter(|f| f.scan).filter_map(|f| table.column(&f.name)).map(|c| c.name.clone()).collect();
        if columns.is_empty() {
            return Ok(Vec::new());
        }
        let shape = RowShape::of(table)?;
        let fell_back = mentions.features().is_some() && !self.covers_text(table, &columns);
        let keys = if let Some(rows) = self.rows_by_text(table, &columns, mentions)? {
            rows.into_iter().map(RecordKey::Row).collect()
        } else {
            let db = self.db()?;
            let scan = || -> rusqlite::Result<Vec<RecordKey>> {
                let mut keys = Vec::new();
                let mut statement = db.connection().prepare(&shape.select(&columns))?;
                let mut rows = statement.query([])?;
                while let Some(row) = rows.next()? {
                    for i in 0..columns.len() {
                        let value = row.get_ref(shape.keys.len() + i)?;
                        let bytes = value.as_bytes_or_null().ok().flatten().unwrap_or_default();
                        if std::str::from_utf8(bytes).is_ok_and(|t| !mentions.spans(t).is_empty()) {
                            keys.push(shape.key(row)?);
                            break;
                        }
                    }
                }
                Ok(keys)
            };
            scan().map_err(|e| db.explain(format!("searching the text of table {}", table.name))(e))?
        };
        let mut out = Vec::new();
        for key in keys {
            let mut mentioned = |found: &Found| {
                let values = columns.iter().filter_map(|c| field(&found.values, c)).flatten();
                Ok(values.filter_map(as_text).any(|t| !mentions.spans(t).is_empty()))
            };
            out.extend(self.confirm((collection, named), &shape, key, false, &mut mentioned)?);
        }
        self.fell_back |= fell_back;
        self.remember(&out);
        Ok(out)
    }

    fn visit_values(&mut self, visit: &mut dyn FnMut(&[u8])) -> Result<bool> {
        if self.content.pieces() == 0 {
            return Ok(true);
        }
        let db = self.db()?;
        for table in self.schema.tables().filter(|t| t.root != 0) {
            if let Some(why) = self.schema.unreadable.get(&table.name) {
                return Err(Error::format(self.content.path(), format!("table {} cannot be read here: {why}", table.name)));
            }
            let columns: Vec<String> = table.visible().map(|c| quote(&c.name)).collect();
            let mut scan = || -> rusqlite::Result<()> {
                let mut statement = db.connection().prepare(&format!("SELECT {} FROM {}", columns.join(", "), quote(&table.name)))?;
                let mut rows = statement.query([])?;
                while let Some(row) = rows.next()? {
                    for i in 0..columns.len() {
                        if let ValueRef::Text(bytes) | ValueRef::Blob(bytes) = row.get_ref(i)? {
                            visit(bytes);
                        }
                    }
                }
                Ok(())
            };
            scan().map_err(|e| db.explain(format!("reading table {}", table.name))(e))?;
        }
        Ok(true)
    }

    fn apply(&mut self, map: &DataMap, order: &[usize], decided: &[(Found, Disposition)]) -> Result<Applied> {
        apply::apply(self, map, order, decided)
    }

    fn finish_into(self: Box<Self>, out: &mut dyn FnMut(NewPiece) -> Result<()>) -> Result<()> {
        emit::emit(*self, out)
    }

    fn fell_back(&self) -> bool {
        self.fell_back
    }

    fn missing(&self) -> Vec<String> {
        self.missing.iter().cloned().collect()
    }

    fn may_hide(&mut self, map: &DataMap, collection: usize, probe: &Probe) -> Result<Option<String>> {
        let named = collection_of(map, collection)?;
        let Some(table) = self.table(named)? else {
            // Renamed, if it has the columns; or it refers to the same table as ever.
            let target = match &probe.feed {
                Feed::Reference { collection, .. } => map.collections.get(*collection).map(|c| c.table.as_str()),
                Feed::Identity(_) => None,
            };
            let is_named = |t: &Table| map.collections.iter().any(|c| c.table.eq_ignore_ascii_case(&t.name));
            let like = |t: &Table| {
                probe.fields.iter().all(|(f, _)| t.column(f).is_some())
                    || target.is_some_and(|target| t.foreign_keys.iter().any(|k| k.parent.eq_ignore_ascii_case(target)))
            };
            let other =
                self.schema.tables().find(|t| matches!(t.kind, TableKind::Rowid | TableKind::WithoutRowid) && !is_named(t) && like(t));
            return Ok(other.map(|other| format!("table {} (unless that is {})", named.table, other.name)));
        };
        let absent: Vec<&str> = probe.fields.iter().map(|(f, _)| f.as_str()).filter(|f| table.column(f).is_none()).collect();
        if absent.is_empty() || has_alternative(named, probe, &|f| table.column(f).is_some()) {
            return Ok(None);
        }
        let unnamed = table.columns.iter().any(|c| !names_column(named, &c.name, &|a, b| a.eq_ignore_ascii_case(b)));
        Ok(unnamed.then(|| format!("column {} of table {}", absent.join(", "), named.table)))
    }
}

impl SqliteEditor<'_> {
    /// For messages.
    pub(super) fn path(&self) -> String {
        self.content.path()
    }

    /// Rows and pages of a database up to this size are checked as a whole.
    pub(super) fn is_small(&self) -> bool {
        self.limits.always_whole || self.overlay().len() <= self.limits.whole_check
    }

    /// Notes by kind, for [`Applied::notes`].
    pub(super) fn notes(counts: &BTreeMap<String, u64>) -> Vec<String> {
        counts.iter().map(|(what, n)| format!("{n} {what}")).collect()
    }
}
