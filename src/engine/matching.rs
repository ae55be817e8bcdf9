//! Finding everything of a person in one archive: identities first, then references to a fixpoint, across entries and formats,
//! then mentions in text, then paths.

use super::archive::OpenArchive;
use super::session::View;
use super::wanted::{Wanted, Who};
use crate::datamap::{Collection, DataMap};
use crate::env::Env;
use crate::format::records::RecordsEditor;
use crate::format::registry::{self, Serves};
use crate::format::sqlite::editor::SqliteEditor;
use crate::format::sqlite::overlay;
use crate::format::{EntryEditor, Found, Mentions};
use crate::repository::entry::{Entry, EntryKind};
use crate::{Error, Result};
use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::sync::Arc;

/// Records of one person that a single run will follow at most: a map whose references lead to everybody is a mistake.
const MAX_RECORDS: usize = 2_000_000;

/// A mapped entry with its editor.
pub struct Bound<'k> {
    /// The entry.
    pub entry: Entry,
    /// Collections whose records it holds.
    pub collections: Vec<usize>,
    /// The editor, or why there is none.
    pub editor: Result<Box<dyn EntryEditor + 'k>>,
    /// Name of the format.
    pub format: String,
}

/// A record found.
pub struct Match {
    /// Index into the bound entries.
    pub entry: usize,
    /// The record.
    pub found: Found,
    /// For whom.
    pub who: Who,
    /// Found only because its text mentions the person.
    pub by_text: bool,
}

/// An entry that is a record as a whole.
pub struct PathMatch {
    /// The entry's path.
    pub path: Vec<u8>,
    /// The collection.
    pub collection: usize,
    /// For whom.
    pub who: Who,
}

/// Everything of the requested people in one archive.
#[derive(Default)]
pub struct Matches {
    /// Records.
    pub records: Vec<Match>,
    /// Whole entries.
    pub paths: Vec<PathMatch>,
    /// Entries that had to be read because their identity blocks do not cover the map.
    pub fell_back: Vec<String>,
    /// Entries that could not be searched, and why.
    pub failed: Vec<(String, String)>,
}

/// Limits of a search.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of written pages or changed pieces kept in memory per entry.
    pub overlay: usize,
}

/// Whether a collection's records are whole entries.
pub fn is_path_collection(collection: &Collection) -> bool {
    collection.format.as_deref() == Some("path")
}

/// Opens an editor for every entry that a collection names. Entries that no collection names are not even looked into.
pub fn bind<'k>(map: &DataMap, view: &'k View, archive: &OpenArchive, limits: Limits, env: &Env) -> Result<Vec<Bound<'k>>> {
    let mut bound: Vec<Bound<'k>> = Vec::new();
    let mut by_path: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut links: BTreeMap<Vec<u8>, Vec<usize>> = BTreeMap::new();
    let named = |path: &[u8]| -> Vec<usize> {
        (0..map.collections.len())
            .filter(|c| !is_path_collection(&map.collections[*c]) && map.collections[*c].entry.matches(path).is_some())
            .collect()
    };
    for entry in archive.entries() {
        env.stop.check("nothing was changed; run the same command again")?;
        let entry = entry?;
        let collections = named(&entry.path);
        if collections.is_empty() {
            continue;
        }
        match entry.kind {
            EntryKind::File => {
                by_path.insert(entry.path.clone(), bound.len());
                bound.push(open(map, view, archive, limits, entry, collections)?);
            }
            EntryKind::Hardlink => {
                if let Some(target) = &entry.link {
                    links.entry(target.to_vec()).or_default().extend(collections);
                }
            }
            _ => {}
        }
    }
    // A collection may name a file by another of its names than the one that carries the bytes.
    links.retain(|target, collections| match by_path.get(target) {
        Some(i) => !collections.iter().all(|c| bound[*i].collections.contains(c)),
        None => true,
    });
    if !links.is_empty() {
        for entry in archive.entries() {
            let entry = entry?;
            if let Some(extra) = links.get(&entry.path) {
                let mut collections = named(&entry.path);
                collections.extend(extra);
                collections.sort_unstable();
                collections.dedup();
                let opened = open(map, view, archive, limits, entry, collections)?;
                match by_path.get(&opened.entry.path) {
                    Some(i) => bound[*i] = opened,
                    None => bound.push(opened),
                }
            }
        }
    }
    Ok(bound)
}

fn open<'k>(
    map: &DataMap,
    view: &'k View,
    archive: &OpenArchive,
    limits: Limits,
    entry: Entry,
    collections: Vec<usize>,
) -> Result<Bound<'k>> {
    let head = match &entry.mapped {
        Some(_) => Vec::new(),
        None => {
            let mut head = Vec::new();
            archive.read(&entry)?.take(65536).read_to_end(&mut head).map_err(|e| Error::damaged(entry.display_path(), e.to_string()))?;
            head
        }
    };
    let (editor, format) = match kind_of(map, &entry, &collections, &head) {
        Err(e) => (Err(e), String::new()),
        Ok(kind) => {
            let name = kind.name().to_string();
            (editor_for(map, view, archive, limits, &entry, &collections, kind), name)
        }
    };
    Ok(Bound { entry, collections, editor, format })
}

fn editor_for<'k>(
    map: &DataMap,
    view: &'k View,
    archive: &OpenArchive,
    limits: Limits,
    entry: &Entry,
    collections: &[usize],
    kind: Serves,
) -> Result<Box<dyn EntryEditor + 'k>> {
    if entry.segments.is_some() {
        return Err(Error::format(
            entry.display_path(),
            "was archived as a sparse file before the data map named it, and cannot be edited in place",
        ));
    }
    let content = Arc::new(archive.content(entry, &view.marks)?);
    Ok(match kind {
        Serves::Sqlite => {
            let limits = overlay::Limits { overlay: limits.overlay as u64, ..overlay::Limits::default() };
            Box::new(SqliteEditor::open(content, view.dataset.token_key(), limits)?)
        }
        Serves::Records(format) => {
            Box::new(RecordsEditor::new(content, format, &map.collections[collections[0]], view.dataset.token_key())?)
        }
        Serves::Path => return Err(Error::format(entry.display_path(), "is a record as a whole and has none inside")),
    })
}

/// The format that serves an entry: what it was cut as, else what its collections say, else its name and first bytes.
fn kind_of(map: &DataMap, entry: &Entry, collections: &[usize], head: &[u8]) -> Result<Serves> {
    if let Some(mapped) = &entry.mapped
        && let Some(kind) = registry::by_name(&mapped.format)
    {
        return Ok(kind);
    }
    let mut chosen: Option<Serves> = None;
    for c in collections {
        let kind = registry::serve(&map.collections[*c], &entry.path, head)?;
        match &chosen {
            Some(k) if k.name() != kind.name() => {
                return Err(Error::format(
                    entry.display_path(),
                    format!("collections disagree about its format: {} and {}", k.name(), kind.name()),
                ));
            }
            _ => chosen = Some(kind),
        }
    }
    chosen.ok_or_else(|| Error::format(entry.display_path(), "no collection names it"))
}

/// Finds everything. `mentions` holds one searcher per request, for `scan` fields.
pub fn find_all(
    map: &DataMap,
    archive: &OpenArchive,
    bound: &mut [Bound<'_>],
    wanted: &mut Wanted<'_>,
    mentions: &[Option<Box<dyn Mentions>>],
    env: &Env,
) -> Result<Matches> {
    let mut matches = Matches::default();
    loop {
        while let Some(((c, p), fresh)) = wanted.take_fresh() {
            env.stop.check("nothing was changed; run the same command again")?;
            let Some(probe) = map.collections.get(c).and_then(|c| c.probes.get(p)) else { continue };
            for (i, b) in bound.iter_mut().enumerate().filter(|(_, b)| b.collections.contains(&c)) {
                let Ok(editor) = &mut b.editor else { continue };
                match editor.find(map, c, probe, &fresh) {
                    Ok(found) => {
                        for f in found {
                            let who = wanted.who_wants(map, &f);
                            wanted.feed_references(map, &f, &who);
                            matches.records.push(Match { entry: i, found: f, who, by_text: false });
                        }
                    }
                    Err(e) => b.editor = Err(e),
                }
                if matches.records.len() > MAX_RECORDS {
                    return Err(Error::Refused(format!(
                        "the references of the data map lead to more than {MAX_RECORDS} records; check `references` and `shared`"
                    )));
                }
            }
        }
        // Requests whose records overlap: what one found may belong to another too, with everything that hangs on it.
        let mut changed = false;
        for m in &mut matches.records {
            let who = wanted.who_wants(map, &m.found);
            if who != m.who {
                m.who.extend(who);
                wanted.feed_references(map, &m.found, &m.who);
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    for (who, searcher) in mentions.iter().enumerate() {
        let Some(searcher) = searcher else { continue };
        for (i, b) in bound.iter_mut().enumerate() {
            for c in b.collections.clone() {
                if !map.collections[c].fields.values().any(|f| f.scan) {
                    continue;
                }
                let Ok(editor) = &mut b.editor else { continue };
                match editor.find_text(map, c, searcher.as_ref()) {
                    Ok(found) => {
                        matches.records.extend(found.into_iter().map(|f| Match {
                            entry: i,
                            found: f,
                            who: Who::from([who]),
                            by_text: true,
                        }));
                    }
                    Err(e) => b.editor = Err(e),
                }
            }
        }
    }
    // A text that names two of the people was returned for the first only.
    for m in &mut matches.records {
        for (who, searcher) in mentions.iter().enumerate() {
            if let Some(s) = searcher
                && scan_texts(map, &m.found).any(|t| !s.spans(t).is_empty())
            {
                m.who.insert(who);
            }
        }
    }
    matches.paths = find_paths(map, archive, wanted)?;
    for b in bound.iter() {
        match &b.editor {
            Ok(editor) if editor.fell_back() => matches.fell_back.push(b.entry.display_path()),
            Ok(_) => {}
            Err(e) => matches.failed.push((b.entry.display_path(), e.to_string())),
        }
    }
    Ok(matches)
}

/// The texts of a record's `scan` fields.
pub fn scan_texts<'a>(map: &'a DataMap, found: &'a Found) -> impl Iterator<Item = &'a str> {
    map.collections[found.collection]
        .fields
        .values()
        .filter(|f| f.scan)
        .flat_map(|f| found.values.get(&f.name).into_iter().flatten())
        .filter_map(|v| match v {
            crate::datamap::Value::Text(t) => Some(t.as_ref()),
            _ => None,
        })
}

fn find_paths(map: &DataMap, archive: &OpenArchive, wanted: &Wanted<'_>) -> Result<Vec<PathMatch>> {
    let collections: Vec<usize> = (0..map.collections.len()).filter(|c| is_path_collection(&map.collections[*c])).collect();
    let mut out = Vec::new();
    if collections.is_empty() {
        return Ok(out);
    }
    for entry in archive.entries() {
        let entry = entry?;
        for c in &collections {
            if let Some(captures) = path_captures(&map.collections[*c], &entry) {
                let who = wanted.who_wants_path(&captures);
                if !who.is_empty() {
                    out.push(PathMatch { path: entry.path.clone(), collection: *c, who });
                    break;
                }
            }
        }
    }
    Ok(out)
}

/// The identities that an entry's path carries for a collection. A folder that `…/{id}/**` fills belongs to the record: its name carries the identity too.
fn path_captures(collection: &Collection, entry: &Entry) -> Option<Vec<(String, String)>> {
    if let Some(captures) = collection.entry.matches(&entry.path) {
        return Some(captures);
    }
    if entry.kind == EntryKind::Directory {
        let mut below = entry.path.clone();
        below.extend_from_slice(b"/x");
        let captures = collection.entry.matches(&below)?;
        // Only folders at or below the placeholder: each captured value must stand in the folder's own path.
        let path = String::from_utf8_lossy(&entry.path);
        return captures.iter().all(|(_, v)| path.contains(v.as_str())).then_some(captures);
    }
    None
}
