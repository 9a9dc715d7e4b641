"""SystemStates made concisely: `state(seed("a", 0, Stage.TRAINING, epochs=3), ...)`; everything not named is unremarkable."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from esper.events.envelope import EventId
from esper.events.kinds.control import Adaptation, DecisionMade, FieldReported
from esper.events.kinds.epoch import GateSettings, SiteRow, SystemState
from esper.events.kinds.lifecycle import Evaluation, SeedRow, Stage
from esper.tamiyo.policy import decide
from esper.tamiyo.policy_input import PolicySettings

EPOCH_EVENT = EventId("run/1000")
EVALUATION = EventId("run/900")
FALLING = tuple(0.8**epoch for epoch in range(12))
FLAT = (1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5)
SITE_DEFAULTS: Mapping[str, object] = {"blueprints": ("mlp:24", "lowrank:8", "signal:12")}
Row = Mapping[str, Any]  # Any: fields of a SeedRow or SiteRow, which check them.


class Report(NamedTuple):
    """One field report; the measures do not matter to the policy."""

    blueprint: str
    site: str
    outcome: Literal["FOSSILIZED", "CULLED", "CANCELLED", "ROLLED_BACK"]
    life: int = 1


def seed(site: str = "a", slot: int = 0, stage: Stage = Stage.DORMANT, *, epochs: int = 1, **columns: object) -> Row:
    """One slot; `columns` are fields of SeedRow, but for `epochs_in_stage`, of which `state` makes `since_epoch`."""
    occupied = {} if stage is Stage.DORMANT else {"life": 1, "blueprint": "mlp:24", "ready": True}
    return {"site": site, "seed": slot, "stage": stage, "epochs_in_stage": epochs, **occupied, **columns}


def evaluated(
    mean: float = 0.02,
    standard_error: float = 0.001,
    *,
    epoch: int = 30,
    n: int = 350,
    k: int = 3,
    look: int = 1,
    without: float = 0.5,
    with_seed: float | None = None,
    event: EventId = EVALUATION,
    skewness: float = 0.0,
    alpha: float = 0.5,
) -> dict[str, Any]:
    """The evaluation of a seed; by default a clear gain, measured at the epoch's end that is decided about."""
    evaluation = Evaluation(
        epoch=epoch,
        alpha=alpha,
        n=n,
        k=k,
        look=look,
        mean=mean,
        standard_error=standard_error,
        skewness=skewness,
        loss_without=without,
        loss_with=without - mean if with_seed is None else with_seed,
    )
    return {"evaluated": event, "evaluation": evaluation}


def dormant(site: str = "a", slots: int = 4) -> tuple[Row, ...]:
    """The free slots of a site."""
    return tuple(seed(site, slot) for slot in range(slots))


def sites(**pressure: float | None) -> tuple[Row, ...]:
    """Sites by name with their gradient pressure."""
    return tuple({**SITE_DEFAULTS, "site": name, "gradient_pressure": value} for name, value in pressure.items())


def state(
    *seeds: Row,
    epoch: int = 30,
    planned: int | None = 80,
    losses: tuple[float, ...] = FALLING,
    site_rows: tuple[Row, ...] = sites(a=1.0),
    reports: tuple[Report, ...] = (),
    gate: GateSettings | None = None,
    **fields: Any,
) -> SystemState:
    """A SystemState; `fields` are the model's own (pydantic checks them)."""
    values: dict[str, Any] = {
        "epoch": epoch,
        "epochs_planned": planned,
        "train_loss": 0.4,
        "train_metrics": {},
        "validation_loss": 0.5,
        "validation_metrics": {},
        "validation_losses": losses,
        "earlier_loss": None,
        "best_loss": 0.5,
        "best_epoch": 1,
        "epochs_since_improvement": 0,
        "parameters": 460,
        "parameters_limit": 920,
        "germinations": 0,
        "stages": {},
        "sites": tuple(SiteRow.model_validate(row) for row in site_rows),
        "seeds": tuple(_seed_row(row, epoch) for row in seeds),
        "field_reports": tuple(map(_reported, reports)),
        "gate": gate or GateSettings(),
        **fields,
    }
    return SystemState(**values)


def decisions(system: SystemState, **settings: Any) -> tuple[DecisionMade, ...]:
    """What the policy decides about `system`; `settings` are PolicySettings' own (it checks them)."""
    return decide(system, EPOCH_EVENT, PolicySettings(**settings))


def only(system: SystemState, **settings: Any) -> DecisionMade:
    """The one decision about `system`."""
    (decision,) = decisions(system, **settings)
    return decision


def wanted(system: SystemState, **settings: Any) -> list[tuple[Adaptation, str | None, int | None]]:
    """What is wanted of which seed, in order."""
    return [(decision.adaptation, decision.site, decision.seed) for decision in decisions(system, **settings)]


def _seed_row(row: Row, epoch: int) -> SeedRow:
    since = max(0, epoch - row["epochs_in_stage"])
    return SeedRow.model_validate({name: value for name, value in row.items() if name != "epochs_in_stage"} | {"since_epoch": since})


def _reported(report: Report) -> FieldReported:
    return FieldReported(
        blueprint=report.blueprint,
        kernel=None,
        site=report.site,
        seed=0,
        life=report.life,
        metric_before=None,
        metric_after=None,
        outcome=report.outcome,
    )
