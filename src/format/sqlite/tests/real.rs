//! Databases that others made: real ones, and ones that were damaged on purpose.

use super::*;
use crate::datamap::Value;
use crate::format::Applied;

fn data(name: &str) -> Option<PathBuf> {
    match std::env::var_os("RESEAL_TEST_DATA") {
        Some(dir) => Some(Path::new(&dir).join("sqlite").join(name)),
        None => {
            eprintln!("skipped: RESEAL_TEST_DATA is not set");
            None
        }
    }
}

/// Finds in each step by the values given, or by a field of what an earlier step found; deletes everything, last step first.
fn erase_all(
    archived: &Arc<Archived>,
    map: &DataMap,
    start: &[&str],
    follow: &[Option<(usize, &str)>],
) -> Result<(Arc<Archived>, Applied)> {
    let key = key();
    let mut editor = SqliteEditor::open(archived.clone(), &key, Limits::default())?;
    let mut found: Vec<Vec<Found>> = Vec::new();
    for (i, step) in follow.iter().enumerate() {
        let values: Vec<String> = match step {
            None => start.iter().map(|v| v.to_string()).collect(),
            Some((from, field)) => found[*from].iter().filter_map(|f| f.values[*field][0].canonical().map(|t| t.into_owned())).collect(),
        };
        let asked: Vec<&str> = values.iter().map(String::as_str).collect();
        found.push(editor.find(map, i, &map.collections[i].probes[0], &wanted(&key, &asked))?);
        assert!(!found[i].is_empty(), "step {i}");
    }
    assert!(!editor.fell_back());
    let decided = delete_all(found.into_iter().flatten().collect());
    let order: Vec<usize> = (0..map.collections.len()).rev().collect();
    let applied = editor.apply(map, &order, &decided)?;
    Ok((archived.after(finish(editor)), applied))
}

#[test]
fn a_chinook_customer_goes_with_invoices_and_not_without_them() {
    let Some(path) = data("Chinook_Sqlite.sqlite") else { return };
    let dir = temp();
    let image = std::fs::read(path).unwrap();
    let all = vec![
        collection("Customer", &["Email"], vec![probe(&["email"])]),
        collection("invoice", &["CustomerId"], vec![probe(&["CustomerId"])]),
        collection("InvoiceLine", &["InvoiceId"], vec![probe(&["InvoiceId"])]),
    ];
    let m = map(all);
    let archived = Archived::of(&image, &m);
    assert!(archived.report.warnings.is_empty(), "{:?}", archived.report);
    assert_eq!(dump(dir.path(), &image), dump(dir.path(), &archived.bytes()));
    let (after, applied) =
        erase_all(&archived, &m, &["luisg@embraer.com.br"], &[None, Some((0, "CustomerId")), Some((1, "InvoiceId"))]).unwrap();
    let sql = "DELETE FROM InvoiceLine WHERE InvoiceId IN (SELECT InvoiceId FROM Invoice WHERE CustomerId = 1);
               DELETE FROM Invoice WHERE CustomerId = 1; DELETE FROM Customer WHERE CustomerId = 1;";
    assert_eq!(dump(dir.path(), &after.bytes()), dump(dir.path(), &naive(dir.path(), &image, sql)));
    assert_eq!((applied.deleted[&0], applied.deleted[&1]), (1, 7));
    assert!(residue(&after.bytes(), &["luisg@embraer.com.br".into(), "Av. Brigadeiro Faria Lima, 2170".into()]).is_empty());
    let alone = map(vec![collection("Customer", &["Email"], vec![probe(&["Email"])])]);
    let error = erase_all(&Archived::of(&image, &alone), &alone, &["luisg@embraer.com.br"], &[None]).err().unwrap().to_string();
    assert!(error.contains("7 rows of table invoice still refer to rows of table Customer"), "{error}");
}

#[test]
fn northwind_customers_are_known_by_text_keys() {
    let Some(path) = data("northwind.db") else { return };
    let dir = temp();
    let image = std::fs::read(path).unwrap();
    let m = map(vec![
        collection("Customers", &["CustomerID"], vec![probe(&["CustomerID"])]),
        collection("Orders", &["CustomerID"], vec![probe(&["CustomerID"])]),
        collection("Order Details", &["OrderID"], vec![probe(&["OrderID"])]),
    ]);
    let archived = Archived::of(&image, &m);
    let (after, _) = erase_all(&archived, &m, &["ALFKI", "ANATR"], &[None, Some((0, "CustomerID")), Some((1, "OrderID"))]).unwrap();
    let sql = "DELETE FROM \"Order Details\" WHERE OrderID IN (SELECT OrderID FROM Orders WHERE CustomerID IN ('ALFKI', 'ANATR'));
               DELETE FROM Orders WHERE CustomerID IN ('ALFKI', 'ANATR'); DELETE FROM Customers WHERE CustomerID IN ('ALFKI', 'ANATR');";
    assert_eq!(dump(dir.path(), &after.bytes()), dump(dir.path(), &naive(dir.path(), &image, sql)));
    assert!(residue(&after.bytes(), &["Alfreds Futterkiste".into(), "Ana Trujillo".into()]).is_empty());
    assert_eq!(Archived::of(&after.bytes(), &m).marks, after.marks);
}

#[test]
fn an_employee_takes_everything_that_cascades() {
    let Some(path) = data("employees_1k.db") else { return };
    let dir = temp();
    let image = std::fs::read(path).unwrap();
    let norm = Normalize { lower: true, ..Normalize::default() };
    let m = map(vec![collection("employee", &["last_name", "birth_date"], vec![norm_probe(&["last_name", "birth_date"], norm)])]);
    let archived = Archived::of(&image, &m);
    let db = Connection::open(on_disk(dir.path(), "look.db", &image)).unwrap();
    let (id, name, born): (i64, String, String) = db
        .query_row("SELECT emp_no, last_name, birth_date FROM employee LIMIT 1 OFFSET 400", [], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))
        .unwrap();
    let key = key();
    let mut set = TokenSet::new(&key);
    set.insert_values(vec![name.to_lowercase(), born]);
    let mut editor = SqliteEditor::open(archived.clone(), &key, Limits::default()).unwrap();
    let found = editor.find(&m, 0, &m.collections[0].probes[0], &set).unwrap();
    assert_eq!(found.iter().map(|f| f.values["emp_no"][0].clone()).collect::<Vec<_>>(), [Value::Integer(id)]);
    let applied = editor.apply(&m, &[0], &delete_all(found)).unwrap();
    assert!(applied.notes.iter().any(|n| n.contains("rows of table salary went")), "{:?}", applied.notes);
    let after = archived.after(finish(editor));
    let sql: String =
        ["salary", "title", "dept_emp", "dept_manager", "employee"].map(|t| format!("DELETE FROM {t} WHERE emp_no = {id};")).concat();
    assert_eq!(dump(dir.path(), &after.bytes()), dump(dir.path(), &naive(dir.path(), &image, &sql)));
}

/// What SQL sees, where the database can be read at all.
fn readable(dir: &Path, image: &[u8]) -> Option<Vec<(String, String)>> {
    let db = Connection::open(on_disk(dir, "fuzz.db", image)).ok()?;
    let tables: Vec<String> = db
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0")
        .ok()?
        .query_map([], |r| r.get(0))
        .ok()?
        .collect::<rusqlite::Result<_>>()
        .ok()?;
    let mut out = Vec::new();
    for table in tables {
        let mut rows = Vec::new();
        let mut statement = db.prepare(&format!("SELECT * FROM \"{table}\" NOT INDEXED")).ok()?;
        let n = statement.column_count();
        let mut found = statement.query([]).ok()?;
        while let Some(row) = found.next().ok()? {
            rows.push((0..n).map(|i| format!("{:?}", row.get_ref(i).unwrap())).collect::<Vec<_>>().join("|"));
        }
        out.push((table, rows.join("\n")));
    }
    Some(out)
}

fn survive(dir: &Path, image: &[u8]) -> (bool, bool) {
    let key = key();
    let names = match SqliteEditor::open(Archived::plain(image), &key, Limits::default()) {
        Ok(editor) => editor
            .schema()
            .tables()
            .map(|t| (t.name.clone(), t.visible().map(|c| c.name.clone()).collect::<Vec<_>>()))
            .filter(|(_, c)| !c.is_empty())
            .collect(),
        Err(_) => vec![("t1".to_string(), vec!["a".to_string()])],
    };
    let collections = names.iter().map(|(t, c)| {
        let star = format!("{}*", c[0]);
        collection(t, &[&star], vec![probe(&[&c[0]])])
    });
    let m = map(collections.collect());
    let archived = Archived::of(&image.to_vec(), &m);
    assert!(archived.report.scrub.pages > 0 || archived.bytes() == image, "what cannot be scrubbed is stored as it is");
    let before = readable(dir, image);
    assert!(before.is_none() || readable(dir, &archived.bytes()) == before, "a scrub changes nothing that can be read");
    let mut edited = false;
    for content in [archived.clone(), Archived::plain(image)] {
        let Ok(mut editor) = SqliteEditor::open(content.clone(), &key, Limits::default()) else { continue };
        let mut decided = Vec::new();
        let mut set = TokenSet::new(&key);
        for v in ["1", "2", "3", "one", "abc", "5", "100", "17"] {
            set.insert_token(key.of_normalized(&[v]));
        }
        for (i, c) in m.collections.iter().enumerate() {
            decided.extend(delete_all(editor.find(&m, i, &c.probes[0], &set).unwrap_or_default()));
        }
        let order: Vec<usize> = (0..m.collections.len()).collect();
        if editor.apply(&m, &order, &decided).is_ok()
            && let Ok(pieces) = Box::new(editor).finish()
            && !pieces.is_empty()
        {
            edited = true;
            let after = content.after(pieces).bytes();
            let db = Connection::open(on_disk(dir, "fuzz.db", &after)).unwrap();
            let first: rusqlite::Result<String> = db.query_row("PRAGMA integrity_check", [], |r| r.get(0));
            let old = Connection::open(on_disk(dir, "fuzz_old.db", image)).unwrap();
            let before: rusqlite::Result<String> = old.query_row("PRAGMA integrity_check", [], |r| r.get(0));
            assert!(first.as_deref() == Ok("ok") || before.as_deref() != Ok("ok"), "{first:?} {before:?}");
        }
    }
    (archived.report.scrubbed, edited)
}

#[test]
fn damaged_databases_never_panic_and_are_never_damaged_further() {
    let Some(path) = data("malformed_fuzzdata3_sample.tar.gz") else { return };
    let (dir, work) = (temp(), temp());
    let unpacked = std::process::Command::new("tar").arg("xzf").arg(&path).arg("-C").arg(dir.path()).status();
    if !unpacked.is_ok_and(|s| s.success()) {
        eprintln!("skipped: tar is not there");
        return;
    }
    let (mut n, mut scrubbed, mut edited) = (0, 0, 0);
    for file in std::fs::read_dir(dir.path().join("fuzzdata3")).unwrap() {
        let image = std::fs::read(file.unwrap().path()).unwrap();
        let (s, e) = survive(work.path(), &image);
        n += 1;
        scrubbed += usize::from(s);
        edited += usize::from(e);
    }
    eprintln!("{n} databases, {scrubbed} scrubbed, {edited} edited");
    assert!(n > 500);
}

#[test]
fn flipped_bytes_never_panic_and_never_damage_further() {
    let (dir, work) = (temp(), temp());
    let image = build(
        dir.path(),
        "PRAGMA page_size=512; PRAGMA auto_vacuum=INCREMENTAL; CREATE TABLE a(x, y TEXT UNIQUE, z); CREATE TABLE b(x PRIMARY KEY, y) WITHOUT ROWID;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200) INSERT INTO a SELECT i % 20, 'y' || i, zeroblob(i * 7) FROM n;
         INSERT INTO b SELECT rowid, z FROM a; DELETE FROM a WHERE rowid % 3 = 0;",
    );
    let mut seed = 5u64;
    let mut random = |n: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % n
    };
    for _ in 0..120 {
        let mut damaged = image.clone();
        for _ in 0..1 + random(4) {
            // Mostly where structure is: at the pages' beginnings.
            let page = random(damaged.len() / 512);
            let at = page * 512 + if random(3) > 0 { random(24) } else { random(512) };
            damaged[at] = random(256) as u8;
        }
        survive(work.path(), &damaged);
    }
}
