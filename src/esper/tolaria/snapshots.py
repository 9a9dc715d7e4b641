"""Taking the whole training state as one snapshot, and putting it back: host, seeds, optimizers, scheduler, and what is remembered."""

from collections.abc import Mapping
from typing import Protocol

from pydantic import JsonValue
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from esper.errors import DataError
from esper.events.digests import canonical
from esper.kasmina.host import Host
from esper.tolaria.checkpoint_files import Snapshot, flatten_optimizer, plain_from_json, plain_to_json, restore_optimizer
from esper.tolaria.trainer_state import Counters, Rewindable, TrainerState

_HOST = "host"


class _EpochScheduler(Protocol):
    """A learning rate scheduler, stepped at every epoch's end; torch's own are, but for the one that asks for the validation loss."""

    def step(self) -> None:
        """Advance the schedule by one epoch."""
        ...

    def state_dict(self) -> dict[str, object]:
        """Its state, of plain values."""
        ...

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """Puts a state back."""
        ...


Scheduler = _EpochScheduler | ReduceLROnPlateau


def take(host: Host, optimizer: Optimizer, scheduler: Scheduler | None, trainer_state: TrainerState) -> Snapshot:
    """The training state as it is now. Tensors are not copied: write it before the next step."""
    tensors = {f"model/{name}": _require_tensor(name, tensor) for name, tensor in host.model.state_dict().items()}
    seed_tensors, seeds = host.state()
    tensors |= {f"seeds/{name}": tensor for name, tensor in seed_tensors.items()}
    optimizers: dict[str, JsonValue] = {}
    for name, one in ((_HOST, optimizer), *host.optimizers().items()):
        flat, optimizers[name] = flatten_optimizer(name, one)
        tensors |= flat
    body: dict[str, JsonValue] = {
        "seeds": seeds,
        "optimizers": optimizers,
        "scheduler": None if scheduler is None else plain_to_json(scheduler.state_dict(), "the scheduler's state"),
        "rewindable": trainer_state.progress.model_dump_json(),
        "counters": trainer_state.counters.model_dump_json(),
    }
    return Snapshot(tensors, body)


def put_back(snapshot: Snapshot, host: Host, optimizer: Optimizer, scheduler: Scheduler | None) -> tuple[Rewindable, Counters]:
    """Restores everything but the clocks of the caller, and returns what was remembered when the snapshot was taken.

    Raises ValueError, RuntimeError or KeyError for a host, optimizer or scheduler that it was not taken of.
    """
    host.restore(_named("seeds/", snapshot.tensors), snapshot.body["seeds"])
    host.model.load_state_dict(_named("model/", snapshot.tensors))
    saved = snapshot.body["optimizers"]
    assert isinstance(saved, dict)
    for name, one in ((_HOST, optimizer), *host.optimizers().items()):
        restore_optimizer(name, one, snapshot.tensors, saved[name])
    _restore_scheduler(scheduler, plain_from_json(snapshot.body["scheduler"]))
    progress, counters = snapshot.body["rewindable"], snapshot.body["counters"]
    assert isinstance(progress, str)
    assert isinstance(counters, str)
    return Rewindable.model_validate_json(progress), Counters.model_validate_json(counters)


def _restore_scheduler(scheduler: Scheduler | None, state: object) -> None:
    if isinstance(state, dict) and scheduler is not None:
        scheduler.load_state_dict(state)
    elif state is not None or scheduler is not None:
        wanted, found = ("a", "none") if scheduler is None else ("no", "one")
        raise ValueError(f"expected {wanted} learning rate scheduler, as when it was saved; got {found}")


def digests(host: Host, optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Tensor], bytes]:
    """Input of the digests of an epoch's end: tensors of host and seeds, of all optimizers, and the optimizers' plain state."""
    seed_tensors, _ = host.state()
    tensors = {f"model/{name}": tensor for name, tensor in host.model.state_dict().items()}
    tensors |= {f"seeds/{name}": tensor for name, tensor in seed_tensors.items()}
    states: dict[str, Tensor] = {}
    plain: dict[str, JsonValue] = {}
    for name, one in ((_HOST, optimizer), *host.optimizers().items()):
        flat, plain[name] = flatten_optimizer(name, one)
        states |= flat
    return tensors, states, canonical(plain)


def _require_tensor(name: str, value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise DataError(f"a checkpoint holds the model's tensors; its state {name!r} is a {type(value).__name__}: make it a buffer")
    return value


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
