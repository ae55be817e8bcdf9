//! `reseal.yaml` as it is written. Descriptions here become the JSON Schema's (`reseal schema`), so that an editor shows them
//! while one types; [`super::load`] turns it into [`super::Config`]. The data map's part is [`crate::datamap::raw`].

use crate::datamap::raw::{OneOrMany, RawAction, RawCollection, RawUnmapped};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Configuration of reseal.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "reseal.yaml")]
pub struct RawConfig {
    /// Version of this file's form: 1.
    pub version: u32,
    /// Where archives are: a folder, or s3://bucket/prefix.
    pub repository: String,
    /// Where keys, ledger and requests are, if elsewhere: best where deleting really deletes.
    pub keys: Option<String>,
    /// Settings for s3:// places.
    pub s3: Option<RawS3>,
    /// The same for `keys`, where these are with another provider or under other credentials; nothing is taken over from `s3`. Default: `s3`.
    pub keys_s3: Option<RawS3>,
    /// Folder of the local catalog. Default: by the system's conventions.
    pub state_dir: Option<String>,
    /// Who acts, as the audit log names it. Default: user and host.
    pub actor: Option<String>,
    /// Memory for long work, at least 32MiB. Default: 256MiB.
    pub memory: Option<OneOf<String, u64>>,
    /// zstd level, 1 to 19. Default: 3.
    pub compression_level: Option<i32>,
    /// What is backed up, by name (lower case letters, digits, `_`, `-`).
    pub datasets: BTreeMap<String, RawDataset>,
}

/// One form or another.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOf<A, B> {
    /// The one.
    A(A),
    /// The other.
    B(B),
}

/// Settings for s3:// places. Credentials are found as every AWS tool finds them (environment, profile, role), never written here.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawS3 {
    /// Address of the service, for those that are not AWS.
    pub endpoint: Option<String>,
    /// Region. Default: by environment and profile, else us-east-1.
    pub region: Option<String>,
    /// Buckets in the path instead of the host name. Default: true with an endpoint.
    pub path_style: Option<bool>,
    /// Profile of the shared AWS configuration.
    pub profile: Option<String>,
    /// A credentials file (form of ~/.aws/credentials) to use instead of the usual places.
    pub credentials_file: Option<String>,
    /// PEM file with the certificates to trust instead of the system's.
    pub ca_bundle: Option<String>,
    /// Encryption by the service, where a rule asks for it: everything is sealed before anyway.
    pub encryption: Option<RawEncryption>,
    /// With sse-kms: the key. Default: the service's own.
    pub kms_key: Option<String>,
    /// Storage class of packs, for example STANDARD_IA. Not one that must be brought back before it can be read.
    pub storage_class: Option<String>,
    /// Requests at once, 1 to 256. Default: 8.
    pub concurrency: Option<u32>,
    /// At most so many bytes a second, both ways together, for example 10MiB. Default: no limit.
    pub bandwidth: Option<OneOf<String, u64>>,
    /// One attempt of a request may take so long (more for large ones). Default: 60s.
    pub timeout: Option<String>,
    /// For so long a request is tried again before it has failed. Default: 5min.
    pub patience: Option<String>,
}

/// Encryption by the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum RawEncryption {
    /// With keys of the service.
    #[serde(rename = "sse-s3")]
    SseS3,
    /// With a key of its key management.
    #[serde(rename = "sse-kms")]
    SseKms,
}

/// Packs cannot be removed for a while (Object Lock).
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawLock {
    /// Who may end it early: holders of a special permission (governance), nobody (compliance).
    pub mode: RawLockMode,
    /// For so many days after a pack was written.
    pub days: u32,
}

/// Who may end a lock early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawLockMode {
    /// Whoever has a special permission.
    Governance,
    /// Nobody.
    Compliance,
}

/// A dataset: one source, its archives' retention, and whose data is in it.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawDataset {
    /// Where the backups come from; exactly one of paths, sqlite, command and stdin.
    pub source: RawSource,
    /// Which archives stay.
    pub retention: Option<RawRetention>,
    /// When and how people are erased.
    pub erasure: Option<RawErasure>,
    /// Restoring for real, regularly.
    pub drill: Option<RawDrill>,
    /// Lock of its packs, in a bucket with Object Lock. What is erased loses its keys at once, its bytes when the lock ends.
    pub lock: Option<RawLock>,
    /// The region that its data must stay in: a bucket elsewhere is refused.
    pub region: Option<String>,
    /// What becomes of columns and tables inside mapped entries that no field or collection names. Default: halt.
    pub unmapped: Option<RawUnmapped>,
    /// Actions by category, for fields of `anonymize` collections that have no action of their own.
    #[serde(default)]
    pub categories: BTreeMap<String, RawAction>,
    /// The data map: tables, kinds of files with records, and sets of files that belong to people.
    #[serde(default)]
    pub collections: Vec<RawCollection>,
    /// A file with (more of) the data map.
    pub map: Option<String>,
    /// Several such files.
    #[serde(default)]
    pub maps: Vec<String>,
}

/// Where a dataset's backups come from.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawSource {
    /// Files and folders. Entries are named by them as written (`./data` gives `data/…`).
    pub paths: Option<OneOrMany<String>>,
    /// Only entries that match one of these patterns (folders are always entered).
    #[serde(default)]
    pub include: OneOrMany<String>,
    /// Not entries that match one of these patterns, nor what is below them.
    #[serde(default)]
    pub exclude: OneOrMany<String>,
    /// Skip the content of folders that are marked by a CACHEDIR.TAG. Default: true.
    pub exclude_caches: Option<bool>,
    /// Do not enter other file systems. Default: false.
    pub one_file_system: Option<bool>,
    /// A database file, read as a consistent snapshot also while it is written to.
    pub sqlite: Option<String>,
    /// A command whose standard output is the backup, for `sh -c`, or as a list of arguments. It fails when the command does.
    pub command: Option<OneOrMany<String>>,
    /// Standard input is the backup.
    pub stdin: Option<bool>,
    /// Name of the entry, for sqlite, command and stdin. Default: the database's file name; `<dataset>.out`.
    pub entry: Option<String>,
}

/// Which archives stay.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawRetention {
    /// At most this many archives; the oldest go. Default: no cap.
    pub max_archives: Option<u32>,
    /// Never fewer than this, whatever the other rules say. Default: 1.
    pub min_archives: Option<u32>,
    /// Older ones go, for example 90d. Default: age is no reason.
    pub max_age: Option<String>,
    /// The newest archive of each of the last so many periods stays; others go.
    pub keep: Option<RawKeep>,
}

/// Numbers of periods of which the newest archive stays.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawKeep {
    /// The newest so many.
    pub last: Option<u32>,
    /// Hours.
    pub hourly: Option<u32>,
    /// Days.
    pub daily: Option<u32>,
    /// Weeks.
    pub weekly: Option<u32>,
    /// Months.
    pub monthly: Option<u32>,
    /// Years.
    pub yearly: Option<u32>,
}

/// When and how people are erased.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawErasure {
    /// After a deletion by the operator the data stays recoverable for this long: 3d to 9999d. Default: 60d.
    pub document_lifetime: Option<String>,
    /// After a subject request nothing happens for this long; must end before the deadline. Default: 3d.
    pub cooling_off: Option<String>,
    /// From receipt of a subject request: at most, and by default, 1mo.
    pub deadline: Option<String>,
    /// What an erasure does to archives. Default: rewrite.
    pub mode: Option<RawMode>,
    /// How many different people must approve a request. Default: 0; four eyes: 2.
    pub approvals: Option<u32>,
    /// Accept `hmac` (pseudonymised) as an erasure. Default: false.
    pub accept_pseudonymised: Option<bool>,
}

/// What an erasure does to archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawMode {
    /// They are rewritten.
    Rewrite,
    /// They are left to rotation.
    Expire,
    /// The ledger is applied when they are restored.
    Replay,
}

/// Restoring for real, regularly.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawDrill {
    /// How often, for example 7d.
    pub every: String,
    /// What must hold of what was restored.
    #[serde(default)]
    pub checks: Vec<RawCheck>,
}

/// Something that must hold of what was restored.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawCheck {
    /// The entry that must be there (a path as `show --entries` prints it).
    pub entry: String,
    /// A query on it, as a database, that gives one number.
    pub sql: Option<String>,
    /// At least this: the query's number, or without one the entry's bytes.
    pub min: Option<i64>,
    /// At most this.
    pub max: Option<i64>,
}
