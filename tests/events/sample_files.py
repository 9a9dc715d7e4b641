"""The samples kept of every event kind and version: one file per kind in samples/, one line per sample.

A line is `{"type":"<kind>","data":<payload>}`; the payload stands in it byte for byte as the codec wrote it, once. A new kind, or a new
version of one, gets a file of its own; lines that are there never change once a version is released.
"""

from pathlib import Path

from esper.events.kinds import KINDS

DIRECTORY = Path(__file__).parent / "samples"


def payloads(kind: str) -> list[bytes]:
    """The payloads kept of `kind`, none when it has no file."""
    path = DIRECTORY / f"{kind}.jsonl"
    before, after = b'{"type":"%s","data":' % kind.encode(), b"}"
    lines = path.read_bytes().splitlines() if path.exists() else []
    assert all(line.startswith(before) and line.endswith(after) for line in lines), f"{path}: expected lines of {kind}"
    return [line.removeprefix(before).removesuffix(after) for line in lines]


ALL = [(kind.KIND, payload) for kind in KINDS for payload in payloads(kind.KIND)]
"""Every kept payload with its kind."""

NAMES = [kind for kind, _ in ALL]
"""The kind of each of `ALL`, to name tests by."""
