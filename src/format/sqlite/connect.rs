//! Opening an archived database for an edit: the settings, in the order that works, each of which keeps something from happening
//! that must not (an application's triggers, plaintext in a temporary file, a page that grows beyond its bounds).

use super::Image;
use super::overlay::{Limits, Overlay};
use super::vfs::{Bounds, Database};
use crate::format::cutter::MAX_RECORD;
use crate::{Error, Result};
use rusqlite::config::DbConfig;
use std::sync::{Arc, Mutex, PoisonError};

/// Steps that a statement may take over any database, and more for each byte of it. To read a row takes some for each of its columns, and a
/// column takes a byte at least; a join or a sort takes a few times as many.
pub(super) const STEPS: u64 = 200_000_000;
const STEPS_PER_BYTE: u64 = 1024;

/// What holds for a connection to an archived database.
fn bounds(overlay: &Mutex<Overlay>, limits: &Limits) -> Bounds {
    let overlay = overlay.lock().unwrap_or_else(PoisonError::into_inner);
    Bounds {
        path: overlay.path(),
        stop: overlay.stop(),
        steps: STEPS.saturating_add(overlay.base_len().saturating_mul(STEPS_PER_BYTE)),
        longest: limits.value.max(MAX_RECORD as u64),
    }
}

/// Opens for writing. `triggers`: whether the schema's triggers run.
///
/// Without a rollback journal, which would take as much memory as the edit writes: any error drops the overlay as a whole, so nothing is ever
/// rolled back, and whoever writes through this connection must not go on after one.
pub fn for_edit(overlay: &Arc<Mutex<Overlay>>, limits: &Limits, triggers: bool) -> Result<Database> {
    let db = Database::bounded(overlay.clone(), true, bounds(overlay, limits))?;
    let journal = configure(&db, limits, triggers).map_err(db.explain("opening a database in an archive"))?;
    if journal != "off" {
        return Err(Error::Refused(format!("sqlite keeps a journal in mode {journal} instead of none")));
    }
    Ok(db)
}

fn configure(db: &Database, limits: &Limits, triggers: bool) -> rusqlite::Result<String> {
    let c = db.connection();
    c.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    c.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, triggers)?;
    // Foreign keys are honoured by `foreign`, which can say what it did; the bundled build turns SQLite's own handling on.
    c.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false)?;
    // Before the first read: a database in write-ahead-log mode then needs no shared memory.
    c.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    c.pragma_update(None, "temp_store", "MEMORY")?;
    c.pragma_update(None, "cell_size_check", true)?;
    let journal: String = c.query_row("PRAGMA journal_mode=OFF", [], |r| r.get(0))?;
    c.pragma_update(None, "synchronous", "OFF")?;
    let _: i64 = c.query_row("PRAGMA secure_delete=ON", [], |r| r.get(0))?;
    c.pragma_update(None, "cache_size", -((limits.page_cache >> 10) as i64))?;
    c.pragma_update(None, "automatic_index", false)?;
    c.set_prepared_statement_cache_capacity(64);
    Ok(journal)
}

/// Opens for reading only.
pub fn for_reading(overlay: &Arc<Mutex<Overlay>>, limits: &Limits) -> Result<Database> {
    let db = Database::bounded(overlay.clone(), false, bounds(overlay, limits))?;
    let configured = (|| {
        let c = db.connection();
        c.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        c.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        c.pragma_update(None, "temp_store", "MEMORY")?;
        c.pragma_update(None, "cell_size_check", true)?;
        c.pragma_update(None, "cache_size", -((limits.page_cache >> 10) as i64))
    })();
    configured.map_err(db.explain("opening a database in an archive"))?;
    Ok(db)
}

/// Opens an overlay that nothing was written to, for reading: its header may still say that there is a write-ahead log.
pub fn for_reading_base(overlay: &Arc<Mutex<Overlay>>, limits: &Limits) -> Result<Database> {
    for_edit(overlay, limits, false)
}
