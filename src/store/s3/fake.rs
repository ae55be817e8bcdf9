//! A service inside the test: `s3s` verifies signatures, checksums and chunks in front of a map with versions, locks and atomic
//! conditional writes, and a schedule decides which requests go wrong, and how. What the network does is done by the socket: answers that
//! break off, come slowly or not at all.

mod service;

use super::{Options, S3Store};
use crate::env::Env;
use s3s::dto::*;
use s3s::{Body, S3, S3Request, S3Response, S3Result, s3_error};
use service::Backend;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

pub const ACCESS: &str = "test-access";
pub const SECRET: &str = "test-secret";

/// What goes wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Refused with this code before anything is done.
    Refuse(&'static str),
    /// Done, and the answer never comes: 500 instead.
    Lost,
    /// The body of the answer is another.
    Garbled,
    /// The answer's body breaks off.
    Cut,
    /// The answer takes so many milliseconds.
    Slow(u64),
    /// The answer's body comes in sixteen pieces, so many milliseconds apart.
    Drip(u64),
    /// Of a batch, every second key is refused.
    HalfBatch,
}

/// Operations that faults can be aimed at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Get,
    Put,
    Delete,
    List,
    Any,
}

#[derive(Debug, Clone)]
struct Version {
    id: String,
    /// `None`: a delete marker.
    bytes: Option<Vec<u8>>,
    etag: String,
    locked: Option<(ObjectLockMode, SystemTime)>,
    hold: bool,
    /// On its way: listed, and not yet what readers get.
    arriving: bool,
    written: SystemTime,
}

impl Version {
    fn new(id: String, bytes: Option<Vec<u8>>) -> Version {
        let etag = bytes.as_deref().map(etag).unwrap_or_default();
        Version { id, etag, bytes, locked: None, hold: false, arriving: false, written: now() }
    }
}

#[derive(Default)]
struct Upload {
    key: String,
    parts: BTreeMap<i32, Vec<u8>>,
    started: Option<SystemTime>,
    lock: Option<(ObjectLockMode, SystemTime)>,
}

/// The bucket.
#[derive(Default)]
pub struct Inner {
    objects: BTreeMap<String, Vec<Version>>,
    uploads: BTreeMap<String, Upload>,
    pub versioning: Option<&'static str>,
    pub lockable: bool,
    pub default_days: Option<i32>,
    pub gone: bool,
    pub replication: Vec<ReplicationRule>,
    pub lifecycle: Vec<LifecycleRule>,
    pub region: Option<String>,
    /// Operations that are denied.
    pub denied: Vec<&'static str>,
    /// Operations that the service does not have.
    pub unknown: Vec<&'static str>,
    /// Keys per page of listings.
    pub page: usize,
    /// What was asked, in order.
    pub log: Vec<String>,
    n: u64,
}

/// A rule by which the bucket deletes what begins so after ninety days.
pub fn expiring(id: &str, prefix: &str) -> LifecycleRule {
    LifecycleRule {
        id: Some(id.into()),
        status: s3s::dto::ExpirationStatus::from_static(s3s::dto::ExpirationStatus::ENABLED),
        filter: Some(s3s::dto::LifecycleRuleFilter { prefix: Some(prefix.into()), ..Default::default() }),
        expiration: Some(s3s::dto::LifecycleExpiration { days: Some(90), ..Default::default() }),
        abort_incomplete_multipart_upload: None,
        noncurrent_version_expiration: None,
        noncurrent_version_transitions: None,
        prefix: None,
        transitions: None,
    }
}

/// A rule by which the service copies everything elsewhere, or what a filter says.
pub fn copying(filter: Option<ReplicationRuleFilter>) -> ReplicationRule {
    ReplicationRule {
        destination: Destination { bucket: "arn:aws:s3:::elsewhere".to_string(), ..Destination::default() },
        status: ReplicationRuleStatus::from_static(ReplicationRuleStatus::ENABLED),
        filter,
        delete_marker_replication: None,
        existing_object_replication: None,
        id: None,
        prefix: None,
        priority: None,
        source_selection_criteria: None,
    }
}

type Schedule = Box<dyn FnMut(Op, &str) -> Option<Fault> + Send>;

/// The service; stops with the test.
pub struct Fake {
    pub inner: Arc<Mutex<Inner>>,
    faults: Arc<Mutex<Option<Schedule>>>,
    pub endpoint: String,
    credentials: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
}

impl Fake {
    pub fn start() -> Fake {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let inner = Arc::new(Mutex::new(Inner { page: 7, ..Inner::default() }));
        let faults: Arc<Mutex<Option<Schedule>>> = Arc::default();
        let backend = Backend { inner: inner.clone(), faults: faults.clone() };
        let mut service = s3s::service::S3ServiceBuilder::new(backend);
        service.set_auth(s3s::auth::SimpleAuth::from_single(ACCESS, SECRET));
        let service = service.build();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(async move {
            loop {
                let Ok((socket, _)) = listener.accept().await else { return };
                let service = service.clone();
                tokio::spawn(async move {
                    let http = hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
                    let _ = http.serve_connection(hyper_util::rt::TokioIo::new(socket), service).await;
                });
            }
        });
        let credentials = tempfile::tempdir().unwrap();
        let fake = Fake { inner, faults, endpoint, credentials, _runtime: runtime };
        fake.write_credentials(ACCESS, SECRET);
        fake
    }

    pub fn versioned() -> Fake {
        let fake = Fake::start();
        fake.bucket().versioning = Some(BucketVersioningStatus::ENABLED);
        fake
    }

    pub fn write_credentials(&self, access: &str, secret: &str) {
        let text = format!("[default]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n");
        std::fs::write(self.credentials.path().join("credentials"), text).unwrap();
    }

    pub fn bucket(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    pub fn options(&self) -> Options {
        Options {
            endpoint: Some(self.endpoint.clone()),
            region: Some("us-east-1".into()),
            path_style: true,
            credentials_file: Some(self.credentials.path().join("credentials")),
            timeout: Duration::from_secs(2),
            patience: Duration::from_secs(20),
            ..Options::new("bucket", "backups/here")
        }
    }

    pub fn store(&self) -> S3Store {
        S3Store::open(self.options(), &Env::system()).unwrap()
    }

    /// Asks before each request what goes wrong with it.
    pub fn schedule(&self, schedule: impl FnMut(Op, &str) -> Option<Fault> + Send + 'static) {
        *self.faults.lock().unwrap() = Some(Box::new(schedule));
    }

    pub fn heal(&self) {
        *self.faults.lock().unwrap() = None;
    }

    /// The next `n` requests of this sort fail so.
    pub fn fail(&self, op: Op, n: u32, fault: Fault) {
        let left = AtomicU32::new(n);
        self.schedule(move |this, _| {
            ((op == Op::Any || op == this) && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |l| l.checked_sub(1)).is_ok())
                .then_some(fault)
        });
    }

    /// Versions and delete markers whose key (without the store's prefix) starts so.
    pub fn versions(&self, prefix: &str) -> usize {
        let full = format!("backups/here/{prefix}");
        self.bucket().objects.iter().filter(|(k, _)| k.starts_with(&full)).map(|(_, v)| v.len()).sum()
    }

    /// Puts a version behind the current one, as a crash or another program leaves it.
    pub fn plant(&self, key: &str, bytes: &[u8]) {
        self.plant_version(key, Some(bytes.to_vec()));
    }

    /// The same with a delete marker.
    pub fn plant_marker(&self, key: &str) {
        self.plant_version(key, None);
    }

    fn plant_version(&self, key: &str, bytes: Option<Vec<u8>>) {
        let mut inner = self.bucket();
        let id = inner.id();
        inner.objects.entry(format!("backups/here/{key}")).or_default().push(Version::new(id, bytes));
    }

    /// A version that somebody is writing, so many seconds ago, on services that list it before it is the latest.
    pub fn arriving(&self, key: &str, bytes: &[u8], age: u64) {
        let mut inner = self.bucket();
        let id = inner.id();
        let version = Version { arriving: true, written: now() - Duration::from_secs(age), ..Version::new(id, Some(bytes.to_vec())) };
        inner.objects.entry(format!("backups/here/{key}")).or_default().insert(0, version);
    }

    /// All of them have arrived.
    pub fn arrive(&self) {
        self.bucket().objects.values_mut().flatten().for_each(|v| v.arriving = false);
    }

    /// What a deletion without a version leaves, of what was written some time before.
    pub fn mark_deleted(&self, key: &str) {
        self.age(key, 10);
        self.bucket().store(&format!("backups/here/{key}"), None, None);
    }

    /// All versions of a key were written so many seconds earlier.
    pub fn age(&self, key: &str, seconds: u64) {
        for version in self.bucket().objects.get_mut(&format!("backups/here/{key}")).into_iter().flatten() {
            version.written -= Duration::from_secs(seconds);
        }
    }

    /// Removes the delete markers in front of a key.
    pub fn bring_back(&self, key: &str) {
        if let Some(versions) = self.bucket().objects.get_mut(&format!("backups/here/{key}")) {
            versions.retain(|v| v.bytes.is_some());
        }
    }

    pub fn hold(&self, key: &str, hold: bool) {
        let mut inner = self.bucket();
        inner.objects.get_mut(&format!("backups/here/{key}")).unwrap().iter_mut().for_each(|v| v.hold = hold);
    }

    /// Ends all locks, as time does.
    pub fn unlock(&self) {
        self.bucket().objects.values_mut().flatten().for_each(|v| v.locked = None);
    }

    /// Begins an upload that nobody will finish, so many seconds ago.
    pub fn abandon_upload(&self, key: &str, age: u64) {
        let mut inner = self.bucket();
        let id = inner.id();
        let started = Some(now() - Duration::from_secs(age));
        inner.uploads.insert(id, Upload { key: format!("backups/here/{key}"), started, ..Upload::default() });
    }

    pub fn uploads(&self) -> usize {
        self.bucket().uploads.len()
    }
}

fn now() -> SystemTime {
    Env::system().now().into()
}

fn etag(bytes: &[u8]) -> String {
    hex::encode(&blake3::hash(bytes).as_bytes()[..16])
}

impl Inner {
    fn id(&mut self) -> String {
        self.n += 1;
        format!("v{:08}", self.n)
    }

    /// The version as an answer names it: not at all, unless the bucket makes new ones.
    fn told(&self, id: String) -> Option<String> {
        (self.versioning == Some(BucketVersioningStatus::ENABLED)).then_some(id)
    }

    fn current(&self, key: &str) -> Option<&Version> {
        self.objects.get(key)?.iter().find(|v| !v.arriving).filter(|v| v.bytes.is_some())
    }

    fn default_lock(&self) -> Option<(ObjectLockMode, SystemTime)> {
        let days = self.default_days?;
        Some((ObjectLockMode::from_static(ObjectLockMode::GOVERNANCE), now() + Duration::from_secs(days as u64 * 86_400)))
    }

    fn store(&mut self, key: &str, bytes: Option<Vec<u8>>, locked: Option<(ObjectLockMode, SystemTime)>) -> String {
        let id = if self.versioning == Some(BucketVersioningStatus::ENABLED) { self.id() } else { "null".to_string() };
        let locked = locked.or_else(|| self.default_lock().filter(|_| bytes.is_some()));
        let version = Version { locked, ..Version::new(id.clone(), bytes) };
        let versions = self.objects.entry(key.to_string()).or_default();
        versions.retain(|v| v.id != id);
        let place = versions.iter().take_while(|v| v.arriving).count();
        versions.insert(place, version);
        id
    }

    fn remove(&mut self, key: &str, version: Option<&str>) -> S3Result<()> {
        match version {
            None if self.versioning.is_some() => {
                self.store(key, None, None);
            }
            None => {
                self.objects.remove(key);
            }
            Some(version) => {
                let Some(versions) = self.objects.get_mut(key) else { return Ok(()) };
                let held = |v: &Version| v.hold || v.locked.as_ref().is_some_and(|(_, until)| *until > now());
                if versions.iter().any(|v| v.id == version && held(v)) {
                    return Err(s3_error!(AccessDenied, "Access Denied because object protected by object lock."));
                }
                versions.retain(|v| v.id != version);
                if versions.is_empty() {
                    self.objects.remove(key);
                }
            }
        }
        Ok(())
    }

    fn conditions(&self, key: &str, absent: &Option<ETagCondition>, matches: &Option<ETagCondition>) -> S3Result<()> {
        let current = self.current(key);
        if absent.is_some() && current.is_some() {
            return Err(s3_error!(PreconditionFailed));
        }
        if let Some(wanted) = matches {
            let Some(current) = current else { return Err(s3_error!(NoSuchKey)) };
            if wanted.as_etag().map(ETag::value) != Some(current.etag.as_str()) {
                return Err(s3_error!(PreconditionFailed));
            }
        }
        Ok(())
    }

    fn find(&self, key: &str, version: Option<&str>) -> S3Result<Version> {
        let found = match version {
            None => self.current(key),
            Some(id) => self.objects.get(key).and_then(|v| v.iter().find(|v| v.id == id)),
        };
        found.cloned().ok_or_else(|| s3_error!(NoSuchKey))
    }
}
