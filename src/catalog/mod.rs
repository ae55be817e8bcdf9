//! The local database: what this machine has seen of a repository before, so that a rollback of the store shows (an old ledger, an old
//! generation, an old key sheet put back), and small facts that only cost time when they are lost. Everything in it can be rebuilt from the
//! repository; it holds no secret, no path of an entry and no identity.

use crate::repository::Ledger;
use crate::{Error, Result};
use rusqlite::{Connection, OptionalExtension, params};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Version of the schema below. Older ones are migrated, newer ones are refused.
const VERSION: i64 = 1;

const SCHEMA: &str = "
CREATE TABLE witness (what TEXT PRIMARY KEY, seq INTEGER NOT NULL, hash TEXT NOT NULL) STRICT;
";

/// The opened catalog of one repository.
pub struct Catalog {
    db: Mutex<Connection>,
    path: PathBuf,
}

fn is_damage(error: &Error) -> bool {
    use rusqlite::ErrorCode;
    match error {
        Error::Damaged { .. } => true,
        // A missing table or column is a schema that nobody here wrote.
        Error::Sqlite { source, .. } => matches!(
            source.sqlite_error_code(),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown | ErrorCode::TypeMismatch)
        ),
        _ => false,
    }
}

impl Catalog {
    /// Opens the catalog of a repository in `dir`, making it when it is not there. A file that is damaged is set aside and made anew: it is only a witness.
    pub fn open(dir: &Path, repository: &str) -> Result<(Catalog, bool)> {
        std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        let path = dir.join(format!("{repository}.db"));
        let fresh = !path.exists();
        match Catalog::at(&path) {
            Ok(catalog) => Ok((catalog, fresh)),
            Err(Error::Usage(m)) => Err(Error::Usage(m)),
            // Busy, forbidden or out of space is not damaged: the witness must not be lost for that.
            Err(e) if !is_damage(&e) => Err(e),
            Err(_) => {
                let aside = dir.join(format!("{repository}.damaged"));
                std::fs::rename(&path, &aside).map_err(Error::io("set aside", &path))?;
                for suffix in ["-wal", "-shm", "-journal"] {
                    let _ = std::fs::remove_file(dir.join(format!("{repository}.db{suffix}")));
                }
                Ok((Catalog::at(&path)?, true))
            }
        }
    }

    fn at(path: &Path) -> Result<Catalog> {
        let db = Connection::open(path).map_err(Error::sqlite("open the catalog"))?;
        db.busy_timeout(std::time::Duration::from_secs(10)).map_err(Error::sqlite("open the catalog"))?;
        let version: i64 = db.pragma_query_value(None, "user_version", |r| r.get(0)).map_err(Error::sqlite("read the catalog"))?;
        if version > VERSION {
            return Err(Error::Usage(format!(
                "{} was made by a newer reseal (schema {version}); this one knows {VERSION}",
                path.display()
            )));
        }
        if version == 0 {
            crate::crash::step("catalog: create schema");
            db.execute_batch(&format!("BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT"))
                .or_else(|e| {
                    let _ = db.execute_batch("ROLLBACK");
                    // Another process may have made it in this moment.
                    let now: i64 = db.pragma_query_value(None, "user_version", |r| r.get(0))?;
                    if now == VERSION { Ok(()) } else { Err(e) }
                })
                .map_err(Error::sqlite("make the catalog"))?;
        }
        // It is small; what is damaged must be noticed here, where it can be made anew.
        let sound: String = db.query_row("PRAGMA integrity_check(1)", [], |r| r.get(0)).map_err(Error::sqlite("check the catalog"))?;
        if sound != "ok" {
            return Err(Error::damaged(path.display().to_string(), "SQLite's integrity check fails"));
        }
        db.query_row("SELECT count(*) FROM witness", [], |_| Ok(())).map_err(Error::sqlite("read the catalog"))?;
        Ok(Catalog { db: Mutex::new(db), path: path.to_path_buf() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn db(&self) -> MutexGuard<'_, Connection> {
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets everything (before a rebuild).
    pub fn clear(&self) -> Result<()> {
        crate::crash::step("catalog: clear");
        self.db().execute_batch("BEGIN IMMEDIATE; DELETE FROM witness; COMMIT").map_err(Error::sqlite("clear the catalog"))
    }

    /// Compares the ledger with what was seen before and remembers it. Fails with `Damaged` when it is shorter, or another one.
    pub fn witness_ledger(&self, ledger: &Ledger) -> Result<()> {
        let (seq, hash) = ledger.head();
        let db = self.db();
        let seen: Option<(i64, String)> = db
            .query_row("SELECT seq, hash FROM witness WHERE what = 'ledger'", [], |r| Ok((r.get(0)?, r.get(1)?)))
            .optional()
            .map_err(Error::sqlite("read the catalog"))?;
        if let Some((seen_seq, seen_hash)) = seen {
            let there = ledger.entries().iter().find(|e| e.seq == seen_seq.unsigned_abs());
            if there.is_none_or(|e| hex::encode(e.hash) != seen_hash) {
                return Err(Error::damaged(
                    "ledger",
                    format!(
                        "entry {seen_seq} was seen here before and is {} now: an older copy of the repository was put back, or entries were removed. \
                         If you restored the repository on purpose: reseal catalog rebuild",
                        if there.is_none() { "missing" } else { "another one" }
                    ),
                ));
            }
            if seen_seq.unsigned_abs() == seq {
                return Ok(());
            }
        }
        if seq > 0 {
            crate::crash::step("catalog: witness ledger");
            db.execute("INSERT OR REPLACE INTO witness VALUES ('ledger', ?1, ?2)", params![seq as i64, hex::encode(hash)])
                .map_err(Error::sqlite("write the catalog"))?;
        }
        Ok(())
    }
}
