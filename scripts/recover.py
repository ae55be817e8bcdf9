#!/usr/bin/env python3
"""Restores archives of a reseal repository (format version 1) without reseal, from docs/format.md alone.

    pip install cryptography cbor2 zstandard argon2-cffi blake3

    recover.py REPOSITORY --passphrase-file FILE --list
    recover.py REPOSITORY --key-file FILE --archive PREFIX --to DIRECTORY
    recover.py REPOSITORY --keys KEYS --passphrase-file FILE --archive PREFIX --to DIRECTORY

Reads only. It does not apply erasures that the ledger names and an archive has not seen yet (`reseal restore` does): after
an emergency restore, look at the requests.
"""

import argparse
import hmac
import io
import json
import os
import stat
import struct
import sys
import unicodedata
from hashlib import sha256

import cbor2
import zstandard
from argon2.low_level import Type, hash_secret_raw
from blake3 import blake3
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

ROLE_DATA, ROLE_ENTRIES, ROLE_INDEX = 0, 1, 2
MAX_CHUNK, MAX_DEPTH = 64 << 20, 6


class Damaged(Exception):
    pass


def need(condition, message):
    if not condition:
        raise Damaged(message)


def be32(n):
    return struct.pack(">I", n)


def raw_bytes(public):
    return public.public_bytes_raw()


# --- primitives -------------------------------------------------------------------------------------------------------------


def hkdf_extract(salt, key):
    return hmac.new(salt or bytes(32), key, sha256).digest()


def hkdf_expand(prk, info, length):
    out, block, n = b"", b"", 1
    while len(out) < length:
        block = hmac.new(prk, block + info + bytes([n]), sha256).digest()
        out, n = out + block, n + 1
    return out[:length]


def hkdf(key, salt, info):
    return hkdf_expand(hkdf_extract(salt, key), info, 32)


def gcm_open(key, aad, sealed, what, nonce=bytes(12)):
    try:
        return AESGCM(key).decrypt(nonce, sealed, aad)
    except InvalidTag:
        raise Damaged(f"{what}: its seal does not open") from None


def hpke_open(private, enc, info, ciphertext, what):
    """RFC 9180, base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM."""

    def labeled_extract(suite, salt, label, ikm):
        return hkdf_extract(salt, b"HPKE-v1" + suite + label + ikm)

    def labeled_expand(suite, prk, label, info, length):
        return hkdf_expand(prk, struct.pack(">H", length) + b"HPKE-v1" + suite + label + info, length)

    kem = b"KEM" + struct.pack(">H", 0x0020)
    dh = private.exchange(X25519PublicKey.from_public_bytes(enc))
    context = enc + raw_bytes(private.public_key())
    shared = labeled_expand(kem, labeled_extract(kem, b"", b"eae_prk", dh), b"shared_secret", context, 32)
    suite = b"HPKE" + struct.pack(">HHH", 0x0020, 0x0001, 0x0002)
    psk_id_hash = labeled_extract(suite, b"", b"psk_id_hash", b"")
    info_hash = labeled_extract(suite, b"", b"info_hash", info)
    schedule = b"\0" + psk_id_hash + info_hash
    secret = labeled_extract(suite, shared, b"secret", b"")
    key = labeled_expand(suite, secret, b"key", schedule, 32)
    nonce = labeled_expand(suite, secret, b"base_nonce", schedule, 12)
    return gcm_open(key, b"", ciphertext, what, nonce)


# --- the repository ---------------------------------------------------------------------------------------------------------


class Store:
    def __init__(self, root):
        self.root = root

    def get(self, key, offset=0, length=-1):
        try:
            with open(os.path.join(self.root, *key.split("/")), "rb") as file:
                file.seek(offset)
                return file.read(length)
        except FileNotFoundError:
            raise Damaged(f"{key} is missing") from None

    def list(self, folder):
        try:
            names = os.listdir(os.path.join(self.root, *folder.split("/")))
        except FileNotFoundError:
            return []
        return sorted(n for n in names if not n.startswith(".tmp-"))


def open_slot(store, name, repository, secret_of):
    """The slot's keyring, or None when the secret is not its own."""
    data = store.get(f"slots/{name}")
    need(data[:4] == b"RSS1" and data[4:20] == blake3(data[20:]).digest()[:16], f"slot {name}: its checksum does not fit")
    slot = cbor2.loads(data[20:])
    if slot["repository"] != repository:
        return None
    secret = secret_of(slot)
    if secret is None:
        return None
    costs = slot.get("kdf") or {"m": 0, "t": 0, "p": 0}
    sort = b"\1" if slot.get("kdf") else b"\2"
    aad = b"reseal/v1/slot\0" + repository + slot["id"] + sort + be32(costs["m"]) + be32(costs["t"]) + be32(costs["p"]) + slot["public"]
    try:
        opened = gcm_open(hkdf(secret, slot["salt"], b"reseal/v1/slot"), aad, slot["sealed"], name)
    except Damaged:
        return None
    private, verifying = X25519PrivateKey.from_private_bytes(opened[:32]), Ed25519PublicKey.from_public_bytes(opened[32:])
    message = b"reseal/v1/slot-keyring\0" + repository + slot["id"] + slot["public"] + slot["enc"] + slot["keyring"]
    try:
        verifying.verify(slot["signature"], message)
    except InvalidSignature:
        raise Damaged(f"slot {name}: its keyring was not made by this repository") from None
    ring = hpke_open(private, slot["enc"], b"reseal/v1/keyring\0" + repository + slot["id"], slot["keyring"], f"slot {name}")
    need(ring[0] == 1 and ring[2] >= 1 and len(ring) == 3 + 32 * ring[2], f"slot {name}: not a keyring")
    return [ring[3 + 32 * n : 35 + 32 * n] for n in range(ring[2])], raw_bytes(verifying)


class Repository:
    def __init__(self, data, keys, secret_of):
        self.data, self.keys = Store(data), Store(keys)
        params = self.data.get("reseal.json")
        self.params = json.loads(params)
        need(self.params.get("format") == "reseal", "reseal.json does not describe a reseal repository")
        if self.params["version"] != 1:
            sys.exit(f"the repository has format version {self.params['version']}; this script knows version 1")
        self.id = bytes.fromhex(self.params["repository"])
        opened, trouble = None, []
        for name in self.keys.list("slots"):
            try:
                opened = opened or open_slot(self.keys, name, self.id, secret_of)
            except Damaged as e:
                trouble.append(str(e))
        if not opened:
            sys.exit("; ".join(trouble) or "wrong passphrase or key file: no key slot opens with it")
        roots, verifying = opened
        self.roots = {hkdf(root, b"", b"reseal/v1/root-id")[:8]: root for root in roots}
        signing = self.open_object(self.keys, 5, "signing", f"signing/{self.params['repository']}")
        public = raw_bytes(Ed25519PrivateKey.from_private_bytes(signing["seed"]).public_key())
        genuine = public == verifying == bytes.fromhex(self.params["verifying_key"]) and signing["params"] == blake3(params).digest()
        need(genuine, "reseal.json is not what the sealed copy of its digest says")

    def open_object(self, store, kind, purpose, key):
        data = store.get(key)
        need(len(data) >= 61 and data[:4] == b"RSL1" and data[4] == kind, f"{key}: not a sealed {purpose}")
        root = self.roots.get(data[5:13])
        need(root is not None, f"{key}: sealed under a root key that is not in the keyring")
        derived = hkdf(root, data[13:45], purpose.encode() + b"\0" + key.encode())
        return cbor2.loads(gcm_open(derived, data[:45] + self.id + key.encode(), data[45:], key))

    def datasets(self):
        return self.keys.list("datasets")

    def heads(self, dataset):
        """The highest readable generation of every archive, oldest first; and what cannot be read."""
        heads, trouble = {}, []
        for name in self.data.list(f"archives/{dataset}"):
            key = f"archives/{dataset}/{name}"
            try:
                head = self.open_object(self.data, 1, "head", key)
                need(name == f"{head['archive'].hex()}.{head['generation']}" and head["dataset"] == dataset, f"{key}: names another archive")
            except Damaged as e:
                trouble.append(str(e))
                continue
            best = heads.get(head["archive"])
            if best is None or best["generation"] < head["generation"]:
                heads[head["archive"]] = head
        return sorted(heads.values(), key=lambda h: (h["created_at"].rstrip("Z"), h["archive"])), trouble


class Dataset:
    """Reads one dataset's chunks."""

    def __init__(self, repository, name):
        self.repository, self.name = repository, name
        secret = repository.open_object(repository.keys, 4, "dataset", f"datasets/{name}")["secret"]
        self.chunk_key = hkdf(secret, b"", b"reseal/v1/chunk-id")
        self.rows, self.trouble, self.cache = {}, [], {}
        for pack in repository.keys.list(f"sheets/{name}"):
            try:
                self.add_sheet(pack)
            except Damaged as e:
                self.trouble.append(str(e))

    def add_sheet(self, pack):
        key = f"sheets/{self.name}/{pack}"
        sheet = self.repository.open_object(self.repository.keys, 2, "sheet", key)
        need(sheet["pack"].hex() == pack, f"{key}: belongs to another pack")
        for n, ordinal in enumerate(sheet["ord"]):
            id, chunk_key, role = sheet["ids"][32 * n : 32 * n + 32], sheet["keys"][32 * n : 32 * n + 32], sheet["role"][n]
            place = (sheet["pack"], ordinal, sheet["off"][n], sheet["len"][n], sheet["raw"][n], sheet["codec"][n], chunk_key)
            self.rows.setdefault((id, role), []).append(place)

    def read(self, id, role):
        if role != ROLE_DATA and (id, role) in self.cache:
            return self.cache[id, role]
        failure = Damaged(f"chunk {id[:8].hex()}: no key sheet has its key")
        for place in self.rows.get((id, role), []):
            try:
                chunk = self.open_chunk(id, role, *place)
            except Damaged as e:
                failure = e
                continue
            if role != ROLE_DATA:
                self.cache[id, role] = chunk
            return chunk
        raise failure

    def open_chunk(self, id, role, pack, ordinal, offset, length, raw, codec, key):
        name = f"packs/{self.name}/{pack.hex()[:2]}/{pack.hex()}"
        what = f"{name}: chunk {id[:8].hex()}"
        aad = b"RSC1" + self.repository.id + pack + be32(ordinal) + id + bytes([role])
        body = gcm_open(key, aad, self.repository.data.get(name, offset, length), what)
        need(raw <= MAX_CHUNK and codec in (0, 1), f"{what}: an impossible length or codec")
        if codec == 1 and raw:
            try:
                body = zstandard.ZstdDecompressor().decompress(body, max_output_size=raw)
            except zstandard.ZstdError:
                raise Damaged(f"{what}: it does not decompress") from None
        need(len(body) == raw and blake3(body, key=self.chunk_key).digest() == id, f"{what}: its contents are not what its id says")
        return body

    def leaves(self, tree):
        """Chunk ids and lengths of a tree's contents, in order."""
        need(tree["d"] <= MAX_DEPTH, "a tree is too deep")
        yield from self.descend(tree["d"], tree["r"])

    def descend(self, depth, refs):
        for ref in refs:
            if depth == 0:
                yield ref["i"], ref["n"]
                continue
            below = cbor2.loads(self.read(ref["i"], ROLE_INDEX))
            need(sum(r["n"] for r in below) == ref["n"], "the lengths below an index chunk do not add up")
            yield from self.descend(depth - 1, below)

    def entries(self, head):
        for id, _ in self.leaves(head["entries"]):
            data = self.read(id, ROLE_ENTRIES)
            stream = io.BytesIO(data)
            while stream.tell() < len(data):
                yield cbor2.load(stream)

    def content(self, entry):
        for id, length in self.leaves(entry.get("content") or {"d": 0, "r": []}):
            chunk = self.read(id, ROLE_DATA)
            need(len(chunk) == length, "a chunk has another length than its reference says")
            yield chunk


# --- restoring --------------------------------------------------------------------------------------------------------------


def safe(path):
    parts = path.split(b"/")
    need(path and all(p not in (b"", b".", b"..") and b"\0" not in p for p in parts), "an entry's path leads out of the target")
    return parts


def locate(target, path):
    """Where an entry goes. No part of the way may be a link that an earlier entry made."""
    where = target
    for part in safe(path)[:-1]:
        where = os.path.join(where, part)
        if not os.path.lexists(where):
            os.mkdir(where, 0o700)
        need(stat.S_ISDIR(os.lstat(where).st_mode), "an entry's way leads through something that is no folder")
    return os.path.join(where, safe(path)[-1])


def write_file(dataset, entry, where):
    with open(os.open(where, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
        if entry.get("segments") is None:
            for chunk in dataset.content(entry):
                file.write(chunk)
        else:
            segments, left = iter(entry["segments"]), 0
            for chunk in dataset.content(entry):
                while chunk:
                    if left == 0:
                        offset, left = next(segments)
                        file.seek(offset)
                        continue
                    n = file.write(chunk[:left])
                    chunk, left = chunk[n:], left - n
        file.truncate(entry.get("size", 0))


def set_metadata(entry, where, warn):
    link = entry["kind"] == "symlink"
    for name, value in entry.get("xattrs", []):
        try:
            os.setxattr(where, name, value, follow_symlinks=False)
        except OSError as e:
            warn(f"{entry['path']!r}: extended attribute {name!r}: {e.strerror}")
    if os.geteuid() == 0:
        os.chown(where, entry["uid"], entry["gid"], follow_symlinks=False)
    if not link:
        os.chmod(where, entry["mode"] & 0o7777)
    seconds, nanoseconds = entry["mtime"]
    time = seconds * 1_000_000_000 + nanoseconds
    os.utime(where, ns=(time, time), follow_symlinks=False)


def restore(dataset, head, target, warn):
    os.makedirs(target, exist_ok=True)
    target = os.fsencode(target)
    folders, count, failed = [], 0, 0
    for entry in dataset.entries(head):
        count += 1
        kind = entry["kind"]
        try:
            where = locate(target, entry["path"])
            if kind == "directory":
                if not os.path.isdir(where) or os.path.islink(where):
                    os.mkdir(where, 0o700)
                folders.append((entry, where))
                continue
            if kind == "file":
                write_file(dataset, entry, where)
            elif kind == "symlink":
                os.symlink(entry["link"], where)
            elif kind == "hardlink":
                os.link(locate(target, entry["link"]), where, follow_symlinks=False)
                continue
            elif kind == "fifo":
                os.mkfifo(where, 0o600)
            else:
                sort = stat.S_IFCHR if kind == "chardevice" else stat.S_IFBLK
                os.mknod(where, sort | 0o600, os.makedev(*entry["rdev"]))
            set_metadata(entry, where, warn)
        except (Damaged, OSError) as e:
            failed += 1
            warn(f"{entry['path']!r}: {e}")
    # Last and deepest first: writing into a folder changes its time, and it may be read-only.
    for entry, where in reversed(folders):
        set_metadata(entry, where, warn)
    if count != head["entry_count"]:
        failed += 1
        warn(f"{count} entries were found, {head['entry_count']} were backed up")
    return count, failed


# --- the command line -------------------------------------------------------------------------------------------------------


def secret_from(arguments):
    if arguments.key_file:
        with open(arguments.key_file, encoding="utf-8") as file:
            lines = [line.strip() for line in file if line.strip() and not line.lstrip().startswith("#")]
        if len(lines) != 1 or not lines[0].startswith("RESEAL-KEY-1:"):
            sys.exit("not a key file")
        key = bytes.fromhex(lines[0].removeprefix("RESEAL-KEY-1:"))
        return lambda slot: None if slot.get("kdf") else key
    with open(arguments.passphrase_file, encoding="utf-8", newline="") as file:
        passphrase = unicodedata.normalize("NFC", file.read().removesuffix("\n").removesuffix("\r")).encode()

    def stretch(slot):
        kdf = slot.get("kdf")
        if not kdf:
            return None
        need(kdf["m"] <= 4 << 20 and kdf["t"] <= 100 and kdf["p"] <= 16, "a slot asks for absurd costs")
        return hash_secret_raw(passphrase, slot["salt"], kdf["t"], kdf["m"], kdf["p"], 32, Type.ID, 0x13)

    return stretch


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository")
    parser.add_argument("--keys", help="the keys location, where it is another directory")
    secret = parser.add_mutually_exclusive_group(required=True)
    secret.add_argument("--passphrase-file")
    secret.add_argument("--key-file")
    parser.add_argument("--dataset")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--list", action="store_true")
    what.add_argument("--archive", help="the archive's id, or how it begins; `latest` with --dataset")
    parser.add_argument("--to", help="where to restore to")
    arguments = parser.parse_args()
    warn = lambda message: print(f"warning: {message}", file=sys.stderr)

    repository = Repository(arguments.repository, arguments.keys or arguments.repository, secret_from(arguments))
    found, trouble = [], []
    for dataset in [arguments.dataset] if arguments.dataset else repository.datasets():
        heads, damaged = repository.heads(dataset)
        found += [(dataset, head) for head in heads]
        trouble += damaged
    for message in trouble:
        warn(message)
    if arguments.list:
        for dataset, head in found:
            tag = head.get("tag") or ""
            print(f"{head['archive'].hex()}  {dataset}  {head['created_at']}  generation {head['generation']}  {head['entry_count']} entries  {tag}".rstrip())
        return 6 if trouble else 0
    if not arguments.to:
        parser.error("--archive needs --to")
    if arguments.archive == "latest":
        matching = found[-1:] if arguments.dataset else []
    else:
        matching = [(d, h) for d, h in found if h["archive"].hex().startswith(arguments.archive)]
    if len(matching) != 1:
        sys.exit(f"{len(matching)} archives match {arguments.archive}")
    name, head = matching[0]
    dataset = Dataset(repository, name)
    for message in dataset.trouble:
        warn(message)
    count, failed = restore(dataset, head, arguments.to, warn)
    print(f"{count - failed} of {count} entries restored, {failed} with errors" if failed else f"{count} entries restored")
    return 6 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Damaged as e:
        sys.exit(f"damaged: {e}")
