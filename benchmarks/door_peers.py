"""The attacks on the SQL door, made on what one would use without it: DuckDB's own read-only connection, and Datasette.

DuckDB runs each attack in a forked process, which is ended a second after its limit of time and may have four gigabytes, so that the
machine survives. Datasette runs as its own server over an SQLite file with the same tables; where SQLite has another way to the same end,
`SQLITE` has it.
"""

import os
import resource
import select
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, NoReturn

import duckdb
import httpx

from tests.audit.door.arena import FOLDER, Arena, leaks
from tests.audit.door.attacks import Attack
from tests.audit.door.fight import LATE_S, LIMITS

_MOST_BYTES = 4 << 30
_LONGEST_URL = 50_000
_BUSY_MB = 200
PLAIN: Mapping[str, str | int | bool] = {"memory_limit": f"{LIMITS.memory_mb}MB", "threads": LIMITS.threads}
SHUT: Mapping[str, str | int | bool] = {
    **PLAIN,
    "enable_external_access": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "max_execution_time": int(LIMITS.time_s * 1000),
    "lock_configuration": True,
}
"""What DuckDB's page on securing it names, and its own limit of time."""

SQLITE: Mapping[tuple[str, str], str] = {
    ("writing inside a query", "copy in a CTE"): "SELECT writefile('{out}', 'x')",
    ("writing statements", "export"): "VACUUM INTO '{out}'",
    ("files", "read_text"): "SELECT readfile('{given}')",
    ("files", "glob"): "SELECT name FROM fsdir('{folder}')",
    ("files", "read_csv"): "SELECT * FROM csv('{given}')",
    ("environment and settings", "databases with their paths"): "SELECT * FROM pragma_database_list",
    ("environment and settings", "databases with their paths, by a pragma"): "PRAGMA database_list",
    ("changing settings", "the lock"): "PRAGMA writable_schema = 1",
    ("changing settings", "the temporary directory"): "PRAGMA temp_store_directory = '{folder}'",
    ("changing settings", "memory"): "PRAGMA cache_size = 100000000",
    ("other databases", "attach"): "ATTACH DATABASE '{given}' AS other",
    ("other databases", "attach to write"): "ATTACH DATABASE '{out}' AS other",
    ("extensions", "load a file"): "SELECT load_extension('{folder}/x')",
    ("time", "a cross join"): "SELECT count(*) FROM t AS a, t AS b, t AS c, t AS d, t AS e, t AS f WHERE a.a + b.a = c.a - 1000",
    ("time", "a recursive CTE without end"): "WITH RECURSIVE a(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM a) SELECT max(x) FROM a",
    ("time", "long texts compared"): "SELECT count(*) FROM t WHERE replace(hex(zeroblob(20000000)), '0', '00') LIKE '%1%2%3%'",
    ("memory", "a text of 2 GB"): "SELECT length(zeroblob(900000000) || hex(zeroblob(400000000)))",
    ("memory", "a text padded"): "SELECT length(printf('%.*c', 900000000, 'x'))",
    ("memory", "a list"): "SELECT length(group_concat(hex(zeroblob(10000000)))) FROM t",
    ("memory", "bits"): "SELECT length(randomblob(900000000))",
    ("size of the result", "rows"): "WITH RECURSIVE a(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM a LIMIT 100000000) SELECT x FROM a",
    ("size of the result", "wide rows"): "SELECT hex(zeroblob(50000)) FROM t AS a, t AS b",
}
"""Attacks as SQLite spells them; all others are made as they stand."""


class Escape(NamedTuple):
    """How an attack got through: `reads`, `place` (it knows where the file stands), `writes`, `network`, `time`, `memory`."""

    family: str
    name: str
    ways: tuple[str, ...]


class Told(NamedTuple):
    """What an attack gave as a text, how long it took, and the most memory that its process had."""

    text: str
    took_s: float
    peak_mb: float


def escapes(place: Arena, attacks: Sequence[Attack], ask: Callable[[Attack], Told]) -> list[Escape]:
    """Those of `attacks` that got through when `ask` made them; the place is put in order after each."""
    found = []
    idle_mb = ask(Attack("", "", "SELECT 1", "answered")).peak_mb
    with _kept(place) as restore:
        for attack in attacks:
            before, visits = place.content(), len(place.visits)
            told = ask(attack)
            secrets = leaks(told.text)
            ways = {
                "reads": bool(set(secrets) - {FOLDER}),
                "place": FOLDER in secrets,
                "writes": place.content() != before,
                "network": len(place.visits) > visits,
                "time": told.took_s > LIMITS.time_s + LATE_S,
                "memory": told.peak_mb > idle_mb + LIMITS.memory_mb,
            }
            if ways["writes"]:
                restore()
            if any(ways.values()):
                found.append(Escape(attack.family, attack.name, tuple(way for way, true in ways.items() if true)))
    return found


@contextmanager
def _kept(place: Arena) -> Iterator[Callable[[], None]]:
    """A function that makes the place what it is now."""
    kept = place.root.with_name(f"{place.root.name}-kept")
    shutil.copytree(place.root, kept, symlinks=True)

    def restore() -> None:
        shutil.rmtree(place.root)
        shutil.copytree(kept, place.root, symlinks=True)

    try:
        yield restore
    finally:
        shutil.rmtree(kept)


def duckdb_alone(place: Arena, settings: Mapping[str, str | int | bool]) -> Callable[[Attack], Told]:
    """A function that makes an attack on a read-only connection with `settings`."""

    def ask(attack: Attack) -> Told:
        reading, writing = os.pipe()
        began = time.monotonic()
        pid = os.fork()
        if pid == 0:
            _connect_and_run(place, attack, settings, writing)
        os.close(writing)
        text = _read(reading, began + LIMITS.time_s + LATE_S)
        took_s = time.monotonic() - began
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _, _, usage = os.wait4(pid, 0)
        return Told(text, took_s, usage.ru_maxrss / 1024)

    return ask


def _connect_and_run(place: Arena, attack: Attack, settings: Mapping[str, str | int | bool], writing: int) -> NoReturn:
    os.chdir(place.root)
    silent = os.open(os.devnull, os.O_WRONLY)
    for standard in (1, 2):
        os.dup2(silent, standard)
    resource.setrlimit(resource.RLIMIT_DATA, (_MOST_BYTES, _MOST_BYTES))
    try:
        connection = duckdb.connect(os.fspath(place.file), read_only=True, config=dict(settings))
        connection.execute(place.sql(attack), place.parameters(attack))
        text = str(connection.fetchmany(LIMITS.rows) if connection.description else "")
    except Exception as error:  # Whatever it raises is its answer.
        text = str(error)
    with suppress(BrokenPipeError):
        os.write(writing, text.encode(errors="replace"))
    os._exit(0)


def _read(descriptor: int, deadline: float) -> str:
    """What is written until the end or the deadline."""
    found = b""
    while select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
        taken = os.read(descriptor, 1 << 20)
        if not taken:
            break
        found += taken
    os.close(descriptor)
    return found.decode(errors="replace")


@contextmanager
def datasette(place: Arena, program: Path) -> Iterator[Callable[[Attack], Told]]:
    """A function that makes an attack on a Datasette whose program stands there, with its limits set to those of the door."""
    file = place.file.with_name("audit.sqlite")
    with sqlite3.connect(file) as made:
        made.execute(
            "CREATE TABLE t AS WITH RECURSIVE r(a) AS (SELECT 0 UNION ALL SELECT a + 1 FROM r LIMIT 100) SELECT a, 'x' || a AS b FROM r"
        )
        made.execute("CREATE TABLE seeds AS SELECT 'site' || a AS site, a AS seed, 'TRAINING' AS stage FROM t LIMIT 10")
    made.close()
    limits = {"sql_time_limit_ms": int(LIMITS.time_s * 1000), "max_returned_rows": LIMITS.rows}
    told = [word for name, value in limits.items() for word in ("--setting", name, str(value))]
    with ExitStack() as servers:
        idle: list[tuple[httpx.Client, int]] = []

        def ask(attack: Attack) -> Told:
            if not idle:
                idle.append(servers.enter_context(_serving([str(program), "serve", str(file), *told])))
            answered = _ask_datasette(place, attack, *idle[0])
            if answered.took_s > LIMITS.time_s or answered.peak_mb > _BUSY_MB:
                # What it still does, and what it keeps, is not to be counted against the next attack.
                idle.clear()
                servers.close()
            return answered

        yield ask


@contextmanager
def _serving(command: Sequence[str]) -> Iterator[tuple[httpx.Client, int]]:
    """A client of a server that runs, and the server's process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [*command, "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=LIMITS.time_s + 2 * LATE_S, follow_redirects=True) as client:
                _wait_for(client, server)
                yield client, server.pid
        finally:
            server.kill()


def _wait_for(client: httpx.Client, server: "subprocess.Popen[bytes]") -> None:
    while server.poll() is None:
        with suppress(httpx.TransportError):
            client.get("/-/versions.json")
            return
        time.sleep(0.1)
    raise RuntimeError("datasette did not start")


def _ask_datasette(place: Arena, attack: Attack, client: httpx.Client, pid: int) -> Told:
    sql = place.fill(SQLITE.get((attack.family, attack.name), attack.sql))
    if len(sql) > _LONGEST_URL:
        return Told("", 0.0, 0.0)
    with suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # The peak begins anew.
    began = time.monotonic()
    try:
        text = client.get("/audit.json", params={"_shape": "arrays", **(place.parameters(attack) or {}), "sql": sql}).text
    except (httpx.TransportError, httpx.InvalidURL, UnicodeError) as error:
        text = str(error)
    took_s = time.monotonic() - began
    status = Path(f"/proc/{pid}/status").read_text()
    return Told(text, took_s, int(status.partition("VmHWM:")[2].split()[0]) / 1024)
