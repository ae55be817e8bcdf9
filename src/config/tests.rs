//! What a configuration says, and every way in which it can be wrong.

use super::*;
use crate::Error;
use crate::datamap::{Action, Feed, OnErase, Unmapped};
use crate::policy::{Mode, Period};
use proptest::prelude::*;
use std::path::{Path, PathBuf};

const EXAMPLE: &str = r#"version: 1
repository: ./backups
datasets:
  crm:
    source:
      paths: [./data]
    retention:
      max_archives: 30
      min_archives: 3
      max_age: 90d
      keep: {daily: 7, weekly: 4, monthly: 6}
    erasure:
      document_lifetime: 60d
      cooling_off: 3d
      deadline: 1mo
      mode: rewrite
      approvals: 0
    drill: {every: 7d, checks: [{sql: "select count(*) from customer", min: 1, entry: crm.db}]}
    unmapped: halt
    categories: {user.contact: {strategy: redact}}
    collections:
      - name: customer
        entry: crm.db
        format: sqlite
        primary_key: [id]
        on_erase: anonymize
        fields:
          id:    {category: user.unique_id, identity: customer_id}
          email: {category: user.contact.email, identity: email, normalize: [trim, nfc, lower],
                  action: {strategy: random_string_rewrite, format_preservation: {suffix: "@erased.invalid"}}}
          phone: {category: user.contact.phone}
          last_name: {category: user.name, action: {strategy: null_rewrite}}
          birth_date: {action: {strategy: null_rewrite}}
          notes: {category: user.content, scan: identities, action: {strategy: redact, replacement: "[gone]"}}
        identities: [{name: person, fields: [last_name, birth_date]}]
      - name: orders
        entry: crm.db
        on_erase: anonymize
        fields: {note: {action: {strategy: redact}}}
        references: [{fields: [customer_id], to: crm.customer, to_fields: [id], direction: from, when: "kind = 'retail'"}]
        retain: {until: "order_date + 5y", basis: "GDPR 17(3)(b)", cite: "tax law"}
      - name: signups
        entry: "exports/*.csv"
        delimiter: ";"
        on_erase: delete
        fields: {Email: {identity: email}, customer: {identity: customer_id}}
      - name: avatars
        entry: "uploads/{customer_id}/**"
        on_erase: delete
"#;

fn config(text: &str) -> Config {
    parse(text, Path::new("etc/reseal.yaml")).unwrap_or_else(|e| panic!("{e}"))
}

/// The findings of a configuration that must not load.
fn findings(text: &str) -> Vec<String> {
    match parse(text, Path::new("reseal.yaml")) {
        Ok(_) => panic!("this loaded:\n{text}"),
        Err(Error::Config(findings)) => findings.iter().map(ToString::to_string).collect(),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn the_example_loads_and_says_what_is_written() {
    let config = config(EXAMPLE);
    assert_eq!(config.repository, RepositoryAt::Local(PathBuf::from("etc/backups")));
    assert_eq!((config.memory, config.compression_level), (256 << 20, 3));
    let crm = &config.datasets["crm"];
    assert!(matches!(&crm.source, Source::Paths { roots, .. } if roots[0].stored == "data" && roots[0].path == Path::new("etc/data")));
    assert_eq!((crm.retention.max_archives, crm.retention.min_archives, crm.retention.max_age), (Some(30), 3, Some(Period::days(90))));
    assert_eq!((crm.erasure.mode, crm.erasure.cooling_off), (Mode::Rewrite, Period::days(3)));
    assert_eq!(crm.map.unmapped, Unmapped::Halt);
    assert_eq!(crm.drill.as_ref().unwrap().checks[0].min, Some(1));

    let [customer, orders, signups, avatars] = crm.map.collections.as_slice() else { panic!("four collections") };
    assert_eq!(customer.on_erase, OnErase::Anonymize);
    let email = &customer.fields["email"];
    assert_eq!(email.action, Some(Action::RandomStringRewrite { length: 30, suffix: "@erased.invalid".into() }));
    assert!(email.normalize.trim && email.normalize.nfc && email.normalize.lower && !email.normalize.digits);
    assert_eq!(customer.fields["phone"].action, Some(Action::Redact { replacement: "[erased]".into() }), "by the category rule");
    assert_eq!(customer.fields["id"].action, None, "a category rule leaves keys alone");
    assert!(customer.fields["notes"].scan);
    let kinds = crm.map.identity_kinds();
    assert_eq!(kinds.iter().map(|(k, n)| format!("{k}:{n}")).collect::<Vec<_>>(), ["customer_id:1", "email:1", "person:2"]);

    // orders are found by the customers' keys, signups too (by the kind), and so are the folders.
    assert_eq!(orders.probes.len(), 1);
    assert_eq!(orders.probes[0].feed, Feed::Reference { collection: 0, fields: vec!["id".into()] });
    assert_eq!(orders.probes[0].when.as_ref().unwrap().source, "kind = 'retail'");
    let feeds: Vec<&Feed> = signups.probes.iter().map(|p| &p.feed).collect();
    let (email, id) = (Feed::Identity("email".into()), Feed::Identity("customer_id".into()));
    assert_eq!(feeds, [&email, &id, &Feed::Reference { collection: 0, fields: vec!["id".into()] }]);
    assert_eq!(signups.dialect.delimiter, Some(b';'));
    assert_eq!(avatars.format.as_deref(), Some("path"));
    assert_eq!(avatars.placeholder_feeds, [("customer_id".to_string(), 0, "id".to_string())]);
    assert_eq!(orders.table, "orders");
}

#[test]
fn the_digest_says_when_the_map_says_something_else() {
    let digest = |text: &str| config(text).datasets["crm"].map_digest.clone();
    let original = digest(EXAMPLE);
    assert_eq!(original.len(), 64);
    assert_eq!(original, digest(&EXAMPLE.replace("max_archives: 30", "max_archives: 31 # not the map")));
    assert_eq!(original, digest(&EXAMPLE.replace("table: x", "").replace("direction: from, ", "")));
    assert_ne!(original, digest(&EXAMPLE.replace("[gone]", "[erased]")));
    assert_ne!(original, digest(&EXAMPLE.replace("[trim, nfc, lower]", "[trim, lower]")));
}

#[test]
fn sources_of_every_kind_are_read() {
    let source =
        |yaml: &str| config(&format!("version: 1\nrepository: r\ndatasets:\n  d:\n    source: {yaml}\n")).datasets["d"].source.clone();
    assert!(
        matches!(source("{sqlite: ./db/crm.db}"), Source::Sqlite { path, entry } if entry == "crm.db" && path == Path::new("etc/db/crm.db"))
    );
    assert!(
        matches!(source("{command: pg_dump shop}"), Source::Command { argv, entry } if entry == "d.out" && argv == ["sh", "-c", "pg_dump shop"])
    );
    assert!(
        matches!(source("{command: [pg_dump, shop], entry: shop.sql}"), Source::Command { argv, entry } if entry == "shop.sql" && argv == ["pg_dump", "shop"])
    );
    assert!(matches!(source("{stdin: true}"), Source::Stdin { entry } if entry == "d.out"));
    assert!(
        matches!(source("{paths: [/var/lib/app, ./etc/app.conf], exclude: '*.tmp'}"), Source::Paths { roots, exclude, exclude_caches: true, one_file_system: false, .. }
        if roots[0].stored == "var/lib/app" && roots[1].stored == "etc/app.conf" && exclude.len() == 1)
    );
    assert!(matches!(source("{paths: .}"), Source::Paths { roots, .. } if roots[0].stored.is_empty()));
}

fn bucket(settings: &str, dataset: &str) -> String {
    format!("version: 1\nrepository: s3://my-bucket/a/b/\ns3: {{{settings}}}\ndatasets: {{d: {{source: {{stdin: true}}{dataset}}}}}\n")
}

#[test]
fn a_bucket_and_how_to_talk_to_it() {
    let RepositoryAt::S3(at) = config(&bucket("endpoint: 'http://127.0.0.1:9000'", "")).repository else { panic!("a bucket") };
    assert_eq!((at.bucket.as_str(), at.prefix.as_str(), at.path_style), ("my-bucket", "a/b", true));
    assert_eq!((at.concurrency, at.timeout.as_secs(), at.patience.as_secs(), at.bandwidth), (8, 60, 300, None));
    let settings = "region: eu-central-1, profile: backup, ca_bundle: ca.pem, encryption: sse-kms, kms_key: k, storage_class: STANDARD_IA,
  concurrency: 4, bandwidth: 10MiB, timeout: 30s, patience: 2min, credentials_file: secret";
    let full = config(&bucket(settings, ", lock: {mode: compliance, days: 30}, region: eu-central-1"));
    let RepositoryAt::S3(at) = &full.repository else { panic!("a bucket") };
    assert_eq!((at.bandwidth, at.path_style, at.patience.as_secs()), (Some(10 << 20), false, 120));
    assert_eq!(at.ca_bundle.as_deref(), Some(Path::new("etc/ca.pem")));
    assert_eq!(full.datasets["d"].lock.map(|l| l.days), Some(30));
    assert_eq!(full.datasets["d"].region.as_deref(), Some("eu-central-1"));
}

#[test]
fn keys_can_be_with_another_provider() {
    let at = |more: &str| format!("{}{more}", bucket("endpoint: 'https://one.example', region: eu-central-1, concurrency: 4", ""));
    let places = |text: &str| {
        let config = config(text);
        let (RepositoryAt::S3(data), Some(RepositoryAt::S3(keys))) = (config.repository, config.keys) else { panic!("buckets") };
        (data, keys)
    };
    let (data, keys) = places(&at("keys: s3://keys/k\n"));
    assert_eq!((&data.endpoint, &data.region, data.concurrency), (&keys.endpoint, &keys.region, keys.concurrency), "one section for both");
    let (data, keys) =
        places(&at("keys: s3://keys/k\nkeys_s3: {endpoint: 'https://two.example', credentials_file: two, path_style: false}\n"));
    assert_eq!((data.endpoint.as_deref(), keys.endpoint.as_deref()), (Some("https://one.example"), Some("https://two.example")));
    assert_eq!((keys.region.as_deref(), keys.concurrency, keys.path_style), (None, 8, false), "nothing is taken over");
    assert_eq!((keys.credentials_file.as_deref(), &data.credentials_file), (Some(Path::new("etc/two")), &None));
    for (text, expected) in [
        (at("keys_s3: {}\n"), "`keys` is not s3://"),
        (at("keys: ./keys\nkeys_s3: {}\n"), "`keys` is not s3://"),
        (at("keys: s3://keys\nkeys_s3: {endpoint: two, timeout: 2mo}\n"), "keys_s3: endpoint: expected an address"),
        (at("keys: s3://keys\nkeys_s3: {endpoint: two, timeout: 2mo}\n"), "keys_s3: timeout: expected a period"),
        (at("keys: s3://keys\nkeys_s3: {endpiont: two}\n"), "did you mean `endpoint`?"),
        (
            format!("{}keys: s3://keys\nkeys_s3: {{region: us-east-1}}\n", bucket("region: eu-central-1", ", region: eu-central-1")),
            "must stay in eu-central-1, and keys_s3: region says us-east-1",
        ),
    ] {
        let found = findings(&text);
        assert!(found.iter().any(|f| f.contains(expected)), "{expected}: {found:?}");
    }
}

#[test]
fn buckets_can_be_wrong_in_many_ways() {
    for (settings, dataset, expected) in [
        ("endpoint: nas:9000", "", "expected an address"),
        ("storage_class: DEEP_ARCHIVE", "", "bringing it back first"),
        ("kms_key: k", "", "goes with encryption"),
        ("concurrency: 0", "", "from 1 to 256"),
        ("bandwidth: 1", "", "at least 16KiB"),
        ("timeout: 2mo", "", "between 1s and 1d"),
        ("secret_access_key: x", "", "unknown key `secret_access_key`"),
        ("region: us-east-1", ", region: eu-central-1", "must stay in eu-central-1"),
        ("", ", lock: {mode: governance, days: 0}", "from 1 to 36500"),
        ("", ", lock: {mode: forever, days: 1}", "forever"),
    ] {
        let found = findings(&bucket(settings, dataset));
        assert!(found.iter().any(|f| f.contains(expected)), "{settings}{dataset}: {found:?}");
    }
    let folder = "version: 1\nrepository: here\ndatasets: {d: {source: {stdin: true}, lock: {mode: governance, days: 1}, region: x}}\n";
    let found = findings(folder);
    assert!(
        found.iter().any(|f| f.contains("only a bucket can lock")) && found.iter().any(|f| f.contains("only a bucket has one")),
        "{found:?}"
    );
}

#[test]
fn the_form_is_checked_with_line_and_column_and_every_mistake_is_named() {
    let text = r#"version: 1
repositry: ./backups
datasets:
  crm:
    source: {paths: [./data]}
    retention: {max_archives: many}
    collections:
      - name: customer
        entry: crm.db
        on_erase: anonymise
        feilds: {}
        fields: {email: {action: {strategy: fake}}, n: {action: {strategy: nul_rewrite}}, m: {action: {strategy: string_rewrite, rewrite_value: 0}}}
      - entry: x.csv
        on_erase: delete
"#;
    assert_eq!(
        findings(text),
        [
            "reseal.yaml:1:1: the key `repository` is missing",
            "reseal.yaml:2:1: unknown key `repositry`; did you mean `repository`?",
            "reseal.yaml:6:31: max_archives: expected a whole number, found text",
            "reseal.yaml:10:19: on_erase: unknown value \"anonymise\"; did you mean \"anonymize\"?",
            "reseal.yaml:11:9: unknown key `feilds`; did you mean `fields`?",
            "reseal.yaml:12:45: strategy \"fake\" is not available in this version; available: delete, null_rewrite, string_rewrite, random_string_rewrite, redact, hmac, preserve",
            "reseal.yaml:12:76: strategy: unknown value \"nul_rewrite\"; did you mean \"null_rewrite\"?",
            "reseal.yaml:12:145: rewrite_value: expected text, found a number; put it in quotes",
            "reseal.yaml:13:9: the key `name` is missing in datasets.crm.collections[1]",
        ]
    );
}

/// A dataset with these lines, and the collections that follow.
fn dataset(lines: &str) -> String {
    format!("version: 1\nrepository: r\ndatasets:\n  d:\n    source: {{paths: x}}\n{}\n", lines.trim_end())
}

fn collection(yaml: &str) -> String {
    dataset(&format!("    collections:\n      - {yaml}"))
}

#[test]
fn what_contradicts_itself_is_found() {
    let with = |lines: &str| dataset(&format!("    {lines}"));
    let two = |a: &str, b: &str| dataset(&format!("    collections:\n      - {a}\n      - {b}"));
    let customer = "{name: customer, entry: a.db, primary_key: id, on_erase: delete, fields: {id: {identity: customer_id}}}";
    for (text, expected) in [
        // clocks and numbers
        (with("erasure: {cooling_off: 40d}"), "6:28: cooling_off: 40d does not end before the deadline of 1mo"),
        (with("erasure: {deadline: 2mo}"), "6:25: deadline: 2mo is later than the statutory deadline of 1mo"),
        (with("erasure: {document_lifetime: 1d}"), "6:34: document_lifetime: 1d is not between 3d and 9999d"),
        (with("erasure: {cooling_off: 3}"), "cooling_off: expected text, found a number"),
        (with("erasure: {cooling_off: 3m}"), "cooling_off: `m` is ambiguous"),
        (with("retention: {max_archives: 2, min_archives: 3}"), "6:31: max_archives (2) is less than min_archives (3)"),
        (with("retention: {min_archives: 0}"), "at least 1"),
        (with("retention: {max_archives: -1}"), "max_archives: -1 is too small"),
        (with("retention: {keep: {}}"), "keep: every number is 0"),
        (with("retention: {max_age: 0d}"), "every archive would be too old"),
        (with("drill: {every: 7d, checks: [{entry: a.db, sql: 'drop table a'}]}"), "expected a query"),
        (with("drill: {every: 7d, checks: [{entry: a.db, min: 2, max: 1}]}"), "min is greater than max"),
        (with("drill: {every: 0d}"), "a drill cannot be due all the time"),
        // names, places, sources
        (dataset("  Bad: {source: {stdin: true}}"), "6:3: \"Bad\" cannot be the name of a dataset"),
        ("version: 2\nrepository: r\ndatasets: {d: {source: {stdin: true}}}".into(), "1:10: version 2 of the configuration"),
        ("version: 1\nrepository: ftp://x\ndatasets: {d: {source: {stdin: true}}}".into(), "2:13: places of the kind ftp://"),
        ("version: 1\nrepository: s3://A/b\ndatasets: {d: {source: {stdin: true}}}".into(), "is not the name of a bucket"),
        ("version: 1\nrepository: r\nmemory: 1 parsec\ndatasets: {d: {source: {stdin: true}}}".into(), "is not a size"),
        ("version: 1\nrepository: r\nmemory: 1M\ndatasets: {d: {source: {stdin: true}}}".into(), "at least 32MiB"),
        ("version: 1\nrepository: r\ndatasets: {}".into(), "there is no dataset"),
        (
            "version: 1\nrepository: r\ndatasets: {d: {source: {}}}".into(),
            "exactly one of paths, sqlite, command and stdin is needed, found none",
        ),
        ("version: 1\nrepository: r\ndatasets: {d: {source: {sqlite: a, stdin: true}}}".into(), "found sqlite and stdin"),
        ("version: 1\nrepository: r\ndatasets: {d: {source: {sqlite: a, exclude: b}}}".into(), "`exclude` goes with paths only"),
        ("version: 1\nrepository: r\ndatasets: {d: {source: {paths: [../a]}}}".into(), "3:33: source: \"../a\": `..`"),
        ("version: 1\nrepository: r\ndatasets: {d: {source: {paths: [./a, a/b]}}}".into(), "would be stored over each other"),
        (
            "version: 1\nrepository: r\ndatasets: {d: {source: {paths: a, include: ['{id}/**']}}}".into(),
            "placeholders have no meaning here",
        ),
        ("version: 1\nrepository: r\ndatasets: {d: {source: {command: ''}}}".into(), "nothing to run"),
        ("".into(), "the file: expected a mapping, found nothing"),
        ("version: 1\nversion: 1\n".into(), "2:1: not valid YAML"),
        // collections
        (collection("{name: a, entry: '{id', on_erase: delete}"), "7:26: collection a: entry \"{id\": `{` without `}`"),
        (collection("{name: a, entry: a.csv, on_erase: delete}"), "7:9: collection a is unreachable"),
        (collection("{name: a, entry: a.csv, on_erase: anonymize, fields: {e: {identity: email}}}"), "no field has an action"),
        (
            collection(
                "{name: a, entry: a.csv, on_erase: anonymize, fields: {e: {identity: email}, n: {action: {strategy: null_rewrite}}}}",
            ),
            "a.e: it names the person, but has no action",
        ),
        (collection("{name: a, entry: a.csv, on_erase: preserve}"), "preserve needs a ground"),
        (
            collection("{name: a, entry: a.csv, on_erase: delete, basis: x, fields: {e: {identity: email}}}"),
            "`basis` belongs to `on_erase: preserve`",
        ),
        (
            collection("{name: a, entry: a.csv, on_erase: anonymize, fields: {e: {identity: email, action: {strategy: preserve}}}}"),
            "a.e: preserve needs a ground",
        ),
        (
            collection("{name: a, entry: a.csv, on_erase: anonymize, fields: {e: {identity: email, action: {strategy: hmac}}}}"),
            "hmac pseudonymises, it does not erase",
        ),
        (
            collection("{name: a, entry: a.csv, on_erase: delete, fields: {e: {identity: email, action: {strategy: redact}}}}"),
            "this action would never run",
        ),
        (
            collection("{name: a, entry: a.csv, on_erase: anonymize, fields: {t: {scan: identities, action: {strategy: null_rewrite}}}}"),
            "its action can only be redact",
        ),
        (
            collection(
                "{name: a, entry: a.db, on_erase: anonymize, primary_key: e, fields: {e: {identity: email, action: {strategy: null_rewrite}}}}",
            ),
            "gives every record the same value",
        ),
        (collection("{name: a, entry: a.json, format: json, on_erase: delete}"), "format \"json\" is not available in this version"),
        (collection("{name: a, entry: a.x, format: cvs, on_erase: delete}"), "unknown format \"cvs\""),
        (collection("{name: a, entry: a.csv, delimiter: ';;', on_erase: delete}"), "delimiter is one ASCII character"),
        (collection("{name: a, entry: a.csv, encoding: latin9, on_erase: delete}"), "unknown encoding \"latin9\""),
        (collection("{name: a, entry: 'u/{id}/**', on_erase: anonymize}"), "not anonymized"),
        (collection("{name: a, entry: 'u/{id}.csv', on_erase: delete, fields: {e: {identity: email}}}"), "it can have no fields"),
        (collection("{name: a, entry: a.csv, on_erase: delete, identities: [{name: p, fields: [x]}]}"), "needs two fields or more"),
        (collection("{name: a, entry: a.csv, on_erase: delete, fields: {e: {identity: 'e mail'}}}"), "cannot be an identity kind"),
        (
            collection("{name: a, entry: a.csv, on_erase: delete, fields: {e: {identity: email}}, retain: {until: 'd + 5', basis: law}}"),
            "`d + 5`: at character 5: expected a period",
        ),
        (
            collection("{name: a, entry: a.csv, on_erase: delete, fields: {e: {identity: email}}, retain: {until: 'd = 5', basis: law}}"),
            "this is not a date",
        ),
        (two(customer, customer), "there are two collections \"customer\""),
        (
            two(customer, "{name: c2, entry: a.db, table: customer, on_erase: delete, fields: {id: {identity: x}}}"),
            "speak of the same records",
        ),
        (
            two(customer, "{name: o, entry: a.db, on_erase: delete, references: [{fields: c, to: custmer}]}"),
            "8:79: collection o: reference to \"custmer\": there is no such collection; did you mean \"customer\"?",
        ),
        (
            two(customer, "{name: o, entry: a.db, on_erase: delete, references: [{fields: c, to: shop.order}]}"),
            "references into another dataset (\"shop\") are not available",
        ),
        (
            two(customer, "{name: o, entry: a.db, on_erase: delete, references: [{fields: [a, b], to: customer}]}"),
            "2 fields refer to 1 (id); there must be as many",
        ),
        (two(customer, "{name: o, entry: a.db, on_erase: delete, references: [{fields: c, to: o}]}"), "collection o has no `primary_key`"),
        (
            two(customer, "{name: o, entry: a.db, on_erase: delete, references: [{fields: c, to: customer, when: 'a ='}]}"),
            "`a =`: at character 4: expected a field or a value",
        ),
        (two(customer, "{name: f, entry: 'u/{custmer_id}/**', on_erase: delete}"), "did you mean {customer_id}?"),
    ] {
        let found = findings(&text);
        assert!(found.iter().any(|f| f.contains(expected)), "expected {expected:?}, found {found:#?} in\n{text}");
        assert!(found.iter().all(|f| f.starts_with("reseal.yaml:")), "without a line: {found:#?}");
    }
}

#[test]
fn references_in_both_directions_and_cycles_are_compiled() {
    let text = dataset(
        "    collections:
      - {name: customer, entry: a.db, primary_key: id, on_erase: delete, fields: {id: {identity: customer_id, normalize: [trim]}},
         references: [{fields: referred_by, to: customer}, {fields: address_id, to: address, to_fields: id, direction: to}]}
      - {name: address, entry: a.db, on_erase: delete, references: [{fields: owner, to: d.customer}]}",
    );
    let map = &config(&text).datasets["d"].map;
    let probe = |c: usize, p: usize| &map.collections[c].probes[p];
    assert_eq!(probe(0, 1).feed, Feed::Reference { collection: 0, fields: vec!["id".into()] });
    assert_eq!(probe(0, 1).fields[0].0, "referred_by");
    assert!(probe(0, 1).fields[0].1.trim, "compared as the target's field is");
    assert_eq!(
        (probe(1, 0).feed.clone(), probe(1, 0).fields[0].0.as_str()),
        (Feed::Reference { collection: 0, fields: vec!["address_id".into()] }, "id")
    );
    assert_eq!(map.collections[1].probes.len(), 2);
}

#[test]
fn a_map_can_lie_in_files_of_its_own_and_their_mistakes_name_them() {
    let dir = tempfile::tempdir().unwrap();
    let main = dir.path().join("reseal.yaml");
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write(
        "reseal.yaml",
        "version: 1\nrepository: r\ndatasets:\n  d:\n    source: {paths: x}\n    map: people.yaml\n    maps: [more.yaml]\n",
    );
    write(
        "people.yaml",
        "unmapped: preserve\ncollections:\n  - {name: a, entry: a.csv, on_erase: delete, fields: {e: {identity: email}}}\n",
    );
    write("more.yaml", "collections:\n  - {name: b, entry: b.csv, on_erase: delete, fields: {e: {identity: email}}}\n");
    let config = load(&main).unwrap();
    assert_eq!((config.datasets["d"].map.collections.len(), config.datasets["d"].map.unmapped), (2, Unmapped::Preserve));

    write("more.yaml", "collections:\n  - {name: b, entry: b.csv, on_erase: delete}\n");
    assert!(load(&main).unwrap_err().to_string().contains("more.yaml:2:5: collection b is unreachable"));
    write("more.yaml", "collection: []\n");
    assert!(load(&main).unwrap_err().to_string().contains("more.yaml:1:1: unknown key `collection`; did you mean `collections`?"));
    std::fs::remove_file(dir.path().join("more.yaml")).unwrap();
    assert!(load(&main).unwrap_err().to_string().contains("reseal.yaml:7:12: cannot read"));
    assert!(matches!(load(&dir.path().join("none.yaml")), Err(Error::Io { .. })));
}

#[test]
fn the_schema_describes_every_key() {
    let schema = schema_json();
    let mut undocumented = Vec::new();
    fn walk(value: &serde_json::Value, name: &str, undocumented: &mut Vec<String>) {
        if let Some(properties) = value.get("properties").and_then(|p| p.as_object()) {
            for (key, property) in properties {
                if property.get("description").is_none() && property.get("const").is_none() {
                    undocumented.push(format!("{name}.{key}"));
                }
            }
        }
        match value {
            serde_json::Value::Object(map) => map.iter().for_each(|(k, v)| walk(v, k, undocumented)),
            serde_json::Value::Array(list) => list.iter().for_each(|v| walk(v, name, undocumented)),
            _ => {}
        }
    }
    walk(&schema, "", &mut undocumented);
    assert!(undocumented.is_empty(), "{undocumented:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn arbitrary_text_never_panics(text in "[-a-z:\\[\\]{}\"' \\n0-9,.]{0,120}") {
        let _ = parse(&text, Path::new("reseal.yaml"));
    }

    #[test]
    fn a_configuration_with_a_line_lost_or_changed_never_panics(line in 0usize..52, mut replacement in proptest::option::of("[a-z: \\[{}'-]{0,20}")) {
        let lines: Vec<String> =
            EXAMPLE.lines().enumerate().filter_map(|(i, l)| if i == line { replacement.take() } else { Some(l.to_string()) }).collect();
        let _ = parse(&lines.join("\n"), Path::new("reseal.yaml"));
    }
}

#[test]
fn the_example_of_the_documentation_loads() {
    let text = include_str!("../../docs/reseal.example.yaml");
    let config = config(text);
    let map = &config.datasets["crm"].map;
    assert_eq!(map.collections.len(), 4);
    // What is commented out is true as well.
    for (off, on) in
        [("# keys: ", "keys: "), ("# memory: ", "memory: "), ("# actor: ", "actor: "), ("# compression_level: ", "compression_level: ")]
    {
        assert!(text.contains(off));
        parse(&text.replace(off, on), Path::new("reseal.yaml")).unwrap();
    }
}

#[test]
fn the_documentation_names_every_key_and_every_message() {
    let documentation = concat!(include_str!("../../docs/data-map.md"), include_str!("../../docs/configuration.md"));
    fn keys(value: &serde_json::Value, out: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(map) => {
                if let Some(properties) = map.get("properties").and_then(|p| p.as_object()) {
                    out.extend(properties.keys().cloned());
                }
                map.values().for_each(|v| keys(v, out));
            }
            serde_json::Value::Array(list) => list.iter().for_each(|v| keys(v, out)),
            _ => {}
        }
    }
    let mut all = Vec::new();
    keys(&schema_json(), &mut all);
    let missing: Vec<String> = all.into_iter().filter(|k| !documentation.contains(k.as_str())).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
