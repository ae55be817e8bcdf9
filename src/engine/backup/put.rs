//! A backup by a host that only adds archives. It reads every file, since it cannot open the archive before to see what is unchanged, and stores only the
//! chunks that no archive has. What it makes is an archive once somebody with the full key has admitted it ([`crate::engine::intake`]).

use super::parent::ParentArchive;
use super::pipeline::{Erased, Shared};
use super::{Frame, Report, report, seal_source};
use crate::Result;
use crate::config::{self, Config};
use crate::env::Env;
use crate::repository::host::HostKey;
use crate::repository::intake::Outbox;
use crate::repository::{ChunkWriter, Lease, Location, WriteOptions};
use std::collections::HashSet;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

/// Backs up one dataset with a put-only key. Order: packs → their sheets → head, all of it in the intake; then what the host itself need not hand in again.
pub fn put_only(
    whole: &Config,
    location: &Location,
    host: &Arc<HostKey>,
    env: &Env,
    config: &config::Dataset,
    tag: Option<String>,
) -> Result<Report> {
    let lease = Lease::take(location.keys.clone(), env, &config.name, crate::engine::LEASE_TTL)?;
    // Under the lease: the put key does not change, and nothing that is listed as stored is dropped.
    let outbox = Arc::new(Outbox::open(location.clone(), env.clone(), host.clone(), &config.name)?);
    let frame = Frame { config, tag, created_at: env.now() };
    let (known, doubted) = outbox.known()?;
    for e in doubted {
        env.monitor.detail(&format!("{e}; its chunks are handed in again"));
    }
    let options = WriteOptions { level: whole.compression_level, ..WriteOptions::default() };
    let writer = ChunkWriter::to_outbox(&outbox, known, options).under(&lease);
    let shared = Shared {
        writer: &writer,
        dataset: outbox.dataset(),
        // Whoever admits it looks for them.
        erased: Erased::default(),
        met: Mutex::new(HashSet::new()),
        stored: AtomicU64::new(0),
    };
    let (tree, totals) = seal_source(whole, env, config, &shared, ParentArchive::none())?;
    writer.finish()?;
    env.stop.check("no archive was made; run the same command again")?;
    lease.check()?;
    // It does not know the ledger, so no erasure counts as applied.
    let head = frame.head(outbox.archive(), 0, tree, &totals, &shared, env.now());
    crate::crash::step("backup: hand in the head");
    let digest = outbox.put_head(&head)?;
    Ok(report(head, digest, totals, Vec::new(), true))
}
