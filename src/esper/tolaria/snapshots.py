"""The whole training state as one snapshot, and back: host, seeds, optimizers, scheduler, progress and counters; its digests."""

from collections.abc import Mapping

from pydantic import JsonValue
from torch import Tensor
from torch.optim import Optimizer

from esper.errors import DataError
from esper.events.digests import canonical
from esper.events.kinds.epoch import StateDigests
from esper.kasmina.host import Host
from esper.tolaria.checkpoint_files import Snapshot, flatten_optimizer, plain_from_json, plain_to_json, restore_optimizer
from esper.tolaria.determinism import digest_of_tensors, random_state_digest
from esper.tolaria.trainer_state import Counters, Rewindable
from esper.tolaria.training import Scheduler, Training


def take(training: Training) -> Snapshot:
    """The training state as it is now. Tensors are not copied: write it before the next step."""
    _, seeds = training.host.state()
    states, optimizers = _optimizer_states(training)
    scheduler = training.scheduler
    body: dict[str, JsonValue] = {
        "seeds": seeds,
        "optimizers": optimizers,
        "scheduler": None if scheduler is None else plain_to_json(scheduler.state_dict(), "the scheduler's state"),
        "rewindable": training.progress.model_dump_json(),
        "counters": training.counters.model_dump_json(),
    }
    return Snapshot(_parameters(training.host) | states, body)


def put_back(snapshot: Snapshot, training: Training) -> tuple[Rewindable, Counters]:
    """Restore host, seeds, optimizers and scheduler; returns the progress and counters of the snapshot, which are the caller's to restore.

    Raises ValueError, RuntimeError or KeyError for a host, optimizer or scheduler that it was not taken of.
    """
    training.host.restore(_named("seeds/", snapshot.tensors), snapshot.body["seeds"])
    training.host.model.load_state_dict(_named("model/", snapshot.tensors))
    saved = snapshot.body["optimizers"]
    assert isinstance(saved, dict)
    for name, optimizer in _optimizers(training):
        restore_optimizer(name, optimizer, snapshot.tensors, saved[name])
    _restore_scheduler(training.scheduler, plain_from_json(snapshot.body["scheduler"]))
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


def model_digest(training: Training) -> str:
    """sha256 of the tensors of host and seeds. Waits for the device."""
    return digest_of_tensors(_parameters(training.host))


def state_digests(training: Training) -> StateDigests:
    """The digests of an epoch's end that `TrainerSettings.digest` asks for. Waits for the device."""
    wanted = training.settings.digest
    optimizer = random = None
    if wanted == "full":
        states, plain = _optimizer_states(training)
        optimizer, random = digest_of_tensors(states, canonical(plain)), random_state_digest(training.device)
    return StateDigests(parameters=None if wanted == "off" else model_digest(training), optimizer=optimizer, random=random)


def _parameters(host: Host) -> dict[str, Tensor]:
    """The tensors of model and seeds, buffers included."""
    tensors = {f"model/{name}": _require_tensor(name, tensor) for name, tensor in host.model.state_dict().items()}
    return tensors | {f"seeds/{name}": tensor for name, tensor in host.state()[0].items()}


def _optimizers(training: Training) -> list[tuple[str, Optimizer]]:
    return [("host", training.optimizer), *training.host.optimizers().items()]


def _optimizer_states(training: Training) -> tuple[dict[str, Tensor], dict[str, JsonValue]]:
    """The tensors of all optimizers, and the rest of their state by name."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, JsonValue] = {}
    for name, optimizer in _optimizers(training):
        flat, plain[name] = flatten_optimizer(name, optimizer)
        tensors |= flat
    return tensors, plain


def _require_tensor(name: str, value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise DataError(f"a checkpoint holds the model's tensors; its state {name!r} is a {type(value).__name__}: make it a buffer")
    return value


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
