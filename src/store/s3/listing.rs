//! Listings: page by page to the end, in whatever order the service has, and only what can be an object of ours.

use super::S3Store;
use super::client::Verb;
use super::errors::{Failure, Kind};
use crate::store::{Object, check_key};
use aws_sdk_s3::operation::list_object_versions::ListObjectVersionsOutput;

/// A version of an object, or a delete marker.
#[derive(Debug, Clone)]
pub(super) struct Version {
    pub key: String,
    pub len: u64,
    /// `None` where the service does not say.
    pub id: Option<String>,
    pub latest: bool,
    pub marker: bool,
}

impl Version {
    pub fn into_object(self) -> Object {
        Object { key: self.key, len: self.len, version: self.id, is_delete_marker: self.marker, is_latest: self.latest }
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
                Ok(plain.map(|o| Version { key: o.key, len: o.len, id: None, latest: true, marker: false }).collect())
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
                    out.push(Version { key, len, id, latest: v.is_latest().unwrap_or(false), marker: false });
                }
            }
            for m in page.delete_markers() {
                if let Some(key) = self.ours(m.key()) {
                    let id = m.version_id().map(str::to_string);
                    out.push(Version { key, len: 0, id, latest: m.is_latest().unwrap_or(false), marker: true });
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
