//! Cutting a database into runs, and the identity blocks of the runs: tokens of the identity columns of every row, read from the
//! leaf pages while they stream past. No cursor, no second pass, no index needed.
//!
//! A run's block holds the rows whose cells lie on the run's own pages (a row's payload may spill onto pages of other runs).

use super::pages::{Bad, Btree, Header, Kind, TextEncoding};
use super::record::{self, Spans};
use super::schema::{Generated, Schema, Table, TableKind, quote};
use super::scrub::{SchemaPages, ScrubPlan, Scrubbed, Tag, schema_pages};
use super::vfs::{Database, Medium};
use super::{Image, RUN};
use crate::datamap::{DataMap, Normalize, Token, TokenKey, Value};
use crate::format::{MarkRow, Marks};
use crate::{Error, Result};
use rusqlite::Connection;
use std::cell::RefCell;
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

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

/// Which columns of which tables the identity blocks of a database are made from.
pub struct Layout {
    covers: Vec<String>,
    /// By root page.
    tables: HashMap<u32, TableRows>,
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
        let mut layout = Layout { covers: Vec::new(), tables: HashMap::new(), lost: RefCell::default(), unknown: false };
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
        if !layout.covers.is_empty() {
            layout.covers.push(format!("{LAYOUT}{}", hex::encode(&digest.finalize().as_bytes()[..8])));
        }
        Ok(layout)
    }

    /// For what the blocks of an archived entry cover, whatever today's map says.
    pub fn of_covers(db: &Connection, schema: &Schema, covers: &[String]) -> Result<Layout> {
        let mut layout = Layout { covers: covers.to_vec(), tables: HashMap::new(), lost: RefCell::default(), unknown: false };
        for (index, key) in covers.iter().enumerate() {
            if key.is_empty() || key.starts_with(LAYOUT) {
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
        self.tables.keys().copied()
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
        let alias = table.rowid_alias().map(|c| c.name.clone());
        let mut stored = Vec::new();
        for column in columns {
            if column.generated == Some(Generated::Virtual) || column.generated == Some(Generated::Stored) {
                return Ok(false);
            }
            if alias.as_ref() == Some(&column.name) {
                stored.push(None);
                continue;
            }
            let Some(at) = table.stored_index(&column.name) else { return Ok(false) };
            let default = match &column.default {
                None => Value::Null,
                Some(sql) => match default_value(db, &column.decl_type, sql) {
                    Ok(value) => value,
                    Err(_) => return Ok(false),
                },
            };
            stored.push(Some((at, default)));
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
        let is_lost = |i: usize| u16::try_from(i).is_ok_and(|i| lost.contains(&i));
        self.covers.iter().enumerate().map(|(i, k)| if is_lost(i) { String::new() } else { k.clone() }).collect()
    }

    fn lose_table(&self, root: u32) {
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

/// Reads [`crate::datamap::Probe::key`] back. Names may hold any character, so the table's own columns decide where one ends.
fn parse_key(key: &str, table: &Table) -> Option<Vec<(String, Normalize)>> {
    fn fields(rest: &str, table: &Table) -> Option<Vec<(String, Normalize)>> {
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
                    out.extend(fields(rest.strip_prefix(',')?, table)?);
                    Some(out)
                }
            }
        })
    }
    fields(strip_scope(key, &table.name)?, table)
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

/// A database of which only the schema's pages exist: enough for SQLite to tell tables and columns, without reading anything else.
struct SchemaOnly {
    pages: SchemaPages,
    page: usize,
    len: u64,
}

impl Medium for SchemaOnly {
    fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let (no, inside) = ((offset / self.page as u64 + 1) as u32, (offset % self.page as u64) as usize);
        buf.fill(0);
        if let Some(page) = self.pages.pages.get(&no) {
            buf.iter_mut().zip(page.iter().skip(inside)).for_each(|(to, from)| *to = *from);
        }
        Ok(buf.len().min(self.len.saturating_sub(offset) as usize))
    }
    fn write(&mut self, _: u64, _: &[u8]) -> Result<()> {
        Err(Error::Refused("a schema is only read".into()))
    }
    fn truncate(&mut self, _: u64) -> Result<()> {
        Err(Error::Refused("a schema is only read".into()))
    }
    fn size(&mut self) -> u64 {
        self.len
    }
}

/// The schema of an image, read without opening more than its pages; and a connection to evaluate defaults with.
pub fn schema_of(image: &dyn Image) -> Result<(Schema, Database)> {
    let header = image.header()?;
    let mut pages = schema_pages(image, &header)?;
    if let Some(bytes) = pages.pages.get_mut(&1).and_then(|p| p.get_mut(18..20)) {
        bytes.fill(1); // no write-ahead log: there is none to look for
    }
    let medium = SchemaOnly { pages, page: header.page, len: header.offset(header.pages) + header.page as u64 };
    let db = Database::open(Arc::new(Mutex::new(medium)), false)?;
    let _ = db.connection().pragma_update(None, "temp_store", "MEMORY");
    let schema = Schema::load(db.connection()).map_err(|e| match e {
        Error::Sqlite { source, .. } => Error::format(image.path(), format!("its schema cannot be read: {source}")),
        other => other,
    })?;
    Ok((schema, db))
}

/// What became of a database on its way into an archive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CutReport {
    /// For [`crate::repository::entry::Mapped::covers`].
    pub covers: Vec<String>,
    /// For [`crate::repository::entry::Mapped::scrubbed`].
    pub scrubbed: bool,
    /// Pages, and what the scrub found on them.
    pub scrub: Scrubbed,
    /// What the user should know. No values.
    pub warnings: Vec<String>,
}

/// Makes a run's identity block when it is asked for: not for runs that an earlier archive already has one for.
pub type LazyMarks<'a> = &'a dyn Fn() -> Result<Option<Marks>>;

/// A database about to be cut into runs.
pub struct Cut<'a> {
    image: &'a dyn Image,
    key: &'a TokenKey,
    layout: Option<Layout>,
    plan: Option<ScrubPlan>,
    warnings: Vec<String>,
}

impl<'a> Cut<'a> {
    /// Looks at the schema and the structure. A database that is damaged or that cannot be scrubbed is no error: it will be stored byte
    /// for byte, not covered, with a warning. Only reading fails.
    pub fn plan(image: &'a dyn Image, map: &DataMap, collections: &[usize], key: &'a TokenKey) -> Result<Cut<'a>> {
        let mut cut = Cut { image, key, layout: None, plan: None, warnings: Vec::new() };
        if image.is_empty() {
            return Ok(cut);
        }
        match ScrubPlan::build(image) {
            Ok(plan) => cut.plan = Some(plan),
            Err(Error::Format { detail, .. }) => {
                cut.warnings.push(format!("stored as it is, not scrubbed of deleted data: {detail}"));
                return Ok(cut);
            }
            Err(error) => return Err(error),
        }
        let layout = schema_of(image).and_then(|(schema, db)| Layout::plan(db.connection(), &schema, map, collections));
        match layout {
            Ok(layout) => cut.layout = Some(layout),
            Err(Error::Format { detail, .. }) => cut.warnings.push(format!("no identity blocks: {detail}")),
            Err(error) => return Err(error),
        }
        Ok(cut)
    }

    /// What the identity blocks will cover, known before the first run. Blocks of an earlier archive fit unchanged runs exactly when
    /// they were made with an equal list.
    pub fn covers(&self) -> &[String] {
        self.layout.as_ref().map(Layout::covers).unwrap_or_default()
    }

    /// Hands out the runs in order, scrubbed, each with the means to make its identity block.
    pub fn stream(mut self, out: &mut dyn FnMut(&[u8], LazyMarks<'_>) -> Result<()>) -> Result<CutReport> {
        let mut scrub = Scrubbed::default();
        let mut unscrubbed = 0u64;
        for index in 0..self.image.runs() {
            let mut run = self.image.run(index)?;
            if let Some(plan) = &mut self.plan {
                for bad in plan.scrub_run(index * RUN as u64, &mut run, &mut scrub) {
                    if unscrubbed == 0 {
                        self.warnings.push(format!("not scrubbed everywhere: {bad}"));
                    }
                    unscrubbed += 1;
                    if let (Tag::Leaf(root), Some(layout)) = (plan.tag(bad.page), &self.layout)
                        && let Some(root) = plan.roots().get(root as usize)
                    {
                        layout.lose_table(*root);
                    }
                }
            }
            let marks = || match (&self.layout, &self.plan) {
                (Some(layout), Some(plan)) if !layout.covers.is_empty() => {
                    run_marks(self.image, layout, plan, index, &run, self.key).map(Some)
                }
                _ => Ok(None),
            };
            out(&run, &marks)?;
        }
        let covers = self.layout.as_ref().map(Layout::covered).unwrap_or_default();
        if covers.iter().any(String::is_empty) {
            self.warnings.push("some rows could not be decoded: their table will be searched by reading it".into());
        }
        if self.plan.as_ref().is_some_and(|p| p.orphans() > 0) {
            self.warnings.push(format!("{} pages belonged to nothing and were zeroed", scrub.orphans));
        }
        Ok(CutReport {
            covers,
            scrubbed: (self.plan.is_some() || self.image.is_empty()) && unscrubbed == 0,
            scrub,
            warnings: self.warnings,
        })
    }
}

/// The identity block of one run.
fn run_marks(image: &dyn Image, layout: &Layout, plan: &ScrubPlan, index: u64, run: &[u8], key: &TokenKey) -> Result<Marks> {
    let header = plan.header();
    let mut rows = Vec::new();
    for (i, page) in run.chunks_exact(header.page).enumerate() {
        let no = index * (RUN / header.page) as u64 + i as u64 + 1;
        let Ok(no) = u32::try_from(no) else { break };
        if let Tag::Leaf(root) = plan.tag(no)
            && let Some(root) = plan.roots().get(root as usize)
        {
            rows.extend(layout.rows_of_page(image, header, no, page, *root, key)?);
        }
    }
    Ok(block(rows))
}

/// Rows as an identity block.
pub(super) fn block(mut rows: Vec<MarkRow>) -> Marks {
    rows.sort_unstable();
    rows.dedup();
    Marks { context: Vec::new(), records: 0, rows }
}

/// Plans and streams in one go.
pub fn cut(
    image: &dyn Image,
    map: &DataMap,
    collections: &[usize],
    key: &TokenKey,
    out: &mut dyn FnMut(&[u8], LazyMarks<'_>) -> Result<()>,
) -> Result<CutReport> {
    Cut::plan(image, map, collections, key)?.stream(out)
}

/// Tells which table a leaf page belongs to, by looking up the page's first row in each table that is in question.
/// Inner pages are parsed once; leaves are not read for it (all leaves of a table are equally deep).
#[derive(Default)]
pub(super) struct Owners {
    /// Levels above the leaves, by root page.
    depths: HashMap<u32, u32>,
    /// Keys and children of inner pages.
    inner: HashMap<u32, (Vec<i64>, Vec<u32>)>,
}

impl Owners {
    /// The leaf page of a table on which this row id belongs.
    pub(super) fn locate(&mut self, image: &dyn Image, header: &Header, root: u32, rowid: i64) -> Result<Option<u32>> {
        let depth = match self.depths.get(&root) {
            Some(depth) => *depth,
            None => {
                let (mut depth, mut no) = (0, root);
                while let Some((_, children)) = self.inner(image, header, no)? {
                    let first = children.first().copied().unwrap_or(0);
                    (depth, no) = (depth + 1, first);
                    if depth > 64 {
                        return Err(Bad { page: root, what: "a table without leaves" }.at(&image.path()));
                    }
                }
                self.depths.insert(root, depth);
                depth
            }
        };
        let mut no = root;
        for _ in 0..depth {
            let Some((keys, children)) = self.inner(image, header, no)? else { return Ok(None) };
            let Some(child) = children.get(keys.partition_point(|k| *k < rowid)) else { return Ok(None) };
            no = *child;
        }
        Ok(Some(no))
    }

    /// `None` for a leaf.
    fn inner(&mut self, image: &dyn Image, header: &Header, no: u32) -> Result<Option<&(Vec<i64>, Vec<u32>)>> {
        if let Entry::Vacant(slot) = self.inner.entry(no) {
            if no < 1 || no > header.pages {
                return Err(Bad { page: no, what: "does not exist, but something refers to it" }.at(&image.path()));
            }
            let (mut buf, mut tree) = (vec![0; header.page], Btree::default());
            super::read_page(image, header, no, &mut buf)?;
            tree.parse(&buf, no, header).map_err(|b| b.at(&image.path()))?;
            if tree.kind() != Some(Kind::TableInterior) {
                return Ok(None);
            }
            let keys = tree.cells.iter().map(|c| c.rowid).collect();
            slot.insert((keys, std::mem::take(&mut tree.children)));
        }
        Ok(self.inner.get(&no))
    }
}
