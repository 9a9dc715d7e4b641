"""What `esper.fit` does with each host: what grew, what was passed over or refused and with which words, and whether it comes back whole.

`python -m tests.whole.hosts.table [NAME ...]` prints the table.
"""

import importlib.util
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import esper
from esper.errors import SettingsError
from esper.events.kinds.lifecycle import SeedTransitioned, Stage
from esper.events.kinds.run import RunStarted
from esper.oona.directory import Directory
from tests.recipes import events
from tests.whole.hosts import models

_TRAIN, _BATCH, _EPOCHS = 256, 32, 32
_TOLD = frozenset({Stage.TRAINING, Stage.GRAFTING, Stage.FINE_TUNING, Stage.FOSSILIZED, Stage.CULLED, Stage.CANCELLED})


@dataclass(frozen=True)
class Kind:
    """A kind of host: how it is made, from what input, and for which loss. `plain` makes the host that `grown.py` is given."""

    make: Callable[[], nn.Module]
    inputs: Callable[[torch.Generator], Tensor]
    targets: Callable[[Tensor], Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]
    plain: Callable[[], nn.Module] | None = None


@dataclass(frozen=True)
class Row:
    """A host's row: its sites, the stages that seeds reached, what was passed over, the refusal, and how it was rebuilt."""

    host: str
    sites: tuple[str, ...]
    grew: tuple[str, ...]
    passed_over: dict[str, str]
    refused: str | None
    unequal: str | None
    loss: float


def _drawn(*shape: int) -> Callable[[torch.Generator], Tensor]:
    return lambda generator: torch.randn(_TRAIN + _TRAIN // 2, *shape, generator=generator)


def _counted(size: int, length: int) -> Callable[[torch.Generator], Tensor]:
    return lambda generator: torch.randint(size, (_TRAIN + _TRAIN // 2, length), generator=generator)


def _classes(x: Tensor) -> Tensor:
    """Three classes that take a curve to tell apart."""
    flat = x.flatten(1).float()
    half = flat.shape[1] // 2
    score = torch.sin(2.0 * flat[:, :half].sum(1)) + flat[:, half:].square().mean(1)
    return torch.bucketize(score, torch.quantile(score, torch.tensor([1 / 3, 2 / 3])))


def _textures(x: Tensor) -> Tensor:
    """Three classes by how like their neighbours the values are: a convolution can tell."""
    score = (x[..., 1:] * x[..., :-1]).flatten(1).mean(1)
    return torch.bucketize(score, torch.quantile(score, torch.tensor([1 / 3, 2 / 3])))


def _next(x: Tensor) -> Tensor:
    return (3 * x + x.roll(1, 1)) % 12


def _cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target, reduction="none")


def _square(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().flatten(1).mean(1)


def _tokens(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output.flatten(0, 1), target.flatten(), reduction="none").reshape(target.shape).mean(1)


def _vectors(make: Callable[[], nn.Module], plain: Callable[[], nn.Module] | None = None) -> Kind:
    return Kind(make, _drawn(8), _classes, _cross_entropy, plain)


def _sequences(make: Callable[[], nn.Module]) -> Kind:
    return Kind(make, _drawn(6, 4), _classes, _cross_entropy)


def _images(make: Callable[[], nn.Module]) -> Kind:
    return Kind(make, _drawn(1, 8, 8), _textures, _cross_entropy)


KINDS: dict[str, Kind] = {
    "gru": _sequences(lambda: models.Recurrent(nn.GRU)),
    "transformer": _sequences(models.Transformer),
    "resnet": _images(models.Residual),
    "shared": _vectors(models.Shared),
    "called twice": _vectors(models.Repeated),
    "functional": _vectors(models.Functional),
    "frozen backbone": _images(models.Backbone),
    "conv1d": Kind(models.Signals, _drawn(1, 16), _textures, _cross_entropy),
    "torch.jit": _vectors(lambda: torch.jit.script(models.perceptron())),
    "compiled": _vectors(models.compiled, models.perceptron),
    "lstm": _sequences(lambda: models.Recurrent(nn.LSTM)),
    "unet": Kind(models.UNet, _drawn(1, 8, 8), lambda x: x.cumsum(-1).tanh(), _square),
    "embedding bag": Kind(models.Bags, _counted(20, 5), lambda x: (x[:, 0] * x[:, 1] + x[:, 2]) % 3, _cross_entropy),
    "control flow": _vectors(models.Branching),
    "data parallel": _vectors(lambda: nn.DataParallel(models.perceptron()), models.perceptron),
    "mixed dtypes": _vectors(models.Mixed),
    "autoencoder": Kind(models.Autoencoder, _drawn(8), lambda x: x.sin(), _square),
    "depthwise": _images(models.Depthwise),
    "tied language model": Kind(models.Language, _counted(12, 6), _next, _tokens),
    "attention": _sequences(models.Attention),
    "siamese": _vectors(models.Siamese),
    "experts": _vectors(models.Experts),
}


def row_of(name: str, folder: Path) -> Row:
    """The row of the host `name`, which is trained into `folder`."""
    kind = KINDS[name]
    generator = torch.Generator().manual_seed(7)
    x = kind.inputs(generator)
    y = kind.targets(x)
    batches = [(x[start : start + _BATCH], y[start : start + _BATCH]) for start in range(0, len(x), _BATCH)]
    train, valid = batches[: _TRAIN // _BATCH], batches[_TRAIN // _BATCH :]
    torch.manual_seed(1)
    model = kind.make()
    grow = esper.Grow(max_parameters=20.0, settings={"policy.tolerance": 0.5, "gate.confidence_above": 0.2})
    refused: str | None = None
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trainable, lr=1e-2)

    def trained(grow: esper.Grow | None) -> esper.Result:
        return esper.fit(
            model, train, valid, epochs=_EPOCHS, loss=kind.loss, optimizer=optimizer, grow=grow, log=folder, device="cpu", observe=False
        )

    try:
        result = trained(grow)
    except SettingsError as error:
        refused, result = str(error), trained(None)
    directory = Directory(folder)
    (started,) = events(directory, result.run, RunStarted)
    moved = events(directory, result.run, SeedTransitioned)
    lives = {(one.site, one.seed, one.life): one for one in moved if one.to_stage in _TOLD}
    grew = tuple(f"{one.to_stage.lower()} {one.blueprint} at {one.site}" for one in lives.values())
    sites = tuple(site.name for site in started.sites)
    passed_over = dict(getattr(started, "passed_over", {}))
    return Row(name, sites, grew, passed_over, refused, _difference(kind, result, x, folder), result.metrics["validation_loss"])


def _difference(kind: Kind, result: esper.Result, x: Tensor, folder: Path) -> str | None:
    """How a host that is rebuilt from what was saved, with torch alone, differs from the one that was trained; None where it does not."""
    spec = importlib.util.spec_from_file_location("grown", result.save(folder / "saved") / "grown.py")
    assert spec is not None
    assert spec.loader is not None
    grown = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(grown)
    torch.manual_seed(99)
    rebuilt = grown.rebuild((kind.plain or kind.make)())
    trained = result.host.model.eval()
    with torch.no_grad():
        expected, got = trained(x), rebuilt(x)
    wrapped = [name for name in grown.tensors() if "_orig_mod." in name or name.startswith("module.")]
    if wrapped:
        return f"names with a wrapper's prefix: {wrapped[0]}"
    return None if torch.equal(expected, got) else f"outputs differ by up to {float((expected - got).abs().max()):g}"


def lines_of(row: Row) -> list[str]:
    """The row for people: what became of each seed, what was passed over or refused, and how the rebuilt host differs."""
    told = [
        *row.grew,
        *(f"passed over {layer}: {reason}" for layer, reason in row.passed_over.items()),
        *([f"refused: {row.refused}"] if row.refused else []),
        *([f"REBUILT: {row.unequal}"] if row.unequal else []),
    ]
    first = f"{row.host:<20} loss {row.loss:.4f}  sites {', '.join(row.sites) or '-'}"
    return [first, *(f"{'':<20} {line}" for line in told)]


def main() -> None:
    """Writes a block per host."""
    for name in sys.argv[1:] or KINDS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                lines = lines_of(row_of(name, Path(folder)))
            except Exception as error:  # The table shows whatever a host does.
                lines = [f"{name:<20} {type(error).__name__}: {error!s:.300}"]
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
