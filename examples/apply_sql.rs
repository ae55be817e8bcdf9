//! Runs a file of SQL on an SQLite database: `cargo run --example apply_sql -- shop.db changes.sql`.
//!
//! The quickstart's nights change a database; this spares a fresh machine the `sqlite3` program.

use std::error::Error;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [database, script] = arguments.as_slice() else {
        eprintln!("usage: apply_sql DATABASE FILE.sql");
        return ExitCode::from(2);
    };
    match apply(database, script) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("apply_sql: {script} on {database}: {e}");
            ExitCode::FAILURE
        }
    }
}

fn apply(database: &str, script: &str) -> Result<(), Box<dyn Error>> {
    let sql = std::fs::read_to_string(script)?;
    // An existing database only: a mistyped name must not make an empty one.
    let db = rusqlite::Connection::open_with_flags(database, rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    db.execute_batch(&sql)?;
    Ok(())
}
