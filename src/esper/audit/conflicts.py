"""Records that were altered, removed or added after they had been read, and checkpoints whose files are others: looked for on demand."""

from collections.abc import Iterable, Sequence

from esper.audit.projection import Projection, now
from esper.audit.reading import FILES, SCHEMA, EventRow, arrow_of, has_file, row_of, row_pages
from esper.errors import LogError
from esper.events.envelope import RunId
from esper.oona.checkpoint_files import digest_of_files
from esper.oona.file import MIRRORED_MARK

_COMPARED = [name for name in SCHEMA.names if name not in ("follows", "problem")]
_CONFLICTING = f"""
INSERT INTO conflicts
SELECT $run, $file, place, topic, moment, what, found, $now
FROM (
    SELECT "row" AS place, coalesce(f.topic, e.topic) AS topic, coalesce(f.moment, e.moment) AS moment, sha256(f.data) AS found,
        CASE WHEN f.id IS NULL THEN 'missing' WHEN e.id IS NULL THEN 'added' ELSE 'altered' END AS what
    FROM found AS f
    FULL JOIN (FROM events WHERE run = $run AND file = $file AND "row" >= $first AND "row" < $end) AS e USING ("row")
    WHERE ({" OR ".join(f'f."{name}" IS DISTINCT FROM e."{name}"' for name in _COMPARED if name != "row")})
) AS d
WHERE NOT EXISTS (
    FROM conflicts AS c WHERE c.run = $run AND c.file = $file AND c."row" = d.place AND c.found IS NOT DISTINCT FROM d.found
)
"""
_KEPT_CHECKPOINTS = (
    "SELECT checkpoint FROM checkpoints WHERE run = ? GROUP BY checkpoint HAVING arg_max(status, moment) = 'saved' ORDER BY 1"
)


def compare_with_log(projection: Projection, runs: Iterable[RunId]) -> int:
    """Compares everything of `runs` that was read before with the log as it is now, and looks at the files of their checkpoints.

    The number of conflicts that are new.
    """
    new = 0
    for run in runs:
        new += sum(_compare(projection, run, file) for file in FILES)
        _look_at_checkpoints(projection, run)
    return new


def _compare(projection: Projection, run: RunId, file: str) -> int:
    """Compares one file, a page at a time, and notes what differs; the number of conflicts that are new."""
    known = projection.connection.execute('SELECT "row" FROM positions WHERE run = ? AND file = ?', [run, file]).fetchall()
    if not known:
        return 0
    last, first, new = int(known[0][0]), 1, 0
    try:
        for page in row_pages(projection.directory, run, file, 0) if has_file(projection.directory, run, file) else ():
            end = page[-1][0] + 1
            new += _note(projection, run, file, range(first, end), [row_of(file, row, record) for row, record in page if row <= last])
            first = end
    except LogError:
        return new  # That it cannot be read stands in `positions`.
    new += _note(projection, run, file, range(first, last + 1), [])
    with projection.transaction():
        projection.connection.execute("UPDATE positions SET compared_at = ? WHERE run = ? AND file = ?", [now(), run, file])
    return new


def _note(projection: Projection, run: RunId, file: str, places: range, rows: Sequence[EventRow]) -> int:
    """Notes the conflicts between `rows` and what was read before at `places`."""
    given = {"run": run, "file": file, "first": places.start, "end": places.stop, "now": now()}
    with projection.registered("found", arrow_of(rows)), projection.transaction():
        added = int(projection.connection.execute(_CONFLICTING, given).fetchall()[0][0])
        projection.count_rows("conflicts", added)
    if added:
        projection.checkpoint()  # The log cannot give it again.
    return added


def _look_at_checkpoints(projection: Projection, run: RunId) -> None:
    """Takes the digests of the files of the checkpoints that `run` keeps; a copy from Kafka has none."""
    is_copy = (projection.directory.path / run / MIRRORED_MARK).exists()
    kept = [] if is_copy else [name for (name,) in projection.connection.execute(_KEPT_CHECKPOINTS, [run]).fetchall()]
    looks = [(run, name, *digest_of_files(projection.directory.checkpoints(run), name), now()) for name in kept]
    with projection.transaction():
        projection.connection.execute("DELETE FROM checkpoint_files WHERE run = ?", [run])
        if looks:
            projection.connection.executemany("INSERT INTO checkpoint_files VALUES (?, ?, ?, ?, ?)", looks)
