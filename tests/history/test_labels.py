"""RunLabels are checked before they are written; conditions compare one value of a run."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from esper.errors import SettingsError
from esper.history.labels import RunLabels, condition, labels_of
from esper.history.run_list import VALUES
from esper.masking import MASK

VALUES_OF_RUN: Mapping[str, object] = {
    "task": "digits",
    "name": None,
    "epoch": 7,
    "validation_loss": 0.25,
    "config": {"lr": 0.01, "opt": {"name": "adam"}, "dotted.key": 3, "day": "2026-03-01", "loss": "NaN", "best": "Infinity", "flag": True},
}


def test_labels_are_kept_as_given() -> None:
    given = labels_of("  baseline ", ["a", "b", "a"], "one\ntwo", {"lr": 0.1, "layers": [1, 2], "deep": {"x": None}})
    assert given == RunLabels("baseline", ("a", "b"), "one\ntwo", {"lr": 0.1, "layers": [1, 2], "deep": {"x": None}})
    assert labels_of() == RunLabels()


def test_values_that_json_lacks_are_given_a_form() -> None:
    config = {"path": Path("a/b"), "f": np.float32(0.5), "i": np.int64(3), "nan": math.nan, "inf": -math.inf, "t": (1, 2)}
    assert labels_of(config=config).config == {"path": "a/b", "f": 0.5, "i": 3, "nan": "NaN", "inf": "-Infinity", "t": [1, 2]}


def test_secrets_in_labels_are_masked() -> None:
    made = labels_of(notes="uses https://ada:hunter2@host/", config={"wandb": {"api_key": "abc"}, "lr": 0.1})
    assert (made.notes, made.config) == (f"uses https://ada:{MASK}@host/", {"wandb": {"api_key": MASK}, "lr": 0.1})


def nested(depth: int) -> dict[str, Any]:
    return {"a": nested(depth - 1)} if depth else {}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"name": " "}, "name: expected a text that is not blank"),
        ({"name": "latest"}, "name: expected another name than 'latest'"),
        ({"name": "a\nb"}, "name: expected one line of text"),
        ({"name": "a\x1b[31m"}, "name: expected one line of text that can be printed"),
        ({"name": "x" * 201}, "name: expected at most 200 characters, got 201"),
        ({"name": 3}, "name: expected a text, got 3"),
        ({"tags": "one"}, "tags: expected a list of texts, got 'one'"),
        ({"tags": [1]}, "tags: expected a text, got 1"),
        ({"tags": ["x" * 65]}, "tags: expected at most 64 characters"),
        ({"tags": list(map(str, range(51)))}, "tags: expected at most 50, got 51"),
        ({"notes": "x" * 10_001}, "notes: expected at most 10,000 characters"),
        ({"config": [1]}, "config: expected a mapping of names to values, got list: vars"),
        ({"config": {1: 2}}, "config: expected names that are texts, got 1"),
        ({"config": {"a": {"b": [torch.zeros(1)]}}}, r"config\.a\.b\[0\]: expected texts, numbers, .*, got a Tensor"),
        ({"config": nested(9)}, "at most 8 deep"),
        ({"config": {"a": "x" * 17_000}}, "config: expected at most 16,384 bytes as JSON"),
    ],
)
def test_label_that_cannot_be_kept_is_refused_by_its_name(given: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        labels_of(**given)


@pytest.mark.parametrize(
    "text",
    [
        "config.lr > 0.001",
        "config.lr=0.01",
        "config.opt.name = adam",
        "config.opt.name = 'adam'",
        'config.opt.name != "sgd"',
        "config.dotted.key >= 3",
        "config.day < 2026-03-02",
        "config.best > 1e300",
        "config.flag = true",
        "task = digits",
        "epoch <= 7",
        "validation_loss < 0.3",
        "name = null",
    ],
)
def test_condition_that_holds(text: str) -> None:
    assert condition(text, VALUES).holds(VALUES_OF_RUN)


@pytest.mark.parametrize(
    "text",
    [
        "config.lr > 0.01",
        "config.absent != 1",
        "config.absent < 1",
        "config.lr > abc",
        "config.opt.name > 1",
        "config.loss < 1",
        "config.loss > 1",
        "config.loss != 1",
        "config.flag > 0",
        "name = baseline",
        "epoch = 8",
    ],
)
def test_condition_that_does_not_hold(text: str) -> None:
    assert not condition(text, VALUES).holds(VALUES_OF_RUN)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("config.lr", "expected NAME OP VALUE"),
        ("config.lr >", "expected NAME OP VALUE"),
        ("rate > 1", "expected one of epoch, .*, got 'rate'"),
        ("config.lr = [1]", "to compare with"),
        ("__import__('os') = 1", "expected"),
        ("", "expected NAME OP VALUE"),
    ],
)
def test_condition_that_is_none_is_refused(text: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        condition(text, VALUES)


def test_tags_may_be_any_sequence() -> None:
    tags: Sequence[str] = ("a",)
    assert labels_of(tags=tags).tags == ("a",)
