"""Small hosts and the loop that trains them, for the tests of this folder."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from esper.events.kinds.control import Command
from esper.kasmina.branch import Branch
from esper.kasmina.compiler import Kernel, KernelRequest, compile_kernel
from esper.kasmina.growth import Choice, GrowthSettings
from esper.kasmina.host import Host
from esper.kasmina.site_layer import HostSite

LR = 3e-3
BATCH = 16


def linear_model() -> nn.Sequential:
    """A Linear host with a bit of everything that keeps state or draws random numbers."""
    torch.default_generator.manual_seed(5)
    return nn.Sequential(
        nn.Linear(20, 12), nn.BatchNorm1d(12), nn.GELU(), nn.Dropout(0.2), nn.Linear(12, 8), nn.ReLU(inplace=True), nn.Linear(8, 4)
    )


def conv_model() -> nn.Sequential:
    """A Conv2d host, with an activation in place right after a site."""
    torch.default_generator.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        nn.Dropout2d(0.2),
        nn.Conv2d(6, 5, 3, padding="same"),
        nn.BatchNorm2d(5),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 4),
    )


INPUT = {"linear": (20,), "conv": (3, 8, 8)}
MODELS: dict[str, Callable[[], nn.Sequential]] = {"linear": linear_model, "conv": conv_model}


def batch(kind: str, step: int, size: int = BATCH) -> tuple[Tensor, Tensor]:
    """Inputs and classes of one step, the same for every model."""
    generator = torch.Generator().manual_seed(1000 + step)
    return torch.randn(size, *INPUT[kind], generator=generator), torch.randint(0, 4, (size,), generator=generator)


def adam(parameters: list[nn.Parameter], lr: float) -> Optimizer:
    """A seed's optimizer."""
    return torch.optim.Adam(parameters, lr=lr)


def host_of(
    model: nn.Module, *, sites: Choice = "auto", blueprints: tuple[str, ...] | None = None, slots: int = 3, limit: float = 50.0
) -> Host:
    """A host with room for anything."""
    named, chosen = (sites, None) if isinstance(sites, str) else ("auto", sites)
    growth = GrowthSettings(sites=named, blueprints=blueprints, slots=slots, max_parameters=limit)
    return Host(model, growth, seed_optimizer=adam, sites=chosen, rng_seed=7)


def table_of(host: Host) -> object:
    """What is known of every slot now, alphas included."""
    return host.state()[1], [slot.alpha for slot in host.seeds.values()]


@cache
def kernel_of(order: KernelRequest) -> Kernel:
    """The kernel of `order`; its file is gone. An order names its kernel bit by bit, so it is compiled once for all tests."""
    with TemporaryDirectory() as folder:
        return compile_kernel(order, Path(folder))


def site_of(layer: nn.Module) -> HostSite:
    """The site that an adopted layer is."""
    site = layer.__dict__["esper_site"]
    assert isinstance(site, HostSite)
    return site


def branch_of(layer: nn.Module, seed: int) -> Branch:
    """The body of a seed at a site."""
    branch = site_of(layer).slots[seed].branch
    assert branch is not None
    return branch


def into_training(
    host: Host, site: str, seed: int, blueprint: str, *, life: int = 1, compiled: Callable[[KernelRequest], Kernel] = kernel_of
) -> None:
    """Brings a dormant slot to TRAINING."""
    kernel = compiled(host.germinate(site, seed, life=life, blueprint=blueprint, lr=LR))
    host.load(site, seed, kernel, epoch=life + 1)
    host.apply(Command.TRAIN, site, seed, epoch=life + 1)


def into(host: Host, site: str, seed: int, blueprint: str, *commands: Command, ramp_steps: int = 1) -> None:
    """Brings a dormant slot to TRAINING and through `commands`."""
    into_training(host, site, seed, blueprint)
    for command in commands:
        host.apply(command, site, seed, epoch=3, ramp_steps=ramp_steps)


@dataclass(eq=False)
class Loop:
    """Trains a host with everything that could be disturbed: clipping, accumulation, autocast, an optimizer with state."""

    kind: str
    model: nn.Module
    host: Host | None
    micro_batches: int = 1
    autocast: bool = False
    scaled: bool = False
    measure_every: int = 5
    clipped: Callable[["Loop"], list[nn.Parameter]] | None = None

    def __post_init__(self) -> None:
        self.own = list(self.model.parameters())
        self.optimizer = torch.optim.Adam(self.own, lr=LR)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=256.0, enabled=self.scaled)
        torch.default_generator.manual_seed(11)

    def step(self, step: int) -> str:
        """Takes one step; the digest of parameters, buffers, optimizer state and random state after it."""
        if self.host is not None:
            self.host.begin_step(epoch=1, step=step, measure=step % self.measure_every == 0)
        self.optimizer.zero_grad()
        for part in range(self.micro_batches):
            x, t = batch(self.kind, step * self.micro_batches + part)
            with torch.autocast("cpu", enabled=self.autocast):
                loss = nn.functional.cross_entropy(self.model(x), t) / self.micro_batches
            self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.own if self.clipped is None else self.clipped(self), 0.1)
        self.scaler.step(self.optimizer)
        if self.host is not None:
            self.host.end_step(lr=LR, scale=self.scaler.get_scale())
        self.scaler.update()
        return self.digest()

    def run(self, first: int, last: int) -> list[str]:
        """The digests after steps `first` to `last - 1`."""
        return [self.step(step) for step in range(first, last)]

    def digest(self) -> str:
        """sha256 over everything that the host's path depends on."""
        digest = hashlib.sha256()
        for tensor in [*self.own, *self.model.buffers(), *_tensors_of(self.optimizer, self.own), torch.get_rng_state()]:
            digest.update(tensor.detach().numpy().tobytes())
        return digest.hexdigest()


def _tensors_of(optimizer: Optimizer, parameters: list[nn.Parameter]) -> list[Tensor]:
    return [value for parameter in parameters for _, value in sorted(optimizer.state[parameter].items())]


def first_difference(one: list[str], other: list[str]) -> int | None:
    """The first step after which two paths differ; None: they are the same."""
    return next((step for step, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), None)
