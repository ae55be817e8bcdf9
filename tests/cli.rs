//! The program as its users and their scripts see it: exit codes, one JSON object, messages, secrets, signals. What the commands do to
//! archives is tested elsewhere; here it is whether they say so.

use assert_cmd::Command;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

const CONFIG: &str = r#"version: 1
repository: ./backups
state_dir: ./state
datasets:
  crm:
    source: {paths: [./data]}
    retention: {max_archives: 3}
    drill: {every: 7d, checks: [{entry: data/crm.db, sql: "select count(*) from customer", min: 1}]}
    unmapped: preserve
    collections:
      - name: customer
        entry: data/crm.db
        primary_key: [id]
        on_erase: anonymize
        fields:
          id: {identity: customer_id}
          email:
            identity: email
            normalize: [trim, nfc, lower]
            action: {strategy: random_string_rewrite, format_preservation: {suffix: "@erased.invalid"}}
          name: {action: {strategy: null_rewrite}}
      - name: orders
        entry: data/crm.db
        primary_key: [id]
        on_erase: delete
        references: [{fields: [customer_id], to: crm.customer, to_fields: [id], direction: from}]
      - name: signups
        entry: data/*.csv
        on_erase: delete
        fields: {Email: {identity: email, normalize: [trim, nfc, lower]}}
"#;

/// What no command may ever print.
const VALUES: [&str; 4] = ["jane@example.org", "Jane Doe", "teapot", "ravi@example.org"];

/// A folder with a source and a configuration.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    /// Without a repository.
    fn bare() -> Place {
        let place = Place { dir: tempfile::tempdir().unwrap() };
        std::fs::create_dir(place.path("data")).unwrap();
        place.sql(
            "CREATE TABLE customer (id INTEGER PRIMARY KEY, email TEXT NOT NULL UNIQUE, name TEXT);
             CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER REFERENCES customer(id), item TEXT);
             INSERT INTO customer VALUES (1, 'jane@example.org', 'Jane Doe'), (2, 'ravi@example.org', 'Ravi Rao');
             INSERT INTO orders VALUES (1, 1, 'teapot'), (2, 2, 'kettle');",
        );
        place.write("data/list.csv", "Email,Stars\njane@example.org,5\nravi@example.org,3\n");
        place.write("reseal.yaml", CONFIG);
        place.identity("jane.yaml", "email: Jane@example.org\n");
        place
    }

    /// With a repository that a key file opens (no time is lost on a passphrase).
    fn new() -> Place {
        let place = Place::bare();
        place.ok(&["init"]);
        place
    }

    /// With two nights in it.
    fn with_nights() -> Place {
        let place = Place::new();
        place.at("2026-11-01T02:00:00Z", &["backup"]);
        place.sql("INSERT INTO orders VALUES (3, 1, 'teapot')");
        place.at("2026-11-02T02:00:00Z", &["backup", "--tag", "second"]);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn identity(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        self.write(name, text);
        std::fs::set_permissions(self.path(name), std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn sql(&self, sql: &str) {
        rusqlite::Connection::open(self.path("data/crm.db")).unwrap().execute_batch(sql).unwrap();
    }

    /// The program, with nothing of the caller's environment that it listens to.
    fn plain(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reseal"));
        for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("RESEAL_")) {
            command.env_remove(name);
        }
        command.current_dir(self.dir.path()).timeout(Duration::from_secs(300));
        command
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.plain();
        command.env("RESEAL_KEY_FILE", "key").args(args);
        command
    }

    fn run(&self, now: Option<&str>, args: &[&str]) -> Output {
        let mut command = self.command(args);
        if let Some(now) = now {
            command.env("RESEAL_NOW", now);
        }
        let out = command.output().unwrap();
        for value in VALUES {
            assert!(!all(&out).contains(value), "{args:?} printed a value:\n{}", all(&out));
        }
        out
    }

    fn ok(&self, args: &[&str]) -> String {
        let out = self.run(None, args);
        assert_eq!(out.status.code(), Some(0), "{args:?}:\n{}", all(&out));
        text(&out.stdout)
    }

    fn at(&self, now: &str, args: &[&str]) -> String {
        let out = self.run(Some(now), args);
        assert_eq!(out.status.code(), Some(0), "{args:?}:\n{}", all(&out));
        text(&out.stdout)
    }

    /// One object, with the exit code expected.
    fn json(&self, now: &str, args: &[&str], code: i32) -> Value {
        let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
        let out = self.run(Some(now), &args);
        assert_eq!(out.status.code(), Some(code), "{args:?}:\n{}", all(&out));
        one_object(&out, &args)
    }

    /// Fails with this code, and says these words on standard error and nothing on standard output.
    fn fails(&self, args: &[&str], code: i32, words: &[&str]) {
        let out = self.run(None, args);
        refused(&out, code, words, &format!("{args:?}"));
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn all(out: &Output) -> String {
    text(&out.stdout) + &text(&out.stderr)
}

fn refused(out: &Output, code: i32, words: &[&str], what: &str) {
    assert_eq!(out.status.code(), Some(code), "{what}:\n{}", all(out));
    assert!(out.stdout.is_empty(), "{what} printed a result:\n{}", text(&out.stdout));
    for word in words {
        assert!(text(&out.stderr).contains(word), "{what} does not say {word:?}:\n{}", text(&out.stderr));
    }
}

fn one_object(out: &Output, args: &[&str]) -> Value {
    let value: Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}:\n{}", all(out)));
    assert!(value.is_object(), "{args:?}");
    documented(&value, args);
    value
}

/// Every field name is in docs/json.md.
fn documented(value: &Value, args: &[&str]) {
    let docs = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/json.md")).unwrap();
    fn walk(value: &Value, docs: &str, args: &[&str]) {
        match value {
            Value::Object(fields) => {
                for (name, inner) in fields {
                    let known = docs.contains(&format!("\"{name}\"")) || docs.contains(&format!("`{name}`"));
                    assert!(known, "{args:?}: the field {name} is not documented");
                    // Keyed by what the user has named.
                    if !((name == "collections" || name == "archives" || name == "also_known") && inner.is_object()) {
                        walk(inner, docs, args);
                    }
                }
            }
            Value::Array(list) => list.iter().for_each(|v| walk(v, docs, args)),
            _ => {}
        }
    }
    walk(value, &docs, args);
}

fn string(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("no {pointer} in {value:#}")).to_string()
}

fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("no {pointer} in {value:#}"))
}

// --- usage ----------------------------------------------------------------------------------------------------------------------

#[test]
fn help_and_version_are_results() {
    let place = Place::bare();
    for args in [&["--help"][..], &["--version"], &["restore", "--help"], &["request", "open", "--help"]] {
        let out = place.plain().args(args).output().unwrap();
        assert_eq!(out.status.code(), Some(0));
        assert!(text(&out.stdout).contains("reseal") && out.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn a_wrong_command_line_is_code_2_and_an_object_with_json() {
    let place = Place::bare();
    place.fails(&["frobnicate"], 2, &["unrecognized subcommand"]);
    place.fails(&["restore", "latest"], 2, &["--to"]);
    place.fails(&["propagate", "--now"], 2, &["--reason"]);
    place.fails(&["restore", "latest", "--to", "x", "--skip-gate"], 2, &["--approver"]);
    place.fails(&["verify", "--read-data=200%"], 2, &["at most 100%"]);
    let object = place.json("", &["backup", "--bogus"], 2);
    assert_eq!(number(&object, "/error/exit_code"), 2);
    assert!(string(&object, "/error/message").contains("--bogus"));
}

#[test]
fn what_is_missing_is_named_with_what_to_do() {
    let place = Place::bare();
    place.fails(&["archives", "--config", "nowhere.yaml"], 2, &["nowhere.yaml", "--config", "RESEAL_CONFIG"]);
    place.fails(&["archives"], 2, &["no repository at ./backups", "reseal init"]);
    place.write("broken.yaml", "version: 1\nrepository: ./b\ndatasets: {x: {sorce: 1}}\n");
    place.fails(&["archives", "--config", "broken.yaml"], 2, &["broken.yaml:3:", "did you mean `source`"]);
    let bucket = |settings: &str| {
        format!(
            "version: 1\nrepository: s3://bucket/x\ns3: {{endpoint: 'http://127.0.0.1:9', patience: 1s, {settings}}}\ndatasets: {{x: {{source: {{paths: [./data]}}}}}}\n"
        )
    };
    place.write("s3.yaml", &bucket("credentials_file: nowhere"));
    place.fails(&["init", "--config", "s3.yaml"], 1, &["s3://bucket/x", "credentials file nowhere"]);
    place.write("empty", "[default]\n");
    place.write("s3.yaml", &bucket("credentials_file: empty"));
    place.fails(&["init", "--config", "s3.yaml"], 1, &["s3://bucket/x", "no credentials", "AWS_PROFILE"]);
    place.write("some", "[default]\naws_access_key_id = a\naws_secret_access_key = b\n");
    place.write("s3.yaml", &bucket("credentials_file: some"));
    place.fails(&["init", "--config", "s3.yaml"], 1, &["s3://bucket/x", "onnect"]);
    place.write("s3.yaml", &bucket("credentials_file: some, ca_bundle: empty"));
    place.fails(&["init", "--config", "s3.yaml"], 1, &["CA bundle empty", "no PEM certificate"]);
    let out = place.run(Some("yesterday"), &["archives"]);
    refused(&out, 2, &["RESEAL_NOW", "2026-11-01"], "a clock set to nonsense");
}

#[test]
fn completions_and_schema_need_nothing() {
    let place = Place::bare();
    std::fs::remove_file(place.path("reseal.yaml")).unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(place.ok(&["completions", shell]).contains("propagate"), "{shell}");
    }
    let schema: Value = serde_json::from_str(&place.ok(&["schema"])).unwrap();
    assert!(schema.pointer("/properties/datasets").is_some());
    assert_eq!(string(&place.json("", &["completions", "fish"], 0), "/shell"), "fish");
}

// --- secrets --------------------------------------------------------------------------------------------------------------------

#[test]
fn a_passphrase_comes_from_the_environment_a_file_or_a_command() {
    let place = Place::bare();
    let out = place.plain().arg("init").env("RESEAL_PASSPHRASE", "correct horse").output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", all(&out));
    assert!(text(&out.stderr).contains("keep a copy of it apart"));
    place.identity("secret", "correct horse\n");
    place.identity("wrong", "correct horse \n");
    place.write("empty", "\n");
    let with = |name: &str, value: &str| place.plain().arg("archives").env(name, value).output().unwrap();
    for (name, value) in
        [("RESEAL_PASSPHRASE", "correct horse"), ("RESEAL_PASSPHRASE_FILE", "secret"), ("RESEAL_PASSPHRASE_COMMAND", "cat secret")]
    {
        let out = with(name, value);
        assert_eq!(out.status.code(), Some(0), "{name}:\n{}", all(&out));
        assert!(!all(&out).contains("correct horse"));
    }
    refused(&with("RESEAL_PASSPHRASE_FILE", "wrong"), 6, &["none of the 1 key slots"], "a wrong passphrase");
    refused(&with("RESEAL_PASSPHRASE", ""), 2, &["RESEAL_PASSPHRASE is empty"], "an empty variable");
    refused(&with("RESEAL_PASSPHRASE_FILE", "empty"), 2, &["RESEAL_PASSPHRASE_FILE is empty"], "an empty file");
    refused(&with("RESEAL_PASSPHRASE_FILE", "missing"), 2, &["cannot read missing"], "a missing file");
    refused(&with("RESEAL_PASSPHRASE_COMMAND", "exit 3"), 2, &["RESEAL_PASSPHRASE_COMMAND failed", "3"], "a failing command");
    let none = place.plain().arg("archives").output().unwrap();
    refused(&none, 2, &["no terminal", "RESEAL_PASSPHRASE_FILE", "RESEAL_PASSPHRASE_COMMAND", "--key-file"], "no secret at all");
    let other = place.plain().args(["archives", "--key-file", "secret"]).output().unwrap();
    refused(&other, 2, &["secret: not a key file"], "a passphrase file as a key file");
}

#[test]
fn init_makes_a_key_file_for_its_owner_only_and_refuses_a_second_repository() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    assert_eq!(std::fs::metadata(place.path("key")).unwrap().permissions().mode() & 0o777, 0o600);
    place.fails(&["init"], 1, &["is a repository already"]);
    std::fs::set_permissions(place.path("key"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let out = place.run(None, &["archives"]);
    assert_eq!(out.status.code(), Some(0));
    assert!(text(&out.stderr).contains("warning: key can be read by others"));
    assert!(place.ok(&["audit"]).contains("the repository was made by reseal"));
}

#[test]
fn slots_are_added_removed_and_the_root_is_rotated() {
    let place = Place::with_nights();
    place.ok(&["keys", "add", "--label", "safe", "--new-key-file", "second"]);
    let with_second = |args: &[&str]| place.command(args).env("RESEAL_KEY_FILE", "second").output().unwrap();
    assert_eq!(with_second(&["archives"]).status.code(), Some(0));
    let keys = place.json("2026-11-03", &["keys", "list"], 0);
    let first = keys["keys"].as_array().unwrap().iter().find(|k| k["label"] == "first").unwrap()["id"].as_str().unwrap().to_string();
    place.fails(&["keys", "remove", &first], 1, &["opened the repository"]);
    place.fails(&["keys", "remove", "ffffffffffff"], 2, &["no key slot"]);
    let rotated = place.json("2026-11-03", &["keys", "rotate"], 0);
    assert!(number(&rotated, "/rotation/objects") > 5);
    let removed = with_second(&["keys", "remove", &first[..8]]);
    assert_eq!(removed.status.code(), Some(0), "{}", all(&removed));
    place.fails(&["archives"], 6, &["none of the 1 key slots"]);
    let audit = text(&with_second(&["audit"]).stdout);
    for words in ["(safe) was added", "was removed", "the root key was replaced"] {
        assert!(audit.contains(words), "{audit}");
    }
}

// --- the main job ---------------------------------------------------------------------------------------------------------------

#[test]
fn two_nights_a_request_an_erasure_and_the_proof() {
    let place = Place::with_nights();
    let archives = place.json("2026-11-02T09:00:00Z", &["archives"], 0);
    assert_eq!(archives["archives"].as_array().unwrap().len(), 2);
    assert_eq!(string(&archives, "/archives/1/tag"), "second");
    assert!(place.ok(&["archives"]).contains("2026-11-01 02:00"));

    let found = place.json("2026-11-02T09:00:00Z", &["subject", "find", "--identity-file", "jane.yaml"], 0);
    assert_eq!((found["found"].as_bool(), number(&found, "/archives/1/records")), (Some(true), 4));
    assert_eq!(number(&found, "/archives/0/collections/orders"), 1);

    let opened = place.json("2026-11-02T09:00:00Z", &["request", "open", "--identity-file", "jane.yaml", "--received", "2026-11-02"], 0);
    let id = string(&opened, "/request/id");
    assert_eq!(string(&opened, "/request/state"), "waiting");
    assert_eq!(string(&opened, "/request/due_at"), string(&opened, "/requests/0/due_at"));
    assert!(string(&opened, "/request/deadline").starts_with("2026-12-02"));

    let early = place.json("2026-11-02T10:00:00Z", &["propagate"], 0);
    assert_eq!(early["requests"].as_array().unwrap().len(), 0);
    assert!(string(&early, "/waiting/0/why").contains("waiting until"));
    assert!(place.at("2026-11-02T10:00:00Z", &["propagate"]).contains("nothing is due"));

    let plan = place.json("2026-11-06T02:00:00Z", &["propagate", "--dry-run"], 0);
    assert_eq!(string(&plan, "/plan/datasets/0/archives/0/collections/0/request"), id);
    let words = place.at("2026-11-06T02:00:00Z", &["propagate", "--dry-run"]);
    assert!(words.contains("1 → 2") && words.contains("customer 1, orders 2, signups 1"), "{words}");

    let done = place.json("2026-11-06T02:00:00Z", &["propagate"], 0);
    assert_eq!(string(&done, "/requests/0/state"), "done");
    assert_eq!((number(&done, "/requests/0/found"), number(&done, "/requests/0/erased"), number(&done, "/requests/0/kept")), (7, 7, 0));
    for archive in done["requests"][0]["archives"].as_array().unwrap() {
        assert_eq!((number(archive, "/generation_before"), number(archive, "/generation_after")), (1, 2));
        assert_eq!(string(archive, "/verification"), "PASS");
    }
    assert!(number(&done, "/propagation/bytes_read") > 0 && number(&done, "/propagation/bytes_written") > 0);

    let found = place.json("2026-11-06T03:00:00Z", &["subject", "find", "--identity-file", "jane.yaml"], 0);
    assert_eq!((found["found"].as_bool(), string(&found, "/erased/0/request")), (Some(false), id.clone()));

    // The proof, in both forms, and what becomes of it when somebody changes a word.
    place.ok(&["certificate", &id, "--out", "proof.json"]);
    place.ok(&["certificate", &id[..6], "--out", "proof.html"]);
    assert!(std::fs::read_to_string(place.path("proof.html")).unwrap().contains("Certificate of erasure"));
    let proof = std::fs::read_to_string(place.path("proof.json")).unwrap();
    assert!(VALUES.iter().all(|v| !proof.contains(v)));
    let checked = place.json("2026-11-06T03:00:00Z", &["certificate", "check", "proof.json"], 0);
    assert_eq!((string(&checked, "/check/result"), checked["check"]["in_audit_chain"].as_bool()), ("PASS".into(), Some(true)));
    let alone = place.plain().args(["certificate", "check", "proof.json"]).output().unwrap();
    assert_eq!(alone.status.code(), Some(0), "{}", all(&alone));
    place.write("forged.json", &proof.replace("\"deleted\": 2", "\"deleted\": 3"));
    place.fails(&["certificate", "check", "forged.json"], 4, &["changed after it was signed"]);
    place.fails(&["certificate", "check", "reseal.yaml"], 2, &["not a reseal certificate"]);
    let chain = place.json("2026-11-06T03:00:00Z", &["audit", "--check", "proof.json"], 0);
    assert_eq!(string(&chain, "/check/result"), "PASS");
    assert_eq!(place.run(None, &["audit", "--check", "forged.json"]).status.code(), Some(4));

    // The engineer's part.
    let restored = place.json("2026-11-06T03:00:00Z", &["restore", "crm@2026-11-01", "--to", "out"], 0);
    assert_eq!(number(&restored, "/restore/entries"), 3);
    assert_eq!(std::fs::read_to_string(place.path("out/data/list.csv")).unwrap(), "Email,Stars\nravi@example.org,3\n");
    place.fails(&["restore", "latest", "--to", "out"], 2, &["not empty", "--overwrite"]);
    place.fails(&["restore", "latest", "--to", "new", "--path", "nothing/**"], 2, &["--path"]);
    assert_eq!(place.ok(&["restore", "latest", "--dry-run", "--path", "*.csv", "-q"]), "data/list.csv\n");
    let verified = place.json("2026-11-06T03:00:00Z", &["verify", "--read-data"], 0);
    assert_eq!(string(&verified, "/result"), "PASS");
    let drilled = place.json("2026-11-06T03:00:00Z", &["drill"], 0);
    assert_eq!(string(&drilled, "/drills/0/result"), "PASS");
    place.json("2026-11-06T03:00:00Z", &["rotate", "--dry-run"], 0);
    place.json("2026-11-06T03:00:00Z", &["audit"], 0);
    place.json("2026-11-06T03:00:00Z", &["show", "latest", "--entries"], 0);
    let listing = place.ok(&["show", "latest", "--entries"]);
    assert!(listing.lines().next().unwrap().starts_with('d') && listing.contains(" data/crm.db\n"), "{listing}");

    // The live source still has her, and the night says so until somebody records that she came back.
    let night = place.json("2026-11-07T02:00:00Z", &["nightly"], 3);
    assert_eq!(string(&night, "/nightly/backups/0/still_live/0"), id);
    place.ok(&["request", "came-back", &id, "--reason", "a new order"]);
    place.sql("INSERT INTO orders VALUES (9, 1, 'teapot')");
    place.json("2026-11-08T02:00:00Z", &["nightly"], 0);
    let left = place.json("2026-11-08T03:00:00Z", &["archives"], 0);
    assert_eq!(left["archives"].as_array().unwrap().len(), 3, "max_archives");
}

#[test]
fn an_init_that_was_interrupted_is_completed_by_the_same_command() {
    let place = Place::new();
    // What it leaves that ends before the first entry of the ledger.
    std::fs::remove_dir_all(place.path("backups/ledger")).unwrap();
    std::fs::remove_dir_all(place.path("state")).unwrap();
    assert!(place.ok(&["init"]).contains("interrupted init"));
    place.fails(&["init"], 1, &["is a repository already"]);
    place.ok(&["backup"]);
    place.ok(&["audit", "--check"]);
    // A ledger that is gone is not a repository that was just made.
    std::fs::remove_dir_all(place.path("backups/ledger")).unwrap();
    place.fails(&["init"], 1, &["is a repository already"]);
}

/// Every object of the repository, with its bytes.
fn objects(folder: &Path) -> std::collections::BTreeMap<PathBuf, Vec<u8>> {
    let mut out = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            out.extend(objects(&path));
        } else {
            out.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    out
}

#[test]
fn how_long_copies_stay_is_stated_and_nothing_is_changed_by_it() {
    let place = Place::with_nights();
    let before = objects(&place.path("backups"));
    const NOW: &str = "2026-11-03T09:00:00Z";
    let stated = place.json(NOW, &["retention"], 0);
    let dataset = &stated["retention"]["datasets"][0];
    assert_eq!((string(dataset, "/dataset"), number(dataset, "/archives")), ("crm".into(), 2));
    assert_eq!(string(dataset, "/oldest/created_at")[..10], *"2026-11-01");
    assert_eq!(number(dataset, "/rules/retention/max_archives"), 3);
    assert_eq!((string(dataset, "/rules/erasure/mode"), string(dataset, "/rules/erasure/cooling_off")), ("rewrite".into(), "3d".into()));
    assert!(string(dataset, "/last_expires_at")[..10] > *"2026-11-03");
    assert_eq!(stated["retention"]["not_known"].as_array().map(Vec::len), Some(0), "{stated:#}");
    let page = place.at(NOW, &["retention", "crm"]);
    for words in ["# Retention of personal data in backups", "## crm", "at most 3 archives", "every archive is rewritten", "## Not covered"]
    {
        assert!(page.contains(words), "{words}:\n{page}");
    }
    assert!(page.contains(&string(&stated, "/retention/repository")));
    place.ok(&["retention", "--out", "statement.md"]);
    assert!(std::fs::read_to_string(place.path("statement.md")).unwrap().contains("## crm"));
    place.fails(&["retention", "--out", "statement.md"], 1, &["statement.md"]);
    place.fails(&["retention", "nosuch"], 2, &["nosuch"]);
    assert!(before == objects(&place.path("backups")), "a statement changes nothing");
    // An erasure that an older export of the keys undoes; a dataset whose rules nobody knows any more.
    place.at(NOW, &["keys", "export", "old.keys", "--label", "safe"]);
    let opened = place.json(NOW, &["request", "open", "--identity-file", "jane.yaml"], 0);
    let late = place.json("2026-12-10T09:00:00Z", &["retention"], 0);
    assert_eq!(number(&late, "/retention/datasets/0/requests/overdue"), 1);
    let id = string(&opened, "/request/id");
    place.json("2026-11-10T09:00:00Z", &["propagate", "--request", &id], 3);
    place.write("reseal.yaml", &CONFIG.replace("  crm:\n", "  other:\n").replace("to: crm.", "to: other."));
    let stated = place.json("2026-11-11T09:00:00Z", &["retention"], 3);
    assert_eq!(string(&stated, "/retention/exports/0/state"), "outdated");
    assert!(stated["retention"]["datasets"][0]["rules"].is_null() && string(&stated, "/retention/datasets/0/stays").contains("not known"));
    assert!(string(&stated, "/retention/not_known/0").contains("crm is not in the configuration"));
}

#[test]
fn the_tar_stream_is_the_result() {
    let place = Place::with_nights();
    let out = place.command(&["export", "latest", "--path", "*.csv"]).output().unwrap();
    assert_eq!(out.status.code(), Some(0));
    let mut tar = tar::Archive::new(out.stdout.as_slice());
    let names: Vec<_> = tar.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string()).collect();
    assert_eq!(names, ["data/list.csv"]);
    let object = place.json("2026-11-03", &["export", "latest"], 2);
    assert!(string(&object, "/error/message").contains("--out FILE"));
    let object = place.json("2026-11-03", &["export", "latest", "--out", "all.tar"], 0);
    assert_eq!(number(&object, "/export/entries"), 3);
    place.fails(&["export", "latest", "--out", "all.tar"], 1, &["all.tar"]);
}

#[test]
fn requests_live_and_say_where_they_stand() {
    let place = Place::with_nights();
    place.identity("both.yaml", "- {email: jane@example.org}\n- {email: ravi@example.org, customer_id: 2}\n");
    let at = "2026-11-02T09:00:00Z";
    let opened = place.json(at, &["request", "open", "--identity-file", "both.yaml", "--reason", "letters"], 0);
    let (one, two) = (string(&opened, "/requests/0/id"), string(&opened, "/requests/1/id"));
    let state = |v: Value| string(&v, "/request/state");
    assert_eq!(state(place.json(at, &["request", "hold", &one, "--reason", "a lawsuit"], 0)), "held");
    assert!(place.at(at, &["request", "list"]).contains("a lawsuit"));
    let out = place.run(Some("2026-11-20"), &["propagate", "--request", &one]);
    refused(&out, 1, &["held: a lawsuit"], "a held request");
    assert_eq!(state(place.json(at, &["request", "release", &one], 0)), "waiting");
    assert_eq!(place.json(at, &["request", "extend", &one, "--reason", "many"], 0)["request"]["extended"].as_bool(), Some(true));
    let again = place.run(Some(at), &["request", "extend", &one, "--reason", "many"]);
    refused(&again, 1, &["allows it once"], "a second extension");
    assert_eq!(state(place.json(at, &["request", "cancel", &two], 0)), "cancelled");
    assert_eq!(state(place.json(at, &["request", "refuse", &one, "--ground", "needed in court", "--cite", "GDPR 17(3)(e)"], 0)), "refused");
    assert!(place.at(at, &["request", "show", &one]).contains("needed in court (GDPR 17(3)(e))"));
    place.fails(&["request", "show", "nope"], 2, &["reseal request list"]);
    let list = place.json(at, &["request", "list", "--open"], 0);
    assert_eq!(list["requests"].as_array().unwrap().len(), 0);

    // Deadlines.
    let opened = place.json(at, &["request", "open", "--identity-file", "jane.yaml", "--received", "2026-11-02"], 0);
    let id = string(&opened, "/request/id");
    let list = |now: &str| text(&place.run(Some(now), &["request", "list"]).stderr);
    assert!(!list("2026-11-20").contains(&id));
    assert!(list("2026-11-29").contains("the deadline is in 3 days, on 2026-12-02 00:00 UTC"), "{}", list("2026-11-29"));
    assert!(list("2026-12-05").contains("the deadline passed 3 days ago"), "{}", list("2026-12-05"));
    assert_eq!(string(&place.json("2026-12-05", &["request", "show", &id], 0), "/request/deadline_status"), "passed");

    // Skipping the waiting is a recorded decision.
    let at = "2026-11-02T10:00:00Z";
    let done = place.json(at, &["propagate", "--request", &id, "--now", "--reason", "she is in danger"], 0);
    assert_eq!(string(&done, "/requests/0/state"), "done");
    assert!(place.at(at, &["audit"]).contains("the waiting was skipped: she is in danger"));
}

#[test]
fn identities_come_from_standard_input_or_a_file_that_others_should_not_read() {
    let place = Place::with_nights();
    let mut command = place.command(&["subject", "find", "--identity-file", "-", "--json"]);
    let out = command.write_stdin("{\"customer_id\": 1}").output().unwrap();
    assert_eq!(one_object(&out, &[])["found"].as_bool(), Some(true), "{}", all(&out));
    place.write("open.yaml", "email: jane@example.org\n");
    let out = place.run(None, &["subject", "find", "--identity-file", "open.yaml"]);
    assert!(text(&out.stderr).contains("open.yaml can be read by others"));
    place.identity("odd.yaml", "shoe_size: jane@example.org\n");
    place.fails(&["subject", "find", "--identity-file", "odd.yaml"], 2, &["shoe_size", "customer_id, email"]);
    place.fails(&["subject", "find", "--identity-file", "missing.yaml"], 2, &["missing.yaml"]);
    let exported = place.json("2026-11-03", &["subject", "export", "--identity-file", "jane.yaml", "--to", "about-jane"], 0);
    assert_eq!(number(&exported, "/export/records"), 4);
    assert!(std::fs::read_to_string(place.path("about-jane/records.json")).unwrap().contains("teapot"));
}

#[test]
fn approvals_are_counted_by_person() {
    let place = Place::bare();
    place.write("reseal.yaml", &CONFIG.replace("    unmapped: preserve", "    erasure: {approvals: 2}\n    unmapped: preserve"));
    place.ok(&["init"]);
    place.ok(&["backup"]);
    let id = string(&place.json("", &["request", "open", "--identity-file", "jane.yaml"], 0), "/request/id");
    let approve = |actor: &str| place.run(None, &["request", "approve", &id, "--actor", actor]);
    assert_eq!(approve("ann").status.code(), Some(0));
    refused(&approve("ann"), 1, &["cannot approve twice"], "the same person again");
    assert!(text(&place.run(None, &["request", "list"]).stdout).contains("needs 1 approval"));
    assert_eq!(approve("bob").status.code(), Some(0));
    assert_eq!(string(&place.json("", &["request", "show", &id], 0), "/request/state"), "waiting");
}

#[test]
fn the_map_is_held_against_the_source() {
    let place = Place::bare();
    let good = place.json("", &["map", "check"], 0);
    assert_eq!(string(&good, "/result"), "PASS");
    place.write("reseal.yaml", &CONFIG.replace("name: {action", "nane: {action"));
    let bad = place.json("", &["map", "check"], 2);
    let findings = bad["datasets"][0]["findings"].to_string();
    assert!(findings.contains("did you mean") && findings.contains("error"), "{findings}");
    assert!(place.ok(&["map", "suggest"]).contains("identity: email"));
    place.fails(&["map", "check", "nope"], 2, &["it has crm"]);
}

// --- what goes wrong ------------------------------------------------------------------------------------------------------------

#[test]
fn damage_and_rollback_are_told() {
    let place = Place::new();
    place.at("2026-11-01T02:00:00Z", &["backup"]);
    copy(&place.path("backups"), &place.path("older"));
    place.sql("INSERT INTO orders VALUES (3, 1, 'teapot')");
    place.at("2026-11-02T02:00:00Z", &["backup"]);
    std::fs::rename(place.path("backups"), place.path("newer")).unwrap();
    std::fs::rename(place.path("older"), place.path("backups")).unwrap();
    place.fails(&["archives"], 6, &["an older copy of the repository was put back", "reseal catalog rebuild"]);
    let rebuilt = place.json("2026-11-03", &["catalog", "rebuild"], 0);
    assert_eq!(number(&rebuilt, "/catalog/archives"), 1);
    place.ok(&["archives"]);

    let head = std::fs::read_dir(place.path("backups/archives/crm")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&head).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&head, bytes).unwrap();
    let listed = place.json("2026-11-03", &["archives"], 4);
    assert_eq!(listed["damaged"].as_array().unwrap().len(), 1);
    assert_eq!(string(&place.json("2026-11-03", &["verify"], 4), "/result"), "FAILED");
    let out = place.run(None, &["restore", "latest", "--to", "out"]);
    refused(&out, 6, &["damaged"], "restoring a damaged archive");
    let slot = std::fs::read_dir(place.path("backups/slots")).unwrap().next().unwrap().unwrap().path();
    std::fs::write(&slot, b"nothing").unwrap();
    place.fails(&["archives"], 6, &["damaged"]);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_restore_that_broke_off_is_completed_over_what_it_left() {
    let place = Place::new();
    let mut n = 1u64;
    for name in ["a", "b", "c", "d"] {
        let mut noise = || {
            n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (n >> 56) as u8
        };
        std::fs::write(place.path("data").join(name), (0..300_000).map(|_| noise()).collect::<Vec<u8>>()).unwrap();
    }
    place.at("2026-11-01T02:00:00Z", &["backup"]);
    let packs = objects(&place.path("backups/packs"));
    let (pack, whole) = packs.into_iter().max_by_key(|(_, bytes)| bytes.len()).unwrap();
    // Somewhere in it is a file that comes after another one.
    let broke_off = (0..whole.len()).step_by(whole.len() / 10).find_map(|at| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(&pack, bytes).unwrap();
        let _ = std::fs::remove_dir_all(place.path("out"));
        let out = place.run(None, &["restore", "latest", "--to", "out"]);
        (out.status.code() == Some(6) && std::fs::read_dir(place.path("out")).is_ok_and(|mut d| d.next().is_some())).then_some(out)
    });
    refused(&broke_off.unwrap(), 6, &["damaged", "the same command with --overwrite completes it"], "a restore that broke off");
    std::fs::write(&pack, whole).unwrap();
    place.fails(&["restore", "latest", "--to", "out"], 2, &["not empty", "--overwrite"]);
    place.ok(&["restore", "latest", "--to", "out", "--overwrite"]);
    for name in ["list.csv", "crm.db", "a", "d"] {
        let (source, restored) = (place.path("data").join(name), place.path("out/data").join(name));
        assert_eq!(std::fs::read(source).unwrap().len(), std::fs::read(restored).unwrap().len());
    }
}

/// A dataset that is never finished with, and a backup of it that has begun.
fn slow_backup(place: &Place) -> std::process::Child {
    place.write(
        "slow.yaml",
        "version: 1\nrepository: ./backups\nstate_dir: ./state\ndatasets: {slow: {source: {command: \"echo begun > begun; sleep 600\", entry: out}}}\n",
    );
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_reseal"));
    command.args(["backup", "--config", "slow.yaml", "--key-file", "key"]).current_dir(place.dir.path());
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let patience = Instant::now();
    while !place.path("begun").exists() {
        assert!(patience.elapsed() < Duration::from_secs(120), "the backup does not begin");
        std::thread::sleep(Duration::from_millis(50));
    }
    child
}

fn signal(child: &std::process::Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, signal).unwrap();
}

#[test]
fn a_second_writer_is_told_who_the_first_is_and_ctrl_c_stops_where_nothing_is_lost() {
    let place = Place::with_nights();
    let first = slow_backup(&place);
    place.fails(&["backup", "--config", "slow.yaml"], 5, &["dataset slow", &first.id().to_string(), "wait for that to end"]);
    // Reading is possible meanwhile.
    place.ok(&["archives"]);
    signal(&first, rustix::process::Signal::INT);
    let asked = Instant::now();
    let out = first.wait_with_output().unwrap();
    assert!(asked.elapsed() < Duration::from_secs(60));
    assert_eq!(out.status.code(), Some(1), "{}", all(&out));
    assert!(text(&out.stderr).contains("stopping at the next safe point"), "{}", all(&out));
    assert!(text(&out.stderr).contains("no archive was made; run the same command again"), "{}", all(&out));
    assert!(out.stdout.is_empty());
    // The lease went with it.
    std::fs::remove_file(place.path("begun")).unwrap();
    let second = slow_backup(&place);
    signal(&second, rustix::process::Signal::TERM);
    assert_eq!(second.wait_with_output().unwrap().status.code(), Some(1));
    place.ok(&["verify"]);
}

#[test]
fn a_reader_that_leaves_is_no_failure_and_a_full_disk_is_one() {
    let place = Place::with_nights();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_reseal"));
    child.args(["show", "latest", "--entries", "--key-file", "key"]).current_dir(place.dir.path());
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let out = child.wait_with_output().unwrap();
    assert_eq!((out.status.code(), text(&out.stderr)), (Some(0), String::new()));
    let Ok(full) = std::fs::OpenOptions::new().write(true).open("/dev/full") else { return };
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_reseal"));
    child.args(["archives", "--key-file", "key"]).current_dir(place.dir.path());
    let out = child.stdout(full).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("cannot write standard output"));
}

#[test]
fn quiet_is_quiet_and_json_leaves_messages_to_standard_error() {
    let place = Place::new();
    let out = place.run(None, &["backup", "-q"]);
    assert_eq!((out.status.code(), all(&out)), (Some(0), String::new()));
    let out = place.run(Some("2026-11-02"), &["archives", "--json"]);
    assert!(text(&out.stderr).contains("RESEAL_NOW sets the clock to 2026-11-02 00:00 UTC"));
    one_object(&out, &["archives"]);
    let verbose = place.run(None, &["verify", "-v"]);
    assert!(text(&verbose.stderr).contains("verifying crm"), "{}", all(&verbose));
}

#[test]
fn the_demo_holds() {
    let place = Place::bare();
    let out = place.plain().args(["demo", "--json", "--keep", "demo"]).output().unwrap();
    let object = one_object(&out, &["demo"]);
    assert_eq!((out.status.code(), string(&object, "/demo/result")), (Some(0), "PASS".into()), "{}", all(&out));
    assert!(place.path("demo/certificate.json").exists());
}
