//! One writer at a time. A lease is a small object with a holder, an expiry and a fencing number that only ever grows; it is
//! refused to a second writer, and taken over when it has expired, or at once when its holder is certainly dead. Plain JSON: it
//! says nothing about anybody's data, and must be readable when keys are not.
//!
//! Releasing does not delete the object, so that the fencing number survives.

use super::Repository;
use crate::env::{Clock, Env, random_bytes};
use crate::store::Store;
use crate::store::process::{self, Alive, ProcessId};
use crate::{Error, Result};
use crossbeam_channel::{RecvTimeoutError, Sender};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const ATTEMPTS: usize = 16;

/// The stored form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stored {
    host: String,
    process: ProcessId,
    /// Tells two leases of one process apart.
    token: String,
    /// Grows with every holder.
    fence: u64,
    since: Timestamp,
    renewed: Timestamp,
    expires: Timestamp,
    released: bool,
}

struct Shared {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    key: String,
    ttl: Duration,
    state: Mutex<State>,
}

struct State {
    held: Stored,
    /// The bytes that are in the store while the lease is held.
    bytes: Vec<u8>,
    /// Monotonic, so that a jumping clock cannot stretch it.
    renewed: Instant,
    lost: bool,
}

/// Asks whether a lease is still held.
pub struct Hold(Arc<Shared>);

impl Hold {
    /// See [`Lease::check`].
    pub fn check(&self) -> Result<()> {
        self.0.check()
    }
}

/// A held lease: renewed by a thread until dropped.
pub struct Lease {
    shared: Arc<Shared>,
    renewal: Option<(Sender<()>, JoinHandle<()>)>,
}

fn encode(stored: &Stored) -> Result<Vec<u8>> {
    serde_json::to_vec(stored).map_err(|e| Error::Refused(format!("a lease cannot be written: {e}")))
}

pub(super) fn decode(key: &str, bytes: &[u8]) -> Result<Stored> {
    serde_json::from_slice(bytes).map_err(|_| Error::damaged(key, "not a lease; when no other process works here, delete this object"))
}

fn locked(key: &str, by: &Stored) -> Error {
    Error::Locked {
        what: key.to_string(),
        holder: format!("process {} on {}", by.process.pid, by.host),
        since: by.since.to_string(),
        expires: by.expires.to_string(),
    }
}

/// Whether somebody on another machine still renews a lease that is over by this machine's clock: the clocks may differ. Waits for longer than
/// it takes until the next renewal.
fn is_renewed(store: &dyn Store, env: &Env, key: &str, other: &Stored, bytes: &[u8]) -> Result<bool> {
    let ttl = Duration::try_from(other.renewed.duration_until(other.expires)).unwrap_or_default();
    let wait = ttl / 3 + ttl / 12;
    env.monitor.warn(&format!(
        "{key}: the lease of process {} on {} is over by this machine's clock; waiting {} s to see whether it is still renewed",
        other.process.pid,
        other.host,
        wait.as_secs()
    ));
    let started = Instant::now();
    while started.elapsed() < wait {
        env.stop.check("nothing was changed; run the same command again")?;
        std::thread::sleep(Duration::from_millis(100).min(wait.saturating_sub(started.elapsed())));
    }
    match store.get(key) {
        Err(e) if e.is_missing() => Ok(false),
        there => Ok(there? != bytes),
    }
}

fn until(now: Timestamp, ttl: Duration) -> Timestamp {
    SignedDuration::try_from(ttl).ok().and_then(|d| now.checked_add(d).ok()).unwrap_or(Timestamp::MAX)
}

impl Repository {
    /// Takes the lease `leases/<name>` for `ttl`, renewed every third of it. Fails with [`Error::Locked`] while another holds it.
    pub fn lease(&self, name: &str, ttl: Duration) -> Result<Lease> {
        Lease::take(self.location().keys.clone(), self.env(), name, ttl)
    }
}

impl Lease {
    /// See [`Repository::lease`]; for who has no key that opens the repository.
    pub fn take(store: Arc<dyn Store>, env: &Env, name: &str, ttl: Duration) -> Result<Lease> {
        let key = format!("leases/{name}");
        let token = hex::encode(random_bytes::<16>(&*env.random)?);
        for _ in 0..ATTEMPTS {
            let now = env.now();
            let mine = |fence| Stored {
                host: process::host(),
                process: ProcessId::current(),
                token: token.clone(),
                fence,
                since: now,
                renewed: now,
                expires: until(now, ttl),
                released: false,
            };
            let there = match store.get(&key) {
                Err(e) if e.is_missing() => None,
                other => Some(other?),
            };
            let started = Instant::now();
            let (held, bytes, won) = match there {
                None => {
                    let held = mine(1);
                    let bytes = encode(&held)?;
                    let won = store.put_if_absent(&key, &bytes)?;
                    (held, bytes, won)
                }
                Some(old) => {
                    let other = decode(&key, &old)?;
                    let alive = if other.released { Alive::No } else { other.process.alive() };
                    if alive != Alive::No
                        && (other.expires > now || (alive == Alive::Unknown && is_renewed(&*store, env, &key, &other, &old)?))
                    {
                        return Err(locked(&key, &other));
                    }
                    let held = mine(other.fence.saturating_add(1));
                    let bytes = encode(&held)?;
                    let won = store.replace_if(&key, &old, &bytes)?;
                    (held, bytes, won)
                }
            };
            if won {
                let state = Mutex::new(State { held, bytes, renewed: started, lost: false });
                return Ok(Lease::start(Arc::new(Shared { store, clock: env.clock.clone(), key, ttl, state })));
            }
        }
        Err(Error::Refused(format!("{key}: too many others try to take this lease")))
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a later expiry. Transport errors are not a loss: the lease runs on until it expires.
    fn renew(&self) -> Result<()> {
        let mut state = self.state();
        if state.lost {
            return Ok(());
        }
        for _ in 0..2 {
            let started = Instant::now();
            let now = self.clock.now();
            let next = Stored { renewed: now, expires: until(now, self.ttl), ..state.held.clone() };
            let bytes = encode(&next)?;
            if self.store.replace_if(&self.key, &state.bytes, &bytes)? {
                (state.held, state.bytes, state.renewed) = (next, bytes, started);
                return Ok(());
            }
            // An earlier answer may have got lost on the way: then what is there is ours, and the renewal goes on from it.
            let there = self.store.get(&self.key)?;
            let held = decode(&self.key, &there)?;
            if held.token != state.held.token || held.fence != state.held.fence || held.released {
                break;
            }
            (state.held, state.bytes) = (held, there);
        }
        state.lost = true;
        Ok(())
    }

    fn lost(&self) -> Error {
        Error::Refused(format!("{}: the lease was lost (another process took it, or it could not be renewed in time)", self.key))
    }

    /// By both clocks: the monotonic one stands still while the machine sleeps, and the other one may be set back.
    fn check_time(&self) -> Result<()> {
        let state = self.state();
        let over = state.renewed.elapsed() >= self.ttl || self.clock.now() >= state.held.expires;
        if state.lost || over { Err(self.lost()) } else { Ok(()) }
    }

    fn check(&self) -> Result<()> {
        self.check_time()?;
        let there = match self.store.get(&self.key) {
            Err(e) if e.is_missing() => return Err(self.lost()),
            other => decode(&self.key, &other?)?,
        };
        let state = self.state();
        if there.token == state.held.token && there.fence == state.held.fence && !there.released {
            Ok(())
        } else if there.released {
            Err(self.lost())
        } else {
            Err(locked(&self.key, &there))
        }
    }
}

impl Lease {
    fn start(shared: Arc<Shared>) -> Lease {
        let (stop, stopped) = crossbeam_channel::bounded::<()>(0);
        let renewing = shared.clone();
        let thread = std::thread::spawn(move || {
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(renewing.ttl / 3) {
                // What fails is tried again; when it keeps failing, `check` tells by the time that has passed.
                let _ = renewing.renew();
            }
        });
        Lease { shared, renewal: Some((stop, thread)) }
    }

    /// Grows with every holder of this lease.
    pub fn fence(&self) -> u64 {
        self.shared.state().held.fence
    }

    /// Call before every step that commits: fails when the lease is no longer held. Reads the lease.
    pub fn check(&self) -> Result<()> {
        self.shared.check()
    }

    /// For threads that outlive the caller's borrow: asks the same, and holds nothing.
    pub fn hold(&self) -> Hold {
        Hold(self.shared.clone())
    }

    /// Like [`Lease::check`], without asking the store: by the renewals only.
    pub fn check_cheaply(&self) -> Result<()> {
        self.shared.check_time()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.renewal.take() {
            drop(stop);
            let _ = thread.join();
        }
        let state = self.shared.state();
        if !state.lost
            && let Ok(bytes) = encode(&Stored { released: true, ..state.held.clone() })
        {
            // Best effort: otherwise it expires.
            let _ = self.shared.store.replace_if(&self.shared.key, &state.bytes, &bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_lease_is_refused_while_held_and_given_after_release_with_a_higher_fence() {
        let t = testing::fixture();
        let first = t.repo.lease("d", LONG).unwrap();
        first.check().unwrap();
        assert!(matches!(t.repo.lease("d", LONG), Err(Error::Locked { .. })));
        assert!(t.repo.lease("other", LONG).is_ok());
        let fence = first.fence();
        drop(first);
        let second = t.repo.lease("d", LONG).unwrap();
        assert!(second.fence() > fence);
    }

    #[test]
    fn an_expired_lease_is_taken_over_and_its_holder_finds_out() {
        let t = testing::fixture();
        let first = t.repo.lease("d", LONG).unwrap();
        t.clock.advance(59);
        first.check_cheaply().unwrap();
        // A machine that slept: no monotonic clock has moved.
        t.clock.advance(2);
        assert!(first.check_cheaply().is_err() && first.hold().check().is_err());
        let second = t.repo.lease("d", LONG).unwrap();
        assert!(first.check().is_err());
        second.check().unwrap();
        drop(first);
        second.check().unwrap();
    }

    #[test]
    fn a_dead_holder_is_replaced_at_once_and_a_stranger_is_not() {
        let t = testing::fixture();
        drop(t.repo.lease("d", LONG).unwrap());
        let mut held: Stored = decode("", &t.keys.get("leases/d").unwrap()).unwrap();
        held.released = false;
        held.process.start += 1;
        t.keys.put("leases/d", &encode(&held).unwrap()).unwrap();
        drop(t.repo.lease("d", LONG).unwrap());
        held.process.boot = "1".repeat(32);
        t.keys.put("leases/d", &encode(&held).unwrap()).unwrap();
        assert!(matches!(t.repo.lease("d", LONG), Err(Error::Locked { .. })));
        t.keys.put("leases/d", b"rubbish").unwrap();
        assert!(matches!(t.repo.lease("d", LONG), Err(Error::Damaged { .. })));
    }

    #[test]
    fn a_stranger_whose_clock_is_behind_is_seen_to_renew() {
        let t = testing::fixture();
        drop(t.repo.lease("d", LONG).unwrap());
        let mut held: Stored = decode("", &t.keys.get("leases/d").unwrap()).unwrap();
        held.released = false;
        held.process.boot = "1".repeat(32);
        held.renewed = t.clock.now() - SignedDuration::from_secs(300);
        held.expires = held.renewed + SignedDuration::from_secs(2);
        t.keys.put("leases/d", &encode(&held).unwrap()).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(300));
                held.renewed += SignedDuration::from_secs(1);
                t.keys.put("leases/d", &encode(&held).unwrap()).unwrap();
            });
            assert!(matches!(t.repo.lease("d", LONG), Err(Error::Locked { .. })));
        });
        // Nobody does any more.
        t.repo.lease("d", LONG).unwrap().check().unwrap();
    }

    #[test]
    fn a_lease_is_renewed_and_one_of_many_gets_it() {
        let t = testing::fixture();
        let lease = t.repo.lease("d", Duration::from_millis(300)).unwrap();
        std::thread::sleep(Duration::from_millis(700));
        lease.check().unwrap();
        drop(lease);
        let held: Vec<Lease> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| t.repo.lease("d", LONG).ok())).collect();
            threads.into_iter().filter_map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(held.len(), 1);
    }

    #[test]
    fn a_lease_that_cannot_be_renewed_is_lost_when_its_time_is_over() {
        let t = testing::fixture();
        let lease = t.repo.lease("d", Duration::from_millis(200)).unwrap();
        t.faulty.fail_from(0);
        std::thread::sleep(Duration::from_millis(300));
        assert!(lease.check().is_err() && lease.check_cheaply().is_err());
        t.faulty.heal();
    }
}
