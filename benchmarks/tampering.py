"""What is found when the files of a run are tampered with: of a sealed run, of an open one, and of what an observer derived.

    python benchmarks/tampering.py [--json]

A training (tests/whole/kills/scenario.py) is run to its end, another is killed, and both are observed. For each way to tamper a copy is
made and altered, and three commands are tried on it: `esper doctor`, `esper show` and `esper resume`. A sealed run is never resumed; there
it is tried with the mark removed.
"""

# ruff: noqa: S608 - the statements are this script's own.

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import sqlite3
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from esper.cli.main import main as esper
from esper.folds.monitoring.derive import MonitorSettings
from esper.history.checks import examine
from esper.observer.build import builtin_rules
from esper.observer.observing import Observer, ObserverSettings
from esper.oona.directory import Directory
from esper.oona.observed import Observed, observed_to, read_observed
from tests.audit.compliance.forging import Forger
from tests.whole.kills.lives import Lives, lives
from tests.whole.kills.scenario import RUN

Act = Callable[[Path], object]
RUN_FILE, OBSERVED = "run.sqlite", "observed.sqlite"


class Way(NamedTuple):
    """A way to tamper with the folder of a run."""

    group: str
    name: str
    act: Act


class Found(NamedTuple):
    """What each command says: the doctor's verdict, and whether the others refuse."""

    doctor: str
    show: str
    resume: str


def sql(file: str, *statements: str) -> Act:
    """Executes statements, schema and all."""

    def act(folder: Path) -> None:
        with closing(sqlite3.connect(folder / file)) as connection:
            connection.execute("PRAGMA writable_schema = ON")
            for statement in statements:
                connection.execute(statement)
            connection.commit()

    return act


def other_bytes(name: str, at: float, length: int = 16) -> Act:
    """Writes other bytes into a file, at a share of it."""

    def act(folder: Path) -> None:
        with (folder / name).open("r+b") as file:
            file.seek(int((folder / name).stat().st_size * at))
            file.write(random.Random(at).randbytes(length))

    return act


def cut(name: str, to: float) -> Act:
    """Cuts a file off at a share of it."""
    return lambda folder: os.truncate(folder / name, int((folder / name).stat().st_size * to))


def mark(**changes: object) -> Act:
    """Changes the mark, parts of its summary by `summary__name`."""

    def act(folder: Path) -> None:
        made = json.loads((folder / "sealed").read_text())
        for name, value in changes.items():
            outer, _, inner = name.partition("__")
            (made[outer] if inner else made)[inner or outer] = value
        (folder / "sealed").write_text(json.dumps(made))

    return act


def forged(change: Callable[[Forger], object]) -> Act:
    """Changes records, and recomputes all chains and the tails in the run's end."""

    def act(folder: Path) -> None:
        with Forger(folder) as log:
            change(log)
            log.tie()

    return act


COLUMNS: Mapping[str, str] = {
    "topic": "'telemetry.run.heartbeat'", "sequence": "sequence + 1000", "fact": "coalesce(fact, 0) + 1000", "moment": "moment + 1000",
    "incarnation": "incarnation + 1", "type": "'esper.run.heartbeat.v1'", "time": "time + 1", "epoch": "epoch + 1", "step": "step + 1",
    "cause": "'killed/1'", "trace": "'00'", "chain": "zeroblob(32)", "data": "CAST(replace(data, '1', '2') AS BLOB)",
}  # fmt: skip
FACT = "(SELECT row FROM records WHERE fact = 20)"
TELEMETRY = "(SELECT row FROM records WHERE fact IS NULL AND row > 20 LIMIT 1)"
LAST = "(SELECT max(row) FROM records)"


def of_records() -> Iterator[Way]:
    """Ways to change the records of a run."""
    for column, value in COLUMNS.items():
        yield Way("a field of a fact", column, sql(RUN_FILE, f"UPDATE records SET {column} = {value} WHERE row = {FACT}"))
    for column in ("sequence", "time", "step", "data", "moment"):
        yield Way("a field of telemetry", column, sql(RUN_FILE, f"UPDATE records SET {column} = {COLUMNS[column]} WHERE row = {TELEMETRY}"))
    for name, where in {
        "the first": "row = 1",
        "a fact": f"row = {FACT}",
        "telemetry": f"row = {TELEMETRY}",
        "ten": "row BETWEEN 30 AND 39",
    }.items():
        yield Way("records removed before the last", name, sql(RUN_FILE, f"DELETE FROM records WHERE {where}"))
    for name, where in {"one": f"row = {LAST}", "ten": f"row > {LAST} - 10", "all": "1"}.items():
        yield Way("records cut off the end", name, sql(RUN_FILE, f"DELETE FROM records WHERE {where}"))
    copied = "topic, sequence, fact, moment, incarnation, type, time, epoch, step, cause, trace, chain, data FROM records WHERE row = "
    yield Way("a record added", "a copy at the end", sql(RUN_FILE, f"INSERT INTO records SELECT {LAST} + 1, {copied}{LAST}"))
    yield Way("a record added", "a copy of a fact", sql(RUN_FILE, f"INSERT INTO records SELECT {LAST} + 1, {copied}{FACT}"))
    swap = "UPDATE records SET row = {} WHERE row = {}"
    yield Way("records exchanged", "two", sql(RUN_FILE, swap.format(-1, 30), swap.format(30, 31), swap.format(31, -1)))
    yield Way("its own chain recomputed", "a payload", _own_chain)
    for key, value in {"run": "'other'", "writer": "'other'"}.items():
        yield Way("meta", key, sql(RUN_FILE, f"UPDATE meta SET value = {value} WHERE key = '{key}'"))
    yield Way("meta", "without its run", sql(RUN_FILE, "DELETE FROM meta WHERE key = 'run'"))
    yield Way("meta", "without a table", sql(RUN_FILE, "DROP TABLE meta"))
    yield Way("meta, what nothing is made from", "created", sql(RUN_FILE, "UPDATE meta SET value = 'x' WHERE key = 'created'"))
    yield Way(
        "schema", "a trigger", sql(RUN_FILE, "CREATE TRIGGER forget AFTER INSERT ON records BEGIN DELETE FROM records WHERE row < 9; END")
    )
    yield Way("schema", "a view", sql(RUN_FILE, "CREATE VIEW more AS SELECT 1"))
    yield Way("schema", "a table", sql(RUN_FILE, "CREATE TABLE more (x)"))
    yield Way("schema", "an index", sql(RUN_FILE, "CREATE INDEX more ON records (moment)"))
    yield Way("schema", "without its index", sql(RUN_FILE, "DROP INDEX facts"))
    again = "UPDATE sqlite_schema SET sql = 'CREATE INDEX facts ON records (row) WHERE fact IS NOT NULL' WHERE name = 'facts'"
    less, more = (
        ("DROP INDEX facts", "CREATE INDEX facts ON records (row) WHERE fact < 9", again),
        ("DROP INDEX facts", "CREATE INDEX facts ON records (row)", again),
    )
    yield Way("index", "entries less", sql(RUN_FILE, *less))
    yield Way("index", "entries more", sql(RUN_FILE, *more))
    yield Way("the file", "its first bytes", other_bytes(RUN_FILE, 0.0))
    yield Way("the file", "another format", lambda folder: _put(folder / RUN_FILE, 60, b"\0\0\0\x63"))
    yield Way("the file", "another application", lambda folder: _put(folder / RUN_FILE, 68, b"abcd"))
    yield Way("the file", "bytes in its middle", other_bytes(RUN_FILE, 0.5, 64))
    yield Way("the file", "cut off", cut(RUN_FILE, 0.6))
    yield Way("the file", "gone", lambda folder: (folder / RUN_FILE).unlink())
    yield Way("the folder", "under another name", lambda folder: folder.rename(folder.with_name("other")))


def of_checkpoints() -> Iterator[Way]:
    """Ways to change the checkpoints of a run."""

    def newest(folder: Path) -> Path:
        return max((folder / "checkpoints").iterdir())

    yield Way("a checkpoint altered", "its tensors", lambda folder: _put(newest(folder) / "tensors.safetensors", 900, b"\1\2\3\4"))
    yield Way("a checkpoint altered", "its manifest", lambda folder: _edit(newest(folder) / "manifest.json"))
    yield Way(
        "a checkpoint altered", "another's", lambda folder: (shutil.rmtree(last := newest(folder)), shutil.copytree(newest(folder), last))
    )
    yield Way(
        "a checkpoint altered", "a link", lambda folder: ((last := newest(folder)).rename(folder / "c"), last.symlink_to(folder / "c"))
    )
    yield Way("a checkpoint gone", "the newest", lambda folder: shutil.rmtree(newest(folder)))
    yield Way("a checkpoint gone", "all", lambda folder: shutil.rmtree(folder / "checkpoints"))
    yield Way("a checkpoint more", "a copy", lambda folder: shutil.copytree(newest(folder), folder / "checkpoints" / "epoch-000099"))


def of_sealed() -> Iterator[Way]:
    """Ways to tamper with a sealed run."""
    yield from of_records()
    yield from of_checkpoints()
    changes = {
        "records": 1,
        "moment": 1,
        "ended": "2020-01-01T00:00:00.000000Z",
        "run": "other",
        "summary__metrics": {"validation_loss": 0.0},
        "summary__task": "other",
    }
    for name, value in changes.items():
        yield Way("the mark", name.replace("__", "."), mark(**{name: value}))
    yield Way("the mark", "empty", lambda folder: (folder / "sealed").write_text(""))
    yield Way("the mark", "gone", lambda folder: (folder / "sealed").unlink())
    yield Way("chains and tails recomputed", "a payload", forged(change_a_loss))


def of_open() -> Iterator[Way]:
    """Ways to tamper with a run that was killed."""
    yield from of_records()
    yield from of_checkpoints()
    yield Way("the mark", "made", lambda folder: (folder / "sealed").write_text('{"summary": {"status": "finished"}}'))
    yield Way("the WAL", "gone", lambda folder: (folder / "run.sqlite-wal").unlink())
    yield Way("the WAL", "cut off", cut("run.sqlite-wal", 0.5))
    yield Way("the WAL", "other bytes", other_bytes("run.sqlite-wal", 0.5))
    yield Way("records cut off, and lock and observed.sqlite removed", "ten", _all_witnesses)
    yield Way("chains recomputed", "a payload", forged(change_a_loss))


def of_observed() -> Iterator[Way]:
    """Ways to tamper with what an observer derived from a sealed run."""
    fields = {
        "id": "'other'", "topic": "'observability.trends'", "writer": "'other'", "moment": "moment + 1", "generation": "2",
        "incarnation": "9",
        "type": "'esper.alert.resolved.v1'", "time": "time + 1", "epoch": "epoch + 1", "step": "step + 1", "cause": "'x'", "trace": "'x'",
        "data": "CAST(replace(data, '1', '2') AS BLOB)",
    }  # fmt: skip
    for name, value in fields.items():
        yield Way("a field of a derived record", name, sql(OBSERVED, f"UPDATE derived SET {name} = {value} WHERE row = 5"))
    for name, where in {
        "one": "row = 5",
        "the last": "row = (SELECT max(row) FROM derived)",
        "all": "1",
        "what was notified": "topic LIKE '%alerts'",
    }.items():
        yield Way("derived records removed", name, sql(OBSERVED, f"DELETE FROM derived WHERE {where}"))
    columns = "topic, writer, moment, generation, incarnation, type, time, epoch, step, cause, trace, data FROM derived WHERE row = 5"
    yield Way("a derived record added", "one", sql(OBSERVED, f"INSERT INTO derived SELECT 99999, 'other', {columns}"))
    yield Way("positions and state", "a position", sql(OBSERVED, """UPDATE progress SET position = '{"run.sqlite":9}'"""))
    yield Way("positions and state", "no position", sql(OBSERVED, "DELETE FROM progress"))
    yield Way(
        "positions and state", "a part of the state", sql(OBSERVED, "UPDATE cells SET state = CAST(replace(state, '1', '2') AS BLOB)")
    )
    yield Way("positions and state", "no state", sql(OBSERVED, "DELETE FROM cells"))
    yield Way("its end", "edited", sql(OBSERVED, "UPDATE meta SET value = replace(value, 'a', 'b') WHERE key = 'end'"))
    yield Way("its end", "removed", sql(OBSERVED, "DELETE FROM meta WHERE key = 'end'"))
    yield Way("schema", "a trigger", sql(OBSERVED, "CREATE TRIGGER forget AFTER INSERT ON derived BEGIN DELETE FROM derived; END"))
    yield Way("schema", "without its index", sql(OBSERVED, "DROP INDEX derived_by_topic"))
    yield Way("the file", "cut off", cut(OBSERVED, 0.6))
    yield Way("the file", "bytes in its middle", other_bytes(OBSERVED, 0.5, 64))
    yield Way("the file", "another run's", _anothers)
    yield Way("the file", "gone, the mark not", lambda folder: (folder / OBSERVED).unlink())
    yield Way("its mark", "another count", lambda folder: (folder / "observed.sealed").write_text("1\n"))
    yield Way("the file and its mark", "gone", lambda folder: [path.unlink() for path in folder.glob("observed*")])
    yield Way("everything recomputed", "a record", _observed_anew)


def _put(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def _edit(manifest: Path) -> None:
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 2'))


def change_a_loss(log: Forger) -> None:
    """Makes the loss after the first epoch another."""
    log.one("epoch.completed").change(train__loss=0.125)


def _own_chain(folder: Path) -> None:
    with Forger(folder) as log:
        change_a_loss(log)
        log.tie([log.one("epoch.completed")])


def _all_witnesses(folder: Path) -> None:
    sql(RUN_FILE, f"DELETE FROM records WHERE row > {LAST} - 10")(folder)
    for path in (folder / "lock", *folder.glob("observed*")):
        path.unlink(missing_ok=True)


def _anothers(folder: Path) -> None:
    (folder.parent.parent / "another").mkdir()
    Observed(folder.parent.parent / "another", "another").close()  # type: ignore[arg-type]
    (folder.parent.parent / "another" / OBSERVED).replace(folder / OBSERVED)


def _observed_anew(folder: Path) -> None:
    """Makes the file anew as an observer makes it, with one record changed and one left out."""
    records, position = read_observed(folder, RUN, limit=1_000_000).records, observed_to(folder)
    for path in folder.glob("observed*"):
        path.unlink()
    with Observed(folder, RUN) as store:
        store.save([records[0]._replace(step=records[0].step + 1), *records[2:]], position)
        store.seal()


def _words(log: Path, *command: str) -> tuple[int, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = esper([*command, "--log", os.fspath(log)])
        except SystemExit as end:
            code = int(end.code or 0)
    return code, err.getvalue()


def tried(one: Lives, whole: Path, way: Way, usual: frozenset[str]) -> Found:
    """What the commands find in a copy of `whole` that was tampered with in this way."""
    with tempfile.TemporaryDirectory(prefix="esper-tampering-") as place:
        log = Path(place) / "log"
        shutil.copytree(whole, log, symlinks=True)
        way.act(log / RUN)
        verdicts = {check.verdict for check in examine(log) if check.answer.replace(os.fspath(log), "") not in usual}
        doctor = "bad" if "bad" in verdicts else "warning" if "warning" in verdicts else "nothing"
        code, _ = _words(log, "show", "latest")
        if (log / RUN / "sealed").exists() and "sealed" not in way.name:
            (log / RUN / "sealed").unlink()
        life = one.live(log, "resume") if (log / RUN).is_dir() else None
        refused = life is None or (life.end == "failed" and "finished" not in life.error)
        if life is not None and life.end == "failed" and not life.error:
            raise RuntimeError(f"{way}: resuming ended with a traceback")
        return Found(doctor, "refuses" if code else "nothing", "refuses" if refused else "nothing")


def _is_open(log: Path) -> bool:
    """True for a run that was killed with at least two checkpoints and a WAL."""
    folder = log / RUN
    wal = folder / "run.sqlite-wal"
    return not (folder / "sealed").exists() and wal.exists() and wal.stat().st_size > 0 and len([*folder.glob("checkpoints/*")]) > 1


def observed(log: Path) -> None:
    """Observes what is in `log`."""
    settings = ObserverSettings(monitor=MonitorSettings(rules=builtin_rules()))
    with Observer(Directory(log), settings, now=lambda: datetime.now(UTC), from_start=True, report=print) as observer:
        for _ in range(3):
            observer.turn(1.2)


def measure() -> dict[str, list[tuple[Way, Found]]]:
    """Every way, with what was found."""
    found: dict[str, list[tuple[Way, Found]]] = {}
    with lives() as one, tempfile.TemporaryDirectory(prefix="esper-tampering-") as place:
        sealed, left = Path(place) / "sealed", Path(place) / "left"
        one.live(sealed, "train")
        while not _is_open(left):
            shutil.rmtree(left, ignore_errors=True)
            one.live(left, "train", signal_after_s=random.uniform(0.2, 1.2))
        left.with_name("wal").mkdir()
        shutil.copytree(left, left.with_name("wal") / "log")
        left = left.with_name("wal") / "log"
        observed(sealed)
        observed(left)
        for title, log, ways in (
            ("a sealed run", sealed, of_sealed()),
            ("an open run", left, of_open()),
            ("observed.sqlite", sealed, of_observed()),
        ):
            usual = frozenset(check.answer.replace(os.fspath(log), "") for check in examine(log))
            found[title] = []
            for way in ways:
                print(f"\r{title}: {way.group}, {way.name}\x1b[K", end="", file=sys.stderr)
                found[title].append((way, tried(one, log, way, usual)))
    print(file=sys.stderr)
    return found


def main() -> None:
    """Tampers, then prints."""
    parser = argparse.ArgumentParser(description="Tampers with runs, and says what is found.")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    options = parser.parse_args()
    found = measure()
    if options.json:
        print(json.dumps({title: [[*way[:2], *one] for way, one in ways] for title, ways in found.items()}))
        return
    for title, ways in found.items():
        groups: dict[tuple[str, Found], list[str]] = defaultdict(list)
        for way, one in ways:
            groups[way.group, one].append(way.name)
        print(f"\n| {title}, {len(ways)} ways | doctor | show | resume |\n|---|---|---|---|")
        for (group, one), names in groups.items():
            print(f"| {group}: {', '.join(names)} | {' | '.join(one)} |")


if __name__ == "__main__":
    main()
