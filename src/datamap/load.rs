//! From the data map as written to the data map as checked. Everything that can be known without the source is decided here, and
//! every mistake is reported with its place: at load time, not at three in the morning.

mod canonical;
mod probes;

use super::expr::Expr;
use super::model::{Action, Collection, DataMap, Dialect, EntryPattern, Field, Normalize, OnErase, PatternPiece, Retain, Shared, Unmapped};
use super::raw::{RawAction, RawCollection, RawField, RawNormalize, RawOnErase, RawShared, RawUnmapped};
use std::collections::{BTreeMap, BTreeSet, HashMap};

pub use canonical::digest;
pub use probes::closest;

/// Formats that this version reads.
pub const FORMATS: [&str; 5] = ["csv", "tsv", "ndjson", "sqlite", "path"];
/// Formats that the design knows and this version does not.
const LATER_FORMATS: [&str; 12] =
    ["json", "sqldump", "pgdump", "mysqldump", "mbox", "maildir", "eml", "xml", "parquet", "xlsx", "tar", "zip"];
/// Encodings of text files.
pub const ENCODINGS: [&str; 4] = ["utf-8", "windows-1252", "utf-16le", "utf-16be"];

/// Default of `redact`'s replacement.
pub const DEFAULT_REPLACEMENT: &str = "[erased]";
/// Default of `random_string_rewrite`'s length, in characters.
pub const DEFAULT_RANDOM_LENGTH: u32 = 30;

/// A part of a dataset's map: what stands in one file.
#[derive(Debug, Clone)]
pub struct Part<'r> {
    /// Its collections.
    pub collections: &'r [RawCollection],
    /// Actions by category.
    pub categories: &'r BTreeMap<String, RawAction>,
    /// See `unmapped:`.
    pub unmapped: Option<RawUnmapped>,
    /// JSON pointer of the object in that file that holds `collections`.
    pub pointer: String,
}

/// Where a mistake is: the part's index, and a JSON pointer into its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Index into the parts.
    pub part: usize,
    /// JSON pointer.
    pub pointer: String,
    /// What is wrong and, where possible, what to write instead.
    pub message: String,
}

/// Compiles a dataset's map. With mistakes the map is not to be used.
pub fn compile(dataset: &str, parts: &[Part<'_>], accept_pseudonymised: bool) -> (DataMap, Vec<Mistake>) {
    let mut compiler = Compiler { mistakes: Vec::new(), accept_pseudonymised, categories: BTreeMap::new() };
    let mut unmapped: Option<RawUnmapped> = None;
    for (index, part) in parts.iter().enumerate() {
        if let Some(own) = part.unmapped {
            if unmapped.is_some_and(|earlier| earlier != own) {
                compiler.report(index, format!("{}/unmapped", part.pointer), "another part of this map says otherwise".into());
            }
            unmapped = Some(own);
        }
        for (category, action) in part.categories {
            let at = Place { part: index, pointer: format!("{}/categories/{}", part.pointer, step(category)) };
            let action = compiler.action(action, &at, &format!("category {category}"));
            if compiler.categories.insert(category.clone(), action).is_some() {
                compiler.at(&at, format!("category {category} has two rules"));
            }
        }
    }
    let mut map = DataMap { collections: Vec::new(), unmapped: unmapped_of(unmapped) };
    let mut sources = Vec::new();
    let mut names: HashMap<String, usize> = HashMap::new();
    for (index, part) in parts.iter().enumerate() {
        for (n, raw) in part.collections.iter().enumerate() {
            let place = Place { part: index, pointer: format!("{}/collections/{n}", part.pointer) };
            if names.insert(raw.name.clone(), map.collections.len()).is_some() {
                compiler.at(&place.to("name"), format!("there are two collections {:?}", raw.name));
            }
            if let Some(collection) = compiler.collection(raw, &place, map.unmapped) {
                map.collections.push(collection);
                sources.push((raw, place));
            }
        }
    }
    // Without every collection, references would be reported as dangling that are not.
    if map.collections.len() == parts.iter().map(|p| p.collections.len()).sum::<usize>() {
        compiler.same_records(&map, &sources);
        probes::link(&mut compiler, dataset, &mut map, &sources);
    }
    (map, compiler.mistakes)
}

fn unmapped_of(raw: Option<RawUnmapped>) -> Unmapped {
    match raw {
        None | Some(RawUnmapped::Halt) => Unmapped::Halt,
        Some(RawUnmapped::Redact) => Unmapped::Redact,
        Some(RawUnmapped::Preserve) => Unmapped::Preserve,
    }
}

/// One step of a JSON pointer, escaped.
fn step(step: &str) -> String {
    step.replace('~', "~0").replace('/', "~1")
}

/// Where something stands.
#[derive(Debug, Clone)]
struct Place {
    part: usize,
    pointer: String,
}

impl Place {
    fn to(&self, key: &str) -> Place {
        Place { part: self.part, pointer: format!("{}/{}", self.pointer, step(key)) }
    }
}

struct Compiler {
    mistakes: Vec<Mistake>,
    accept_pseudonymised: bool,
    categories: BTreeMap<String, Action>,
}

impl Compiler {
    fn report(&mut self, part: usize, pointer: String, message: String) {
        self.mistakes.push(Mistake { part, pointer, message });
    }

    fn at(&mut self, place: &Place, message: String) {
        self.report(place.part, place.pointer.clone(), message);
    }

    /// `None` when its entry pattern does not parse: nothing else can be said about it then.
    fn collection(&mut self, raw: &RawCollection, place: &Place, unmapped: Unmapped) -> Option<Collection> {
        let name = &raw.name;
        if name.is_empty() || name.chars().any(|c| c.is_control() || c == '(' || c == ')') {
            self.at(&place.to("name"), format!("{name:?} cannot be the name of a collection"));
        }
        let entry = match EntryPattern::parse(&raw.entry) {
            Ok(entry) => entry,
            Err(what) => {
                self.at(&place.to("entry"), format!("collection {name}: entry {:?}: {what}", raw.entry));
                return None;
            }
        };
        let mut format = self.format(raw, place);
        if !entry.placeholders.is_empty() {
            match format.as_deref() {
                None if raw.fields.is_empty() => format = Some("path".into()),
                Some("path") => {}
                _ => {
                    let what = "a pattern with placeholders makes the whole entry the record: it can have no fields and no other format";
                    self.at(&place.to("entry"), format!("collection {name}: {what}"));
                }
            }
        }
        let on_erase = match raw.on_erase {
            RawOnErase::Delete => OnErase::Delete,
            RawOnErase::Anonymize => OnErase::Anonymize,
            RawOnErase::Preserve => OnErase::Preserve,
        };
        let mut fields = BTreeMap::new();
        for (field, raw_field) in &raw.fields {
            let at = place.to("fields").to(field);
            fields.insert(field.clone(), self.field(raw, field, raw_field.as_ref().unwrap_or(&RawField::default()), &at));
        }
        let retain = raw.retain.as_ref().and_then(|r| {
            let at = place.to("retain");
            if r.basis.trim().is_empty() {
                self.at(&at.to("basis"), format!("collection {name}: retain needs a ground"));
            }
            let until = self.expression(&r.until, &at.to("until"), Expr::check_date)?;
            Some(Retain { until, basis: r.basis.clone(), cite: r.cite.clone() })
        });
        let collection = Collection {
            name: name.clone(),
            format,
            table: raw.table.clone().unwrap_or_else(|| name.clone()),
            dialect: self.dialect(raw, place),
            primary_key: raw.primary_key.to_vec(),
            on_erase,
            shared: if raw.shared == Some(RawShared::Erase) { Shared::Erase } else { Shared::Skip },
            fields,
            probes: Vec::new(),
            placeholder_normalize: vec![Normalize::default(); entry.placeholders.len()],
            placeholder_feeds: Vec::new(),
            entry,
            retain,
            basis: raw.basis.clone().filter(|b| !b.trim().is_empty()),
            triggers: raw.triggers.to_vec(),
        };
        self.actions_fit(&collection, raw, place, unmapped);
        Some(collection)
    }

    fn format(&mut self, raw: &RawCollection, place: &Place) -> Option<String> {
        let format = raw.format.as_deref()?;
        if !FORMATS.contains(&format) {
            let message = if LATER_FORMATS.contains(&format) {
                format!("format {format:?} is not available in this version; available: {}", FORMATS.join(", "))
            } else {
                format!("unknown format {format:?}; available: {}", FORMATS.join(", "))
            };
            self.at(&place.to("format"), format!("collection {}: {message}", raw.name));
        }
        Some(format.to_string())
    }

    fn dialect(&mut self, raw: &RawCollection, place: &Place) -> Dialect {
        let mut byte = |key: &str, text: &Option<String>| match text.as_deref() {
            None => None,
            Some("tab") => Some(b'\t'),
            Some(text) => match text.as_bytes() {
                [b] if b.is_ascii() && !matches!(b, b'\n' | b'\r' | 0) => Some(*b),
                _ => {
                    self.at(&place.to(key), format!("collection {}: {key} is one ASCII character, or tab", raw.name));
                    None
                }
            },
        };
        let (delimiter, quote) = (byte("delimiter", &raw.delimiter), byte("quote", &raw.quote));
        if delimiter.is_some() && delimiter == Some(quote.unwrap_or(b'"')) {
            self.at(&place.to("delimiter"), format!("collection {}: delimiter and quote are the same", raw.name));
        }
        let encoding = raw.encoding.as_ref().map(|e| e.to_ascii_lowercase());
        if let Some(encoding) = encoding.as_deref().filter(|e| !ENCODINGS.contains(e)) {
            let message = format!("unknown encoding {encoding:?}; available: {}", ENCODINGS.join(", "));
            self.at(&place.to("encoding"), format!("collection {}: {message}", raw.name));
        }
        Dialect { delimiter, quote, header: raw.header, encoding }
    }

    fn field(&mut self, collection: &RawCollection, name: &str, raw: &RawField, place: &Place) -> Field {
        let what = format!("{}.{name}", collection.name);
        if name.is_empty() {
            self.at(place, format!("collection {}: a field needs a name", collection.name));
        }
        if let Some(kind) = raw.identity.as_deref().filter(|k| !is_kind(k)) {
            self.at(&place.to("identity"), format!("{what}: {kind:?} cannot be an identity kind (letters, digits, `_`, `-`, `.`)"));
        }
        let mut action = raw.action.as_ref().map(|a| self.action(a, &place.to("action"), &what));
        let scan = raw.scan.is_some();
        if scan {
            match &action {
                None => action = Some(Action::Redact { replacement: DEFAULT_REPLACEMENT.into() }),
                Some(Action::Redact { .. }) => {}
                Some(_) => self.at(&place.to("action"), format!("{what}: `scan` rewrites spans of text; its action can only be redact")),
            }
        }
        let is_key = collection.primary_key.to_vec().iter().any(|k| k == name);
        if action.is_none() && collection.on_erase == RawOnErase::Anonymize && !is_key && !refers(collection, name) {
            action = raw.category.as_deref().and_then(|c| self.rule_for(c));
        }
        let (category, identity) = (raw.category.clone(), raw.identity.clone());
        Field { name: name.to_string(), category, identity, normalize: normalize(&raw.normalize.to_vec()), action, scan }
    }

    /// The rule of the longest category that is this one or stands above it.
    fn rule_for(&self, category: &str) -> Option<Action> {
        let above = |rule: &&String| category.strip_prefix(rule.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        self.categories.keys().filter(above).max_by_key(|rule| rule.len()).and_then(|rule| self.categories.get(rule)).cloned()
    }

    fn action(&mut self, raw: &RawAction, place: &Place, what: &str) -> Action {
        match raw {
            RawAction::Delete => Action::Delete,
            RawAction::NullRewrite => Action::NullRewrite,
            RawAction::StringRewrite { rewrite_value } => Action::StringRewrite { rewrite_value: rewrite_value.clone() },
            RawAction::RandomStringRewrite { length, format_preservation } => {
                let length = length.unwrap_or(DEFAULT_RANDOM_LENGTH);
                if !(1..=1000).contains(&length) {
                    self.at(&place.to("length"), format!("{what}: length is from 1 to 1000 characters"));
                }
                let suffix = format_preservation.as_ref().and_then(|f| f.suffix.clone()).unwrap_or_default();
                Action::RandomStringRewrite { length: length as usize, suffix }
            }
            RawAction::Redact { replacement } => {
                Action::Redact { replacement: replacement.clone().unwrap_or_else(|| DEFAULT_REPLACEMENT.into()) }
            }
            RawAction::Hmac => {
                if !self.accept_pseudonymised {
                    let message = "hmac pseudonymises, it does not erase; choose another strategy, or accept that with `accept_pseudonymised: true` under `erasure`";
                    self.at(place, format!("{what}: {message}"));
                }
                Action::Hmac
            }
            RawAction::Preserve { basis } => {
                let basis = basis.clone().unwrap_or_default();
                if basis.trim().is_empty() {
                    self.at(place, format!("{what}: preserve needs a ground: `basis: …`, it is printed in the certificate"));
                }
                Action::Preserve { basis }
            }
        }
    }

    fn expression(&mut self, source: &str, place: &Place, check: fn(&Expr) -> Result<(), String>) -> Option<Expr> {
        match Expr::parse(source).and_then(|e| check(&e).map(|()| e)) {
            Ok(expr) => Some(expr),
            Err(what) => {
                self.at(place, format!("`{source}`: {what}"));
                None
            }
        }
    }

    /// Whether what an erasure does to a record, and to its fields, makes sense together.
    fn actions_fit(&mut self, collection: &Collection, raw: &RawCollection, place: &Place, unmapped: Unmapped) {
        let name = &collection.name;
        let is_path = collection.format.as_deref() == Some("path");
        if is_path && !collection.fields.is_empty() {
            self.at(&place.to("fields"), format!("collection {name}: in format path the whole entry is the record; it has no fields"));
        }
        if is_path && collection.on_erase == OnErase::Anonymize {
            self.at(
                &place.to("on_erase"),
                format!("collection {name}: in format path an entry can be deleted or preserved, not anonymized"),
            );
        }
        let acting: Vec<&Field> = collection.fields.values().filter(|f| f.action.is_some() && !f.scan).collect();
        match collection.on_erase {
            OnErase::Anonymize if !is_path => {
                let nothing = collection.fields.values().all(|f| f.action.is_none());
                if nothing && unmapped != Unmapped::Redact {
                    let message =
                        "anonymize, but no field has an action: nothing would change; give fields an action, or use `on_erase: delete`";
                    self.at(&place.to("on_erase"), format!("collection {name}: {message}"));
                }
                let composite: BTreeSet<&String> = raw.identities.iter().flat_map(|i| &i.fields).collect();
                for field in collection.fields.values().filter(|f| f.action.is_none()) {
                    let names_person = field.identity.is_some() || composite.contains(&field.name);
                    let is_key = collection.primary_key.contains(&field.name) || refers(raw, &field.name);
                    if names_person && !is_key && !nothing {
                        let message = "it names the person, but has no action, so the person would still be there after an erasure; give it one, or `{strategy: preserve, basis: …}`";
                        self.at(&place.to("fields").to(&field.name), format!("{name}.{}: {message}", field.name));
                    }
                }
            }
            OnErase::Preserve => {
                if collection.basis.is_none() && collection.retain.is_none() {
                    self.at(
                        &place.to("on_erase"),
                        format!("collection {name}: preserve needs a ground: `basis: …`, it is printed in the certificate"),
                    );
                }
                for field in acting.iter().filter(|f| !matches!(f.action, Some(Action::Preserve { .. }))) {
                    let at = place.to("fields").to(&field.name).to("action");
                    self.at(
                        &at,
                        format!(
                            "{name}.{}: the record is preserved, so this action would never run; use `on_erase: anonymize`",
                            field.name
                        ),
                    );
                }
            }
            OnErase::Delete => {
                for field in &acting {
                    let at = place.to("fields").to(&field.name).to("action");
                    self.at(
                        &at,
                        format!("{name}.{}: the record is deleted, so this action would never run; use `on_erase: anonymize`", field.name),
                    );
                }
            }
            OnErase::Anonymize => {}
        }
        for key in &collection.primary_key {
            let constant =
                |a: &Action| matches!(a, Action::Delete | Action::NullRewrite | Action::StringRewrite { .. } | Action::Redact { .. });
            if collection.on_erase == OnErase::Anonymize && collection.fields.get(key).and_then(|f| f.action.as_ref()).is_some_and(constant)
            {
                let message = "it is the primary key, and this strategy gives every record the same value; use random_string_rewrite";
                self.at(&place.to("fields").to(key).to("action"), format!("{name}.{key}: {message}"));
            }
        }
        if collection.basis.is_some() && collection.on_erase != OnErase::Preserve {
            self.at(&place.to("basis"), format!("collection {name}: `basis` belongs to `on_erase: preserve`"));
        }
    }

    /// Two collections must not both decide about the same records.
    fn same_records(&mut self, map: &DataMap, sources: &[(&RawCollection, Place)]) {
        let mut seen: HashMap<(Vec<PatternPiece>, String), &str> = HashMap::new();
        for (collection, (_, place)) in map.collections.iter().zip(sources) {
            // Records formats have one kind of record per entry; of a database each table is its own.
            let extension = collection.entry.source.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
            let format = collection.format.clone().unwrap_or(extension);
            let scope = match format.as_str() {
                "csv" | "tsv" | "ndjson" | "jsonl" | "path" => format!("format {format}"),
                _ => format!("table {}", collection.table.to_lowercase()),
            };
            if let Some(other) = seen.insert((collection.entry.pieces.clone(), scope.clone()), &collection.name) {
                let message = format!(
                    "collections {other} and {} speak of the same records ({scope} in {})",
                    collection.name, collection.entry.source
                );
                self.at(place, message);
            }
        }
    }
}

/// Whether a field of the collection refers to another one.
fn refers(collection: &RawCollection, field: &str) -> bool {
    collection.references.iter().any(|r| r.fields.to_vec().iter().any(|f| f == field))
}

fn is_kind(kind: &str) -> bool {
    !kind.is_empty() && kind.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'))
}

fn normalize(steps: &[RawNormalize]) -> Normalize {
    let has = |step| steps.contains(&step);
    Normalize {
        nfc: has(RawNormalize::Nfc),
        trim: has(RawNormalize::Trim),
        lower: has(RawNormalize::Lower),
        digits: has(RawNormalize::Digits),
    }
}
