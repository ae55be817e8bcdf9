//! The text of rows that is searched for mentions: what goes into a run's filter, and finding the rows in the runs whose filter does not
//! rule the person out.

use super::editor::SqliteEditor;
use super::marks::{TableColumn, table_column};
use super::owners::Owners;
use super::pages::{Bad, Btree, HEADER, Header, Kind};
use super::record::{self, Spans};
use super::schema::{Schema, Table, TableKind};
use super::{Image, RUN};
use crate::datamap::Value;
use crate::format::Mentions;
use crate::format::blocks::TEXT;
use crate::format::text_filter::{TextFilter, WantedText};
use crate::{Error, Result};
use rusqlite::Connection;
use std::collections::{BTreeSet, HashMap};

/// The searched columns of one table.
#[derive(Default)]
struct Searched {
    /// Indices into the record, ascending.
    want: Vec<usize>,
    /// For each of them the value of rows that are older than the column.
    defaults: Vec<Value<'static>>,
}

/// The searched columns of a database that can be read from leaf pages.
#[derive(Default)]
pub(super) struct TextColumns {
    names: BTreeSet<(String, String)>,
    /// By root page.
    tables: HashMap<u32, Searched>,
}

impl TextColumns {
    /// Adds a column; `false` when it cannot be read from leaf pages. What does not exist says nothing and is not listed.
    pub(super) fn add(
        &mut self,
        db: &Connection,
        schema: &Schema,
        (table, column): (&str, &str),
        digest: &mut blake3::Hasher,
    ) -> Result<bool> {
        let Some((table, column)) = schema.table(table).and_then(|t| Some((t, t.column(column)?))) else { return Ok(true) };
        if table.kind != TableKind::Rowid || table.root == 0 || schema.unreadable.contains_key(&table.name) {
            return Ok(false);
        }
        let stored = match table_column(db, table, column)? {
            TableColumn::Unreadable => return Ok(false),
            // A number.
            TableColumn::RowId => None,
            TableColumn::Stored(at, default) => Some((at, default)),
        };
        if !self.names.insert((table.name.clone(), column.name.clone())) {
            return Ok(true);
        }
        digest.update(b"text").update(&table.root.to_be_bytes());
        let searched = self.tables.entry(table.root).or_default();
        if let Some((at, default)) = stored
            && let Err(place) = searched.want.binary_search(&at)
        {
            digest.update(&(at as u64).to_be_bytes());
            searched.want.insert(place, at);
            searched.defaults.insert(place, default);
        }
        Ok(true)
    }

    /// The entry in `covers`; `None` when no text is searched.
    pub(super) fn key(&self) -> Option<String> {
        let list: Vec<serde_json::Value> = self.names.iter().map(|(t, c)| vec![t.as_str(), c.as_str()].into()).collect();
        (!list.is_empty()).then(|| format!("{TEXT}{}", serde_json::Value::from(list)))
    }

    /// Whether any text is searched.
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Root pages of the tables.
    pub(super) fn roots(&self) -> impl Iterator<Item = u32> {
        self.tables.keys().copied()
    }

    /// Indices of the columns of the table with this root.
    pub(super) fn wanted_of(&self, root: u32) -> &[usize] {
        self.tables.get(&root).map(|s| s.want.as_slice()).unwrap_or_default()
    }

    /// Calls `each` with every text of the rows on leaf page `no` of the table with this root; `None` where a row's cannot be read.
    fn texts_of_page(
        &self,
        (image, header): (&dyn Image, &Header),
        (no, page): (u32, &[u8]),
        root: u32,
        each: &mut dyn FnMut(i64, Option<&str>),
    ) -> Result<()> {
        let Some(searched) = self.tables.get(&root) else { return Ok(()) };
        let mut tree = Btree::default();
        tree.parse(page, no, header).map_err(|b| b.at(&image.path()))?;
        if tree.kind() != Some(Kind::TableLeaf) {
            return Err(Bad { page: no, what: "not a page of rows" }.at(&image.path()));
        }
        let mut spans = Spans::new();
        for cell in &tree.cells {
            let payload = match record::locate(image, header, (no, page), cell, &searched.want, &mut spans) {
                Ok(payload) => payload,
                Err(Error::Format { .. }) => {
                    each(cell.rowid, None);
                    continue;
                }
                Err(error) => return Err(error),
            };
            for (span, default) in spans.iter().zip(&searched.defaults) {
                let value = match span {
                    Some(span) => record::decode(&payload, *span, header.encoding),
                    None => default.clone(),
                };
                if let Some(text) = as_text(&value) {
                    each(cell.rowid, Some(text));
                }
            }
        }
        Ok(())
    }

    /// Adds the texts of a leaf page to a run's filter.
    pub(super) fn filter_page(
        &self,
        image: (&dyn Image, &Header),
        page: (u32, &[u8]),
        root: u32,
        filter: &mut TextFilter<'_>,
    ) -> Result<()> {
        let read = self.texts_of_page(image, page, root, &mut |_, text| match text {
            Some(text) => filter.add(text),
            None => filter.give_up(),
        });
        match read {
            Err(Error::Format { .. }) => {
                filter.give_up();
                Ok(())
            }
            other => other,
        }
    }
}

/// Tables and columns of an entry in `covers`; `None` for what is no such list.
pub(super) fn covered_text(key: &str) -> Option<Vec<(String, String)>> {
    serde_json::from_str(key.strip_prefix(TEXT)?).ok()
}

/// What is searched of a value: text, also where it is stored as a blob.
pub(super) fn as_text<'v>(value: &'v Value<'_>) -> Option<&'v str> {
    match value {
        Value::Text(text) => Some(text),
        Value::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    }
}

impl SqliteEditor<'_> {
    /// Whether the identity blocks' filters speak for these columns.
    pub(super) fn covers_text(&self, table: &Table, columns: &[String]) -> bool {
        let list = self.content.covers().iter().find_map(|key| covered_text(key)).unwrap_or_default();
        columns.iter().all(|column| list.iter().any(|(t, c)| *t == table.name && c == column))
    }

    /// Row ids of rows whose text mentions the person (or cannot be read here), from the runs whose filters do not rule it out. `None` where
    /// the table has to be read instead.
    pub(super) fn rows_by_text(&self, table: &Table, columns: &[String], mentions: &dyn Mentions) -> Result<Option<BTreeSet<i64>>> {
        let Some(groups) = mentions.features().filter(|_| self.covers_text(table, columns)) else { return Ok(None) };
        let wanted = WantedText::new(self.key, groups);
        let scratch = Connection::open_in_memory().map_err(Error::sqlite("opening a database in memory"))?;
        let mut text = TextColumns::default();
        for column in columns {
            if !text.add(&scratch, &self.schema, (&table.name, column), &mut blake3::Hasher::new())? {
                return Ok(None);
            }
        }
        let overlay = self.overlay();
        let header = overlay.header()?;
        let mut owners = Owners::default();
        let mut out = BTreeSet::new();
        for piece in self.content.mentioning(&wanted)? {
            let Some(marks) = self.content.marks(piece)? else { return Ok(None) };
            if !wanted.may_be_in(marks.text.as_deref()) {
                continue;
            }
            let run = overlay.run(piece as u64)?;
            for (no, page) in leaf_pages(&header, piece as u64, &run) {
                let root = table.root;
                match owners.owner(&*overlay, &header, (no, page), &mut std::iter::once(root)) {
                    Ok(None) => continue,
                    Ok(Some(_)) => {}
                    // What cannot be told from its pages SQLite has to say.
                    Err(Error::Format { .. }) => return Ok(None),
                    Err(error) => return Err(error),
                }
                text.texts_of_page((&*overlay, &header), (no, page), root, &mut |row, text| {
                    if text.is_none_or(|t| !mentions.spans(t).is_empty()) {
                        out.insert(row);
                    }
                })?;
            }
        }
        Ok(Some(out))
    }
}

/// The pages of a run that may be leaves of a table, by number.
pub(super) fn leaf_pages<'r>(header: &Header, index: u64, run: &'r [u8]) -> impl Iterator<Item = (u32, &'r [u8])> {
    let header = header.clone();
    let first = index * (RUN / header.page) as u64 + 1;
    run.chunks_exact(header.page).enumerate().filter_map(move |(i, page)| {
        let no = u32::try_from(first + i as u64).ok()?;
        let flag = page.get(if no == 1 { HEADER } else { 0 }).copied().and_then(Kind::of);
        (!header.is_pointer_map(no) && no <= header.pages && flag == Some(Kind::TableLeaf)).then_some((no, page))
    })
}
