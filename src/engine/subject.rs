//! Where a person is (no values), and what is held about them (access and portability, GDPR Art. 15 and 20).

use super::event::IdentityTokens;
use super::identity::{Subject, kinds_of, parse_identities};
use super::matching::{Bound, Limits, Matches, bind, find_all};
use super::propagate::token_mentions;
use super::session::{NO_HEAD, Session, View};
use super::wanted::{Person, Wanted};
use crate::config;
use crate::datamap::Value;
use crate::format::Mentions;
use crate::format::mentions::PlainMentions;
use crate::repository::{ArchiveId, Head};
use crate::{Error, Result};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::path::Path;

/// One archive's part of a search.
#[derive(Debug, Clone)]
pub struct Place {
    /// Dataset.
    pub dataset: String,
    /// Archive.
    pub archive: ArchiveId,
    /// Its backup time.
    pub created_at: Timestamp,
    /// Records by collection.
    pub collections: BTreeMap<String, u64>,
    /// Entries that could not be searched, and why.
    pub failed: Vec<(String, String)>,
    /// Entries that had to be read as a whole.
    pub fell_back: Vec<String>,
}

fn searcher(config: &config::Dataset, subject: &Subject) -> Result<Option<Box<dyn Mentions>>> {
    if !config.map.collections.iter().any(|c| c.fields.values().any(|f| f.scan)) {
        return Ok(None);
    }
    let values = subject.identities.iter().map(|(k, v)| (k.clone(), v.iter().map(|c| c.join(" ")).collect())).collect();
    Ok(Some(Box::new(PlainMentions::new(values)?)))
}

fn search<'k>(
    session: &Session,
    config: &config::Dataset,
    view: &'k View,
    head: &Head,
    subject: &Subject,
) -> Result<(Vec<Bound<'k>>, Matches)> {
    let archive = view.open(head);
    let mut bound = bind(&config.map, view, &archive, Limits::alone(session.config.memory), &session.env)?;
    let mut wanted = Wanted::new(&config.map, view.dataset.token_key(), &[Person::Plain(subject)])?;
    let matches = find_all(&config.map, &archive, &mut bound, &mut wanted, &[searcher(config, subject)?], &session.env)?;
    Ok((bound, matches))
}

fn by_collection(config: &config::Dataset, matches: &Matches) -> BTreeMap<String, u64> {
    let mut out = BTreeMap::new();
    for c in matches.records.iter().map(|m| m.found.collection).chain(matches.paths.iter().map(|p| p.collection)) {
        if let Some(collection) = config.map.collections.get(c) {
            *out.entry(collection.name.clone()).or_default() += 1;
        }
    }
    out
}

/// The person in an identity file, against the kinds of every configured dataset.
pub fn one_subject(session: &Session, text: &str) -> Result<Subject> {
    let mut kinds = BTreeMap::new();
    for d in session.config.datasets.values() {
        kinds.extend(kinds_of(&d.map));
    }
    let [subject] = parse_identities(text, &kinds)?
        .try_into()
        .map_err(|_| Error::Usage("give the identities of one person; `request open` takes many".into()))?;
    Ok(subject)
}

/// Every archive of every dataset with a map, oldest first.
pub fn find(session: &Session, subject: &Subject) -> Result<Vec<Place>> {
    session.reading(|places: &Vec<Place>| places.iter().any(|p| !p.failed.is_empty()), |_| find_now(session, subject))
}

fn find_now(session: &Session, subject: &Subject) -> Result<Vec<Place>> {
    let mut out = Vec::new();
    for config in session.config.datasets.values().filter(|d| !d.map.collections.is_empty()) {
        if !session.is_backed_up(&config.name)? {
            continue;
        }
        let view = session.view(&config.name)?;
        let heads = session.heads(&config.name)?;
        for (key, e) in &heads.damaged {
            session.env.monitor.warn(&format!("{key} was not searched: {e}"));
        }
        for archive in session.missing_archives(&config.name, &heads)? {
            session.env.monitor.warn(&format!("archive {archive} was not searched: {NO_HEAD}"));
        }
        session.env.monitor.phase(&format!("searching {}", config.name), Some(heads.latest.len() as u64));
        for listed in heads.latest {
            let (_, matches) = search(session, config, &view, &listed.head, subject)?;
            session.env.monitor.advance(1);
            out.push(Place {
                dataset: config.name.clone(),
                archive: listed.head.archive,
                created_at: listed.head.created_at,
                collections: by_collection(config, &matches),
                failed: matches.failed,
                fell_back: matches.fell_back,
            });
        }
    }
    Ok(out)
}

/// Records per collection of each person, in one archive, from tokens alone.
pub fn count_by_tokens(
    session: &Session,
    config: &config::Dataset,
    view: &View,
    head: &Head,
    people: &[&[IdentityTokens]],
) -> Result<Vec<BTreeMap<String, u64>>> {
    let archive = view.open(head);
    let mut out = Vec::new();
    for tokens in people {
        let mut bound = bind(&config.map, view, &archive, Limits::alone(session.config.memory), &session.env)?;
        let mut wanted = Wanted::new(&config.map, view.dataset.token_key(), &[Person::Tokens(tokens)])?;
        let mentions = token_mentions(&config.map, &view.dataset, &[tokens]);
        let matches = find_all(&config.map, &archive, &mut bound, &mut wanted, &mentions, &session.env)?;
        out.push(by_collection(config, &matches));
    }
    Ok(out)
}

/// What an access export wrote.
#[derive(Debug, Clone, Default)]
pub struct Exported {
    /// Files written, relative to the target.
    pub files: Vec<String>,
    /// Records.
    pub records: u64,
    /// From which archives, by dataset.
    pub archives: BTreeMap<String, ArchiveId>,
}

/// Writes what the latest archive of each dataset holds about a person: `records.json`, one CSV per collection, and a page to read.
pub fn export(session: &Session, subject: &Subject, to: &Path) -> Result<Exported> {
    std::fs::create_dir_all(to).map_err(Error::io("create", to))?;
    if std::fs::read_dir(to).map_err(Error::io("read", to))?.next().is_some() {
        return Err(Error::Usage(format!("{} is not empty; choose a new directory", to.display())));
    }
    let mut exported = Exported::default();
    let mut json = serde_json::Map::new();
    let mut page = String::from(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>Personal data held in backups</title>\n<h1>Personal data held in backups</h1>\n",
    );
    for config in session.config.datasets.values().filter(|d| !d.map.collections.is_empty()) {
        if !session.is_backed_up(&config.name)? {
            continue;
        }
        let view = session.view(&config.name)?;
        let Some(latest) = session.heads(&config.name)?.latest.pop() else { continue };
        // What is handed out must not hold anybody who was erased: the records of one person can mention another.
        let gated = super::gate::pass(session, &view, &latest, None)?;
        if !gated.edit.is_empty() {
            return Err(Error::Refused(format!(
                "erasures are outstanding for the latest archive of {}; run `reseal propagate` first, then export",
                config.name
            )));
        }
        let (bound, matches) = search(session, config, &view, &latest.head, subject)?;
        if let Some((entry, why)) = matches.failed.first() {
            return Err(Error::Verification(format!("{entry} could not be searched ({why}); the export would be incomplete")));
        }
        exported.archives.insert(config.name.clone(), latest.head.archive);
        let mut collections: BTreeMap<usize, Vec<BTreeMap<String, String>>> = BTreeMap::new();
        let mut rows_json: BTreeMap<usize, Vec<serde_json::Value>> = BTreeMap::new();
        for m in &matches.records {
            exported.records += 1;
            let row: BTreeMap<String, String> = m
                .found
                .values
                .iter()
                .map(|(k, v)| (k.clone(), v.iter().filter_map(|v| v.canonical().map(|t| t.into_owned())).collect::<Vec<_>>().join("; ")))
                .collect();
            rows_json.entry(m.found.collection).or_default().push(serde_json::json!({
                "entry": bound[m.entry].entry.display_path(),
                "fields": m.found.values.iter().map(|(k, v)| (k.clone(), json_values(v))).collect::<serde_json::Map<_, _>>(),
            }));
            collections.entry(m.found.collection).or_default().push(row);
        }
        let mut dataset_json = serde_json::Map::new();
        for (c, rows) in &collections {
            let name = &config.map.collections[*c].name;
            let file = format!("{}.{}.csv", config.name, name);
            write(to, &file, csv(rows).as_bytes())?;
            exported.files.push(file);
            page.push_str(&table(&format!("{} / {}", config.name, name), rows));
        }
        for (c, rows) in rows_json {
            dataset_json.insert(config.map.collections[c].name.clone(), serde_json::Value::Array(rows));
        }
        if !matches.paths.is_empty() {
            exported.records += matches.paths.len() as u64;
            let paths: Vec<String> = matches.paths.iter().map(|p| crate::repository::entry::display_path(&p.path)).collect();
            page.push_str(&format!(
                "<h2>{} / files</h2>\n<ul>{}</ul>\n",
                html(&config.name),
                paths.iter().map(|p| format!("<li>{}</li>", html(p))).collect::<String>()
            ));
            dataset_json.insert("files".into(), paths.into());
            let out = super::gate::Outgoing {
                archive: view.open(&latest.head),
                gated: super::gate::Gated::default(),
                view: view.clone(),
                listed: latest.clone(),
            };
            let options =
                super::restore::Options { paths: matches.paths.iter().map(|p| escape_glob(&p.path)).collect(), ..Default::default() };
            super::restore::write(session, &out, &to.join(format!("{}.files", config.name)), &options)?;
            exported.files.push(format!("{}.files/", config.name));
        }
        session.record(&super::event::Event::Restored {
            dataset: config.name.clone(),
            archive: latest.head.archive,
            how: "subject-export".into(),
            replayed: 0,
        })?;
        json.insert(config.name.clone(), serde_json::json!({"archive": latest.head.archive.to_string(), "backup_time": latest.head.created_at.to_string(), "collections": dataset_json}));
    }
    let text = serde_json::to_string_pretty(&json).map_err(|e| Error::Refused(e.to_string()))?;
    write(to, "records.json", text.as_bytes())?;
    write(to, "index.html", page.as_bytes())?;
    exported.files.extend(["records.json".to_string(), "index.html".to_string()]);
    Ok(exported)
}

fn json_values(values: &[Value<'static>]) -> serde_json::Value {
    let one = |v: &Value<'static>| match v {
        Value::Null => serde_json::Value::Null,
        Value::Integer(i) => (*i).into(),
        Value::Real(r) => (*r).into(),
        Value::Bool(b) => (*b).into(),
        Value::Text(t) => t.as_ref().into(),
        Value::Bytes(b) => hex::encode(b).into(),
    };
    match values {
        [single] => one(single),
        many => many.iter().map(one).collect(),
    }
}

fn escape_glob(path: &[u8]) -> String {
    let mut out = String::new();
    for c in String::from_utf8_lossy(path).chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '{' | '}' | '\\' | '!') {
            out.push('\\');
            out.push(c);
        } else {
            out.push(c);
        }
    }
    out
}

fn columns(rows: &[BTreeMap<String, String>]) -> Vec<&String> {
    let mut all: Vec<&String> = rows.iter().flat_map(|r| r.keys()).collect();
    all.sort();
    all.dedup();
    all
}

fn csv(rows: &[BTreeMap<String, String>]) -> String {
    let columns = columns(rows);
    let quote = |t: &str| if t.contains([',', '"', '\n', '\r']) { format!("\"{}\"", t.replace('"', "\"\"")) } else { t.to_string() };
    let mut out = columns.iter().map(|c| quote(c)).collect::<Vec<_>>().join(",") + "\n";
    for row in rows {
        out += &columns.iter().map(|c| row.get(*c).map(|v| quote(v)).unwrap_or_default()).collect::<Vec<_>>().join(",");
        out.push('\n');
    }
    out
}

fn table(title: &str, rows: &[BTreeMap<String, String>]) -> String {
    let columns = columns(rows);
    let head: String = columns.iter().map(|c| format!("<th>{}</th>", html(c))).collect();
    let body: String = rows
        .iter()
        .map(|r| {
            format!(
                "<tr>{}</tr>\n",
                columns.iter().map(|c| format!("<td>{}</td>", r.get(*c).map(|v| html(v)).unwrap_or_default())).collect::<String>()
            )
        })
        .collect();
    format!("<h2>{}</h2>\n<table border=\"1\"><tr>{head}</tr>\n{body}</table>\n", html(title))
}

fn html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn write(to: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let path = to.join(name);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(Error::io("create", &path))?;
    file.write_all(bytes).map_err(Error::io("write", &path))
}
