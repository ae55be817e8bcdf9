//! Applying what was decided: one transaction in the overlay, everything that hangs on the rows honoured, every changed row accounted
//! for, and the result checked on a fresh connection. Any error leaves the archive as it was, because nothing has left the overlay.

use super::connect;
use super::conserve::Changed;
use super::editor::SqliteEditor;
use super::foreign;
use super::fulltext;
use super::rows::RowShape;
use super::schema::Table;
use super::scrub::{Edit, scrub_written};
use super::transaction::{Transaction, Work, table_of};
use super::vfs::Database;
use super::{Image, check, read_page};
use crate::datamap::DataMap;
use crate::format::{Applied, Disposition, Found, NewValue, RecordKey};
use crate::{Error, Result};
use rusqlite::{Connection, params_from_iter};
use std::collections::{BTreeMap, BTreeSet};

/// See [`crate::format::EntryEditor::apply`].
pub(super) fn apply(editor: &mut SqliteEditor<'_>, map: &DataMap, order: &[usize], decided: &[(Found, Disposition)]) -> Result<Applied> {
    let path = editor.path();
    let (names, work) = gather(editor, map, order, decided)?;
    if work.values().all(|w| w.deletes.is_empty() && w.updates.is_empty()) {
        return Ok(Applied::default());
    }
    for (name, w) in &work {
        validate(&path, table_of(&editor.schema, name)?, w)?;
    }
    let mut db = editor.db.take().ok_or_else(|| Error::Refused(format!("{path}: already edited")))?;
    let schema = std::mem::take(&mut editor.schema);
    let content = editor.content.clone();
    let allowed: BTreeSet<String> = map.collections.iter().flat_map(|c| c.triggers.iter().map(|t| t.to_ascii_lowercase())).collect();
    let small = editor.is_small();
    let mut edit = Transaction {
        path: &path,
        content: &*content,
        key: editor.key,
        schema: &schema,
        allowed: &allowed,
        applied: Applied::default(),
        notes: BTreeMap::new(),
        touched_fts: BTreeSet::new(),
        in_place_fts: BTreeSet::new(),
        rebuild_fts: BTreeSet::new(),
        changed: Changed::new(),
        untold: false,
    };
    edit.run(&mut db, &names, &work)?;
    let after = |db: &Database| -> Result<()> {
        fulltext::settle(db.connection(), &schema, &edit.touched_fts, &edit.in_place_fts)
            .map_err(|e| edit.explain(db, "rewriting full-text indexes", e))?;
        fulltext::rebuild(db.connection(), &edit.rebuild_fts).map_err(|e| edit.explain(db, "rebuilding full-text indexes", e))?;
        if small {
            let failed = "checking foreign keys";
            let mut changed: BTreeSet<String> = edit.changed.keys().cloned().collect();
            if edit.untold {
                changed.extend(schema.tables().map(|t| t.name.to_ascii_lowercase()));
            }
            let after = foreign::violations(db.connection(), &schema, &changed).map_err(db.explain(failed))?;
            if after.is_empty() {
                return Ok(());
            }
            // What was wrong before the edit is not its doing.
            let base = editor.as_archived()?;
            let before = foreign::violations(base.connection(), &schema, &changed).map_err(base.explain(failed))?;
            if let Some(((table, _, _), _)) = after.iter().find(|(k, n)| before.get(k).is_none_or(|b| b < n)) {
                return Err(Error::Refused(format!(
                    "{path}: rows of table {table} would refer to rows that are gone; nothing was changed"
                )));
            }
        }
        Ok(())
    };
    after(&db)?;
    let mut applied = std::mem::take(&mut edit.applied);
    applied.notes.extend(SqliteEditor::notes(&edit.notes));
    let (changed, untold) = (std::mem::take(&mut edit.changed), edit.untold);
    let still_there = |(table, rows): (&String, &std::collections::HashMap<i64, bool>)| {
        rows.iter().filter(|(_, deleted)| !**deleted).map(|(row, _)| (table.clone(), *row)).collect::<Vec<_>>()
    };
    editor.rewritten = changed.iter().flat_map(still_there).collect();
    drop(edit);
    // The scrub works behind SQLite's cache: the connection must be gone.
    drop(db);
    editor.schema = schema;
    if editor.content.scrubbed() {
        let written = editor.overlay().written();
        let scrubbed = scrub_written(&mut *editor.overlay(), &written, &editor.free_before)?;
        applied.notes.push(format!("{} of {} written pages held deleted data and were scrubbed", scrubbed.dirty, scrubbed.pages));
    } else {
        applied.notes.push("the database was archived without a scrub: all of its pages are scrubbed now".into());
    }
    let told = (!untold && editor.content.scrubbed()).then_some(&changed);
    check::after_edit(editor, &work, told, &mut applied.notes)?;
    restore_mode(editor)?;
    editor.changed = true;
    Ok(applied)
}

/// Bytes 18 and 19 say whether the database is in write-ahead-log mode; the edit took it out of it.
fn restore_mode(editor: &SqliteEditor<'_>) -> Result<()> {
    if !editor.base.wal {
        return Ok(());
    }
    let mut overlay = editor.overlay();
    let header = overlay.header()?;
    let mut page = vec![0; header.page];
    read_page(&*overlay, &header, 1, &mut page)?;
    if let Some(mode) = page.get_mut(18..20) {
        mode.fill(2);
    }
    overlay.write_page(1, &page)
}

/// Sorts decisions by table: names in the order in which they are to be changed, and what is to be done.
fn gather(
    editor: &SqliteEditor<'_>,
    map: &DataMap,
    order: &[usize],
    decided: &[(Found, Disposition)],
) -> Result<(Vec<String>, BTreeMap<String, Work>)> {
    let mut names: Vec<String> = Vec::new();
    let mut work: BTreeMap<String, Work> = BTreeMap::new();
    let rest = decided.iter().map(|(f, _)| f.collection).filter(|c| !order.contains(c));
    for index in order.iter().copied().chain(rest) {
        if let Some(table) = map.collections.get(index).and_then(|c| editor.schema.table(&c.table)) {
            let name = table.name.to_ascii_lowercase();
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    for (found, disposition) in decided {
        let table = map.collections.get(found.collection).and_then(|c| editor.schema.table(&c.table));
        let table = table.ok_or_else(|| Error::Refused(format!("{}: a decision names a collection without a table", editor.path())))?;
        let w = work.entry(table.name.to_ascii_lowercase()).or_default();
        match disposition {
            Disposition::Keep => {
                w.kept.insert(found.key.clone());
            }
            Disposition::Delete => {
                w.deletes.entry(found.key.clone()).or_default().insert(found.collection);
            }
            Disposition::Rewrite(fields) => {
                for (field, values) in fields {
                    let Some(Some(value)) = values.first() else { continue };
                    let column = table
                        .column(field)
                        .ok_or_else(|| Error::Refused(format!("{}: table {} has no column {field}", editor.path(), table.name)))?;
                    let update = w.updates.entry(found.key.clone()).or_default();
                    update.0.insert(found.collection);
                    update.1.entry(column.name.clone()).or_insert_with(|| value.clone());
                }
            }
        }
    }
    for w in work.values_mut() {
        // The same row through two collections: deleting goes before rewriting, and either before keeping... except that a row
        // that one of them must keep is not deleted.
        let Work { deletes, updates, kept } = w;
        if deletes.keys().any(|k| kept.contains(k)) {
            return Err(Error::Refused(format!("{}: two collections decide differently about the same row", editor.path())));
        }
        updates.retain(|k, _| !deletes.contains_key(k));
    }
    Ok((names, work))
}

/// What can be said about new values before anything is changed.
fn validate(path: &str, table: &Table, work: &Work) -> Result<()> {
    let refuse = |what: String| Err(Error::Refused(format!("{path}: {what}; nothing was changed")));
    if !work.deletes.is_empty() || !work.updates.is_empty() {
        fulltext::check_editable(table)?;
    }
    let alias = table.rowid_alias().map(|c| &c.name);
    let mut seen = BTreeSet::new();
    for (column, value) in work.updates.values().flat_map(|(_, values)| values) {
        if !seen.insert((column, *value == NewValue::Null)) {
            continue;
        }
        let Some(c) = table.column(column) else { continue };
        if c.generated.is_some() {
            return refuse(format!("column {column} of table {} is computed from others: map those", table.name));
        }
        if alias == Some(column) {
            return refuse(format!("column {column} of table {} is its row id, which cannot be rewritten", table.name));
        }
        if c.not_null && *value == NewValue::Null {
            return refuse(format!("column {column} of table {} must not be null: choose another strategy", table.name));
        }
    }
    Ok(())
}

/// Whether a row exists.
pub(super) fn exists(db: &Connection, shape: &RowShape, key: &RecordKey) -> rusqlite::Result<bool> {
    let Some(parts) = shape.parts(key) else { return Ok(false) };
    let n: i64 = db
        .prepare_cached(&format!("SELECT count(*) FROM {} WHERE {}", shape.from, shape.is_key(1)))?
        .query_row(params_from_iter(parts), |r| r.get(0))?;
    Ok(n > 0)
}

/// Opens the overlay once more, as anybody who restores the database would.
pub(super) fn reopen(editor: &SqliteEditor<'_>) -> Result<Database> {
    connect::for_reading(&editor.overlay, &editor.limits)
}
