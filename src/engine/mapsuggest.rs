//! A draft of a data map, from the names of tables and columns. It guesses, and says so: a person corrects it, and `map check` holds
//! it against the source. What it must get right is that nothing which looks like a person is left out without a word.

use crate::config::Dataset;
use crate::datamap::check::{ColumnFacts, EntryFacts, SourceFacts, TableFacts};
use crate::repository::entry::display_path;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// A draft.
#[derive(Debug, Clone)]
pub struct Draft {
    /// A data map file: for `map:` in the dataset, or to be pasted into it.
    pub yaml: String,
    /// Collections in it.
    pub collections: usize,
}

/// What a column's name says about it.
struct Guess {
    category: &'static str,
    identity: Option<&'static str>,
    normalize: &'static [&'static str],
    text: bool,
    /// Whether it makes its table one of people: an e-mail address does, a `name` or `state` only among others.
    alone: bool,
}

const fn guess(category: &'static str, alone: bool) -> Guess {
    Guess { category, identity: None, normalize: &[], text: false, alone }
}

/// The words of a column's name, in lower case: `BillingPostalCode`, `billing_postal_code` and `billing.postalCode` are the same.
fn words(name: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut word = String::new();
    let mut before_lower = false;
    for c in name.chars() {
        if !c.is_alphanumeric() || (c.is_uppercase() && before_lower) {
            out.push(std::mem::take(&mut word));
        }
        before_lower = c.is_lowercase();
        if c.is_alphanumeric() {
            word.extend(c.to_lowercase());
        }
    }
    out.push(word);
    out.retain(|w| !w.is_empty());
    out
}

fn look(name: &str) -> Option<Guess> {
    let words = words(name);
    let all = words.concat();
    let has = |list: &[&str]| list.iter().any(|w| words.iter().any(|own| own == w) || all == *w);
    let ends = |list: &[&str]| list.iter().any(|w| all.ends_with(w));
    if has(&["email", "mail", "emailaddress"]) || ends(&["email"]) {
        return Some(Guess { identity: Some("email"), normalize: &["trim", "nfc", "lower"], ..guess("user.contact.email", true) });
    }
    if has(&["fax"]) {
        return Some(guess("user.contact.phone", true));
    }
    if has(&["phone", "telephone", "tel", "mobile", "msisdn", "cell"]) || ends(&["phone", "phonenumber"]) {
        return Some(Guess { identity: Some("phone"), normalize: &["digits"], ..guess("user.contact.phone", true) });
    }
    const NAMES: [&str; 9] =
        ["firstname", "lastname", "surname", "fullname", "givenname", "familyname", "username", "nickname", "displayname"];
    if ends(&NAMES) || has(&["vorname", "nachname", "customername"]) {
        return Some(guess("user.name", true));
    }
    if all == "name" {
        return Some(guess("user.name", false));
    }
    if has(&["address", "street", "zip", "postcode", "postalcode", "postal"]) {
        return Some(guess("user.contact.address", true));
    }
    if has(&["city", "town", "state", "country", "province", "region"]) {
        return Some(guess("user.contact.address", false));
    }
    if has(&["dob", "birthday", "birthdate", "born"]) || ends(&["birthdate", "dateofbirth"]) {
        return Some(guess("user.demographic.date_of_birth", true));
    }
    if has(&["ssn", "passport", "iban", "taxid", "vatid", "nationalid"]) {
        return Some(guess("user.government_id", true));
    }
    if has(&["ip", "ipaddress", "useragent"]) || ends(&["ipaddr"]) {
        return Some(guess("user.device", true));
    }
    if has(&["company", "employer"]) {
        return Some(guess("user.workplace", false));
    }
    if has(&["note", "notes", "comment", "comments", "message", "body", "text", "description"]) {
        return Some(Guess { text: true, ..guess("user.content", false) });
    }
    None
}

/// Whether a table or file of this name and these columns is about people.
fn is_about_people<'a>(name: &str, mut columns: impl Iterator<Item = &'a str>) -> bool {
    const PEOPLE: [&str; 20] = [
        "account",
        "author",
        "client",
        "contact",
        "customer",
        "employee",
        "guest",
        "lead",
        "member",
        "patient",
        "people",
        "person",
        "player",
        "staff",
        "student",
        "subscriber",
        "teacher",
        "user",
        "visitor",
        "worker",
    ];
    let words = words(name);
    let named = words.iter().any(|w| PEOPLE.contains(&w.strip_suffix('s').unwrap_or(w)));
    columns.any(|c| look(c).is_some_and(|g| g.alone || (named && !g.text)))
}

fn is_personal_table(table: &TableFacts) -> bool {
    is_about_people(&table.name, table.columns.iter().map(|c| c.name.as_str()))
}

/// Whether its rows are people, not only things that belong to some: an invoice has an address, a customer has a name.
fn names_people(table: &TableFacts) -> bool {
    is_personal_table(table)
        && table.columns.iter().any(|c| look(&c.name).is_some_and(|g| g.identity.is_some() || g.category == "user.name"))
}

/// `customers.id` → `customer_id`.
fn kind_of_key(table: &str) -> String {
    let name = words(table).join("_");
    let single = name.strip_suffix('s').filter(|s| s.len() > 2 && !s.ends_with('s')).unwrap_or(&name);
    let kind: String = single.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    if kind.is_empty() || kind.starts_with(|c: char| c.is_ascii_digit()) { "record_id".to_string() } else { format!("{kind}_id") }
}

/// A column that by itself names the row, going by its name.
fn key_column(table: &TableFacts) -> Option<&ColumnFacts> {
    table.columns.iter().find(|c| c.unique && words(&c.name).last().is_some_and(|w| w == "id" || w.ends_with("id")))
}

struct Writer {
    yaml: String,
    names: BTreeSet<String>,
    collections: usize,
}

/// Drafts a map.
pub fn suggest(dataset: &Dataset, facts: &SourceFacts) -> Draft {
    let mut w = Writer { yaml: String::new(), names: BTreeSet::new(), collections: 0 };
    let _ = writeln!(
        w.yaml,
        "# A draft of the data map of dataset {0}, by the names of tables and columns: correct it, then run `reseal map check`.\n\
         # Use it as a file of its own (`map: {0}-map.yaml` in the dataset) or paste it into the dataset.\n\
         # A field without an action is kept as it is in the records of an erased person.",
        dataset.name
    );
    w.yaml.push_str("collections:\n");
    let mut left = Vec::new();
    for entry in &facts.entries {
        if !entry.tables.is_empty() {
            w.database(dataset, entry, &mut left);
        } else if is_about_people(&stem(entry), entry.columns.iter().map(String::as_str)) {
            w.records(entry);
        }
    }
    if w.collections == 0 {
        w.yaml.truncate(w.yaml.len() - "collections:\n".len());
        w.yaml.push_str("collections: []\n");
    }
    if !left.is_empty() {
        let _ = writeln!(w.yaml, "# Nobody's, by their names: {}. Look at them; where that is wrong, add them.", left.join(", "));
        w.yaml.push_str("unmapped: preserve\n");
    }
    Draft { yaml: w.yaml, collections: w.collections }
}

impl Writer {
    fn name(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_string();
        let mut n = 1;
        while !self.names.insert(name.clone()) {
            n += 1;
            name = format!("{wanted}-{n}");
        }
        name
    }

    fn database(&mut self, dataset: &Dataset, entry: &EntryFacts, left: &mut Vec<String>) {
        // Whoever refers to a person's row is the person's too, over any number of steps.
        let named = |holds: fn(&TableFacts) -> bool| -> BTreeSet<String> {
            entry.tables.iter().filter(|t| holds(t)).map(|t| t.name.to_lowercase()).collect()
        };
        let people = named(names_people);
        let mut personal = named(is_personal_table);
        loop {
            let before = personal.len();
            for t in &entry.tables {
                if t.foreign_keys.iter().any(|f| personal.contains(&f.table.to_lowercase())) {
                    personal.insert(t.name.to_lowercase());
                }
            }
            if personal.len() == before {
                break;
            }
        }
        let chosen: Vec<&TableFacts> = entry.tables.iter().filter(|t| personal.contains(&t.name.to_lowercase())).collect();
        left.extend(entry.tables.iter().filter(|t| !personal.contains(&t.name.to_lowercase())).map(|t| t.name.clone()));
        let names: BTreeMap<String, String> = chosen.iter().map(|t| (t.name.to_lowercase(), self.name(&t.name))).collect();
        for table in chosen {
            self.table(dataset, entry, table, &names, &people);
        }
    }

    fn table(
        &mut self,
        dataset: &Dataset,
        entry: &EntryFacts,
        table: &TableFacts,
        names: &BTreeMap<String, String>,
        people: &BTreeSet<String>,
    ) {
        let name = names.get(&table.name.to_lowercase()).unwrap_or(&table.name).clone();
        self.head(&name, entry);
        let y = &mut self.yaml;
        if name != table.name {
            let _ = writeln!(y, "    table: {}", quoted(&table.name));
        }
        let key = key_column(table);
        if let Some(key) = key {
            let _ = writeln!(y, "    primary_key: [{}]", quoted(&key.name));
        }
        let owner = people.contains(&table.name.to_lowercase());
        let field = |column: &ColumnFacts| match (key, look(&column.name)) {
            (Some(k), _) if k.name == column.name && owner => {
                format!("{{category: user.unique_id, identity: {}}}", kind_of_key(&table.name))
            }
            (_, Some(g)) => described(&g, column),
            _ => String::new(),
        };
        let fields: Vec<(&str, String)> = table.columns.iter().map(|c| (c.name.as_str(), field(c))).collect();
        // Rows that say nothing about the person, but belong to them, can only stay if somebody says what becomes of them.
        y.push_str(if fields.iter().any(|(_, f)| f.contains("action:")) {
            "    on_erase: anonymize   # or delete\n"
        } else {
            "    on_erase: delete   # or anonymize, with an action for what is not to stay; or a ground to keep it (retain)\n"
        });
        self.references(dataset, table, names, people);
        let y = &mut self.yaml;
        y.push_str("    fields:\n");
        for (column, field) in fields {
            let _ = writeln!(y, "      {}:{}{field}", quoted(column), if field.is_empty() { "" } else { " " });
        }
    }

    /// Rows follow the person that they refer to; a person who refers to a person (their agent, their superior) does not.
    fn references(&mut self, dataset: &Dataset, table: &TableFacts, names: &BTreeMap<String, String>, people: &BTreeSet<String>) {
        let owner = people.contains(&table.name.to_lowercase());
        let y = &mut self.yaml;
        let keys: Vec<_> = table.foreign_keys.iter().filter_map(|f| Some((f, names.get(&f.table.to_lowercase())?))).collect();
        let list = |fields: &[String]| fields.iter().map(|f| quoted(f)).collect::<Vec<_>>().join(", ");
        let line = |f: &crate::datamap::check::ForeignKey, target: &str| {
            let to = quoted(&format!("{}.{target}", dataset.name));
            format!("- {{fields: [{}], to: {to}, to_fields: [{}], direction: from}}", list(&f.fields), list(&f.to_fields))
        };
        let (apart, rows): (Vec<_>, Vec<_>) = keys.into_iter().partition(|(f, _)| owner && people.contains(&f.table.to_lowercase()));
        if !rows.is_empty() {
            y.push_str("    references:\n");
            for (f, target) in rows {
                let _ = writeln!(y, "      {}", line(f, target));
            }
        }
        for (f, target) in apart {
            let _ = writeln!(
                y,
                "    # Not followed, since these records are about people themselves; if they go with the person they refer to:"
            );
            let _ = writeln!(y, "    # references: [{}]", line(f, target).trim_start_matches("- "));
        }
    }

    fn records(&mut self, entry: &EntryFacts) {
        let stem = stem(entry);
        let name = self.name(if stem.is_empty() { "records" } else { &stem });
        self.head(&name, entry);
        self.yaml.push_str("    on_erase: delete   # or anonymize\n    fields:\n");
        for column in &entry.columns {
            if let Some(g) = look(column) {
                let mut parts = vec![format!("category: {}", g.category)];
                identity(&g, &mut parts);
                let _ = writeln!(self.yaml, "      {}: {{{}}}", quoted(column), parts.join(", "));
            }
        }
    }

    fn head(&mut self, name: &str, entry: &EntryFacts) {
        self.collections += 1;
        let _ = writeln!(self.yaml, "  - name: {}\n    entry: {}", quoted(name), quoted(&escaped(&display_path(&entry.path))));
    }
}

fn identity(g: &Guess, parts: &mut Vec<String>) {
    if let Some(identity) = g.identity {
        parts.push(format!("identity: {identity}"));
        parts.push(format!("normalize: [{}]", g.normalize.join(", ")));
    }
}

/// A file's name without folder and endings.
fn stem(entry: &EntryFacts) -> String {
    let path = display_path(&entry.path);
    path.rsplit('/').next().unwrap_or(&path).split('.').next().unwrap_or_default().to_string()
}

/// A field with the strategy that its column takes.
fn described(g: &Guess, column: &ColumnFacts) -> String {
    let mut parts = vec![format!("category: {}", g.category)];
    identity(g, &mut parts);
    let type_name = column.decl_type.to_uppercase();
    let takes_text = type_name.is_empty() || ["CHAR", "TEXT", "CLOB"].iter().any(|t| type_name.contains(t));
    let action = match (g.text, column.not_null, column.unique) {
        (true, _, _) => {
            parts.push("scan: identities".into());
            r#"{strategy: redact, replacement: "[erased]"}"#.to_string()
        }
        (_, false, _) => "{strategy: null_rewrite}".into(),
        // A number or date that must be there: somebody has to think.
        _ if !takes_text => return format!("{{{}}}   # NOT NULL and no text: choose an action", parts.join(", ")),
        (_, true, _) if g.identity == Some("email") => {
            r#"{strategy: random_string_rewrite, format_preservation: {suffix: "@erased.invalid"}}"#.into()
        }
        (_, true, true) => "{strategy: random_string_rewrite}".into(),
        (_, true, false) => r#"{strategy: string_rewrite, rewrite_value: "[erased]"}"#.into(),
    };
    parts.push(format!("action: {action}"));
    format!("{{{}}}", parts.join(", "))
}

/// A path as a pattern that means exactly it.
fn escaped(path: &str) -> String {
    path.chars().map(|c| if matches!(c, '*' | '?' | '[' | ']' | '{' | '}') { '?' } else { c }).collect()
}

/// A YAML scalar: as it is where that is safe, else in double quotes as JSON has them.
fn quoted(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-'))
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"].contains(&text.to_lowercase().as_str());
    if plain { text.to_string() } else { serde_json::Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_into_words() {
        assert_eq!(words("BillingPostalCode"), ["billing", "postal", "code"]);
        assert_eq!(words("user.e_mail"), ["user", "e", "mail"]);
        assert_eq!(kind_of_key("Customers"), "customer_id");
        assert_eq!(kind_of_key("address"), "address_id");
    }

    #[test]
    fn people_are_recognised_and_things_are_not() {
        for name in ["Email", "user.email", "contact_email", "PHONE", "FirstName", "last_name", "BillingCity", "birth_date", "iban", "name"]
        {
            assert!(is_about_people("customers", [name].into_iter()), "{name}");
        }
        for name in ["title", "price", "file_name", "notes", "id", "total", "description"] {
            assert!(!is_about_people("customers", [name].into_iter()), "{name}");
        }
        for name in ["name", "state", "company"] {
            assert!(!is_about_people("genre", [name].into_iter()), "{name}");
        }
    }

    #[test]
    fn scalars_that_yaml_would_read_otherwise_are_quoted() {
        assert_eq!(quoted("customer"), "customer");
        assert_eq!(quoted("no"), "\"no\"");
        assert_eq!(quoted("1st"), "\"1st\"");
        assert_eq!(quoted("a: b"), "\"a: b\"");
    }
}
