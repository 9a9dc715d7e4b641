"""The checkpoints of a run: the whole training state at the start of an epoch, saved, pruned, restored, rolled back to, each recorded.

A checkpoint is a JSON manifest and a safetensors file in a folder, which is written under a temporary name, fsynced, then renamed: it is
there whole or not at all. Nothing is unpickled. Its digest is sha256 over the manifest, which contains the sha256 of the tensors. Nothing
in it names a run or a moment, so that two runs of the same training have the same digests; ids of events are found again in the log.
"""

import hashlib
import json
import math
import time
from pathlib import Path
from typing import Literal

import torch
from pydantic import JsonValue
from safetensors import SafetensorError
from safetensors.torch import load, save

from esper.durable import remove_folder, replace_folder
from esper.errors import DataError, LogError
from esper.events.digests import digest_of
from esper.events.envelope import EventId
from esper.events.kinds.lifecycle import SeedRow, Stage
from esper.events.kinds.run import CheckpointPruned, CheckpointSaved, RunRolledBack
from esper.tolaria.snapshots import Snapshot, put_back, take
from esper.tolaria.trainer_state import Counters, KeptCheckpoint, Rewindable
from esper.tolaria.training import Training

_FORMAT = 1
_MANIFEST, _TENSORS = "manifest.json", "tensors.safetensors"


def save_checkpoint(training: Training, reason: Literal["start", "due", "before_grafting", "end"]) -> None:
    """Save the state, record it, then prune older checkpoints. Durable, in the log too, when it returns."""
    counters = training.counters
    name = _name_of(counters.epoch)
    if counters.checkpoints and counters.checkpoints[-1].name == name:
        return
    training.progress = training.progress.model_copy(update={"blamed": None})
    started = time.perf_counter()
    digest, size_bytes = _write(training.checkpoints, name, take(training))
    duration_s = time.perf_counter() - started
    training.emit(CheckpointSaved(checkpoint=name, digest=digest, size_bytes=size_bytes, reason=reason, duration_s=duration_s))
    training.sink.commit()
    _kept(training, name, digest)


def restore_checkpoint(training: Training, name: str, digest: str) -> None:
    """Restore everything as it was when `name` was saved, the counters too. Raises DataError where it is not whole."""
    training.progress, training.counters = _load(training, name, digest)
    _kept(training, name, digest)


def roll_back(training: Training, reason: str) -> None:
    """Restore the newest checkpoint and record it, with the blamed seed and the whole seed table now in force.

    The blamed seed has in that table the stage from just before; then its slot is locked.
    """
    counters, host = training.counters, training.host
    blamed = training.progress.blamed
    before = None if blamed is None else host.seeds[blamed.site, blamed.seed].row
    if before is not None and before.life is None:  # The seed was removed, and its slot is free again.
        blamed = before = None
    target = counters.checkpoints[-1]
    progress, _ = _load(training, target.name, target.digest)
    host.shift_epochs(counters.epoch - target.epoch)
    training.progress = progress.model_copy(update={"last_adaptation_step": counters.step})
    training.counters = counters.model_copy(update={"rollbacks": counters.rollbacks + 1})
    rows = {place: slot.row for place, slot in sorted(host.seeds.items())}
    if before is not None:
        rows[before.site, before.seed] = before
    event = RunRolledBack(
        from_epoch=counters.epoch, to_epoch=target.epoch, checkpoint=target.name, reason=reason, blamed=blamed, seeds=tuple(rows.values())
    )
    cause = training.emit(event)
    training.progress = training.progress.model_copy(update={"last_adaptation": cause})
    if before is not None:
        _lock(training, before, reason, cause)
    training.sink.commit()


def _lock(training: Training, seed: SeedRow, reason: str, cause: EventId) -> None:
    training.host.roll_back(seed.site, seed.seed, epoch=training.counters.epoch)
    locked = seed.model_copy(update={"embargo_until": None})
    moved = training.emit_transition(locked, seed.stage, Stage.ROLLED_BACK, reason, cause=cause)
    training.emit_report(locked, Stage.ROLLED_BACK, None, cause=moved)
    training.progress = training.progress.without_note(seed.site, seed.seed)


def _load(training: Training, name: str, digest: str) -> tuple[Rewindable, Counters]:
    snapshot = _read(training.checkpoints, name, digest, training.device)
    try:
        return put_back(snapshot, training)
    except (KeyError, ValueError, RuntimeError) as error:
        raise DataError(f"checkpoint {training.checkpoints / name} does not fit this host: {error}") from error


def _kept(training: Training, name: str, digest: str) -> None:
    counters, keep = training.counters, training.settings.keep_checkpoints
    mine = KeptCheckpoint(name=name, digest=digest, epoch=counters.epoch, loss=training.progress.validation_loss)
    checkpoints = [*counters.checkpoints, mine]
    best = min(checkpoints, key=lambda one: math.inf if one.loss is None else one.loss)
    dropped = [one for one in checkpoints[:-keep] if one is not best]
    training.counters = counters.model_copy(update={"checkpoints": tuple(one for one in checkpoints if one not in dropped)})
    for one in dropped:
        training.emit(CheckpointPruned(checkpoint=one.name, reason=f"the newest {keep} and the best of those saved are kept"))
    if dropped:
        training.sink.commit()
    for one in dropped:
        remove_folder(_place(training.checkpoints, one.name))


def _name_of(epoch: int) -> str:
    return f"epoch-{epoch:06d}"


def _write(folder: Path, name: str, snapshot: Snapshot) -> tuple[str, int]:
    """The digest and the size in bytes of `snapshot`, written under `folder`/`name`; durable and whole when it returns.

    An older one of that name is replaced. Raises LogError, naming it, where it cannot be written: a full disk.
    """
    data = save({key: tensor.detach().cpu().clone().contiguous() for key, tensor in snapshot.tensors.items()})
    body = {"format": _FORMAT, "tensors_sha256": hashlib.sha256(data).hexdigest(), **snapshot.body}
    manifest = json.dumps(body, allow_nan=False, indent=1).encode()
    try:
        replace_folder(_place(folder, name), {_TENSORS: data, _MANIFEST: manifest})
    except OSError as error:
        raise LogError(f"cannot save checkpoint {folder / name}: {error.strerror}; what was saved before stands") from error
    return digest_of(body), len(data) + len(manifest)


def _read(folder: Path, name: str, expected_digest: str, device: torch.device) -> Snapshot:
    """The snapshot saved as `name`, verified as `verify_checkpoint` does. Raises DataError, naming the file."""
    body, data = verify_checkpoint(folder, name, expected_digest)
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise DataError(f"checkpoint {folder / name / _TENSORS}: {error}") from error
    return Snapshot({key: tensor.to(device) for key, tensor in tensors.items()}, body)


def verify_checkpoint(folder: Path, name: str, expected_digest: str) -> tuple[dict[str, JsonValue], bytes]:
    """The manifest and the bytes of the tensors. Raises DataError naming the file that is missing, damaged or not what was logged."""
    path = _place(folder, name)
    try:
        body = dict(json.loads((path / _MANIFEST).read_bytes()))
        data = (path / _TENSORS).read_bytes()
        digest = digest_of(body)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"checkpoint {path}: expected {_MANIFEST} and {_TENSORS}, whole: {error!r}") from error
    if digest != expected_digest:
        raise DataError(f"checkpoint {path / _MANIFEST}: the log expects digest {expected_digest[:16]}, the file has {digest[:16]}")
    if (found := hashlib.sha256(data).hexdigest()) != body["tensors_sha256"]:
        raise DataError(f"checkpoint {path / _TENSORS}: expected sha256 {str(body['tensors_sha256'])[:16]}, got {found[:16]}")
    if body["format"] != _FORMAT:
        raise DataError(f"checkpoint {path}: expected format {_FORMAT}, got {body['format']!r}")
    return body, data


def _place(folder: Path, name: str) -> Path:
    """The folder of checkpoint `name`. Raises DataError for a path and for a link: it would lead out of the run."""
    if not name or name.startswith(".") or Path(name).name != name:
        raise DataError(f"expected a checkpoint's name in {folder}, got {name!r}")
    for path in (folder.parent, folder, folder / name):
        if path.is_symlink():
            raise DataError(f"expected a folder at {path}, got a link: Esper follows none in a run's folder")
    return folder / name
