use super::*;
use proptest::prelude::*;
use std::io::Write;

fn search(values: &[&str]) -> VariantSearch {
    VariantSearch::new(&values.iter().map(|v| v.to_string()).collect::<Vec<_>>()).unwrap()
}

/// Variants found, each once.
fn variants(values: &[&str], bytes: &[u8]) -> Vec<&'static str> {
    let mut found: Vec<&str> = search(values).search(bytes).into_iter().map(|h| h.variant).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// An encoder of its own, for the test.
fn base64(bytes: &[u8]) -> String {
    const A: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    bytes
        .chunks(3)
        .map(|c| {
            let v = c.iter().fold(0u32, |v, b| v << 8 | u32::from(*b)) << (8 * (3 - c.len()));
            (0..4).map(|i| if i <= c.len() { char::from(A[(v >> (18 - 6 * i) & 63) as usize]) } else { '=' }).collect::<String>()
        })
        .collect()
}

#[test]
fn every_form_is_found() {
    let value = "Zoë O'Brien/x";
    for (bytes, variant) in [
        (b"to Zo\xC3\xAB O'Brien/x,".to_vec(), "utf-8"),
        (b"ZO\xC3\x8B O'BRIEN/X".to_vec(), "utf-8"),
        ("Zoe\u{308} O'Brien/x".as_bytes().to_vec(), "utf-8"),
        (b"Zo\xEB O'Brien/x".to_vec(), "windows-1252"),
        (encode::utf16("Zoë O'Brien/x", false), "utf-16le"),
        (encode::utf16("ZOË O'Brien/x", true), "utf-16be"),
        (br#"{"n":"Zo\u00EB O'Brien\/x"}"#.to_vec(), "json"),
        (br#"{"n":"zo\u00eb o\u0027brien/x"}"#.to_vec(), "json"),
        ("VALUES ('Zoë O''Brien/x')".as_bytes().to_vec(), "sql"),
        ("VALUES ('Zoë O\\'Brien/x')".as_bytes().to_vec(), "sql"),
        (b"?n=Zo%C3%AB%20O%27Brien%2Fx".to_vec(), "percent"),
        (b"?n=Zo%c3%ab+O%27Brien%2fx".to_vec(), "percent"),
        (b"Zo=C3=AB O'Brien/x".to_vec(), "quoted-printable"),
        (b"=?iso-8859-1?Q?Zo=EB_O'Brien/x?=".to_vec(), "quoted-printable"),
        (b"Zo=C3=\r\n=AB O'Br=\nien/x".to_vec(), "quoted-printable"),
        (hex::encode_upper(value).into_bytes(), "hex"),
    ] {
        let found = variants(&[value], &bytes);
        assert!(found.contains(&variant), "{variant}: {found:?} in {:?}", String::from_utf8_lossy(&bytes));
    }
    assert!(variants(&[value], "Zoë O'Brian/x".as_bytes()).is_empty());
}

#[test]
fn values_that_are_not_distinctive_are_named() {
    let s = search(&["Annie", "Annika", "123456", "1234567", "", "Müller"]);
    assert_eq!(s.too_short(), [0, 2, 4]);
    assert!(s.search(b"Annie 123456").is_empty());
    assert_eq!(s.search(b"xx 1234567").len(), 1);
    assert!(search(&[]).search(b"anything").is_empty());
}

#[test]
fn hits_say_where_and_whether_they_are_a_part_of_more() {
    let s = search(&["ann@x.org"]);
    let hits = s.search(b"joann@x.org, ann@x.org");
    assert_eq!(hits.iter().map(|h| (h.offset, h.inside_word)).collect::<Vec<_>>(), [(2, true), (13, false)]);
    let mut wide = encode::utf16("jo", false);
    wide.extend(encode::utf16("ann@x.org", false));
    // With its neighbour's zero, little-endian text reads as big-endian, too.
    let hits = s.search(&wide);
    assert_eq!(hits.iter().map(|h| (h.variant, h.offset)).collect::<Vec<_>>(), [("utf-16be", 3), ("utf-16le", 4)]);
    assert!(hits.iter().all(|h| h.inside_word));
}

#[test]
fn only_what_is_surely_a_letter_beside_it_makes_a_part_of_a_word() {
    let s = search(&["ann@x.org"]);
    for (text, inside) in [
        ("\u{201E}ann@x.org\u{201C}", false),
        ("éann@x.org", true),
        ("ann@x.orgé", true),
        (r#"{"t":"hi\nann@x.org"}"#, false),
        (r#"{"t":"hi\u00a0ann@x.org"}"#, false),
        ("to=%20ann@x.org", false),
        ("hi=20ann@x.org", false),
        ("0ann@x.org", true),
    ] {
        assert_eq!(s.search(text.as_bytes()).iter().any(|h| !h.inside_word), !inside, "{text}");
    }
    assert!(!s.search(b"\x84ann@x.org\x93")[0].inside_word);
}

#[test]
fn base64_is_found_across_line_ends_and_told_from_its_other_cases() {
    let text = format!("{}Annabel Leigh{}", "x".repeat(47), "y".repeat(40));
    for shift in 0..3 {
        let encoded = base64(&text.as_bytes()[shift..]);
        assert_eq!(variants(&["Annabel Leigh"], encoded.as_bytes()), ["base64"]);
        let mut folded: Vec<u8> = Vec::new();
        for line in encoded.as_bytes().chunks(64) {
            folded.extend_from_slice(line);
            folded.extend_from_slice(b"\r\n");
        }
        let hits = search(&["Annabel Leigh"]).search(&folded);
        assert!(hits.iter().any(|h| h.variant == "base64"), "{shift}");
        let start = (47 - shift) / 3 * 4;
        assert!(hits.iter().all(|h| h.offset >= start && h.offset < start + 8), "{hits:?}");
        assert!(variants(&["Annabel Leigh"], encoded.to_lowercase().as_bytes()).is_empty());
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    e.write_all(bytes).unwrap();
    e.finish().unwrap()
}

fn zip(method: u16, flags: u16, packed: &[u8]) -> Vec<u8> {
    let mut out = b"PK\x03\x04\x14\0".to_vec();
    out.extend(flags.to_le_bytes());
    out.extend(method.to_le_bytes());
    out.extend([0; 16]);
    out.extend([1, 0, 0, 0, b'n']);
    out.extend(packed);
    out
}

#[test]
fn containers_within_containers_are_opened() {
    let s = search(&["Annabel Leigh"]);
    let inner = zstd::encode_all(&b"... annabel leigh ..."[..], 3).unwrap();
    let mut deflated = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    deflated.write_all(&inner).unwrap();
    let mut outer = b"some bytes".to_vec();
    outer.extend(gzip(&zip(8, 0, &deflated.finish().unwrap())));
    outer.extend(b"more bytes");
    assert!(s.search(&outer).is_empty());
    let nested = s.search_nested(&outer, Limits::default());
    assert_eq!(nested.members, 3);
    assert!(!nested.incomplete);
    // A packer may leave bytes as they are, so that the value shows on the way already; the innermost place is what counts.
    let deepest = nested.hits.iter().find(|h| h.inside.len() == 3).unwrap();
    assert_eq!(deepest.inside.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), ["gzip", "zip", "zstd"]);
    assert_eq!((deepest.inside[0].1, deepest.hit.offset), (10, 4));
}

#[test]
fn what_was_not_looked_into_is_said() {
    let s = search(&["Annabel Leigh"]);
    let whole = gzip(
        &[
            b"Annabel Leigh ".repeat(2000).as_slice(),
            &(0..60_000u32).flat_map(|i| blake3::hash(&i.to_le_bytes()).as_bytes()[..2].to_vec()).collect::<Vec<_>>(),
        ]
        .concat(),
    );
    let cut = s.search_nested(&whole[..whole.len() / 2], Limits::default());
    assert!(cut.incomplete && !cut.hits.is_empty());
    assert!(s.search_nested(&whole, Limits { bytes: 100, ..Limits::default() }).incomplete);
    assert!(s.search_nested(&gzip(&gzip(b"x")), Limits { depth: 1, ..Limits::default() }).incomplete);
    assert!(s.search_nested(&zip(8, 1, b"secret"), Limits::default()).incomplete);
    assert!(s.search_nested(&zip(99, 0, b"secret"), Limits::default()).incomplete);
    assert!(!s.search_nested(&zip(0, 0, b"stored"), Limits::default()).incomplete);
    assert_eq!(s.search_nested(b"\x1f\x8b\x08 by chance, \x28\xb5\x2f\xfd", Limits::default()), Nested::default());
}

proptest! {
    #[test]
    fn hidden_base64_is_found_wherever_it_starts(before in proptest::collection::vec(any::<u8>(), 0..20), after in proptest::collection::vec(any::<u8>(), 0..20), value in "[A-Za-z]{6,12}") {
        let text = [before.as_slice(), value.as_bytes(), after.as_slice()].concat();
        let found = variants(&[&value], base64(&text).as_bytes());
        prop_assert!(found.contains(&"base64"));
        let url = base64(&text).replace('+', "-").replace('/', "_");
        let found = variants(&[&value], url.as_bytes());
        prop_assert!(found.contains(&"base64"));
    }

    #[test]
    fn no_bytes_make_it_panic(value in ".{0,12}", bytes in proptest::collection::vec(prop_oneof![Just(b'='), Just(b'\r'), Just(b'\n'), Just(0x1f), Just(0x8b), Just(8), Just(b'P'), Just(b'K'), Just(3), Just(4), any::<u8>()], 0..300)) {
        let s = search(&[&value]);
        s.search(&bytes);
        s.search_nested(&bytes, Limits::default());
    }
}

#[test]
fn a_longer_address_is_another_and_an_escape_is_no_letter() {
    let search = VariantSearch::new(&["ann@x.org".to_string()]).unwrap();
    let alone = |text: &str| search.search(text.as_bytes()).iter().any(|h| !h.inside_word);
    for other in ["jo.ann@x.org", "joann@x.org", "ann@x.org.uk", "ann@x.org-old", "jo+ann@x.org", "ann@x.organic"] {
        assert!(!alone(other), "{other}");
        let wide: Vec<u8> = other.encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert!(search.search(&wide).iter().all(|h| h.inside_word), "{other}");
    }
    for same in [
        "ann@x.org",
        "(ann@x.org).",
        r"to:\nann@x.org",
        r"\u0020ann@x.org",
        "mailto%3Aann%40x.org",
        "=20ann@x.org",
        "a ann@x.org. Z",
        "-ann@x.org",
    ] {
        assert!(alone(same), "{same}");
    }
}
