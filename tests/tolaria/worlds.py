"""A whole tiny training, its parts within reach: a Linear host of 4-3-2, twenty samples, a policy that reads from a script.

A script says, by epoch, what is decided at its end: (adaptation, slot) or (adaptation, slot, blueprint), all at the site "0". A life goes
GERMINATED at the end of epoch E; TRAINING at the end of E+1, by two `advance`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from esper.events.envelope import EventId
from esper.events.kinds.control import Adaptation, Command, DecisionMade
from esper.events.kinds.epoch import EpochCompleted, GateSettings, Measured, SystemState
from esper.events.kinds.run import RunStarted
from esper.kasmina.compiler import Kernel, KernelCompiler, KernelError, KernelRequest
from esper.kasmina.growth import GrowthSettings
from esper.kasmina.host import Host
from esper.kasmina.randomness import derive
from esper.tamiyo.policy_input import PolicySettings
from esper.tolaria.adaptation import adapt, collect_kernels
from esper.tolaria.objective import Batch, Batches, Loss, Objective, Supervised
from esper.tolaria.system_state import system_state
from esper.tolaria.trainer import Trainer
from esper.tolaria.training import Policy, Scheduler, TrainerSettings, Training
from esper.tolaria.validation import Evaluator
from tests.beginnings import run_started
from tests.tolaria.event_sinks import ListedJournal

torch.set_num_threads(1)

SITE = "0"
CPU = torch.device("cpu")
STEPS = 4
SAMPLES = 20

Step = tuple[Adaptation, int] | tuple[Adaptation, int, str]
Script = Mapping[int, Sequence[Step]]

GERMINATE: Step = (Adaptation.GERMINATE, 0, "mlp:2")
ADVANCE: Step = (Adaptation.ADVANCE, 0)
GRAFT: Step = (Adaptation.GRAFT, 0)
CULL: Step = (Adaptation.CULL, 0)
CANCEL: Step = (Adaptation.CANCEL, 0)
FOSSILIZE: Step = (Adaptation.FOSSILIZE, 0)

TRAINING: Script = {1: [GERMINATE], 2: [ADVANCE, ADVANCE]}
"""A seed in TRAINING from the end of epoch 2 on."""

GRAFTED: Script = {**TRAINING, 3: [GRAFT]}
"""... in GRAFTING from the end of epoch 3 on."""


def perceptron(rng_seed: int = 3, *middle: nn.Module) -> nn.Sequential:
    """The host."""
    torch.default_generator.manual_seed(rng_seed)  # torch.manual_seed takes a trace of the stack for each absent device.
    return nn.Sequential(nn.Linear(4, 3), nn.GELU(), *middle, nn.Linear(3, 2))


def samples(count: int = SAMPLES, rng_seed: int = 7) -> tuple[Tensor, Tensor]:
    """Inputs and targets that can be learnt: the class is the sign of the first input, mostly."""
    generator = torch.Generator().manual_seed(rng_seed)
    inputs = torch.randn(count, 4, generator=generator)
    return inputs, (inputs[:, 0] + 0.5 * torch.randn(count, generator=generator) > 0).long()


def batches(size: int = 5, count: int = SAMPLES) -> list[tuple[Tensor, Tensor]]:
    """The same samples in the same order, in batches of `size`."""
    inputs, targets = samples(count)
    return list(zip(inputs.split(size), targets.split(size), strict=True))


def loss_of(output: Tensor, target: Tensor) -> Tensor:
    """One loss a sample."""
    return F.cross_entropy(output, target, reduction="none")


def adam(parameters: Iterable[nn.Parameter], lr: float = 1e-2) -> Optimizer:
    """The host's optimizer."""
    return torch.optim.Adam(parameters, lr=lr)


def decided(step: Step, evidence: EventId, *, confidence: float = 1.0, urgency: float = 1.0) -> DecisionMade:
    """The decision that one line of a script stands for."""
    return DecisionMade(
        adaptation=step[0],
        site=SITE,
        seed=step[1],
        blueprint=step[2] if len(step) == 3 else None,
        confidence=confidence,
        urgency=urgency,
        reason="the script says so",
        evidence=(evidence,),
    )


def scripted(script: Script) -> Policy:
    """A policy that decides what stands in the script."""
    return lambda state, evidence: tuple(decided(step, evidence) for step in script.get(state.epoch, ()))


OPEN: list[KernelCompiler] = []
"""The compilers of all worlds that were made in the test that runs."""


class BrokenCompiler(KernelCompiler):
    """Compiles nothing: every order fails."""

    def wait(self, key: str, timeout_s: float) -> Kernel:
        """Raises KernelError, as compiling did."""
        raise KernelError(f"expected a kernel, {key[:8]} burst within {timeout_s:g} s")

    def submit(self, order: KernelRequest) -> None:
        """Takes the order."""


class Marked:
    """Batches that say in a journal's story when each is asked for."""

    def __init__(self, inner: Batches, sink: ListedJournal) -> None:
        self._inner, self._sink = inner, sink

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._inner:
            self._sink.story.append("step")
            yield batch

    def __len__(self) -> int:
        """As many as there are, where that is known."""
        return len(self._inner)  # type: ignore[arg-type] # A TypeError, as a DataLoader's over a stream.


class World:
    """The parts of one training."""

    def __init__(
        self,
        folder: Path,
        *,
        script: Script | Policy | None = None,
        settings: TrainerSettings | None = None,
        schedule: PolicySettings | None = None,
        gate: GateSettings | None = None,
        model: nn.Module | None = None,
        train: Batches | None = None,
        valid: Batches | None = None,
        loss: Loss = loss_of,
        objective: Objective | None = None,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] = adam,
        scheduler: Callable[[Optimizer], Scheduler] | None = None,
        compiler: type[KernelCompiler] = KernelCompiler,
        stop: Callable[[], bool] = lambda: False,
        sites: str | None = SITE,
        slots: int = 2,
        clip: float | None = 1.0,
    ) -> None:
        self.sink = ListedJournal()
        self.settings = settings or TrainerSettings(epochs=3)
        self.model = perceptron() if model is None else model
        self.optimizer = optimizer(list(self.model.parameters()))
        self.scheduler = None if scheduler is None else scheduler(self.optimizer)
        self.host = self._host(sites, slots, clip)
        self.compiler = compiler(folder / "kernels")
        OPEN.append(self.compiler)
        self.checkpoints = folder / "checkpoints"
        self.training = Training(
            host=self.host,
            optimizer=self.optimizer,
            scheduler=self.scheduler,
            sink=self.sink,
            settings=self.settings,
            schedule=schedule or PolicySettings(),
            gate=gate or GateSettings(),
            device=CPU,
            policy=script if callable(script) else scripted(script or {}),
            compiler=self.compiler,
            checkpoints=self.checkpoints,
        )
        chosen = objective or Supervised(loss, {"accuracy": lambda output, target: (output.argmax(1) == target).float()})
        self.evaluator = Evaluator(self.model, batches(20) if valid is None else valid, chosen, CPU)
        self.trainer = Trainer(
            self.training,
            train=Marked(batches() if train is None else train, self.sink),
            objective=chosen,
            evaluator=self.evaluator,
            stop=stop,
        )

    def _host(self, sites: str | None, slots: int, clip: float | None) -> Host:
        growth = GrowthSettings(
            enabled=sites is not None,
            sites=sites or "auto",
            blueprints=("mlp:2", "lowrank:1"),
            slots=slots,
            max_parameters=20.0,
            clip=clip,
        )
        return Host(self.model, growth, seed_optimizer=adam, rng_seed=self.settings.rng_seed)

    def run(self) -> "World":
        """Starts and trains to the end."""
        self.trainer.start(started())
        self.trainer.train()
        return self

    def step(self, epoch: int = 1, step: int = 1, *, measure: bool = False) -> None:
        """One step of the host and its seeds, without the trainer."""
        inputs, targets = samples()
        self.host.begin_step(epoch=epoch, step=step, measure=measure)
        self.optimizer.zero_grad()
        loss_of(self.model(inputs), targets).mean().backward()
        self.optimizer.step()
        self.host.end_step(lr=1e-2)

    def state(self, epoch: int) -> SystemState:
        """The SystemState at the end of `epoch`."""
        self.training.counters = self.training.counters.model_copy(update={"epoch": epoch})
        measured = Measured(loss=1.0, metrics={}, samples=SAMPLES)
        return system_state(self.training, measured, measured)

    def at(self, epoch: int, validation_loss: float = 1.0, *, epochs_left: int = 50) -> None:
        """Sets the clocks to the end of `epoch`, in the middle of a long training."""
        training = self.training
        training.counters = training.counters.model_copy(update={"epoch": epoch, "step": STEPS * epoch})
        training.progress = training.progress.model_copy(update={"validation_loss": validation_loss})
        training.settings = self.settings.model_copy(update={"epochs": epoch + epochs_left})

    def end(self, epoch: int, validation_loss: float = 1.0) -> frozenset[Command]:
        """An epoch's end without training: kernels are collected, then the script is applied. Returns which commands took effect."""
        self.at(epoch, validation_loss)
        collect_kernels(self.training)
        return adapt(self.training, self.state(epoch), EventId(f"epoch/{epoch}"), ramp_steps=8)


def started() -> RunStarted:
    """How the run begins."""
    return run_started(parameters=23)


def completed(made: World) -> list[EpochCompleted]:
    return made.sink.of(EpochCompleted)


class InEpoch:
    """Batches that are changed in some epochs; an epoch is known by torch's seed."""

    def __init__(self, change: Callable[[Tensor], Tensor], *epochs: int) -> None:
        self._change, self._seeds = change, {derive(0, "epoch", epoch) for epoch in epochs}

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        changed = torch.initial_seed() in self._seeds
        for inputs, targets in batches():
            yield (self._change(inputs) if changed else inputs), targets
