//! Reading the new generations back, before the old ones go: each is what the edit makes of the old one and nothing else, and nobody who
//! was to be erased is found in it.

use super::bytes::ByteSearch;
use super::check::{Checked, absence, no_collateral};
use super::execute::Work;
use super::{People, Scope};
use crate::config;
use crate::engine::session::{Session, View};
use crate::repository::entry::ChunkId;
use crate::repository::{Heads, Listed, at_once};
use crate::{Error, Result};
use std::collections::{BTreeMap, HashSet};
use std::sync::Mutex;

/// What reading an archive back showed.
pub(super) enum Verified {
    /// Nothing was to be done on it.
    Nothing,
    /// The new generation is not what the edit makes of the old one, or cannot be read.
    Unsound(Error),
    /// What was stored anew, if anything was, and what the search for what is left of the people found, or why it could not be told.
    Checked(Option<Box<Listed>>, Result<Checked>),
}

/// Reads archives back, only reading: so several at a time.
pub(super) struct Verifying<'v> {
    pub(super) session: &'v Session,
    pub(super) config: &'v config::Dataset,
    pub(super) people: &'v People,
    pub(super) scope: Scope,
    pub(super) view: &'v View,
    pub(super) stored: &'v Heads,
    /// Chunks that were read already.
    pub(super) read_back: Mutex<HashSet<ChunkId>>,
}

impl Verifying<'_> {
    /// In the order of `works`.
    pub(super) fn all(&self, works: &[Work], hands: usize) -> Result<Vec<Verified>> {
        let verified = at_once(hands, shares(works.iter().collect(), hands), |share| {
            let mut bytes = BTreeMap::new();
            share.into_iter().map(|work| self.one(work, &mut bytes)).collect::<Result<Vec<Verified>>>()
        })?;
        Ok(verified.into_iter().flatten().collect())
    }

    fn one(&self, work: &Work, bytes: &mut BTreeMap<Vec<usize>, ByteSearch>) -> Result<Verified> {
        let Verifying { session, config, view, .. } = self;
        session.env.stop.check("the new generations are stored and the old ones still there; run the same command again")?;
        session.env.monitor.advance(1);
        if work.requests.is_empty() {
            return Ok(Verified::Nothing);
        }
        let old = view.open(&work.old.head);
        let mut new = None;
        if let Some(head) = &work.new {
            let listed = self.stored.latest.iter().find(|l| l.head.archive == head.archive && l.head.generation == head.generation);
            let sound = match listed {
                None => Err(Error::damaged(format!("generation {}", head.generation), "it cannot be read back")),
                Some(listed) => no_collateral(&old, &view.open(&listed.head), &work.edit, &self.read_back).map(|()| listed),
            };
            match sound {
                Ok(listed) => new = Some(listed.clone()),
                Err(e @ (Error::Interrupted(_) | Error::Store(_))) => return Err(e),
                Err(e) => return Ok(Verified::Unsound(e)),
            }
        }
        let current = new.as_ref().unwrap_or(&work.old);
        let chosen = self.people.only(&work.requests);
        let search = match bytes.entry(work.requests.clone()) {
            std::collections::btree_map::Entry::Occupied(e) => e.into_mut(),
            std::collections::btree_map::Entry::Vacant(e) => e.insert(ByteSearch::new(&chosen, self.scope)?),
        };
        let before = new.as_ref().map(|_| &old);
        match absence(session, config, view, &view.open(&current.head), before, &work.missing, &chosen, search) {
            Err(e @ (Error::Interrupted(_) | Error::Store(_))) => Err(e),
            checked => Ok(Verified::Checked(new.map(Box::new), checked)),
        }
    }
}

/// So many shares of neighbours, in order: neighbouring nights have the most in common, and what a thread did for one of them counts for the others.
pub(super) fn shares<T>(all: Vec<T>, hands: usize) -> Vec<Vec<T>> {
    let size = all.len().div_ceil(hands).max(1);
    let mut all = all.into_iter();
    std::iter::from_fn(|| Some(all.by_ref().take(size).collect::<Vec<T>>()).filter(|s| !s.is_empty())).collect()
}
