//! `reseal demo`: the main job on a few made-up records, by the very commands that a user types, each shown with what it prints.

use super::args::Demo;
use super::open::Context;
use super::{DONE, FAILED, go_on};
use crate::env::random_bytes;
use crate::{Error, Result};
use rusqlite::Connection;
use serde_json::{Value, json};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const CONFIG: &str = r#"version: 1
repository: ./backups
state_dir: ./state
datasets:
  shop:
    source: {paths: [./data]}
    drill: {every: 7d, checks: [{entry: data/shop.db, sql: "SELECT count(*) FROM orders", min: 3}]}
    collections:
      - name: customer
        entry: data/shop.db
        primary_key: [id]
        on_erase: anonymize
        fields:
          id: {category: user.unique_id, identity: customer_id}
          email:
            category: user.contact.email
            identity: email
            normalize: [trim, nfc, lower]
            action: {strategy: random_string_rewrite, format_preservation: {suffix: "@erased.invalid"}}
          name: {category: user.name, action: {strategy: null_rewrite}}
      - name: orders
        entry: data/shop.db
        primary_key: [id]
        on_erase: anonymize
        references: [{fields: [customer_id], to: shop.customer, to_fields: [id], direction: from}]
        fields:
          id:
          customer_id:
          item:
          gift_note: {category: user.content, action: {strategy: null_rewrite}}
      - name: newsletter
        entry: data/newsletter.csv
        on_erase: delete
        fields: {email: {category: user.contact.email, identity: email, normalize: [trim, nfc, lower]}}
"#;

const TABLES: &str = "
CREATE TABLE customer (id INTEGER PRIMARY KEY, email TEXT NOT NULL UNIQUE, name TEXT);
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER NOT NULL REFERENCES customer(id), item TEXT, gift_note TEXT);
INSERT INTO customer VALUES (1, 'jane@example.org', 'Jane Doe'), (2, 'ravi@example.org', 'Ravi Rao'), (3, 'ana@example.org', 'Ana Lima');
INSERT INTO orders VALUES (1, 1, 'teapot', 'from Jane'), (2, 2, 'kettle', NULL), (3, 3, 'cup', 'for Ana');
";
const SECOND_NIGHT: &str = "INSERT INTO orders VALUES (4, 1, 'spoon', NULL);";
const NEWSLETTER: &str = "email,since\njane@example.org,2025-01-01\nravi@example.org,2025-02-01\n";
/// What must be gone in the end.
const PERSON: [&str; 2] = ["jane@example.org", "Jane Doe"];

/// Runs it.
pub fn run(cx: &Context, args: &Demo) -> Result<u8> {
    let folder = match &args.keep {
        Some(dir) => dir.clone(),
        None => std::env::temp_dir().join(format!("reseal-demo-{}", hex::encode(random_bytes::<6>(cx.env.random.as_ref())?))),
    };
    if std::fs::read_dir(&folder).is_ok_and(|mut d| d.next().is_some()) {
        return Err(Error::Usage(format!("{} is not empty; name a new or empty folder", folder.display())));
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder.join("data")).map_err(Error::io("create", &folder))?;
    let mut demo = Walk {
        cx,
        folder: folder.clone(),
        program: std::env::current_exe().map_err(Error::io("find", "this program"))?,
        steps: Vec::new(),
    };
    let result = demo.walk();
    let steps = std::mem::take(&mut demo.steps);
    if args.keep.is_none() {
        // Made-up records only, so nothing is lost where a step failed either.
        let _ = std::fs::remove_dir_all(&folder);
    }
    let good = result?;
    cx.ui.say("");
    match (&args.keep, good) {
        (_, false) => cx.ui.warn("a step did not do what it should"),
        (Some(dir), true) => cx.ui.say(&format!(
            "all of it held; everything is in {} (RESEAL_CONFIG={0}/reseal.yaml RESEAL_KEY_FILE={0}/demo.key)",
            dir.display()
        )),
        (None, true) => {
            cx.ui.say("all of it held; the folder is removed again (--keep DIR leaves it). Next: docs/configuration.md, then reseal init")
        }
    }
    cx.ui.object(&json!({ "demo": { "result": if good { "PASS" } else { "FAILED" }, "folder": args.keep, "steps": steps } }));
    Ok(if good { DONE } else { FAILED })
}

struct Walk<'a> {
    cx: &'a Context,
    folder: PathBuf,
    program: PathBuf,
    steps: Vec<Value>,
}

impl Walk<'_> {
    fn walk(&mut self) -> Result<bool> {
        self.tell("A shop: a database with customers and orders, a newsletter list. Its configuration says whose records are whose.");
        self.sql(TABLES)?;
        self.write("data/newsletter.csv", NEWSLETTER)?;
        self.write("reseal.yaml", CONFIG)?;
        self.write("identity.yaml", "email: jane@example.org\n")?;
        let mut good = self.step("2026-11-01T01:00:00Z", &["map", "check"])?;
        good &= self.step("2026-11-01T01:01:00Z", &["init", "--key-file", "demo.key"])?;
        self.tell("Two nights.");
        good &= self.step("2026-11-01T02:00:00Z", &["backup"])?;
        self.sql(SECOND_NIGHT)?;
        good &= self.step("2026-11-02T02:00:00Z", &["backup"])?;
        good &= self.step("2026-11-02T09:00:00Z", &["archives"])?;
        self.tell("Jane writes: erase me. Where is she?");
        good &= self.step("2026-11-02T09:01:00Z", &["subject", "find", "--identity-file", "identity.yaml"])?;
        good &= self.step("2026-11-02T09:02:00Z", &["request", "open", "--identity-file", "identity.yaml"])?;
        let request = self.request()?;
        self.tell("The request waits for its cooling-off; four days later it is due.");
        good &= self.step("2026-11-02T09:03:00Z", &["propagate"])?;
        good &= self.step("2026-11-06T09:00:00Z", &["propagate", "--dry-run"])?;
        good &= self.step("2026-11-06T09:01:00Z", &["propagate"])?;
        good &= self.step("2026-11-06T09:02:00Z", &["certificate", &request, "--out", "certificate.json"])?;
        good &= self.step("2026-11-06T09:03:00Z", &["certificate", "check", "certificate.json"])?;
        self.tell("The first night, restored: everybody is there but Jane.");
        good &= self.step("2026-11-06T09:04:00Z", &["restore", "shop@2026-11-01", "--to", "restored"])?;
        good &= self.is_gone()?;
        self.tell("Are the archives whole, do they restore, and is the audit log unbroken?");
        good &= self.step("2026-11-06T09:05:00Z", &["verify", "--read-data"])?;
        good &= self.step("2026-11-06T09:06:00Z", &["drill"])?;
        good &= self.step("2026-11-06T09:07:00Z", &["audit", "--check", "certificate.json"])?;
        Ok(good)
    }

    fn tell(&self, text: &str) {
        self.cx.ui.say(&format!("\n{text}"));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path(name);
        super::secrets::write_new(&path, text.as_bytes())
    }

    fn sql(&self, sql: &str) -> Result<()> {
        let db = Connection::open(self.path("data/shop.db")).map_err(Error::sqlite("making the demo's database"))?;
        db.execute_batch(sql).map_err(Error::sqlite("filling the demo's database"))
    }

    fn command(&self, now: &str, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        for name in ["RESEAL_PASSPHRASE", "RESEAL_PASSPHRASE_FILE", "RESEAL_PASSPHRASE_COMMAND", "RESEAL_ACTOR"] {
            command.env_remove(name);
        }
        command.current_dir(&self.folder).env("RESEAL_CONFIG", "reseal.yaml").env("RESEAL_KEY_FILE", "demo.key").env("RESEAL_NOW", now);
        command.args(args).stdin(Stdio::null());
        command
    }

    /// Runs a command as a user would; whether it did what it should.
    fn step(&mut self, now: &str, args: &[&str]) -> Result<bool> {
        go_on(self.cx)?;
        self.cx.ui.say(&format!("  $ reseal {}", args.join(" ")));
        let done = self.command(now, args).output().map_err(Error::io("run", &self.program))?;
        let said = [String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr)].concat();
        for line in said.lines().filter(|l| !l.starts_with("warning: RESEAL_NOW")) {
            self.cx.ui.say(&format!("    {line}"));
        }
        let code = done.status.code();
        self.steps.push(json!({ "command": format!("reseal {}", args.join(" ")), "exit_code": code }));
        if code != Some(0) {
            self.cx.ui.warn(&format!("reseal {} ended with {}", args.join(" "), done.status));
        }
        Ok(code == Some(0))
    }

    fn request(&self) -> Result<String> {
        let listed =
            self.command("2026-11-02T09:02:30Z", &["request", "list", "--json"]).output().map_err(Error::io("run", &self.program))?;
        let object: Value = serde_json::from_slice(&listed.stdout).unwrap_or_default();
        Ok(object.pointer("/requests/0/id").and_then(Value::as_str).unwrap_or_default().to_string())
    }

    /// Looks for the person in every byte that was restored and in everything that the repository keeps.
    fn is_gone(&self) -> Result<bool> {
        let mut found = Vec::new();
        for folder in ["restored", "backups", "state"] {
            search(&self.path(folder), &mut found)?;
        }
        if found.is_empty() {
            self.cx.ui.say(&format!("    (searched every file of it, and of the repository, for {}: nothing)", PERSON.join(" and ")));
        } else {
            self.cx.ui.warn(&format!("the person is still in {}", found.join(", ")));
        }
        Ok(found.is_empty())
    }
}

fn search(folder: &Path, found: &mut Vec<String>) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let path = entry.map_err(Error::io("read", folder))?.path();
        if path.is_dir() {
            search(&path, found)?;
        } else {
            let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
            if PERSON.iter().any(|p| memchr::memmem::find(&bytes, p.as_bytes()).is_some()) {
                found.push(path.display().to_string());
            }
        }
    }
    Ok(())
}
