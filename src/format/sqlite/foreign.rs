//! Foreign keys, honoured by hand. SQLite could do it itself, but it cannot say afterwards what it did, names no table when it refuses,
//! stops at schemas whose keys do not fit together (which many applications never notice, because enforcement is off by default),
//! and would delete a row that is under retention without a word.

use super::rows::{KeyPart, RowShape};
use super::schema::{FkAction, ForeignKey, Schema, Table, TableKind, quote};
use crate::format::RecordKey;
use rusqlite::{Connection, params_from_iter};
use std::collections::{BTreeMap, BTreeSet};

/// What a reference becomes that leads nowhere any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unlink {
    /// NULL.
    Null,
    /// The column's default.
    Default,
}

/// Everything that follows from deleting some rows.
#[derive(Debug, Default)]
pub struct Consequences {
    /// Rows that go with their parents, by table (lower case).
    pub cascaded: BTreeMap<String, BTreeSet<RecordKey>>,
    /// References that are cut, by table (lower case): columns and what they become.
    pub unlinked: BTreeMap<String, BTreeMap<RecordKey, BTreeMap<String, Unlink>>>,
    /// What forbids it, without values.
    pub forbidden: BTreeSet<String>,
    /// What was left aside, without values.
    pub notes: BTreeSet<String>,
}

/// Whether a foreign key's parent columns exist.
fn fits(parent: &Table, key: &ForeignKey) -> bool {
    !key.columns.is_empty() && key.columns.iter().all(|(_, to)| parent.column(to).is_some())
}

/// Tells, without reading the child table, which of its rows may refer to the parents; `None` where only a search can tell.
pub type Narrow<'n> = dyn Fn(&Reference<'_>, &[RecordKey]) -> crate::Result<Option<BTreeSet<i64>>> + 'n;

/// A foreign key with both of its tables.
pub struct Reference<'s> {
    /// The table that refers.
    pub child: &'s Table,
    /// How.
    pub key: &'s ForeignKey,
    /// The table that is referred to.
    pub parent: &'s Table,
}

/// Rows of the child that refer to the parent rows with these keys.
pub fn children(
    db: &Connection,
    reference: &Reference<'_>,
    parents: &[RecordKey],
    narrow: &Narrow<'_>,
) -> crate::Result<rusqlite::Result<Vec<RecordKey>>> {
    let Reference { child, key, parent } = reference;
    let (shape, of_parent) = (RowShape::of(child)?, RowShape::of(parent)?);
    let columns: Vec<String> = key.columns.iter().map(|(from, _)| from.clone()).collect();
    // Without an index on the reference, all of the table would have to be read: the identity blocks may save that.
    let only = match child.is_indexed(&columns) || !shape.by_rowid {
        true => None,
        false => narrow(reference, parents)?,
    };
    if only.as_ref().is_some_and(BTreeSet::is_empty) {
        return Ok(Ok(Vec::new()));
    }
    Ok(query_children(db, (&shape, key), (parent, &of_parent), parents, only))
}

fn query_children(
    db: &Connection,
    (shape, key): (&RowShape, &ForeignKey),
    (parent, of_parent): (&Table, &RowShape),
    parents: &[RecordKey],
    only: Option<BTreeSet<i64>>,
) -> rusqlite::Result<Vec<RecordKey>> {
    let names: Vec<String> = (0..of_parent.keys.len()).map(|i| format!("k{i}")).collect();
    db.execute_batch(&format!(
        "DROP TABLE IF EXISTS temp.reseal_parents; CREATE TEMP TABLE reseal_parents({});
         DROP TABLE IF EXISTS temp.reseal_only; CREATE TEMP TABLE reseal_only(id INTEGER PRIMARY KEY)",
        names.join(", ")
    ))?;
    {
        let places = vec!["?"; names.len()].join(", ");
        let mut insert = db.prepare(&format!("INSERT INTO temp.reseal_parents VALUES({places})"))?;
        for parts in parents.iter().filter_map(|k| of_parent.parts(k)) {
            insert.execute(params_from_iter(parts))?;
        }
        let mut insert = db.prepare("INSERT INTO temp.reseal_only VALUES(?1)")?;
        for id in only.iter().flatten() {
            insert.execute([id])?;
        }
    }
    // Compared as the parent's key compares (its collation; affinities follow from the columns).
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for (from, to) in &key.columns {
        let collation = parent.collations.get(&to.to_ascii_lowercase()).map(|c| format!(" COLLATE {}", quote(c))).unwrap_or_default();
        left.push(format!("c.{}{collation}", quote(from)));
        right.push(format!("p.{}", quote(to)));
    }
    let on: Vec<String> = of_parent.keys.iter().zip(&names).map(|(k, n)| format!("p.{k} = g.{n}")).collect();
    let keys: Vec<String> = shape.keys.iter().map(|k| format!("c.{k}")).collect();
    let tuple = |v: &[String]| if v.len() == 1 { v.join("") } else { format!("({})", v.join(", ")) };
    let mut sql = format!(
        "SELECT {} FROM {} AS c WHERE {} IN (SELECT {} FROM temp.reseal_parents AS g CROSS JOIN {} AS p WHERE {})",
        keys.join(", "),
        shape.from,
        tuple(&left),
        right.join(", "),
        of_parent.from,
        on.join(" AND ")
    );
    if only.is_some() {
        sql += &format!(" AND {} IN (SELECT id FROM temp.reseal_only)", keys.join(""));
    }
    let mut statement = db.prepare(&sql)?;
    let mut rows = statement.query([])?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        out.push(shape.key(row)?);
    }
    Ok(out)
}

/// Follows `ON DELETE` from the rows in `gone` (by table, lower case) to everything that hangs on them. `kept` rows must stay.
pub fn follow(
    db: &Connection,
    schema: &Schema,
    gone: &BTreeMap<String, BTreeSet<RecordKey>>,
    kept: &BTreeMap<String, BTreeSet<RecordKey>>,
    narrow: &Narrow<'_>,
) -> crate::Result<rusqlite::Result<Consequences>> {
    let mut out = Consequences::default();
    let mut all = gone.clone();
    let mut todo: Vec<(String, BTreeSet<RecordKey>)> = gone.iter().map(|(t, k)| (t.clone(), k.clone())).collect();
    let mut blocked: Vec<(String, String, Vec<RecordKey>)> = Vec::new();
    let mut unlink: Vec<(String, RecordKey, ForeignKey)> = Vec::new();
    while let Some((name, keys)) = todo.pop() {
        let Some(parent) = schema.table(&name).filter(|_| !keys.is_empty()) else { continue };
        let keys: Vec<RecordKey> = keys.into_iter().collect();
        for (child, key) in schema.children(&parent.name) {
            if !matches!(child.kind, TableKind::Rowid | TableKind::WithoutRowid) || !fits(parent, key) {
                out.notes.insert(format!("a foreign key of table {} does not fit table {} and was not followed", child.name, parent.name));
                continue;
            }
            let found = match children(db, &Reference { child, key, parent }, &keys, narrow)? {
                Ok(found) => found,
                Err(error) => return Ok(Err(error)),
            };
            let child_name = child.name.to_ascii_lowercase();
            let known = all.entry(child_name.clone()).or_default();
            let left: Vec<RecordKey> = found.into_iter().filter(|k| !known.contains(k)).collect();
            if left.is_empty() {
                continue;
            }
            match key.on_delete {
                FkAction::Forbid => blocked.push((child_name, parent.name.clone(), left)),
                FkAction::Cascade => {
                    let held = kept.get(&child_name);
                    if left.iter().any(|k| held.is_some_and(|h| h.contains(k))) {
                        out.forbidden.insert(format!(
                            "rows of table {} that must be kept would go with rows of table {} (ON DELETE CASCADE)",
                            child.name, parent.name
                        ));
                    }
                    known.extend(left.iter().cloned());
                    out.cascaded.entry(child_name.clone()).or_default().extend(left.iter().cloned());
                    todo.push((child_name, left.into_iter().collect()));
                }
                FkAction::SetNull | FkAction::SetDefault => unlink.extend(left.into_iter().map(|k| (child_name.clone(), k, key.clone()))),
            }
        }
    }
    let is_gone = |table: &str, key: &RecordKey| all.get(table).is_some_and(|k| k.contains(key));
    for (child, parent, keys) in blocked {
        let left = keys.iter().filter(|k| !is_gone(&child, k)).count();
        if left > 0 {
            out.forbidden.insert(format!("{left} rows of table {child} still refer to rows of table {parent} that would be deleted"));
        }
    }
    for (table, row, key) in unlink {
        if is_gone(&table, &row) {
            continue;
        }
        let becomes = if key.on_delete == FkAction::SetNull { Unlink::Null } else { Unlink::Default };
        let columns = out.unlinked.entry(table).or_default().entry(row).or_default();
        columns.extend(key.columns.iter().map(|(from, _)| (from.clone(), becomes)));
    }
    Ok(Ok(out))
}

/// Cuts or redirects the references of one row. Returns the rows changed (0 or 1).
pub fn set_references(
    db: &Connection,
    table: &Table,
    key: &RecordKey,
    values: &[(String, NewReference)],
) -> crate::Result<rusqlite::Result<usize>> {
    let shape = RowShape::of(table)?;
    let Some(parts) = shape.parts(key) else { return Ok(Ok(0)) };
    let mut sets = Vec::new();
    let mut bound: Vec<KeyPart> = Vec::new();
    for (column, value) in values {
        let value = match value {
            NewReference::Unlink(Unlink::Null) => "NULL".to_string(),
            NewReference::Unlink(Unlink::Default) => match table.column(column).and_then(|c| c.default.as_ref()) {
                Some(sql) => format!("({sql})"),
                None => "NULL".to_string(),
            },
            NewReference::To(part) => {
                bound.push(part.clone());
                format!("?{}", bound.len())
            }
        };
        sets.push(format!("{} = {value}", quote(column)));
    }
    let sql = format!("UPDATE OR ABORT {} SET {} WHERE {}", shape.from, sets.join(", "), shape.is_key(bound.len() + 1));
    bound.extend(parts);
    Ok(db.prepare_cached(&sql).and_then(|mut s| s.execute(params_from_iter(bound))))
}

/// What a reference column is set to.
#[derive(Debug, Clone)]
pub enum NewReference {
    /// It leads nowhere any more.
    Unlink(Unlink),
    /// It follows its parent.
    To(KeyPart),
}

/// Violations by child table, row (without row ids: none) and foreign key, as SQLite's own check finds them, and how many.
/// Tables that it cannot check are left out.
pub type Violations = BTreeMap<(String, Option<i64>, i64), u64>;

/// All [`Violations`] that a change of these tables (lower case) can have made.
pub fn violations(db: &Connection, schema: &Schema, changed: &BTreeSet<String>) -> rusqlite::Result<Violations> {
    let mut out = BTreeMap::new();
    let concerned = |t: &&Table| {
        let is_changed = |name: &str| changed.contains(&name.to_ascii_lowercase());
        !t.foreign_keys.is_empty() && (is_changed(&t.name) || t.foreign_keys.iter().any(|k| is_changed(&k.parent)))
    };
    for table in schema.tables().filter(concerned) {
        let mut check = || -> rusqlite::Result<()> {
            let mut statement = db.prepare("SELECT rowid, fkid FROM pragma_foreign_key_check(?1)")?;
            let mut rows = statement.query([&table.name])?;
            while let Some(row) = rows.next()? {
                *out.entry((table.name.clone(), row.get(0)?, row.get(1)?)).or_default() += 1;
            }
            Ok(())
        };
        match check() {
            Err(rusqlite::Error::SqliteFailure(_, Some(text)))
                if text.contains("foreign key mismatch") || text.contains("no such table") => {}
            other => other?,
        }
    }
    Ok(out)
}

/// A column's current value in a row, to be bound.
pub fn value_of(db: &Connection, table: &Table, key: &RecordKey, column: &str) -> crate::Result<rusqlite::Result<Option<KeyPart>>> {
    let shape = RowShape::of(table)?;
    let Some(parts) = shape.parts(key) else { return Ok(Ok(None)) };
    let sql = format!("SELECT {} FROM {} WHERE {}", quote(column), shape.from, shape.is_key(1));
    Ok((|| {
        let mut statement = db.prepare_cached(&sql)?;
        let mut rows = statement.query(params_from_iter(parts))?;
        Ok(match rows.next()? {
            Some(row) => Some(KeyPart::from_sql(row.get_ref(0)?)),
            None => None,
        })
    })())
}
