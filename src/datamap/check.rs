//! `map check`: the map against what a source really holds. A pure function of facts that a backup, or a look at the live source,
//! has gathered; it finds what loading could not know: columns nobody mapped, strategies that a column would refuse, foreign keys
//! that an erasure would leave dangling.

use super::load::closest;
use super::model::{Action, Collection, DataMap, Feed, OnErase, Unmapped};
use crate::repository::entry::display_path;
use std::collections::{BTreeMap, BTreeSet};

/// What a source holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SourceFacts {
    /// Its entries (files; folders need not be listed).
    pub entries: Vec<EntryFacts>,
}

/// What an entry holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EntryFacts {
    /// Its path as stored.
    pub path: Vec<u8>,
    /// Its format, where it was detected.
    pub format: Option<String>,
    /// Tables of a database.
    pub tables: Vec<TableFacts>,
    /// Columns or paths of a record format, as far as they were seen; empty where the entry was not looked into.
    pub columns: Vec<String>,
}

/// A database's table.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TableFacts {
    /// Its name.
    pub name: String,
    /// Its columns.
    pub columns: Vec<ColumnFacts>,
    /// Its foreign keys.
    pub foreign_keys: Vec<ForeignKey>,
    /// Its triggers' names.
    pub triggers: Vec<String>,
}

/// A table's column.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ColumnFacts {
    /// Its name.
    pub name: String,
    /// Its type as declared; may be empty.
    pub decl_type: String,
    /// NULL is refused.
    pub not_null: bool,
    /// A second equal value is refused (by a constraint or index on this column alone).
    pub unique: bool,
}

/// A foreign key.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ForeignKey {
    /// Columns of the table that has it.
    pub fields: Vec<String>,
    /// The table that it refers to.
    pub table: String,
    /// That table's columns; empty: its primary key.
    pub to_fields: Vec<String>,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// An erasure would fail or leave something behind.
    Error,
    /// It probably is not what was meant.
    Warning,
    /// Worth knowing.
    Note,
}

/// Something found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// The collection that it is about.
    pub collection: Option<String>,
    /// The field or column.
    pub field: Option<String>,
    /// What, where, and what to do. Names no values; placeholders stand for identities in paths.
    pub message: String,
}

/// How many entries that no collection names are listed in the note about them.
const LISTED: usize = 20;

/// Checks a map against a source; the worst findings first.
pub fn check(map: &DataMap, facts: &SourceFacts) -> Vec<Finding> {
    let mut checker = Checker { map, findings: Vec::new() };
    for collection in &map.collections {
        checker.collection(collection, facts);
    }
    for entry in &facts.entries {
        checker.entry(entry);
    }
    let unnamed = unnamed(map, facts);
    if !unnamed.is_empty() {
        let mut list = unnamed.iter().take(LISTED).cloned().collect::<Vec<_>>().join(", ");
        if unnamed.len() > LISTED {
            list += &format!(" and {} more", unnamed.len() - LISTED);
        }
        checker.find(
            Level::Note,
            None,
            None,
            format!("{} entries are named by no collection and are kept as they are: {list}", unnamed.len()),
        );
    }
    let mut findings = checker.findings;
    findings.sort_by_key(|f| f.level);
    let mut seen = BTreeSet::new();
    findings.retain(|f| seen.insert((f.level, f.collection.clone(), f.field.clone(), f.message.clone())));
    findings
}

/// Paths of the entries that no collection names, as `show --entries` prints them.
pub fn unnamed(map: &DataMap, facts: &SourceFacts) -> Vec<String> {
    let named = |e: &EntryFacts| map.collections.iter().any(|c| c.entry.is_match(&e.path));
    facts.entries.iter().filter(|e| !named(e)).map(|e| display_path(&e.path)).collect()
}

struct Checker<'m> {
    map: &'m DataMap,
    findings: Vec<Finding>,
}

impl Checker<'_> {
    fn find(&mut self, level: Level, collection: Option<&Collection>, field: Option<&str>, message: String) {
        let collection = collection.map(|c| c.name.clone());
        self.findings.push(Finding { level, collection, field: field.map(str::to_string), message });
    }

    fn collection(&mut self, c: &Collection, facts: &SourceFacts) {
        let mut matched = false;
        for entry in facts.entries.iter().filter(|e| c.entry.is_match(&e.path)) {
            matched = true;
            let path = c.entry.display(&entry.path);
            if c.format.as_deref() == Some("path") {
                continue;
            }
            if let (Some(expected), Some(found)) = (&c.format, &entry.format) {
                let same = |a: &str, b: &str| a == b || matches!((a, b), ("csv", "tsv") | ("tsv", "csv"));
                if !same(expected, found) {
                    self.find(Level::Error, Some(c), None, format!("{path} is {found}, not {expected}"));
                    continue;
                }
            }
            if entry.format.as_deref() == Some("sqlite") || !entry.tables.is_empty() {
                match entry.tables.iter().find(|t| same_name(&t.name, &c.table)) {
                    Some(table) => self.table(c, table, entry, &path),
                    None => {
                        let known: Vec<&str> = entry.tables.iter().map(|t| t.name.as_str()).collect();
                        let hint = closest(&c.table, &known).map(|n| format!("; did you mean {n:?}?")).unwrap_or_default();
                        self.find(Level::Error, Some(c), None, format!("{path} has no table {:?}{hint}", c.table));
                    }
                }
            } else if !entry.columns.is_empty() {
                self.records(c, entry, &path);
            } else if entry.format.is_none() && c.format.is_none() {
                self.find(Level::Error, Some(c), None, format!("{path}: its format was not recognised; set `format`"));
            }
        }
        if !matched {
            self.find(Level::Warning, Some(c), None, format!("no entry matches {:?}", c.entry.source));
        }
    }

    /// A record format: the columns that were seen.
    fn records(&mut self, c: &Collection, entry: &EntryFacts, path: &str) {
        let columns: Vec<&str> = entry.columns.iter().map(String::as_str).collect();
        // JSON records need not all have the same paths, and only some were seen.
        let missing = if entry.format.as_deref() == Some("ndjson") { Level::Warning } else { Level::Error };
        for field in mapped_fields(c, self.map) {
            if !columns.contains(&field.as_str()) {
                let hint = closest(&field, &columns).map(|n| format!("; did you mean {n:?}?")).unwrap_or_default();
                self.find(missing, Some(c), Some(&field), format!("{path} has no field {field:?}{hint}"));
            }
        }
        self.unmapped_columns(c, &columns, path, false);
    }

    fn table(&mut self, c: &Collection, table: &TableFacts, entry: &EntryFacts, path: &str) {
        let columns: Vec<&str> = table.columns.iter().map(|col| col.name.as_str()).collect();
        for field in mapped_fields(c, self.map) {
            if !columns.iter().any(|col| same_name(col, &field)) {
                let hint = closest(&field, &columns).map(|n| format!("; did you mean {n:?}?")).unwrap_or_default();
                self.find(Level::Error, Some(c), Some(&field), format!("table {} in {path} has no column {field:?}{hint}", table.name));
            }
        }
        self.unmapped_columns(c, &columns, path, true);
        for field in c.fields.values().filter(|_| c.on_erase == OnErase::Anonymize) {
            let column = table.columns.iter().find(|col| same_name(&col.name, &field.name));
            if let (Some(column), Some(action)) = (column, &field.action) {
                self.action(c, column, action, field.scan);
            }
        }
        for trigger in &c.triggers {
            if !table.triggers.iter().any(|t| same_name(t, trigger)) {
                self.find(Level::Error, Some(c), None, format!("table {} in {path} has no trigger {trigger:?}", table.name));
            }
        }
        for trigger in table.triggers.iter().filter(|t| !c.triggers.iter().any(|own| same_name(t, own))) {
            self.find(
                Level::Note,
                Some(c),
                None,
                format!("trigger {trigger} stays silent while rows are edited; list it in `triggers` to let it run"),
            );
        }
        for key in &table.foreign_keys {
            self.mapped_foreign_key(c, key, entry, path);
        }
    }

    /// Whether the column takes what the strategy writes.
    fn action(&mut self, c: &Collection, column: &ColumnFacts, action: &Action, scan: bool) {
        let name = column.name.as_str();
        let mut error = |message: String| self.find(Level::Error, Some(c), Some(name), message);
        let written = match action {
            Action::NullRewrite | Action::Delete => {
                if column.not_null {
                    error(format!("column {name} is NOT NULL, so it cannot be set to NULL; use random_string_rewrite or string_rewrite"));
                }
                return;
            }
            Action::Preserve { .. } => return,
            // The spans of a text are replaced; how long it gets cannot be said.
            Action::Redact { .. } if scan => None,
            Action::Redact { replacement } => Some(replacement.clone()),
            Action::StringRewrite { rewrite_value } => Some(rewrite_value.clone()),
            Action::RandomStringRewrite { length, suffix } => Some("x".repeat(*length) + suffix),
            Action::Hmac => Some("x".repeat(32)),
        };
        let constant = matches!(action, Action::StringRewrite { .. } | Action::Redact { .. }) && !scan;
        if constant && column.unique {
            error(format!(
                "column {name} is unique, and this strategy gives every erased record the same value; use random_string_rewrite or null_rewrite"
            ));
        }
        let Some(written) = written else { return };
        if !text_fits(&column.decl_type, &written) {
            error(format!(
                "column {name} is declared {}, and this strategy writes text that does not fit; use null_rewrite",
                column.decl_type
            ));
        }
        if let Some(max) = declared_length(&column.decl_type).filter(|max| written.chars().count() > *max) {
            let message = format!(
                "column {name} is declared {}, and this strategy writes {} characters (at most {max} fit)",
                column.decl_type,
                written.chars().count()
            );
            self.find(Level::Warning, Some(c), Some(name), message);
        }
    }

    fn unmapped_columns(&mut self, c: &Collection, columns: &[&str], path: &str, fold_case: bool) {
        let named = mapped_fields(c, self.map);
        let is_named = |column: &str| named.iter().any(|f| f == column || (fold_case && same_name(f, column)) || below(column, f));
        for column in columns.iter().filter(|col| !is_named(col)) {
            // A record that is deleted takes its columns with it; one that is preserved keeps them on its ground.
            let (level, what) = match (c.on_erase, self.map.unmapped) {
                (OnErase::Delete | OnErase::Preserve, _) => (Level::Note, "it goes or stays with its record"),
                (OnErase::Anonymize, Unmapped::Halt) => {
                    (Level::Error, "name it under `fields`, with an action or (if it says nothing about a person) without")
                }
                (OnErase::Anonymize, Unmapped::Redact) => (Level::Note, "it is redacted in matched records (`unmapped: redact`)"),
                (OnErase::Anonymize, Unmapped::Preserve) => (Level::Warning, "it stays as it is in matched records (`unmapped: preserve`)"),
            };
            self.find(level, Some(c), Some(column), format!("column {column:?} in {path} is not mapped: {what}"));
        }
    }

    /// A foreign key of a mapped table: does the map follow it?
    fn mapped_foreign_key(&mut self, c: &Collection, key: &ForeignKey, entry: &EntryFacts, path: &str) {
        let Some(target) = self.map.collections.iter().position(|t| t.entry.is_match(&entry.path) && same_name(&t.table, &key.table))
        else {
            return;
        };
        let Some(other) = self.map.collections.get(target) else { return };
        let own = self.map.collections.iter().position(|o| o.name == c.name);
        let same = |a: &[String], b: &[String]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_name(a, b));
        let follows = |p: &super::Probe| {
            let fields: Vec<String> = p.fields.iter().map(|(f, _)| f.clone()).collect();
            matches!(&p.feed, Feed::Reference { collection, .. } if *collection == target) && same(&fields, &key.fields)
        };
        // The other direction also says that somebody thought of it, as long as the target's rows stay.
        let followed_back = other
            .probes
            .iter()
            .any(|p| matches!(&p.feed, Feed::Reference { collection, fields } if Some(*collection) == own && same(fields, &key.fields)));
        if c.probes.iter().any(follows) || (followed_back && other.on_erase != OnErase::Delete) {
            return;
        }
        let key_text = format!("{}({}) → {}", c.table, key.fields.join(", "), key.table);
        if other.on_erase == OnErase::Delete {
            let message =
                format!("foreign key {key_text} in {path} is no reference of the map: deleting from {} would leave it dangling", key.table);
            self.find(Level::Error, Some(c), None, message);
        } else {
            let message = format!(
                "foreign key {key_text} in {path} is no reference of the map: records that belong to the person by it are not found"
            );
            self.find(Level::Warning, Some(c), None, message);
        }
    }

    /// What concerns an entry as a whole: tables nobody mapped, and records that two collections claim.
    fn entry(&mut self, entry: &EntryFacts) {
        let naming: Vec<&Collection> = self.map.collections.iter().filter(|c| c.entry.is_match(&entry.path)).collect();
        let Some(first) = naming.first() else { return };
        let path = first.entry.display(&entry.path);
        let reading: Vec<&&Collection> = naming.iter().filter(|c| c.format.as_deref() != Some("path")).collect();
        if entry.tables.is_empty() {
            if reading.len() > 1 && entry.format.as_deref() != Some("sqlite") {
                let names: Vec<&str> = reading.iter().map(|c| c.name.as_str()).collect();
                self.find(Level::Error, None, None, format!("{path} is named by several collections: {}", names.join(", ")));
            }
            return;
        }
        if reading.is_empty() {
            return;
        }
        let mut by_table: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for c in &reading {
            by_table.entry(c.table.to_lowercase()).or_default().push(&c.name);
        }
        for (table, names) in by_table.iter().filter(|(_, names)| names.len() > 1) {
            self.find(Level::Error, None, None, format!("table {table} in {path} is named by several collections: {}", names.join(", ")));
        }
        for table in entry.tables.iter().filter(|t| !t.name.starts_with("sqlite_")) {
            if by_table.contains_key(&table.name.to_lowercase()) {
                continue;
            }
            let (level, what) = match self.map.unmapped {
                Unmapped::Halt => (
                    Level::Error,
                    "name it as a collection (`on_erase: preserve` with a ground if nobody is in it), or set `unmapped: preserve`",
                ),
                Unmapped::Redact | Unmapped::Preserve => (Level::Warning, "its rows stay as they are, whoever they speak of"),
            };
            self.find(level, None, None, format!("table {} in {path} is not mapped: {what}", table.name));
            for key in &table.foreign_keys {
                if let Some(target) = reading.iter().find(|c| same_name(&c.table, &key.table)) {
                    let level = if target.on_erase == OnErase::Delete { Level::Error } else { Level::Warning };
                    let message = format!(
                        "table {} in {path} is not mapped, but its foreign key ({}) refers to {}: {}",
                        table.name,
                        key.fields.join(", "),
                        key.table,
                        if level == Level::Error {
                            "deleting from there would leave it dangling"
                        } else {
                            "records that belong to the person by it are not found"
                        }
                    );
                    self.find(level, None, None, message);
                }
            }
        }
    }
}

/// Every field that the map names for a collection, wherever it does.
fn mapped_fields(c: &Collection, map: &DataMap) -> Vec<String> {
    let own = map.collections.iter().position(|o| o.name == c.name);
    let mut names: BTreeSet<String> = c.fields.keys().cloned().collect();
    names.extend(c.primary_key.iter().cloned());
    names.extend(c.retain.iter().flat_map(|r| r.until.fields()));
    for probe in &c.probes {
        names.extend(probe.fields.iter().map(|(f, _)| f.clone()));
        names.extend(probe.when.iter().flat_map(|w| w.fields()));
    }
    for probe in map.collections.iter().flat_map(|c| &c.probes) {
        if let Feed::Reference { collection, fields } = &probe.feed
            && Some(*collection) == own
        {
            names.extend(fields.iter().cloned());
        }
    }
    names.into_iter().collect()
}

/// SQL names fold ASCII case.
fn same_name(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

/// Whether a JSON path lies below another (`user.email` below `user`).
fn below(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.starts_with('.') || rest.starts_with('['))
}

/// Whether a column declared so takes this text. A declared type that is not known takes everything, as in SQLite.
fn text_fits(decl_type: &str, text: &str) -> bool {
    let upper = decl_type.to_ascii_uppercase();
    let is = |words: &[&str]| words.iter().any(|w| upper.contains(w));
    if is(&["CHAR", "TEXT", "CLOB", "BLOB", "JSON", "UUID"]) || upper.is_empty() {
        return true;
    }
    if is(&["DATE", "TIME"]) {
        return super::expr::parse_date(text).is_some();
    }
    if is(&["INT", "SERIAL"]) {
        return text.trim().parse::<i64>().is_ok();
    }
    if is(&["REAL", "FLOA", "DOUB", "NUMERIC", "DECIMAL", "MONEY"]) {
        return text.trim().parse::<f64>().is_ok();
    }
    if is(&["BOOL"]) {
        return matches!(text, "0" | "1" | "true" | "false");
    }
    true
}

/// The 20 of `VARCHAR(20)`.
fn declared_length(decl_type: &str) -> Option<usize> {
    if !decl_type.to_ascii_uppercase().contains("CHAR") {
        return None;
    }
    let (_, rest) = decl_type.split_once('(')?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn map(collections: &str, unmapped: &str) -> DataMap {
        let text = format!(
            "version: 1\nrepository: r\ndatasets:\n  d:\n    source: {{paths: x}}\n    unmapped: {unmapped}\n    collections:\n{collections}"
        );
        parse(&text, std::path::Path::new("reseal.yaml")).unwrap_or_else(|e| panic!("{e}")).datasets.remove("d").unwrap().map
    }

    fn column(name: &str, decl_type: &str, flags: &str) -> ColumnFacts {
        ColumnFacts { name: name.into(), decl_type: decl_type.into(), not_null: flags.contains('n'), unique: flags.contains('u') }
    }

    fn key(field: &str, table: &str) -> ForeignKey {
        ForeignKey { fields: vec![field.into()], table: table.into(), to_fields: vec!["id".into()] }
    }

    fn database(tables: Vec<TableFacts>) -> SourceFacts {
        let entry = EntryFacts { path: b"data/crm.db".to_vec(), format: Some("sqlite".into()), tables, columns: vec![] };
        let other = EntryFacts { path: b"data/logo.png".to_vec(), ..EntryFacts::default() };
        SourceFacts { entries: vec![entry, other] }
    }

    fn messages(findings: &[Finding], level: Level) -> Vec<&str> {
        findings.iter().filter(|f| f.level == level).map(|f| f.message.as_str()).collect()
    }

    fn has(findings: &[Finding], level: Level, part: &str) {
        assert!(messages(findings, level).iter().any(|m| m.contains(part)), "no {level:?} with {part:?} in {findings:#?}");
    }

    const CUSTOMER: &str = "      - name: customer
        entry: crm.db
        primary_key: id
        on_erase: anonymize
        fields:
          id: {identity: customer_id}
          email: {identity: email, action: {strategy: redact}}
          name: {action: {strategy: null_rewrite}}
          born: {action: {strategy: random_string_rewrite}}
";

    fn customer_table() -> TableFacts {
        let columns =
            vec![column("Id", "INTEGER", "nu"), column("email", "VARCHAR(20)", ""), column("name", "TEXT", ""), column("born", "TEXT", "")];
        TableFacts { name: "Customer".into(), columns, ..TableFacts::default() }
    }

    #[test]
    fn a_map_that_fits_has_nothing_but_the_note_about_other_entries() {
        let findings = check(&map(CUSTOMER, "halt"), &database(vec![customer_table()]));
        assert_eq!(findings.len(), 1, "{findings:#?}");
        has(&findings, Level::Note, "1 entries are named by no collection and are kept as they are: data/logo.png");
    }

    #[test]
    fn strategies_that_a_column_refuses_are_errors() {
        let mut table = customer_table();
        table.columns = vec![
            column("id", "INTEGER", "nu"),
            column("email", "VARCHAR(5)", "u"),
            column("name", "TEXT", "n"),
            column("born", "DATE", ""),
        ];
        let findings = check(&map(CUSTOMER, "halt"), &database(vec![table]));
        has(&findings, Level::Error, "column email is unique");
        has(&findings, Level::Error, "column name is NOT NULL");
        has(&findings, Level::Error, "column born is declared DATE");
        has(&findings, Level::Warning, "at most 5 fit");
    }

    #[test]
    fn what_nobody_mapped_is_found() {
        let mut table = customer_table();
        table.columns.push(column("mother", "TEXT", ""));
        table.columns.remove(2);
        table.triggers = vec!["log".into()];
        let visits = TableFacts { name: "visits".into(), foreign_keys: vec![key("customer_id", "customer")], ..TableFacts::default() };
        let facts = database(vec![table, visits, TableFacts { name: "sqlite_sequence".into(), ..TableFacts::default() }]);
        let findings = check(&map(CUSTOMER, "halt"), &facts);
        has(&findings, Level::Error, "column \"mother\" in data/crm.db is not mapped");
        has(&findings, Level::Error, "has no column \"name\"");
        has(&findings, Level::Error, "table visits in data/crm.db is not mapped");
        has(&findings, Level::Warning, "foreign key (customer_id) refers to customer");
        has(&findings, Level::Note, "trigger log stays silent");
        assert!(!findings.iter().any(|f| f.message.contains("sqlite_sequence")));
        has(&check(&map(CUSTOMER, "preserve"), &facts), Level::Warning, "table visits");
        has(&check(&map(CUSTOMER, "redact"), &facts), Level::Note, "it is redacted");
    }

    #[test]
    fn foreign_keys_that_the_map_does_not_follow_are_found() {
        let orders = |reference: &str| {
            format!(
                "      - {{name: customer, entry: crm.db, primary_key: id, on_erase: delete, fields: {{id: {{identity: customer_id}}}}}}
      - {{name: orders, entry: crm.db, on_erase: delete, fields: {{code: {{identity: code}}}}{reference}}}\n"
            )
        };
        let table = TableFacts {
            name: "orders".into(),
            columns: vec![column("code", "TEXT", ""), column("customer_id", "INTEGER", "")],
            foreign_keys: vec![key("customer_id", "Customer")],
            triggers: vec![],
        };
        let facts = database(vec![customer_table(), table]);
        has(&check(&map(&orders(""), "halt"), &facts), Level::Error, "orders(customer_id) → Customer in data/crm.db is no reference");
        let followed = check(&map(&orders(", references: [{fields: customer_id, to: customer}]"), "halt"), &facts);
        assert!(messages(&followed, Level::Error).is_empty(), "{followed:#?}");
    }

    #[test]
    fn record_formats_are_checked_by_their_columns() {
        let collections = "      - {name: signups, entry: 'exports/*.csv', on_erase: anonymize, fields: {Email: {identity: email, action: {strategy: redact}}}}\n      - {name: u, entry: 'mail/{email}.txt', on_erase: delete}\n      - {name: gone, entry: gone.csv, on_erase: delete, fields: {e: {identity: email}}}\n";
        let csv = |path: &str, columns: &[&str]| EntryFacts {
            path: path.into(),
            format: Some("csv".into()),
            columns: columns.iter().map(|c| c.to_string()).collect(),
            tables: vec![],
        };
        let mail = EntryFacts { path: b"mail/jane@example.org.txt".to_vec(), ..EntryFacts::default() };
        let facts = SourceFacts { entries: vec![csv("exports/a.csv", &["Email", "Age"]), csv("exports/b.csv", &["email"]), mail] };
        let findings = check(&map(collections, "halt"), &facts);
        has(&findings, Level::Error, "column \"Age\" in exports/a.csv is not mapped");
        has(&findings, Level::Error, "exports/b.csv has no field \"Email\"; did you mean \"email\"?");
        has(&findings, Level::Warning, "no entry matches \"gone.csv\"");
        assert!(!findings.iter().any(|f| f.message.contains("jane")), "no identity in a finding: {findings:#?}");
    }
}
