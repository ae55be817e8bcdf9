#!/usr/bin/env python3
"""A second opinion for tests/oracle.rs: makes data, and edits it the naive way, with nothing but Python's own csv, json and sqlite3.

    oracle.py gen DIR SEED KNOBS             makes a source
    oracle.py night DIR SEED N KNOBS         lets a day pass
    oracle.py check BEFORE AFTER PASSES KNOBS  compares AFTER with what erasing PASSES from BEFORE should leave; prints every difference

KNOBS and PASSES are JSON. PASSES is a list of passes, each a list of persons, each a mapping of identity kind to value.
What the data map says is written down here once more (COLLECTIONS), on purpose in another way than the engine reads it.
"""
import csv, datetime, io, json, os, random, re, sqlite3, sys, unicodedata

NOW = datetime.date(2026, 10, 20)
SUFFIX = "@erased.invalid"
FOLD = ("nfc", "trim", "lower")
FIRST = ["Ann", "Joann", "Zoe\u0308", "Zo\u00eb", "Mar\u00eda", "Bj\u00f6rn", "O'Neil", "Li", "Jean, Luc", 'Sam "The Man"', "\u5f20\u4f1f"]
LAST = ["Smith", "smith ", "M\u00fcller", "Mu\u0308ller", "d'Arc", "O\u2019Brien", "van der Berg", "\u674e"]


def norm(value, steps):
    """The value as it is compared; None for nothing."""
    if value is None or isinstance(value, Random):
        return None
    if isinstance(value, bool):
        value = "true" if value else "false"
    elif isinstance(value, float) and value == int(value):
        value = str(int(value))
    elif isinstance(value, bytes):
        value = value.decode()
    value = str(value)
    if "nfc" in steps:
        value = unicodedata.normalize("NFC", value)
    if "trim" in steps:
        value = value.strip()
    if "lower" in steps:
        value = value.lower()
    return value or None


def spelled(value):
    """A regular expression for the value, each accent composed or not."""
    forms = ((re.escape(c), re.escape(unicodedata.normalize("NFD", c))) for c in unicodedata.normalize("NFC", value.strip()))
    return "".join(f"(?:{a}|{b})" if a != b else a for a, b in forms)


class Random:
    """Some random string that ends in SUFFIX."""
    def fits(self, actual):
        return isinstance(actual, str) and re.fullmatch(r"[A-Za-z0-9]{30}" + re.escape(SUFFIX), actual) is not None


class Record:
    def __init__(self, values, raw=None, extra=None):
        self.values, self.raw, self.extra, self.gone, self.changed = values, raw, extra, False, set()

    def get(self, field):
        return self.values.get(field, [])


def combos(record, fields, steps):
    out = [()]
    for field, s in zip(fields, steps):
        texts = [n for n in (norm(v, s) for v in record.get(field)) if n is not None]
        out = [c + (t,) for c in out for t in texts]
    return out


class Probe:
    """Found by an identity of the request (kind), or by the fields of a record of another collection (of, of_fields)."""
    def __init__(self, fields, steps=None, kind=None, of=None, of_fields=None, when=None):
        self.fields, self.steps = fields, steps or [()] * len(fields)
        self.kind, self.of, self.of_fields, self.when = kind, of, of_fields, when or (lambda r: True)

    def target(self):
        return ("identity", self.kind) if self.kind else (self.of, tuple(self.of_fields))


ref = lambda field, of="person", of_field="id", when=None: Probe([field], of=of, of_fields=[of_field], when=when)
ident = lambda field, kind, steps=(): Probe([field], [steps], kind=kind)


def retained(record):
    issued = record.get("issued")[0]
    return issued is not None and datetime.date.fromisoformat(issued).replace(year=int(issued[:4]) + 5) > NOW


# name: (file, key, on_erase, probes, actions)
COLLECTIONS = {
    "person": ("crm.db", ["id"], "anonymize",
               [ident("id", "customer_id"), ident("email", "email", FOLD), Probe(["last", "born"], [FOLD, ()], kind="person")],
               {"email": Random(), "first": None, "last": "gone", "born": None}),
    "account": ("crm.db", ["code"], "delete", [ref("person")], {}),
    "payment": ("crm.db", ["ref"], "delete", [ref("account", "account", "code", lambda r: r.get("kind") == ["retail"])], {}),
    "refund": ("crm.db", ["id"], "delete", [ref("payment", "payment", "ref")], {}),
    "membership": ("crm.db", ["person", "team"], "delete", [ref("person")], {}),
    "message": ("crm.db", ["id"], "delete", [ref("sender"), ref("recipient")], {}),
    "invoice": ("crm.db", ["id"], "delete", [ref("person")], {}),
    "comment": ("crm.db", ["id"], "delete", [ref("author"), ref("parent", "comment")], {}),
    "alpha": ("crm.db", ["id"], "delete", [ref("person"), ref("beta", "beta")], {}),
    "beta": ("crm.db", ["id"], "delete", [ref("alpha", "alpha")], {}),
    "signups": ("signups.csv", [], "delete", [ident("Email", "email", FOLD)], {}),
    "leads": ("leads.tsv", [], "anonymize", [ident("1", "email", FOLD), ident("3", "customer_id"), ref("3")], {"1": Random(), "2": None, "3": None}),
    "orders": ("orders.csv", [], "delete", [ref("customer")], {}),
    "posts": ("posts.ndjson", [], "delete", [ref("order.code", "orders", "code")], {}),
    "events": ("events.ndjson", [], "delete", [ident("user.id", "customer_id"), ref("user.id")], {}),
    "carts": ("carts.ndjson", [], "anonymize",
              [ident("user.email", "email", FOLD), ident("items[].owner.id", "customer_id"), ref("items[].owner.id")],
              {"user.email": Random(), "items[].owner.id": None, "name": "x"}),
}
SCANNED = {"person": ["note"]}
TABLES = [n for n, c in COLLECTIONS.items() if c[0] == "crm.db"]


# ---------------------------------------------------------------- reading

def dialect(name, knobs):
    if name == "leads.tsv":
        return "\t", False
    return (knobs["delimiter"], True) if name == "signups.csv" else (",", True)


def raw_records(data):
    """Physical records: lines, joined while a quote is open. Independent of any CSV library."""
    out, current = [], b""
    for line in re.findall(rb"[^\n]*\n|[^\n]+$", data):
        current += line
        if current.count(b'"') % 2 == 0:
            out.append(current)
            current = b""
    return out + ([current] if current else [])


def cells(raw, delimiter):
    text = raw.decode("utf-8-sig")
    rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    return rows[0] if rows else []


def dig(node, path):
    if not path:
        return [node]
    head, rest = path[0], path[1:]
    if head.endswith("[]"):
        node = node.get(head[:-2]) if isinstance(node, dict) else None
        return [v for n in node for v in dig(n, rest)] if isinstance(node, list) else []
    return dig(node[head], rest) if isinstance(node, dict) and head in node else []


def read_world(folder, knobs):
    world = {}
    path = os.path.join(folder, "crm.db")
    db = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
    db.execute("PRAGMA cell_size_check=ON")
    for table in TABLES:
        cursor = db.execute(f'SELECT * FROM "{table}" ORDER BY {", ".join(COLLECTIONS[table][1])}')
        names = [d[0] for d in cursor.description]
        world[table] = [Record({n: [v] for n, v in zip(names, row)}) for row in cursor]
    db.close()
    for name, (file, *_rest) in COLLECTIONS.items():
        data = None
        if file == "crm.db":
            continue
        data = open(os.path.join(folder, file), "rb").read()
        records, header = [], None
        if file.endswith("ndjson"):
            fields = {f for p in COLLECTIONS[name][3] for f in p.fields} | set(COLLECTIONS[name][4])
            for raw in re.findall(rb"[^\n]*\n|[^\n]+$", data):
                parsed = json.loads(raw) if raw.strip() else None
                records.append(Record({f: dig(parsed, f.split(".")) for f in fields} if parsed is not None else {}, raw, parsed))
        else:
            delimiter, has_header = dialect(file, knobs)
            for raw in raw_records(data):
                row = cells(raw, delimiter)
                if has_header and header is None:
                    header = row
                    records.append(Record({}, raw, row))
                    continue
                names = header or [str(i + 1) for i in range(len(row))]
                records.append(Record({n: [c] for n, c in zip(names, row)}, raw, row))
        world[name] = records
    return world


# ---------------------------------------------------------------- erasing

def erase(world, people):
    """One pass, naively: matches to a fixpoint, then decisions."""
    wanted = {}
    for person in people:
        for kind, value in person.items():
            wanted.setdefault(kind, []).append(value if isinstance(value, list) else [value])

    def feeds(probe):
        if probe.kind:
            return {tuple(norm(v, s) for v, s in zip(value, probe.steps)) for value in wanted.get(probe.kind, [])}
        # A reference is compared as the finding field is, or as the field that it refers to.
        return {c for r in world[probe.of] if id(r) in matched for c in combos(r, probe.of_fields, probe.steps)}

    matched = set()
    while True:
        before = len(matched)
        for name, (_f, _k, _o, probes, _a) in COLLECTIONS.items():
            for probe in probes:
                values = feeds(probe)
                if values:
                    matched |= {id(r) for r in world[name] if not r.gone and any(c in values for c in combos(r, probe.fields, probe.steps)) and probe.when(r)}
        if len(matched) == before:
            break
    ids = {norm(r.get("id")[0], ()) for r in world["person"] if id(r) in matched} | {v[0] for v in wanted.get("customer_id", [])}
    emails = {norm(v[0], FOLD) for v in wanted.get("email", [])}
    decided = []
    for name, (_f, key, on_erase, probes, actions) in COLLECTIONS.items():
        own = any(p.of == name for c in COLLECTIONS.values() for p in c[3]) or name == "person"
        for r in world[name]:
            if id(r) not in matched:
                continue
            if name == "invoice" and retained(r):
                continue
            ours, theirs = set(), set()
            for p in probes:
                if own and p.kind:
                    continue
                values = feeds(p)
                for c in combos(r, p.fields, p.steps):
                    (ours if c in values else theirs).add(p.target())
            if ours & theirs:
                changes = {}
                for p in probes:
                    if len(p.fields) == 1 and p.fields[0] not in key:
                        values = feeds(p)
                        new = [None if (norm(v, p.steps[0]),) in values else v for v in r.get(p.fields[0])]
                        if new != r.get(p.fields[0]):
                            changes[p.fields[0]] = new
                decided.append((r, changes))
            elif on_erase == "delete":
                decided.append((r, None))
            else:
                decided.append((r, {f: [v if norm(v, ()) is None else new for v in r.get(f)] for f, new in actions.items() if f in r.values}))
    for r, changes in decided:
        if changes is None:
            r.gone = True
        else:
            for field, new in changes.items():
                if new != r.values[field]:
                    r.changed.add(field)
                r.values[field] = new
    for name, fields in SCANNED.items():
        for r in world[name]:
            for field in fields:
                if isinstance(r.values[field][0], str):
                    text = r.values[field][0]
                    for kind, values in wanted.items():
                        if kind in ("email", "customer_id"):
                            for (value,) in values:
                                text = re.sub(r"(?<![\w.+@-])" + spelled(value) + r"(?![\w@-]|\.\w)", "[erased]", text, flags=re.I)
                    r.values[field] = [text]
    return ids, emails


# ---------------------------------------------------------------- comparing

def same(expected, actual):
    if isinstance(expected, Random):
        return expected.fits(actual)
    return type(expected) is type(actual) and expected == actual


def check(before, after, passes, knobs):
    problems = []
    world = read_world(before, knobs)
    ids, emails = set(), set()
    for people in passes:
        i, e = erase(world, people)
        ids |= i
        emails |= e
    restored = read_world(after, knobs)
    for table in TABLES:
        expected = [r for r in world[table] if not r.gone]
        actual = restored[table]
        if len(expected) != len(actual):
            problems.append(f"{table}: {len(actual)} rows, expected {len(expected)} of {len(world[table])}")
            continue
        for e, a in zip(expected, actual):
            if e.values.keys() != a.values.keys() or not all(same(v[0], a.values[n][0]) for n, v in e.values.items()):
                problems.append(f"{table}: {a.values} expected {({n: repr(v) for n, v in e.values.items()})}")
                break
    for sql in ("PRAGMA integrity_check", "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY 1, 2", "PRAGMA user_version", "PRAGMA encoding", "SELECT * FROM other ORDER BY id"):
        rows = []
        for folder in (before, after):
            db = sqlite3.connect(f"file:{os.path.join(folder, 'crm.db')}?mode=ro&immutable=1", uri=True)
            rows.append(db.execute(sql).fetchall())
            db.close()
        if rows[0] != rows[1]:
            problems.append(f"{sql}: {rows[1][:3]} instead of {rows[0][:3]}")
    for name, (file, _k, _o, _p, _a) in COLLECTIONS.items():
        if file == "crm.db":
            continue
        expected = [r for r in world[name] if not r.gone]
        actual = restored[name]
        if len(expected) != len(actual):
            problems.append(f"{file}: {len(actual)} records, expected {len(expected)} of {len(world[name])}")
            continue
        for e, a in zip(expected, actual):
            if not e.changed:
                if e.raw != a.raw:
                    problems.append(f"{file}: {a.raw} was {e.raw}")
                    break
            elif e.raw == a.raw or e.raw[-2:].strip(b"\r\n") != b"" and e.raw[-1:] != a.raw[-1:] or e.raw.endswith(b"\r\n") != a.raw.endswith(b"\r\n"):
                problems.append(f"{file}: {a.raw} was {e.raw}, changed {e.changed}")
                break
            else:
                for field, values in e.values.items():
                    empty = "" if file.endswith(("csv", "tsv")) else None
                    wanted = [empty if v is None else v for v in values]
                    if len(wanted) != len(a.get(field)) or not all(same(w, v) for w, v in zip(wanted, a.get(field))):
                        problems.append(f"{file} {field}: {a.get(field)} expected {wanted}; {a.raw} was {e.raw}")
                        break
                if isinstance(e.extra, list) and len(e.extra) != len(a.extra):
                    problems.append(f"{file}: {a.raw} was {e.raw}")
                if isinstance(e.extra, dict) and without(name, e.extra) != without(name, a.extra):
                    problems.append(f"{file}: {a.raw} was {e.raw}")
    files = lambda folder: {os.path.relpath(os.path.join(d, f), folder) for d, _, fs in os.walk(folder) for f in fs}
    known = {c[0] for c in COLLECTIONS.values()}

    def goes(path):
        m = re.fullmatch(r"uploads/([^/]+)/.*", path)
        if m and m.group(1) in ids:
            return True
        m = re.fullmatch(r"mail/([^/]+)\.eml", path)
        return bool(m and norm(m.group(1), FOLD) in emails)

    expected = {f for f in files(before) if not goes(f) and not f.startswith("crm.db-")}
    actual = {f for f in files(after) if not f.startswith("crm.db-")}
    if expected != actual:
        problems.append(f"files: missing {sorted(expected - actual)[:5]}, too many {sorted(actual - expected)[:5]}")
    for f in expected & actual - known:
        if open(os.path.join(before, f), "rb").read() != open(os.path.join(after, f), "rb").read():
            problems.append(f"{f}: its bytes differ")
    return problems


def without(name, parsed):
    """A JSON record with everything that may have changed cut out, as text, so that order and numbers count."""
    fields = set(COLLECTIONS[name][4])

    def walk(node, path):
        if isinstance(node, dict):
            return {k: walk(v, f"{path}.{k}" if path else k) for k, v in node.items()}
        if isinstance(node, list):
            return [walk(v, path + "[]") for v in node]
        return "?" if path in fields else node
    return json.dumps(walk(parsed, ""))


# ---------------------------------------------------------------- making

def person_values(rng, i):
    first = rng.choice(FIRST)
    letters = re.sub(r"\W", "", unicodedata.normalize("NFC", first))
    email = f"{letters}{i}@example.org"
    shown = rng.choice([email, email.upper(), email.lower(), " " + email, unicodedata.normalize("NFD", email)])
    return 100000 + i, email, shown, first, rng.choice(LAST), f"19{rng.randrange(40, 99)}-0{rng.randrange(1, 9)}-11"


def text(rng, emails):
    words = ["alpha", "tango", "kilo", "na\u00efve", "42", "caf\u00e9", "\u2026"]
    out = [rng.choice(words) for _ in range(rng.randrange(0, 12))]
    for _ in range(rng.randrange(0, 3)):
        email = rng.choice(emails)
        out.insert(rng.randrange(0, len(out) + 1), rng.choice(["{}", "<{}>", "({}),", "{}:", "x{}", "{}.uk"]).format(email))
    return " ".join(out)


def insert(rng, db, i, n, emails):
    pid, email, shown, first, last, born = person_values(rng, i)
    emails.append(email)
    db.execute("INSERT INTO person VALUES (?,?,?,?,?,?,?,?)",
               (pid, shown, first, last, born, text(rng, emails), rng.randbytes(rng.choice([0, 3, 40, 900])), rng.choice(["Berlin", "Paris", None])))
    for k in range(rng.randrange(0, 3)):
        code = f"A{i}-{k}"
        db.execute("INSERT INTO account VALUES (?,?,?)", (code, rng.choice([pid, str(pid)]), text(rng, ["nobody"])))
        for m in range(rng.randrange(0, 3)):
            real = i * 8 + k * 2 + m * 0.25 + 0.5
            db.execute("INSERT INTO payment VALUES (?,?,?,?)", (real, code, rng.choice(["retail", "trade", None]), rng.randrange(1000)))
            if rng.random() < 0.4:
                db.execute("INSERT INTO refund(payment, cents) VALUES (?,?)", (real, rng.randrange(100)))
    for team in rng.sample(range(9), rng.randrange(0, 3)):
        db.execute("INSERT INTO membership VALUES (?,?,?)", (pid, team, rng.choice(["owner", "guest"])))
    other = lambda: rng.choice([100000 + rng.randrange(0, n), None])
    for _ in range(rng.randrange(0, 3)):
        db.execute("INSERT INTO message(sender, recipient, body) VALUES (?,?,?)", (pid, other(), text(rng, ["somebody"])))
    if rng.random() < 0.5:
        db.execute("INSERT INTO invoice(person, issued, total) VALUES (?,?,?)", (pid, rng.choice(["2015-03-01", "2025-03-01", "2019-02-28"]), rng.random() * 100))
    if rng.random() < 0.5:
        top = db.execute("SELECT max(id) FROM comment").fetchone()[0] or 0
        parent = rng.choice([None, rng.randrange(1, top + 1)]) if top else None
        db.execute("INSERT INTO comment(author, parent, body) VALUES (?,?,?)", (pid, parent, text(rng, ["x"])))
    if rng.random() < 0.3:
        db.execute("INSERT INTO alpha(id, person, beta) VALUES (?,?,?)", (i, pid, rng.choice([None, i])))
        db.execute("INSERT INTO beta(id, alpha) VALUES (?,?)", (i, rng.choice([i, max(0, i - 1)])))


def quoted(rng, value, delimiter):
    value = str(value)
    if any(c in value for c in (delimiter, '"', "\n", "\r")) or rng.random() < 0.3:
        return '"' + value.replace('"', '""') + '"'
    return value


def row(rng, values, delimiter, end):
    return delimiter.join(quoted(rng, v, delimiter) for v in values) + end


def write_records(folder, rng, people, n, knobs, end, mode):
    def put(name, lines, head=""):
        with open(os.path.join(folder, name), mode, newline="", encoding="utf-8") as f:
            f.write((head if mode == "w" else "") + "".join(lines))
    d = knobs["delimiter"]
    signups, leads, orders, posts, events, carts = [], [], [], [], [], []
    for (pid, email, shown, first, last, born) in people:
        for _ in range(rng.randrange(0, 3)):
            signups.append(row(rng, [first, shown, rng.choice(["a\nb", "line\r\nbreak", 'say ""hi""', "x" + d + "y", "", "plain"]), rng.randrange(999)], d, end))
            if rng.random() < 0.03:
                signups.append(end)
        leads.append(row(rng, [shown, first, rng.choice([pid, "", pid]), rng.choice(["hot", "cold\tish"])], "\t", "\n"))
        for k in range(rng.randrange(0, 3)):
            orders.append(row(rng, [f"O{pid}-{k}", rng.choice([pid, f"{pid}"]), rng.randrange(500)], ",", "\n"))
            posts.append(json.dumps({"order": {"code": f"O{pid}-{k}"}, "text": "nothing", "n": rng.random()}) + "\n")
        events.append(json.dumps({"user": {"id": rng.choice([pid, str(pid)]), "tags": [1, 2.50, None]}, "page": "/" + "p" * rng.randrange(30)}, separators=rng.choice([(",", ":"), (", ", ": ")])) + rng.choice(["\n", "\r\n", "\n\n"]))
        owners = [{"sku": k, "owner": {"id": 100000 + rng.randrange(0, n)}} for k in range(rng.randrange(0, 3))]
        if rng.random() < 0.5:
            owners = [{"owner": {"id": pid}, "sku": 0}] * rng.randrange(1, 3)
        carts.append(json.dumps({"user": {"email": shown}, "items": owners, "name": first, "total": 1.10}, ensure_ascii=rng.random() < 0.5) + "\n")
    put("signups.csv", signups, ("\ufeff" if knobs["bom"] else "") + d.join(["Name", "Email", "Note", "N"]) + end)
    put("leads.tsv", leads)
    put("orders.csv", orders, "code,customer,cents\n")
    put("posts.ndjson", posts)
    put("events.ndjson", events)
    put("carts.ndjson", carts)
    for (pid, email, shown, *_rest) in people:
        if rng.random() < 0.2:
            path = os.path.join(folder, "uploads", str(pid), *(["deep"] if rng.random() < 0.5 else []))
            os.makedirs(path, exist_ok=True)
            open(os.path.join(path, "a.bin"), "wb").write(rng.randbytes(rng.randrange(0, 3000)))
        if rng.random() < 0.2:
            os.makedirs(os.path.join(folder, "mail"), exist_ok=True)
            open(os.path.join(folder, "mail", rng.choice([email, email.upper()]) + ".eml"), "wb").write(rng.randbytes(200))


SCHEMA = """
CREATE TABLE person(id INTEGER PRIMARY KEY, email TEXT, first TEXT, last TEXT, born TEXT, note TEXT, extra BLOB, city TEXT);
CREATE TABLE account(code TEXT PRIMARY KEY, person, label TEXT) WITHOUT ROWID;
CREATE TABLE payment(ref REAL PRIMARY KEY, account TEXT, kind TEXT, cents INT);
CREATE TABLE refund(id INTEGER PRIMARY KEY, payment REAL, cents INT);
CREATE TABLE membership(person INT REFERENCES person(id), team INT, role TEXT, PRIMARY KEY(person, team)) WITHOUT ROWID;
CREATE TABLE message(id INTEGER PRIMARY KEY AUTOINCREMENT, sender INT REFERENCES person(id), recipient INT, body TEXT);
CREATE TABLE invoice(id INTEGER PRIMARY KEY, person INT REFERENCES person(id), issued TEXT, total REAL);
CREATE TABLE comment(id INTEGER PRIMARY KEY, author INT, parent INT REFERENCES comment(id), body TEXT);
CREATE TABLE alpha(id INTEGER PRIMARY KEY, person INT, beta INT);
CREATE TABLE beta(id INTEGER PRIMARY KEY, alpha INT);
CREATE TABLE other(id INTEGER PRIMARY KEY, t TEXT, b BLOB);
"""


def connect(folder):
    db = sqlite3.connect(os.path.join(folder, "crm.db"), isolation_level=None)
    db.execute("PRAGMA secure_delete=OFF")
    return db


def gen(folder, seed, knobs):
    rng = random.Random(seed)
    n = knobs["people"]
    db = connect(folder)
    db.execute(f"PRAGMA page_size={knobs['page_size']}")
    db.execute(f"PRAGMA encoding='{knobs['encoding']}'")
    db.execute(f"PRAGMA auto_vacuum={knobs['auto_vacuum']}")
    db.executescript(SCHEMA)
    if knobs["indexed"]:
        db.executescript("CREATE INDEX pe ON person(email COLLATE NOCASE); CREATE INDEX ap ON account(person); CREATE INDEX ms ON message(sender); CREATE UNIQUE INDEX mb ON beta(id, alpha)")
    db.execute("PRAGMA user_version=77")
    db.execute("BEGIN")
    emails, order = [], list(range(n))
    rng.shuffle(order)
    for i in order:
        insert(rng, db, i, n, emails)
        db.execute("INSERT INTO other(t, b) VALUES (?,?)", (text(rng, ["y"]), rng.randbytes(20)))
    db.execute("COMMIT")
    db.close()
    rng = random.Random(seed + 1)
    people = [person_values(random.Random(seed * 1000 + i), i) for i in range(n)]
    write_records(folder, rng, people, n, knobs, "\r\n" if knobs["crlf"] else "\n", "w")
    open(os.path.join(folder, "readme.txt"), "w").write("nothing about anybody\n" * 50)


def night(folder, seed, number, knobs):
    rng = random.Random(seed * 31 + number)
    n = knobs["people"]
    db = connect(folder)
    db.execute("BEGIN")
    emails = [r[0].strip() for r in db.execute("SELECT email FROM person WHERE email IS NOT NULL")]
    for i in range(n + 10 * number, n + 10 * number + 3):
        insert(rng, db, i, n, emails)
    # Some change their address, some rows come and go: the pages age.
    for _ in range(2):
        db.execute("UPDATE person SET email = ? WHERE id = ?", (f"new{rng.randrange(99)}@example.net", 100000 + rng.randrange(n)))
    db.execute("DELETE FROM message WHERE id % 17 = ?", (number,))
    db.execute("UPDATE comment SET body = body || ' edited' WHERE id % 13 = ?", (number,))
    db.execute("COMMIT")
    db.close()
    people = [person_values(random.Random(seed * 1000 + i), i) for i in rng.sample(range(n), 4)]
    write_records(folder, rng, people, n, knobs, "\r\n" if knobs["crlf"] else "\n", "a")


def main():
    command, folder = sys.argv[1:3]
    if command == "gen":
        gen(folder, int(sys.argv[3]), json.loads(sys.argv[4]))
    elif command == "night":
        night(folder, int(sys.argv[3]), int(sys.argv[4]), json.loads(sys.argv[5]))
    else:
        problems = check(folder, sys.argv[3], json.loads(sys.argv[4]), json.loads(sys.argv[5]))
        print("\n".join(str(p)[:600] for p in problems))
        sys.exit(1 if problems else 0)


main()
