"""A model file is compared with the log by the digest of its tensors; where that cannot be, it is said why."""

import os
import struct
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
import torch
from safetensors.torch import load_file, save_file

from esper.audit.report.model_file import ComparedModel, compare_model
from esper.oona.directory import Directory
from esper.processes.train import Result, fresh_run_id, train
from tests.audit.report.reports import projected
from tests.recipes import recipe, settings
from tests.tolaria.worlds import ADVANCE, CULL, FOSSILIZE, GERMINATE, GRAFT, Script, scripted

pytestmark = pytest.mark.whole

STEPS: Script = {1: [GERMINATE], 2: [ADVANCE, ADVANCE], 3: [GRAFT], 6: [ADVANCE], 7: [ADVANCE], 8: [ADVANCE]}
LIVES: dict[str, tuple[Script, int]] = {
    "of no seed": ({}, 2),
    "of a seed that is being grafted": (STEPS, 5),
    "of a seed that is part of it for good": ({**STEPS, 9: [FOSSILIZE]}, 10),
    "of a seed that was removed": ({**STEPS, 6: [CULL]}, 7),
}


def trained(directory: Directory, script: Script, epochs: int) -> Result:
    return train(replace(recipe(), policy=scripted(script)), settings(epochs=epochs), directory, fresh_run_id())


def looked(result: Result, folder: Path, path: Path) -> ComparedModel:
    """What is found of the file at `path` by a projection of the log."""
    with projected(result.log, folder) as made:
        return compare_model(made.connection, result.run, path)


@pytest.fixture
def result(directory: Directory) -> Result:
    return trained(directory, STEPS, 5)


@pytest.mark.parametrize("life", LIVES)
def test_a_saved_model_is_the_one_that_came_out(directory: Directory, tmp_path: Path, life: str) -> None:
    result = trained(directory, *LIVES[life])
    found = looked(result, tmp_path, result.save(tmp_path / "grown"))
    assert (found.verdict, found.form, found.digest) == ("same", "model", found.expected)


@pytest.mark.parametrize("life", LIVES)
def test_the_last_checkpoint_is_the_one_that_came_out(directory: Directory, tmp_path: Path, life: str) -> None:
    result = trained(directory, *LIVES[life])
    last = max(directory.checkpoints(result.run).iterdir())
    found = looked(result, tmp_path, last)
    assert (found.verdict, found.form) == ("same", "checkpoint")


def test_a_seed_that_is_no_part_of_the_model_leaves_a_saved_model_unknown(directory: Directory, tmp_path: Path) -> None:
    result = trained(directory, STEPS, 2)
    found = looked(result, tmp_path, result.save(tmp_path / "grown"))
    assert found.verdict == "unknown"
    assert "(site 0 slot 0)" in found.why
    assert looked(result, tmp_path, max(directory.checkpoints(result.run).iterdir())).verdict == "same"


def test_an_older_checkpoint_is_another_model(result: Result, tmp_path: Path) -> None:
    folder = Directory(result.log).checkpoints(result.run)
    found = looked(result, tmp_path, folder / "epoch-000004" / "tensors.safetensors")
    assert (found.verdict, found.epoch) == ("other", 4)


def test_one_bit_makes_another_model(result: Result, tmp_path: Path) -> None:
    path = result.save(tmp_path / "grown") / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert looked(result, tmp_path, path).verdict == "other"


@pytest.mark.parametrize("change", ["name", "type", "shape", "missing", "more"])
def test_a_tensor_that_is_not_as_it_was_makes_another_model(result: Result, tmp_path: Path, change: str) -> None:
    path = result.save(tmp_path / "grown") / "model.safetensors"
    tensors = load_file(path)
    name = max(tensors)
    tensor = tensors.pop(name)
    changes = {
        "name": {f"{name}x": tensor},
        "type": {name: tensor.view(torch.int32)},
        "shape": {name: tensor.reshape(1, *tensor.shape)},
        "missing": {},
        "more": {name: tensor, "another": tensor.clone()},
    }
    save_file(tensors | changes[change], path)
    assert looked(result, tmp_path, path).verdict == "other"


def test_a_run_that_has_not_finished_has_no_model_to_compare_with(directory: Directory, tmp_path: Path, result: Result) -> None:
    with projected(result.log, tmp_path) as made:
        made.connection.execute("DELETE FROM run_ends")
        found = compare_model(made.connection, result.run, max(directory.checkpoints(result.run).iterdir()))
    assert (found.verdict, found.epoch) == ("unknown", 5)


HEADER = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
BAD: dict[str, bytes] = {
    "nothing": b"",
    "a pickle": b"\x80\x02}q\x00.",
    "a header that is longer than the file": struct.pack("<Q", 1 << 60) + b"{}",
    "a header that is no JSON": struct.pack("<Q", 4) + b"nope",
    "a header that is a list": struct.pack("<Q", 2) + b"[]x",
    "an entry that is a number": struct.pack("<Q", 7) + b'{"a":1}',
    "an unknown type": struct.pack("<Q", len(HEADER)) + HEADER.replace(b"F32", b"F33") + bytes(8),
    "bytes that are not there": struct.pack("<Q", len(HEADER)) + HEADER + bytes(7),
    "a shape of other size": struct.pack("<Q", len(HEADER)) + HEADER.replace(b"[2]", b"[3]") + bytes(8),
    "a shape without end": struct.pack("<Q", len(HEADER) + 4) + HEADER.replace(b"[2]", b"[1e999]") + bytes(8),
    "a place before the data": struct.pack("<Q", len(HEADER) + 1) + HEADER.replace(b"[0,8]", b"[-8,0]") + bytes(8),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_file_that_is_none_is_unknown(told: duckdb.DuckDBPyConnection, tmp_path: Path, bad: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(BAD[bad])
    found = compare_model(told, "run", path)
    assert found.verdict == "unknown"
    assert "expected a safetensors file" in found.why


def test_a_folder_without_a_model_is_unknown(told: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    assert "model.safetensors or tensors.safetensors" in compare_model(told, "run", tmp_path).why


def test_what_is_no_file_is_unknown_and_nothing_waits_for_it(told: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    found = compare_model(told, "run", tmp_path / "pipe")
    assert (found.verdict, found.why.endswith("it is no file")) == ("unknown", True)
