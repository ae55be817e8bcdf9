//! From the command line to an opened workplace: configuration → stores → secret → repository → catalog → session.

use super::args::Global;
use super::ui::Ui;
use super::{buckets, secrets, sides};
use crate::catalog::Catalog;
use crate::config::{self, Config, RepositoryAt};
use crate::crypto::secret::Secret;
use crate::engine::intake::{self, Refused};
use crate::engine::session::Session;
use crate::env::Env;
use crate::repository::{Location, Repository};
use crate::store::Store;
use crate::store::fault::Counting;
use crate::store::local::LocalStore;
use crate::store::s3::{self, S3Store};
use crate::{Error, Result};
use std::path::PathBuf;
use std::sync::Arc;

/// What every command works with.
pub struct Context {
    /// The options of every command.
    pub global: Global,
    /// Time, randomness, stop, monitor.
    pub env: Env,
    /// Where to speak.
    pub ui: Ui,
}

impl Context {
    /// The configuration.
    pub fn config(&self) -> Result<Config> {
        let path = &self.global.config;
        if !path.exists() {
            return Err(Error::Usage(format!(
                "there is no configuration at {}; name one with --config or RESEAL_CONFIG, or write one (docs/configuration.md explains it, `reseal schema` lets an editor check it)",
                path.display()
            )));
        }
        config::load(path)
    }

    /// The secret that opens the repository.
    pub fn secret(&self) -> Result<Secret> {
        secrets::current(&self.global, &self.ui)
    }

    /// Who acts.
    pub fn actor(&self, config: &Config) -> Result<String> {
        let named = self.global.actor.clone().or_else(|| config.actor.clone());
        let actor = named.unwrap_or_else(|| format!("{}@{}", user(), crate::store::process::host()));
        if actor.trim().is_empty() {
            return Err(Error::Usage("the actor's name is empty; give one with --actor or RESEAL_ACTOR".into()));
        }
        Ok(actor)
    }

    /// An opened repository that is compared with what this machine has seen of it.
    pub fn session(&self) -> Result<Session> {
        let config = self.config()?;
        let (repo, meters) = self.repository(&config)?;
        let catalog = self.catalog(&config, &repo)?;
        let actor = self.actor(&config)?;
        Session::new(config, repo, catalog, actor, self.env.clone(), meters)
    }

    /// Like [`Context::session`], for commands that look at archives: first what put-only hosts handed in is admitted. What cannot be admitted keeps
    /// nobody from the archives that are there.
    pub fn settled(&self) -> Result<(Session, Vec<Refused>)> {
        let session = self.session()?;
        let refused = match intake::settle(&session) {
            Err(e @ Error::Interrupted(_)) => return Err(e),
            Err(e) => {
                self.ui.warn(&format!("what put-only hosts handed in could not be admitted: {e}"));
                Vec::new()
            }
            Ok(refused) => refused,
        };
        Ok((session, refused))
    }

    /// The repository, opened.
    pub fn repository(&self, config: &Config) -> Result<(Arc<Repository>, Meters)> {
        let (location, meters) = location(config, &self.env, false)?;
        // Told before a passphrase is asked for.
        sides::check(config, &location)?;
        let secret = self.secret()?;
        Ok((Arc::new(Repository::open(location, &secret, &self.env)?), meters))
    }

    /// The catalog of a repository.
    pub fn catalog(&self, config: &Config, repo: &Repository) -> Result<Catalog> {
        let (catalog, fresh) = Catalog::open(&state_dir(config)?, &repo.id().to_string())?;
        if fresh {
            self.env
                .monitor
                .detail("this machine has not seen the repository before: whether an old copy of it was put back cannot be told yet");
        }
        Ok(catalog)
    }
}

pub(super) fn no_repository(config: &Config) -> Error {
    Error::Usage(format!("there is no repository at {}; make one with: reseal init", config.repository))
}

/// Count what passes to and from the stores.
pub type Meters = Vec<Arc<Counting>>;

/// Where the repository and its keys are. `create` makes the folders. Buckets are held to what the configuration says about them:
/// a dataset's region, and that nothing ever locks keys.
pub fn location(config: &Config, env: &Env, create: bool) -> Result<(Location, Meters)> {
    let data = store(config, &config.repository, env, create)?;
    let (data_bucket, data) = data;
    match &config.keys {
        Some(keys) => {
            let (keys_bucket, keys) = store(config, keys, env, create)?;
            buckets::check(config, data_bucket.as_deref(), keys_bucket.as_deref(), env)?;
            Ok((Location { data: data.clone(), keys: keys.clone() }, vec![data, keys]))
        }
        None => {
            buckets::check(config, data_bucket.as_deref(), data_bucket.as_deref(), env)?;
            Ok((Location::single(data.clone()), vec![data]))
        }
    }
}

/// A store behind its counter, and the bucket if it is one.
pub(super) type Opened = (Option<Arc<S3Store>>, Arc<Counting>);

/// Opens a store; `create` makes the folder.
pub(super) fn store(config: &Config, at: &RepositoryAt, env: &Env, create: bool) -> Result<Opened> {
    let mut bucket = None;
    let inner: Arc<dyn Store> = match at {
        RepositoryAt::Local(path) if create => Arc::new(LocalStore::create(path)?),
        RepositoryAt::Local(path) if !path.exists() => return Err(sides::absent(config, at, env)),
        RepositoryAt::Local(path) => Arc::new(LocalStore::open(path)?),
        RepositoryAt::S3(options) => {
            let locks = config.datasets.values().filter_map(|d| Some((d.name.clone(), d.lock?))).collect();
            let options = s3::Options { locks, ..(**options).clone() };
            bucket.insert(Arc::new(S3Store::open(options, env)?)).clone()
        }
    };
    Ok((bucket, Arc::new(Counting::new(inner))))
}

/// Where this machine keeps its catalogs.
fn state_dir(config: &Config) -> Result<PathBuf> {
    if let Some(dir) = &config.state_dir {
        return Ok(dir.clone());
    }
    // The specification has relative paths ignored.
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map(|base| base.join("reseal"))
        .ok_or_else(|| {
            Error::Usage("neither state_dir in the configuration nor XDG_STATE_HOME nor HOME says where the local catalog may be".into())
        })
}

fn user() -> String {
    let uid = nix::unistd::Uid::effective();
    match nix::unistd::User::from_uid(uid) {
        Ok(Some(user)) => user.name,
        _ => format!("uid {uid}"),
    }
}
