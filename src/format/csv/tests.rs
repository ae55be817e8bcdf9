use super::*;
use crate::datamap::Dialect;
use crate::format::Piece;
use crate::format::cutter::CutSizes;
use crate::format::testing::{TINY, collection, cut, files, read, real_data, scan};
use proptest::prelude::*;

fn with(dialect: Dialect) -> Collection {
    Collection { dialect, ..collection("people") }
}

fn pieces(text: impl AsRef<[u8]>) -> Vec<Piece> {
    cut(&CSV, &with(Dialect::default()), text.as_ref(), TINY).unwrap()
}

fn headerless() -> Dialect {
    Dialect { header: Some(false), delimiter: Some(b','), ..Dialect::default() }
}

/// One column, flattened.
fn column(pieces: &[Piece], name: &str) -> Vec<String> {
    read(&CSV, pieces, &[name]).into_iter().flat_map(|r| r.into_iter().flatten().flatten()).collect()
}

/// The whole entry as one piece, edited.
fn edited(dialect: Dialect, text: &[u8], fields: &[&str], visit: &mut dyn FnMut(&Record<'_>) -> Decision) -> Vec<u8> {
    let pieces = cut(&CSV, &with(dialect), text, CutSizes::records()).unwrap();
    let fields: Vec<String> = fields.iter().map(|f| f.to_string()).collect();
    let mut out = Vec::new();
    for piece in &pieces {
        let scanned = scan(&CSV, piece, &fields, &mut |r| Ok(visit(r))).unwrap();
        out.extend(scanned.bytes.unwrap_or_else(|| piece.bytes.clone()));
    }
    out
}

fn text(new: &str) -> Option<NewValue> {
    Some(NewValue::Text(new.into()))
}

/// What an independent reader makes of it: csv-core, cell by cell.
fn oracle(mut input: &[u8], delimiter: u8) -> Vec<Vec<Vec<u8>>> {
    let mut reader = csv_core::ReaderBuilder::new().delimiter(delimiter).build();
    let (mut rows, mut row, mut cell) = (Vec::new(), Vec::new(), Vec::new());
    let mut out = [0u8; 64];
    loop {
        let (result, read, written) = reader.read_field(input, &mut out);
        input = &input[read..];
        cell.extend_from_slice(&out[..written]);
        match result {
            csv_core::ReadFieldResult::Field { record_end } => {
                row.push(std::mem::take(&mut cell));
                if record_end {
                    rows.push(std::mem::take(&mut row));
                }
            }
            csv_core::ReadFieldResult::End => return rows,
            _ => {}
        }
    }
}

#[test]
fn fields_are_read_by_name() {
    let p = pieces("id,name,note\n1,Ann,\"a, \"\"b\"\"\nc\"\n\n2,Bob,\r\n3,Cy");
    assert_eq!(column(&p, "name"), ["Ann", "Bob", "Cy"]);
    assert_eq!(column(&p, "note"), ["a, \"b\"\nc", ""]);
    assert_eq!(column(&p, "nothing"), Vec::<String>::new());
    assert_eq!(CSV.columns(&p[0].context).unwrap(), ["id", "name", "note"]);
}

#[test]
fn malformed_quotes_are_literal() {
    let p = pieces("a,b\n\"x\"y\"z,it\"s\n\"open,1\n2");
    assert_eq!(column(&p, "a"), ["xy\"z", "open,1\n2"]);
    assert_eq!(column(&p, "b"), ["it\"s"]);
}

#[test]
fn delimiters_are_detected() {
    for (text, expected) in [
        ("a;b\n1,5;2\n3,5;4\n", b';'),
        ("a\tb\n1\t2\n", b'\t'),
        ("a|b|c\n1|2|3\n", b'|'),
        ("a,b\n1,\"x;y;z\"\n", b','),
        ("sep=;\r\na;b\r\n", b';'),
        ("one column\nonly\n", b','),
        ("", b','),
    ] {
        let cutter = CSV.cutter(&with(Dialect::default()), text.as_bytes()).unwrap();
        assert_eq!(Context::decode(&cutter.context()).unwrap().0.delimiter, expected, "{text:?}");
    }
    let tab = TSV.cutter(&with(Dialect::default()), b"a,b\n1,2\n").unwrap();
    assert_eq!(Context::decode(&tab.context()).unwrap().0.delimiter, b'\t');
}

#[test]
fn the_mark_and_the_separator_line_stay_and_belong_to_no_name() {
    for encoding in [Encoding::Utf8, Encoding::Utf16Le, Encoding::Utf16Be] {
        let mut bytes = encoding.bom().to_vec();
        bytes.extend(encoding.encode("sep=;\r\n\"id\";näme\r\n1;Ann\r\n2;\"B;ob\"\r\n").unwrap());
        let p = pieces(&bytes);
        assert_eq!(CSV.columns(&p[0].context).unwrap(), ["id", "näme"]);
        assert_eq!(column(&p, "näme"), ["Ann", "B;ob"]);
        let out = edited(Dialect::default(), &bytes, &["id", "näme"], &mut |r| match r.index {
            0 => Decision::Delete,
            _ => Decision::Rewrite(vec![(1, vec![text("\u{1F600}\"")])]),
        });
        let mut expected = encoding.bom().to_vec();
        expected.extend(encoding.encode("sep=;\r\n\"id\";näme\r\n2;\"\u{1F600}\"\"\"\r\n").unwrap());
        assert_eq!(out, expected);
    }
}

#[test]
fn half_a_code_unit_at_the_end_goes_with_its_record() {
    let mut bytes = Encoding::Utf16Le.encode("a,b\n1,2\n3,4").unwrap();
    bytes.push(b'x');
    let dialect = Dialect { encoding: Some("utf-16le".into()), ..Dialect::default() };
    assert_eq!(edited(dialect.clone(), &bytes, &[], &mut |_| Decision::Keep), bytes);
    let out = edited(dialect, &bytes, &[], &mut |r| if r.index == 1 { Decision::Delete } else { Decision::Keep });
    assert_eq!(out, Encoding::Utf16Le.encode("a,b\n1,2\n").unwrap());
}

#[test]
fn windows_1252_is_detected_read_and_written() {
    let bytes = b"name;city\nM\xFCller;K\xF6ln\nGarc\xEDa;\x80\n";
    let p = pieces(bytes);
    assert_eq!(column(&p, "name"), ["Müller", "García"]);
    assert_eq!(column(&p, "city"), ["Köln", "€"]);
    let out = edited(Dialect::default(), bytes, &["name"], &mut |r| match r.index {
        0 => Decision::Rewrite(vec![(0, vec![text("gelöscht")])]),
        _ => Decision::Keep,
    });
    assert_eq!(out, b"name;city\ngel\xF6scht;K\xF6ln\nGarc\xEDa;\x80\n");
}

#[test]
fn a_cell_of_another_encoding_still_shows_its_person() {
    let mut bytes = "name\nJosé\n".as_bytes().to_vec();
    bytes.extend(b"Jos\xE9\n");
    let utf8 = Dialect { encoding: Some("utf-8".into()), ..Dialect::default() };
    let p = cut(&CSV, &with(utf8), &bytes, TINY).unwrap();
    assert_eq!(column(&p, "name"), ["José", "José"]);
}

#[test]
fn deleting_takes_the_line_end_along_and_leaves_the_rest() {
    let before = b"id,n\r\n1,a\r\n\r\n2,\"b\nb\"\n3,c";
    let delete =
        |victim: u32| edited(Dialect::default(), before, &[], &mut |r| if r.index == victim { Decision::Delete } else { Decision::Keep });
    assert_eq!(delete(0), b"id,n\r\n\r\n2,\"b\nb\"\n3,c");
    assert_eq!(delete(1), b"id,n\r\n1,a\r\n\r\n3,c");
    assert_eq!(delete(2), b"id,n\r\n1,a\r\n\r\n2,\"b\nb\"\n");
    assert_eq!(edited(Dialect::default(), before, &[], &mut |_| Decision::Delete), b"id,n\r\n\r\n");
}

#[test]
fn rewriting_keeps_the_quoting_and_adds_it_where_needed() {
    let before = b"a,b\nx,\"y\"\n";
    let put = |a: Option<NewValue>, b: Option<NewValue>| {
        edited(Dialect::default(), before, &["a", "b"], &mut |_| Decision::Rewrite(vec![(1, vec![b.clone()]), (0, vec![a.clone()])]))
    };
    assert_eq!(put(text("p"), text("q")), b"a,b\np,\"q\"\n");
    assert_eq!(put(text("p,\"\n"), None), b"a,b\n\"p,\"\"\n\",\"y\"\n");
    assert_eq!(put(Some(NewValue::Null), Some(NewValue::Null)), b"a,b\n,\"\"\n");
    // An empty single cell would read as an empty line.
    let single = edited(Dialect::default(), b"a\nx\n", &["a"], &mut |_| Decision::Rewrite(vec![(0, vec![Some(NewValue::Null)])]));
    assert_eq!(single, b"a\n\"\"\n");
}

#[test]
fn a_name_used_twice_addresses_both_columns_and_extra_cells_have_numbers() {
    let bytes = b"mail,id,mail\na,1,b,c\nd,2\n";
    let p = pieces(bytes);
    assert_eq!(
        read(&CSV, &p, &["mail", "4"]),
        vec![vec![vec![Some("a".into()), Some("b".into())], vec![Some("c".into())]], vec![vec![Some("d".into())], vec![]]]
    );
    assert_eq!(CSV.unmapped(&p[0].context, bytes, &["mail".to_string()]).unwrap(), ["id", "4"]);
    let out = edited(Dialect::default(), bytes, &["mail", "4"], &mut |r| match r.index {
        0 => Decision::Rewrite(vec![(0, vec![text("x"), text("y")]), (1, vec![text("z")])]),
        _ => Decision::Keep,
    });
    assert_eq!(out, b"mail,id,mail\nx,1,y,z\nd,2\n");
}

#[test]
fn values_that_do_not_fit_are_an_error() {
    let p = pieces("a\nx\n");
    let wrong = scan(&CSV, &p[0], &["a".into()], &mut |_| Ok(Decision::Rewrite(vec![(0, vec![None, None])])));
    assert!(wrong.is_err());
}

#[test]
fn a_quote_that_never_closes_is_named_and_not_kept_in_memory() {
    let mut bytes = b"a,b\n1,2\n\"".to_vec();
    bytes.extend(vec![b'x'; 500_000]);
    let gear = crate::format::cutter::Gear::new(&[0; 32]);
    let mut reader = bytes.as_slice();
    let cutter = with(Dialect::default());
    let pieces = crate::format::cutter::RecordPieces::open(&CSV, &cutter, &mut reader, "people.csv", &gear, TINY, 100_000).unwrap();
    let error = pieces.map(|p| p.map(|_| ())).find_map(Result::err).unwrap().to_string();
    assert_eq!(error, "people.csv: record 3 at byte 8: it is longer than 100000 bytes; is a quote never closed?");
}

#[test]
fn an_inserted_record_leaves_nine_tenths_of_the_pieces_as_they_were() {
    let line = |i: u64| format!("{i},{},\"note {}\"\n", blake3::hash(&i.to_le_bytes()).to_hex(), i * i);
    let old: String = std::iter::once("id,hash,note\n".to_string()).chain((0..4000).map(line)).collect();
    let mut new = old.clone();
    new.insert_str(old.find("\n2000,").unwrap() + 1, "9999999,inserted,\"x\"\n");
    let before: std::collections::HashSet<Vec<u8>> = pieces(&old).into_iter().map(|p| p.bytes).collect();
    let after = pieces(&new);
    let same = after.iter().filter(|p| before.contains(&p.bytes)).count();
    assert!(same * 10 >= after.len() * 9, "{same} of {}", after.len());
}

#[test]
fn real_files_come_through() {
    let Some(data) = real_data() else { return };
    for file in files(&data.join("csv")).iter().chain(&files(&data.join("archive"))) {
        let bytes = std::fs::read(file).unwrap();
        for format in [&CSV, &TSV] {
            let cut = cut(format, &with(Dialect::default()), &bytes, TINY);
            let Ok(pieces) = cut else {
                println!("{}: {}", file.display(), cut.unwrap_err());
                continue;
            };
            let rows = pieces.iter().map(|p| scan(format, p, &["1".into()], &mut |_| Ok(Decision::Keep)).unwrap().records).sum::<u32>();
            let one = format.cutter(&with(Dialect::default()), &bytes[..bytes.len().min(HEAD)]).unwrap().context();
            let whole = format.scan(&one, &bytes, &[], &mut |_| Ok(Decision::Keep)).unwrap();
            assert_eq!(rows, whole.records, "{}", file.display());
        }
    }
}

#[test]
fn real_files_read_as_the_oracle_reads_them() {
    let Some(data) = real_data() else { return };
    for file in files(&data.join("csv")) {
        let bytes = std::fs::read(&file).unwrap();
        let pieces = cut(&CSV, &with(Dialect::default()), &bytes, TINY).unwrap();
        let Some(first) = pieces.first() else { continue };
        let context = Context::decode(&first.context).unwrap().0;
        if context.encoding.starts_with("utf-16") {
            continue;
        }
        let rows = oracle(&bytes, context.delimiter);
        let numbered =
            with(Dialect { header: Some(false), delimiter: Some(context.delimiter), encoding: Some("windows-1252".into()), quote: None });
        let skip = if bytes.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
        let pieces = cut(&CSV, &numbered, &bytes[skip..], TINY).unwrap();
        let width = rows.iter().map(Vec::len).max().unwrap_or_default();
        let names: Vec<String> = (1..=width).map(|n| n.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mine: Vec<Vec<Vec<u8>>> = read(&CSV, &pieces, &names)
            .into_iter()
            .map(|r| r.into_iter().flatten().map(|c| Encoding::Windows1252.encode(&c.unwrap()).unwrap()).collect())
            .collect();
        assert!(mine == rows, "{}", file.display());
    }
}

/// Text made of what matters to a CSV reader.
fn messy() -> impl Strategy<Value = Vec<u8>> {
    let token = prop_oneof![
        4 => Just("a"), 2 => Just("bc"), 4 => Just(","), 4 => Just("\""), 2 => Just("\n"), 1 => Just("\r\n"), 1 => Just("\r"), 1 => Just(" "), 1 => Just("é"), 1 => Just(";")
    ];
    proptest::collection::vec(token, 0..200).prop_map(|t| t.concat().into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn messy_text_reads_as_the_oracle_reads_it(bytes in messy()) {
        let pieces = cut(&CSV, &with(headerless()), &bytes, CutSizes { min: 8, avg: 64, max: 100 }).unwrap();
        let names: Vec<String> = (1..=210).map(|n| n.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mine: Vec<Vec<Vec<u8>>> = read(&CSV, &pieces, &names)
            .into_iter()
            .map(|r| r.into_iter().flatten().map(|c| c.unwrap().into_bytes()).collect())
            .collect();
        prop_assert_eq!(mine, oracle(&bytes, b','));
    }

    #[test]
    fn messy_text_reads_alike_in_all_encodings(bytes in messy(), header in any::<bool>()) {
        let text = String::from_utf8(bytes).unwrap();
        let names: Vec<String> = (1..=210).map(|n| n.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut all = Vec::new();
        for encoding in [Encoding::Utf8, Encoding::Windows1252, Encoding::Utf16Le, Encoding::Utf16Be] {
            let dialect = Dialect { encoding: Some(encoding.name().into()), header: Some(header), ..headerless() };
            let bytes = [encoding.bom(), &encoding.encode(&text).unwrap()].concat();
            let pieces = cut(&CSV, &with(dialect), &bytes, CutSizes { min: 8, avg: 64, max: 100 }).unwrap();
            all.push(read(&CSV, &pieces, &names));
        }
        prop_assert!(all.windows(2).all(|pair| pair[0] == pair[1]));
    }

    #[test]
    fn after_deleting_the_oracle_reads_the_others(bytes in messy(), victims in any::<u64>()) {
        let gone = |i: u32| victims >> (i % 64) & 1 == 1;
        let all = oracle(&bytes, b',');
        let out = edited(headerless(), &bytes, &[], &mut |r| if gone(r.index) { Decision::Delete } else { Decision::Keep });
        let left: Vec<_> = all.into_iter().enumerate().filter(|(i, _)| !gone(*i as u32)).map(|(_, r)| r).collect();
        prop_assert_eq!(oracle(&out, b','), left);
    }

    #[test]
    fn after_rewriting_the_oracle_reads_the_new_values(bytes in messy(), victims in any::<u64>(), new in "[a\",\r\n ]{0,4}") {
        let hit = |i: u32| victims >> (i % 64) & 1 == 1;
        let mut all = oracle(&bytes, b',');
        let out = edited(headerless(), &bytes, &["1", "2"], &mut |r| if hit(r.index) {
            Decision::Rewrite(vec![(0, vec![text(&new)]), (1, r.values[1].iter().map(|_| text("")).collect())])
        } else { Decision::Keep });
        for (i, row) in all.iter_mut().enumerate() {
            if hit(i as u32) {
                row[0] = new.clone().into_bytes();
                if row.len() > 1 {
                    row[1].clear();
                }
            }
        }
        prop_assert_eq!(oracle(&out, b','), all);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in any::<Vec<u8>>(), context in any::<Vec<u8>>(), encoding in 0usize..5, header in any::<bool>(), wild in any::<u32>()) {
        let encoding = [None, Some("utf-8"), Some("windows-1252"), Some("utf-16le"), Some("utf-16be")][encoding];
        let dialect = Dialect { encoding: encoding.map(str::to_string), header: Some(header), ..Dialect::default() };
        let pieces = cut(&CSV, &with(dialect), &bytes, TINY).unwrap();
        for p in &pieces {
            scan(&CSV, p, &["1".into(), "2".into()], &mut |r| Ok(Decision::Rewrite(vec![(0, r.values[0].iter().map(|_| text("x")).collect())]))).unwrap();
            let mut hostile = Context::decode(&p.context).unwrap().0;
            hostile.prefix = wild;
            let _ = CSV.scan(&hostile.encode(), &p.bytes, &["1".into()], &mut |_| Ok(Decision::Delete));
        }
        let _ = CSV.scan(&context, &bytes, &[], &mut |_| Ok(Decision::Keep));
    }
}
