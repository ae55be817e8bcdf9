//! What a database says about itself: tables, columns, keys, triggers, full-text tables. Read through SQLite, which knows its own SQL
//! best; used to check a data map, to make identity blocks and to plan an edit. Table and column names compare as SQLite compares
//! them, without regard to ASCII case.

use crate::{Error, Result};
use rusqlite::Connection;
use std::collections::BTreeMap;

/// What kind of table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableKind {
    /// Ordinary, with row ids.
    Rowid,
    /// `WITHOUT ROWID`.
    WithoutRowid,
    /// Virtual: a module keeps its content, see [`Table::module`].
    Virtual,
    /// Belongs to a virtual table.
    Shadow,
    /// A view.
    View,
}

/// How a column's values are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generated {
    /// Computed when read; takes no space in the row.
    Virtual,
    /// Computed when written.
    Stored,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Declared type, may be empty.
    pub decl_type: String,
    /// `NOT NULL` (or part of the primary key of a table without row ids).
    pub not_null: bool,
    /// Position in the primary key from 1; 0 for others.
    pub key: u32,
    /// Whether it is alone in a unique index or is the primary key.
    pub unique: bool,
    /// Whether and how it is computed.
    pub generated: Option<Generated>,
    /// Hidden column of a virtual table.
    pub hidden: bool,
    /// SQL of the default value.
    pub default: Option<String>,
}

impl Column {
    /// Its affinity, by SQLite's rules for declared types.
    pub fn affinity(&self) -> Affinity {
        let t = self.decl_type.to_ascii_uppercase();
        if t.contains("INT") {
            Affinity::Integer
        } else if ["CHAR", "CLOB", "TEXT"].iter().any(|s| t.contains(s)) {
            Affinity::Text
        } else if t.is_empty() || t.contains("BLOB") {
            Affinity::Blob
        } else if ["REAL", "FLOA", "DOUB"].iter().any(|s| t.contains(s)) {
            Affinity::Real
        } else {
            Affinity::Numeric
        }
    }
}

/// See <https://sqlite.org/datatype3.html>.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Affinity {
    Integer,
    Text,
    Blob,
    Real,
    Numeric,
}

/// What happens to a child when its parent goes or changes its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FkAction {
    /// It must not happen (`NO ACTION` and `RESTRICT`).
    Forbid,
    /// The child goes or follows.
    Cascade,
    /// The reference becomes null.
    SetNull,
    /// The reference becomes its column's default.
    SetDefault,
}

impl FkAction {
    fn of(text: &str) -> FkAction {
        match text.to_ascii_uppercase().as_str() {
            "CASCADE" => FkAction::Cascade,
            "SET NULL" => FkAction::SetNull,
            "SET DEFAULT" => FkAction::SetDefault,
            _ => FkAction::Forbid,
        }
    }
}

/// A foreign key of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignKey {
    /// The parent table, as written.
    pub parent: String,
    /// Columns of this table and of the parent. The parent's primary key is filled in where the schema leaves it out.
    pub columns: Vec<(String, String)>,
    /// When the parent row is deleted.
    pub on_delete: FkAction,
    /// When the parent's key changes.
    pub on_update: FkAction,
}

/// A trigger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trigger {
    /// Its name.
    pub name: String,
    /// The table (or view) whose changes fire it.
    pub table: String,
    /// `CREATE TRIGGER …` as stored.
    pub sql: String,
}

/// A full-text table's own settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FullText {
    /// "fts3", "fts4" or "fts5".
    pub module: String,
    /// Where its text is kept.
    pub content: FtsContent,
}

/// Where a full-text table keeps its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FtsContent {
    /// In a table of its own.
    Own,
    /// Nowhere: only the index exists.
    None,
    /// In this table, whose row id is this column.
    External {
        /// The table.
        table: String,
        /// Its row id's name (`rowid` by default).
        rowid: String,
    },
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// What kind.
    pub kind: TableKind,
    /// First page of its b-tree; 0 for virtual tables and views.
    pub root: u32,
    /// In the order of the declaration.
    pub columns: Vec<Column>,
    /// Its foreign keys.
    pub foreign_keys: Vec<ForeignKey>,
    /// Column names of its indexes that cover all rows, in order; primary keys included. Indexes on expressions are left out.
    pub indexes: Vec<Vec<String>>,
    /// Collations other than `BINARY` by which unique indexes compare a column, by its name in lower case.
    pub collations: BTreeMap<String, String>,
    /// The module of a virtual table, lower case.
    pub module: Option<String>,
    /// Set for full-text tables.
    pub full_text: Option<FullText>,
    /// `CREATE …` as stored.
    pub sql: String,
    /// Whether an index of its own stands behind the primary key.
    has_key_index: bool,
}

impl Table {
    /// A column by name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|c| c.name.eq_ignore_ascii_case(name))
    }

    /// The column that is the row id (`INTEGER PRIMARY KEY`), if one is.
    pub fn rowid_alias(&self) -> Option<&Column> {
        let mut keys = self.columns.iter().filter(|c| c.key > 0);
        match (keys.next(), keys.next()) {
            // An index for a single key column exists exactly when it is not the row id (`INTEGER PRIMARY KEY DESC`, `INT PRIMARY KEY`).
            (Some(c), None) if self.kind == TableKind::Rowid && c.decl_type.eq_ignore_ascii_case("INTEGER") && !self.has_key_index => {
                Some(c)
            }
            _ => None,
        }
    }

    /// The name by which SQL reaches the row id: one that no column hides.
    pub fn rowid_name(&self) -> Result<String> {
        if let Some(c) = self.rowid_alias() {
            return Ok(quote(&c.name));
        }
        ["rowid", "_rowid_", "oid"]
            .into_iter()
            .find(|n| self.column(n).is_none())
            .map(str::to_string)
            .ok_or_else(|| Error::Refused(format!("table {} hides its row id behind columns of the same names", self.name)))
    }

    /// Columns of the primary key, in order.
    pub fn key_columns(&self) -> Vec<&Column> {
        let mut keys: Vec<&Column> = self.columns.iter().filter(|c| c.key > 0).collect();
        keys.sort_by_key(|c| c.key);
        keys
    }

    /// Columns that `SELECT` shows.
    pub fn visible(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|c| !c.hidden)
    }

    /// Where a column lies in a row's record; `None` for computed ones that take no space.
    pub fn stored_index(&self, name: &str) -> Option<usize> {
        self.columns.iter().filter(|c| c.generated != Some(Generated::Virtual)).position(|c| c.name.eq_ignore_ascii_case(name))
    }

    /// Whether an index (or the row id) finds rows by exactly these columns, or by the first of them.
    pub fn is_indexed(&self, columns: &[String]) -> bool {
        let Some(first) = columns.first() else { return false };
        self.rowid_alias().is_some_and(|c| c.name.eq_ignore_ascii_case(first))
            || self.indexes.iter().any(|i| i.first().is_some_and(|c| c.eq_ignore_ascii_case(first)))
    }
}

/// Everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Schema {
    tables: BTreeMap<String, Table>,
    /// All triggers.
    pub triggers: Vec<Trigger>,
    /// Tables that could not be read (a virtual table whose module is missing), and why.
    pub unreadable: BTreeMap<String, String>,
}

impl Schema {
    /// Reads the schema of a connection's main database.
    pub fn load(db: &Connection) -> Result<Schema> {
        read(db).map_err(Error::sqlite("reading the schema"))
    }

    /// A table by name.
    pub fn table(&self, name: &str) -> Option<&Table> {
        self.tables.get(&name.to_ascii_lowercase())
    }

    /// All tables and views but SQLite's own, by name.
    pub fn tables(&self) -> impl Iterator<Item = &Table> {
        self.tables.values()
    }

    /// Triggers on a table.
    pub fn triggers_on<'a>(&'a self, table: &'a str) -> impl Iterator<Item = &'a Trigger> {
        self.triggers.iter().filter(move |t| t.table.eq_ignore_ascii_case(table))
    }

    /// Foreign keys whose parent is this table: the child tables and their keys.
    pub fn children<'a>(&'a self, parent: &'a str) -> impl Iterator<Item = (&'a Table, &'a ForeignKey)> {
        self.tables
            .values()
            .flat_map(move |t| t.foreign_keys.iter().filter(move |f| f.parent.eq_ignore_ascii_case(parent)).map(move |f| (t, f)))
    }

    /// Other tables and views that a trigger names, as far as words tell.
    pub fn named_by<'a>(&'a self, trigger: &'a Trigger) -> impl Iterator<Item = &'a Table> {
        let words = tokens(&trigger.sql);
        self.tables.values().filter(move |t| {
            !t.name.eq_ignore_ascii_case(&trigger.table)
                && t.kind != TableKind::Shadow
                && words.iter().any(|w| w.eq_ignore_ascii_case(&t.name))
        })
    }

    /// Full-text tables whose text is a view that names this table, directly or through other views, as far as words tell.
    pub fn full_text_over_views_of<'a>(&'a self, table: &'a str) -> impl Iterator<Item = &'a Table> {
        self.tables.values().filter(move |t| match &t.full_text {
            Some(FullText { content: FtsContent::External { table: c, .. }, .. }) => {
                self.table(c).is_some_and(|v| self.view_names(v, table, 8))
            }
            _ => false,
        })
    }

    fn view_names(&self, view: &Table, table: &str, depth: u32) -> bool {
        depth > 0
            && view.kind == TableKind::View
            && tokens(&view.sql).iter().any(|word| {
                word.eq_ignore_ascii_case(table)
                    || (!word.eq_ignore_ascii_case(&view.name)
                        && self.table(word).is_some_and(|inner| self.view_names(inner, table, depth - 1)))
            })
    }

    /// Full-text tables whose text is this table.
    pub fn full_text_over<'a>(&'a self, table: &'a str) -> impl Iterator<Item = &'a Table> {
        self.tables.values().filter(move |t| {
            matches!(&t.full_text, Some(FullText { content: FtsContent::External { table: c, .. }, .. }) if c.eq_ignore_ascii_case(table))
        })
    }
}

/// An identifier in SQL.
pub fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn read(db: &Connection) -> rusqlite::Result<Schema> {
    let mut schema = Schema::default();
    let mut sql: BTreeMap<String, (u32, String)> = BTreeMap::new();
    let mut list = db.prepare("SELECT type, name, tbl_name, rootpage, sql FROM main.sqlite_schema")?;
    let mut rows = list.query([])?;
    while let Some(row) = rows.next()? {
        let (kind, name, table): (Option<String>, Option<String>, Option<String>) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let (Some(kind), Some(name), Some(table)) = (kind, name, table) else { continue };
        match kind.as_str() {
            "trigger" => schema.triggers.push(Trigger { name, table, sql: row.get::<_, Option<String>>(4)?.unwrap_or_default() }),
            "table" | "view" => {
                let root = row.get::<_, Option<u32>>(3)?.unwrap_or(0);
                sql.insert(name.to_ascii_lowercase(), (root, row.get::<_, Option<String>>(4)?.unwrap_or_default()));
            }
            _ => {}
        }
    }
    let mut list =
        db.prepare("SELECT name, type, wr FROM pragma_table_list WHERE schema = 'main' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'")?;
    let tables: Vec<(String, String, bool)> =
        list.query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?.collect::<rusqlite::Result<_>>()?;
    for (name, kind, without_rowid) in tables {
        let (root, sql) = sql.get(&name.to_ascii_lowercase()).cloned().unwrap_or_default();
        let kind = match kind.as_str() {
            "view" => TableKind::View,
            "virtual" => TableKind::Virtual,
            "shadow" => TableKind::Shadow,
            _ if without_rowid => TableKind::WithoutRowid,
            _ => TableKind::Rowid,
        };
        let module = (kind == TableKind::Virtual).then(|| module(&sql)).flatten();
        let mut table = Table {
            name,
            kind,
            root,
            columns: Vec::new(),
            foreign_keys: Vec::new(),
            indexes: Vec::new(),
            collations: BTreeMap::new(),
            full_text: module.as_deref().and_then(|m| full_text(m, &sql)),
            module,
            sql,
            has_key_index: false,
        };
        match fill(db, &mut table) {
            Ok(()) => {}
            // A missing module or a view over a table that is gone: the rest of the schema is still usable.
            Err(error) if matches!(kind, TableKind::Virtual | TableKind::View) => {
                schema.unreadable.insert(table.name.clone(), error.to_string());
            }
            Err(error) => return Err(error),
        }
        schema.tables.insert(table.name.to_ascii_lowercase(), table);
    }
    let keys: BTreeMap<String, Vec<String>> =
        schema.tables.iter().map(|(n, t)| (n.clone(), t.key_columns().iter().map(|c| c.name.clone()).collect())).collect();
    for foreign in schema.tables.values_mut().flat_map(|t| t.foreign_keys.iter_mut()) {
        let parent = keys.get(&foreign.parent.to_ascii_lowercase());
        for (i, (_, to)) in foreign.columns.iter_mut().enumerate().filter(|(_, (_, to))| to.is_empty()) {
            *to = parent.and_then(|k| k.get(i)).cloned().unwrap_or_default();
        }
    }
    Ok(schema)
}

fn fill(db: &Connection, table: &mut Table) -> rusqlite::Result<()> {
    let mut list = db.prepare("SELECT name, type, \"notnull\", dflt_value, pk, hidden FROM pragma_table_xinfo(?1, 'main')")?;
    table.columns = list
        .query_map([&table.name], |r| {
            let hidden: i64 = r.get(5)?;
            Ok(Column {
                name: r.get(0)?,
                decl_type: r.get::<_, Option<String>>(1)?.unwrap_or_default(),
                not_null: r.get(2)?,
                key: r.get(4)?,
                unique: false,
                generated: match hidden {
                    2 => Some(Generated::Virtual),
                    3 => Some(Generated::Stored),
                    _ => None,
                },
                hidden: hidden == 1,
                default: r.get(3)?,
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    if matches!(table.kind, TableKind::View | TableKind::Virtual) {
        return Ok(());
    }
    let mut list = db.prepare("SELECT name, \"unique\", origin, partial FROM pragma_index_list(?1, 'main')")?;
    let indexes: Vec<(String, bool, String, bool)> =
        list.query_map([&table.name], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?)))?.collect::<rusqlite::Result<_>>()?;
    let mut list = db.prepare("SELECT name, coll FROM pragma_index_xinfo(?1, 'main') WHERE key ORDER BY seqno")?;
    for (name, unique, origin, partial) in indexes {
        table.has_key_index |= origin == "pk";
        let columns: Vec<(Option<String>, Option<String>)> =
            list.query_map([&name], |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
        for (column, collation) in columns.iter().filter(|_| unique) {
            if let (Some(column), Some(collation)) = (column, collation)
                && !collation.eq_ignore_ascii_case("BINARY")
            {
                table.collations.insert(column.to_ascii_lowercase(), collation.clone());
            }
        }
        let Some(columns) = columns.into_iter().map(|(c, _)| c).collect::<Option<Vec<String>>>() else { continue };
        if partial {
            continue;
        }
        if let ([only], true) = (columns.as_slice(), unique)
            && let Some(c) = table.columns.iter_mut().find(|c| c.name.eq_ignore_ascii_case(only))
        {
            c.unique = true;
        }
        table.indexes.push(columns);
    }
    if let Some(name) = table.rowid_alias().map(|c| c.name.clone())
        && let Some(c) = table.columns.iter_mut().find(|c| c.name == name)
    {
        c.unique = true;
    }
    let mut list = db.prepare(
        "SELECT id, \"table\", \"from\", \"to\", on_update, on_delete FROM pragma_foreign_key_list(?1, 'main') ORDER BY id, seq",
    )?;
    let mut rows = list.query([&table.name])?;
    let mut last = None;
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        let pair = (row.get::<_, String>(2)?, row.get::<_, Option<String>>(3)?.unwrap_or_default());
        match table.foreign_keys.last_mut() {
            Some(foreign) if last == Some(id) => foreign.columns.push(pair),
            _ => table.foreign_keys.push(ForeignKey {
                parent: row.get(1)?,
                columns: vec![pair],
                on_update: FkAction::of(&row.get::<_, String>(4)?),
                on_delete: FkAction::of(&row.get::<_, String>(5)?),
            }),
        }
        last = Some(id);
    }
    Ok(())
}

/// Words, quoted names and punctuation of a `CREATE VIRTUAL TABLE`.
fn tokens(sql: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut chars = sql.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' | '\'' | '`' | '[' => {
                let close = if c == '[' { ']' } else { c };
                let mut text = String::new();
                while let Some(d) = chars.next() {
                    if d == close {
                        if close != ']' && chars.peek() == Some(&close) {
                            chars.next();
                        } else {
                            break;
                        }
                    }
                    text.push(d);
                }
                out.push(text);
            }
            c if c.is_whitespace() => {}
            c if c.is_alphanumeric() || c == '_' || c == '$' => {
                let mut text = String::from(c);
                while let Some(d) = chars.next_if(|d| d.is_alphanumeric() || *d == '_' || *d == '$') {
                    text.push(d);
                }
                out.push(text);
            }
            c => out.push(c.to_string()),
        }
    }
    out
}

fn module(sql: &str) -> Option<String> {
    let tokens = tokens(sql);
    let at = tokens.iter().position(|t| t.eq_ignore_ascii_case("using"))?;
    tokens.get(at + 1).map(|m| m.to_ascii_lowercase())
}

fn full_text(module: &str, sql: &str) -> Option<FullText> {
    if !matches!(module, "fts3" | "fts4" | "fts5") {
        return None;
    }
    let tokens = tokens(sql);
    let option = |name: &str| {
        tokens.windows(3).find_map(|w| match w {
            [key, eq, value] if key.eq_ignore_ascii_case(name) && eq == "=" => Some(value.clone()),
            _ => None,
        })
    };
    let content = match option("content") {
        None => FtsContent::Own,
        Some(table) if table.is_empty() || table == "," || table == ")" => FtsContent::None,
        Some(table) => FtsContent::External { table, rowid: option("content_rowid").unwrap_or_else(|| "rowid".into()) },
    };
    Some(FullText { module: module.to_string(), content })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(sql: &str) -> Schema {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(sql).unwrap();
        Schema::load(&db).unwrap()
    }

    #[test]
    fn tables_know_their_kind_keys_and_columns() {
        let s = schema(
            "CREATE TABLE Customer(id INTEGER PRIMARY KEY, email TEXT NOT NULL UNIQUE, up TEXT AS (upper(email)) STORED, low TEXT AS (lower(email)), note);
             CREATE TABLE k(a TEXT, b INT, PRIMARY KEY(b, a)) WITHOUT ROWID;
             CREATE TABLE d(id INTEGER PRIMARY KEY DESC, rowid TEXT);
             CREATE TABLE o(id INT PRIMARY KEY, c INT REFERENCES customer ON DELETE CASCADE);
             CREATE VIEW v AS SELECT * FROM k;
             CREATE TRIGGER t AFTER DELETE ON customer BEGIN DELETE FROM o; END;",
        );
        let c = s.table("customer").unwrap();
        assert_eq!(c.kind, TableKind::Rowid);
        assert_eq!(c.rowid_alias().unwrap().name, "id");
        assert!(c.column("EMAIL").unwrap().unique && c.column("email").unwrap().not_null);
        assert_eq!((c.stored_index("up"), c.stored_index("low"), c.stored_index("note")), (Some(2), None, Some(3)));
        let k = s.table("k").unwrap();
        assert_eq!(k.kind, TableKind::WithoutRowid);
        assert_eq!(k.key_columns().iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["b", "a"]);
        let d = s.table("d").unwrap();
        assert!(d.rowid_alias().is_none());
        assert_eq!(d.rowid_name().unwrap(), "_rowid_");
        let (child, key) = s.children("Customer").next().unwrap();
        assert_eq!((child.name.as_str(), key.on_delete), ("o", FkAction::Cascade));
        assert_eq!(key.columns, [("c".to_string(), "id".to_string())]);
        assert_eq!(s.table("v").unwrap().kind, TableKind::View);
        assert_eq!(s.triggers_on("CUSTOMER").count(), 1);
    }

    #[test]
    fn full_text_tables_know_where_their_text_is() {
        let s = schema(
            "CREATE TABLE m(id INTEGER PRIMARY KEY, body TEXT);
             CREATE VIRTUAL TABLE a USING fts5(body, content='m', content_rowid='id');
             CREATE VIRTUAL TABLE b USING fts5(body, content='');
             CREATE VIRTUAL TABLE c USING FTS4(body);
             CREATE VIRTUAL TABLE d USING fts4(content=\"m\", body);",
        );
        assert_eq!(s.full_text_over("M").map(|t| t.name.as_str()).collect::<Vec<_>>(), ["a", "d"]);
        assert_eq!(s.table("b").unwrap().full_text.as_ref().unwrap().content, FtsContent::None);
        assert_eq!(s.table("c").unwrap().full_text.as_ref().unwrap().content, FtsContent::Own);
        assert_eq!(s.table("a_data").unwrap().kind, TableKind::Shadow);
    }
}
