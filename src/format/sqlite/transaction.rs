//! The transaction of an edit: new values, deletions, foreign keys, full-text indexes, triggers, samples; and the accounting that every
//! row which changed was meant to.

use super::conserve::Changed;
use super::editor::is_missing_extension;
use super::foreign::{self, NewReference, Reference, Unlink};
use super::fulltext::{self, Follower};
use super::marks;
use super::rows::{KeyPart, RowShape};
use super::schema::{Affinity, FkAction, ForeignKey, Schema, Table, TableKind, quote};
use super::vfs::Database;
use crate::datamap::{Normalize, TokenKey, TokenSet, Tokens, Value};
use crate::format::{Applied, EntryContent, NewValue, RecordKey};
use crate::{Error, Result};
use rusqlite::config::DbConfig;
use rusqlite::hooks::Action;
use rusqlite::params_from_iter;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// New values by column, and the collections that asked for them (the same row may be found through several).
type Update = (BTreeSet<usize>, BTreeMap<String, NewValue>);

/// What was decided about the rows of one table.
#[derive(Default)]
pub(super) struct Work {
    pub deletes: BTreeMap<RecordKey, BTreeSet<usize>>,
    pub updates: BTreeMap<RecordKey, Update>,
    pub kept: BTreeSet<RecordKey>,
}

/// Rows that SQLite reported as changed, by table (lower case).
type Log = Arc<Mutex<Changed>>;

/// A table that must be there.
pub(super) fn table_of<'s>(schema: &'s Schema, name: &str) -> Result<&'s Table> {
    schema.table(name).ok_or_else(|| Error::Refused(format!("there is no table {name}")))
}

/// An edit in progress.
pub(super) struct Transaction<'a> {
    pub(super) path: &'a str,
    pub(super) content: &'a dyn EntryContent,
    pub(super) key: &'a TokenKey,
    pub(super) schema: &'a Schema,
    pub(super) allowed: &'a BTreeSet<String>,
    pub(super) applied: Applied,
    pub(super) notes: BTreeMap<String, u64>,
    pub(super) touched_fts: BTreeSet<String>,
    pub(super) in_place_fts: BTreeSet<String>,
    pub(super) rebuild_fts: BTreeSet<String>,
    /// Every row that changed.
    pub(super) changed: Changed,
    /// Whether rows changed that the log does not tell of: samples of keys, triggers' own, rows without ids.
    pub(super) untold: bool,
}

impl<'a> Transaction<'a> {
    fn refuse<T>(&self, what: impl std::fmt::Display) -> Result<T> {
        Err(Error::Refused(format!("{}: {what}; nothing was changed", self.path)))
    }

    /// An error of SQLite's as one that says what to do. Its messages name tables and columns, never values.
    pub(super) fn explain(&self, db: &Database, doing: &str, error: rusqlite::Error) -> Error {
        if let Some(kept) = db.reason(&error) {
            return kept;
        }
        let constraint = matches!(&error, rusqlite::Error::SqliteFailure(e, _) if e.code == rusqlite::ErrorCode::ConstraintViolation || e.code == rusqlite::ErrorCode::TypeMismatch);
        match constraint {
            true => Error::Refused(format!("{}: {doing}: {error}: choose another strategy; nothing was changed", self.path)),
            false if is_missing_extension(&error) => Error::format(
                self.path,
                format!("{doing}: the schema needs something that only its application has: {error}; nothing was changed"),
            ),
            false => Error::Sqlite { context: format!("{}: {doing}", self.path), source: error },
        }
    }

    /// Changes the rows, with everything that follows from it, and commits.
    pub(super) fn run(&mut self, db: &mut Database, names: &[String], work: &BTreeMap<String, Work>) -> Result<()> {
        let log: Log = Arc::default();
        let writer = log.clone();
        db.connection_mut()
            .update_hook(Some(move |action: Action, database: &str, table: &str, row: i64| {
                if database == "main" {
                    let mut log = writer.lock().unwrap_or_else(PoisonError::into_inner);
                    let deleted = action == Action::SQLITE_DELETE;
                    *log.entry(table.to_ascii_lowercase()).or_default().entry(row).or_default() |= deleted;
                }
            }))
            .map_err(Error::sqlite("watching the edit"))?;
        let triggers = self.begin(db, names)?;
        let mut expected: Changed = HashMap::new();
        self.rewrite(db, names, work, &mut expected)?;
        self.delete(db, names, work, &mut expected)?;
        self.statistics(db, &expected)?;
        self.account(&log, &expected, !triggers.is_empty() || self.uses_triggers(names))?;
        self.end(db, &triggers)?;
        self.changed = std::mem::take(&mut *log.lock().unwrap_or_else(PoisonError::into_inner));
        // Of tables without row ids nothing is logged; they are among those expected.
        for table in expected.into_keys() {
            self.changed.entry(table).or_default();
        }
        self.untold |= !triggers.is_empty() || self.uses_triggers(names) || !self.touched_fts.is_empty() || !self.rebuild_fts.is_empty();
        db.connection_mut().update_hook(None::<fn(Action, &str, &str, i64)>).map_err(Error::sqlite("watching the edit"))
    }

    /// The full-text tables that have to follow a table's rows. They, and the table itself if it is one, stop deleting in place for
    /// the length of the edit, and will be settled after it.
    fn followers(&mut self, db: &Database, table: &Table) -> Result<Vec<Follower>> {
        let followers = Follower::all(self.schema, table)?;
        let own = table.full_text.is_some().then(|| table.name.clone());
        for name in followers.iter().map(|f| f.name().to_string()).chain(own) {
            let fts = table_of(self.schema, &name)?;
            let on = fulltext::in_place_deletes(db.connection(), fts, Some(false));
            if on.map_err(|e| self.explain(db, &format!("preparing full-text table {name}"), e))? {
                self.in_place_fts.insert(name.to_ascii_lowercase());
            }
            self.touched_fts.insert(name.to_ascii_lowercase());
        }
        // Which rows of a view changed is not known, so an index over one is made anew.
        for fts in self.schema.full_text_over_views_of(&table.name) {
            if let Some(why) = self.schema.unreadable.get(&fts.name) {
                return self
                    .refuse(format!("full-text table {} over a view of table {} cannot follow the edit: {why}", fts.name, table.name));
            }
            self.rebuild_fts.insert(fts.name.to_ascii_lowercase());
        }
        Ok(followers)
    }

    fn uses_triggers(&self, names: &[String]) -> bool {
        names.iter().any(|n| self.schema.triggers_on(n).any(|t| self.allowed.contains(&t.name.to_ascii_lowercase())))
    }

    /// Begins the transaction. Where the map allows a trigger, all others are taken out of the schema for its length; they are returned.
    fn begin(&mut self, db: &Database, names: &[String]) -> Result<Vec<StoredTrigger>> {
        let c = db.connection();
        c.execute_batch("BEGIN IMMEDIATE").map_err(|e| self.explain(db, "beginning the edit", e))?;
        if !self.uses_triggers(names) {
            return Ok(Vec::new());
        }
        let take = || -> rusqlite::Result<Vec<StoredTrigger>> {
            c.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true)?;
            let mut list = c.prepare("SELECT rowid, name, tbl_name, rootpage, sql FROM main.sqlite_schema WHERE type = 'trigger'")?;
            let all = list
                .query_map([], |r| Ok(StoredTrigger(r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?)))?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            drop(list);
            let others: Vec<StoredTrigger> = all.into_iter().filter(|t| !self.allowed.contains(&t.1.to_ascii_lowercase())).collect();
            for t in &others {
                c.execute_batch(&format!("DROP TRIGGER main.{}", quote(&t.1)))?;
            }
            Ok(others)
        };
        take().map_err(|e| self.explain(db, "silencing triggers", e))
    }

    /// Puts the triggers back as they were and commits.
    fn end(&mut self, db: &Database, triggers: &[StoredTrigger]) -> Result<()> {
        let c = db.connection();
        let finish = || -> rusqlite::Result<()> {
            if !triggers.is_empty() {
                c.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, false)?;
                c.pragma_update(None, "writable_schema", true)?;
                let mut put = c.prepare(
                    "INSERT INTO main.sqlite_schema(rowid, type, name, tbl_name, rootpage, sql) VALUES(?1, 'trigger', ?2, ?3, ?4, ?5)",
                )?;
                for t in triggers {
                    put.execute((t.0, &t.1, &t.2, t.3, &t.4))?;
                }
                drop(put);
                c.pragma_update(None, "writable_schema", false)?;
            }
            c.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
            c.execute_batch("COMMIT")
        };
        finish().map_err(|e| self.explain(db, "finishing the edit", e))
    }

    fn shape(&self, name: &str) -> Result<(&'a Table, RowShape)> {
        let table: &'a Table = table_of(self.schema, name)?;
        Ok((table, RowShape::of(table)?))
    }

    fn note(&mut self, what: String, n: u64) {
        if n > 0 {
            *self.notes.entry(what).or_default() += n;
        }
    }

    fn note_triggers(&mut self, name: &str) {
        for trigger in self.schema.triggers_on(name).filter(|t| !self.allowed.contains(&t.name.to_ascii_lowercase())) {
            let others: Vec<&str> = self.schema.named_by(trigger).map(|t| t.name.as_str()).collect();
            let others = if others.is_empty() { String::new() } else { format!("; it names {}", others.join(", ")) };
            self.notes.insert(format!("trigger on table {name} stayed silent: {}{others}", trigger.name), 1);
        }
    }

    /// New values, table by table, children first.
    fn rewrite(&mut self, db: &Database, names: &[String], work: &BTreeMap<String, Work>, expected: &mut Changed) -> Result<()> {
        for name in names {
            let Some(w) = work.get(name).filter(|w| !w.updates.is_empty()) else { continue };
            let (table, shape) = self.shape(name)?;
            let dependents = self.dependents(db, table, w)?;
            let mut followers = self.followers(db, table)?;
            let doing = format!("rewriting rows of table {}", table.name);
            let run = |followers: &mut Vec<Follower>| -> rusqlite::Result<(BTreeMap<usize, u64>, usize)> {
                let c = db.connection();
                for key in w.updates.keys() {
                    for f in followers.iter_mut() {
                        f.take_out(c, &shape, key, true)?;
                    }
                }
                let (mut counts, mut changed) = (BTreeMap::new(), 0);
                for (key, (collections, values)) in &w.updates {
                    let Some(parts) = shape.parts(key) else { continue };
                    let sets: Vec<String> =
                        values.keys().enumerate().map(|(i, column)| format!("{} = ?{}", quote(column), i + 1)).collect();
                    let sql = format!("UPDATE OR ABORT {} SET {} WHERE {}", shape.from, sets.join(", "), shape.is_key(values.len() + 1));
                    let bound = values.values().map(|v| match v {
                        NewValue::Null => KeyPart::Null,
                        NewValue::Text(t) => KeyPart::Text(t.clone().into_bytes()),
                    });
                    let n = c.prepare_cached(&sql)?.execute(params_from_iter(bound.chain(parts)))?;
                    changed += n;
                    for collection in collections {
                        *counts.entry(*collection).or_default() += n as u64;
                    }
                }
                for f in followers.iter_mut() {
                    f.put_back(c, &shape)?;
                }
                Ok((counts, changed))
            };
            let (counts, changed) = run(&mut followers).map_err(|e| self.explain(db, &doing, e))?;
            if changed != w.updates.len() {
                return self.refuse(format!("rows of table {} that were decided about are not there", table.name));
            }
            self.let_follow(db, table, &dependents, expected)?;
            self.expect(expected, table, w.updates.keys(), false);
            for (collection, n) in counts {
                *self.applied.rewritten.entry(collection).or_default() += n;
            }
            self.note_triggers(name);
        }
        Ok(())
    }

    /// Rows that may refer to these parents, by the identity blocks; see [`foreign::Narrow`]. Tokens compare canonical texts, so both
    /// columns must compare as texts or both as numbers, and the parent's without a collation of its own.
    fn narrow(&self, db: &Database, reference: &Reference<'_>, parents: &[RecordKey]) -> Result<Option<BTreeSet<i64>>> {
        let Reference { child, key, parent } = reference;
        let alike = |(from, to): &(String, String)| {
            let kinds = (child.column(from).map(|c| c.affinity()), parent.column(to).map(|c| c.affinity()));
            let fits = match kinds {
                (Some(Affinity::Text), Some(Affinity::Text)) => true,
                (Some(a), Some(b)) => [a, b].iter().all(|k| matches!(k, Affinity::Integer | Affinity::Numeric)),
                _ => false,
            };
            fits && !parent.collations.contains_key(&to.to_ascii_lowercase())
        };
        let columns: Vec<&str> = key.columns.iter().map(|(from, _)| from.as_str()).collect();
        let probe = marks::covering(self.content.covers(), child, &columns);
        let Some(probe) = probe.filter(|_| key.columns.iter().all(alike)) else { return Ok(None) };
        let shape = RowShape::of(parent)?;
        let mut wanted = TokenSet::new(self.key);
        for row in parents {
            let values = shape.load(db.connection(), row).map_err(|e| self.explain(db, "following foreign keys", e))?;
            let Some(values) = values else { continue };
            let of = |to: &str| shape.columns.iter().position(|c| c.eq_ignore_ascii_case(to)).and_then(|i| values.get(i)).cloned();
            let values: Vec<Vec<Value<'static>>> = key.columns.iter().map(|(_, to)| of(to).into_iter().collect()).collect();
            let norms = vec![Normalize::default(); values.len()];
            // Nothing is found by an empty text, but it may be referred to.
            if values.iter().flatten().any(|v| !matches!(v, Value::Null) && v.canonical().is_none()) {
                return Ok(None);
            }
            for token in self.key.of_fields(&values, &norms) {
                wanted.insert_token(token);
            }
        }
        let mut rows = BTreeSet::new();
        for piece in self.content.candidates(probe, &wanted)? {
            let Some(marks) = self.content.marks(piece)? else { return Ok(None) };
            rows.extend(marks.of_probe(probe).filter(|r| wanted.contains_short(r.short())).map(|r| r.record));
        }
        Ok(Some(rows))
    }

    /// Rows that refer to keys which are about to be rewritten, with what `ON UPDATE` says about them.
    fn dependents(&self, db: &Database, table: &'a Table, w: &Work) -> Result<Vec<Dependent<'a>>> {
        let mut out = Vec::new();
        for (child, key) in self.schema.children(&table.name) {
            if !matches!(child.kind, TableKind::Rowid | TableKind::WithoutRowid)
                || key.columns.iter().any(|(_, to)| table.column(to).is_none())
            {
                continue;
            }
            let touches = |v: &BTreeMap<String, NewValue>| key.columns.iter().any(|(_, to)| v.keys().any(|c| c.eq_ignore_ascii_case(to)));
            let rewritten: Vec<RecordKey> = w.updates.iter().filter(|(_, (_, v))| touches(v)).map(|(k, _)| k.clone()).collect();
            if rewritten.is_empty() {
                continue;
            }
            let narrow = |r: &Reference<'_>, keys: &[RecordKey]| self.narrow(db, r, keys);
            let find = |keys: &[RecordKey]| -> Result<Vec<RecordKey>> {
                let found = foreign::children(db.connection(), &Reference { child, key, parent: table }, keys, &narrow)?;
                found.map_err(|e| self.explain(db, "following foreign keys", e))
            };
            let all = find(&rewritten)?;
            if all.is_empty() {
                continue;
            }
            let deeper = self
                .schema
                .children(&child.name)
                .any(|(_, k)| k.columns.iter().any(|(_, to)| key.columns.iter().any(|(f, _)| f.eq_ignore_ascii_case(to))));
            // A row named by its key cannot be found again once that key is another.
            let renamed =
                table.kind == TableKind::WithoutRowid && key.columns.iter().any(|(_, to)| table.column(to).is_some_and(|c| c.key > 0));
            if key.on_update == FkAction::Forbid || deeper || renamed {
                return self.refuse(format!(
                    "{} rows of table {} refer to a key of table {} that would be rewritten",
                    all.len(),
                    child.name,
                    table.name
                ));
            }
            for parent in rewritten {
                let rows = find(std::slice::from_ref(&parent))?;
                out.extend(rows.into_iter().map(|row| Dependent { child, row, key, parent: parent.clone() }));
            }
        }
        Ok(out)
    }

    /// Lets them follow the rewritten keys.
    fn let_follow(&mut self, db: &Database, table: &Table, dependents: &[Dependent<'_>], expected: &mut Changed) -> Result<()> {
        for d in dependents {
            let doing = format!("following rewritten keys of table {}", table.name);
            let mut values = Vec::new();
            for (from, to) in &d.key.columns {
                let value = match d.key.on_update {
                    FkAction::SetNull => NewReference::Unlink(Unlink::Null),
                    FkAction::SetDefault => NewReference::Unlink(Unlink::Default),
                    _ => {
                        let value = foreign::value_of(db.connection(), table, &d.parent, to)?.map_err(|e| self.explain(db, &doing, e))?;
                        NewReference::To(value.unwrap_or(KeyPart::Null))
                    }
                };
                values.push((from.clone(), value));
            }
            foreign::set_references(db.connection(), d.child, &d.row, &values)?.map_err(|e| self.explain(db, &doing, e))?;
            self.expect(expected, d.child, std::iter::once(&d.row), false);
            self.note(format!("references of table {} followed their rewritten keys (ON UPDATE)", d.child.name), 1);
        }
        Ok(())
    }

    /// Deletions, with everything that foreign keys hang on them.
    fn delete(&mut self, db: &Database, names: &[String], work: &BTreeMap<String, Work>, expected: &mut Changed) -> Result<()> {
        let gone: BTreeMap<String, BTreeSet<RecordKey>> =
            work.iter().map(|(t, w)| (t.clone(), w.deletes.keys().cloned().collect())).collect();
        if gone.values().all(BTreeSet::is_empty) {
            return Ok(());
        }
        let kept: BTreeMap<String, BTreeSet<RecordKey>> = work.iter().map(|(t, w)| (t.clone(), w.kept.clone())).collect();
        let consequences = foreign::follow(db.connection(), self.schema, &gone, &kept, &|r, keys| self.narrow(db, r, keys))?
            .map_err(|e| self.explain(db, "following foreign keys", e))?;
        if let Some(first) = consequences.forbidden.first() {
            let more = consequences.forbidden.len() - 1;
            return self.refuse(if more > 0 { format!("{first} (and {more} more such references)") } else { first.clone() });
        }
        for note in &consequences.notes {
            self.notes.insert(note.clone(), 1);
        }
        for (name, rows) in &consequences.unlinked {
            self.unlink(db, name, rows, expected)?;
        }
        let cascaded = consequences.cascaded.iter().map(|(name, keys)| (name, keys.iter().map(|k| (k, None)).collect::<Vec<_>>()));
        let decided = names.iter().filter_map(|n| Some((n, work.get(n)?.deletes.iter().map(|(k, c)| (k, Some(c))).collect::<Vec<_>>())));
        for (name, keys) in cascaded.chain(decided).filter(|(_, keys)| !keys.is_empty()) {
            let (table, shape) = self.shape(name)?;
            let mut followers = self.followers(db, table)?;
            let sql = format!("DELETE FROM {} WHERE {}", shape.from, shape.is_key(1));
            let doing = format!("deleting rows of table {}", table.name);
            let run = |followers: &mut Vec<Follower>| -> rusqlite::Result<u64> {
                let c = db.connection();
                let mut n = 0;
                for (key, _) in &keys {
                    for f in followers.iter_mut() {
                        f.take_out(c, &shape, key, false)?;
                    }
                    if let Some(parts) = shape.parts(key) {
                        n += c.prepare_cached(&sql)?.execute(params_from_iter(parts))? as u64;
                    }
                }
                Ok(n)
            };
            let n = run(&mut followers).map_err(|e| self.explain(db, &doing, e))?;
            if n != keys.len() as u64 && !self.uses_triggers(names) {
                return self.refuse(format!("rows of table {} that were decided about are not there", table.name));
            }
            self.expect(expected, table, keys.iter().map(|(k, _)| *k), true);
            for (_, collections) in &keys {
                match collections {
                    Some(all) => all.iter().for_each(|c| *self.applied.deleted.entry(*c).or_default() += 1),
                    None => self.note(format!("rows of table {name} went with the rows that they belong to (ON DELETE CASCADE)"), 1),
                }
            }
            self.note_triggers(name);
        }
        Ok(())
    }

    fn unlink(
        &mut self,
        db: &Database,
        name: &str,
        rows: &BTreeMap<RecordKey, BTreeMap<String, Unlink>>,
        expected: &mut Changed,
    ) -> Result<()> {
        let (table, shape) = self.shape(name)?;
        let mut followers = self.followers(db, table)?;
        let doing = format!("cutting references of table {}", table.name);
        for (key, columns) in rows {
            for f in &mut followers {
                f.take_out(db.connection(), &shape, key, true).map_err(|e| self.explain(db, &doing, e))?;
            }
            let values: Vec<(String, NewReference)> = columns.iter().map(|(c, u)| (c.clone(), NewReference::Unlink(*u))).collect();
            foreign::set_references(db.connection(), table, key, &values)?.map_err(|e| self.explain(db, &doing, e))?;
        }
        for f in &mut followers {
            f.put_back(db.connection(), &shape).map_err(|e| self.explain(db, &doing, e))?;
        }
        self.expect(expected, table, rows.keys(), false);
        self.note(format!("references of table {name} were cut (ON DELETE SET NULL or SET DEFAULT)"), rows.len() as u64);
        self.note_triggers(name);
        Ok(())
    }

    fn expect<'k>(&self, expected: &mut Changed, table: &Table, keys: impl Iterator<Item = &'k RecordKey>, deleted: bool) {
        let rows = expected.entry(table.name.to_ascii_lowercase()).or_default();
        for key in keys {
            if let RecordKey::Row(id) = key {
                *rows.entry(*id).or_default() |= deleted;
            }
        }
    }

    /// Samples of index keys that `ANALYZE` took are copies of values.
    fn statistics(&mut self, db: &Database, expected: &Changed) -> Result<()> {
        let c = db.connection();
        let run = || -> rusqlite::Result<u64> {
            let mut n = 0;
            for stat in ["sqlite_stat3", "sqlite_stat4"] {
                let exists: i64 = c.query_row("SELECT count(*) FROM main.sqlite_schema WHERE name = ?1", [stat], |r| r.get(0))?;
                if exists > 0 {
                    for table in expected.keys() {
                        n += c.execute(&format!("DELETE FROM main.{stat} WHERE tbl = ?1 COLLATE NOCASE"), [table])? as u64;
                    }
                }
            }
            Ok(n)
        };
        let n = run().map_err(|e| self.explain(db, "deleting samples of index keys", e))?;
        self.untold |= n > 0;
        self.note("samples of index keys deleted (ANALYZE makes new ones)".into(), n);
        Ok(())
    }

    /// Compares what SQLite says it changed with what was meant to change.
    fn account(&mut self, log: &Log, expected: &Changed, triggers: bool) -> Result<()> {
        let log = log.lock().unwrap_or_else(PoisonError::into_inner);
        let empty = HashMap::new();
        for (name, rows) in log.iter() {
            if name.starts_with("sqlite_") || self.is_shadow_of_touched(name) {
                continue;
            }
            let meant = expected.get(name).unwrap_or(&empty);
            let extra = rows.iter().filter(|(row, deleted)| meant.get(row) != Some(deleted)).count();
            if extra > 0 && !triggers {
                return self.refuse(format!("{extra} rows of table {name} changed that nothing had decided about"));
            }
            if extra > 0 {
                *self.notes.entry(format!("more rows of table {name} were changed by triggers that the data map allows")).or_default() +=
                    extra as u64;
            }
        }
        for (name, rows) in expected {
            let table = table_of(self.schema, name)?;
            let seen = log.get(name).unwrap_or(&empty);
            if table.kind == TableKind::Rowid && rows.keys().any(|r| !seen.contains_key(r)) {
                return self.refuse(format!("rows of table {name} that were decided about did not change"));
            }
        }
        Ok(())
    }

    fn is_shadow_of_touched(&self, name: &str) -> bool {
        self.touched_fts.iter().chain(&self.rebuild_fts).any(|f| name.strip_prefix(f.as_str()).is_some_and(|rest| rest.starts_with('_')))
            && self.schema.table(name).is_none_or(|t| t.kind == TableKind::Shadow)
    }
}

/// A row that refers to a key which is rewritten.
struct Dependent<'s> {
    child: &'s Table,
    row: RecordKey,
    key: &'s ForeignKey,
    parent: RecordKey,
}

/// Row id, name, table, root page and text of a trigger in the schema.
struct StoredTrigger(i64, String, String, i64, String);
