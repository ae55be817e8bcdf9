//! `reseal catalog rebuild`: takes what is in the repository now as the truth. The catalog is the witness of an old copy being put
//! back, so this is for somebody who put one back on purpose.

use super::args::Catalog;
use super::open::Context;
use super::{DONE, text};
use crate::Result;
use crate::engine::session::Session;
use crate::repository::Ledger;
use serde_json::json;

/// Rebuilds it.
pub fn run(cx: &Context, command: &Catalog) -> Result<u8> {
    let Catalog::Rebuild = command;
    let config = cx.config()?;
    let (repo, meters) = cx.repository(&config)?;
    let catalog = cx.catalog(&config, &repo)?;
    // A broken chain is no truth to start from.
    Ledger::load(&repo)?.check()?;
    catalog.clear()?;
    let path = catalog.path().display().to_string();
    let actor = cx.actor(&config)?;
    let session = Session::new(config, repo, catalog, actor, cx.env.clone(), meters)?;
    let mut archives = 0;
    for name in session.repo.datasets()? {
        archives += session.repo.heads(&name)?.latest.len() as u64;
    }
    let entries = session.ledger().head().0;
    cx.ui.warn(
        "what this machine had seen of the repository is forgotten: that an older copy was put back before now can no longer be noticed",
    );
    cx.ui.say(&format!("rebuilt the catalog {path}: {}, ledger entry {entries}", text::count(archives, "archive", "archives")));
    cx.ui.object(&json!({ "catalog": { "path": path, "archives": archives, "ledger_entry": entries } }));
    Ok(DONE)
}
