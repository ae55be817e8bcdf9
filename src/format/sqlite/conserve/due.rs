//! How many index entries an edit has to take out: one of each index for a deleted row; of a partial index, if it held the row. Whether it did is
//! asked of its condition, on the row as it was and as it is.

use super::Changed;
use crate::Result;
use crate::format::sqlite::rows::RowShape;
use crate::format::sqlite::schema::{Schema, quote};
use crate::format::sqlite::vfs::Database;
use rusqlite::Connection;
use std::collections::{BTreeSet, HashMap};

/// How often the entries of each row id may have vanished from all indexes, over those that appeared. An entry does not say of which table
/// its row is.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Due {
    /// Whether it was deleted from a table.
    pub deleted: bool,
    /// Whether it was to change and stay in one.
    pub rewritten: bool,
    /// Fewest entries of indexes that went for good.
    pub fewest: i64,
    /// Most of them.
    pub most: i64,
}

/// What is due by row id. `before` opens the database as archived; it is asked for only where there are partial indexes.
pub(super) fn all(
    after: &Connection,
    before: &dyn Fn() -> Result<Database>,
    schema: &Schema,
    changed: &Changed,
) -> rusqlite::Result<HashMap<i64, Due>> {
    let mut out: HashMap<i64, Due> = HashMap::new();
    let mut archived: Option<Option<Database>> = None;
    let mut list = after.prepare(
        "SELECT l.partial, s.sql FROM pragma_index_list(?1) l LEFT JOIN main.sqlite_schema s ON s.type = 'index' AND s.name = l.name",
    )?;
    for (table, rows) in changed {
        let (mut full, mut partial): (i64, Vec<Option<String>>) = (0, Vec::new());
        let mut indexes = list.query([table])?;
        while let Some(index) = indexes.next()? {
            match index.get(0)? {
                false => full += 1,
                true => partial.push(index.get(1)?),
            }
        }
        for (row, deleted) in rows {
            let due = out.entry(*row).or_default();
            due.deleted |= *deleted;
            due.rewritten |= !*deleted;
            let full = if *deleted { full } else { 0 };
            due.fewest += full;
            due.most += full;
        }
        for sql in &partial {
            let was = archived.get_or_insert_with(|| before().ok()).as_ref();
            let ask = |db: &Connection| held(db, schema, table, sql.as_deref()?, rows.keys().copied());
            let known = was.and_then(|was| Some((ask(was.connection())?, ask(after)?)));
            for (row, deleted) in rows {
                let due = out.entry(*row).or_default();
                let (fewest, most) = match &known {
                    Some((was, is)) => {
                        let gone = i64::from(was.contains(row)) - i64::from(is.contains(row));
                        (gone, gone)
                    }
                    // Its condition cannot be asked here.
                    None => (if *deleted { 0 } else { -1 }, 1),
                };
                due.fewest += fewest;
                due.most += most;
            }
        }
    }
    Ok(out)
}

/// Which of these rows a partial index holds, by its condition and the rows themselves; `None` where that cannot be told.
fn held(db: &Connection, schema: &Schema, table: &str, sql: &str, rows: impl Iterator<Item = i64>) -> Option<BTreeSet<i64>> {
    let table = schema.table(table)?;
    let id = RowShape::of(table).ok()?.keys.pop()?;
    // What the condition ends with may be a comment.
    let sql = format!("SELECT 1 FROM main.{} NOT INDEXED WHERE {id} = ?1 AND ({}\n)", quote(&table.name), condition(sql)?);
    let mut query = db.prepare(&sql).ok()?;
    let mut out = BTreeSet::new();
    for row in rows {
        if query.exists([row]).ok()? {
            out.insert(row);
        }
    }
    Some(out)
}

/// The condition of a partial index, from the statement that made it: what stands behind the list of its columns.
fn condition(sql: &str) -> Option<&str> {
    let (mut rest, mut depth) = (sql, 0u32);
    loop {
        let at = rest.find(['(', ')', '\'', '"', '`', '[', '-', '/'])?;
        let (sign, behind) = (rest.as_bytes().get(at)?, rest.get(at + 1..)?);
        rest = match sign {
            b'(' | b')' => {
                depth = if *sign == b'(' { depth + 1 } else { depth.checked_sub(1)? };
                if depth == 0 {
                    rest = behind;
                    break;
                }
                behind
            }
            b'-' if behind.starts_with('-') => behind.split_once('\n')?.1,
            b'/' if behind.starts_with('*') => behind.get(1..)?.split_once("*/")?.1,
            b'-' | b'/' => behind,
            b'[' => behind.split_once(']')?.1,
            // A quote that is doubled ends and begins again.
            quote => behind.split_once(char::from(*quote))?.1,
        };
    }
    loop {
        rest = rest.trim_start();
        rest = match (rest.strip_prefix("--"), rest.strip_prefix("/*")) {
            (Some(comment), _) => comment.split_once('\n')?.1,
            (_, Some(comment)) => comment.split_once("*/")?.1,
            (None, None) => break,
        };
    }
    let (word, behind) = rest.split_at_checked("where".len())?;
    (word.eq_ignore_ascii_case("where") && !behind.trim().is_empty()).then_some(behind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_stands_behind_the_columns() {
        for (sql, expected) in [
            ("CREATE INDEX i ON t(a) WHERE a > 1", Some("a > 1")),
            ("CREATE UNIQUE INDEX \"i)\"\"(\" ON [t(](lower(a), b COLLATE \"no(case\" DESC)where(a = ')' AND b)", Some("(a = ')' AND b)")),
            (
                "create index i on t /* ( */ (a -- )\n, b-1, b/2) /* where x */ -- y\n Where\n a IS NOT NULL -- and so on",
                Some("a IS NOT NULL -- and so on"),
            ),
            ("CREATE INDEX i ON t(a)", None),
            ("CREATE INDEX i ON t(a", None),
            ("CREATE INDEX i ON t(a))) WHERE", None),
            ("", None),
            ("CREATE INDEX i ON t(a) WHEREäa", Some("äa")),
        ] {
            assert_eq!(condition(sql).map(str::trim), expected, "{sql}");
        }
    }
}
