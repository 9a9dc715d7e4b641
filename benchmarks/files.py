"""What is lost when files are moved, removed, replaced, linked and torn under a training and its observer.

    python benchmarks/files.py [--rounds 500] [--json] [--rng-seed N]

Each round trains tests/whole/kills/scenario.py into a log of its own, with an observer beside it, and does one thing to one file or folder
of the log at a random moment; in half of the rounds the training is killed with SIGKILL a moment later. Which files there are is looked up
when it happens: nothing here knows what they are for. Links lead to files of a user beside the log. Afterwards `esper doctor` is asked, and
the run is resumed.

lost: records that `commit` had acknowledged, that are in the log no more, and of which the doctor says nothing. outside: a file beside the
log that was written, removed or added. unexplained: a process that ended with a traceback or by a signal. wrong: a record that stands twice
or a number that is left out in a log that the doctor calls right. `said` counts the rounds in which the doctor or the resumed run names
what was done.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console
from rich.table import Table

from esper.errors import EsperError
from esper.history.checks import examine
from tests.whole.kills.accounts import gaps, records_of
from tests.whole.kills.lives import ENVIRONMENT, ROOT, Lives, lives

ROUNDS = 500
WHOLE_S = 2.0
"""The longest time from a training's start to what is done: about as long as it takes."""


def move(path: Path, outside: Path, _: random.Random) -> None:
    """Moves it out of the log."""
    path.rename(outside / "moved" / path.name)


def remove(path: Path, _: Path, __: random.Random) -> None:
    """Removes it."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def replace(path: Path, outside: Path, chance: random.Random) -> None:
    """Puts another file, or an empty folder, in its place."""
    size = 0 if path.is_dir() else path.stat().st_size
    move(path, outside, chance)
    path.write_bytes(chance.randbytes(size)) if size else path.mkdir()


def exchange(path: Path, outside: Path, chance: random.Random) -> None:
    """Puts a copy in its place, as an editor or a sync does."""
    copy = outside / "moved" / f"{path.name}.copy"
    shutil.copytree(path, copy) if path.is_dir() else shutil.copy2(path, copy)
    move(path, outside, chance)
    copy.rename(path)


def link(path: Path, outside: Path, chance: random.Random) -> None:
    """Puts a link to what is outside in its place."""
    target = outside / ("folder" if path.is_dir() else "users")
    move(path, outside, chance)
    path.symlink_to(target)


def link_back(path: Path, outside: Path, chance: random.Random) -> None:
    """Moves it out, and puts a link to it in its place."""
    move(path, outside, chance)
    path.symlink_to(outside / "moved" / path.name)


def tear(path: Path, _: Path, chance: random.Random) -> None:
    """Cuts the file off."""
    with path.open("r+b") as file:
        file.truncate(chance.randrange(path.stat().st_size or 1))


def flip(path: Path, _: Path, chance: random.Random) -> None:
    """Writes other bytes into the file."""
    with path.open("r+b") as file:
        file.seek(chance.randrange(path.stat().st_size or 1))
        file.write(chance.randbytes(16))


def plant(path: Path, outside: Path, chance: random.Random) -> None:
    """Puts a link where a file may be made, by a name that is likely."""
    name = chance.choice((f"{path.name}.new", f"{path.name}.tmp", f".{path.name}.partial", f"{path.name}-journal", f".{path.name}.1"))
    (path.parent / name).symlink_to(outside / "users")


def copy(path: Path, _: Path, chance: random.Random) -> None:
    """Copies it beside itself."""
    other = path.with_name(f"{path.name}.{chance.randrange(9)}")
    shutil.copytree(path, other) if path.is_dir() else shutil.copy2(path, other)


ACTS: tuple[Callable[[Path, Path, random.Random], None], ...] = (
    move, remove, replace, exchange, link, link_back, tear, flip, plant, copy,
)  # fmt: skip
OF_FILES = (tear, flip)


@dataclass
class Round:
    """What was done, to what, and what came of it."""

    act: str = "none"
    name: str = ""
    said: str = ""
    end: str = ""
    resumed: str = ""
    faults: dict[str, str] = field(default_factory=dict)


@contextmanager
def observers() -> Iterator[Callable[[Path], Callable[[], None]]]:
    """Starts observers of a log, forks of a process that has imported everything; what is returned stops one."""
    template = subprocess.Popen(
        [sys.executable, __file__, "--observers"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **ENVIRONMENT},
        text=True,
        cwd=ROOT,
    )
    assert template.stdin
    assert template.stdout

    def ask(order: str) -> str:
        print(order, file=template.stdin, flush=True)
        return template.stdout.readline()  # type: ignore[union-attr]

    def start(log: Path) -> Callable[[], None]:
        ask(os.fspath(log))
        return lambda: print(end=ask("stop") and "")

    try:
        yield start
    finally:
        template.stdin.close()
        template.wait(60)


def observe() -> None:
    """The template of the observers: a line with a log starts one, `stop` ends it."""
    import esper.cli.commands.services
    import esper.observer.delivery.deliverer
    from esper.cli.main import main as esper

    pid = 0
    for line in sys.stdin:
        if line.strip() == "stop":
            os.kill(pid, 15)
            os.waitpid(pid, 0)
        elif (pid := os.fork()) == 0:
            sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - its answers are not the template's.
            code = 1
            try:
                code = esper(["observe", "--log", line.strip()]) or 0
            finally:
                os._exit(code)
        print(pid, flush=True)


def snapshot(folder: Path) -> dict[str, str]:
    """Every file of a folder with its content, but for what was moved there."""
    return {
        os.fspath(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
        if "moved" not in path.relative_to(folder).parts
    }


def misdo(log: Path, outside: Path, chance: random.Random, done: Round) -> None:
    """Does one thing to one file or folder of the log, after a random time."""
    time.sleep(chance.uniform(0.0, WHOLE_S))
    for _ in range(50):
        act = chance.choice(ACTS)
        found = [path for path in log.rglob("*") if act not in OF_FILES or path.is_file()]
        if found:
            path = chance.choice(sorted(found))
            with suppress(OSError, shutil.Error):  # What is written comes and goes.
                act(path, outside, chance)
                done.act, done.name = act.__name__, os.fspath(path.relative_to(log))
                return
        time.sleep(0.02)


def judge(log: Path, outside: Path, acknowledged: dict[str, str | None], done: Round) -> None:
    """Holds the log, or where it was moved, and what the doctor says, against what was acknowledged."""
    answers = [*examine(log, every_run=True)] if log.is_dir() else []
    done.said = "; ".join(f"{check.name} {check.verdict}: {check.answer}" for check in answers if check.verdict != "ok")
    bad = any(check.verdict == "bad" for check in answers)
    if bad or done.faults.get("lost"):
        return
    places = [log, outside / "moved", *([outside / "moved" / "log"] if (outside / "moved" / "log").is_dir() else [])]
    missing = Counter[str]()
    records = ()
    for place in places:
        try:
            found = records_of(place)
        except EsperError as error:
            done.faults["wrong"] = f"the doctor says nothing, and reading says: {error}"
            return
        records = max(records, found, key=len)
    missing = acknowledged.keys() - {record.id for record in records}
    if (missing and done.act != "remove") or (missing and len(missing) < len(acknowledged)):
        done.faults["lost"] = f"{len(missing)} of {len(acknowledged)} acknowledged records, the doctor: {done.said or 'nothing'}"
    repeated = len(records) - len({record.id for record in records})
    if repeated or gaps(records):
        done.faults["wrong"] = f"{repeated} records twice, {gaps(records).words}"


def play(one: Lives, start: Callable[[Path], Callable[[], None]], place: Path, chance: random.Random) -> Round:
    """One round."""
    log, outside, done = place / "log", place / "outside", Round()
    (outside / "folder").mkdir(parents=True)
    (outside / "moved").mkdir()
    (outside / "users").write_text("mine")
    (outside / "folder" / "users").write_text("mine")
    log.mkdir()
    before = snapshot(outside)
    stop = start(log)
    hand = threading.Thread(target=misdo, args=(log, outside, chance, done))
    hand.start()
    killed = chance.random() < 0.5
    life = one.live(log, "train", signal_after_s=chance.uniform(0.0, WHOLE_S) if killed else None)
    hand.join()
    stop()
    done.end = life.end
    if (life.end == "failed" and not life.error) or (life.end == "killed" and not killed):
        done.faults["unexplained"] = f"training {life.end}: {life.error}"
    judge(log, outside, life.acknowledged, done)
    if log.is_dir():
        again = one.live(log, "resume")
        done.resumed = again.end
        if (again.end == "failed" and not again.error) or again.end == "killed":
            done.faults["unexplained"] = f"resuming {again.end}: {again.error}"
        done.said = done.said or again.error
        judge(log, outside, {**life.acknowledged, **again.acknowledged}, done)
    if (after := snapshot(outside)) != before:
        done.faults["outside"] = f"{sorted(dict(before.items() ^ after.items()))}"
    return done


def show(rounds: list[Round]) -> None:
    """Prints a line per act, and the totals."""
    table = Table("what was done", title=f"{len(rounds)} rounds")
    for column in ("rounds", "said", "resumed", *KINDS):
        table.add_column(column, justify="right")
    for act in (*sorted({one.act for one in rounds}), "all"):
        of = [one for one in rounds if act in (one.act, "all")]
        counts = (len(of), sum(bool(one.said) for one in of), sum(one.resumed == "finished" for one in of))
        table.add_row(act, *map(str, counts), *(str(sum(kind in one.faults for one in of)) for kind in KINDS))
    Console(width=120).print(table)


KINDS = ("lost", "outside", "unexplained", "wrong")


def main() -> None:
    """Plays, then prints."""
    parser = argparse.ArgumentParser(description="Moves, removes, replaces, links and tears files under a training and its observer.")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"how many (default: {ROUNDS})")
    parser.add_argument("--rng-seed", type=int, default=0, help="of what is done, to what, and when")
    parser.add_argument("--json", action="store_true", help="print the totals as JSON and nothing else")
    parser.add_argument("--observers", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.observers:
        observe()
        return
    rounds: list[Round] = []
    with lives() as one, observers() as start:
        for number in range(options.rounds):
            with tempfile.TemporaryDirectory(prefix="esper-files-") as folder:
                done = play(one, start, Path(folder), random.Random(options.rng_seed * 1_000_000 + number))
            rounds.append(done)
            print(f"\rround {number + 1} of {options.rounds}", end="", file=sys.stderr, flush=True)
            for kind, words in done.faults.items():
                print(f"\n{number}: {done.act} {done.name}, {done.end}, {done.resumed}: {kind}: {words}", file=sys.stderr, flush=True)
    if options.json:
        faults = {kind: sum(kind in one.faults for one in rounds) for kind in KINDS}
        print(json.dumps({"rounds": len(rounds), "said": sum(bool(one.said) for one in rounds), **faults}))
    else:
        show(rounds)
    sys.exit(any(one.faults for one in rounds))


if __name__ == "__main__":
    main()
