//! From text to a checked [`Config`]. All findings are collected, not just the first: syntax (one), then form (all unknown keys and
//! wrong types), then meaning (all contradictions, dangling references, unreachable collections …).

use super::place;
use super::raw::{OneOf, RawCheck, RawConfig, RawDataset, RawDrill, RawErasure, RawMode, RawRetention, RawSource};
use super::resolved::{Config, Dataset, Drill, DrillCheck, RepositoryAt, Root, Source};
use super::schema;
use super::yaml::{self, Node, pointer_step};
use crate::datamap::load::{Mistake, Part, compile, digest};
use crate::datamap::raw::{OneOrMany, RawMap};
use crate::datamap::{EntryPattern, OnErase};
use crate::error::ConfigFinding;
use crate::policy::retention::KeepRules;
use crate::policy::{ErasurePolicy, Mode, Period, Retention};
use crate::store::s3::Options;
use crate::{Error, Result};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use std::path::{Component, Path, PathBuf};

/// Default memory for long work, in bytes.
const DEFAULT_MEMORY: u64 = 256 << 20;
/// Below this nothing works.
const MIN_MEMORY: u64 = 32 << 20;
/// Default zstd level.
const DEFAULT_COMPRESSION: i32 = 3;

/// Loads and checks a configuration file.
///
/// Fails with [`Error::Io`] when a file cannot be read, with [`Error::Config`] when anything in it is wrong.
pub fn load(path: &Path) -> Result<Config> {
    let text = read(path)?;
    parse(&text, path)
}

fn read(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    String::from_utf8(bytes).map_err(|e| {
        let line = e.as_bytes().get(..e.utf8_error().valid_up_to()).unwrap_or_default().iter().filter(|b| **b == b'\n').count() + 1;
        let message = "not UTF-8".to_string();
        Error::Config(vec![ConfigFinding { file: path.display().to_string(), line, column: 0, message }])
    })
}

/// Checks a configuration's text. `path` names it in findings, and relative paths in it start from its folder; data map files that
/// it names are read.
pub fn parse(text: &str, path: &Path) -> Result<Config> {
    parse_with(text, path, read)
}

/// The same; `read` reads the data map files.
pub(crate) fn parse_with(text: &str, path: &Path, read: fn(&Path) -> Result<String>) -> Result<Config> {
    let (raw, file) = document::<RawConfig>(text, path).map_err(Error::Config)?;
    // Nothing rather than `.`: paths are shown as they were written.
    let folder = path.parent().filter(|p| *p != Path::new(".")).unwrap_or(Path::new("")).to_path_buf();
    let mut loader = Loader { folder, files: vec![file], findings: Vec::new(), read };
    let config = loader.config(&raw, path);
    match config {
        Some(config) if loader.findings.is_empty() => Ok(config),
        _ => {
            loader.findings.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
            Err(Error::Config(loader.findings))
        }
    }
}

/// A parsed file, kept to find places in it.
struct File {
    name: String,
    node: Node,
}

fn document<T: JsonSchema + DeserializeOwned>(text: &str, path: &Path) -> Result<(T, File), Vec<ConfigFinding>> {
    let name = path.display().to_string();
    let node = yaml::parse(text, &name).map_err(|f| vec![f])?;
    let mut findings = schema::check::<T>(&node, &name);
    findings.sort_by_key(|f| (f.line, f.column));
    if !findings.is_empty() {
        return Err(findings);
    }
    match serde_json::from_value::<T>(node.to_json()) {
        Ok(raw) => Ok((raw, File { name, node })),
        Err(e) => Err(vec![ConfigFinding { file: name, line: 0, column: 0, message: e.to_string() }]),
    }
}

pub(super) struct Loader {
    pub(super) folder: PathBuf,
    /// The configuration first, then data map files.
    files: Vec<File>,
    findings: Vec<ConfigFinding>,
    read: fn(&Path) -> Result<String>,
}

impl Loader {
    pub(super) fn find(&mut self, pointer: &str, message: impl Into<String>) {
        self.find_in(0, pointer, message);
    }

    fn find_in(&mut self, file: usize, pointer: &str, message: impl Into<String>) {
        let Some(file) = self.files.get(file) else { return };
        let (line, column) = file.node.locate(pointer);
        self.findings.push(ConfigFinding { file: file.name.clone(), line, column, message: message.into() });
    }

    fn config(&mut self, raw: &RawConfig, path: &Path) -> Option<Config> {
        if raw.version != 1 {
            self.find(
                "/version",
                format!("version {} of the configuration is not known to this version of reseal; expected 1", raw.version),
            );
        }
        let s3 = self.s3("s3", &raw.s3.clone().unwrap_or_default());
        let repository = self.place(&raw.repository, &s3, "/repository");
        let keys_s3 = raw.keys_s3.as_ref().map(|section| self.s3("keys_s3", section));
        let keys = raw.keys.as_deref().map(|keys| self.place(keys, keys_s3.as_ref().unwrap_or(&s3), "/keys"));
        if raw.keys_s3.is_some() && !raw.keys.as_deref().is_some_and(|keys| keys.starts_with("s3://")) {
            self.find("/keys_s3", "keys_s3: it says how to talk to the bucket of `keys`, and `keys` is not s3://bucket/prefix");
        }
        let memory = match &raw.memory {
            None => DEFAULT_MEMORY,
            Some(OneOf::B(bytes)) => *bytes,
            Some(OneOf::A(text)) => match parse_size(text) {
                Ok(bytes) => bytes,
                Err(what) => {
                    self.find("/memory", format!("memory: {what}"));
                    DEFAULT_MEMORY
                }
            },
        };
        if memory < MIN_MEMORY {
            self.find("/memory", "memory: at least 32MiB are needed");
        }
        let compression_level = raw.compression_level.unwrap_or(DEFAULT_COMPRESSION);
        if !(1..=19).contains(&compression_level) {
            self.find("/compression_level", "compression_level: from 1 (fast) to 19 (small)");
        }
        if raw.datasets.is_empty() {
            self.find("/datasets", "there is no dataset: nothing would be backed up");
        }
        if raw.actor.as_deref().is_some_and(|a| a.trim().is_empty() || a.chars().any(char::is_control)) {
            self.find("/actor", "actor: a name is needed");
        }
        let state_dir = raw.state_dir.as_deref().map(|dir| self.below(dir));
        let mut datasets = std::collections::BTreeMap::new();
        let own_keys = keys.as_ref().and_then(Option::as_ref).filter(|_| raw.keys_s3.is_some());
        for (name, raw) in &raw.datasets {
            if let Some(dataset) = self.dataset(name, raw) {
                if let Some(repository) = &repository {
                    self.bound_to_bucket(&dataset, repository, own_keys);
                }
                datasets.insert(name.clone(), dataset);
            }
        }
        Some(Config {
            path: path.to_path_buf(),
            repository: repository?,
            keys: keys.and_then(|k| k),
            state_dir,
            actor: raw.actor.clone(),
            memory,
            compression_level,
            datasets,
        })
    }

    /// A path as written, from the configuration's folder; `./` says nothing behind another folder.
    fn below(&self, written: &str) -> PathBuf {
        let path = self.folder.join(written);
        match written.strip_prefix("./").map(|rest| rest.trim_start_matches('/')) {
            Some(rest) if !self.folder.as_os_str().is_empty() && !rest.is_empty() => self.folder.join(rest),
            _ => path,
        }
    }

    fn place(&mut self, text: &str, s3: &Options, pointer: &str) -> Option<RepositoryAt> {
        let parsed = match text.split_once("://") {
            Some(("s3", rest)) => place::at(rest, s3).map(|at| RepositoryAt::S3(Box::new(at))),
            Some((scheme, _)) => Err(format!("places of the kind {scheme}:// are not known; expected a folder or s3://bucket/prefix")),
            None if text.trim().is_empty() => Err("expected a folder or s3://bucket/prefix".to_string()),
            None => Ok(RepositoryAt::Local(self.below(text))),
        };
        parsed.map_err(|what| self.find(pointer, what)).ok()
    }

    fn dataset(&mut self, name: &str, raw: &RawDataset) -> Option<Dataset> {
        let at = format!("/datasets/{}", pointer_step(name));
        if !is_dataset_name(name) {
            self.find(
                &at,
                format!("{name:?} cannot be the name of a dataset: up to 64 of a-z, 0-9, `_`, `-`, beginning with a letter or digit"),
            );
        }
        let source = self.source(name, &raw.source, &format!("{at}/source"));
        let retention = self.retention(raw.retention.as_ref().unwrap_or(&RawRetention::default()), &format!("{at}/retention"));
        let erasure = self.erasure(raw.erasure.as_ref().unwrap_or(&RawErasure::default()), &format!("{at}/erasure"));
        let drill = raw.drill.as_ref().map(|d| self.drill(d, &format!("{at}/drill")));

        // The dataset's own collections are the first part, those of map files follow.
        let mut maps: Vec<(usize, RawMap)> = Vec::new();
        let mut complete = true;
        let named = raw.map.iter().map(|m| (m, format!("{at}/map")));
        let listed = raw.maps.iter().enumerate().map(|(i, m)| (m, format!("{at}/maps/{i}")));
        for (file, pointer) in named.chain(listed) {
            match self.map_file(file) {
                Ok(map) => maps.push(map),
                Err(findings) => {
                    complete = false;
                    match findings {
                        Ok(findings) => self.findings.extend(findings),
                        Err(error) => self.find(&pointer, error.to_string()),
                    }
                }
            }
        }
        if !complete {
            return None;
        }
        let mut parts =
            vec![Part { collections: &raw.collections, categories: &raw.categories, unmapped: raw.unmapped, pointer: at.clone() }];
        parts.extend(maps.iter().map(|(_, map)| Part {
            collections: &map.collections,
            categories: &map.categories,
            unmapped: map.unmapped,
            pointer: String::new(),
        }));
        let (map, mistakes) = compile(name, &parts, erasure.accept_pseudonymised);
        for Mistake { part, pointer, message } in mistakes {
            let file = part.checked_sub(1).and_then(|i| maps.get(i)).map_or(0, |(file, _)| *file);
            self.find_in(file, &pointer, message);
        }
        if erasure.mode == Mode::Replay && map.collections.iter().all(|c| c.on_erase == OnErase::Preserve) && !map.collections.is_empty() {
            self.find(&format!("{at}/erasure/mode"), "mode replay, but every collection is preserved: there is nothing to replay");
        }
        let map_digest = digest(&map);
        let (lock, region) = (self.lock(raw, &at), raw.region.clone());
        Some(Dataset { name: name.to_string(), source: source?, retention, erasure, drill, lock, region, map, map_digest })
    }

    /// Reads a data map file. The outer error has findings, or the reason why it could not be read.
    fn map_file(&mut self, file: &str) -> Result<(usize, RawMap), Result<Vec<ConfigFinding>, Error>> {
        let path = self.folder.join(file);
        // Shown as one gets there from where the configuration was named.
        let path = path.strip_prefix(".").map(Path::to_path_buf).unwrap_or(path);
        let text = (self.read)(&path).map_err(|e| match e {
            Error::Config(findings) => Ok(findings),
            other => Err(other),
        })?;
        let (map, file) = document::<RawMap>(&text, &path).map_err(Ok)?;
        self.files.push(file);
        Ok((self.files.len() - 1, map))
    }

    fn source(&mut self, dataset: &str, raw: &RawSource, at: &str) -> Option<Source> {
        let stdin = raw.stdin == Some(true);
        let given: Vec<&str> =
            [("paths", raw.paths.is_some()), ("sqlite", raw.sqlite.is_some()), ("command", raw.command.is_some()), ("stdin", stdin)]
                .into_iter()
                .filter_map(|(name, given)| given.then_some(name))
                .collect();
        let [kind] = given.as_slice() else {
            let found = if given.is_empty() { "none".to_string() } else { given.join(" and ") };
            self.find(at, format!("source: exactly one of paths, sqlite, command and stdin is needed, found {found}"));
            return None;
        };
        if *kind == "paths" {
            if raw.entry.is_some() {
                self.find(&format!("{at}/entry"), "source: `entry` does not go with paths; entries are called like the files");
            }
        } else {
            let walking = [
                ("include", raw.include.to_vec().is_empty()),
                ("exclude", raw.exclude.to_vec().is_empty()),
                ("exclude_caches", raw.exclude_caches.is_none()),
                ("one_file_system", raw.one_file_system.is_none()),
            ];
            for (key, _) in walking.iter().filter(|(_, absent)| !absent) {
                self.find(&format!("{at}/{key}"), format!("source: `{key}` goes with paths only"));
            }
        }
        let mut entry = |default: String| match &raw.entry {
            None => Some(default),
            Some(name) => match stored_name(name) {
                Ok(stored) if !stored.is_empty() => Some(stored),
                Ok(_) => {
                    self.find(&format!("{at}/entry"), "source: entry: a name is needed");
                    None
                }
                Err(what) => {
                    self.find(&format!("{at}/entry"), format!("source: entry: {what}"));
                    None
                }
            },
        };
        match (&raw.paths, &raw.sqlite, &raw.command) {
            (Some(paths), ..) => self.paths(&paths.to_vec(), raw, at),
            (_, Some(path), _) => {
                let Some(base) = Path::new(path).file_name().map(|n| n.to_string_lossy().into_owned()) else {
                    self.find(&format!("{at}/sqlite"), "source: sqlite: expected a file");
                    return None;
                };
                let entry = entry(base)?;
                Some(Source::Sqlite { path: self.below(path), entry })
            }
            (_, _, Some(command)) => {
                let entry = entry(format!("{dataset}.out"))?;
                let argv = match command {
                    OneOrMany::One(text) => vec!["sh".to_string(), "-c".to_string(), text.clone()],
                    OneOrMany::Many(argv) => argv.clone(),
                };
                let nothing = |s: Option<&String>| s.is_none_or(|s| s.trim().is_empty());
                if nothing(argv.first()) || nothing(argv.last()) && argv.len() == 3 && matches!(command, OneOrMany::One(_)) {
                    self.find(&format!("{at}/command"), "source: command: nothing to run");
                }
                Some(Source::Command { argv, entry })
            }
            _ => Some(Source::Stdin { entry: entry(format!("{dataset}.out"))? }),
        }
    }

    fn paths(&mut self, paths: &[String], raw: &RawSource, at: &str) -> Option<Source> {
        let pointer = |i: usize| match raw.paths {
            Some(OneOrMany::Many(_)) => format!("{at}/paths/{i}"),
            _ => format!("{at}/paths"),
        };
        if paths.is_empty() {
            self.find(&format!("{at}/paths"), "source: paths: at least one is needed");
        }
        let mut roots: Vec<Root> = Vec::new();
        for (i, path) in paths.iter().enumerate() {
            match stored_name(path) {
                Ok(stored) => {
                    let inside = |a: &str, b: &str| a == b || b.is_empty() || a.strip_prefix(b).is_some_and(|r| r.starts_with('/'));
                    match roots.iter().position(|r| inside(&stored, &r.stored) || inside(&r.stored, &stored)) {
                        Some(other) => {
                            let other = paths.get(other).map(String::as_str).unwrap_or_default();
                            self.find(&pointer(i), format!("source: {path:?} and {other:?} would be stored over each other"));
                        }
                        None => roots.push(Root { path: self.below(path), stored }),
                    }
                }
                Err(what) => self.find(&pointer(i), format!("source: {path:?}: {what}")),
            }
        }
        let mut patterns = |key: &str, list: &OneOrMany<String>| {
            let mut compiled = Vec::new();
            for (i, source) in list.to_vec().iter().enumerate() {
                let pointer = if matches!(list, OneOrMany::Many(_)) { format!("{at}/{key}/{i}") } else { format!("{at}/{key}") };
                match EntryPattern::parse(source) {
                    Ok(pattern) if pattern.placeholders.is_empty() => compiled.push(pattern),
                    Ok(_) => self.find(&pointer, format!("source: {key}: {source:?}: placeholders have no meaning here")),
                    Err(what) => self.find(&pointer, format!("source: {key}: {source:?}: {what}")),
                }
            }
            compiled
        };
        let (include, exclude) = (patterns("include", &raw.include), patterns("exclude", &raw.exclude));
        let exclude_caches = raw.exclude_caches.unwrap_or(true);
        Some(Source::Paths { roots, include, exclude, exclude_caches, one_file_system: raw.one_file_system.unwrap_or(false) })
    }

    fn period(&mut self, text: Option<&String>, at: &str, key: &str) -> Option<Period> {
        match Period::parse(text?) {
            Ok(period) => Some(period),
            Err(what) => {
                self.find(&format!("{at}/{key}"), format!("{key}: {what}"));
                None
            }
        }
    }

    fn retention(&mut self, raw: &RawRetention, at: &str) -> Retention {
        let keep = raw.keep.as_ref().map(|k| KeepRules {
            last: k.last.unwrap_or(0),
            hourly: k.hourly.unwrap_or(0),
            daily: k.daily.unwrap_or(0),
            weekly: k.weekly.unwrap_or(0),
            monthly: k.monthly.unwrap_or(0),
            yearly: k.yearly.unwrap_or(0),
        });
        if keep.as_ref().is_some_and(KeepRules::is_empty) {
            self.find(
                &format!("{at}/keep"),
                "keep: every number is 0, so nothing would be selected; leave `keep` out to select everything",
            );
        }
        let min_archives = raw.min_archives.unwrap_or(1);
        if raw.min_archives == Some(0) {
            self.find(&format!("{at}/min_archives"), "min_archives: at least 1: the last archive is never removed");
        }
        match raw.max_archives {
            Some(0) => self.find(&format!("{at}/max_archives"), "max_archives: at least 1"),
            Some(max) if max < min_archives => {
                self.find(&format!("{at}/max_archives"), format!("max_archives ({max}) is less than min_archives ({min_archives})"));
            }
            _ => {}
        }
        let max_age = self.period(raw.max_age.as_ref(), at, "max_age");
        if max_age.is_some_and(|age| age.is_zero()) {
            self.find(&format!("{at}/max_age"), "max_age: every archive would be too old");
        }
        Retention { max_archives: raw.max_archives, min_archives, max_age, keep }
    }

    fn erasure(&mut self, raw: &RawErasure, at: &str) -> ErasurePolicy {
        let default = ErasurePolicy::default();
        let before = self.findings.len();
        let policy = ErasurePolicy {
            document_lifetime: self.period(raw.document_lifetime.as_ref(), at, "document_lifetime").unwrap_or(default.document_lifetime),
            cooling_off: self.period(raw.cooling_off.as_ref(), at, "cooling_off").unwrap_or(default.cooling_off),
            deadline: self.period(raw.deadline.as_ref(), at, "deadline").unwrap_or(default.deadline),
            mode: match raw.mode {
                None | Some(RawMode::Rewrite) => Mode::Rewrite,
                Some(RawMode::Expire) => Mode::Expire,
                Some(RawMode::Replay) => Mode::Replay,
            },
            approvals: raw.approvals.unwrap_or(default.approvals),
            accept_pseudonymised: raw.accept_pseudonymised.unwrap_or(false),
        };
        if self.findings.len() == before {
            for (key, what) in policy.contradictions() {
                self.find(&format!("{at}/{key}"), format!("{key}: {what}"));
            }
        }
        if policy.approvals > 16 {
            self.find(&format!("{at}/approvals"), "approvals: at most 16");
        }
        policy
    }

    fn drill(&mut self, raw: &RawDrill, at: &str) -> Drill {
        let every = self.period(Some(&raw.every), at, "every");
        if every.is_some_and(|every| every.is_zero()) {
            self.find(&format!("{at}/every"), "every: a drill cannot be due all the time");
        }
        let checks: Vec<DrillCheck> =
            raw.checks.iter().enumerate().filter_map(|(i, check)| self.check(check, &format!("{at}/checks/{i}"))).collect();
        Drill { every: every.unwrap_or_default(), checks }
    }

    fn check(&mut self, raw: &RawCheck, at: &str) -> Option<DrillCheck> {
        if matches!((raw.min, raw.max), (Some(min), Some(max)) if min > max) {
            self.find(at, "drill check: min is greater than max");
        }
        if let Some(sql) = &raw.sql {
            let first = sql.split_whitespace().next().unwrap_or_default().to_ascii_lowercase();
            if first != "select" && first != "with" {
                self.find(&format!("{at}/sql"), "drill check: expected a query (select …) that gives one number");
            }
        }
        match EntryPattern::parse(&raw.entry) {
            Ok(entry) => Some(DrillCheck { entry, sql: raw.sql.clone(), min: raw.min, max: raw.max }),
            Err(what) => {
                self.find(&format!("{at}/entry"), format!("drill check: entry {:?}: {what}", raw.entry));
                None
            }
        }
    }
}

/// Whether a dataset can be called so: its name becomes part of object names, on any store.
pub fn is_dataset_name(name: &str) -> bool {
    let valid = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    // `keys` is what reseal calls a lease of its own.
    name != "keys"
        && (1..=64).contains(&name.len())
        && name.bytes().all(valid)
        && name.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

/// What an entry for this path is called: as written, without a leading `./`, `/` or drive.
fn stored_name(path: &str) -> Result<String, &'static str> {
    let mut parts = Vec::new();
    if path.trim().is_empty() {
        return Err("expected a path");
    }
    for component in Path::new(path).components() {
        match component {
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
            Component::ParentDir => return Err("`..` would leave the place that entries are named by; write the path without it"),
            Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
        }
    }
    Ok(parts.join("/"))
}

/// Sizes as people write them: `256MiB`, `1GB`, `64M`, `1048576`.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return Err(format!("{text:?} is not a size; expected for example 256MiB")),
    };
    let count: u64 = digits.parse().map_err(|_| format!("{text:?} is not a size; expected for example 256MiB"))?;
    count.checked_mul(factor).ok_or_else(|| "too large".to_string())
}
