//! The main job on other people's data: sample databases and public records that nobody made for this product.
//! RESEAL_TEST_DATA names the folder; without it the test says so and passes.

mod common;
#[path = "common/small.rs"]
mod small;

use common::{Place, tree};
use reseal::engine::propagate::Scope;
use rusqlite::types::Value;
use small::{assert_verified, erase, night, restore, run};
use std::path::{Path, PathBuf};

fn data() -> Option<PathBuf> {
    let found = std::env::var_os("RESEAL_TEST_DATA").map(PathBuf::from).filter(|p| p.join("sqlite").is_dir());
    if found.is_none() {
        eprintln!("skipped: RESEAL_TEST_DATA does not name the folder of real data");
    }
    found
}

fn take(place: &Place, data: &Path, files: &[&str]) {
    for f in files {
        let name = Path::new(f).file_name().unwrap().to_str().unwrap();
        std::fs::write(place.data(name), std::fs::read(data.join(f)).unwrap()).unwrap();
    }
}

fn rows(path: &Path, sql: &str) -> Vec<Vec<Value>> {
    let db = rusqlite::Connection::open(path).unwrap();
    let mut q = db.prepare(sql).unwrap();
    let n = q.column_count();
    q.query_map([], |r| (0..n).map(|i| r.get(i)).collect()).unwrap().collect::<Result<_, _>>().unwrap()
}

/// Every table of both databases, the naive edit applied to the one.
fn same_tables(restored: &Path, source: &Path, naive: &str) {
    let edit = rusqlite::Connection::open(source).unwrap();
    edit.execute_batch(&format!("PRAGMA foreign_keys=OFF; {naive}")).unwrap();
    drop(edit);
    assert_eq!(rows(restored, "PRAGMA integrity_check"), [[Value::Text("ok".into())]]);
    let tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_stat%' ORDER BY 1";
    assert_eq!(rows(restored, tables), rows(source, tables));
    for t in rows(source, tables) {
        let [Value::Text(name)] = &t[..] else { panic!() };
        let sql = format!("SELECT * FROM \"{name}\"");
        assert!(rows(restored, &sql) == rows(source, &sql), "{name}");
    }
}

#[test]
fn sample_shops() {
    let Some(data) = data() else { return };
    let place = Place::new(
        r#"
datasets:
  shop:
    source:
      paths: [./data]
    unmapped: preserve
    collections:
      - name: Customer
        entry: Chinook_Sqlite.sqlite
        primary_key: [CustomerId]
        on_erase: delete
        fields: {Email: {identity: email, normalize: [trim, lower]}}
      - {name: Invoice, entry: Chinook_Sqlite.sqlite, primary_key: [InvoiceId], on_erase: delete, references: [{fields: [CustomerId], to: Customer}]}
      - {name: InvoiceLine, entry: Chinook_Sqlite.sqlite, on_erase: delete, references: [{fields: [InvoiceId], to: Invoice}]}
      - name: Customers
        entry: northwind.db
        primary_key: [CustomerID]
        on_erase: delete
        fields: {Phone: {identity: phone, normalize: [digits]}}
      - {name: Orders, entry: northwind.db, primary_key: [OrderID], on_erase: delete, references: [{fields: [CustomerID], to: Customers}]}
      - {name: "Order Details", entry: northwind.db, on_erase: delete, references: [{fields: [OrderID], to: Orders}]}
      - {name: CustomerCustomerDemo, entry: northwind.db, on_erase: delete, references: [{fields: [CustomerID], to: Customers}]}
"#,
    );
    take(&place, &data, &["sqlite/Chinook_Sqlite.sqlite", "sqlite/northwind.db"]);
    let session = small::init(&place);
    let archive = night(&session, "shop").head.archive;
    let email = rows(&place.data("Chinook_Sqlite.sqlite"), "SELECT Email FROM Customer WHERE CustomerId = 5");
    let phone = rows(&place.data("northwind.db"), "SELECT Phone FROM Customers WHERE CustomerID = 'ALFKI'");
    let ([[Value::Text(email)], ..], [[Value::Text(phone)], ..]) = ([&email[0][..]], [&phone[0][..]]) else { panic!() };
    let people = serde_json::json!([{"email": email.to_uppercase()}, {"phone": phone}]).to_string();
    erase(&place, &session, &people, Scope::Full);
    let out = restore(&place, &session, &archive, "out");
    same_tables(
        &out.join("data/Chinook_Sqlite.sqlite"),
        &place.data("Chinook_Sqlite.sqlite"),
        "DELETE FROM InvoiceLine WHERE InvoiceId IN (SELECT InvoiceId FROM Invoice WHERE CustomerId = 5); DELETE FROM Invoice WHERE CustomerId = 5; DELETE FROM Customer WHERE CustomerId = 5",
    );
    same_tables(
        &out.join("data/northwind.db"),
        &place.data("northwind.db"),
        "DELETE FROM \"Order Details\" WHERE OrderID IN (SELECT OrderID FROM Orders WHERE CustomerID = 'ALFKI'); DELETE FROM Orders WHERE CustomerID = 'ALFKI'; DELETE FROM Customers WHERE CustomerID = 'ALFKI'",
    );
    for (_, bytes) in tree(&out.join("data")) {
        assert!(!bytes.windows(email.len()).any(|w| w.eq_ignore_ascii_case(email.as_bytes())));
    }
    assert_verified(&session);
}

#[test]
fn a_public_person_leaves_public_records() {
    let Some(data) = data() else { return };
    let place = Place::new(
        r#"
datasets:
  congress:
    source:
      paths: [./data]
    unmapped: preserve
    collections:
      - {name: current, entry: data/legislators-current.csv, on_erase: delete, fields: {bioguide_id: {identity: bioguide}}}
      - {name: offices, entry: data/legislators-district-offices.csv, on_erase: delete, fields: {bioguide: {identity: bioguide}}}
      - {name: aging, entry: data/data_aging_congress.csv, on_erase: delete, fields: {bioguide_id: {identity: bioguide}}}
      - {name: historical, entry: data/legislators-historical.csv, on_erase: delete, fields: {bioguide_id: {identity: bioguide}}}
      - {name: json, entry: data/legislators-current.ndjson, on_erase: delete, fields: {id.bioguide: {identity: bioguide}}}
"#,
    );
    let files = [
        "csv/legislators-current.csv",
        "csv/legislators-district-offices.csv",
        "csv/data_aging_congress.csv",
        "csv/legislators-historical.csv",
        "json/legislators-current.ndjson",
    ];
    take(&place, &data, &files);
    let session = small::init(&place);
    let archive = night(&session, "congress").head.archive;
    let report = erase(&place, &session, r#"{"bioguide": "C000127"}"#, Scope::Full);
    let counts: Vec<(String, u64)> =
        report.archives[0].requests.values().next().unwrap().iter().map(|(c, n)| (c.clone(), n.deleted)).collect();
    assert_eq!(counts, [("aging".to_string(), 13), ("current".to_string(), 1), ("json".to_string(), 1), ("offices".to_string(), 6)]);
    let out = restore(&place, &session, &archive, "out");
    let check = r#"
import csv, json, os, sys
before, after = sys.argv[1:3]
for name in sorted(os.listdir(before)):
    a, b = (open(os.path.join(d, name), newline="", encoding="utf-8") for d in (before, after))
    if name.endswith(".ndjson"):
        old = [l for l in a if json.loads(l)["id"]["bioguide"] != "C000127"]
        assert old == list(b), name
    else:
        old, new = list(csv.DictReader(a)), list(csv.DictReader(b))
        key = "bioguide_id" if "bioguide_id" in old[0] else "bioguide"
        assert len(old) > 500 and [r for r in old if r[key] != "C000127"] == new, name
"#;
    run("python3", &["-c", check, place.path("data").to_str().unwrap(), out.join("data").to_str().unwrap()])
        .unwrap_or_else(|said| panic!("{said}"));
    // Lines that are not the person's are the same bytes, in the same order.
    for f in ["legislators-current.csv", "legislators-historical.csv"] {
        let old = std::fs::read_to_string(place.data(f)).unwrap();
        let kept: String = old.split_inclusive('\n').filter(|l| !l.contains("C000127")).collect();
        assert!(std::fs::read_to_string(out.join("data").join(f)).unwrap() == kept, "{f}");
    }
    assert_verified(&session);
}
