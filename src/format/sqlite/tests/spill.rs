//! An edit that writes more than memory may hold: what does not fit waits sealed in a file without a name, and the result is the same.

use super::*;
use crate::format::sqlite::overlay::{Overlay, Spill};
use crate::format::sqlite::vfs::Medium;
use std::os::unix::fs::MetadataExt;

const MARKER: &str = "markedword";

/// What the open files of this process under a folder hold; they have no names there.
fn hidden_files(folder: &Path) -> Vec<Vec<u8>> {
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0, "the folder itself is empty");
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    open.filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to.starts_with(folder)))
        .filter_map(|fd| {
            let file = std::fs::File::open(fd.path()).ok()?;
            assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
            std::fs::read(fd.path()).ok()
        })
        .collect()
}

fn spill(folder: &Path) -> Spill {
    Spill { folder: folder.canonicalize().unwrap(), ..Spill::default() }
}

#[test]
fn an_edit_that_spills_gives_the_same_bytes_and_leaves_none_of_them_in_plain() {
    for pragma in ["", "PRAGMA auto_vacuum=FULL;", "PRAGMA journal_mode=WAL;"] {
        let (dir, folder) = (temp(), temp());
        let image = build(
            dir.path(),
            &format!(
                "{pragma} CREATE TABLE p(id INTEGER PRIMARY KEY, who TEXT, b TEXT); CREATE INDEX p_b ON p(b);
                 CREATE TABLE m(id INTEGER PRIMARY KEY, body TEXT); CREATE VIRTUAL TABLE f USING fts5(body, content='m', content_rowid='id');
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 6000)
                     INSERT INTO p SELECT i, 'w' || (i % 3), '{MARKER} ' || i || substr(hex(zeroblob(300)), 1, i % 600) FROM n;
                 INSERT INTO m SELECT id, who || ' said {MARKER}' || (id * 7919 % 6000) FROM p; INSERT INTO f(rowid, body) SELECT id, body FROM m;"
            ),
        );
        let m = map(vec![
            collection("p", &["who", "b"], vec![probe(&["who"])]),
            collection("m", &["body"], vec![norm_probe(&["id"], Normalize::default())]),
        ]);
        let key = key();
        let archived = Archived::of(&image, &m);
        let edit = |overlay: u64| {
            let limits = Limits { overlay, page_cache: 1 << 20, ..Limits::default() };
            let mut editor = SqliteEditor::open_spilling(archived.clone(), &key, limits, spill(folder.path())).unwrap();
            let found = editor.find(&m, 0, &m.collections[0].probes[0], &wanted(&key, &["w1"])).unwrap();
            let ids: Vec<String> = (1..=6000).step_by(7).map(|i| i.to_string()).collect();
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            let letters = editor.find(&m, 1, &m.collections[1].probes[0], &wanted(&key, &ids)).unwrap();
            assert!(found.len() == 2000 && letters.len() == 858);
            let decided: Vec<_> = rewrite(found, &[("b", Some("short"))]).into_iter().chain(delete_all(letters)).collect();
            let applied = editor.apply(&m, &[1, 0], &decided).unwrap();
            let hidden = hidden_files(&spill(folder.path()).folder);
            (archived.after(finish(editor)), applied, hidden)
        };
        let (in_memory, applied, none) = edit(1 << 30);
        assert!(none.is_empty());
        let (spilled, applied_too, hidden) = edit(1 << 20);
        assert!(spilled.bytes() == in_memory.bytes() && spilled.marks == in_memory.marks, "{pragma}");
        assert_eq!(applied.notes, applied_too.notes);
        if cfg!(target_os = "linux") {
            assert_eq!(hidden.len(), 1);
        }
        for file in hidden {
            assert!(file.len() > 1 << 20, "{pragma}: {} bytes", file.len());
            assert!(residue(&file, &[MARKER.into(), "SQLite format".into(), "short".into()]).is_empty());
            assert!(residue(&in_memory.bytes(), &[MARKER.into()]).len() > 1000);
        }
        assert!(hidden_files(&spill(folder.path()).folder).is_empty(), "gone with the editor");
        let mut sql = "UPDATE p SET b = 'short' WHERE who = 'w1';".to_string();
        sql += "INSERT INTO f(f, rowid, body) SELECT 'delete', id, body FROM m WHERE id % 7 = 1; DELETE FROM m WHERE id % 7 = 1;";
        let (ours, theirs) = (dump(dir.path(), &spilled.bytes()), dump(dir.path(), &naive(dir.path(), &image, &sql)));
        for table in ["p", "m"] {
            let differ = ours[table].iter().zip(&theirs[table]).find(|(a, b)| a != b);
            assert!(ours[table] == theirs[table], "{pragma} {table}: {} {} {differ:?}", ours[table].len(), theirs[table].len());
        }
    }
}

#[test]
fn an_edit_without_room_for_what_spills_changes_nothing() {
    let dir = temp();
    let image = build(
        dir.path(),
        "CREATE TABLE p(id INTEGER PRIMARY KEY, who TEXT, b TEXT); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) INSERT INTO p SELECT i, 'w', hex(zeroblob(500)) FROM n;",
    );
    let m = map(vec![collection("p", &["who"], vec![probe(&["who"])])]);
    let key = key();
    let gone = spill(dir.path()).folder.join("not there");
    let limits = Limits { overlay: 1 << 20, ..Limits::default() };
    let spill = Spill { folder: gone, ..Spill::default() };
    let mut editor = SqliteEditor::open_spilling(Archived::of(&image, &m), &key, limits, spill).unwrap();
    let found = editor.find(&m, 0, &m.collections[0].probes[0], &wanted(&key, &["w"])).unwrap();
    let error = editor.apply(&m, &[0], &delete_all(found.clone())).unwrap_err().to_string();
    assert!(error.contains("not there"), "{error}");
    // Without a journal nothing can be rolled back, so the editor must not be used again.
    assert!(editor.apply(&m, &[0], &delete_all(found)).is_err());
    assert!(editor.find(&m, 0, &m.collections[0].probes[0], &wanted(&key, &["w"])).is_err());
    assert!(editor.visit_values(&mut |_| {}).is_err());
    assert!(finish(editor).is_empty());
}

#[test]
fn an_overlay_reads_what_was_written_whatever_is_in_memory() {
    let dir = temp();
    let image = build(dir.path(), "PRAGMA page_size=512; CREATE TABLE b(b); INSERT INTO b VALUES(zeroblob(200000));");
    let content = Archived::plain(&image);
    let limits = |overlay| Limits { overlay, ..Limits::default() };
    let mut model = image.clone();
    let mut overlays: Vec<Overlay> =
        [0, 512, 20_000, 1 << 30].map(|n| Overlay::new(content.clone(), &limits(n), spill(dir.path())).unwrap()).into();
    let mut seed = 3u64;
    let mut random = |n: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % n
    };
    for round in 0..400 {
        if round % 90 == 89 {
            let len = model.len() * 3 / 4 / 512 * 512;
            model.truncate(len);
            overlays.iter_mut().for_each(|o| o.truncate(len as u64).unwrap());
        }
        let (at, n) = (random(model.len() + 700), 1 + random(1500));
        // SQLite writes whole pages at page ends, or parts of one.
        let (at, n) = if round % 2 == 0 { (at / 512 * 512, 512) } else { (at.min(model.len()), n) };
        let bytes: Vec<u8> = (0..n).map(|_| random(256) as u8).collect();
        if model.len() < at + n {
            model.resize(at + n, 0);
        }
        model[at..at + n].copy_from_slice(&bytes);
        let (from, len) = (random(model.len()), 1 + random(3000));
        for (i, overlay) in overlays.iter_mut().enumerate() {
            overlay.write(at as u64, &bytes).unwrap();
            let mut back = vec![0xee; len];
            let got = overlay.read(from as u64, &mut back).unwrap();
            assert_eq!(back[..got], model[from..(from + len).min(model.len())], "overlay {i}, round {round}");
            assert_eq!(overlay.size(), model.len() as u64);
        }
    }
}
