//! What a bucket does by itself with what is put into it: keeps versions, moves or expires objects, copies them elsewhere, locks them.
//! Each of these can keep alive what was erased, or lose what was not. What cannot be read is unknown, and said to be.

use super::S3Store;
use super::client::Verb;
use super::errors::{Failure, Kind};
use crate::store::{Aspect, Finding, Level, Store, StoreResult};
use aws_sdk_s3::operation::get_bucket_versioning::GetBucketVersioningOutput;
use aws_sdk_s3::types::{
    BucketVersioningStatus, DefaultRetention, ExpirationStatus, LifecycleRule, MfaDeleteStatus, ObjectLockEnabled, ObjectLockRetentionMode,
    ReplicationRule, ReplicationRuleStatus, TransitionStorageClass,
};

impl S3Store {
    /// Everything about the bucket that an erasure's proof depends on.
    pub(super) async fn findings(&self) -> Vec<Finding> {
        let mut out = Vec::new();
        self.see_versions(&mut out).await;
        self.see_lifecycle(&mut out).await;
        self.see_replication(&mut out).await;
        self.see_locks(&mut out).await;
        out
    }

    fn finding(&self, aspect: Aspect, level: Level, text: impl Into<String>) -> Finding {
        Finding { place: self.describe(), aspect, level, text: text.into() }
    }

    fn unknown(&self, aspect: Aspect, failure: &Failure) -> Finding {
        let why = match failure.kind {
            Kind::NotImplemented => "the service does not answer this question".to_string(),
            _ => failure.to_string(),
        };
        Finding {
            level: if failure.kind == Kind::NotImplemented { Level::NotOffered } else { Level::Unknown },
            ..self.finding(aspect, Level::Unknown, format!("could not be read: {why}"))
        }
    }

    /// What the bucket says about its versions.
    pub(super) async fn versioning(&self) -> Result<GetBucketVersioningOutput, Failure> {
        self.connection
            .call(Verb::Other, 0, || async {
                Ok(self.connection.client.get_bucket_versioning().bucket(&self.options.bucket).send().await?)
            })
            .await
    }

    async fn see_versions(&self, out: &mut Vec<Finding>) {
        out.push(match self.versioning().await {
            Err(f) => self.unknown(Aspect::Versions, &f),
            Ok(a) if a.mfa_delete() == Some(&MfaDeleteStatus::Enabled) => self.finding(
                Aspect::Versions,
                Level::Warning,
                "versions can only be removed with a second factor (MFA delete): reseal cannot destroy keys here",
            ),
            Ok(a) => match a.status() {
                None => self.finding(Aspect::Versions, Level::Fine, "the bucket keeps no versions"),
                Some(BucketVersioningStatus::Suspended) => self.finding(
                    Aspect::Versions,
                    Level::Note,
                    "versioning is suspended; older versions may be there, and reseal removes those of what it replaces or deletes",
                ),
                Some(_) => self.finding(
                    Aspect::Versions,
                    Level::Note,
                    "the bucket keeps versions; reseal removes every version of what it replaces or deletes, and lists them to prove it",
                ),
            },
        });
    }

    async fn see_lifecycle(&self, out: &mut Vec<Finding>) {
        let answer = self
            .connection
            .call(Verb::Other, 0, || async {
                Ok(self.connection.client.get_bucket_lifecycle_configuration().bucket(&self.options.bucket).send().await?)
            })
            .await;
        let rules = match answer {
            Err(f) if f.is("NoSuchLifecycleConfiguration") || (f.kind == Kind::Missing) => Vec::new(),
            Err(f) => return out.push(self.unknown(Aspect::Lifecycle, &f)),
            Ok(a) => a.rules().to_vec(),
        };
        let before = out.len();
        for rule in rules.iter().filter(|r| *r.status() == ExpirationStatus::Enabled && self.concerns(r)) {
            let name = rule.id().map_or_else(String::new, |id| format!("rule {id}: "));
            if let Some(e) = rule.expiration()
                && (e.days().is_some() || e.date().is_some())
            {
                let when = e.days().map_or_else(|| "at a date".to_string(), |d| format!("after {d} days"));
                out.push(self.finding(
                    Aspect::Lifecycle,
                    Level::Warning,
                    format!("{name}objects expire {when}: backups would be LOST; exclude this prefix"),
                ));
            }
            for t in rule.transitions() {
                let class = t.storage_class().map_or("another storage class", TransitionStorageClass::as_str);
                let slow = matches!(t.storage_class(), Some(TransitionStorageClass::Glacier | TransitionStorageClass::DeepArchive));
                let (level, what) = match slow {
                    true => (Level::Warning, "what is there cannot be read, searched or erased without bringing it back first"),
                    false => (Level::Note, "which changes costs, not contents"),
                };
                out.push(self.finding(Aspect::Lifecycle, level, format!("{name}objects move to {class}, {what}")));
            }
            if let Some(e) = rule.noncurrent_version_expiration() {
                let days = e.noncurrent_days().unwrap_or(0);
                let text = format!(
                    "{name}versions that are not current are kept by the bucket for {days} days; reseal does not wait for that, it removes them itself"
                );
                out.push(self.finding(Aspect::Lifecycle, Level::Note, text));
            }
            if !rule.noncurrent_version_transitions().is_empty() {
                out.push(self.finding(
                    Aspect::Lifecycle,
                    Level::Note,
                    format!("{name}versions that are not current move to another storage class"),
                ));
            }
        }
        if out.len() == before {
            out.push(self.finding(Aspect::Lifecycle, Level::Fine, "no lifecycle rule touches objects here"));
        }
    }

    /// Whether a rule for what begins so can reach objects of ours.
    fn is_reached(&self, prefix: Option<&str>) -> bool {
        let (prefix, root) = (prefix.unwrap_or_default(), self.root());
        prefix.starts_with(&root) || root.starts_with(prefix)
    }

    /// Whether a rule can reach objects of ours: they carry no tags.
    fn concerns(&self, rule: &LifecycleRule) -> bool {
        #[allow(deprecated)]
        let old = rule.prefix();
        let (prefix, tagged) = match rule.filter() {
            None => (old, false),
            Some(f) => match f.and() {
                Some(and) => (and.prefix(), !and.tags().is_empty()),
                None => (f.prefix(), f.tag().is_some()),
            },
        };
        !tagged && self.is_reached(prefix)
    }

    /// Whether a rule can copy objects of ours. One for tagged objects counts: who gives a bucket rules by tags may have something tag all that comes.
    fn is_copied_by(&self, rule: &ReplicationRule) -> bool {
        #[allow(deprecated)]
        let old = rule.prefix();
        self.is_reached(rule.filter().map_or(old, |f| f.and().map_or(f.prefix(), |and| and.prefix())))
    }

    async fn see_replication(&self, out: &mut Vec<Finding>) {
        let answer = self
            .connection
            .call(Verb::Other, 0, || async {
                Ok(self.connection.client.get_bucket_replication().bucket(&self.options.bucket).send().await?)
            })
            .await;
        let rules = match answer {
            Err(f) if f.is("ReplicationConfigurationNotFoundError") || f.kind == Kind::Missing => Vec::new(),
            Err(f) => return out.push(self.unknown(Aspect::Replication, &f)),
            Ok(a) => a.replication_configuration().map(|c| c.rules().to_vec()).unwrap_or_default(),
        };
        let mut targets: Vec<String> = rules
            .iter()
            .filter(|r| *r.status() == ReplicationRuleStatus::Enabled && self.is_copied_by(r))
            .map(|r| r.destination().map_or_else(|| "somewhere".to_string(), |d| d.bucket().to_string()))
            .collect();
        targets.sort();
        targets.dedup();
        out.push(match targets.is_empty() {
            true => self.finding(Aspect::Replication, Level::Fine, "what is here is not copied elsewhere by the service"),
            false => self.finding(
                Aspect::Replication,
                Level::Warning,
                format!(
                    "what is here is copied to {}; the service does not carry the removal of versions there, so what is erased here stays there",
                    targets.join(", ")
                ),
            ),
        });
    }

    async fn see_locks(&self, out: &mut Vec<Finding>) {
        out.push(match self.lock_configuration().await {
            Err(f) => self.unknown(Aspect::Locks, &f),
            Ok(LockState::Off) => self.finding(Aspect::Locks, Level::Fine, "objects here cannot be locked"),
            Ok(LockState::On) => {
                self.finding(Aspect::Locks, Level::Note, "objects here can be locked; only those are that reseal is told to lock")
            }
            Ok(LockState::Default(what)) => self.finding(
                Aspect::Locks,
                Level::Warning,
                format!("the bucket locks every new object for {what}: none can be removed before"),
            ),
        });
    }

    async fn lock_configuration(&self) -> Result<LockState, Failure> {
        let answer = self
            .connection
            .call(Verb::Other, 0, || async {
                Ok(self.connection.client.get_object_lock_configuration().bucket(&self.options.bucket).send().await?)
            })
            .await;
        let config = match answer {
            Err(f) if f.is("ObjectLockConfigurationNotFoundError") || f.kind == Kind::Missing => return Ok(LockState::Off),
            Err(f) => return Err(f),
            Ok(a) => a.object_lock_configuration().cloned(),
        };
        let Some(config) = config.filter(|c| c.object_lock_enabled() == Some(&ObjectLockEnabled::Enabled)) else {
            return Ok(LockState::Off);
        };
        Ok(match config.rule().and_then(|r| r.default_retention()) {
            None => LockState::On,
            Some(retention) => LockState::Default(span(retention)),
        })
    }

    /// The bucket's own lock of everything new, in words; `None` when it has none, or offers no locks.
    pub fn default_retention(&self) -> StoreResult<Option<String>> {
        match self.connection.block_on(self.lock_configuration()) {
            Ok(LockState::Default(what)) => Ok(Some(what)),
            Ok(_) => Ok(None),
            Err(f) if f.kind == Kind::NotImplemented => Ok(None),
            Err(f) => Err(self.error("ask for the locks of", "", f)),
        }
    }

    /// Whether objects can be locked at all; `None` when that cannot be read.
    pub fn can_lock(&self) -> Option<bool> {
        match self.connection.block_on(self.lock_configuration()) {
            Ok(LockState::Off) => Some(false),
            Ok(_) => Some(true),
            Err(f) if f.kind == Kind::NotImplemented => Some(false),
            Err(_) => None,
        }
    }

    /// Where the bucket is. AWS always says so; other services may know no regions, or name none: then what the configuration says about them is all
    /// that there is. Fails when it may not be asked, or cannot be found out at all.
    pub fn region(&self) -> StoreResult<Region> {
        let region = self.connection.block_on(async {
            let head = self
                .connection
                .call(Verb::Head, 0, || async { Ok(self.connection.client.head_bucket().bucket(&self.options.bucket).send().await?) })
                .await;
            if let Ok(region) = head.as_ref().map(|h| h.bucket_region().filter(|r| !r.is_empty()).map(str::to_string))
                && let Some(region) = region
            {
                return Ok(Region::Named(region));
            }
            let answer = self
                .connection
                .call(Verb::Other, 0, || async {
                    Ok(self.connection.client.get_bucket_location().bucket(&self.options.bucket).send().await?)
                })
                .await;
            // The oldest regions have names of their own here.
            let named = match &answer {
                Ok(a) => match a.location_constraint().map(|c| c.as_str()) {
                    Some("EU") => Some("eu-west-1".to_string()),
                    None | Some("") => None,
                    Some(other) => Some(other.to_string()),
                },
                // It does not know the question, or gives an answer that says nothing.
                Err(f) if f.kind == Kind::NotImplemented || f.status.is_some_and(|s| s < 300) && head.is_ok() => None,
                Err(_) => return answer.map(|_| Region::Named(String::new())),
            };
            match (named, &self.options.region) {
                (Some(named), _) => Ok(Region::Named(named)),
                (None, Some(configured)) if self.is_elsewhere() => Ok(Region::Configured(configured.clone())),
                (None, None) if self.is_elsewhere() => {
                    Err(Failure::other("the service does not say; where it is known, write it into the configuration (s3: region)"))
                }
                // An answer without a name is AWS's for its first one.
                (None, _) => answer.map(|_| Region::Named("us-east-1".to_string())),
            }
        });
        region.map_err(|f: Failure| self.error("find the region of", "", f))
    }

    /// Whether the service is none of AWS's own.
    fn is_elsewhere(&self) -> bool {
        let Some(endpoint) = &self.connection.endpoint else { return false };
        let host = endpoint.split_once("://").map_or(endpoint.as_str(), |(_, rest)| rest);
        let host = host.split(['/', ':']).next().unwrap_or_default().to_ascii_lowercase();
        ![".amazonaws.com", ".amazonaws.com.cn", ".api.aws"].iter().any(|domain| host.ends_with(domain))
    }
}

/// Where a bucket is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Region {
    /// As the service says.
    Named(String),
    /// As the configuration says, since the service names none.
    Configured(String),
}

impl Region {
    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Region::Named(name) | Region::Configured(name) => name,
        }
    }
}

enum LockState {
    Off,
    On,
    Default(String),
}

fn span(retention: &DefaultRetention) -> String {
    let mode = match retention.mode() {
        Some(ObjectLockRetentionMode::Compliance) => "compliance",
        _ => "governance",
    };
    match (retention.years(), retention.days()) {
        (Some(years), _) if years > 0 => format!("{years} years ({mode})"),
        (_, days) => format!("{} days ({mode})", days.unwrap_or(0)),
    }
}
