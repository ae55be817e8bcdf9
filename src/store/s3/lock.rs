//! Objects that the service does not let go before a date (Object Lock). Packs may be locked: what is erased loses its keys at once, and
//! the ciphertext goes when the lock ends. Whatever holds keys must never be: then nothing could be forgotten.

use super::client::Verb;
use super::errors::{Failure, Kind};
use super::listing::Version;
use super::{S3Store, is_pack};
use crate::store::StoreError;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{ObjectLockLegalHoldStatus, ObjectLockMode};
use jiff::{SignedDuration, Timestamp};

/// Who may end a lock early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Whoever has a special permission.
    Governance,
    /// Nobody.
    Compliance,
}

/// How long packs of a dataset are locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lock {
    /// Who may end it.
    pub mode: LockMode,
    /// From when a pack is written on.
    pub days: u32,
}

/// Why a version cannot be removed yet.
pub(super) struct Held {
    /// When the lock ends; `None`: when somebody ends a legal hold.
    pub until: Option<Timestamp>,
}

impl S3Store {
    /// The lock that a new object gets.
    pub(super) fn retention(&self, key: &str) -> Option<(ObjectLockMode, DateTime)> {
        let dataset = key.strip_prefix("packs/")?.split('/').next()?;
        let lock = self.options.locks.get(dataset).filter(|_| is_pack(key))?;
        let until = self.connection.env.now().as_second().saturating_add(i64::from(lock.days).saturating_mul(86_400));
        let mode = match lock.mode {
            LockMode::Governance => ObjectLockMode::Governance,
            LockMode::Compliance => ObjectLockMode::Compliance,
        };
        Some((mode, DateTime::from_secs(until)))
    }

    /// Whether a lock is why a version cannot be removed; the service itself only says "denied".
    pub(super) async fn held(&self, version: &Version) -> Result<Option<Held>, Failure> {
        let answer = self
            .connection
            .call(Verb::Head, 0, || async {
                let request = self.connection.client.head_object().bucket(&self.options.bucket).key(self.full(&version.key));
                Ok(request.set_version_id(version.id.clone()).send().await?)
            })
            .await;
        let answer = match answer {
            Ok(answer) => answer,
            // Not even to be looked at: the lack of a permission, not a lock.
            Err(f) if matches!(f.kind, Kind::Denied | Kind::Missing | Kind::NotImplemented) => return Ok(None),
            Err(f) => return Err(f),
        };
        if answer.object_lock_legal_hold_status() == Some(&ObjectLockLegalHoldStatus::On) {
            return Ok(Some(Held { until: None }));
        }
        let until = answer.object_lock_retain_until_date().and_then(|t| Timestamp::from_second(t.secs()).ok());
        // A little late, so that two clocks may differ.
        let over = self.connection.env.now().checked_sub(SignedDuration::from_mins(15)).unwrap_or(Timestamp::MIN);
        Ok(until.filter(|until| *until > over).map(|until| Held { until: Some(until) }))
    }

    pub(super) fn locked(&self, key: &str, held: &Held) -> StoreError {
        StoreError::Locked { store: self.store_name(), key: key.to_string(), until: held.until }
    }
}
