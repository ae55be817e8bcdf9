//! The data map in its checked form: which records of which entries belong to a person, how they are found, and what an erasure
//! does to them. Made by [`super::load`] from configuration; the engine and the formats read nothing else.

use super::expr::Expr;
use std::collections::BTreeMap;

/// All collections of one dataset.
#[derive(Debug, Clone, Default)]
pub struct DataMap {
    /// In the order of the configuration. Their index is what [`Feed::Reference`] and reports use.
    pub collections: Vec<Collection>,
    /// What becomes of columns and tables inside mapped entries that no collection names.
    pub unmapped: Unmapped,
}

/// See `unmapped:` in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unmapped {
    /// A column or table without a field or collection is an error: at `map check`, at backup (a finding), and before an erasure.
    #[default]
    Halt,
    /// On a matched record, unmapped columns are rewritten like `redact`.
    Redact,
    /// Left as they are.
    Preserve,
}

/// Which entries a collection speaks of.
#[derive(Debug, Clone)]
pub struct EntryPattern {
    /// As configured.
    pub source: String,
    /// Identity kinds of `{kind}` placeholders, in order.
    pub placeholders: Vec<String>,
    /// Matches a path and captures the placeholders' values; see [`super::pattern`].
    pub pieces: Vec<PatternPiece>,
    /// Stands in every path that is meant.
    pub(super) needle: String,
    /// The pattern of the folders that carry every identity already.
    pub(super) folder: Option<Vec<PatternPiece>>,
}

/// A part of an entry pattern.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PatternPiece {
    /// These bytes.
    Literal(String),
    /// `*`: any bytes but `/`.
    Star,
    /// `?`: one character but `/`.
    One,
    /// `**`: any bytes.
    DoubleStar,
    /// `{kind}`: one or more bytes but `/`, which are the value of that identity.
    Identity(String),
}

/// A table, a kind of file with records, or a set of files that are records themselves.
#[derive(Debug, Clone)]
pub struct Collection {
    /// Unique within the dataset.
    pub name: String,
    /// Which entries.
    pub entry: EntryPattern,
    /// Format by name ("csv", "tsv", "ndjson", "sqlite"); `None`: by the entry's name and first bytes. Always `Some("path")` where the pattern has placeholders and no fields are mapped.
    pub format: Option<String>,
    /// Table inside a database.
    pub table: String,
    /// CSV and NDJSON settings.
    pub dialect: Dialect,
    /// Names of the key's fields, may be empty.
    pub primary_key: Vec<String>,
    /// What an erasure does to a matched record.
    pub on_erase: OnErase,
    /// What happens to a record that other subjects share.
    pub shared: Shared,
    /// By name: a column, or a dotted path.
    pub fields: BTreeMap<String, Field>,
    /// How records of this collection are found.
    pub probes: Vec<Probe>,
    /// Where the values of the pattern's placeholders come from besides the request: (placeholder's kind, index of a collection, its
    /// field). The values of that field in matched records name further entries of the person.
    pub placeholder_feeds: Vec<(String, usize, String)>,
    /// How the placeholders' values are compared, in the order of [`EntryPattern::placeholders`]: as the fields of that kind are.
    pub placeholder_normalize: Vec<Normalize>,
    /// A ground that keeps matched records for a time.
    pub retain: Option<Retain>,
    /// The ground of `on_erase: preserve`.
    pub basis: Option<String>,
    /// Application triggers that may run while its rows are edited (SQLite), by name. All others stay silent.
    pub triggers: Vec<String>,
}

/// What an erasure does to a matched record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnErase {
    /// The whole record goes.
    Delete,
    /// The fields' actions are applied.
    Anonymize,
    /// The record stays; a ground is mandatory (`retain.basis` or the fields' `preserve(basis)`).
    Preserve,
}

/// A record that refers to the erased person and to somebody else through the same target (sender and recipient).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shared {
    /// It is kept, except that fields which hold the erased person's own reference are set to null where they allow it; it is reported.
    #[default]
    Skip,
    /// It is erased like any other.
    Erase,
}

/// CSV and NDJSON settings; what is `None` is detected.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dialect {
    /// One ASCII byte.
    pub delimiter: Option<u8>,
    /// One ASCII byte; default `"`.
    pub quote: Option<u8>,
    /// Whether the first record names the columns; without it fields are numbered from 1.
    pub header: Option<bool>,
    /// "utf-8", "windows-1252", "utf-16le", "utf-16be".
    pub encoding: Option<String>,
}

/// A column or path.
#[derive(Debug, Clone)]
pub struct Field {
    /// As it is called in the source.
    pub name: String,
    /// Data category, dotted (`user.contact.email`).
    pub category: Option<String>,
    /// The identity kind that its values are.
    pub identity: Option<String>,
    /// How values are compared.
    pub normalize: Normalize,
    /// What `anonymize` does to it; `None` falls back to a category rule, then to `unmapped`'s rule for mapped fields without an action: kept.
    pub action: Option<Action>,
    /// Search its text for the person's identities and rewrite the spans with `action` (which then is `redact`).
    pub scan: bool,
}

/// Steps applied before values are compared or turned into tokens, always in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Normalize {
    /// Unicode normalization form C.
    pub nfc: bool,
    /// White space at both ends goes.
    pub trim: bool,
    /// Unicode lower case.
    pub lower: bool,
    /// Only decimal digits stay (phone numbers).
    pub digits: bool,
}

/// A way to find records: the values of these fields, together, are compared with what feeds it.
#[derive(Debug, Clone)]
pub struct Probe {
    /// Fields and how each is normalised. One, or several for composite identities and references.
    pub fields: Vec<(String, Normalize)>,
    /// Where the wanted values come from.
    pub feed: Feed,
    /// Only records for which this holds.
    pub when: Option<Expr>,
}

/// Where a probe's wanted values come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Feed {
    /// The request's identities of this kind (for a composite: its name; the components in the order of the probe's fields).
    Identity(String),
    /// The values of these fields in matched records of another collection of the same archive.
    Reference {
        /// Index into [`DataMap::collections`].
        collection: usize,
        /// Its fields, in the order of the probe's fields.
        fields: Vec<String>,
    },
}

impl Probe {
    /// Names what a probe reads, whatever feeds it: two probes with the same key have the same tokens in an identity block.
    /// For example `customer(email:nfc+trim+lower)`; `scope` is the table, or the collection's name for record formats.
    pub fn key(&self, scope: &str) -> String {
        let fields: Vec<String> = self.fields.iter().map(|(f, n)| format!("{f}:{n}")).collect();
        format!("{scope}({})", fields.join(","))
    }
}

/// What happens to a value. Names and defaults are the field's; see `docs/data-map.md`.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// The record goes with it (only as a collection's `on_erase`; on a field: like `NullRewrite`).
    Delete,
    /// NULL, an empty CSV field, JSON `null`.
    NullRewrite,
    /// This value.
    StringRewrite {
        /// The new value.
        rewrite_value: String,
    },
    /// A random string.
    RandomStringRewrite {
        /// Characters, without the suffix.
        length: usize,
        /// Appended, to keep a format valid (`@erased.invalid`).
        suffix: String,
    },
    /// In text: each span that names the person. In a field without `scan`: the whole value.
    Redact {
        /// What stands there instead.
        replacement: String,
    },
    /// Keyed hash. Pseudonymised, not erased: refused unless the dataset accepts that.
    Hmac,
    /// Kept on a ground.
    Preserve {
        /// Why it may stay; printed in the certificate.
        basis: String,
    },
}

/// How far an action goes, as the certificate says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Label {
    /// Gone.
    Erased,
    /// No longer about a person, in somebody's judgement.
    Anonymised,
    /// Still about a person for whoever holds the key.
    Pseudonymised,
    /// Kept on a ground.
    Kept,
}

impl Action {
    /// How far it goes.
    pub fn label(&self) -> Label {
        match self {
            Action::Delete
            | Action::NullRewrite
            | Action::StringRewrite { .. }
            | Action::RandomStringRewrite { .. }
            | Action::Redact { .. } => Label::Erased,
            Action::Hmac => Label::Pseudonymised,
            Action::Preserve { .. } => Label::Kept,
        }
    }
}

/// Keeps matched records until a date that their own fields tell.
#[derive(Debug, Clone)]
pub struct Retain {
    /// For example `order_date + 5y`.
    pub until: Expr,
    /// The ground.
    pub basis: String,
    /// The law or contract.
    pub cite: Option<String>,
}
