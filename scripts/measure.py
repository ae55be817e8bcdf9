"""Runs a command and says what it cost: shared by scripts/bench and scripts/bench-memory."""

import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class Failed(Exception):
    """A measured command ended badly."""


def measure(command, cwd, env=None, stdout=subprocess.DEVNULL, accept=(0,)):
    """Runs `command` (a list, or a string for bash) in `cwd` and waits for it and all its children.

    Seconds of wall clock and of processor (user + system), the largest resident set of any one process in MiB, and the MB that were
    read and written by system calls (caches do not hide anything). Fails with what the command said on standard error."""
    if isinstance(command, str):
        command = ["bash", "-o", "pipefail", "-c", command]
    started = time.monotonic()
    log = Path(cwd) / ".stderr"
    with open(log, "wb") as stderr:
        child = subprocess.Popen(command, cwd=cwd, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        # Of the process and of all children that it waited for.
        io = dict(line.split(": ") for line in Path(f"/proc/{child.pid}/io").read_text().splitlines())
        _, status, usage = os.wait4(child.pid, 0)
    wall = time.monotonic() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    said = log.read_text(errors="replace")
    log.unlink()
    if child.returncode not in accept:
        raise Failed(f"{' '.join(map(str, command))}: exit code {child.returncode}\n{said[-2000:]}")
    return {
        "wall": round(wall, 3),
        "cpu": round(usage.ru_utime + usage.ru_stime, 3),
        "peak_mib": round(usage.ru_maxrss / 1024, 1),
        "read_mb": round(int(io["rchar"]) / 1e6, 1),
        "written_mb": round(int(io["wchar"]) / 1e6, 1),
    }


def build():
    """Builds the program and the generator for release; their paths. RESEAL_BIN and GEN_CRM_BIN name some that are built already."""
    given = [os.environ.get(name) for name in ("RESEAL_BIN", "GEN_CRM_BIN")]
    if all(given):
        return tuple(Path(p).resolve() for p in given)
    subprocess.run(["cargo", "build", "--release", "--locked", "--quiet", "--bin", "reseal", "--example", "gen_crm"], cwd=ROOT, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    return target / "reseal", target / "examples" / "gen_crm"


def size_mb(path):
    """Bytes of all files below, in MB (apparent sizes, but holes do not count)."""
    total = 0
    for folder, _, files in os.walk(path):
        for name in files:
            stat = os.lstat(os.path.join(folder, name))
            total += min(stat.st_size, stat.st_blocks * 512)
    return round(total / 1e6, 1)


def set_aside(path):
    """Takes a folder away without removing its small files; its parent's removal does that. While thousands of files have been removed
    within the last minutes, ext4 is slow to create new ones: the next tool would pay for the last one's."""
    path = Path(path)
    if not path.exists():
        return
    for folder, _, files in os.walk(path):
        for name in files:
            file = os.path.join(folder, name)
            if not os.path.islink(file) and os.path.getsize(file) > 1 << 20:
                os.unlink(file)
    n = 1
    while (aside := path.with_name(f".{path.name}.{n}")).exists():
        n += 1
    path.rename(aside)


def warm(path):
    """Reads everything once, so that no tool pays for a cold cache."""
    subprocess.run(f"find '{path}' -type f -print0 | xargs -0 -r cat >/dev/null", shell=True, check=True)


def people(data, count):
    """Identities of so many customers, spread over all of them."""
    db = sqlite3.connect(f"{data}/db/crm.db")
    most = db.execute("SELECT max(id) FROM customers").fetchone()[0]
    found = db.execute("SELECT email, id FROM customers WHERE id % ? = 0 ORDER BY id LIMIT ?", (max(1, most // count - 1), count)).fetchall()
    db.close()
    return [{"email": email, "customer_id": str(id)} for email, id in found]


def reseal_environment(work):
    """Settings for a reseal that keeps everything in `work`."""
    secret = Path(work) / "passphrase"
    if not secret.exists():
        secret.write_text(os.urandom(24).hex())
        secret.chmod(0o600)
    return {
        "RESEAL_CONFIG": str(Path(work) / "reseal.yaml"),
        "RESEAL_PASSPHRASE_FILE": str(secret),
    }


def die(message):
    """Ends with a message and exit code 1."""
    sys.exit(f"{Path(sys.argv[0]).name}: {message}")
