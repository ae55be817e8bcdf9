//! What the live source holds (names of entries, tables and columns, never a value), for the check of a data map before a backup
//! depends on it, and for a draft of one. Nothing is written anywhere, and no repository is needed.

use crate::config::{Config, Dataset, Source};
use crate::datamap::check::{ColumnFacts, EntryFacts, ForeignKey, SourceFacts, TableFacts};
use crate::datamap::{Collection, DataMap, EntryPattern};
use crate::engine::matching::is_path_collection;
use crate::env::Env;
use crate::format::RecordFormat;
use crate::format::cutter::{CutSizes, Gear, HEAD, RecordPieces, max_record};
use crate::format::registry::{self, Serves};
use crate::format::sqlite::schema::{FtsContent, Schema, TableKind};
use crate::repository::entry::{EntryKind, display_path};
use crate::source::PathGlobs;
use crate::source::walk::{Severity, Walk, WalkOptions, Walked};
use crate::{Error, Result};
use rusqlite::{Connection, OpenFlags};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Bytes of an entry of records that are looked at for column names.
const LOOK: u64 = 32 << 20;

/// What was gathered.
#[derive(Debug, Clone, Default)]
pub struct Gathered {
    /// Entries, tables, columns.
    pub facts: SourceFacts,
    /// What could not be looked into, and why.
    pub problems: Vec<String>,
}

/// Which entries are looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Those that a collection names.
    Mapped,
    /// All whose format is known.
    All,
}

/// Looks at a dataset's source.
pub fn gather(config: &Config, dataset: &Dataset, depth: Depth, env: &Env) -> Result<Gathered> {
    let mut look = Look { map: &dataset.map, depth, memory: config.memory, env, out: Gathered::default() };
    env.monitor.phase(&format!("looking at {}", dataset.name), None);
    match &dataset.source {
        Source::Paths { roots, include, exclude, exclude_caches, one_file_system } => {
            let options = WalkOptions {
                include: globs(include)?,
                exclude: globs(exclude)?,
                exclude_caches: *exclude_caches,
                one_file_system: *one_file_system,
                skip_repository: config.own_folders(),
            };
            let roots: Vec<(Vec<u8>, PathBuf)> = roots.iter().map(|r| (r.stored.clone().into_bytes(), r.path.clone())).collect();
            look.walk(Walk::of_roots(&roots, options)?)?;
        }
        Source::Sqlite { path, entry } => look.file(entry.as_bytes(), path)?,
        Source::Command { entry, .. } | Source::Stdin { entry } => {
            look.out.facts.entries.push(EntryFacts { path: entry.clone().into_bytes(), ..EntryFacts::default() });
            look.out
                .problems
                .push(format!("{entry} was not looked into: it comes from a command or from standard input, which is not run for this"));
        }
    }
    Ok(look.out)
}

fn globs(patterns: &[EntryPattern]) -> Result<PathGlobs> {
    PathGlobs::new(&patterns.iter().map(|p| p.source.as_str()).collect::<Vec<_>>())
}

struct Look<'a> {
    map: &'a DataMap,
    depth: Depth,
    /// Bytes that looking may take.
    memory: u64,
    env: &'a Env,
    out: Gathered,
}

impl Look<'_> {
    fn walk(&mut self, walk: Walk) -> Result<()> {
        for walked in walk {
            self.env.stop.check("nothing was changed; run the same command again")?;
            match walked {
                Walked::Problem(p) if p.severity > Severity::Note => self.out.problems.push(p.to_string()),
                Walked::Problem(_) => {}
                // What lies beside a database is in its snapshot, and is no entry.
                Walked::Item(item) if item.entry.kind == EntryKind::File && item.sidecar_of.is_none() => {
                    self.file(&item.entry.path, &item.path)?
                }
                Walked::Item(_) => {}
            }
        }
        Ok(())
    }

    fn file(&mut self, entry: &[u8], path: &Path) -> Result<()> {
        let mut facts = EntryFacts { path: entry.to_vec(), ..EntryFacts::default() };
        let naming: Vec<&Collection> = self.map.collections.iter().filter(|c| !is_path_collection(c) && c.entry.is_match(entry)).collect();
        if !naming.is_empty() || self.depth == Depth::All {
            match look_into(entry, path, &naming, self.memory, self.env) {
                Ok(Some(seen)) => facts = EntryFacts { path: entry.to_vec(), ..seen },
                Ok(None) => {}
                Err(e @ Error::Interrupted(_)) => return Err(e),
                Err(e) => self.out.problems.push(format!("{} was not looked into: {}", display_path(entry), detail(&e))),
            }
        }
        self.out.facts.entries.push(facts);
        Ok(())
    }
}

/// Without the entry's name, which stands in front already.
fn detail(e: &Error) -> String {
    match e {
        Error::Format { detail, .. } => detail.clone(),
        other => other.to_string(),
    }
}

fn look_into(entry: &[u8], path: &Path, naming: &[&Collection], memory: u64, env: &Env) -> Result<Option<EntryFacts>> {
    let mut file = File::open(path).map_err(Error::io("read", path))?;
    let mut head = Vec::new();
    file.by_ref().take(HEAD as u64).read_to_end(&mut head).map_err(Error::io("read", path))?;
    // What its bytes and name say, so that the check can tell when the map says something else.
    let serves = match registry::detect(entry, &head) {
        Some(s) => Some(s),
        None => naming.iter().find_map(|c| c.format.as_deref().and_then(registry::by_name)),
    };
    let mut facts = EntryFacts { format: serves.map(|s| s.name().to_string()), ..EntryFacts::default() };
    match serves {
        // An empty file is an empty database.
        Some(Serves::Sqlite) if !head.is_empty() => facts.tables = tables(path)?,
        Some(Serves::Records(format)) => {
            let plain = plain_collection()?;
            let collection = naming.first().copied().unwrap_or(&plain);
            let mut whole = head.as_slice().chain(file).take(LOOK);
            facts.columns = columns(entry, format, collection, &mut whole, max_record(memory), env)?;
        }
        _ => {}
    }
    Ok(Some(facts))
}

/// A collection that says nothing about the dialect: what is not mapped yet is looked at as it is detected.
fn plain_collection() -> Result<Collection> {
    const ANY: &str = "version: 1\nrepository: none\ndatasets: {any: {source: {stdin: true}, collections: \
                       [{name: any, entry: '**', format: csv, on_erase: delete, fields: {any: {identity: any}}}]}}\n";
    let config = crate::config::parse(ANY, Path::new("reseal.yaml"))?;
    let collection = config.datasets.into_values().flat_map(|d| d.map.collections).next();
    collection.ok_or_else(|| Error::Refused("a plain collection cannot be made".into()))
}

/// Columns in the order of the header, then whatever else the records have.
fn columns(
    entry: &[u8],
    format: &'static dyn RecordFormat,
    collection: &Collection,
    from: &mut dyn Read,
    max_record: usize,
    env: &Env,
) -> Result<Vec<String>> {
    let gear = Gear::new(&[0; 32]);
    let mut columns = Vec::new();
    let mut seen = BTreeSet::new();
    for piece in RecordPieces::open(format, collection, from, display_path(entry), &gear, CutSizes::bytes(), max_record)? {
        env.stop.check("nothing was changed; run the same command again")?;
        let piece = piece?;
        env.monitor.advance(piece.bytes.len() as u64);
        for name in format.columns(&piece.context)?.into_iter().chain(format.unmapped(&piece.context, &piece.bytes, &[])?) {
            if seen.insert(name.clone()) {
                columns.push(name);
            }
        }
    }
    Ok(columns)
}

/// A database's tables, as far as an erasure works on them: an index over another table's text and a view hold nothing of their own.
fn tables(path: &Path) -> Result<Vec<TableFacts>> {
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(Error::sqlite("opening the database"))?;
    db.busy_timeout(std::time::Duration::from_secs(5)).map_err(Error::sqlite("opening the database"))?;
    let schema = Schema::load(&db)?;
    let holds = |t: &&crate::format::sqlite::schema::Table| match t.kind {
        TableKind::Rowid | TableKind::WithoutRowid => true,
        TableKind::Virtual => t.full_text.as_ref().is_some_and(|f| f.content == FtsContent::Own),
        TableKind::Shadow | TableKind::View => false,
    };
    Ok(schema
        .tables()
        .filter(holds)
        .map(|t| TableFacts {
            name: t.name.clone(),
            columns: t
                .columns
                .iter()
                .filter(|c| !c.hidden && c.generated.is_none())
                .map(|c| ColumnFacts { name: c.name.clone(), decl_type: c.decl_type.clone(), not_null: c.not_null, unique: c.unique })
                .collect(),
            foreign_keys: t
                .foreign_keys
                .iter()
                .map(|f| ForeignKey {
                    fields: f.columns.iter().map(|(own, _)| own.clone()).collect(),
                    table: f.parent.clone(),
                    to_fields: f.columns.iter().map(|(_, other)| other.clone()).collect(),
                })
                .collect(),
            triggers: schema.triggers_on(&t.name).map(|trigger| trigger.name.clone()).collect(),
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datamap::check::{Level, check};
    use crate::engine::mapsuggest::suggest;

    fn source() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("data")).unwrap();
        let db = Connection::open(dir.path().join("data/crm.db")).unwrap();
        db.execute_batch(
            "CREATE TABLE customer (id INTEGER PRIMARY KEY, email TEXT NOT NULL UNIQUE, name TEXT, phone TEXT, note TEXT);
             CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER NOT NULL REFERENCES customer(id), total REAL);
             CREATE TABLE product (id INTEGER PRIMARY KEY, title TEXT);
             CREATE VIEW everybody AS SELECT email FROM customer;",
        )
        .unwrap();
        std::fs::write(dir.path().join("data/list.csv"), "Email,Stars\njane@example.org,5\n").unwrap();
        std::fs::write(dir.path().join("data/events.ndjson"), "{\"user\":{\"email\":\"jane@example.org\"},\"what\":\"login\"}\n").unwrap();
        std::fs::write(dir.path().join("data/notes.txt"), "nothing\n").unwrap();
        let path = dir.path().join("reseal.yaml");
        (dir, path)
    }

    fn load(path: &Path, rest: &str) -> Config {
        std::fs::write(path, format!("version: 1\nrepository: ./backups\ndatasets:\n  crm:\n    source: {{paths: [./data]}}\n{rest}"))
            .unwrap();
        crate::config::load(path).unwrap()
    }

    #[test]
    fn the_source_tells_its_tables_and_columns() {
        let (_dir, path) = source();
        let config = load(&path, "");
        let gathered = gather(&config, &config.datasets["crm"], Depth::All, &Env::system()).unwrap();
        assert!(gathered.problems.is_empty(), "{:?}", gathered.problems);
        let entry = |name: &str| gathered.facts.entries.iter().find(|e| e.path == name.as_bytes()).unwrap();
        assert_eq!(entry("data/list.csv").columns, ["Email", "Stars"]);
        assert_eq!(entry("data/events.ndjson").columns, ["user.email", "what"]);
        let tables: Vec<&str> = entry("data/crm.db").tables.iter().map(|t| t.name.as_str()).collect();
        assert_eq!(tables, ["customer", "orders", "product"]);
        assert_eq!(entry("data/crm.db").tables[1].foreign_keys[0].fields, ["customer_id"]);
        assert!(entry("data/notes.txt").columns.is_empty());
    }

    #[test]
    fn what_is_suggested_loads_and_passes_its_own_check() {
        let (_dir, path) = source();
        let config = load(&path, "");
        let gathered = gather(&config, &config.datasets["crm"], Depth::All, &Env::system()).unwrap();
        let draft = suggest(&config.datasets["crm"], &gathered.facts);
        assert_eq!(draft.collections, 4, "{}", draft.yaml);
        for part in ["customer_id", "identity: email", "direction: from", "entry: data/list.csv", "user.email"] {
            assert!(draft.yaml.contains(part), "{part} is not in\n{}", draft.yaml);
        }
        std::fs::write(path.with_file_name("map.yaml"), &draft.yaml).unwrap();
        let config = load(&path, "    map: map.yaml\n");
        let dataset = &config.datasets["crm"];
        let gathered = gather(&config, dataset, Depth::Mapped, &Env::system()).unwrap();
        let errors: Vec<_> = check(&dataset.map, &gathered.facts).into_iter().filter(|f| f.level == Level::Error).collect();
        assert!(errors.is_empty(), "{errors:?}\n{}", draft.yaml);
    }
}
