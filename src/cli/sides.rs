//! A repository whose keys lie apart has two sides, and either can be lost alone. Which one is missing, and what to do, must be the first thing that
//! whoever is called at night reads; "no repository; make one" would be the worst of answers.

use super::open::{no_repository, store};
use crate::config::{Config, RepositoryAt};
use crate::env::Env;
use crate::repository::Location;
use crate::repository::export::{has_ledger, has_params, has_slots};
use crate::{Error, Result};

/// Fails unless both sides are there.
pub fn check(config: &Config, location: &Location) -> Result<()> {
    let apart = config.keys.is_some();
    match has_params(&*location.data) {
        Ok(true) => {}
        Ok(false) if apart && has_ledger(&*location.keys)? => return Err(packs_lost(config, None)),
        Ok(false) => return Err(no_repository(config)),
        Err(e) if apart && is_gone(&e) && has_ledger(&*location.keys).unwrap_or(false) => return Err(packs_lost(config, Some(&e))),
        Err(e) => return Err(e),
    }
    match has_slots(&*location.keys) {
        Ok(true) => Ok(()),
        Ok(false) => Err(keys_lost(config, None)),
        Err(e) if apart && is_gone(&e) => Err(keys_lost(config, Some(&e))),
        Err(e) => Err(e),
    }
}

/// Why a put-only host cannot begin: a side that is missing, as far as it may see that; else what it met.
pub fn for_host(config: &Config, location: &Location, met: Error) -> Error {
    match check(config, location) {
        Err(lost @ Error::Damaged { .. }) => lost,
        _ => met,
    }
}

/// Whether the whole bucket is not there.
fn is_gone(error: &Error) -> bool {
    matches!(error, Error::Store(e) if e.is_place_missing())
}

/// The error for a place that is not there.
pub fn absent(config: &Config, at: &RepositoryAt, env: &Env) -> Error {
    let Some(keys) = &config.keys else { return no_repository(config) };
    // The other side tells whether there ever was a repository; when it cannot be asked either, there is nothing better to say.
    if *at == config.repository {
        let lost = is_local(keys) && store(config, keys, env, false).is_ok_and(|(_, s)| has_ledger(&*s).unwrap_or(false));
        if lost { packs_lost(config, None) } else { no_repository(config) }
    } else {
        let lost = store(config, &config.repository, env, false).is_ok_and(|(_, s)| has_params(&*s).unwrap_or(false));
        if lost { keys_lost(config, None) } else { no_repository(config) }
    }
}

/// Whether asking it cannot come back here: a local place that is there.
fn is_local(at: &RepositoryAt) -> bool {
    !matches!(at, RepositoryAt::Local(path) if !path.exists())
}

fn packs_lost(config: &Config, why: Option<&Error>) -> Error {
    let keys = config.keys.as_ref().map(ToString::to_string).unwrap_or_default();
    let detail = format!(
        "its packs' side is missing: there is no reseal.json at {}, while its keys are at {keys}. Make the place available (is it mounted?), or put it \
         back from a copy; the keys alone hold nothing of any archive, so leave them as they are",
        config.repository
    );
    Error::damaged("the repository", detail + &because(why))
}

fn keys_lost(config: &Config, why: Option<&Error>) -> Error {
    let at = config.keys.as_ref().unwrap_or(&config.repository);
    let detail = format!(
        "its keys' side is missing: there is no key slot at {at}, while its packs are at {}. Without keys nothing of it can be opened. Make the place \
         available (is it mounted?), put it back from a copy, or bring back an export: reseal keys import FILE",
        config.repository
    );
    Error::damaged("the repository", detail + &because(why))
}

fn because(why: Option<&Error>) -> String {
    why.map_or_else(String::new, |e| format!(". What was said: {e}"))
}
