"""The host that grows: sites adopted in a model, seeds in their slots, commands applied between steps.

Order of use, per optimizer step: `begin_step`, the user's forward, backward, clip and step, `end_step`. Between steps: `germinate`,
`load`, `apply`, `roll_back`, `override_alpha`, `measure_health`, `state`, `restore`. A command that fails changes nothing (CommandError).

A seed's optimizer is made when its kernel is loaded, with the learning rate that was the host's at germination. Seeds in GRAFTING,
FINE_TUNING and FOSSILIZED step on the task with an optimizer and a clip of their own; in STABILIZATION and EVALUATING they are frozen.
`parameters_limit` bounds the host with its seeds in the task graph and, at each site, the largest of those that may still get there: a race
counts once.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from pydantic import JsonValue
from torch import Tensor, nn
from torch.optim import Optimizer

from esper.errors import DataError, RuleError
from esper.events.kinds.control import Command
from esper.events.kinds.lifecycle import Stage
from esper.events.kinds.run import Site
from esper.folds.seeds import SeedKey
from esper.folds.transitions import IN_TASK_GRAPH, ISOLATED, LIVE, next_stage
from esper.kasmina.branch import Branch
from esper.kasmina.calls import Calls, unwrapped
from esper.kasmina.compiler import DTYPES, Kernel, KernelRequest, parameter_count
from esper.kasmina.growth import Choice, GrowthSettings, SeedOptimizer, find_sites
from esper.kasmina.health.meter import Health, HealthMeter, HealthSample
from esper.kasmina.plain_model import export_plain
from esper.kasmina.randomness import derive, forked
from esper.kasmina.site_layer import Capture, HostSite
from esper.kasmina.slots import HostSlot, SeedTable


class CommandError(DataError):
    """A command could not be applied; nothing has changed."""


class Host:
    """A model whose sites can grow seeds. One at a time per model; not safe to use from several threads."""

    def __init__(
        self,
        model: nn.Module,
        growth: GrowthSettings,
        *,
        seed_optimizer: SeedOptimizer,
        sites: Choice | None = None,
        rng_seed: int = 0,
        calls: Calls | None = None,
    ) -> None:
        """Adopts the sites of `model`; `sites` replaces what the settings name, `calls` are those of a pass. Raises SettingsError."""
        self.model = model
        self._rng_seed, self._clip, self._seed_optimizer, self._health_meter = rng_seed, growth.clip, seed_optimizer, HealthMeter()
        self._host_parameters = list(model.parameters())
        found, self.passed_over = find_sites(model, growth, sites, calls) if growth.enabled else ([], {})
        self._host_sites = {host_site.name: host_site for host_site in found}
        for host_site in found:
            host_site.adopt()
        self._host_size = sum(parameter.numel() for parameter in self._host_parameters)
        self.parameters_limit = int(growth.max_parameters * self._host_size)
        self._lr: float | None = None
        self._epoch, self._step, self._measuring = 0, 0, False
        self._capturing: list[HostSite] = []
        self._told: set[str] = set()
        self._wire()

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites, in the model's order."""
        return tuple(host_site.site for host_site in self._host_sites.values())

    @property
    def frozen(self) -> Mapping[str, str]:
        """Why nothing can grow any more, by site: what a pass did there was found to be nothing that a seed can learn from."""
        return {name: host_site.frozen for name, host_site in self._host_sites.items() if host_site.frozen is not None}

    def take_frozen(self) -> Mapping[str, str]:
        """Those of `frozen` that were not returned before."""
        fresh = {name: reason for name, reason in self.frozen.items() if name not in self._told}
        self._told.update(fresh)
        return fresh

    @property
    def seeds(self) -> Mapping[SeedKey, HostSlot]:
        """Every slot of every site, by (site, seed). A slot goes on changing, by this host alone."""
        return {(slot.site, slot.seed): slot for host_site in self._host_sites.values() for slot in host_site.slots}

    def host_parameters(self) -> list[nn.Parameter]:
        """The host's own parameters in the model's order, never a seed's: a fossilized one steps with its own optimizer as well."""
        return list(self._host_parameters)

    def parameters(self) -> int:
        """Number of parameters of the model now: the host's and those of seeds in the task graph."""
        return self._host_size + sum(slot.size for slot in self.seeds.values() if slot.stage in IN_TASK_GRAPH)

    def affordable(self, site: str) -> tuple[str, ...]:
        """The blueprints that a life could begin with at `site` now, by the limit of parameters; none where it is frozen."""
        host_site = self._host_sites[site]
        if host_site.frozen is not None:
            return ()
        sizes = {name: parameter_count(host_site.spec(name)) for name in host_site.site.blueprints}
        return tuple(name for name, size in sizes.items() if self._total_with(host_site, size) <= self.parameters_limit)

    def begin_step(self, *, epoch: int, step: int, measure: bool = False) -> None:
        """Arms the captures of this step, sets alpha of seeds in GRAFTING (step i of n: i / n), clears the seeds' gradients.

        `measure`: health is measured in this step. Choose it by the step's number alone where health is to be the same in every execution.
        """
        self._epoch, self._step, self._measuring = epoch, step, measure
        if measure:
            self._health_meter.arm(unwrapped(self.model), self._host_sites.values())
        isolated = [host_site for host_site, slot in self._living if slot.stage in ISOLATED]
        capturing = self._host_sites.values() if measure else dict.fromkeys(isolated)
        self._capturing = [host_site for host_site in capturing if host_site.frozen is None]
        for host_site in self._capturing:
            host_site.enable(learning=host_site in isolated, hooks=self._health_meter.hooks if measure else None)
        for host_site, slot in self._living:
            if slot.stage is Stage.GRAFTING:
                host_site.set_alpha(slot, min(1.0, (slot.ramp_done + 1) / slot.ramp_steps))
            if slot.learns_task:
                slot.clear_gradients()

    def end_step(self, *, lr: float, scale: float = 1.0, stepped: bool = True) -> None:
        """Lets the seeds learn, after the host's own optimizer step.

        `lr` is the host's, for germinations to come. `scale` is the loss scaler's; weighting micro-batches by their samples is understood.
        `stepped` is False where the host's step was skipped (the scaler found an infinite gradient): seeds in the task graph do not step
        either. A site that one loss went through twice is frozen from now on.
        """
        self._lr = lr
        captures = {host_site.name: host_site.take_captures() for host_site in self._capturing}
        for host_site in self._capturing:
            host_site.enable(learning=False, hooks=None)
            self._learn_isolated(host_site, captures[host_site.name])
        if self._measuring:
            self._health_meter.take(self._capturing, captures, scale=scale, sound=stepped)
            self._measuring = False
        for _, slot in self._living:
            if stepped and slot.learns_task and not slot.recovering:
                slot.task_step(self._clip, scale)
            if slot.stage is Stage.GRAFTING:
                slot.ramp_done += 1
        self._find_faults(self._living)

    def measure_health(self) -> HealthSample | None:
        """Health measured in the last measured step, returned once; None where no step was measured since."""
        return self._health_meter.last()

    def epoch_health(self) -> dict[tuple[str, int | None], Health]:
        """Health of the epoch, by (site, None) and (site, seed): its last measurement, mean gradient pressure, effective ranks.

        Starts the next epoch's. To be called after validation and evaluations: they find out too that a seed made a non-finite value.
        """
        self._find_faults(self._living)
        return self._health_meter.epoch()

    def _learn_isolated(self, host_site: HostSite, captures: list[Capture]) -> None:
        isolated = [slot for slot in host_site.slots if slot.stage in ISOLATED and not slot.recovering]
        if not captures or not isolated:
            return
        weight = host_site.layer.weight
        found = [(capture.example(weight.dtype), capture.samples) for capture in captures]
        examples = [(*example, samples) for example, samples in found if example is not None]
        for slot in isolated:
            slot.skipped += len(captures) - len(examples)
            if examples:
                with forked(weight.device, derive(self._rng_seed, "seed", slot.site, slot.seed, slot.life or 0, self._step)):
                    slot.isolated_step(examples, self._clip)

    def _find_faults(self, slots: Iterable[tuple[HostSite, HostSlot]]) -> None:
        """Disables seeds that acted and made a non-finite value since the last call. The CPU waits for the device here."""
        for host_site, slot in slots:
            if slot.branch is not None and not slot.branch.take_all_finite():
                slot.fail()
            if slot.recovering:
                host_site.rewire()

    def germinate(self, site: str, seed: int, *, life: int, blueprint: str, lr: float | None = None) -> KernelRequest:
        """The request for the kernel that the new life waits for.

        `life` is the epoch at whose end it germinates; `lr` the host's then (default: the last step's).
        """
        host_site, slot = self._find(site, seed)
        stage = _following(slot, Command.GERMINATE)
        if blueprint not in host_site.site.blueprints:
            raise CommandError(f"expected one of {', '.join(host_site.site.blueprints)} at site {site!r}, got {blueprint!r}")
        lr = self._lr if lr is None else lr
        if lr is None:
            raise CommandError(f"expected a learning rate for {slot.name}: no step was taken yet")
        dtype = next((name for name, known in DTYPES.items() if known is host_site.layer.weight.dtype), None)
        if dtype is None:
            raise CommandError(f"expected site {site!r} in one of {', '.join(DTYPES)}, got {host_site.layer.weight.dtype}")
        spec = host_site.spec(blueprint)
        size = parameter_count(spec)
        if (total := self._total_with(host_site, size)) > self.parameters_limit:
            raise CommandError(f"expected at most {self.parameters_limit} parameters, {slot.name} with {size} would make it {total}")
        slot.clear()
        slot.request = KernelRequest(spec, derive(self._rng_seed, "seed", site, seed, life, "birth"), dtype)
        slot.stage, slot.since_epoch, slot.life, slot.blueprint, slot.lr = stage, life, life, blueprint, lr
        slot.embargo_until = None
        return slot.request

    def load(self, site: str, seed: int, kernel: Kernel, *, epoch: int) -> None:
        """Put the kernel's body into the slot, on the layer's device, with an optimizer of its own."""
        host_site, slot = self._find(site, seed)
        stage = _following(slot, Command.LOAD)
        if kernel.request != slot.request:
            expected = slot.request and slot.request.key[:12]
            raise CommandError(f"expected the kernel of {slot.name} (key {expected}), got {kernel.request.key[:12]}")
        self._fill(host_site, slot, kernel.branch())
        slot.kernel, slot.stage, slot.since_epoch = kernel.digest, stage, epoch
        self._wire()

    def apply(
        self, command: Command, site: str, seed: int, *, epoch: int, ramp_steps: int | None = None, embargo_until: int | None = None
    ) -> None:
        """Applies any command but germinate and load.

        GRAFT needs `ramp_steps`, the steps in which alpha rises to 1; CULL takes `embargo_until`, an epoch, and only keeps it.
        """
        host_site, slot = self._find(site, seed)
        if command in (Command.GERMINATE, Command.LOAD):
            raise RuleError(f"expected Host.germinate or Host.load for {command}, got Host.apply")
        stage = _following(slot, command)
        if command is Command.GRAFT:
            if ramp_steps is None or ramp_steps < 1:
                raise CommandError(f"expected ramp_steps >= 1 to graft {slot.name}, got {ramp_steps!r}")
            if slot.recovering:
                raise CommandError(f"expected a healthy seed to graft, {slot.name} made a non-finite value: cull it")
            slot.ramp_steps, slot.ramp_done = ramp_steps, 0
        if command is Command.STABILIZE:
            host_site.set_alpha(slot, 1.0)
        slot.stage, slot.since_epoch = stage, epoch
        if command in (Command.CULL, Command.CANCEL):
            slot.embargo_until = embargo_until
            slot.branch, slot.optimizer = None, None
        if command is Command.RESET:
            slot.clear()
            slot.embargo_until = None
        self._wire()

    def roll_back(self, site: str, seed: int, *, epoch: int) -> None:
        """Locks the slot of a seed that a rollback blames: ROLLED_BACK, from whatever stage it has; its body is gone."""
        _, slot = self._find(site, seed)
        slot.stage, slot.since_epoch, slot.embargo_until = Stage.ROLLED_BACK, epoch, None
        slot.branch, slot.optimizer = None, None
        self._wire()

    @contextmanager
    def override_alpha(self, alphas: Mapping[SeedKey, float]) -> Iterator[None]:
        """Within, the named seeds act with these alphas, isolated ones too (shadow validation); 0: without.

        For evaluation in eval mode, between steps. One that makes a non-finite value acts as if it were not there, and is disabled.
        """
        places: list[tuple[HostSite, HostSlot, float, float]] = []
        for key, alpha in alphas.items():
            host_site, slot = self._find(*key)
            if slot.alpha is None or not 0.0 <= alpha <= 1.0:
                raise RuleError(f"expected a seed with a body and an alpha in 0..1, got {slot.name} in {slot.stage} and {alpha!r}")
            places.append((host_site, slot, alpha, slot.alpha))
        try:
            for host_site, slot, alpha, _ in places:
                host_site.set_alpha(slot, alpha)
            yield
        finally:
            for host_site, slot, _, before in places:
                host_site.set_alpha(slot, before)
            self._find_faults((host_site, slot) for host_site, *_ in places for slot in host_site.slots)

    def optimizers(self) -> dict[str, Optimizer]:
        """The seeds' own optimizers by "site/seed", for a checkpoint."""
        return {slot.name: slot.optimizer for slot in self.seeds.values() if slot.optimizer is not None}

    def state(self) -> tuple[dict[str, Tensor], JsonValue]:
        """(tensors of all bodies by "site/seed/name"; everything else but the optimizers, as JSON).

        The tensors are the live ones: copy them, or write them out, before the next step.
        """
        tensors = {
            f"{slot.name}/{name}": tensor.detach()
            for slot in self.seeds.values()
            if slot.branch is not None
            for name, tensor in slot.branch.state_dict().items()
        }
        return tensors, SeedTable(format=1, lr=self._lr, slots=tuple(self.seeds.values()), frozen=dict(self.frozen)).model_dump(
            mode="json", by_alias=True
        )

    def restore(self, tensors: Mapping[str, Tensor], state: JsonValue) -> None:
        """Restore what `state` returned, in place, whatever seeds exist now. Then load the host's own state_dict, then the optimizers'.

        Optimizers are new ones; the model's state_dict has the keys that it had when the state was taken. Nothing changes where it raises
        DataError.
        """
        table = SeedTable.from_json(state)
        slots = table.slots
        if [slot.name for slot in slots] != [slot.name for slot in self.seeds.values()]:
            raise DataError(
                f"expected the state of a host with slots {[s.name for s in self.seeds.values()]}, got {[s.name for s in slots]}"
            )
        for slot in slots:
            if slot.stage in LIVE and slot.stage is not Stage.GERMINATED:
                self._revive(self._host_sites[slot.site], slot, tensors)
        self._lr, self._measuring = table.lr, False
        self._told.update(table.frozen)
        self._health_meter.hooks.disarm()
        self._health_meter = HealthMeter(slots)
        for host_site in self._host_sites.values():
            host_site.slots = [slot for slot in slots if slot.site == host_site.name]
            host_site.frozen = host_site.frozen or table.frozen.get(host_site.name)  # A rollback does not make another model of it.
            host_site.enable(learning=False, hooks=None)
        self._wire()

    def shift_epochs(self, epochs: int) -> None:
        """Moves the start of every stage `epochs` later: after a rollback epochs count on; a stage has lasted as long as it had then."""
        for slot in self.seeds.values():
            slot.since_epoch += epochs if slot.stage is not Stage.DORMANT else 0

    def _revive(self, host_site: HostSite, slot: HostSlot, tensors: Mapping[str, Tensor]) -> None:
        assert slot.request is not None
        branch = slot.request.empty_branch()
        try:
            branch.load_state_dict({name: tensors[f"{slot.name}/{name}"] for name in branch.state_dict()})
        except (KeyError, RuntimeError) as error:
            raise DataError(f"expected the tensors of {slot.name} ({slot.blueprint}), got {sorted(tensors)}") from error
        branch.strength = float(branch.alpha)
        self._fill(host_site, slot, branch)

    def _fill(self, host_site: HostSite, slot: HostSlot, branch: Branch) -> None:
        """Puts a body where its layer is, in its layer's mode, with an optimizer of its own."""
        assert slot.lr is not None
        branch = branch.train(host_site.layer.training).to(host_site.layer.weight.device)
        optimizer = self._seed_optimizer(list(branch.parameters()), slot.lr)  # The user's: it may raise, and then nothing has changed.
        slot.branch, slot.optimizer = branch, optimizer

    def release(self) -> None:
        """Makes the model plain again, in place: what grew in it is gone, its own values stay. This Host is of no use afterwards."""
        self._health_meter.hooks.disarm()
        for host_site in self._host_sites.values():
            host_site.release()
        self._host_sites = {}

    def export_plain(self) -> nn.Module:
        """An independent copy of the model as it computes now, of plain torch modules: it pickles, and needs nothing of Esper."""
        return export_plain(self.model)

    def _wire(self) -> None:
        for host_site in self._host_sites.values():
            host_site.wire()
        self._living = [(self._host_sites[slot.site], slot) for slot in self.seeds.values() if slot.branch is not None]

    def _total_with(self, host_site: HostSite, size: int) -> int:
        """The parameters there would be at most with one more seed of `size` at `host_site`."""
        total = self.parameters()
        for other in self._host_sites.values():
            racing = [slot.size for slot in other.slots if slot.stage in LIVE and slot.stage not in IN_TASK_GRAPH]
            total += max([*racing, size] if other is host_site else racing, default=0)
        return total

    def _find(self, site: str, seed: int) -> tuple[HostSite, HostSlot]:
        host_site = self._host_sites.get(site)
        if host_site is None or not 0 <= seed < len(host_site.slots):
            known = ", ".join(f"{name!r} (0..{len(other.slots) - 1})" for name, other in self._host_sites.items())
            raise CommandError(f"expected a slot of {known}; got seed {seed} of site {site!r}")
        return host_site, host_site.slots[seed]


def _following(slot: HostSlot, command: Command) -> Stage:
    try:
        return next_stage(slot.stage, command)
    except RuleError as error:
        raise CommandError(f"{slot.name}: {error}") from error
