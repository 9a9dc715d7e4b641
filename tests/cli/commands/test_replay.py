"""`esper replay`."""

import json

import pytest

from tests.cli.conftest import Esper


def test_a_piped_replay_tells_losses_stages_and_decisions(esper: Esper) -> None:
    lines = esper("replay", "latest").lines
    assert any(line.startswith("   1/14  train 1.373  valid 1.400") for line in lines)
    assert any("hidden.2 s0 lowrank:8  TRAINING → GRAFTING" in line for line in lines)
    assert any("germinate hidden.0 s2" in line and line.endswith("refused: cap") for line in lines)
    assert any("rolled back from epoch 11 to 8" in line for line in lines)


@pytest.mark.parametrize("width", [80, 100])
def test_a_replay_fits_its_width(esper: Esper, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert max(map(len, esper("replay", "latest", "--digest").lines)) <= width


def test_a_decision_is_told_when_its_fate_is_known(esper: Esper) -> None:
    lines = esper("replay", "latest").lines
    graft = next(index for index, line in enumerate(lines) if "graft hidden.0 s0" in line)
    assert lines[graft].endswith("applied")
    assert "GRAFTING" in lines[graft + 1]


def test_only_the_moments_asked_for_are_told(esper: Esper) -> None:
    lines = esper("replay", "latest", "--from", "100", "--to", "112").lines
    assert lines[0].startswith("   7/14")
    assert lines[-1].startswith("   7  @112 ")
    assert not any(line.startswith("   6") for line in lines)


def test_a_replay_that_ends_within_an_epoch_says_so(esper: Esper) -> None:
    lines = esper("replay", "latest", "--to", "31").lines
    assert lines[-2].startswith("   4  @31 ")
    assert lines[-1] == "      epoch 4 was not over"


def test_digest_gives_the_state_when_each_epoch_was_over(esper: Esper) -> None:
    lines = [line.split() for line in esper("replay", "latest", "--digest").lines if "  @" in line]
    assert [int(words[0]) for words in lines] == list(range(1, 15))
    assert {len(words[-1]) for words in lines} == {64}


def test_two_replays_give_the_same_digests(esper: Esper) -> None:
    assert esper("replay", "latest", "--digest").out == esper("replay", "latest", "--digest").out


def test_json_is_one_object_per_epoch(esper: Esper) -> None:
    told = [json.loads(line) for line in esper("replay", "latest", "--json").lines]
    assert [one["epoch"] for one in told] == list(range(1, 15))
    assert all(one["over"] for one in told)


def test_a_fast_replay_at_the_run_s_own_pace_ends(esper: Esper) -> None:
    assert esper("replay", "latest", "--speed", "1000").code == 0
