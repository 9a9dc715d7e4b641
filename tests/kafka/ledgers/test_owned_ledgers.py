"""The ledgers of a worker: they are told to close in the middle of anything, and notice when nothing moves."""

import asyncio
import re
import subprocess
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from esper.errors import LogError
from esper.kafka.ledgers import owned_ledgers
from esper.kafka.ledgers.ledger import LedgerSettings
from esper.kafka.ledgers.owned_ledgers import OwnedLedgers
from esper.kafka.ledgers.worker_metrics import metrics_text
from tests.kafka.memory_cluster import SETTINGS
from tests.programs import program

_LONG_S, _AT_ONCE_S, _WITHIN_S = 30.0, 0.01, 10.0


class _Ledger:
    """A ledger that waits for ever in the step `hangs`, and fails in `fails`."""

    def __init__(self, hangs: str = "", fails: str = "") -> None:
        self.hangs, self.fails, self.done = hangs, fails, list[str]()
        self.expired: dict[str, int] = {"telemetry.training.steps": 3}
        self.positions = self.lag = {"telemetry.training.steps": 3}
        self.runs, self.stopped_runs, self.last_transaction_s = 5, 1, 0.25
        self.counts = Counter[str]()
        self.progress: Callable[[], None] = lambda: None

    async def open(self, *_: object, progress: Callable[[], None]) -> "_Ledger":
        self.progress = progress
        await self.step("open")
        return self

    async def turn(self) -> int:
        await self.step("turn")
        self.progress()
        return 0

    async def close(self) -> None:
        await self.step("close")

    async def abandon(self) -> None:
        await self.step("abandon")

    async def step(self, name: str) -> None:
        self.done.append(name)
        if name == self.hangs:
            await asyncio.Event().wait()
        if name == self.fails:
            raise LogError("the cluster is dead")
        await asyncio.sleep(0)


@pytest.fixture
def promtool(pytestconfig: pytest.Config) -> Path:
    return program(pytestconfig, "promtool")


def run(monkeypatch: pytest.MonkeyPatch, ledger: _Ledger, work: Callable[[OwnedLedgers], Awaitable[None]]) -> list[str]:
    """What is reported while `work` has an owner of partition 0."""
    monkeypatch.setattr(owned_ledgers, "Ledger", ledger)
    reported: list[str] = []

    async def owning() -> None:
        owned = OwnedLedgers(SETTINGS, LedgerSettings(), reported.append)
        owned.own([0])
        await work(owned)

    asyncio.run(owning())
    return reported


async def until(claim: Callable[[], bool]) -> None:
    async with asyncio.timeout(_WITHIN_S):
        while not claim():
            await asyncio.sleep(0.001)


def test_closing_ends_a_recovery_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = _Ledger(hangs="open")

    async def work(owned: OwnedLedgers) -> None:
        await until(lambda: ledger.done == ["open"])
        async with asyncio.timeout(_WITHIN_S):
            await owned.close(_LONG_S)
        assert not owned.failed

    assert run(monkeypatch, ledger, work) == []


def test_closing_gives_up_a_transaction_that_does_not_end_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = _Ledger(hangs="close")

    async def work(owned: OwnedLedgers) -> None:
        await until(lambda: bool(owned.open))
        await owned.close(_AT_ONCE_S)
        assert owned.failed

    assert run(monkeypatch, ledger, work)[-1] == (
        "ledger-0: not everything was written within 0.01 s; the next owner aborts what is open and derives it again"
    )


def test_an_error_of_a_ledger_is_reported_and_fails_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = _Ledger(fails="turn")

    async def work(owned: OwnedLedgers) -> None:
        await until(lambda: owned.failed)

    assert run(monkeypatch, ledger, work) == [
        "partition 0: 3 messages of telemetry.training.steps were deleted by retention before they were read; going on",
        "partition 0: the cluster is dead",
    ]
    assert ledger.done == ["open", "turn", "abandon"]


def test_a_ledger_that_does_not_turn_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, began_at = _Ledger(hangs="turn"), time.monotonic()

    async def work(owned: OwnedLedgers) -> None:
        await until(lambda: "turn" in ledger.done)
        await until(lambda: owned.is_stuck(_AT_ONCE_S, began_at))
        assert not owned.is_stuck(_LONG_S, began_at)

    run(monkeypatch, ledger, work)


def test_a_ledger_that_turns_is_not_stuck_and_one_that_is_opened_has_time(monkeypatch: pytest.MonkeyPatch) -> None:
    turning, opening = _Ledger(), _Ledger(hangs="open")

    async def turns(owned: OwnedLedgers) -> None:
        await until(lambda: len(turning.done) > 3)
        assert not owned.is_stuck(_LONG_S, time.monotonic())
        await owned.close()
        assert turning.done[-1] == "close"

    async def opens(owned: OwnedLedgers) -> None:
        await until(lambda: opening.done == ["open"])
        assert not owned.is_stuck(_AT_ONCE_S, time.monotonic())
        await owned.close()

    run(monkeypatch, turning, turns)
    run(monkeypatch, opening, opens)


def test_metrics_count_what_closed_ledgers_did_and_promtool_accepts_them(monkeypatch: pytest.MonkeyPatch, promtool: Path) -> None:
    ledger = _Ledger()
    ledger.counts = Counter({"applied": 7, "derived": 2, "dead letters": 1, "expired": 3, "transactions": 4})
    told: list[bytes] = []

    async def work(owned: OwnedLedgers) -> None:
        await until(lambda: bool(owned.open))
        told.append(metrics_text(owned))
        owned.own(())
        await until(lambda: not owned.open)
        owned.own([0])
        await until(lambda: bool(owned.open))
        told.append(metrics_text(owned))
        await owned.close()
        told.append(metrics_text(owned))

    run(monkeypatch, ledger, work)
    first, second, last = ({name: float(value) for name, value in re.findall(r"(?m)^(\w[^ ]*) (\S+)$", text.decode())} for text in told)
    assert first == {
        "esper_worker_records_applied_total": 7,
        "esper_worker_records_derived_total": 2,
        "esper_worker_dead_letters_total": 1,
        "esper_worker_records_expired_total": 3,
        "esper_worker_transactions_total": 4,
        "esper_worker_ledgers_opened_total": 1,
        "esper_worker_ledgers": 1,
        "esper_worker_runs": 5,
        "esper_worker_stopped_runs": 1,
        "esper_worker_last_transaction_seconds": 0.25,
        'esper_worker_lag_records{topic="telemetry.training.steps"}': 3,
    }
    assert (second["esper_worker_records_applied_total"], last["esper_worker_records_applied_total"]) == (14, 14)
    assert (last["esper_worker_ledgers_opened_total"], last["esper_worker_ledgers"]) == (2, 0)
    for text in told:
        done = subprocess.run([promtool, "check", "metrics"], input=text, check=False, capture_output=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_worker_that_is_never_told_what_it_owns_is_stuck() -> None:
    owned = OwnedLedgers(SETTINGS, LedgerSettings(), lambda _: None)
    assert owned.is_stuck(_AT_ONCE_S, time.monotonic() - _LONG_S)
    assert not owned.is_stuck(_LONG_S, time.monotonic())
