"""A log on Kafka as the commands read it: its mirror, caught up when they begin."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from esper.errors import UnknownRunError
from esper.events.envelope import RunId, is_training
from esper.extras import require_installed
from esper.kafka.cluster import KAFKA_TOML, KafkaSettings, kafka_settings
from esper.oona.directory import Directory, resolve_among
from esper.oona.file import read_refused
from esper.settings import user_cache
from esper.stderr import warn

_WHOLE_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def mirror_at(typed: Path | None, address: str, log: Path) -> tuple[Directory, KafkaSettings]:
    """The mirror of the log at `address`, made if need be, and the cluster's settings.

    They stand in kafka.toml of the directory `typed`, else of `log`. Where none is typed it is one of the user's cache, by the cluster.
    """
    require_installed("Kafka", "kafka", "aiokafka")
    settings = kafka_settings(address, folder_of(KAFKA_TOML, typed, log))
    if typed is None:
        typed = user_cache() / "mirror" / re.sub(r"[^A-Za-z0-9._-]+", "-", f"{settings.bootstrap} {settings.prefix}".strip())
    return Directory(typed, create=True), settings


def folder_of(file: str, mirror: Path | None, log: Path) -> Path:
    """The directory in which the settings `file` of a log on Kafka stands: `mirror`, where one is named and has it, else `log`."""
    return mirror if mirror is not None and (mirror / file).exists() else log


def caught_up(directory: Directory, settings: KafkaSettings, run: RunId | None = None) -> None:
    """Brings everything that is on Kafka now into `directory`, or everything of `run`. Raises LogError where the cluster cannot be read."""
    from esper.processes.mirror import catch_up

    catch_up(directory, settings, None if run is None else frozenset({run}), warn)
    for name in directory.names(hidden=True) if run is None else (run,):
        if (reason := read_refused(directory.path / name)) is not None:
            warn(f"{reason}; what was copied before is shown")


def caught_up_run(directory: Directory, settings: KafkaSettings, text: str) -> RunId:
    """The run that `text` means, with everything of it that is on Kafka now in `directory`.

    Raises UnknownRunError or AmbiguousRunError as a directory does, LogError where the cluster cannot be read.
    """
    run = _resolved(settings, text)
    caught_up(directory, settings, run)
    if not directory.has_log(run):
        raise UnknownRunError(f"expected run {run} on Kafka at {settings.bootstrap}, got none")
    return run


@contextmanager
def followed(directory: Directory, settings: KafkaSettings, run: RunId | None = None) -> Iterator[None]:
    """Within, new records of `run` (None: of every run) come from Kafka into `directory`."""
    from esper.processes.mirror import filled

    with filled(directory, settings, None if run is None else frozenset({run})):
        yield


def _resolved(settings: KafkaSettings, text: str) -> RunId:
    """The run that `text` means. Its whole id, or that of a run about no training, is taken as it is."""
    import asyncio

    from esper.kafka.copying.mirroring import runs_on

    if _WHOLE_ID.fullmatch(text) or ":" in text:
        return RunId(text)
    names = sorted((name for name in asyncio.run(runs_on(settings)) if is_training(name)), reverse=True)
    return resolve_among(text, names, f"Kafka at {settings.bootstrap}")
