//! How long copies of a person's data can stay in backups: what a data protection officer hands out. Made from what is there and from the
//! rules as they are now; nothing is changed by it.
//!
//! What could not be found out is named as such and never passed over: in `not_known`, and as `None` in its place.

use super::backup::source_word;
use super::rotate::facts_of;
use super::session::Session;
use super::state::{KeyExport, State};
use crate::config;
use crate::policy::{ErasurePolicy, Mode, Retention, retention::expires_at};
use crate::repository::Listed;
use crate::store::s3::{Lock, LockMode};
use crate::store::{Finding, Level, Object, StoreError};
use crate::{Error, Result};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The statement.
#[derive(Debug, Clone)]
pub struct Statement {
    /// Id of the repository.
    pub repository: String,
    /// When it was made.
    pub at: Timestamp,
    /// Number of the last entry of the audit log by then.
    pub ledger_entry: u64,
    /// What the places do by themselves with what is in them.
    pub storage: Vec<Finding>,
    /// Dataset by dataset.
    pub datasets: Vec<DatasetStatement>,
    /// Exports of the keys that are not known to be destroyed.
    pub exports: Vec<KeyExport>,
    /// What could not be found out, in words.
    pub not_known: Vec<String>,
}

/// One dataset.
#[derive(Debug, Clone)]
pub struct DatasetStatement {
    /// Its name.
    pub name: String,
    /// Kinds of sources: of the configuration, and of the archives that are there.
    pub sources: Vec<String>,
    /// Its rules; `None`: it is not in the configuration.
    pub rules: Option<Rules>,
    /// Archives that can be read.
    pub archives: u64,
    /// Heads that cannot be read, and archives that the audit log knows and the store does not have.
    pub unreadable: u64,
    /// What put-only hosts handed in and nobody has admitted yet: it is in no count and no erasure reaches it.
    pub waiting: u64,
    /// The oldest archive.
    pub oldest: Option<Kept>,
    /// When the newest was made.
    pub newest: Option<Timestamp>,
    /// When the last of the archives that are there now will probably go; `None`: no rule sets an end, or it is not known.
    pub last_expires: Option<Timestamp>,
    /// What a lock still keeps although its keys are destroyed; `None`: the store could not be asked.
    pub locked: Option<Vec<Held>>,
    /// Requests that are not over.
    pub open_requests: u64,
    /// Those of them whose deadline has passed.
    pub overdue_requests: u64,
}

/// What the configuration says about a dataset.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Which archives stay.
    pub retention: Retention,
    /// When and how people are erased.
    pub erasure: ErasurePolicy,
    /// Whether a data map says whose records are whose: without one nobody can be erased.
    pub mapped: bool,
    /// Grounds on which records of an erased person stay, with the collection they are in.
    pub grounds: Vec<(String, String)>,
    /// Lock of new packs.
    pub lock: Option<Lock>,
    /// The region that it must stay in.
    pub region: Option<String>,
}

/// An archive and its end.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Its id.
    pub id: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it will probably go.
    pub expires_at: Option<Timestamp>,
}

/// An object without keys that a lock keeps.
#[derive(Debug, Clone)]
pub struct Held {
    /// Its key.
    pub object: String,
    /// When the lock ends, as the run that met it wrote down; `None`: under a legal hold, or not known.
    pub until: Option<Timestamp>,
}

impl DatasetStatement {
    /// How long a copy can stay if nobody asks for anything, in words.
    pub fn stays(&self) -> String {
        match (&self.rules, self.last_expires) {
            _ if self.archives + self.unreadable + self.waiting == 0 => "there is no archive".into(),
            (None, _) => "not known: the dataset is not in the configuration".into(),
            (Some(rules), _) if !rules.retention_ends() => "without an end: no rule removes archives".into(),
            (Some(_), Some(at)) => {
                format!("until about {} UTC, when the last of today's archives goes if backups go on as they did", day(at))
            }
            (Some(_), None) => "no end within the time that can be foreseen".into(),
        }
    }

    /// How soon an erasure reaches every backup, in words.
    pub fn reach(&self) -> String {
        let Some(rules) = &self.rules else { return "not known: the dataset is not in the configuration".into() };
        if !rules.mapped {
            return "never: no data map says whose records are in it, so that nobody can be found; copies stay until retention removes them".into();
        }
        let policy = &rules.erasure;
        let approvals = match policy.approvals {
            0 => String::new(),
            n => format!(" and {n} approval(s)"),
        };
        let due = format!(
            "due {} after a person's request is received (after a deletion by the operator: {}){approvals}",
            policy.cooling_off, policy.document_lifetime
        );
        let within =
            format!("has to be done within {} of the request's receipt, or three months if the deadline is extended", policy.deadline);
        match policy.mode {
            Mode::Rewrite => {
                format!("every archive is rewritten by the first `propagate` or `nightly` once the request is {due}; it {within}")
            }
            Mode::Expire => format!(
                "archives are not rewritten: restores leave the person out from the time the request is {due}, and the copies go with their archives, {}",
                self.last_expires.map_or_else(|| "with no end known".into(), |at| format!("the last about {} UTC", day(at)))
            ),
            Mode::Replay => format!(
                "archives are never changed: restores leave the person out from the time the request is {due}, and the copies stay as long as their archives"
            ),
        }
    }
}

impl Rules {
    fn of(config: &config::Dataset) -> Rules {
        let grounds = config.map.collections.iter().filter_map(|c| {
            let basis = c.retain.as_ref().map(|r| match &r.cite {
                Some(cite) => format!("{} ({cite})", r.basis),
                None => r.basis.clone(),
            });
            Some((c.name.clone(), basis.or_else(|| c.basis.clone())?))
        });
        Rules {
            retention: config.retention.clone(),
            erasure: config.erasure.clone(),
            mapped: !config.map.collections.is_empty(),
            grounds: grounds.collect(),
            lock: config.lock,
            region: config.region.clone(),
        }
    }

    fn retention_ends(&self) -> bool {
        self.retention.max_archives.is_some() || self.retention.max_age.is_some() || self.retention.keep.is_some()
    }

    /// The lock's mode, in a word.
    pub fn lock_mode(&self) -> Option<&'static str> {
        self.lock.map(|lock| match lock.mode {
            LockMode::Governance => "governance",
            LockMode::Compliance => "compliance",
        })
    }
}

/// The day, as statements name it.
pub fn day(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d").to_string()
}

/// Makes the statement about these datasets; about all that are configured or stored when none is named.
pub fn make(session: &Session, names: &[String]) -> Result<Statement> {
    let state = session.state()?;
    let stored: BTreeSet<String> = session.dataset_names()?.into_iter().collect();
    let mut wanted: BTreeSet<String> = names.iter().cloned().collect();
    for name in names {
        if !stored.contains(name) {
            session.dataset_config(name)?;
        }
    }
    if wanted.is_empty() {
        wanted = stored.iter().cloned().chain(session.config.datasets.keys().cloned()).collect();
    }
    let mut not_known = Vec::new();
    let mut datasets = Vec::new();
    for name in &wanted {
        session.env.stop.check("nothing was changed")?;
        datasets.push(dataset(session, &state, name, &mut not_known)?);
    }
    let location = session.repo.location();
    let mut storage = location.data.inspect();
    if !Arc::ptr_eq(&location.data, &location.keys) {
        storage.extend(location.keys.inspect());
    }
    not_known
        .extend(storage.iter().filter(|f| f.level == Level::Unknown).map(|f| format!("{}: {}: {}", f.place, f.aspect.as_str(), f.text)));
    Ok(Statement {
        repository: session.repo.id().to_string(),
        at: session.now(),
        ledger_entry: state.seq,
        storage,
        datasets,
        exports: state.exports.iter().filter(|e| e.destroyed.is_none()).cloned().collect(),
        not_known,
    })
}

fn dataset(session: &Session, state: &State, name: &str, not_known: &mut Vec<String>) -> Result<DatasetStatement> {
    let config = session.config.datasets.get(name);
    let heads = session.heads(name)?;
    let missing = session.missing_archives(name, &heads)?;
    let facts = facts_of(state, name, &heads.latest);
    let ends = match config {
        Some(config) => expires_at(&facts, &config.retention, session.now()),
        None => vec![None; facts.len()],
    };
    let mut sources: BTreeSet<String> = heads.latest.iter().map(|l| l.head.source.clone()).collect();
    sources.extend(config.map(|c| source_word(&c.source).to_string()));
    let kept = |(listed, end): (&Listed, &Option<Timestamp>)| Kept {
        id: listed.head.archive.to_string(),
        created_at: listed.head.created_at,
        expires_at: *end,
    };
    let now = session.now();
    let open = state.requests.iter().filter(|r| r.datasets.contains_key(name) && !r.stage(now).is_final());
    let statement = DatasetStatement {
        name: name.to_string(),
        sources: sources.into_iter().collect(),
        rules: config.map(Rules::of),
        archives: heads.latest.len() as u64,
        unreadable: (heads.damaged.len() + missing.len()) as u64,
        waiting: session.repo.pending(name)?.len() as u64,
        oldest: heads.latest.iter().zip(&ends).map(kept).next(),
        newest: heads.latest.last().map(|l| l.head.created_at),
        last_expires: if ends.iter().any(Option::is_none) { None } else { ends.iter().copied().flatten().max() },
        locked: locked(session, state, name, not_known)?,
        open_requests: open.clone().count() as u64,
        overdue_requests: open.filter(|r| r.deadline.is_some_and(|at| at < now)).count() as u64,
    };
    if config.is_none() {
        not_known.push(format!("dataset {name} is not in the configuration: its rules are not known"));
    }
    if statement.unreadable > 0 {
        not_known
            .push(format!("dataset {name}: what is in {} archive(s) that cannot be read or are not there any more", statement.unreadable));
    }
    if statement.waiting > 0 {
        not_known.push(format!(
            "dataset {name}: what is in {} archive(s) that put-only hosts handed in and nobody has admitted",
            statement.waiting
        ));
    }
    Ok(statement)
}

/// What hides behind delete markers or living heads, with the dates that runs wrote down when they met it. `None` where versions may not be listed.
fn locked(session: &Session, state: &State, name: &str, not_known: &mut Vec<String>) -> Result<Option<Vec<Held>>> {
    let mut until: BTreeMap<&str, Option<Timestamp>> = BTreeMap::new();
    for finished in state.requests.iter().filter_map(|r| r.finished.as_ref()) {
        until.extend(finished.listing.locked.iter().map(|l| (l.key.as_str(), l.until)));
    }
    let mut out = Vec::new();
    for prefix in [format!("packs/{name}/"), format!("archives/{name}/")] {
        let versions = match session.repo.location().data.list_versions(&prefix) {
            Ok(versions) => versions,
            Err(e @ StoreError::Failed { .. }) if !session.env.stop.requested() => {
                not_known.push(format!("dataset {name}: what locks still keep ({})", Error::from(e)));
                return Ok(None);
            }
            Err(e) => return Err(e.into()),
        };
        let current: BTreeSet<&str> = versions.iter().filter(|v| v.is_latest && !v.is_delete_marker).map(|v| v.key.as_str()).collect();
        // Of a living pack every version is the same; of a living head an old one was sealed under another root key.
        let old = |v: &&Object| !v.is_latest && (v.key.starts_with("archives/") || !current.contains(v.key.as_str()));
        let hidden: BTreeSet<&str> = versions.iter().filter(|v| !v.is_delete_marker).filter(old).map(|v| v.key.as_str()).collect();
        out.extend(hidden.into_iter().map(|key| Held { object: key.to_string(), until: until.get(key).copied().flatten() }));
    }
    Ok(Some(out))
}
