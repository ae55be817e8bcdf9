//! Large objects go in parts, several at once, each with its checksum: what breaks off is sent again alone. An upload that is given up is
//! aborted; one that nobody finished (the machine died) is found by its age and aborted by the next sweep: its parts cost money and hold
//! ciphertext that no listing of objects shows.

use super::client::Verb;
use super::errors::{Failure, Kind};
use super::{Put, S3Store, shaped};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use std::time::Duration;

/// Fewest bytes of a part; services take no less than 5 MiB.
const PART: usize = 8 << 20;
/// What is under way and younger than this may be somebody's, in seconds.
pub(super) const LEFTOVER_AGE: i64 = 3600;
/// Aborting must not hold up the end of the program.
const ABORT: Duration = Duration::from_secs(5);

/// How an upload ended.
enum Sent {
    /// The object is there.
    There(Put),
    /// Perhaps it is: its last answer got lost, and reading it back is not allowed.
    Perhaps(Failure),
}

impl S3Store {
    pub(super) async fn write_parts(&self, key: &str, bytes: &Bytes) -> Result<Put, Failure> {
        match self.upload(key, bytes).await? {
            Sent::There(put) => Ok(put),
            // Once more the same under the same name does no harm. There may be two versions then.
            Sent::Perhaps(_) => match self.upload(key, bytes).await? {
                Sent::There(put) => Ok(Put { repeated: true, ..put }),
                Sent::Perhaps(failure) => {
                    let text = "it was sent twice, both times no answer came to the end of it, and the credentials do not allow to look whether it is there";
                    Err(Failure { kind: Kind::Other, text: text.into(), ..failure })
                }
            },
        }
    }

    async fn upload(&self, key: &str, bytes: &Bytes) -> Result<Sent, Failure> {
        let upload = self.begin(key).await?;
        match self.parts(key, &upload, bytes).await {
            Ok(sent) => Ok(sent),
            Err(failure) => {
                // Not through `call`: that refuses once the user wants to stop.
                let request = self.connection.client.abort_multipart_upload().bucket(&self.options.bucket).key(self.full(key));
                let _ = tokio::time::timeout(ABORT, request.upload_id(&upload).send()).await;
                Err(failure)
            }
        }
    }

    async fn begin(&self, key: &str) -> Result<String, Failure> {
        self.connection
            .call(Verb::Put, 0, || async {
                let request = self.connection.client.create_multipart_upload().bucket(&self.options.bucket).key(self.full(key));
                let request = shaped!(self, key, request);
                let answer = request.checksum_algorithm(ChecksumAlgorithm::Crc32).send().await?;
                answer.upload_id().map(str::to_string).ok_or_else(|| Failure::other("the service gives the upload no id"))
            })
            .await
            .map_err(|failure| self.with_key(failure))
    }

    async fn parts(&self, key: &str, upload: &str, bytes: &Bytes) -> Result<Sent, Failure> {
        let mut sending = Vec::new();
        let mut rest = bytes.clone();
        while !rest.is_empty() {
            let part = rest.split_to(part_len(bytes.len()).min(rest.len()));
            sending.push(Box::pin(self.part(key, upload, sending.len() as i32 + 1, part)));
        }
        let done = all(sending).await?;
        let completed = CompletedMultipartUpload::builder().set_parts(Some(done)).build();
        let finished = self
            .connection
            .call(Verb::Put, 0, || async {
                let request = self.connection.client.complete_multipart_upload().bucket(&self.options.bucket).key(self.full(key));
                let answer = request.upload_id(upload).multipart_upload(completed.clone()).send().await?;
                Ok(Put { version: answer.version_id().map(str::to_string), repeated: false })
            })
            .await;
        match finished {
            // The upload is gone: an attempt without an answer completed it, or somebody aborted it.
            Err(f) if f.kind == Kind::Missing => {
                if !f.uncertain {
                    return Err(Failure { kind: Kind::Other, ..f });
                }
                match self.sent(key, bytes).await {
                    Ok(Some(put)) => Ok(Sent::There(put)),
                    Ok(None) => Err(Failure { kind: Kind::Other, ..f }),
                    Err(denied) if denied.kind == Kind::Denied => Ok(Sent::Perhaps(f)),
                    Err(other) => Err(other),
                }
            }
            other => other.map(Sent::There),
        }
    }

    /// What was written, if these bytes are there now.
    async fn sent(&self, key: &str, bytes: &Bytes) -> Result<Option<Put>, Failure> {
        if !self.holds(key, bytes).await? {
            return Ok(None);
        }
        let version = self.versions_of(key).await?.into_iter().find(|v| v.latest).and_then(|v| v.id);
        Ok(Some(Put { version, repeated: false }))
    }

    async fn part(&self, key: &str, upload: &str, number: i32, bytes: Bytes) -> Result<CompletedPart, Failure> {
        self.connection
            .call(Verb::Put, bytes.len() as u64, || async {
                let request = self.connection.client.upload_part().bucket(&self.options.bucket).key(self.full(key));
                let request = request.upload_id(upload).part_number(number).checksum_algorithm(ChecksumAlgorithm::Crc32);
                let request = request.body(ByteStream::from(bytes.clone())).customize();
                let request = if self.is_signed_without_body(bytes.len()) { request.disable_payload_signing() } else { request };
                let answer = request.send().await?;
                Ok(CompletedPart::builder()
                    .part_number(number)
                    .set_e_tag(answer.e_tag().map(str::to_string))
                    .set_checksum_crc32(answer.checksum_crc32().map(str::to_string))
                    .build())
            })
            .await
    }

    /// Aborts uploads that nobody can still be busy with; how many.
    pub(super) async fn abort_old_uploads(&self) -> Result<u64, Failure> {
        let mut aborted = 0;
        let mut from: (Option<String>, Option<String>) = (None, None);
        let now = self.connection.env.now().as_second();
        loop {
            let page = self
                .connection
                .call(Verb::List, 0, || async {
                    let request = self.connection.client.list_multipart_uploads().bucket(&self.options.bucket).prefix(self.root());
                    Ok(request.set_key_marker(from.0.clone()).set_upload_id_marker(from.1.clone()).send().await?)
                })
                .await;
            let page = match page {
                // Nothing that could be left, then.
                Err(f) if f.kind == Kind::NotImplemented => return Ok(aborted),
                other => other?,
            };
            for upload in page.uploads() {
                let (Some(key), Some(id)) = (upload.key(), upload.upload_id()) else { continue };
                let age = upload.initiated().map(|t| now.saturating_sub(t.secs()));
                if !key.starts_with(self.root().as_str()) || age.is_none_or(|age| age < LEFTOVER_AGE) {
                    continue;
                }
                let done = self
                    .connection
                    .call(Verb::Delete, 0, || async {
                        let request = self.connection.client.abort_multipart_upload().bucket(&self.options.bucket).key(key);
                        Ok(request.upload_id(id).send().await?)
                    })
                    .await;
                match done {
                    Ok(_) => aborted += 1,
                    Err(f) if f.kind == Kind::Missing => {}
                    Err(f) => return Err(f),
                }
            }
            if page.is_truncated() != Some(true) {
                return Ok(aborted);
            }
            let next = (page.next_key_marker().map(str::to_string), page.next_upload_id_marker().map(str::to_string));
            if next.0.is_none() || next == from {
                return Err(Failure::other("the listing of uploads does not go on where it says that it does"));
            }
            from = next;
        }
    }
}

/// Bytes of each part but the last: as few parts as there can be, of about the same length. A pack is a little longer than two of the
/// shortest, and a part of a few bytes would cost as many requests as a long one, when it is sent and whenever it is read.
fn part_len(len: usize) -> usize {
    len.div_ceil((len / PART).max(1))
}

/// All of them at once, on this task; the first failure ends it.
async fn all<W: Future<Output = Result<CompletedPart, Failure>> + Unpin>(mut work: Vec<W>) -> Result<Vec<CompletedPart>, Failure> {
    let mut done: Vec<Option<CompletedPart>> = work.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        for (slot, work) in done.iter_mut().zip(&mut work) {
            if slot.is_none() {
                match std::pin::Pin::new(work).poll(cx) {
                    std::task::Poll::Ready(Ok(part)) => *slot = Some(part),
                    std::task::Poll::Ready(Err(failure)) => return std::task::Poll::Ready(Err(failure)),
                    std::task::Poll::Pending => {}
                }
            }
        }
        if done.iter().all(Option::is_some) { std::task::Poll::Ready(Ok(())) } else { std::task::Poll::Pending }
    })
    .await?;
    Ok(done.into_iter().flatten().collect())
}
