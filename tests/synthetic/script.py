"""What happens in the synthetic run: decisions by epoch, evaluations, and a load and a kernel that fail."""

import math
from datetime import UTC, datetime
from typing import NamedTuple

from esper.events.kinds.control import Adaptation
from esper.events.kinds.epoch import GateSettings
from esper.events.kinds.run import Code, DataFingerprint, Determinism, Hardware, Pairs, RunStarted, Site
from esper.oona.directory import new_run_id
from tests.synthetic.numbers import digest

BEGAN = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
RUN = new_run_id(BEGAN, bytes.fromhex("000000000000007c21ab"))
EPOCHS = 14
STEPS = 18
DROPPING_EPOCH, CAPACITY = 6, 14  # Of the emitter's buffer: so many samples wait before one is dropped.
FIRST, SECOND = "hidden.0", "hidden.2"
GATE = GateSettings(cooldown=3, embargo=2)
ROLLBACK_EPOCH, ROLLBACK_TO = 11, 8
SITES = (
    Site(name=FIRST, layer="Linear 64->6", inputs=64, outputs=6, slots=4, blueprints=("mlp:24", "lowrank:8", "signal:12")),
    Site(name=SECOND, layer="Linear 6->10", inputs=6, outputs=10, slots=2, blueprints=("mlp:24", "lowrank:8")),
)
Slot = tuple[str, int]


class Wish(NamedTuple):
    """A scripted decision."""

    adaptation: Adaptation
    site: str | None
    seed: int | None
    reason: str
    confidence: float = 1.0
    urgency: float = 1.0
    blueprint: str | None = None


def _germinate(site: str, seed: int, blueprint: str, urgency: float = 0.9) -> Wish:
    reason = "best of 5 improved 3.1 % < 15 %" if urgency > 0.6 else "best of 5 improved 13.5 % < 15 %"
    return Wish(Adaptation.GERMINATE, site, seed, reason, 0.99, urgency, blueprint)


def _advance(site: str, *seeds: int) -> list[Wish]:
    return [Wish(Adaptation.ADVANCE, site, seed, "the stage's work is done") for seed in seeds]


def _graft(site: str, seed: int) -> Wish:
    return Wish(Adaptation.GRAFT, site, seed, "0.2715 against 0.2733 (-0.7 %), n 350, z 4.1", 0.9999, 1.0)


def _fossilize(site: str, seed: int) -> Wish:
    return Wish(Adaptation.FOSSILIZE, site, seed, "0.2511 against 0.2733 (-8.1 %), n 350, z 9.0", 1.0, 1.0)


def _cancel(site: str, seed: int, reason: str) -> Wish:
    return Wish(Adaptation.CANCEL, site, seed, reason)


NOTHING = Wish(Adaptation.NONE, None, None, "nothing to do: 2 of the 6 validation losses that show a plateau", 0.0, 0.0)
NOT_FINITE = "a value that is not finite was made by the seed"
SCRIPT: dict[int, list[Wish]] = {
    1: [_germinate(SECOND, 0, "lowrank:8")],
    2: _advance(SECOND, 0, 0),
    3: [_germinate(FIRST, 0, "mlp:24", urgency=0.55)],
    4: [
        _graft(SECOND, 0),
        _germinate(FIRST, 0, "mlp:24"),
        _germinate(FIRST, 1, "lowrank:8"),
        _germinate(FIRST, 2, "signal:12"),
    ],
    5: _advance(FIRST, 0, 0, 1),
    6: [*_advance(SECOND, 0), *_advance(FIRST, 1, 1)],
    7: [*_advance(SECOND, 0), _germinate(FIRST, 2, "signal:12"), _germinate(FIRST, 3, "mlp:24")],
    8: [_graft(FIRST, 0), Wish(Adaptation.CULL, FIRST, 1, NOT_FINITE), *_advance(SECOND, 0), *_advance(FIRST, 3, 3)],
    9: [_cancel(FIRST, 2, "its kernel did not compile"), _cancel(FIRST, 3, "s0 helped more (-0.7 % against -0.3 %)")],
    10: [_fossilize(SECOND, 0), _germinate(SECOND, 1, "mlp:24"), *_advance(FIRST, 1, 2, 3)],
    12: [_fossilize(SECOND, 0), _cancel(FIRST, 2, "its kernel did not compile"), *_advance(FIRST, 1)],
    13: [_germinate(FIRST, 1, "mlp:24", urgency=math.nan)],
}
FAILING_LOAD = (5, FIRST, 1)
FAILING_KERNEL = (FIRST, 2)
EVALUATED: dict[int, tuple[Slot, ...]] = {
    4: ((SECOND, 0),),
    8: ((FIRST, 0), (SECOND, 0)),
    9: ((FIRST, 3),),
    10: ((SECOND, 0),),
    12: ((SECOND, 0),),
}


def started(planned: int = EPOCHS, task: str = "digits") -> RunStarted:
    """The first event of the synthetic run."""
    return RunStarted(
        task=task,
        settings={
            "trainer.epochs": planned,
            "policy.train_epochs": 2,
            "policy.graft_epochs": 2,
            "policy.fine_tune_epochs": 2,
            **{f"gate.{name}": value for name, value in GATE},
        },
        code=Code(revision="0" * 40, dirty_digest=None, argv=("esper", "train", "digits")),
        packages={"torch": "2.15.0"},
        data=(DataFingerprint(name="train", length=1097, kind="tensors", digest=digest("data", 0)),),
        rng_seed=0,
        determinism=Determinism(threads=1, deterministic_algorithms=True, mkl_cbwr="AVX2,STRICT", variables={}, digest="full"),
        hardware=Hardware(
            machine="synthetic", processor="none", cores=2, memory_bytes=8_000_000_000, operating_system="none", device="cpu", gpus=()
        ),
        sites=SITES,
        passed_over={},
        pairs=Pairs(of="samples", count=350, pieces=1, reason="the loss gives one number a sample"),
        parameters=460,
        epochs=planned,
        by="Ada Example",
        approved_by="Grace Example",
        account="ada",
    )
