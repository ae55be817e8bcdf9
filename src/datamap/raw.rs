//! The data map as it is written. Descriptions here become the JSON Schema's, so that an editor shows them while one types.

use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;

/// One value, or a list of them.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    /// One.
    One(T),
    /// Several.
    Many(Vec<T>),
}

impl<T: Clone> OneOrMany<T> {
    /// As a list.
    pub fn to_vec(&self) -> Vec<T> {
        match self {
            OneOrMany::One(one) => vec![one.clone()],
            OneOrMany::Many(many) => many.clone(),
        }
    }
}

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        OneOrMany::Many(Vec::new())
    }
}

/// A data map in a file of its own (`map: customers.yaml`).
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawMap {
    /// Tables, kinds of files with records, and sets of files that belong to people.
    pub collections: Vec<RawCollection>,
    /// What becomes of columns and tables inside mapped entries that no field or collection names. Default: halt.
    pub unmapped: Option<RawUnmapped>,
    /// Actions by category, for fields of `anonymize` collections that have no action of their own. The longest matching category wins.
    #[serde(default)]
    pub categories: BTreeMap<String, RawAction>,
}

/// What becomes of columns and tables that no field or collection names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawUnmapped {
    /// They are an error.
    Halt,
    /// On a matched record they are rewritten like `redact`.
    Redact,
    /// They stay as they are.
    Preserve,
}

/// A table, a kind of file with records, or a set of files that are records themselves.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawCollection {
    /// Unique within the dataset.
    pub name: String,
    /// Which entries: a pattern over the paths that `show --entries` prints. `*` and `?` stay within a component, `**` spans folders,
    /// `{kind}` is an identity of that kind. Without `/` it means the file's name in any folder.
    pub entry: String,
    /// csv, tsv, ndjson, sqlite or path (the whole entry is the record). Default: by the entry's name and first bytes.
    pub format: Option<String>,
    /// Table inside a database. Default: the collection's name.
    pub table: Option<String>,
    /// CSV: the byte between fields. Default: detected.
    pub delimiter: Option<String>,
    /// CSV: the byte around fields that need it. Default: `"`.
    pub quote: Option<String>,
    /// CSV: whether the first record names the columns. Default: detected; without it fields are numbered from 1.
    pub header: Option<bool>,
    /// utf-8, windows-1252, utf-16le or utf-16be. Default: detected.
    pub encoding: Option<String>,
    /// The key's fields.
    #[serde(default)]
    pub primary_key: OneOrMany<String>,
    /// What an erasure does to a matched record.
    pub on_erase: RawOnErase,
    /// What becomes of a record that other people share. Default: skip.
    pub shared: Option<RawShared>,
    /// Columns, or dotted paths (`user.email`, `items[].owner.id`), by name.
    #[serde(default)]
    pub fields: BTreeMap<String, Option<RawField>>,
    /// Identities made of several fields together.
    #[serde(default)]
    pub identities: Vec<RawIdentity>,
    /// How records hang together with those of other collections.
    #[serde(default)]
    pub references: Vec<RawReference>,
    /// A ground that keeps matched records for a time.
    pub retain: Option<RawRetain>,
    /// The ground, for `on_erase: preserve`.
    pub basis: Option<String>,
    /// SQLite triggers that may run while rows are edited; all others stay silent.
    #[serde(default)]
    pub triggers: OneOrMany<String>,
}

/// What an erasure does to a matched record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawOnErase {
    /// The whole record goes.
    Delete,
    /// The fields' actions are applied.
    Anonymize,
    /// The record stays, on a ground.
    Preserve,
}

/// What becomes of a record that other people share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawShared {
    /// It stays, except that the erased person's own reference is set to null where that is allowed; it is reported.
    Skip,
    /// It is erased like any other.
    Erase,
}

/// A column or path.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawField {
    /// Data category, dotted, for example user.contact.email.
    pub category: Option<String>,
    /// The kind of identity that its values are, for example email. Records are found by it.
    pub identity: Option<String>,
    /// How its values are compared; always applied in the order nfc, trim, lower, digits.
    #[serde(default)]
    pub normalize: OneOrMany<RawNormalize>,
    /// What an erasure does to its value.
    pub action: Option<RawAction>,
    /// Search its text for the person's identities and rewrite those spans with the action (redact).
    pub scan: Option<RawScan>,
}

/// A step before values are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawNormalize {
    /// White space at both ends goes.
    Trim,
    /// Unicode normalization form C.
    Nfc,
    /// Unicode lower case.
    Lower,
    /// Only decimal digits stay (phone numbers).
    Digits,
}

/// What text is searched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawScan {
    /// The person's identities.
    Identities,
}

/// What happens to a value.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(tag = "strategy", rename_all = "snake_case", deny_unknown_fields)]
pub enum RawAction {
    /// Like `null_rewrite`.
    Delete,
    /// NULL, an empty CSV field, JSON null.
    NullRewrite,
    /// A fixed value.
    StringRewrite {
        /// The new value.
        rewrite_value: String,
    },
    /// A random string.
    RandomStringRewrite {
        /// Characters, without the suffix. Default: 30.
        length: Option<u32>,
        /// What keeps the value valid where it is checked.
        format_preservation: Option<RawFormatPreservation>,
    },
    /// With `scan`: each span that names the person. Without: the whole value.
    Redact {
        /// What stands there instead. Default: `[erased]`.
        replacement: Option<String>,
    },
    /// A keyed hash: pseudonymised, not erased. Needs `accept_pseudonymised: true` in the dataset's `erasure`.
    Hmac,
    /// It stays, on a ground.
    Preserve {
        /// Why it may stay; printed in the certificate.
        basis: Option<String>,
    },
}

/// What keeps a random value valid.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawFormatPreservation {
    /// Appended, for example `@erased.invalid`.
    pub suffix: Option<String>,
}

/// An identity made of several fields together.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawIdentity {
    /// The kind, for example person; in an identity file: `person: [Doe, 1970-01-31]`.
    pub name: String,
    /// Its fields, in the order in which the identity file gives them.
    pub fields: Vec<String>,
}

/// How records hang together with those of another collection.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawReference {
    /// Fields of this collection.
    pub fields: OneOrMany<String>,
    /// The other collection: `customer` or `crm.customer`; may be this one.
    pub to: String,
    /// Its fields, as many. Default: its primary key.
    #[serde(default)]
    pub to_fields: OneOrMany<String>,
    /// from: this collection's records are found by the other's. to: the other's are found by this one's. Default: from.
    pub direction: Option<RawDirection>,
    /// A condition on the records that are found, for example `kind = 'retail'`.
    pub when: Option<String>,
}

/// Which of the two collections is found by the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawDirection {
    /// Records of this collection are found by those of the other.
    From,
    /// Records of the other collection are found by those of this one.
    To,
}

/// A ground that keeps matched records for a time.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawRetain {
    /// Until when, from the record's own fields: `order_date + 5y`. Units: y, mo, w, d.
    pub until: String,
    /// The ground, for example GDPR 17(3)(b).
    pub basis: String,
    /// The law or contract.
    pub cite: Option<String>,
}
