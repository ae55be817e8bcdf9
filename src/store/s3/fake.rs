//! A service inside the test: `s3s` verifies signatures, checksums and chunks in front of a map with versions, locks and atomic
//! conditional writes, and a schedule decides which requests go wrong, and how. What the network does is done by the socket: answers that
//! break off, come slowly or not at all.

use super::{Options, S3Store};
use crate::env::Env;
use s3s::dto::*;
use s3s::{Body, S3, S3Request, S3Response, S3Result, s3_error};
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
    pub replicated: bool,
    pub lifecycle: Vec<LifecycleRule>,
    pub region: Option<String>,
    /// Operations that are denied.
    pub denied: Vec<&'static str>,
    /// Keys per page of listings.
    pub page: usize,
    /// What was asked, in order.
    pub log: Vec<String>,
    n: u64,
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
        let mut inner = self.bucket();
        let id = inner.id();
        let version = Version { id, bytes: Some(bytes.to_vec()), etag: etag(bytes), locked: None, hold: false };
        inner.objects.entry(format!("backups/here/{key}")).or_default().push(version);
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

    fn current(&self, key: &str) -> Option<&Version> {
        self.objects.get(key)?.first().filter(|v| v.bytes.is_some())
    }

    fn default_lock(&self) -> Option<(ObjectLockMode, SystemTime)> {
        let days = self.default_days?;
        Some((ObjectLockMode::from_static(ObjectLockMode::GOVERNANCE), now() + Duration::from_secs(days as u64 * 86_400)))
    }

    fn store(&mut self, key: &str, bytes: Option<Vec<u8>>, locked: Option<(ObjectLockMode, SystemTime)>) -> String {
        let id = if self.versioning == Some(BucketVersioningStatus::ENABLED) { self.id() } else { "null".to_string() };
        let locked = locked.or_else(|| self.default_lock().filter(|_| bytes.is_some()));
        let version = Version { id: id.clone(), etag: bytes.as_deref().map(etag).unwrap_or_default(), bytes, locked, hold: false };
        let versions = self.objects.entry(key.to_string()).or_default();
        versions.retain(|v| v.id != id);
        versions.insert(0, version);
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

struct Backend {
    inner: Arc<Mutex<Inner>>,
    faults: Arc<Mutex<Option<Schedule>>>,
}

impl Backend {
    /// What stands before every operation; what is left to do to the answer.
    async fn enter(&self, op: Op, name: &'static str, key: &str) -> S3Result<Option<Fault>> {
        {
            let mut inner = self.inner.lock().unwrap();
            inner.log.push(format!("{name} {key}"));
            if inner.gone {
                return Err(s3_error!(NoSuchBucket));
            }
            if inner.denied.contains(&name) {
                return Err(s3_error!(AccessDenied));
            }
        }
        let fault = self.faults.lock().unwrap().as_mut().and_then(|f| f(op, key));
        match fault {
            Some(Fault::Refuse(code)) => Err(refusal(code)),
            Some(Fault::Slow(ms)) => {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                Ok(None)
            }
            other => Ok(other),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// The answer, unless it gets lost.
    fn answer<T>(output: T, fault: Option<Fault>) -> S3Result<S3Response<T>> {
        match fault {
            Some(Fault::Lost) => Err(refusal("InternalError")),
            _ => Ok(S3Response::new(output)),
        }
    }
}

fn refusal(code: &'static str) -> s3s::S3Error {
    let status: u16 = match code {
        "InternalError" => 500,
        "SlowDown" | "ServiceUnavailable" => 503,
        "BadDigest" | "ExpiredToken" => 400,
        "ConditionalRequestConflict" | "OperationAborted" => 409,
        "NotImplemented" => 501,
        _ => 403,
    };
    let mut error = s3s::S3Error::new(s3s::S3ErrorCode::from_bytes(code.as_bytes()).unwrap());
    error.set_status_code(status.try_into().unwrap());
    error
}

async fn collect(body: Option<StreamingBlob>) -> S3Result<Vec<u8>> {
    let Some(mut body) = body else { return Ok(Vec::new()) };
    let mut out = Vec::new();
    while let Some(piece) = std::future::poll_fn(|cx| futures_core::Stream::poll_next(std::pin::Pin::new(&mut body), cx)).await {
        // Signatures of chunks and checksums are verified on the way.
        out.extend_from_slice(&piece.map_err(|e| s3_error!(IncompleteBody, "{e}"))?);
    }
    Ok(out)
}

/// A body that promises everything and ends in the middle.
struct Broken(Option<Vec<u8>>);

impl futures_core::Stream for Broken {
    type Item = Result<bytes::Bytes, std::io::Error>;
    fn poll_next(mut self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<Option<Self::Item>> {
        std::task::Poll::Ready(Some(match self.0.take() {
            Some(half) => Ok(half.into()),
            None => Err(std::io::Error::other("cut")),
        }))
    }
}

fn timestamp(t: SystemTime) -> Timestamp {
    Timestamp::from(t)
}

fn until(t: Option<Timestamp>) -> Option<SystemTime> {
    let mut text = Vec::new();
    t?.format(TimestampFormat::EpochSeconds, &mut text).unwrap();
    let seconds: f64 = std::str::from_utf8(&text).unwrap().parse().unwrap();
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds))
}

#[async_trait::async_trait]
impl S3 for Backend {
    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = req.input;
        let fault = self.enter(Op::Get, "GetObject", &input.key).await?;
        let version = self.lock().find(&input.key, input.version_id.as_deref())?;
        let mut bytes = version.bytes.unwrap_or_default();
        let total = bytes.len() as u64;
        let mut content_range = None;
        if let Some(range) = input.range {
            let range = range.check(total).map_err(|_| s3_error!(InvalidRange))?;
            content_range = Some(format!("bytes {}-{}/{total}", range.start, range.end - 1));
            bytes = bytes[range.start as usize..range.end as usize].to_vec();
        }
        let mut output = GetObjectOutput {
            content_length: Some(bytes.len() as i64),
            e_tag: Some(ETag::Strong(version.etag)),
            content_range,
            ..GetObjectOutput::default()
        };
        match fault {
            Some(Fault::Cut) if !bytes.is_empty() => {
                let half = bytes[..bytes.len() / 2].to_vec();
                output.body = Some(StreamingBlob::wrap(Broken(Some(half))));
            }
            Some(Fault::Garbled) => {
                // With the checksum of what was stored: the client must notice.
                output.checksum_crc32 = Some("AAAAAA==".to_string());
                if let Some(b) = bytes.first_mut() {
                    *b ^= 1;
                }
                output.body = Some(StreamingBlob::from(Body::from(bytes)));
            }
            _ => output.body = Some(StreamingBlob::from(Body::from(bytes))),
        }
        Self::answer(output, fault)
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = req.input;
        let fault = self.enter(Op::Get, "HeadObject", &input.key).await?;
        let version = self.lock().find(&input.key, input.version_id.as_deref())?;
        let output = HeadObjectOutput {
            content_length: Some(version.bytes.map_or(0, |b| b.len() as i64)),
            e_tag: Some(ETag::Strong(version.etag)),
            object_lock_mode: version.locked.as_ref().map(|(mode, _)| mode.clone()),
            object_lock_retain_until_date: version.locked.map(|(_, t)| timestamp(t)),
            object_lock_legal_hold_status: version.hold.then(|| ObjectLockLegalHoldStatus::from_static(ObjectLockLegalHoldStatus::ON)),
            ..HeadObjectOutput::default()
        };
        Self::answer(output, fault)
    }

    async fn put_object(&self, req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let input = req.input;
        let fault = self.enter(Op::Put, "PutObject", &input.key).await?;
        let bytes = collect(input.body).await?;
        let mut inner = self.lock();
        inner.conditions(&input.key, &input.if_none_match, &input.if_match)?;
        if input.object_lock_mode.is_some() && !inner.lockable {
            return Err(s3_error!(InvalidRequest, "Bucket is missing Object Lock Configuration"));
        }
        let lock = input.object_lock_mode.zip(until(input.object_lock_retain_until_date));
        let tag = etag(&bytes);
        let id = inner.store(&input.key, Some(bytes), lock);
        let version_id = inner.versioning.map(|_| id);
        Self::answer(PutObjectOutput { e_tag: Some(ETag::Strong(tag)), version_id, ..PutObjectOutput::default() }, fault)
    }

    async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        let input = req.input;
        let fault = self.enter(Op::Delete, "DeleteObject", &input.key).await?;
        self.lock().remove(&input.key, input.version_id.as_deref())?;
        Self::answer(DeleteObjectOutput::default(), fault)
    }

    async fn delete_objects(&self, req: S3Request<DeleteObjectsInput>) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let input = req.input;
        let fault = self.enter(Op::Delete, "DeleteObjects", "").await?;
        let mut errors = Vec::new();
        let mut inner = self.lock();
        for (n, object) in input.delete.objects.iter().enumerate() {
            let refused = match fault {
                Some(Fault::HalfBatch) if n % 2 == 1 => Err(refusal("InternalError")),
                _ => inner.remove(&object.key, object.version_id.as_deref()),
            };
            if let Err(e) = refused {
                errors.push(Error {
                    code: Some(e.code().as_str().to_string()),
                    key: Some(object.key.clone()),
                    message: None,
                    version_id: object.version_id.clone(),
                });
            }
        }
        Self::answer(DeleteObjectsOutput { errors: Some(errors), ..DeleteObjectsOutput::default() }, fault)
    }

    async fn list_objects_v2(&self, req: S3Request<ListObjectsV2Input>) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = req.input;
        let prefix = input.prefix.unwrap_or_default();
        let fault = self.enter(Op::List, "ListObjectsV2", &prefix).await?;
        let inner = self.lock();
        let after = input.continuation_token.unwrap_or_default();
        let mut keys: Vec<&String> =
            inner.objects.keys().filter(|k| k.starts_with(&prefix) && **k > after && inner.current(k).is_some()).collect();
        let more = keys.len() > inner.page;
        keys.truncate(inner.page);
        let next = if more { keys.last().map(|k| k.to_string()) } else { None };
        let contents = keys
            .iter()
            .map(|k| Object {
                key: Some(k.to_string()),
                size: inner.current(k).and_then(|v| Some(v.bytes.as_ref()?.len() as i64)),
                ..Object::default()
            })
            .collect();
        let output = ListObjectsV2Output {
            contents: Some(contents),
            is_truncated: Some(more),
            next_continuation_token: next,
            ..ListObjectsV2Output::default()
        };
        Self::answer(output, fault)
    }

    async fn list_object_versions(&self, req: S3Request<ListObjectVersionsInput>) -> S3Result<S3Response<ListObjectVersionsOutput>> {
        let input = req.input;
        let prefix = input.prefix.unwrap_or_default();
        let fault = self.enter(Op::List, "ListObjectVersions", &prefix).await?;
        let inner = self.lock();
        if input.delimiter.is_some() {
            let mut folders: Vec<String> =
                inner.objects.keys().filter_map(|k| Some(format!("{prefix}{}/", k.strip_prefix(&prefix)?.split_once('/')?.0))).collect();
            folders.dedup();
            let common = folders.into_iter().map(|p| CommonPrefix { prefix: Some(p) }).collect();
            let output = ListObjectVersionsOutput {
                common_prefixes: Some(common),
                is_truncated: Some(false),
                ..ListObjectVersionsOutput::default()
            };
            return Self::answer(output, fault);
        }
        let (key, id) = (input.key_marker.unwrap_or_default(), input.version_id_marker.unwrap_or_default());
        let all: Vec<(&String, usize, &Version)> = inner
            .objects
            .iter()
            .filter(|(k, _)| k.starts_with(&prefix))
            .flat_map(|(k, versions)| versions.iter().enumerate().map(move |(n, v)| (k, n, v)))
            .collect();
        let from = if key.is_empty() { 0 } else { all.iter().position(|(k, _, v)| **k == key && v.id == id).map_or(all.len(), |p| p + 1) };
        let page: Vec<_> = all[from..].iter().take(inner.page).collect();
        let more = all.len() > from + page.len();
        let mut output = ListObjectVersionsOutput { is_truncated: Some(more), ..ListObjectVersionsOutput::default() };
        if more && let Some((k, _, v)) = page.last() {
            (output.next_key_marker, output.next_version_id_marker) = (Some(k.to_string()), Some(v.id.clone()));
        }
        let (mut versions, mut markers) = (Vec::new(), Vec::new());
        for (k, n, v) in page {
            let (key, version_id, is_latest) = (Some(k.to_string()), Some(v.id.clone()), Some(*n == 0));
            match &v.bytes {
                Some(b) => {
                    versions.push(ObjectVersion { key, version_id, is_latest, size: Some(b.len() as i64), ..ObjectVersion::default() });
                }
                None => markers.push(DeleteMarkerEntry { key, version_id, is_latest, ..DeleteMarkerEntry::default() }),
            }
        }
        (output.versions, output.delete_markers) = (Some(versions), Some(markers));
        Self::answer(output, fault)
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let input = req.input;
        let fault = self.enter(Op::Put, "CreateMultipartUpload", &input.key).await?;
        let mut inner = self.lock();
        let id = inner.id();
        let lock = input.object_lock_mode.zip(until(input.object_lock_retain_until_date));
        let upload = Upload { key: input.key, started: Some(now()), lock, ..Upload::default() };
        inner.uploads.insert(id.clone(), upload);
        Self::answer(CreateMultipartUploadOutput { upload_id: Some(id), ..CreateMultipartUploadOutput::default() }, fault)
    }

    async fn upload_part(&self, req: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        let input = req.input;
        let fault = self.enter(Op::Put, "UploadPart", &input.key).await?;
        let bytes = collect(input.body).await?;
        let tag = etag(&bytes);
        let mut inner = self.lock();
        let upload = inner.uploads.get_mut(&input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        upload.parts.insert(input.part_number, bytes);
        Self::answer(UploadPartOutput { e_tag: Some(ETag::Strong(tag)), ..UploadPartOutput::default() }, fault)
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = req.input;
        let fault = self.enter(Op::Put, "CompleteMultipartUpload", &input.key).await?;
        let mut inner = self.lock();
        let upload = inner.uploads.remove(&input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        let bytes: Vec<u8> = upload.parts.into_values().flatten().collect();
        let id = inner.store(&input.key, Some(bytes), upload.lock);
        let version_id = inner.versioning.map(|_| id);
        Self::answer(CompleteMultipartUploadOutput { version_id, ..CompleteMultipartUploadOutput::default() }, fault)
    }

    async fn abort_multipart_upload(&self, req: S3Request<AbortMultipartUploadInput>) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let fault = self.enter(Op::Delete, "AbortMultipartUpload", &req.input.key).await?;
        self.lock().uploads.remove(&req.input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        Self::answer(AbortMultipartUploadOutput::default(), fault)
    }

    async fn list_multipart_uploads(&self, _: S3Request<ListMultipartUploadsInput>) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let fault = self.enter(Op::List, "ListMultipartUploads", "").await?;
        let uploads = self
            .lock()
            .uploads
            .iter()
            .map(|(id, u)| MultipartUpload {
                key: Some(u.key.clone()),
                upload_id: Some(id.clone()),
                initiated: u.started.map(timestamp),
                ..MultipartUpload::default()
            })
            .collect();
        Self::answer(
            ListMultipartUploadsOutput { uploads: Some(uploads), is_truncated: Some(false), ..ListMultipartUploadsOutput::default() },
            fault,
        )
    }

    async fn get_bucket_versioning(&self, _: S3Request<GetBucketVersioningInput>) -> S3Result<S3Response<GetBucketVersioningOutput>> {
        let fault = self.enter(Op::Any, "GetBucketVersioning", "").await?;
        let status = self.lock().versioning.map(BucketVersioningStatus::from_static);
        Self::answer(GetBucketVersioningOutput { status, ..GetBucketVersioningOutput::default() }, fault)
    }

    async fn get_bucket_lifecycle_configuration(
        &self,
        _: S3Request<GetBucketLifecycleConfigurationInput>,
    ) -> S3Result<S3Response<GetBucketLifecycleConfigurationOutput>> {
        let fault = self.enter(Op::Any, "GetBucketLifecycleConfiguration", "").await?;
        let rules = self.lock().lifecycle.clone();
        if rules.is_empty() {
            return Err(s3_error!(NoSuchLifecycleConfiguration));
        }
        Self::answer(
            GetBucketLifecycleConfigurationOutput { rules: Some(rules), ..GetBucketLifecycleConfigurationOutput::default() },
            fault,
        )
    }

    async fn get_bucket_replication(&self, _: S3Request<GetBucketReplicationInput>) -> S3Result<S3Response<GetBucketReplicationOutput>> {
        let fault = self.enter(Op::Any, "GetBucketReplication", "").await?;
        if !self.lock().replicated {
            return Err(s3_error!(ReplicationConfigurationNotFoundError));
        }
        let rule = ReplicationRule {
            destination: Destination { bucket: "arn:aws:s3:::elsewhere".to_string(), ..Destination::default() },
            status: ReplicationRuleStatus::from_static(ReplicationRuleStatus::ENABLED),
            delete_marker_replication: None,
            existing_object_replication: None,
            filter: None,
            id: None,
            prefix: None,
            priority: None,
            source_selection_criteria: None,
        };
        let configuration = ReplicationConfiguration { role: "arn:aws:iam::1:role/r".to_string(), rules: vec![rule] };
        Self::answer(GetBucketReplicationOutput { replication_configuration: Some(configuration) }, fault)
    }

    async fn get_object_lock_configuration(
        &self,
        _: S3Request<GetObjectLockConfigurationInput>,
    ) -> S3Result<S3Response<GetObjectLockConfigurationOutput>> {
        let fault = self.enter(Op::Any, "GetObjectLockConfiguration", "").await?;
        let inner = self.lock();
        if !inner.lockable {
            return Err(s3_error!(ObjectLockConfigurationNotFoundError));
        }
        let retention = |days| DefaultRetention {
            days: Some(days),
            mode: Some(ObjectLockRetentionMode::from_static(ObjectLockRetentionMode::GOVERNANCE)),
            years: None,
        };
        let configuration = ObjectLockConfiguration {
            object_lock_enabled: Some(ObjectLockEnabled::from_static(ObjectLockEnabled::ENABLED)),
            rule: inner.default_days.map(|days| ObjectLockRule { default_retention: Some(retention(days)) }),
        };
        Self::answer(GetObjectLockConfigurationOutput { object_lock_configuration: Some(configuration) }, fault)
    }

    async fn head_bucket(&self, _: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        let fault = self.enter(Op::Any, "HeadBucket", "").await?;
        let bucket_region = self.lock().region.clone();
        Self::answer(HeadBucketOutput { bucket_region, ..HeadBucketOutput::default() }, fault)
    }

    async fn get_bucket_location(&self, _: S3Request<GetBucketLocationInput>) -> S3Result<S3Response<GetBucketLocationOutput>> {
        let fault = self.enter(Op::Any, "GetBucketLocation", "").await?;
        let constraint = self.lock().region.clone().map(BucketLocationConstraint::from);
        Self::answer(GetBucketLocationOutput { location_constraint: constraint }, fault)
    }
}
