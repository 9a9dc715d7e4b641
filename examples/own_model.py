"""Your own model and your own data, grown while they train; then what happened, from the log.

    python examples/own_model.py [--log DIR]

The host is too small for the task on purpose: three rings of points, three hidden units.
"""

import argparse
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import esper


def rings(points: int, rng_seed: int) -> TensorDataset:
    """Points [N, 2] on three noisy rings, and which ring each is on [N]."""
    generator = torch.Generator().manual_seed(rng_seed)
    ring = torch.randint(3, (points,), generator=generator)
    angle = torch.rand(points, generator=generator) * 2 * math.pi
    radius = 1.0 + ring + 0.2 * torch.randn(points, generator=generator)
    return TensorDataset(torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1), ring)


def loss(output: Tensor, target: Tensor) -> Tensor:
    """One loss per sample [N]: sharper evidence for decisions than their mean."""
    return F.cross_entropy(output, target, reduction="none")


def accuracy(output: Tensor, target: Tensor) -> Tensor:
    """1 where a sample is told right, else 0 [N]."""
    return (output.argmax(1) == target).float()


def main() -> None:
    """Trains, then tells."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--log", default="runs", help="where runs are kept (default: runs)")
    log = parser.parse_args().log

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3))
    result = esper.fit(
        model,
        DataLoader(rings(1000, 1), batch_size=50, shuffle=True, generator=torch.Generator().manual_seed(0)),
        DataLoader(rings(500, 2), batch_size=500),
        loss=loss,
        metrics={"accuracy": accuracy},
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2),
        epochs=60,
        grow=esper.Grow(max_parameters=12.0),
        log=log,
    )

    history = esper.open(result.run, log)
    print(f"run {result.run}: validation accuracy {result.metrics['validation_accuracy']:.1%}")
    for seed in history.seeds:
        born, last = seed.spans[0], seed.spans[-1]
        print(f"  {seed.blueprint} at layer {seed.site}: born in epoch {born.from_epoch}, {last.stage.value} in epoch {last.from_epoch}")
    first = history.seeds[0].spans[0].from_epoch if history.seeds else 1
    before = history.at(epoch=first).epochs[-1].validation
    assert before is not None, "every epoch here was validated"
    print(f"  when epoch {first} was over, before anything had grown: {before.metrics['accuracy']:.1%}")


if __name__ == "__main__":
    main()
