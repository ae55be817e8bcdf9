//! Looking at an edited database as a stranger would: on a fresh connection, after the scrub, before anything is given back.

use super::apply::{exists, reopen};
use super::conserve::{self, Changed};
use super::editor::{SqliteEditor, is_missing_extension};
use super::pages::{Btree, Kind};
use super::rows::RowShape;
use super::schema::{Schema, quote};
use super::transaction::Work;
use super::{Image, read_page};
use crate::{Error, Result};
use rusqlite::Connection;
use std::collections::{BTreeMap, BTreeSet};

/// Fails unless the database is whole and the deleted rows are gone. `changed`: every row that changed, where that is known and the database
/// had been scrubbed before the edit. Then what was written is checked against what was there before ([`conserve`]), which finds what
/// SQLite's own check of everything would; where it is not known, small databases are checked as a whole.
pub(super) fn after_edit(
    editor: &SqliteEditor<'_>,
    work: &BTreeMap<String, Work>,
    changed: Option<&Changed>,
    notes: &mut Vec<String>,
) -> Result<()> {
    let path = editor.path();
    let broken = |what: String| Error::Verification(format!("{path}: after the edit, {what}; nothing was changed"));
    parse_written(editor)?;
    let db = reopen(editor)?;
    for (name, w) in work {
        let Some(table) = editor.schema.table(name) else { continue };
        let shape = RowShape::of(table)?;
        for key in w.deletes.keys() {
            if exists(db.connection(), &shape, key).map_err(db.explain("looking for deleted rows"))? {
                return Err(broken(format!("a deleted row of table {} is still there", table.name)));
            }
        }
    }
    let conserved = match changed {
        Some(changed) => {
            let overlay = editor.overlay();
            let applies = conserve::applies(&overlay.header()?, &editor.schema, changed);
            // The connection reads through the same lock.
            drop(overlay);
            applies && conserve::run(editor, db.connection(), changed)?
        }
        None => false,
    };
    if conserved && !editor.limits.always_whole {
        notes.push("checked: every written page against what was there before, row by row and entry by entry".into());
        return Ok(());
    }
    if !editor.is_small() {
        notes.push("checked: every written page (the database is too large to be checked as a whole each time)".into());
        return Ok(());
    }
    let after = problems(db.connection(), &editor.schema).map_err(db.explain("checking the database"))?;
    if !after.is_empty() {
        // What was wrong before the edit is not its doing.
        let base = editor.as_archived()?;
        let before = problems(base.connection(), &editor.schema).map_err(base.explain("checking the database"))?;
        if let Some(new) = after.difference(&before).next() {
            return Err(broken(format!("sqlite finds it damaged: {new}")));
        }
        notes.push(format!("{} findings of sqlite's integrity check were there before the edit", after.len()));
    }
    notes.push("checked: the whole database".into());
    Ok(())
}

/// Findings of SQLite's own check. It names tables, indexes, row ids and pages, not values.
/// Where the schema needs an extension that is not here, tables are checked one by one and what needs it is left out.
fn problems(db: &Connection, schema: &Schema) -> rusqlite::Result<BTreeSet<String>> {
    let run = |what: &str| -> rusqlite::Result<BTreeSet<String>> {
        let mut statement = db.prepare(&format!("PRAGMA integrity_check({what})"))?;
        let rows = statement.query_map([], |r| r.get::<_, String>(0))?;
        let all: BTreeSet<String> = rows.collect::<rusqlite::Result<_>>()?;
        Ok(all.into_iter().filter(|t| t != "ok").collect())
    };
    match run("1000") {
        Err(error) if is_missing_extension(&error) => {}
        other => return other,
    }
    let mut out = BTreeSet::new();
    for table in schema.tables().filter(|t| t.root > 0) {
        match run(&quote(&table.name)) {
            Ok(found) => out.extend(found),
            Err(error) if is_missing_extension(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(out)
}

/// Every written page that is a b-tree page parses as one.
fn parse_written(editor: &SqliteEditor<'_>) -> Result<()> {
    let overlay = editor.overlay();
    let header = overlay.header()?;
    let (mut buf, mut tree) = (vec![0; header.page], Btree::default());
    for no in overlay.written().into_iter().filter(|no| *no <= header.pages && !header.is_pointer_map(*no)) {
        read_page(&*overlay, &header, no, &mut buf)?;
        header.check_reserved(no, &buf).map_err(|b| b.at(&overlay.path()))?;
        let flag = buf.get(if no == 1 { super::pages::HEADER } else { 0 }).copied();
        if no == 1 || flag.and_then(Kind::of).is_some() {
            tree.parse(&buf, no, &header).map_err(|b| b.at(&overlay.path()))?;
        }
    }
    Ok(())
}
