//! The way to the service: credentials, connections, and what every request goes through: a limit on how many run at once and on how
//! many bytes a second, a time limit per attempt, more attempts with growing, jittered pauses inside a budget of time, and an ear for
//! Ctrl-C. The SDK's own attempts are switched off: only here it is known that an earlier attempt may have been carried out.
//!
//! The runtime is hidden here: the trait is blocking, because the engine's work is CPU-bound and runs on threads.

use super::errors::Failure;
use super::lock::Lock;
use crate::env::{Env, random_bytes};
use crate::store::Requests;
use aws_config::SdkConfig;
use aws_config::environment::credentials::EnvironmentVariableCredentialsProvider;
use aws_config::meta::region::ProvideRegion;
use aws_config::provider_config::ProviderConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::SharedHttpClient;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{BehaviorVersion, Region, RequestChecksumCalculation, ResponseChecksumValidation};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_types::service_config::ServiceConfigKey;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

/// How often a running request looks whether the user wants to stop.
const EAR: Duration = Duration::from_millis(50);
/// What runs when the user wants to stop may still end within this time: so that a lease is given back.
const GRACE: Duration = Duration::from_secs(5);
/// Uploads of more than this are given up at once instead.
const SMALL: u64 = 256 << 10;
/// First pause between attempts; each following one is up to twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

/// How the service encrypts what it stores; everything is sealed before, so this is for rules that ask for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encryption {
    /// With keys of the service (`AES256`).
    SseS3,
    /// With a key of the service's key management; `None`: its default key.
    SseKms(Option<String>),
}

/// Where a bucket is and how to talk to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Bucket.
    pub bucket: String,
    /// Prefix of all keys, without slashes at its ends; may be empty.
    pub prefix: String,
    /// Address of the service; `None`: AWS.
    pub endpoint: Option<String>,
    /// Region; `None`: by environment and profile, else us-east-1.
    pub region: Option<String>,
    /// Bucket in the path instead of the host name.
    pub path_style: bool,
    /// Profile of the shared configuration files.
    pub profile: Option<String>,
    /// Credentials file of our own (form of the shared credentials file) instead of the chain.
    pub credentials_file: Option<PathBuf>,
    /// PEM file with certificates to trust instead of the system's.
    pub ca_bundle: Option<PathBuf>,
    /// Encryption by the service.
    pub encryption: Option<Encryption>,
    /// Storage class of packs.
    pub storage_class: Option<String>,
    /// Requests at once.
    pub concurrency: usize,
    /// Bytes a second, both ways together.
    pub bandwidth: Option<u64>,
    /// One attempt of a request of ordinary size may take so long.
    pub timeout: Duration,
    /// For so long a request is tried again.
    pub patience: Duration,
    /// Locks of packs, by dataset.
    pub locks: BTreeMap<String, Lock>,
}

impl Options {
    /// A bucket with everything else at its default.
    pub fn new(bucket: impl Into<String>, prefix: impl Into<String>) -> Options {
        Options {
            bucket: bucket.into(),
            prefix: prefix.into(),
            endpoint: None,
            region: None,
            path_style: false,
            profile: None,
            credentials_file: None,
            ca_bundle: None,
            encryption: None,
            storage_class: None,
            concurrency: 8,
            bandwidth: None,
            timeout: Duration::from_secs(60),
            patience: Duration::from_secs(300),
            locks: BTreeMap::new(),
        }
    }
}

/// Whether nobody can alter what goes to the service: over TLS, or within this machine.
pub(super) fn is_private_way(endpoint: Option<&str>) -> bool {
    // AWS speaks TLS.
    let Some(endpoint) = endpoint else { return true };
    let endpoint = endpoint.to_ascii_lowercase();
    if endpoint.starts_with("https://") {
        return true;
    }
    let authority =
        endpoint.strip_prefix("http://").and_then(|rest| rest.split('/').next()).filter(|a| !a.contains('@')).unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

impl std::fmt::Display for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.prefix.as_str() {
            "" => write!(f, "s3://{}", self.bucket),
            prefix => write!(f, "s3://{}/{prefix}", self.bucket),
        }
    }
}

/// What a request is: for the counters, and for how long it may take.
#[derive(Debug, Clone, Copy)]
pub(super) enum Verb {
    Get,
    Head,
    Put,
    List,
    Delete,
    Other,
}

#[derive(Default)]
struct Counters([AtomicU64; 7]);

pub(super) struct Connection {
    pub client: Client,
    pub env: Env,
    runtime: Option<Runtime>,
    slots: Semaphore,
    bandwidth: Option<u64>,
    /// When the line is free again.
    free: Mutex<Option<Instant>>,
    timeout: Duration,
    patience: Duration,
    /// A request was tried until its time was over, and none has succeeded since: others are not waited for as long again. A command must not
    /// take its patience many times over to find out that the service is gone.
    given_up: AtomicBool,
    /// Address of the service, by the configuration or by what AWS's tools go by (environment, profile); `None`: AWS.
    pub endpoint: Option<String>,
    counters: Counters,
}

impl Connection {
    pub fn open(options: &Options, env: &Env) -> Result<Connection, Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("reseal-s3")
            .enable_all()
            .build()
            .map_err(|e| Failure::other(format!("no threads for the network: {e}")))?;
        let (client, endpoint) = runtime.block_on(client(options))?;
        Ok(Connection {
            client,
            env: env.clone(),
            runtime: Some(runtime),
            slots: Semaphore::new(options.concurrency.max(1)),
            bandwidth: options.bandwidth,
            free: Mutex::new(None),
            timeout: options.timeout,
            patience: options.patience,
            given_up: AtomicBool::new(false),
            endpoint,
            counters: Counters::default(),
        })
    }

    /// Whom we talk to, for messages.
    fn service(&self) -> String {
        self.endpoint.as_ref().map_or_else(|| "AWS".to_string(), |endpoint| format!("the service at {endpoint}"))
    }

    /// Runs to the end on the calling thread.
    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        match &self.runtime {
            Some(runtime) => runtime.block_on(work),
            None => unreachable!("the runtime lives as long as the connection"),
        }
    }

    /// Requests so far, attempts included.
    pub fn requests(&self) -> Requests {
        let [get, head, put, list, delete, other, again] = &self.counters.0;
        let n = |c: &AtomicU64| c.load(Ordering::Relaxed);
        Requests { get: n(get), head: n(head), put: n(put), list: n(list), delete: n(delete), other: n(other), again: n(again) }
    }

    fn count(&self, verb: Verb) {
        if let Some(c) = self.counters.0.get(verb as usize) {
            c.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A request with all its attempts. `bytes` is what it sends.
    pub async fn call<T, F, W>(&self, verb: Verb, bytes: u64, attempt: F) -> Result<T, Failure>
    where
        F: Fn() -> W,
        W: Future<Output = Result<T, Failure>>,
    {
        self.call_as(verb, &Cell::new(bytes), false, attempt).await
    }

    /// The same for an answer of so many bytes, as far as that is known; an attempt that learns more says so ([`Connection::expect`]). What is
    /// `urgent` waits for no other request: a lease that stood in line behind packs would be over before it is renewed.
    pub async fn call_as<T, F, W>(&self, verb: Verb, bytes: &Cell<u64>, urgent: bool, attempt: F) -> Result<T, Failure>
    where
        F: Fn() -> W,
        W: Future<Output = Result<T, Failure>>,
    {
        let mut began: Option<Instant> = None;
        let mut pause = FIRST_PAUSE;
        let mut uncertain = false;
        let patience = if self.given_up.load(Ordering::Relaxed) { Duration::ZERO } else { self.patience };
        loop {
            let slot = if urgent {
                None
            } else {
                self.throttle(bytes.get()).await?;
                Some(self.slots.acquire().await.map_err(|_| Failure::other("closed"))?)
            };
            // What it waited for others is not the service's fault.
            let began = *began.get_or_insert_with(Instant::now);
            self.count(verb);
            let mut failure = match self.one(verb, bytes, attempt()).await {
                Ok(done) => {
                    self.given_up.store(false, Ordering::Relaxed);
                    return Ok(done);
                }
                Err(failure) => failure,
            };
            uncertain |= failure.uncertain;
            failure.uncertain = uncertain;
            let left = patience.saturating_sub(began.elapsed());
            if !failure.again || self.env.stop.requested() {
                return Err(failure);
            }
            if left.is_zero() {
                self.given_up.store(true, Ordering::Relaxed);
                return Err(failure.given_up(&self.service(), self.patience));
            }
            drop(slot);
            self.env.monitor.detail(&format!("trying again: {failure}"));
            if let Some(c) = self.counters.0.get(6) {
                c.fetch_add(1, Ordering::Relaxed);
            }
            self.rest(self.jitter(pause).min(left)).await?;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One attempt, not longer than it may take, and not much longer than the user wants.
    async fn one<T>(&self, verb: Verb, bytes: &Cell<u64>, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let started = Instant::now();
        let mut asked: Option<Instant> = None;
        let mut work = pin!(work);
        loop {
            if let Ok(done) = timeout(EAR, &mut work).await {
                return done;
            }
            // A slow line is no dead one: 64 KiB a second always count as progress.
            if started.elapsed() >= self.timeout + Duration::from_secs(bytes.get() / (64 << 10)) {
                return Err(Failure::transport("no answer in time"));
            }
            if self.env.stop.requested() {
                let since = *asked.get_or_insert_with(Instant::now);
                if since.elapsed() >= GRACE || (matches!(verb, Verb::Put) && bytes.get() > SMALL) {
                    return Err(Failure::stopped());
                }
            }
        }
    }

    /// A pause that Ctrl-C ends.
    async fn rest(&self, pause: Duration) -> Result<(), Failure> {
        let end = Instant::now() + pause;
        loop {
            if self.env.stop.requested() {
                return Err(Failure::stopped());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            sleep(left.min(EAR)).await;
        }
    }

    /// Half of the pause at least: everybody comes back at another moment.
    fn jitter(&self, pause: Duration) -> Duration {
        let random = random_bytes::<2>(&*self.env.random).map_or(0.5, |b| f64::from(u16::from_be_bytes(b)) / 65536.0);
        pause.mul_f64(0.5 + random)
    }

    /// Waits until the line may carry these bytes.
    async fn throttle(&self, bytes: u64) -> Result<(), Failure> {
        let wait = self.charge(bytes);
        if wait.is_zero() { Ok(()) } else { self.rest(wait).await }
    }

    /// Keeps the line busy for as long as these bytes take; how long it is busy before them.
    fn charge(&self, bytes: u64) -> Duration {
        let Some(rate) = self.bandwidth.filter(|r| *r > 0) else { return Duration::ZERO };
        let now = Instant::now();
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = free.map_or(now, |f| f.max(now));
        *free = Some(begin + Duration::from_secs_f64(bytes as f64 / rate as f64));
        begin.saturating_duration_since(now)
    }

    /// An answer has begun and says how long it is: it has the time for that, and what comes after it waits until the line has carried it.
    pub fn expect(&self, bytes: &Cell<u64>, len: u64) {
        if let Some(more) = len.checked_sub(bytes.get()).filter(|more| *more > 0) {
            bytes.set(len);
            self.charge(more);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The SDK's client as configured, and where it goes.
async fn client(options: &Options) -> Result<(Client, Option<String>), Failure> {
    let mut loader = aws_config::defaults(BehaviorVersion::latest());
    let trusted = options.ca_bundle.as_deref().map(bundle).transpose()?;
    let system = trusted.is_none();
    let trusting = http(trusted)?;
    loader = loader.http_client(trusting.clone());
    if let Some(profile) = &options.profile {
        loader = loader.profile_name(profile);
    }
    if let Some(region) = region(options) {
        loader = loader.region(Region::new(region));
    }
    if let Some(file) = &options.credentials_file {
        if let Err(e) = std::fs::metadata(file) {
            return Err(Failure::other(format!("credentials file {}: {e}", file.display())));
        }
        // The new name of this type is in a crate that nothing else here needs.
        #[allow(deprecated)]
        let files = {
            use aws_config::profile::profile_file::{ProfileFileKind, ProfileFiles};
            ProfileFiles::builder().with_file(ProfileFileKind::Credentials, file).build()
        };
        let mut provider = aws_config::profile::ProfileFileCredentialsProvider::builder().profile_files(files);
        if let Some(profile) = &options.profile {
            provider = provider.profile_name(profile);
        }
        loader = loader.credentials_provider(provider.build());
    } else if let Some(profile) = &options.profile {
        // Named here, it counts for more than what the environment says: two places may have credentials of their own.
        let region = match region(options).map(Region::new) {
            // A role is asked for in the region of its profile.
            None => aws_config::profile::ProfileFileRegionProvider::builder().profile_name(profile).build().region().await,
            known => known,
        };
        let context = ProviderConfig::without_region().with_http_client(trusting.clone()).with_region(region);
        let provider = aws_config::profile::ProfileFileCredentialsProvider::builder().configure(&context).profile_name(profile);
        loader = loader.credentials_provider(provider.build());
    } else if std::env::var_os("AWS_ACCESS_KEY_ID").is_some() {
        // Straight from the environment: the chain would look in more places when they are wrong.
        loader = loader.credentials_provider(EnvironmentVariableCredentialsProvider::new());
    }
    let shared = loader.load().await;
    let endpoint = options.endpoint.clone().or_else(|| configured_endpoint(&shared));
    // Without TLS nobody's certificate is looked at, and reading the system's takes longer than a request on the same machine. (Where
    // credentials come from is another matter.)
    let plain = endpoint.as_ref().is_some_and(|endpoint| endpoint.to_ascii_lowercase().starts_with("http://"));
    let mut config = aws_sdk_s3::config::Builder::from(&shared)
        .http_client(if plain && system { http(Some(TrustStore::empty()))? } else { trusting })
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::builder().connect_timeout(Duration::from_secs(10)).build())
        // Whatever the environment and the profile say: the checksum may be all that vouches for a body.
        .request_checksum_calculation(RequestChecksumCalculation::WhenSupported)
        .response_checksum_validation(ResponseChecksumValidation::WhenSupported)
        .force_path_style(options.path_style);
    if shared.region().is_none() {
        config = config.region(Region::new("us-east-1"));
    }
    if let Some(endpoint) = &endpoint {
        config = config.endpoint_url(endpoint);
    }
    Ok((Client::from_conf(config.build()), endpoint))
}

/// Where AWS's tools are told to find S3: by `AWS_ENDPOINT_URL_S3` or the profile's services, by `AWS_ENDPOINT_URL` or the profile.
fn configured_endpoint(shared: &SdkConfig) -> Option<String> {
    let key = ServiceConfigKey::builder().service_id("S3").env("AWS_ENDPOINT_URL").profile("endpoint_url").build().ok()?;
    let of_s3 = shared.service_config().and_then(|config| config.load_config(key));
    of_s3.or_else(|| shared.endpoint_url().map(str::to_string)).filter(|endpoint| !endpoint.is_empty())
}

/// As configured, or by the environment. Beside an endpoint of its own a region is a mere word: nobody waits for an instance's metadata then.
fn region(options: &Options) -> Option<String> {
    let named = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    let by_profile = options.profile.is_some() || named("AWS_PROFILE").is_some();
    let word = || (options.endpoint.is_some() && !by_profile).then(|| "us-east-1".to_string());
    options.region.clone().or_else(|| named("AWS_REGION")).or_else(|| named("AWS_DEFAULT_REGION")).or_else(word)
}

/// Trusts whom the system trusts, or whom it is told to trust.
fn http(trusted: Option<TrustStore>) -> Result<SharedHttpClient, Failure> {
    let builder = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::AwsLc));
    let Some(trusted) = trusted else { return Ok(builder.build_https()) };
    let context = TlsContext::builder().with_trust_store(trusted).build();
    Ok(builder.tls_context(context.map_err(|e| Failure::other(format!("certificates to trust: {e}")))?).build_https())
}

fn bundle(file: &Path) -> Result<TrustStore, Failure> {
    let what = |e: String| Failure::other(format!("CA bundle {}: {e}", file.display()));
    let pem = std::fs::read(file).map_err(|e| what(e.to_string()))?;
    // The client panics on what is no certificate at all.
    if !String::from_utf8_lossy(&pem).contains("-----BEGIN CERTIFICATE-----") {
        return Err(what("there is no PEM certificate in it".into()));
    }
    Ok(TrustStore::empty().with_pem_certificate(pem))
}
