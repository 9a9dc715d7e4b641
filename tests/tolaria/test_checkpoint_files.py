"""A checkpoint is there whole or not at all, comes back bit for bit, and is refused by name when it is not what the log says."""

import json
import resource
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from pydantic import JsonValue
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

from esper.errors import DataError, LogError
from esper.tolaria.checkpoint_files import (
    MANIFEST,
    TENSORS,
    Snapshot,
    flatten_optimizer,
    load_checkpoint,
    name_of,
    prune_checkpoint,
    restore_optimizer,
    save_checkpoint,
)
from tests.tolaria.worlds import CPU

NAME = "epoch-000005"


def snapshot(value: float = 1.0, *, body: JsonValue = None) -> Snapshot:
    return Snapshot({"model/weight": torch.full((2, 3), value)}, {"tally": body})


def test_names_sort_as_the_epochs_do() -> None:
    assert sorted(map(name_of, (100, 9, 10))) == [name_of(9), name_of(10), name_of(100)]


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor([0.1, -0.0, float("nan"), float("inf"), 1e-45]),
        torch.tensor(3.5, dtype=torch.float64),
        torch.arange(6).reshape(2, 3).t(),
        torch.ones(3, dtype=torch.bfloat16),
        torch.tensor([True, False]),
        torch.zeros(0, 4),
    ],
)
def test_a_tensor_comes_back_bit_for_bit(tmp_path: Path, tensor: Tensor) -> None:
    saved = save_checkpoint(tmp_path, NAME, Snapshot({"it": tensor}, {}))
    back = load_checkpoint(tmp_path, NAME, saved.digest, CPU).tensors["it"]
    assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
    assert back.contiguous().reshape(-1).view(torch.uint8).tolist() == tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


def test_the_body_comes_back(tmp_path: Path) -> None:
    saved = save_checkpoint(tmp_path, NAME, snapshot(body={"epoch": 5}))
    back = load_checkpoint(tmp_path, NAME, saved.digest, CPU)
    assert back.body["tally"] == {"epoch": 5}


def test_nothing_else_is_left_in_the_folder_and_the_size_is_that_of_the_files(tmp_path: Path) -> None:
    saved = save_checkpoint(tmp_path, NAME, snapshot())
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert saved.size_bytes == sum(path.stat().st_size for path in (tmp_path / NAME).iterdir())


def test_a_checkpoint_that_cannot_be_written_is_named_and_leaves_nothing_behind(tmp_path: Path) -> None:
    saved = save_checkpoint(tmp_path, NAME, snapshot())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))  # No file may be longer: the tensors are.
    try:
        with pytest.raises(
            LogError, match=rf"cannot save checkpoint {tmp_path}/epoch-000006: File too large; what was saved before stands"
        ):
            save_checkpoint(tmp_path, name_of(6), snapshot())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    load_checkpoint(tmp_path, NAME, saved.digest, CPU)


def test_what_a_killed_process_left_half_written_is_no_checkpoint_and_in_nobodys_way(tmp_path: Path) -> None:
    half = tmp_path / f".{NAME}.partial"
    half.mkdir()
    (half / TENSORS).write_bytes(b"half")
    (half / "stranger").touch()
    with pytest.raises(DataError, match=f"{NAME}: expected"):
        load_checkpoint(tmp_path, NAME, "0" * 64, CPU)
    saved = save_checkpoint(tmp_path, NAME, snapshot())
    assert sorted(path.name for path in (tmp_path / NAME).iterdir()) == [MANIFEST, TENSORS]
    assert load_checkpoint(tmp_path, NAME, saved.digest, CPU).tensors["model/weight"][0, 0] == 1.0


def test_a_checkpoint_that_was_renamed_and_not_logged_is_replaced(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, NAME, snapshot(1.0))
    saved = save_checkpoint(tmp_path, NAME, snapshot(2.0))
    assert load_checkpoint(tmp_path, NAME, saved.digest, CPU).tensors["model/weight"][0, 0] == 2.0


def test_the_digest_is_of_tensors_and_body(tmp_path: Path) -> None:
    def digest(one: Snapshot) -> str:
        return save_checkpoint(tmp_path, NAME, one).digest

    assert len({digest(snapshot()), digest(snapshot(2.0)), digest(snapshot(body=1))}) == 3


def _cut_tensors(folder: Path) -> None:
    (folder / TENSORS).write_bytes((folder / TENSORS).read_bytes()[:-1])


def _flip_a_bit_of_the_tensors(folder: Path) -> None:
    content = bytearray((folder / TENSORS).read_bytes())
    content[-1] ^= 1
    (folder / TENSORS).write_bytes(content)


def _change_the_body(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["tally"] = "another"
    (folder / MANIFEST).write_text(json.dumps(manifest))


def _empty_the_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("{}")


def _add_to_the_manifest(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"references": {}}))


def _make_a_list_of_the_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("[1]")


def _cut_the_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_bytes((folder / MANIFEST).read_bytes()[:20])


DAMAGES: list[tuple[Callable[[Path], None], str]] = [
    (lambda folder: (folder / MANIFEST).unlink(), rf"checkpoint \S*{NAME}: expected {MANIFEST} and {TENSORS}, whole: FileNotFound"),
    (lambda folder: (folder / TENSORS).unlink(), rf"checkpoint \S*{NAME}: expected {MANIFEST} and {TENSORS}, whole: FileNotFound"),
    (_cut_tensors, rf"{NAME}/{TENSORS}: expected sha256 \w+, got \w+"),
    (_flip_a_bit_of_the_tensors, rf"{NAME}/{TENSORS}: expected sha256 \w+, got \w+"),
    (_change_the_body, rf"{NAME}/{MANIFEST}: the log expects digest \w+, the file has \w+"),
    (_empty_the_manifest, "the log expects digest"),
    (_make_a_list_of_the_manifest, rf"{NAME}: expected {MANIFEST} and {TENSORS}, whole: TypeError"),
    (_add_to_the_manifest, "the log expects digest"),
    (_cut_the_manifest, rf"{NAME}: expected {MANIFEST} and {TENSORS}, whole: JSONDecodeError"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_damage_is_refused_and_the_file_is_named(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    saved = save_checkpoint(tmp_path, NAME, snapshot())
    damage(tmp_path / NAME)
    with pytest.raises(DataError, match=message):
        load_checkpoint(tmp_path, NAME, saved.digest, CPU)


def test_a_checkpoint_that_is_whole_and_not_the_logged_one_is_refused(tmp_path: Path) -> None:
    logged = save_checkpoint(tmp_path / "one", NAME, snapshot(1.0))
    save_checkpoint(tmp_path / "other", NAME, snapshot(2.0))
    with pytest.raises(DataError, match=f"{MANIFEST}: the log expects digest {logged.digest[:16]}"):
        load_checkpoint(tmp_path / "other", NAME, logged.digest, CPU)


def test_another_format_is_refused(tmp_path: Path) -> None:
    one = snapshot()
    saved = save_checkpoint(tmp_path, NAME, one._replace(body={**one.body, "format": 2}))
    with pytest.raises(DataError, match="expected format 1, got 2"):
        load_checkpoint(tmp_path, NAME, saved.digest, CPU)


def test_pruning_removes_a_checkpoint_and_a_second_time_nothing(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, NAME, snapshot())
    prune_checkpoint(tmp_path, NAME)
    prune_checkpoint(tmp_path, NAME)
    assert list(tmp_path.iterdir()) == []


# Optimizers

Make = Callable[[Iterable[nn.Parameter]], Optimizer]
OPTIMIZERS: list[Make] = [
    lambda parameters: SGD(parameters, lr=0.1, momentum=0.9, nesterov=True),
    lambda parameters: SGD(parameters, lr=0.1),
    lambda parameters: Adam(parameters, lr=0.1, betas=(0.8, 0.9), amsgrad=True),
    lambda parameters: AdamW(parameters, lr=0.1),
    lambda parameters: RMSprop(parameters, lr=0.1, momentum=0.5, centered=True),
    lambda parameters: Adagrad(parameters, lr=0.1),
]


def descend(weight: nn.Parameter, optimizer: Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        (weight - 3.0).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_an_optimizer_goes_on_as_if_it_had_never_been_saved(tmp_path: Path, make: Make) -> None:
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = make([weight])
    descend(weight, optimizer, 3)
    tensors, rest = flatten_optimizer("host", optimizer)
    saved = save_checkpoint(tmp_path, NAME, Snapshot({**tensors, "weight": weight.detach()}, {"optimizer": rest}))
    descend(weight, optimizer, 3)
    back = load_checkpoint(tmp_path, NAME, saved.digest, CPU)
    again = nn.Parameter(back.tensors["weight"].clone())
    restored = make([again])
    restore_optimizer("host", restored, back.tensors, back.body["optimizer"])
    assert restored.param_groups[0].get("betas") == optimizer.param_groups[0].get("betas")
    descend(again, restored, 3)
    assert again.tolist() == weight.tolist()


def test_an_optimizer_of_another_class_is_refused() -> None:
    weight = nn.Parameter(torch.zeros(2))
    tensors, rest = flatten_optimizer("host", Adam([weight]))
    with pytest.raises(ValueError, match="expected optimizer host of class Adam, got SGD"):
        restore_optimizer("host", SGD([weight]), tensors, rest)


def test_an_optimizer_whose_state_is_neither_tensors_nor_plain_is_refused_by_name() -> None:
    weight = nn.Parameter(torch.zeros(2))
    optimizer = SGD([weight], lr=0.1)
    optimizer.param_groups[0]["schedule"] = lambda: 0.1
    with pytest.raises(DataError, match="the state of optimizer host holds a function"):
        flatten_optimizer("host", optimizer)
