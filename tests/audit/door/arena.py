"""The place where attacks are run: a file behind the door, secrets around it, and a look at what has leaked or changed afterwards."""

import json
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import duckdb

from tests.audit.door.attacks import Attack

CONTENT, NAME, FOLDER, VARIABLE = "s3cret-content-71", "s3cret-name-72", "s3cret-folder-73", "s3cret-variable-74"
USERS = "root:x:0:0"
OUTSIDE = (CONTENT, NAME, VARIABLE, USERS)
SECRETS = (*OUTSIDE, FOLDER)
"""What no attack may learn: what is outside the file, and where the file stands."""

VARIABLE_NAME = "ESPER_S3CRET"

_HOSTILE = """
CREATE VIEW hostile_text AS FROM read_text('{given}');
CREATE VIEW hostile_csv AS FROM read_csv('{given}');
CREATE VIEW hostile_names AS FROM glob('{folder}/*');
CREATE VIEW hostile_settings AS FROM duckdb_settings();
CREATE MACRO hostile_read(path) AS TABLE FROM read_text(path);
CREATE MACRO hostile_glob(path) AS TABLE FROM glob(path);
CREATE MACRO hostile_query(sql) AS TABLE FROM query(sql);
CREATE MACRO hostile_next() AS nextval('numbers');
"""
"""What a hostile writer stores; `hostile_variable` would need a function that DuckDB's Python module does not have."""

_TABLES = """
CREATE TABLE t AS SELECT range AS a, 'x' || range AS b FROM range(100);
CREATE TABLE seeds AS SELECT 'site' || range AS site, range AS seed, 'TRAINING' AS stage FROM range(10);
CREATE SEQUENCE numbers;
CREATE MACRO add_one(a) AS a + 1;
CREATE MACRO below(most) AS TABLE FROM t WHERE a < most;
"""


class Arena(NamedTuple):
    """`file` is behind the door; `words` fill in an attack; `visits` has one entry for each connection to the forbidden server."""

    root: Path
    file: Path
    words: dict[str, str]
    visits: list[str]

    def fill(self, text: str) -> str:
        """`text` with everything in braces filled in."""
        for name, word in self.words.items():
            text = text.replace(f"{{{name}}}", word)
        return text

    def sql(self, attack: Attack) -> str:
        """The statement of `attack`."""
        return self.fill(attack.sql)

    def parameters(self, attack: Attack) -> dict[str, str] | None:
        """The values of `attack`."""
        return None if attack.parameters is None else {self.fill(name): self.fill(value) for name, value in attack.parameters.items()}

    def content(self) -> dict[str, bytes]:
        """Every file and folder of the place, with its bytes and the time of its last change."""
        found = {}
        for path in sorted(self.root.rglob("*")):
            status = path.lstat()
            content = path.read_bytes() if path.is_file() else b""
            found[str(path.relative_to(self.root))] = content + f"|{status.st_mtime_ns}|{status.st_mode}".encode()
        return found


@contextmanager
def arena(root: Path) -> Iterator[Arena]:
    """A place below `root`, with a server that listens meanwhile."""
    real, alias = root / FOLDER, root / "place"
    real.mkdir()
    alias.symlink_to(real)
    (real / f"{NAME}.csv").write_text(f"{CONTENT}\n")
    given = {"given": "given.csv", "json": "given.json", "parquet": "given.parquet", "other": "given.duckdb"}
    (real / given["given"]).write_text(f"secret\n{CONTENT}\n")
    (real / given["json"]).write_text(json.dumps({"secret": CONTENT}) + "\n")
    with duckdb.connect(os.fspath(real / given["other"])) as connection:
        connection.execute(f"CREATE TABLE secrets AS SELECT '{CONTENT}' AS secret")
        connection.execute(f"COPY secrets TO '{real / given['parquet']}' (KV_METADATA {{secret: '{CONTENT}'}})")
    words = {name: os.fspath(alias / file) for name, file in given.items()}
    words |= {
        "folder": os.fspath(alias),
        "db": os.fspath(alias / "audit.duckdb"),
        "out": os.fspath(root / "out"),
        "variable": VARIABLE_NAME,
    }
    visits: list[str] = []
    with _server(visits) as url:
        made = Arena(root, alias / "audit.duckdb", words | {"url": url}, visits)
        with duckdb.connect(os.fspath(real / "audit.duckdb")) as connection:
            connection.execute(_TABLES + made.fill(_HOSTILE))
        yield made


@contextmanager
def _server(visits: list[str]) -> Iterator[str]:
    """The URL of a server that writes down who comes, and answers nobody."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def listen() -> None:
            while True:
                try:
                    connection, who = listening.accept()
                except OSError:
                    return
                visits.append(str(who))
                connection.close()

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def leaks(*texts: str, secrets: Sequence[str] = SECRETS) -> list[str]:
    """The `secrets` that are in any of the `texts`."""
    return [secret for secret in secrets if any(secret in text for text in texts)]
