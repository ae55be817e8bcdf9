//! Deleting so that nothing is left: on a bucket with versions every version and delete marker of a key, the old ones first, so that none
//! of them comes to light in between. What is locked cannot go: it is hidden behind a delete marker, and said with its date.

use super::S3Store;
use super::client::Verb;
use super::errors::{Failure, Kind};
use super::listing::{Line, Version};
use super::multipart::LEFTOVER_AGE;
use super::{is_head, is_lease};
use crate::crash;
use crate::store::{Store, StoreError, StoreResult, check_key};
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

/// The service takes no more keys at once.
const BATCH: usize = 1000;

/// What is below these holds no keys.
const KEYLESS: [&str; 2] = ["packs/", "archives/"];

/// Key and version to remove, and why it could not be.
type Refused = Vec<(Version, Failure)>;

impl S3Store {
    pub(super) fn store_name(&self) -> String {
        self.describe()
    }

    /// Before this moment, in seconds, began nothing that somebody may still be busy with.
    pub(super) fn long_ago(&self) -> i64 {
        self.connection.env.now().as_second().saturating_sub(LEFTOVER_AGE)
    }

    /// Whether the bucket keeps versions, or kept them once. Who may not ask looks for versions every time.
    pub(super) async fn has_versions(&self) -> Result<bool, Failure> {
        if let Some(known) = self.versioned.get() {
            return Ok(*known);
        }
        let answer = self
            .connection
            .call(Verb::Other, 0, || async {
                Ok(self.connection.client.get_bucket_versioning().bucket(&self.options.bucket).send().await?)
            })
            .await;
        let has = match answer {
            Ok(answer) => answer.status().is_some(),
            Err(f) if matches!(f.kind, Kind::Denied) => true,
            Err(f) if matches!(f.kind, Kind::NotImplemented) => false,
            Err(f) => return Err(f),
        };
        Ok(*self.versioned.get_or_init(|| has))
    }

    /// Every version of a key.
    pub(super) async fn remove(&self, key: &str) -> StoreResult<()> {
        let failed = |f: Failure| self.error("delete", key, f);
        if !self.has_versions().await.map_err(failed)? {
            return match self.remove_plain(key).await {
                Err(f) if f.kind == Kind::Missing => Ok(()),
                other => other.map_err(failed),
            };
        }
        let versions = self.versions_of(key).await.map_err(failed)?;
        match self.remove_all(versions).await.map_err(failed)?.into_iter().next() {
            None => Ok(()),
            Some((_, error)) => Err(error),
        }
    }

    /// Many keys; those that could not be removed.
    pub(super) async fn remove_many(&self, keys: &[String]) -> Vec<(String, StoreError)> {
        let (good, mut left) = checked(keys);
        for batch in good.chunks(BATCH) {
            crash::step("delete objects");
            let done = async {
                let versions = if self.has_versions().await? {
                    self.versions_of_many(batch).await?
                } else {
                    batch.iter().map(|key| Version { key: key.clone(), len: 0, id: None, latest: true, marker: false, at: None }).collect()
                };
                self.remove_all(versions).await
            };
            match done.await {
                Ok(refused) => left.extend(refused),
                // One answer for all: each of them may still be there.
                Err(f) => {
                    let each = |key: &String| (key.clone(), self.error("delete", key, f.clone()));
                    left.extend(batch.iter().map(each));
                }
            }
        }
        left
    }

    /// Key by key for a few; for many by folders (two segments), which costs a request per thousand objects there.
    async fn versions_of_many(&self, keys: &[String]) -> Result<Vec<Version>, Failure> {
        let mut folders: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
        for key in keys {
            let folder = key.match_indices('/').nth(1).and_then(|(end, _)| key.get(..=end)).unwrap_or(key);
            folders.entry(folder).or_default().push(key);
        }
        let mut out = Vec::new();
        for (folder, keys) in folders {
            if keys.len() <= 4 || !folder.ends_with('/') {
                for key in keys {
                    out.extend(self.versions_of(key).await?);
                }
            } else {
                let wanted: BTreeSet<&String> = keys.into_iter().collect();
                out.extend(self.versions(folder).await?.into_iter().filter(|v| wanted.contains(&v.key)));
            }
        }
        Ok(out)
    }

    /// Versions that are neither current nor needed, of objects that may hold keys, under the whole prefix; and what is hidden behind
    /// delete markers there. What a crash between a write and the removal of what it replaced left. What is hidden under keys to `spare` stays.
    pub(super) async fn remove_old_versions(&self, spare: &dyn Fn(&str) -> bool) -> StoreResult<u64> {
        let failed = |f: Failure| self.error("clean", "", f);
        if !self.has_versions().await.map_err(failed)? {
            return Ok(0);
        }
        let mut removed = 0;
        let long_ago = self.long_ago();
        // Packs and heads hold no keys, may be locked, and are the sweep's business, which knows what lives.
        for folder in self.folders().await.map_err(failed)?.iter().filter(|f| !KEYLESS.contains(&f.as_str())) {
            let versions = self.versions(folder).await.map_err(failed)?;
            let old: Vec<Version> = Line::all(versions)
                .into_iter()
                .flat_map(|(key, line)| match line.front() {
                    // Behind a lease only what nobody can just be reading: see `bury`.
                    Some(front) if !front.marker && is_lease(&key) => {
                        line.behind(front, long_ago).into_iter().filter(|v| v.at.is_some_and(|at| at < long_ago)).collect()
                    }
                    Some(front) if !front.marker => line.behind(front, long_ago),
                    _ if spare(&key) => Vec::new(),
                    _ => line.hidden(long_ago),
                })
                .collect();
            let n = old.len() as u64;
            if n == 0 {
                continue;
            }
            let left = self.remove_all(old).await.map_err(failed)?;
            removed += n - (left.len() as u64).min(n);
            if let Some((_, error)) = left.into_iter().next() {
                return Err(error);
            }
        }
        Ok(removed)
    }

    /// What is behind the current versions of these keys; of a key without a current one, nothing. Those of which something is left.
    pub(super) async fn remove_behind(&self, keys: &[String]) -> Vec<(String, StoreError)> {
        let (good, mut left) = checked(keys);
        for batch in good.chunks(BATCH) {
            crash::step("delete old versions");
            let done = async {
                if !self.has_versions().await? {
                    return Ok(Vec::new());
                }
                let versions = self.versions_of_many(batch).await?;
                let (lines, long_ago) = (Line::all(versions).into_values(), self.long_ago());
                let old = lines.flat_map(|line| {
                    line.front().filter(|front| !front.marker).map_or_else(Vec::new, |front| line.behind(front, long_ago))
                });
                self.remove_all(old.collect()).await
            };
            match done.await {
                Ok(refused) => left.extend(refused),
                Err(f) => left.extend(batch.iter().map(|key| (key.clone(), self.error("clean", key, f.clone())))),
            }
        }
        left
    }

    /// Some versions of one key; fails with the first that cannot go. An old head that a lock keeps may stay: no keys are in it, it says what
    /// the current one says, and the sweep removes it when the lock has ended.
    pub(super) async fn remove_versions(&self, key: &str, versions: Vec<Version>) -> Result<(), Failure> {
        debug_assert!(versions.iter().all(|v| v.key == key));
        for (version, failure) in self.remove_batches(versions).await? {
            let may_stay = is_head(key) && failure.kind == Kind::Denied && self.held(&version).await?.is_some();
            if !may_stay {
                return Err(failure);
            }
        }
        Ok(())
    }

    /// Versions of many keys: what is behind goes before what is in front. Gives the keys that are left, with why.
    async fn remove_all(&self, versions: Vec<Version>) -> Result<Vec<(String, StoreError)>, Failure> {
        let (front, behind): (Vec<Version>, Vec<Version>) = versions.into_iter().partition(|v| v.latest);
        let mut refused = self.remove_batches(behind).await?;
        let stays: BTreeSet<String> = refused.iter().map(|(v, _)| v.key.clone()).collect();
        // A marker stays in front of what could not be removed: else the old version would come to light.
        let (in_front, free): (Vec<Version>, Vec<Version>) = front.into_iter().partition(|v| stays.contains(&v.key));
        refused.extend(self.remove_batches(free).await?);
        for version in in_front.into_iter().filter(|v| !v.marker) {
            refused.extend(self.remove_behind_marker(version).await?);
        }
        let mut left: BTreeMap<String, StoreError> = BTreeMap::new();
        for (version, failure) in refused {
            let held = match failure.kind {
                Kind::Denied => self.held(&version).await?,
                _ => None,
            };
            let error = match held {
                Some(held) => {
                    if version.latest && !version.marker {
                        self.remove_plain(&version.key).await?;
                    }
                    self.locked(&version.key, &held)
                }
                None => self.error("delete", &version.key, failure),
            };
            match left.get(&version.key) {
                Some(known) if keeps(known) >= keeps(&error) => {}
                _ => drop(left.insert(version.key, error)),
            }
        }
        Ok(left.into_iter().collect())
    }

    /// A current version with something behind it that cannot go: a marker comes in front of both, and then it goes itself.
    async fn remove_behind_marker(&self, mut version: Version) -> Result<Refused, Failure> {
        match self.remove_plain(&version.key).await {
            Ok(()) => {}
            Err(f) if f.kind == Kind::Stopped => return Err(f),
            Err(f) => return Ok(vec![(version, f)]),
        }
        // Where the bucket has ceased to keep versions, the marker may have taken its place, and its id.
        version.latest = false;
        let now = self.versions_of(&version.key).await?;
        let is_there = now.iter().any(|v| v.id == version.id && !v.latest && !v.marker);
        self.remove_batches(is_there.then_some(version).into_iter().collect()).await
    }

    /// In batches; the ones that the service refused.
    async fn remove_batches(&self, versions: Vec<Version>) -> Result<Refused, Failure> {
        let mut refused = Vec::new();
        for batch in versions.chunks(BATCH) {
            if let [one] = batch {
                if let Err(failure) = self.remove_version(one).await {
                    match failure.kind {
                        Kind::Missing => {}
                        Kind::Stopped => return Err(failure),
                        _ => refused.push((one.clone(), failure)),
                    }
                }
                continue;
            }
            refused.extend(self.remove_batch(batch).await?);
        }
        Ok(refused)
    }

    /// One request; keys that met a passing error are tried again alone.
    async fn remove_batch(&self, batch: &[Version]) -> Result<Refused, Failure> {
        let mut objects = Vec::with_capacity(batch.len());
        for v in batch {
            let id = ObjectIdentifier::builder().key(self.full(&v.key)).set_version_id(v.id.clone()).build();
            objects.push(id.map_err(|e| Failure::other(e.to_string()))?);
        }
        let delete = Delete::builder().set_objects(Some(objects)).quiet(true).build().map_err(|e| Failure::other(e.to_string()))?;
        let answer = self
            .connection
            .call(Verb::Delete, 0, || async {
                let request = self.connection.client.delete_objects().bucket(&self.options.bucket);
                Ok(request.delete(delete.clone()).send().await?)
            })
            .await?;
        let mut refused = Vec::new();
        for error in answer.errors() {
            let Some(version) = batch.iter().find(|v| {
                error.key() == Some(self.full(&v.key).as_str()) && (error.version_id().is_none() || error.version_id() == v.id.as_deref())
            }) else {
                return Err(Failure::other("the service refused to delete something that was not named"));
            };
            // Alone: its answer has a status, and a passing error passes.
            match self.remove_version(version).await {
                Ok(()) => {}
                Err(f) if f.kind == Kind::Missing => {}
                Err(f) if f.kind == Kind::Stopped => return Err(f),
                Err(f) => refused.push((version.clone(), f)),
            }
        }
        Ok(refused)
    }

    async fn remove_version(&self, version: &Version) -> Result<(), Failure> {
        self.connection
            .call(Verb::Delete, 0, || async {
                let request = self.connection.client.delete_object().bucket(&self.options.bucket).key(self.full(&version.key));
                request.set_version_id(version.id.clone()).send().await?;
                Ok(())
            })
            .await
    }

    /// Without naming a version: on a bucket with versions this leaves a delete marker.
    async fn remove_plain(&self, key: &str) -> Result<(), Failure> {
        self.connection
            .call(Verb::Delete, 0, || async {
                self.connection.client.delete_object().bucket(&self.options.bucket).key(self.full(key)).send().await?;
                Ok(())
            })
            .await
    }
}

/// Keys that a store takes, and the others.
fn checked(keys: &[String]) -> (Vec<String>, Vec<(String, StoreError)>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for key in keys {
        match check_key(key) {
            Ok(()) => good.push(key.clone()),
            Err(e) => bad.push((key.clone(), e)),
        }
    }
    (good, bad)
}

/// How firmly something is kept: until a date, until a legal hold is ended, or for a reason that is no lock.
fn keeps(error: &StoreError) -> (u8, Option<Timestamp>) {
    match error {
        StoreError::Locked { until: Some(until), .. } => (0, Some(*until)),
        StoreError::Locked { until: None, .. } => (1, None),
        _ => (2, None),
    }
}
