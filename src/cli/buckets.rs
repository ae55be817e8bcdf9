//! Buckets, held to what the configuration asks of them; and, in words, what they do by themselves.

use super::open::Context;
use super::text;
use super::ui::Ui;
use crate::config::Config;
use crate::engine::event::LockedObject;
use crate::engine::session::{Session, Traffic};
use crate::env::Env;
use crate::store::s3::{Region, S3Store};
use crate::store::{Finding, Level, Store};
use crate::{Error, Result};
use serde_json::{Value, json};
use std::sync::Arc;

/// Refuses buckets in which a dataset may not be, and those that would lock keys.
pub fn check(config: &Config, data: Option<&S3Store>, keys: Option<&S3Store>, env: &Env) -> Result<()> {
    let same = matches!((data, keys), (Some(a), Some(b)) if std::ptr::eq(a, b));
    for dataset in config.datasets.values() {
        let Some(wanted) = &dataset.region else { continue };
        for bucket in data.into_iter().chain(keys.filter(|_| !same)) {
            let actual = bucket.region()?;
            let place = bucket.describe();
            if actual.name() != wanted {
                let actual = actual.name();
                return Err(Error::Refused(format!("dataset {} must stay in {wanted}, and {place} is in {actual}", dataset.name)));
            }
            if matches!(actual, Region::Configured(_)) {
                env.monitor.warn(&format!(
                    "dataset {} must stay in {wanted}: the service does not say where {place} is, so this rests on the region in the configuration alone",
                    dataset.name
                ));
            }
        }
    }
    if let Some(keys) = keys {
        let locks = match keys.default_retention() {
            Ok(locks) => locks,
            // Who may not ask learns it from `verify`, which says UNKNOWN.
            Err(_) if config.datasets.values().all(|d| d.lock.is_none()) => None,
            Err(e) => return Err(e.into()),
        };
        if let Some(locks) = locks {
            let why = if same { "and the keys are in it too" } else { "and the keys are to be there" };
            return Err(Error::Refused(format!(
                "{} locks every new object for {locks}, {why}: keys that cannot be destroyed make erasing impossible; \
                 put the keys elsewhere (`keys:`), or take the default retention away and lock packs only (`lock:` of the dataset)",
                keys.describe()
            )));
        }
    }
    if let (Some(data), Some(locked)) = (data, config.datasets.values().find(|d| d.lock.is_some()))
        && data.can_lock() == Some(false)
    {
        return Err(Error::Refused(format!(
            "the packs of dataset {} are to be locked, and {} has no Object Lock, which is switched on when a bucket is made",
            locked.name,
            data.describe()
        )));
    }
    Ok(())
}

/// What the stores of an opened repository do by themselves.
pub fn findings(session: &Session) -> Vec<Finding> {
    let location = session.repo.location();
    let mut out = location.data.inspect();
    if !Arc::ptr_eq(&location.data, &location.keys) {
        out.extend(location.keys.inspect());
    }
    out
}

/// In words: what is worth knowing, what is a danger, and what could not be found out.
pub fn say(ui: &Ui, findings: &[Finding]) {
    for f in findings {
        let text = format!("{}: {}: {}", f.place, f.aspect.as_str(), f.text);
        match f.level {
            Level::Fine => {}
            Level::Note => ui.say(&text),
            Level::Warning => ui.warn(&text),
            Level::Unknown | Level::NotOffered => ui.warn(&format!("{text}: UNKNOWN")),
        }
    }
}

/// For scripts.
pub fn objects(findings: &[Finding]) -> Value {
    findings
        .iter()
        .map(|f| json!({ "place": f.place, "aspect": f.aspect.as_str(), "result": f.level.as_str(), "message": f.text }))
        .collect()
}

/// What a lock keeps: stated, and no failure.
pub fn say_locked(cx: &Context, locked: &[LockedObject]) {
    if locked.is_empty() {
        return;
    }
    let last = locked.iter().filter_map(|l| l.until).max();
    let held = locked.iter().filter(|l| l.until.is_none()).count() as u64;
    let mut when = last.map(|t| format!("the last lock ends {} UTC", text::time(t))).into_iter().collect::<Vec<_>>();
    if held > 0 {
        when.push(format!("{} until a legal hold is ended", text::count(held, "object stays", "objects stay")));
    }
    cx.ui.say(&format!(
        "{} locked ({}): the keys are destroyed, and the first rotation after that deletes the bytes",
        text::count(locked.len() as u64, "object is", "objects are"),
        when.join("; ")
    ));
}

/// Requests and bytes by kind, for scripts.
pub fn traffic_object(t: &Traffic) -> Value {
    let r = &t.requests;
    json!({
        "requests": { "get": r.get, "head": r.head, "put": r.put, "list": r.list, "delete": r.delete, "other": r.other, "tried_again": r.again },
        "wipes": t.wipes, "bytes_read": t.bytes_read, "bytes_written": t.bytes_written, "bytes_wiped": t.bytes_wiped,
    })
}

/// Requests by kind, in words.
pub fn traffic_words(t: &Traffic) -> String {
    let r = &t.requests;
    let kinds = [
        ("GET", r.get),
        ("HEAD", r.head),
        ("PUT", r.put),
        ("LIST", r.list),
        ("DELETE", r.delete),
        ("other", r.other),
        ("wiped", t.wipes),
        ("tried again", r.again),
    ];
    kinds.iter().filter(|(_, n)| *n > 0).map(|(kind, n)| format!("{n} {kind}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::s3::Options;
    use crate::store::s3::fake::Fake;

    fn config(dataset: &str) -> Config {
        let text = format!("version: 1\nrepository: s3://bucket/x\ndatasets: {{d: {{source: {{stdin: true}}{dataset}}}}}\n");
        crate::config::parse(&text, std::path::Path::new("reseal.yaml")).unwrap()
    }

    fn refused(config: &Config, data: &S3Store, keys: &S3Store) -> String {
        match check(config, Some(data), Some(keys), &Env::system()) {
            Err(Error::Refused(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn keys_are_never_where_everything_is_locked() {
        let (locking, free) = (Fake::versioned(), Fake::versioned());
        locking.bucket().lockable = true;
        let (locked, open) = (locking.store(), free.store());
        let lock = config(", lock: {mode: compliance, days: 3}");
        check(&lock, Some(&locked), Some(&locked), &Env::system()).unwrap();
        check(&lock, Some(&locked), Some(&open), &Env::system()).unwrap();
        assert!(refused(&lock, &open, &open).contains("no Object Lock"));
        locking.bucket().default_days = Some(7);
        check(&lock, Some(&locked), Some(&open), &Env::system()).unwrap();
        check(&config(""), Some(&locked), None, &Env::system()).unwrap();
        for config in [&lock, &config("")] {
            let same = refused(config, &locked, &locked);
            assert!(same.contains("7 days (governance)") && same.contains("the keys are in it too") && same.contains("`keys:`"), "{same}");
            assert!(refused(config, &open, &locked).contains("keys are to be there"));
        }
        // What may not be asked: refused where a lock is wanted, since keys might be locked with it.
        locking.bucket().denied = vec!["GetObjectLockConfiguration"];
        assert!(check(&lock, Some(&open), Some(&locked), &Env::system()).is_err());
    }

    #[test]
    fn a_dataset_stays_in_its_region() {
        let (here, elsewhere) = (Fake::start(), Fake::start());
        here.bucket().region = Some("eu-central-1".into());
        let (a, b) = (here.store(), elsewhere.store());
        let pinned = config(", region: eu-central-1");
        check(&pinned, Some(&a), Some(&a), &Env::system()).unwrap();
        check(&config(""), Some(&b), Some(&b), &Env::system()).unwrap();
        assert!(refused(&pinned, &a, &b).contains("must stay in eu-central-1") && refused(&pinned, &b, &a).contains("us-east-1"));
        here.bucket().denied = vec!["HeadBucket", "GetBucketLocation"];
        assert!(check(&pinned, Some(&a), Some(&a), &Env::system()).is_err(), "not known is not there");
        // A service that names none: what the configuration says counts, and only that.
        let says =
            |region: Option<&str>| S3Store::open(Options { region: region.map(str::to_string), ..here.options() }, &Env::system()).unwrap();
        here.bucket().denied.clear();
        here.bucket().region = Some(String::new());
        check(&pinned, Some(&says(Some("eu-central-1"))), None, &Env::system()).unwrap();
        assert!(refused(&pinned, &says(Some("us-east-1")), &a).contains("is in us-east-1"));
        let unsaid = check(&pinned, Some(&says(None)), None, &Env::system()).unwrap_err().to_string();
        assert!(unsaid.contains("does not say"), "{unsaid}");
        let gone = S3Store::open(Options { bucket: "other".into(), ..here.options() }, &Env::system()).unwrap();
        assert!(check(&pinned, Some(&gone), None, &Env::system()).is_err());
    }
}
