//! The operations of the in-process service, as `s3s` asks for them.

use super::*;
use std::future::Future;

pub(super) struct Backend {
    pub inner: Arc<Mutex<Inner>>,
    pub faults: Arc<Mutex<Option<Schedule>>>,
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
            if inner.unknown.contains(&name) {
                return Err(refusal("NotImplemented"));
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

/// What vouches for the body of a request, beside its signature: the names of its headers, and what its trailer will be.
macro_rules! checksum {
    ($request:expr) => {{
        let headers = &$request.headers;
        let trailer = headers.get("x-amz-trailer").and_then(|v| v.to_str().ok());
        let header = headers.keys().map(|name| name.as_str()).find(|name| name.starts_with("x-amz-checksum-"));
        trailer.or(header).unwrap_or("none").to_string()
    }};
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

/// A body that takes its time.
struct Dripping {
    pieces: std::vec::IntoIter<Vec<u8>>,
    pause: Duration,
    next: std::pin::Pin<Box<tokio::time::Sleep>>,
}

impl Dripping {
    fn new(bytes: Vec<u8>, ms: u64) -> Dripping {
        let pieces: Vec<Vec<u8>> = bytes.chunks(bytes.len().div_ceil(16).max(1)).map(<[u8]>::to_vec).collect();
        let pause = Duration::from_millis(ms);
        Dripping { pieces: pieces.into_iter(), pause, next: Box::pin(tokio::time::sleep(pause)) }
    }
}

impl futures_core::Stream for Dripping {
    type Item = Result<bytes::Bytes, std::io::Error>;
    fn poll_next(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Option<Self::Item>> {
        std::task::ready!(self.next.as_mut().poll(cx));
        let next = tokio::time::Instant::now() + self.pause;
        self.next.as_mut().reset(next);
        std::task::Poll::Ready(self.pieces.next().map(|piece| Ok(piece.into())))
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
        let version_id = self.lock().versioning.map(|_| version.id.clone());
        let mut bytes = version.bytes.unwrap_or_default();
        let total = bytes.len() as u64;
        let mut content_range = None;
        if let Some(range) = input.range {
            self.lock().log.push(format!("range {}", input.key));
            let range = range.check(total).map_err(|_| s3_error!(InvalidRange))?;
            content_range = Some(format!("bytes {}-{}/{total}", range.start, range.end - 1));
            bytes = bytes[range.start as usize..range.end as usize].to_vec();
        }
        let mut output = GetObjectOutput {
            content_length: Some(bytes.len() as i64),
            e_tag: Some(ETag::Strong(version.etag)),
            version_id,
            content_range,
            ..GetObjectOutput::default()
        };
        match fault {
            Some(Fault::Cut) if !bytes.is_empty() => {
                let half = bytes[..bytes.len() / 2].to_vec();
                output.body = Some(StreamingBlob::wrap(Broken(Some(half))));
            }
            Some(Fault::Drip(ms)) => output.body = Some(StreamingBlob::wrap(Dripping::new(bytes, ms))),
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
        let sum = checksum!(req);
        let input = req.input;
        let fault = self.enter(Op::Put, "PutObject", &input.key).await?;
        self.lock().log.push(format!("checksum {sum}"));
        let bytes = collect(input.body).await?;
        let mut inner = self.lock();
        let (sse, key, class) = (&input.server_side_encryption, &input.ssekms_key_id, &input.storage_class);
        let shape = [sse.as_ref().map(|s| s.as_str()), key.as_deref(), class.as_ref().map(|c| c.as_str())];
        inner.log.push(format!("shape {} {shape:?}", input.key));
        inner.conditions(&input.key, &input.if_none_match, &input.if_match)?;
        if input.object_lock_mode.is_some() && !inner.lockable {
            return Err(s3_error!(InvalidRequest, "Bucket is missing Object Lock Configuration"));
        }
        let lock = input.object_lock_mode.zip(until(input.object_lock_retain_until_date));
        let tag = etag(&bytes);
        let id = inner.store(&input.key, Some(bytes), lock);
        let version_id = inner.told(id);
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
        if input.delete.objects.len() > 1000 {
            return Err(s3_error!(MalformedXML));
        }
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
        let all: Vec<(&String, bool, &Version)> = inner
            .objects
            .iter()
            .filter(|(k, _)| k.starts_with(&prefix))
            .flat_map(|(k, versions)| {
                let front = versions.iter().position(|v| !v.arriving);
                versions.iter().enumerate().map(move |(n, v)| (k, front == Some(n), v))
            })
            .collect();
        let from = if key.is_empty() { 0 } else { all.iter().position(|(k, _, v)| **k == key && v.id == id).map_or(all.len(), |p| p + 1) };
        let page: Vec<_> = all[from..].iter().take(inner.page).collect();
        let more = all.len() > from + page.len();
        let mut output = ListObjectVersionsOutput { is_truncated: Some(more), ..ListObjectVersionsOutput::default() };
        if more && let Some((k, _, v)) = page.last() {
            (output.next_key_marker, output.next_version_id_marker) = (Some(k.to_string()), Some(v.id.clone()));
        }
        let (mut versions, mut markers) = (Vec::new(), Vec::new());
        for (k, front, v) in page {
            let (key, version_id, is_latest) = (Some(k.to_string()), Some(v.id.clone()), Some(*front));
            let last_modified = Some(timestamp(v.written));
            match &v.bytes {
                Some(b) => {
                    let size = Some(b.len() as i64);
                    versions.push(ObjectVersion { key, version_id, is_latest, size, last_modified, ..ObjectVersion::default() });
                }
                None => markers.push(DeleteMarkerEntry { key, version_id, is_latest, last_modified, ..DeleteMarkerEntry::default() }),
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
        let (sse, key, class) = (&input.server_side_encryption, &input.ssekms_key_id, &input.storage_class);
        let shape = [sse.as_ref().map(|s| s.as_str()), key.as_deref(), class.as_ref().map(|c| c.as_str())];
        inner.log.push(format!("shape {} {shape:?}", input.key));
        let id = inner.id();
        let lock = input.object_lock_mode.zip(until(input.object_lock_retain_until_date));
        let upload = Upload { key: input.key, started: Some(now()), lock, ..Upload::default() };
        inner.uploads.insert(id.clone(), upload);
        Self::answer(CreateMultipartUploadOutput { upload_id: Some(id), ..CreateMultipartUploadOutput::default() }, fault)
    }

    async fn upload_part(&self, req: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        let sum = checksum!(req);
        let input = req.input;
        let fault = self.enter(Op::Put, "UploadPart", &input.key).await?;
        self.lock().log.push(format!("checksum {sum}"));
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
        let version_id = inner.told(id);
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
        let rules = self.lock().replication.clone();
        if rules.is_empty() {
            return Err(s3_error!(ReplicationConfigurationNotFoundError));
        }
        let configuration = ReplicationConfiguration { role: "arn:aws:iam::1:role/r".to_string(), rules };
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
