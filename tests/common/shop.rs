//! A small shop's data, its repository, and the `reseal` binary to work on it: for tests that end the process, damage the store or
//! let several processes work at once. Opened by a key file, so that no test waits for a passphrase to be stretched.
#![allow(dead_code)]

use super::{TestClock, tree};
use reseal::catalog::Catalog;
use reseal::config;
use reseal::crypto::secret::{KeyFile, Secret};
use reseal::engine::event::Verdict;
use reseal::engine::session::Session;
use reseal::engine::{restore, verify};
use reseal::env::{Env, Silent, Stop, SystemRandom};
use reseal::repository::{Location, Repository};
use reseal::store::Store;
use reseal::store::fault::Counting;
use reseal::store::local::LocalStore;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

/// Every night is a day after the one before.
pub const FIRST_NIGHT: &str = "2026-10-01T01:00:00Z";
/// When requests are opened: after the last night.
pub const OPENED: &str = "2026-10-08T09:00:00Z";
/// When they are due.
pub const DUE: &str = "2026-10-15T09:00:00Z";
/// The two people who want to be erased.
pub const ERASED: [i64; 2] = [50, 100];

/// The data map of a dataset of this name over this folder. Rewritten values are fixed, so that what is expected can be compared byte by byte.
pub fn dataset(name: &str, folder: &str) -> String {
    format!(
        r#"
  {name}:
    source:
      paths: [./{folder}]
    retention: {{max_archives: 2, min_archives: 1}}
    drill: {{every: 7d, checks: [{{sql: "select count(*) from customer", min: 1, entry: crm.db}}]}}
    unmapped: preserve
    collections:
      - name: customer
        entry: crm.db
        primary_key: [id]
        on_erase: anonymize
        fields:
          id: {{identity: customer_id}}
          email: {{identity: email, normalize: [trim, lower], action: {{strategy: null_rewrite}}}}
          name: {{action: {{strategy: null_rewrite}}}}
      - name: orders
        entry: crm.db
        on_erase: delete
        references: [{{fields: [customer_id], to: {name}.customer, to_fields: [id], direction: from}}]
      - name: signups
        entry: "*.csv"
        on_erase: delete
        fields: {{Email: {{identity: email, normalize: [trim, lower]}}}}
      - name: events
        entry: "*.ndjson"
        on_erase: delete
        fields: {{user.id: {{identity: customer_id}}}}
      - name: avatars
        entry: "{folder}/uploads/{{customer_id}}/**"
        on_erase: delete
"#
    )
}

/// What a folder held: relative path → bytes.
pub type Tree = BTreeMap<String, Vec<u8>>;

/// A place with a configuration, data, a key file, and perhaps a repository.
#[derive(Clone)]
pub struct Shop {
    pub root: PathBuf,
}

/// What a run of the binary came to.
#[derive(Debug)]
pub struct Ran {
    /// `None`: ended by a signal.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    fn new(output: Output) -> Ran {
        let ran = Ran {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        assert!(!ran.stderr.contains("panicked"), "a panic is a bug: {}", ran.stderr);
        ran
    }

    #[track_caller]
    pub fn ok(self) -> Ran {
        self.exits(0)
    }

    #[track_caller]
    pub fn exits(self, code: i32) -> Ran {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}", self.stdout))
    }
}

/// The night's time.
pub fn night_time(n: i64) -> String {
    format!("2026-10-{:02}T01:00:00Z", n)
}

impl Shop {
    /// In an empty folder, with one dataset `crm` over `data`. `keys`: whether the keys lie apart from the packs.
    pub fn new(root: &Path, keys: bool) -> Shop {
        Shop::with(root, keys, &dataset("crm", "data"), &["data"])
    }

    /// With these datasets; every folder gets the shop's data.
    pub fn with(root: &Path, keys: bool, datasets: &str, folders: &[&str]) -> Shop {
        std::fs::create_dir_all(root).unwrap();
        let shop = Shop { root: root.to_path_buf() };
        let keys = if keys { "keys: ./keys\n" } else { "" };
        let text = format!("version: 1\nrepository: ./backups\n{keys}state_dir: ./state\nactor: tester\ndatasets:\n{datasets}");
        std::fs::write(root.join("reseal.yaml"), text).unwrap();
        let people: Vec<String> = ERASED.iter().map(|n| format!("{{email: person{n}@example.org, customer_id: \"{n}\"}}")).collect();
        write_private(&root.join("identities.yaml"), &format!("[{}]", people.join(", ")));
        for (i, n) in ERASED.iter().enumerate() {
            write_private(&root.join(format!("identity{i}.yaml")), &format!("{{email: Person{n}@example.org, customer_id: \"{n}\"}}"));
        }
        for folder in folders {
            fill(&root.join(folder));
        }
        shop
    }

    /// The same with another root, every byte and time copied.
    pub fn copy(&self, to: &Path) -> Shop {
        let _ = std::fs::remove_dir_all(to);
        let done = Command::new("cp").arg("-a").arg(&self.root).arg(to).status().unwrap();
        assert!(done.success());
        Shop { root: to.to_path_buf() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The binary with these arguments at this time.
    pub fn command(&self, now: &str, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reseal"));
        command
            .args(args)
            .current_dir(&self.root)
            .stdin(Stdio::null())
            .env("RESEAL_CONFIG", "reseal.yaml")
            .env("RESEAL_KEY_FILE", "key")
            .env("RESEAL_NOW", now)
            .env_remove("RESEAL_CRASH_AT")
            .env_remove("RESEAL_CRASH_LOG")
            .env_remove("RESEAL_PASSPHRASE");
        command
    }

    pub fn run(&self, now: &str, args: &[&str]) -> Ran {
        Ran::new(self.command(now, args).output().unwrap())
    }

    pub fn run_with(&self, now: &str, args: &[&str], env: &[(&str, &str)]) -> Ran {
        Ran::new(self.command(now, args).envs(env.iter().copied()).output().unwrap())
    }

    /// Started and left running, its output kept for [`finish`].
    pub fn spawn(&self, now: &str, args: &[&str], env: &[(&str, &str)]) -> std::process::Child {
        self.command(now, args).envs(env.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// `nights` archives of every dataset, each of other data; the repository is made first.
    pub fn prepare(&self, nights: i64) {
        self.run(FIRST_NIGHT, &["init"]).ok();
        for n in 1..=nights {
            if n > 1 {
                self.change(n);
            }
            self.run(&night_time(n), &["backup"]).ok();
        }
    }

    /// A day passes in every dataset's folder.
    pub fn change(&self, n: i64) {
        for entry in std::fs::read_dir(&self.root).unwrap() {
            let folder = entry.unwrap().path();
            if folder.join("crm.db").exists() {
                change(&folder, n);
            }
        }
    }

    /// Requests for both people, due at [`DUE`].
    pub fn request(&self) -> Vec<String> {
        let ran = self.run(OPENED, &["request", "open", "--identity-file", "identities.yaml", "--json"]).ok();
        ran.json()["requests"].as_array().unwrap().iter().map(|r| r["id"].as_str().unwrap().to_string()).collect()
    }

    pub fn secret(&self) -> Secret {
        Secret::KeyFile(KeyFile::parse(&std::fs::read_to_string(self.path("key")).unwrap()).unwrap())
    }

    fn env(&self, now: &str) -> Env {
        let clock = TestClock(Arc::new(Mutex::new(now.parse().unwrap())));
        Env { clock: Arc::new(clock), random: Arc::new(SystemRandom), stop: Stop::default(), monitor: Arc::new(Silent) }
    }

    /// The repository through the library, as a new process would open it.
    pub fn open(&self, now: &str) -> reseal::Result<Session> {
        let config = config::load(&self.path("reseal.yaml"))?;
        let local = |name: &str| -> reseal::Result<Arc<Counting>> {
            let store: Arc<dyn Store> = Arc::new(LocalStore::open(&self.path(name))?);
            Ok(Arc::new(Counting::new(store)))
        };
        let data = local("backups")?;
        let keys = if config.keys.is_some() { local("keys")? } else { data.clone() };
        let env = self.env(now);
        let repo = Repository::open(Location { data: data.clone(), keys: keys.clone() }, &self.secret(), &env)?;
        let (catalog, _) = Catalog::open(&self.path("state"), &repo.id().to_string())?;
        Session::new(config, Arc::new(repo), catalog, "tester".into(), env, vec![data, keys])
    }

    /// Every archive of every dataset, restored and read: archive id → tree.
    pub fn restore_all(&self, session: &Session) -> reseal::Result<BTreeMap<String, Tree>> {
        let mut out = BTreeMap::new();
        for name in session.repo.datasets()? {
            for listed in session.heads(&name)?.latest {
                let id = listed.head.archive.to_string();
                let tree = self.restore_one(session, &id)?;
                out.insert(id, tree);
            }
        }
        Ok(out)
    }

    pub fn restore_one(&self, session: &Session, archive: &str) -> reseal::Result<Tree> {
        let scratch = scratch();
        let to = scratch.path().join("out");
        restore::restore(session, archive, &to, &Default::default())?;
        Ok(tree(&to))
    }

    /// Every archive is whole, to the last byte, and so is the chain; gives their ids.
    #[track_caller]
    pub fn verify_all(&self, session: &Session) -> BTreeSet<String> {
        session.ledger().check().unwrap();
        let checked = verify::verify(session, &[], 1.0).unwrap();
        for c in &checked {
            assert_eq!(c.verdict, Verdict::Pass, "{c:?}");
        }
        checked.iter().filter_map(|c| c.archive).map(|a| a.to_string()).collect()
    }

    /// Names of the stored objects below a prefix such as `backups/packs`, relative to the shop.
    pub fn objects(&self, below: &str) -> BTreeSet<String> {
        let dir = self.path(below);
        if !dir.exists() {
            return BTreeSet::new();
        }
        tree(&dir).into_keys().map(|name| if below.is_empty() { name } else { format!("{below}/{name}") }).collect()
    }

    /// Where what has keys lies.
    pub fn keys_dir(&self) -> &'static str {
        if self.path("keys").exists() { "keys" } else { "backups" }
    }
}

/// Waits for a child, with the usual checks.
pub fn finish(child: std::process::Child) -> Ran {
    Ran::new(child.wait_with_output().unwrap())
}

pub fn write_private(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// 300 customers: a database of some 200 KB, a CSV, NDJSON, uploads, and files about nobody.
fn fill(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    let db = rusqlite::Connection::open(folder.join("crm.db")).unwrap();
    db.execute_batch(
        "CREATE TABLE customer(id INTEGER PRIMARY KEY, email TEXT, name TEXT, city TEXT);
         CREATE TABLE orders(id INTEGER PRIMARY KEY, customer_id INT REFERENCES customer(id), cents INT, goods TEXT); BEGIN",
    )
    .unwrap();
    let mut csv = String::from("Name,Email,When\r\n");
    let mut events = String::new();
    for i in 1..=300i64 {
        let (email, name) = (format!("person{i}@example.org"), format!("Person Number{i}"));
        db.execute("INSERT INTO customer VALUES (?1, ?2, ?3, 'Berlin')", (i, &email, &name)).unwrap();
        for k in 0..4 {
            let goods = blake3::hash(&(i * 4 + k).to_le_bytes()).to_hex().repeat(2);
            db.execute("INSERT INTO orders(customer_id, cents, goods) VALUES (?1, ?2, ?3)", (i, k * 100, goods)).unwrap();
        }
        csv += &format!("\"{name}\",{},2026-01-01\r\n", email.to_uppercase());
        events += &format!("{{\"user\": {{\"id\": {i}}}, \"page\": \"/p/{i}\"}}\n");
        if i % 50 == 0 {
            let dir = folder.join(format!("uploads/{i}"));
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join("avatar.svg"), format!("<svg>{name}</svg>")).unwrap();
        }
    }
    db.execute_batch("COMMIT").unwrap();
    std::fs::write(folder.join("signups.csv"), csv).unwrap();
    std::fs::write(folder.join("events.ndjson"), events).unwrap();
    std::fs::write(folder.join("readme.txt"), "nothing about anybody").unwrap();
}

fn change(folder: &Path, n: i64) {
    let db = rusqlite::Connection::open(folder.join("crm.db")).unwrap();
    db.execute("INSERT INTO orders(customer_id, cents, goods) VALUES (?1, ?2, 'late')", (n, n * 7)).unwrap();
    db.execute("UPDATE customer SET city = ?1 WHERE id = ?2", (format!("City {n}"), 200 + n)).unwrap();
    drop(db);
    let append = |name: &str, line: &str| {
        let mut text = std::fs::read_to_string(folder.join(name)).unwrap();
        text += line;
        std::fs::write(folder.join(name), text).unwrap();
    };
    append("signups.csv", &format!("Late {n},late{n}@example.org,2026-02-02\r\n"));
    append("events.ndjson", &format!("{{\"user\": {{\"id\": {n}}}, \"page\": \"/again/{n}\"}}\n"));
    std::fs::write(folder.join(format!("note{n}.txt")), format!("night {n}")).unwrap();
}

/// Removes the people from the live data, as their operator would.
pub fn clean_live(folder: &Path) {
    let db = rusqlite::Connection::open(folder.join("crm.db")).unwrap();
    for n in ERASED {
        db.execute("DELETE FROM orders WHERE customer_id = ?1", [n]).unwrap();
        db.execute("DELETE FROM customer WHERE id = ?1", [n]).unwrap();
        let _ = std::fs::remove_dir_all(folder.join(format!("uploads/{n}")));
    }
    db.execute_batch("VACUUM").unwrap();
    drop(db);
    for (name, marks) in [("signups.csv", ["PERSON50@", "PERSON100@"]), ("events.ndjson", ["\"id\": 50}", "\"id\": 100}"])] {
        let text = std::fs::read_to_string(folder.join(name)).unwrap();
        let kept: String = text.split_inclusive('\n').filter(|l| !marks.iter().any(|m| l.contains(m))).collect();
        std::fs::write(folder.join(name), kept).unwrap();
    }
}

/// Where a restored tree is not what the live files were. A snapshot of a database has zeros where deleted rows and split pages left
/// something behind.
pub fn differs_from_live(restored: &Tree, live: &Tree) -> Option<String> {
    if restored.keys().ne(live.keys()) {
        return Some(format!("{:?} instead of {:?}", restored.keys(), live.keys()));
    }
    let same = |name: &str, a: &[u8], b: &[u8]| match name.ends_with(".db") {
        true => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a == b || *a == 0),
        false => a == b,
    };
    restored.iter().find(|(name, bytes)| !same(name, bytes, &live[*name])).map(|(name, _)| name.clone())
}

/// A temporary folder, in memory where that is possible: thousands of writes are synced.
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Whether anything in a tree knows one of the erased people.
pub fn knows_the_erased(tree: &Tree) -> Option<String> {
    for n in ERASED {
        let needles =
            [format!("person{n}@example.org"), format!("Person Number{n}<"), format!("Person Number{n}\""), format!("{{\"id\": {n}}}")];
        for (name, bytes) in tree {
            if name.contains(&format!("uploads/{n}/")) {
                return Some(name.clone());
            }
            let text = bytes.to_ascii_lowercase();
            for needle in &needles {
                let needle = needle.to_ascii_lowercase();
                if text.windows(needle.len()).any(|w| w == needle.as_bytes()) {
                    return Some(format!("{name} knows person {n}"));
                }
            }
        }
    }
    None
}
