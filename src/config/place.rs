//! Where things are kept: buckets and how to talk to them, and what ties a dataset to a bucket (its lock, its region).

use super::load::{Loader, parse_size};
use super::raw::{OneOf, RawDataset, RawEncryption, RawLockMode, RawS3};
use super::resolved::{Dataset, RepositoryAt};
use super::yaml::pointer_step;
use crate::policy::Period;
use crate::store::s3::{Encryption, Lock, LockMode, Options};
use std::time::Duration;

/// Storage classes that nothing can be read from before it was brought back.
const FROZEN: [&str; 2] = ["GLACIER", "DEEP_ARCHIVE"];

/// The part of a place behind `s3://`, with the settings for all of them.
pub(super) fn at(rest: &str, settings: &Options) -> Result<Options, String> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let prefix = prefix.trim_matches('/');
    let valid = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(valid) {
        return Err(format!("{bucket:?} is not the name of a bucket; expected s3://bucket/prefix"));
    }
    if prefix.split('/').any(|s| s == "." || s == "..") || prefix.contains("//") {
        return Err("the prefix has empty, `.` or `..` components".to_string());
    }
    Ok(Options { bucket: bucket.to_string(), prefix: prefix.to_string(), ..settings.clone() })
}

impl Loader {
    /// Settings of a section: `s3`, for every bucket, or `keys_s3`, for that of the keys.
    pub(super) fn s3(&mut self, section: &str, raw: &RawS3) -> Options {
        let default = Options::new("", "");
        if let Some(endpoint) = &raw.endpoint
            && !endpoint.starts_with("https://")
            && !endpoint.starts_with("http://")
        {
            self.find(
                &format!("/{section}/endpoint"),
                format!("{section}: endpoint: expected an address that begins with https:// (or http://)"),
            );
        }
        let encryption = match raw.encryption {
            None => None,
            Some(RawEncryption::SseS3) => Some(Encryption::SseS3),
            Some(RawEncryption::SseKms) => Some(Encryption::SseKms(raw.kms_key.clone())),
        };
        if raw.kms_key.is_some() && raw.encryption != Some(RawEncryption::SseKms) {
            self.find(&format!("/{section}/kms_key"), format!("{section}: kms_key goes with encryption: sse-kms"));
        }
        if let Some(class) = &raw.storage_class {
            if FROZEN.contains(&class.as_str()) {
                self.find(&format!("/{section}/storage_class"), format!("{section}: storage_class: what lies in {class} cannot be read, searched or erased without bringing it back first; GLACIER_IR can"));
            } else if class.is_empty() || !class.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_') {
                self.find(&format!("/{section}/storage_class"), format!("{section}: storage_class: expected for example STANDARD_IA"));
            }
        }
        let concurrency = raw.concurrency.unwrap_or(default.concurrency as u32);
        if !(1..=256).contains(&concurrency) {
            self.find(&format!("/{section}/concurrency"), format!("{section}: concurrency: from 1 to 256"));
        }
        let bandwidth = match &raw.bandwidth {
            None => None,
            Some(OneOf::B(bytes)) => Some(*bytes),
            Some(OneOf::A(text)) => match parse_size(text) {
                Ok(bytes) => Some(bytes),
                Err(what) => {
                    self.find(&format!("/{section}/bandwidth"), format!("{section}: bandwidth: {what}"));
                    None
                }
            },
        };
        if bandwidth.is_some_and(|b| b < 16 << 10) {
            self.find(&format!("/{section}/bandwidth"), format!("{section}: bandwidth: at least 16KiB a second"));
        }
        Options {
            endpoint: raw.endpoint.clone(),
            region: raw.region.clone(),
            path_style: raw.path_style.unwrap_or(raw.endpoint.is_some()),
            profile: raw.profile.clone(),
            credentials_file: raw.credentials_file.as_ref().map(|f| self.folder.join(f)),
            ca_bundle: raw.ca_bundle.as_ref().map(|f| self.folder.join(f)),
            encryption,
            storage_class: raw.storage_class.clone(),
            concurrency: concurrency as usize,
            bandwidth,
            timeout: self.span(section, raw.timeout.as_deref(), "timeout", default.timeout),
            patience: self.span(section, raw.patience.as_deref(), "patience", default.patience),
            ..default
        }
    }

    /// A period of hours at most.
    fn span(&mut self, section: &str, text: Option<&str>, key: &str, default: Duration) -> Duration {
        let Some(text) = text else { return default };
        let seconds = Period::parse(text).ok().map(|p| p.shortest_seconds()).filter(|s| (1..=86_400).contains(s));
        match seconds {
            Some(seconds) => Duration::from_secs(seconds),
            None => {
                self.find(&format!("/{section}/{key}"), format!("{section}: {key}: expected a period between 1s and 1d, for example 60s"));
                default
            }
        }
    }

    /// A dataset's lock.
    pub(super) fn lock(&mut self, raw: &RawDataset, at: &str) -> Option<Lock> {
        let lock = raw.lock.as_ref()?;
        if !(1..=36_500).contains(&lock.days) {
            self.find(&format!("{at}/lock/days"), "lock: days: from 1 to 36500");
        }
        let mode = match lock.mode {
            RawLockMode::Governance => LockMode::Governance,
            RawLockMode::Compliance => LockMode::Compliance,
        };
        Some(Lock { mode, days: lock.days })
    }

    /// What a dataset asks of its buckets, and a folder cannot give. `keys`: when they have a section of their own.
    pub(super) fn bound_to_bucket(&mut self, dataset: &Dataset, repository: &RepositoryAt, keys: Option<&RepositoryAt>) {
        let at = format!("/datasets/{}", pointer_step(&dataset.name));
        if matches!(repository, RepositoryAt::Local(_)) {
            if dataset.lock.is_some() {
                self.find(&format!("{at}/lock"), "lock: only a bucket can lock, and the repository is a folder");
            }
            if dataset.region.is_some() {
                self.find(&format!("{at}/region"), "region: only a bucket has one, and the repository is a folder");
            }
        }
        for (place, section) in [(Some(repository), "s3"), (keys, "keys_s3")] {
            let Some(RepositoryAt::S3(bucket)) = place else { continue };
            if let (Some(wanted), Some(configured)) = (&dataset.region, &bucket.region)
                && wanted != configured
            {
                let what = format!("region: the dataset must stay in {wanted}, and {section}: region says {configured}");
                self.find(&format!("{at}/region"), what);
            }
        }
    }
}
