//! Objects in an S3 bucket.
//!
//! What has to hold is what a local directory gives: a reader sees the old bytes or the new ones, conditional writes have one winner,
//! and what was removed is gone. On a bucket with versions nothing is gone by itself: `put` over an object that may hold keys removes
//! the versions behind it, `delete` removes every version and delete marker, and a listing with versions proves it.
//!
//! | file | idea |
//! |---|---|
//! | [`client`] | credentials, connections, attempts, limits, Ctrl-C |
//! | [`errors`] | what an answer means |
//! | [`listing`] | pages of objects and versions |
//! | [`multipart`] | objects in parts, and uploads that nobody finished |
//! | [`delete`] | every version of a key, many keys at once |
//! | [`lock`] | objects that the service does not let go before a date |
//! | [`inspect`] | what a bucket does by itself: versions, lifecycle rules, replication, locks |

mod client;
mod delete;
mod errors;
mod inspect;
mod listing;
mod lock;
mod multipart;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;

pub use client::{Encryption, Options};
pub use inspect::Region;
pub use lock::{Lock, LockMode};

use super::{Finding, Object, Requests, Store, StoreError, StoreResult, Wiped, check_key};
use crate::crash;
use crate::env::Env;
use aws_sdk_s3::operation::get_object::builders::GetObjectFluentBuilder;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use client::{Connection, Verb};
use errors::{Failure, Kind};
use listing::Line;
use std::cell::Cell;
use std::sync::{Arc, OnceLock};

/// Larger objects go in parts.
const SINGLE: usize = 16 << 20;
/// Shorter bodies are signed in any case: it costs nothing.
const UNSIGNED: usize = 64 << 10;

/// A bucket, or a part of one, that keeps objects.
pub struct S3Store {
    options: Options,
    connection: Connection,
    /// Whether the bucket has, or had, versions; asked once.
    versioned: OnceLock<bool>,
}

/// When a write takes place.
#[derive(Debug, Clone)]
enum When {
    Always,
    Absent,
    Matches(String),
}

/// Bytes whose memory their maker uses again once they are sent.
struct Shared(Arc<Vec<u8>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// What a write left.
struct Put {
    /// The version, on a bucket that keeps them.
    version: Option<String>,
    /// An earlier attempt may have left a version as well.
    repeated: bool,
}

impl S3Store {
    /// Connects. The bucket must be there: a missing one would look like an empty store.
    pub fn open(options: Options, env: &Env) -> StoreResult<S3Store> {
        let place = options.to_string();
        let failed =
            |f: Failure| StoreError::Failed { store: place.clone(), action: "open", key: "the bucket".to_string(), source: Box::new(f) };
        let connection = Connection::open(&options, env).map_err(failed)?;
        Ok(S3Store { options, connection, versioned: OnceLock::new() })
    }

    /// The prefix of every key in the bucket, ending in `/` unless it is empty.
    fn root(&self) -> String {
        if self.options.prefix.is_empty() { String::new() } else { format!("{}/", self.options.prefix) }
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.root())
    }

    fn missing(&self, key: &str) -> StoreError {
        StoreError::Missing { store: self.describe(), key: key.to_string() }
    }

    fn error(&self, action: &'static str, key: &str, failure: Failure) -> StoreError {
        match failure.kind {
            Kind::Missing => self.missing(key),
            _ => {
                let key = if key.is_empty() { "the bucket" } else { key };
                StoreError::Failed { store: self.describe(), action, key: key.to_string(), source: Box::new(failure) }
            }
        }
    }

    async fn read(
        &self,
        key: &str,
        shape: impl Fn(GetObjectFluentBuilder) -> GetObjectFluentBuilder,
        expected: u64,
    ) -> Result<Read, Failure> {
        self.read_into(key, shape, expected, Vec::new()).await
    }

    /// Into memory that may have been used before.
    async fn read_into(
        &self,
        key: &str,
        shape: impl Fn(GetObjectFluentBuilder) -> GetObjectFluentBuilder,
        expected: u64,
        room: Vec<u8>,
    ) -> Result<Read, Failure> {
        let (room, expected) = (Cell::new(room), Cell::new(expected));
        let read = self
            .connection
            .call_as(Verb::Get, &expected, is_lease(key), || async {
                let request = self.connection.client.get_object().bucket(&self.options.bucket).key(self.full(key));
                let answer = shape(request).send().await?;
                let (etag, len) = (answer.e_tag().map(str::to_string), answer.content_length());
                let version = answer.version_id().map(str::to_string);
                let range = answer.content_range().map(str::to_string);
                self.connection.expect(&expected, len.and_then(|len| u64::try_from(len).ok()).unwrap_or(0));
                // Not `collect`: what that gives is turned into a vector byte by byte.
                let mut bytes = room.take();
                bytes.clear();
                bytes.reserve(len.and_then(|len| usize::try_from(len).ok()).unwrap_or(0).min(MOST_AT_ONCE));
                let mut body = answer.body;
                while let Some(part) = body.next().await {
                    bytes.extend_from_slice(&part.map_err(|e| Failure::transport(format!("the answer broke off: {}", errors::chain(&e))))?);
                }
                if len.is_some_and(|len| u64::try_from(len) != Ok(bytes.len() as u64)) {
                    return Err(Failure::transport("the answer is shorter than it says"));
                }
                Ok(Read { bytes, etag, version, range })
            })
            .await;
        match read {
            Err(f) => Err(self.denied_or_missing(key, f).await),
            read => read,
        }
    }

    async fn length(&self, key: &str) -> Result<u64, Failure> {
        self.connection
            .call(Verb::Head, 0, || async {
                let answer = self.connection.client.head_object().bucket(&self.options.bucket).key(self.full(key)).send().await?;
                u64::try_from(answer.content_length().unwrap_or(-1)).map_err(|_| Failure::other("the service does not say how long it is"))
            })
            .await
    }

    async fn write(&self, key: &str, bytes: &Bytes, when: When) -> Result<Put, Failure> {
        if bytes.len() > SINGLE && matches!(when, When::Always) {
            return self.write_parts(key, bytes).await;
        }
        let attempts = Cell::new(0u32);
        self.connection
            .call_as(Verb::Put, &Cell::new(bytes.len() as u64), is_lease(key), || async {
                attempts.set(attempts.get() + 1);
                let request = self.connection.client.put_object().bucket(&self.options.bucket).key(self.full(key));
                let request = match &when {
                    When::Always => request,
                    When::Absent => request.if_none_match("*"),
                    When::Matches(etag) => request.if_match(etag),
                };
                let request = shaped!(self, key, request).body(ByteStream::from(bytes.clone())).customize();
                let request = if self.is_signed_without_body(bytes.len()) { request.disable_payload_signing() } else { request };
                let answer = request.send().await?;
                Ok(Put { version: answer.version_id().map(str::to_string), repeated: attempts.get() > 1 })
            })
            .await
            .map_err(|failure| self.with_key(failure))
    }

    /// Services say in many ways, and some only as an error of their own, that the key for encrypting what comes is not there.
    fn with_key(&self, failure: Failure) -> Failure {
        match &self.options.encryption {
            Some(Encryption::SseKms(key)) if failure.status.is_some_and(|s| s >= 500) => {
                let key = key.as_deref().map_or_else(|| "its default KMS key".to_string(), |key| format!("the KMS key {key} (kms_key)"));
                let text = format!("{}; if it is always so, {key} may not be there or may not be used", failure.text);
                Failure { text, ..failure }
            }
            _ => failure,
        }
    }

    /// Whether only the checksum vouches for a body of this length, and not the signature as well. TLS keeps what is on the way from being
    /// altered, and nobody stands between two programs of one machine: signing each byte as well, which the SDK does for all that is in
    /// memory, costs both sides another hash of it. The checksum, which the service verifies, goes along in any case.
    fn is_signed_without_body(&self, len: usize) -> bool {
        len >= UNSIGNED && client::is_private_way(self.connection.endpoint.as_deref())
    }

    /// An object that replaces whatever is there.
    fn put_bytes(&self, key: &str, bytes: &Bytes) -> StoreResult<()> {
        check_key(key)?;
        crash::step("put an object");
        let done = self.connection.block_on(async {
            let put = self.write(key, bytes, When::Always).await?;
            crash::step("remove the versions behind it");
            self.bury(key, &put).await
        });
        done.map_err(|f| self.error("write", key, f))
    }

    /// Whether these bytes are there: after a write of which nobody knows whether it was carried out.
    async fn holds(&self, key: &str, bytes: &[u8]) -> Result<bool, Failure> {
        Ok(self.carried_out(key, bytes).await?.is_some())
    }

    /// The same, with what the write left.
    async fn carried_out(&self, key: &str, bytes: &[u8]) -> Result<Option<Put>, Failure> {
        match self.read(key, |r| r, bytes.len() as u64).await {
            Ok(there) => Ok((there.bytes == bytes).then_some(Put { version: there.version, repeated: true })),
            Err(f) if f.kind == Kind::Missing => Ok(None),
            Err(f) => Err(f),
        }
    }

    /// Removes the versions behind the one just written: keys may be in them. There are none of a pack unless it was sent twice. What is behind
    /// a lease stays for the sweep: there is no key in it, and on SeaweedFS a reader that has just asked for the version that goes can set the
    /// key back to one that is not the newest any more, so that of two who then replace it both have won.
    async fn bury(&self, key: &str, put: &Put) -> Result<(), Failure> {
        if is_lease(key) || (is_pack(key) && !put.repeated) {
            return Ok(());
        }
        let mine = match &put.version {
            Some(version) => version.as_str(),
            // A bucket that has ceased to keep versions gives the new one no id, and keeps the older ones.
            None if !is_of_hosts(key) && self.has_versions().await? => listing::NULL,
            None => return Ok(()),
        };
        let removed = match self.versions_of(key).await {
            Ok(versions) => {
                let line = Line::all(versions).remove(key);
                let old = line.and_then(|line| line.with_id(mine).map(|mine| line.behind(mine, self.long_ago())));
                // Not there: somebody has written after this, and removes what is behind that.
                self.remove_versions(key, old.unwrap_or_default()).await
            }
            Err(f) => Err(f),
        };
        match removed {
            // A host that may only add must be able to, without a right to see or remove versions. What is behind something handed in is the same
            // once more, sealed to a key that does not live on, and goes with it when that is admitted, as does what is behind a pack, perhaps
            // locked like it. The next sweep by whoever may removes the rest.
            // Nor is whoever may not look behind a bucket that named no version told that what is written was not.
            Err(f) if f.kind == Kind::Denied && (is_of_hosts(key) || put.version.is_none()) => Ok(()),
            other => other,
        }
    }

    /// Without the right to list, a service answers "denied" for what is not there, too. Whoever may list at least this name is told which it is.
    async fn denied_or_missing(&self, key: &str, failure: Failure) -> Failure {
        if failure.kind != Kind::Denied {
            return failure;
        }
        match self.objects(key).await {
            Ok(there) if there.iter().all(|o| o.key != key) => Failure { kind: Kind::Missing, ..failure },
            _ => failure,
        }
    }
}

/// What is reserved in front because the service says that it sends so much: a pack and its last chunk.
const MOST_AT_ONCE: usize = 64 << 20;

/// Encryption, storage class and lock of a new object: requests that write at once and in parts have the same setters and no trait in common.
macro_rules! shaped {
    ($store:expr, $key:expr, $request:expr) => {{
        let (store, mut request) = ($store, $request);
        match &store.options.encryption {
            None => {}
            Some($crate::store::s3::Encryption::SseS3) => {
                request = request.server_side_encryption(aws_sdk_s3::types::ServerSideEncryption::Aes256)
            }
            Some($crate::store::s3::Encryption::SseKms(id)) => {
                request = request.server_side_encryption(aws_sdk_s3::types::ServerSideEncryption::AwsKms).set_ssekms_key_id(id.clone())
            }
        }
        if $crate::store::s3::is_pack($key)
            && let Some(class) = &store.options.storage_class
        {
            request = request.storage_class(class.as_str().into());
        }
        if let Some((mode, until)) = store.retention($key) {
            request = request.object_lock_mode(mode).object_lock_retain_until_date(until);
        }
        request
    }};
}
use shaped;

/// An object as it was read.
struct Read {
    bytes: Vec<u8>,
    etag: Option<String>,
    /// The version, on a bucket that keeps them.
    version: Option<String>,
    /// `Content-Range`.
    range: Option<String>,
}

impl Read {
    /// Length of the whole object.
    fn total(&self) -> Option<u64> {
        self.range.as_deref()?.rsplit('/').next()?.parse().ok()
    }
}

/// Whether a failure means that there is no such bucket.
pub(super) fn is_bucket_missing(failure: &(dyn std::error::Error + 'static)) -> bool {
    failure.downcast_ref::<Failure>().is_some_and(|f| f.is("NoSuchBucket"))
}

/// What hosts write that may only add.
fn is_of_hosts(key: &str) -> bool {
    ["packs/", "known/", "intake/"].iter().any(|folder| key.starts_with(folder))
}

/// Packs are never written twice and hold no keys.
fn is_pack(key: &str) -> bool {
    key.starts_with("packs/")
}

/// Written again and again, by whoever comes, at the same time.
fn is_lease(key: &str) -> bool {
    key.starts_with("leases/")
}

/// Heads hold no keys either.
fn is_head(key: &str) -> bool {
    key.starts_with("archives/")
}

impl Store for S3Store {
    fn describe(&self) -> String {
        self.options.to_string()
    }

    fn get(&self, key: &str) -> StoreResult<Vec<u8>> {
        check_key(key)?;
        let read = self.connection.block_on(self.read(key, |r| r, 0));
        read.map(|r| r.bytes).map_err(|f| self.error("read", key, f))
    }

    fn get_range(&self, key: &str, offset: u64, len: u64) -> StoreResult<Vec<u8>> {
        let mut bytes = Vec::new();
        self.get_range_into(key, offset, len, &mut bytes)?;
        Ok(bytes)
    }

    fn get_range_into(&self, key: &str, offset: u64, len: u64, into: &mut Vec<u8>) -> StoreResult<()> {
        check_key(key)?;
        let expected = offset.saturating_add(len);
        let short = |actual| StoreError::Short { store: self.describe(), key: key.to_string(), expected, actual };
        self.connection.block_on(async {
            // Nothing cannot be asked for, and what ends beyond all numbers is not there.
            let end = offset.checked_add(len).and_then(|end| end.checked_sub(1)).filter(|end| len > 0 && *end <= i64::MAX as u64);
            if let Some(end) = end {
                let range = format!("bytes={offset}-{end}");
                match self.read_into(key, |r| r.range(&range), len, std::mem::take(into)).await {
                    Ok(read) if read.bytes.len() as u64 == len => {
                        *into = read.bytes;
                        return Ok(());
                    }
                    Ok(read) => match read.total() {
                        Some(total) if total < expected => return Err(short(total)),
                        _ => {
                            let failure = Failure::other(format!("{} bytes came where {len} were asked for", read.bytes.len()));
                            return Err(self.error("read", key, failure));
                        }
                    },
                    Err(f) if f.kind == Kind::Range => {}
                    Err(f) => return Err(self.error("read", key, f)),
                }
            }
            let actual = self.length(key).await.map_err(|f| self.error("read", key, f))?;
            into.clear();
            if len == 0 && offset <= actual { Ok(()) } else { Err(short(actual)) }
        })
    }

    fn put(&self, key: &str, bytes: &[u8]) -> StoreResult<()> {
        self.put_bytes(key, &Bytes::copy_from_slice(bytes))
    }

    fn put_shared(&self, key: &str, bytes: &Arc<Vec<u8>>) -> StoreResult<()> {
        self.put_bytes(key, &Bytes::from_owner(Shared(bytes.clone())))
    }

    fn put_if_absent(&self, key: &str, bytes: &[u8]) -> StoreResult<bool> {
        check_key(key)?;
        crash::step("put an object that is not there");
        let done = self.connection.block_on(async {
            match self.write(key, &Bytes::copy_from_slice(bytes), When::Absent).await {
                Ok(_) => Ok(true),
                // An attempt without an answer may be the one that won.
                Err(f) if f.kind == Kind::Condition && f.uncertain => self.holds(key, bytes).await,
                Err(f) if f.kind == Kind::Condition => Ok(false),
                Err(f) => Err(f),
            }
        });
        done.map_err(|f| self.error("write", key, f))
    }

    fn replace_if(&self, key: &str, expected: &[u8], bytes: &[u8]) -> StoreResult<bool> {
        check_key(key)?;
        let done = self.connection.block_on(async {
            let there = match self.read(key, |r| r, 0).await {
                Ok(there) => there,
                Err(f) if f.kind == Kind::Missing => return Ok(false),
                Err(f) => return Err(f),
            };
            if there.bytes != expected {
                return Ok(false);
            }
            let etag = there.etag.ok_or_else(|| Failure::other("the service gives no ETag, without which updates could be lost"))?;
            crash::step("replace an object");
            let put = match self.write(key, &Bytes::copy_from_slice(bytes), When::Matches(etag)).await {
                Err(f) if matches!(f.kind, Kind::Condition | Kind::Missing) && f.uncertain => self.carried_out(key, bytes).await?,
                Err(f) if matches!(f.kind, Kind::Condition | Kind::Missing) => None,
                other => Some(other?),
            };
            let Some(put) = put else { return Ok(false) };
            crash::step("remove the versions behind it");
            self.bury(key, &put).await.map(|()| true)
        });
        done.map_err(|f| self.error("replace", key, f))
    }

    fn delete(&self, key: &str) -> StoreResult<()> {
        check_key(key)?;
        crash::step("delete an object");
        self.connection.block_on(self.remove(key))
    }

    fn delete_many(&self, keys: &[String]) -> Vec<(String, StoreError)> {
        self.connection.block_on(self.remove_many(keys))
    }

    fn delete_old(&self, keys: &[String]) -> Vec<(String, StoreError)> {
        self.connection.block_on(self.remove_behind(keys))
    }

    fn list(&self, prefix: &str) -> StoreResult<Vec<Object>> {
        check_prefix(prefix)?;
        self.connection.block_on(self.objects(prefix)).map_err(|f| self.error("list", prefix, f))
    }

    fn list_versions(&self, prefix: &str) -> StoreResult<Vec<Object>> {
        check_prefix(prefix)?;
        let versions = self.connection.block_on(self.versions(prefix)).map_err(|f| self.error("list", prefix, f))?;
        Ok(versions.into_iter().map(listing::Version::into_object).collect())
    }

    fn wipe(&self, key: &str, _ranges: &[(u64, u64)]) -> StoreResult<Wiped> {
        check_key(key)?;
        Ok(Wiped::Unsupported)
    }

    fn remove_leftovers(&self, spare: &dyn Fn(&str) -> bool) -> StoreResult<u64> {
        self.connection.block_on(async {
            let uploads = self.abort_old_uploads().await.map_err(|f| self.error("clean", "", f))?;
            Ok(uploads + self.remove_old_versions(spare).await?)
        })
    }

    fn inspect(&self) -> Vec<Finding> {
        self.connection.block_on(self.findings())
    }

    fn parallel(&self) -> usize {
        self.options.concurrency.clamp(2, 64)
    }

    fn requests(&self) -> Option<Requests> {
        Some(self.connection.requests())
    }
}

fn check_prefix(prefix: &str) -> StoreResult<()> {
    match prefix.strip_suffix('/') {
        Some(whole) => check_key(whole).map_err(|_| StoreError::BadKey(prefix.to_string())),
        None if prefix.is_empty() => Ok(()),
        None => Err(StoreError::BadKey(prefix.to_string())),
    }
}
