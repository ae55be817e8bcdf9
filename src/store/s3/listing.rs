//! Listings: page by page to the end, in whatever order the service has, and only what can be an object of ours. Only the versions of one
//! key come in an order that counts: the newest first.

use super::S3Store;
use super::client::Verb;
use super::errors::{Failure, Kind};
use crate::store::{Object, check_key};
use aws_sdk_s3::operation::list_object_versions::ListObjectVersionsOutput;
use aws_sdk_s3::primitives::DateTime;
use std::collections::BTreeMap;

/// The id of the one version that a bucket has of a key while it keeps none.
pub(super) const NULL: &str = "null";

/// A version of an object, or a delete marker.
#[derive(Debug, Clone)]
pub(super) struct Version {
    pub key: String,
    pub len: u64,
    /// `None` where the service does not say.
    pub id: Option<String>,
    pub latest: bool,
    pub marker: bool,
    /// When it was written, in seconds of the service's clock, where the service says.
    pub at: Option<i64>,
}

impl Version {
    /// Whether its place among the others tells its age: the version of a bucket that did not keep them yet, or does not any more, may be listed last
    /// whatever its age.
    fn has_place(&self) -> bool {
        self.id.as_deref().is_some_and(|id| id != NULL)
    }

    pub fn into_object(self) -> Object {
        Object { key: self.key, len: self.len, version: self.id, is_delete_marker: self.marker, is_latest: self.latest }
    }
}

/// The versions and delete markers of one key, in the order of the listing.
pub(super) struct Line(Vec<Version>);

impl Line {
    /// Key by key, of a listing.
    pub fn all(versions: Vec<Version>) -> BTreeMap<String, Line> {
        let mut lines: BTreeMap<String, Line> = BTreeMap::new();
        for v in versions {
            lines.entry(v.key.clone()).or_insert_with(|| Line(Vec::new())).0.push(v);
        }
        lines
    }

    /// What a reader gets, or the marker because of which a reader gets nothing.
    pub fn front(&self) -> Option<&Version> {
        self.0.iter().find(|v| v.latest)
    }

    /// The one with this id.
    pub fn with_id(&self, id: &str) -> Option<&Version> {
        self.0.iter().find(|v| v.id.as_deref() == Some(id))
    }

    /// What this version, which is one of the line, has replaced. "Not the latest" would not do: some services list a version before they say
    /// that it is the latest, while its writer waits for the answer. Removing it would lose what that writer is then told is stored. Whatever
    /// has not become the latest since `long_ago` (in seconds) will not any more.
    pub fn behind(&self, front: &Version, long_ago: i64) -> Vec<Version> {
        let place = |v: &Version| self.0.iter().filter(|other| !other.marker).position(|other| other.id == v.id);
        let is_behind = |v: &&Version| {
            if v.latest || v.id == front.id {
                return false;
            }
            let placed = !v.marker && !front.marker && v.has_place() && front.has_place();
            let is_older = match v.at.zip(front.at) {
                _ if placed => place(v) > place(front),
                // Where the bucket keeps no versions any more, what has no place takes the time of whatever replaced it last.
                Some((at, front_at)) if !v.has_place() && front.has_place() => at < front_at,
                Some((at, front_at)) => at <= front_at,
                None => true,
            };
            is_older || v.at.is_some_and(|at| at < long_ago)
        };
        self.0.iter().filter(is_behind).cloned().collect()
    }

    /// All of it, where nothing can be on its way: where there is a marker in front, what is not older than that; where nothing is the latest,
    /// whatever it is. After `long_ago` (in seconds) nobody waits for an answer any more.
    pub fn hidden(&self, long_ago: i64) -> Vec<Version> {
        let marked = self.front().and_then(|marker| marker.at);
        let may_arrive = |v: &&Version| {
            !v.latest && !v.marker && v.at.is_none_or(|at| at >= long_ago) && v.at.zip(marked).is_none_or(|(at, marked)| at >= marked)
        };
        if self.0.iter().any(|v| may_arrive(&v)) { Vec::new() } else { self.0.clone() }
    }
}

impl S3Store {
    /// The key of an object in the bucket, as the store calls it.
    fn ours(&self, full: Option<&str>) -> Option<String> {
        let key = full?.strip_prefix(self.root().as_str())?;
        check_key(key).ok().map(|()| key.to_string())
    }

    /// Current objects under a prefix.
    pub(super) async fn objects(&self, prefix: &str) -> Result<Vec<Object>, Failure> {
        let mut out = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let page = self
                .connection
                .call(Verb::List, 0, || async {
                    let request = self.connection.client.list_objects_v2().bucket(&self.options.bucket).prefix(self.full(prefix));
                    Ok(request.set_continuation_token(token.clone()).send().await?)
                })
                .await?;
            for object in page.contents() {
                if let Some(key) = self.ours(object.key()) {
                    let len = u64::try_from(object.size().unwrap_or(0)).unwrap_or(0);
                    out.push(Object { key, len, version: None, is_delete_marker: false, is_latest: true });
                }
            }
            if page.is_truncated() != Some(true) {
                return Ok(out);
            }
            token = match page.next_continuation_token() {
                Some(next) if token.as_deref() != Some(next) => Some(next.to_string()),
                _ => return Err(Failure::other("the listing does not go on where it says that it does")),
            };
        }
    }

    /// Versions and delete markers under a prefix of whole segments.
    pub(super) async fn versions(&self, prefix: &str) -> Result<Vec<Version>, Failure> {
        self.all_versions(prefix).await
    }

    /// Versions and delete markers of one key.
    pub(super) async fn versions_of(&self, key: &str) -> Result<Vec<Version>, Failure> {
        let mut versions = self.all_versions(key).await?;
        versions.retain(|v| v.key == key);
        Ok(versions)
    }

    /// First segments under which there are objects, or once were; each ends in `/`. None where there cannot be anything but what is current.
    pub(super) async fn folders(&self) -> Result<Vec<String>, Failure> {
        let (mut out, root) = (Vec::new(), self.root());
        let listed = self.version_pages(&root, Some("/"), |page| {
            let folders = page.common_prefixes().iter().filter_map(|p| p.prefix()?.strip_prefix(root.as_str()));
            out.extend(folders.filter(|f| f.strip_suffix('/').is_some_and(|f| check_key(f).is_ok())).map(str::to_string));
        });
        match listed.await {
            Err(f) if self.keeps_none(&f).await? => Ok(Vec::new()),
            listed => listed.map(|()| out),
        }
    }

    /// Where the bucket keeps no versions and does not list any, the plain listing is the whole truth.
    async fn all_versions(&self, prefix: &str) -> Result<Vec<Version>, Failure> {
        match self.listed_versions(&self.full(prefix)).await {
            Err(f) if self.keeps_none(&f).await? => {
                let plain = self.objects(prefix).await?.into_iter();
                Ok(plain.map(|o| Version { key: o.key, len: o.len, id: None, latest: true, marker: false, at: None }).collect())
            }
            listed => listed,
        }
    }

    /// Whether a listing of versions failed because there are none: the bucket says so, or the service has neither the listing nor an answer to
    /// whether there are. Asked anew each time: what proves that nothing is left must not rest on what was so an hour ago.
    async fn keeps_none(&self, failure: &Failure) -> Result<bool, Failure> {
        if !matches!(failure.kind, Kind::NotImplemented | Kind::Denied) {
            return Ok(false);
        }
        match self.versioning().await {
            Ok(answer) => Ok(answer.status().is_none()),
            Err(f) if matches!(f.kind, Kind::NotImplemented | Kind::Denied) => Ok(failure.kind == Kind::NotImplemented),
            Err(f) => Err(f),
        }
    }

    async fn listed_versions(&self, full: &str) -> Result<Vec<Version>, Failure> {
        let mut out = Vec::new();
        self.version_pages(full, None, |page| {
            for v in page.versions() {
                if let Some(key) = self.ours(v.key()) {
                    let len = u64::try_from(v.size().unwrap_or(0)).unwrap_or(0);
                    let id = v.version_id().map(str::to_string);
                    let at = v.last_modified().map(DateTime::secs);
                    out.push(Version { key, len, id, latest: v.is_latest().unwrap_or(false), marker: false, at });
                }
            }
            for m in page.delete_markers() {
                if let Some(key) = self.ours(m.key()) {
                    let id = m.version_id().map(str::to_string);
                    let at = m.last_modified().map(DateTime::secs);
                    out.push(Version { key, len: 0, id, latest: m.is_latest().unwrap_or(false), marker: true, at });
                }
            }
        })
        .await?;
        Ok(out)
    }

    /// Every page of a listing of versions.
    async fn version_pages(
        &self,
        prefix: &str,
        delimiter: Option<&str>,
        mut each: impl FnMut(&ListObjectVersionsOutput),
    ) -> Result<(), Failure> {
        let mut from: (Option<String>, Option<String>) = (None, None);
        loop {
            let page = self
                .connection
                .call(Verb::List, 0, || async {
                    let request = self.connection.client.list_object_versions().bucket(&self.options.bucket).prefix(prefix);
                    let request = request.set_delimiter(delimiter.map(str::to_string)).set_key_marker(from.0.clone());
                    Ok(request.set_version_id_marker(from.1.clone()).send().await?)
                })
                .await?;
            each(&page);
            if page.is_truncated() != Some(true) {
                return Ok(());
            }
            let next = (page.next_key_marker().map(str::to_string), page.next_version_id_marker().map(str::to_string));
            if next.0.is_none() || next == from {
                return Err(Failure::other("the listing does not go on where it says that it does"));
            }
            from = next;
        }
    }
}
