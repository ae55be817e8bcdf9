//! `reseal init`: makes a repository and its first key slot.

use super::args::Init;
use super::open::{Context, location};
use super::secrets::{self, Which};
use super::{DONE, buckets, text};
use crate::crypto::secret::Secret;
use crate::engine::event::Event;
use crate::engine::session::Session;
use crate::repository::{InitOptions, Repository, params};
use crate::{Error, Result};
use serde_json::json;
use std::sync::Arc;

/// Makes it.
pub fn run(cx: &Context, args: &Init) -> Result<u8> {
    let config = cx.config()?;
    let (location, meters) = location(&config, &cx.env, true)?;
    let begun = match location.data.get(params::KEY) {
        Ok(_) => true,
        Err(e) if e.is_missing() => false,
        Err(e) => return Err(e.into()),
    };
    // Before anybody types a passphrase twice.
    if begun && !Repository::is_unused(&location)? {
        return Err(Error::Refused(format!("{} is a repository already", config.repository)));
    }
    let (secret, kept) = if begun {
        cx.ui.say("an interrupted init made the repository; this one completes it, with the same secret");
        (cx.secret()?, "the secret that it was made with".to_string())
    } else {
        secrets::fresh(Which::Current, cx.global.key_file.as_deref(), cx.env.random.as_ref(), &cx.ui)?
    };
    let repo = if begun {
        Repository::open(location, &secret, &cx.env)?
    } else {
        let options = InitOptions { label: args.label.clone(), ..InitOptions::default() };
        Repository::init(location, &secret, options, &cx.env)?
    };
    let repo = Arc::new(repo);
    let catalog = cx.catalog(&config, &repo)?;
    let (at, keys) = (config.repository.to_string(), config.keys.as_ref().map(ToString::to_string));
    let actor = cx.actor(&config)?;
    let session = Session::new(config, repo, catalog, actor, cx.env.clone(), meters)?;
    session.record(&Event::RepositoryCreated { tool: crate::TOOL.to_string() })?;
    let id = session.repo.id().to_string();
    let storage = buckets::findings(&session);
    let kind = if matches!(secret, Secret::KeyFile(_)) { "key-file" } else { "passphrase" };
    cx.ui.object(&json!({ "repository": { "id": id, "path": at, "keys": keys, "slot": { "label": args.label, "kind": kind }, "storage": buckets::objects(&storage) } }));
    cx.ui.say(&format!("made repository {} at {at}", text::short(&id)));
    if let Some(keys) = keys {
        cx.ui.say(&format!("its keys and ledger are at {keys}"));
    }
    buckets::say(&cx.ui, &storage);
    cx.ui.say(&format!("it is opened by {kept}"));
    cx.ui.warn(
        "without that secret nobody can read the backups, not even you: keep a copy of it apart from this machine and from the repository",
    );
    if let Some(file) = &args.put_only_key {
        super::keys::add_host(cx, &session, "host", &[], file)?;
    }
    cx.ui.say("next: reseal map check, then reseal backup");
    Ok(DONE)
}
