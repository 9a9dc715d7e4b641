"""Runs are found by the name that the user gave them, and picked by tags and values, sealed or not."""

from pathlib import Path

import pytest

from esper.errors import AmbiguousRunError, UnknownRunError
from esper.events.envelope import RunId
from esper.events.kinds.run import RunFinished
from esper.history.labels import condition
from esper.history.run_history import open_run
from esper.history.run_list import VALUES, RunList, is_picked, resolve_run, summaries
from esper.oona.directory import Directory
from esper.oona.emitter import Emitter
from tests.beginnings import run_started
from tests.synthetic import ticking

FIRST, SECOND, THIRD = (RunId(f"019e2c5a-1b2c-7def-8a9b-00000000000{number}") for number in (1, 2, 3))


def begun(directory: Directory, run: RunId, *, sealed: bool, **labels: object) -> None:
    with directory.create(run) as log:
        emitter = Emitter(log, run, clock=ticking())
        emitter.emit(run_started(**labels), epoch=0, step=0)
        if sealed:
            tails = emitter.tails(epoch=1, step=1)
            end = RunFinished(metrics={"validation_loss": 0.5}, model_digest="0" * 64, parameters=7, stopped_early=False, tails=tails)
            emitter.emit(end, epoch=1, step=1)
        emitter.close(seal=sealed)


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    """Three runs with labels, of which one is sealed."""
    made = Directory(tmp_path)
    begun(made, FIRST, sealed=True, name="baseline", tags=("a", "b"), config={"lr": 0.1})
    begun(made, SECOND, sealed=False, name="twice", tags=("b",), config={"lr": 0.01})
    begun(made, THIRD, sealed=False, name="twice")
    return made


def test_run_is_found_by_a_name_that_it_alone_has(directory: Directory) -> None:
    assert resolve_run(directory, "baseline") == FIRST
    assert open_run("baseline", directory.path).run == FIRST
    assert RunList(directory).resolve("baseline") == FIRST


def test_name_of_several_runs_is_refused_with_them(directory: Directory) -> None:
    with pytest.raises(AmbiguousRunError, match=f"2 runs have the name 'twice' .*there are: {THIRD}, {SECOND}"):
        resolve_run(directory, "twice")


def test_id_comes_before_a_name(directory: Directory) -> None:
    begun(directory, RunId("019e2c5a-1b2c-7def-8a9b-000000000004"), sealed=False, name="000001")
    assert resolve_run(directory, "000001") == FIRST


def test_text_that_is_neither_is_refused_as_before(directory: Directory) -> None:
    with pytest.raises(UnknownRunError, match=f"no run begins or ends with 'nothing' in .*; there are: {THIRD}, {SECOND}, {FIRST}$"):
        resolve_run(directory, "nothing")


def test_name_that_is_mistyped_is_refused_with_the_nearest(directory: Directory) -> None:
    with pytest.raises(UnknownRunError, match=r"no run begins or ends with 'basline' .*, perhaps baseline by its name$"):
        resolve_run(directory, "basline")


@pytest.mark.parametrize(
    ("tags", "where", "picked"),
    [
        ((), (), [THIRD, SECOND, FIRST]),
        (("b",), (), [SECOND, FIRST]),
        (("a", "b"), (), [FIRST]),
        ((), ("config.lr > 0.05",), [FIRST]),
        ((), ("config.lr > 0", "name = twice"), [SECOND]),
        ((), ("standing = finished", "validation_loss <= 0.5"), [FIRST]),
        (("c",), (), []),
    ],
)
def test_runs_are_picked_by_tags_and_values(
    directory: Directory, tags: tuple[str, ...], where: tuple[str, ...], picked: list[RunId]
) -> None:
    conditions = [condition(text, VALUES) for text in where]
    assert [line.run for line in summaries(directory) if is_picked(line, tags, conditions)] == picked


def test_a_name_of_several_runs_is_proposed_once(directory: Directory) -> None:
    with pytest.raises(UnknownRunError, match=r", perhaps twice by its name$"):
        resolve_run(directory, "twic")
