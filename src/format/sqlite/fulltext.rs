//! Full-text tables: their indexes hold the words of rows, so they have to follow an edit, and be rewritten after it.
//!
//! Where triggers keep an index in step with a content table, those triggers are silent during an edit; the index is kept in step here
//! instead. Deleting leaves words behind in an index's segments until they are merged, so every index that was touched is optimised.

use super::rows::{KeyPart, RowShape};
use super::schema::{FtsContent, Schema, Table, quote};
use crate::format::RecordKey;
use crate::{Error, Result};
use rusqlite::{Connection, params_from_iter};
use std::collections::BTreeSet;

/// A full-text table that has to follow the rows of a content table.
pub struct Follower {
    /// Its name.
    name: String,
    is_fts5: bool,
    /// Its text columns.
    columns: Vec<String>,
    /// The content table's column that is its row id.
    rowid: String,
    /// The table that tells which rows are indexed, if it has one, and its key.
    sizes: Option<(String, &'static str)>,
    /// Rows that were indexed before the edit and change.
    changed: Vec<RecordKey>,
}

impl Follower {
    /// All full-text tables over `table`. Fails where one of them cannot follow.
    pub fn all(schema: &Schema, table: &Table) -> Result<Vec<Follower>> {
        schema.full_text_over(&table.name).map(|fts| Follower::new(schema, table, fts)).collect()
    }

    fn new(schema: &Schema, content: &Table, fts: &Table) -> Result<Follower> {
        let refuse =
            |why: String| Error::Refused(format!("full-text table {} over table {} cannot follow the edit: {why}", fts.name, content.name));
        if let Some(why) = schema.unreadable.get(&fts.name) {
            return Err(refuse(why.clone()));
        }
        let Some(settings) = &fts.full_text else { return Err(refuse("it is none".into())) };
        let FtsContent::External { rowid, .. } = &settings.content else { return Err(refuse("its text is elsewhere".into())) };
        let columns: Vec<String> = fts.visible().map(|c| c.name.clone()).filter(|c| !c.eq_ignore_ascii_case("docid")).collect();
        if let Some(missing) = columns.iter().find(|c| content.column(c).is_none()) {
            return Err(refuse(format!("it has a column {missing} that the table lacks")));
        }
        let is_fts5 = settings.module == "fts5";
        let rowid = match content.column(rowid) {
            Some(c) => quote(&c.name),
            None => content.rowid_name()?,
        };
        let sizes = format!("{}_docsize", fts.name);
        let sizes = schema.table(&sizes).map(|t| (t.name.clone(), if is_fts5 { "id" } else { "docid" }));
        Ok(Follower { name: fts.name.clone(), is_fts5, columns, rowid, sizes, changed: Vec::new() })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Takes a row out of the index: to be called while the content table still has it as it was indexed. With `comes_back`, the row
    /// will be indexed again by [`Follower::put_back`].
    pub fn take_out(&mut self, db: &Connection, shape: &RowShape, key: &RecordKey, comes_back: bool) -> rusqlite::Result<()> {
        let Some(parts) = shape.parts(key) else { return Ok(()) };
        let id: i64 = db
            .prepare_cached(&format!("SELECT {} FROM {} WHERE {}", self.rowid, shape.from, shape.is_key(1)))?
            .query_row(params_from_iter(&parts), |r| r.get(0))?;
        if let Some((table, key)) = &self.sizes {
            let indexed: i64 = db
                .prepare_cached(&format!("SELECT count(*) FROM main.{} WHERE {key} = ?1", quote(table)))?
                .query_row([id], |r| r.get(0))?;
            if indexed == 0 {
                return Ok(());
            }
        }
        if self.is_fts5 {
            let columns: Vec<String> = self.columns.iter().map(|c| quote(c)).collect();
            let names = columns.iter().map(|c| format!(", {c}")).collect::<String>();
            let sql = format!(
                "INSERT INTO main.{fts}({fts}, rowid{names}) SELECT 'delete', {rowid}{names} FROM {from} WHERE {is}",
                fts = quote(&self.name),
                rowid = self.rowid,
                from = shape.from,
                is = shape.is_key(1)
            );
            db.prepare_cached(&sql)?.execute(params_from_iter(&parts))?;
        } else {
            // Reads the old text from the content table itself.
            db.prepare_cached(&format!("DELETE FROM main.{} WHERE docid = ?1", quote(&self.name)))?.execute([KeyPart::Integer(id)])?;
        }
        if comes_back {
            self.changed.push(key.clone());
        }
        Ok(())
    }

    /// Indexes the changed rows again, with their new text.
    pub fn put_back(&mut self, db: &Connection, shape: &RowShape) -> rusqlite::Result<()> {
        let names = self.columns.iter().map(|c| format!(", {}", quote(c))).collect::<String>();
        let id = if self.is_fts5 { "rowid" } else { "docid" };
        let sql = format!(
            "INSERT INTO main.{fts}({id}{names}) SELECT {rowid}{names} FROM {from} WHERE {is}",
            fts = quote(&self.name),
            rowid = self.rowid,
            from = shape.from,
            is = shape.is_key(1)
        );
        for key in self.changed.drain(..) {
            if let Some(parts) = shape.parts(&key) {
                db.prepare_cached(&sql)?.execute(params_from_iter(parts))?;
            }
        }
        Ok(())
    }
}

/// Whether rows of a full-text table itself may be edited.
pub fn check_editable(table: &Table) -> Result<()> {
    match table.full_text.as_ref().map(|f| &f.content) {
        Some(FtsContent::None) => Err(Error::Refused(format!(
            "full-text table {} keeps no text of its own, so what it has indexed about a person cannot be taken out; rebuild it from its source",
            table.name
        ))),
        Some(FtsContent::External { table: content, .. }) => {
            Err(Error::Refused(format!("full-text table {} follows table {content}: map that table", table.name)))
        }
        _ => Ok(()),
    }
}

/// Whether an FTS5 table deletes in place (`secure-delete`), and, with `set`, changes that. Deleting in place leaves beginnings of words
/// in the index's directory, which merging does not rewrite, so it is off while an edit deletes.
pub fn in_place_deletes(db: &Connection, table: &Table, set: Option<bool>) -> rusqlite::Result<bool> {
    if table.full_text.as_ref().is_none_or(|f| f.module != "fts5") {
        return Ok(false);
    }
    let config = quote(&format!("{}_config", table.name));
    let on: i64 = db.query_row(&format!("SELECT count(*) FROM main.{config} WHERE k = 'secure-delete' AND v <> 0"), [], |r| r.get(0))?;
    if let Some(set) = set
        && set != (on > 0)
    {
        let fts = quote(&table.name);
        db.execute(&format!("INSERT INTO main.{fts}({fts}, rank) VALUES('secure-delete', ?1)"), [set])?;
    }
    Ok(on > 0)
}

/// Rewrites the indexes of these full-text tables so that no word of a deleted row stays, and lets each check itself. Those in
/// `in_place` delete in place again afterwards.
pub fn settle(db: &Connection, schema: &Schema, touched: &BTreeSet<String>, in_place: &BTreeSet<String>) -> rusqlite::Result<()> {
    for name in touched {
        let Some(table) = schema.table(name) else { continue };
        let Some(settings) = &table.full_text else { continue };
        let fts = quote(&table.name);
        let run = |command: &str| db.execute(&format!("INSERT INTO main.{fts}({fts}) VALUES('{command}')"), []).map(|_| ());
        run("optimize")?;
        if in_place.contains(name) {
            in_place_deletes(db, table, Some(true))?;
        }
        // FTS3/4 compare with the content table, which may have been out of step before.
        if settings.module == "fts5" || settings.content == FtsContent::Own {
            run("integrity-check")?;
        }
    }
    Ok(())
}

/// Makes these indexes anew from their content.
pub fn rebuild(db: &Connection, names: &BTreeSet<String>) -> rusqlite::Result<()> {
    for fts in names.iter().map(|n| quote(n)) {
        db.execute(&format!("INSERT INTO main.{fts}({fts}) VALUES('rebuild')"), [])?;
    }
    Ok(())
}
