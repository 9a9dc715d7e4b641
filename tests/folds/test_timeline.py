"""Lives, decisions and notes of a run, as its facts tell them."""

from datetime import UTC, datetime

from esper.events.codec import encode
from esper.events.envelope import EventId, Moment, Record, RunId, record_id
from esper.events.fields import Event
from esper.events.kinds.control import Adaptation, Command, CommandIssued, CommandRefused, DecisionMade
from esper.events.kinds.lifecycle import SeedRow, SeedTransitioned, Stage
from esper.events.kinds.run import BlamedSeed, RunResumed, RunRolledBack
from esper.folds.timeline import Timeline

RUN = RunId("run")


class Told:
    """A timeline that is told events one after another, a moment each."""

    def __init__(self) -> None:
        self.timeline = Timeline()
        self.moment = 0

    def tell(self, event: Event, epoch: int, cause: EventId | None = None) -> EventId:
        """Tells `event`; its id."""
        self.moment += 1
        moment = Moment(self.moment)
        identity = record_id(RUN, moment)
        time = datetime(2026, 3, 1, tzinfo=UTC)
        coordinates = (RUN, event.TOPIC, "trainer", 1, 1, moment, 0, 1, event.KIND, time, epoch, epoch)
        self.timeline.add(Record(identity, *coordinates, cause, None, None, encode(event)))
        return identity

    def move(self, seed: int, start: Stage, end: Stage, epoch: int, life: int) -> None:
        """Tells a transition of a seed of site `a`."""
        event = SeedTransitioned(
            site="a",
            seed=seed,
            from_stage=start,
            to_stage=end,
            reason=f"to {end}",
            life=life,
            blueprint="mlp:24",
            kernel=None,
            embargo_until=None,
        )
        self.tell(event, epoch)


def row(seed: int, stage: Stage, life: int | None) -> SeedRow:
    """A row of a rollback's seed table."""
    return SeedRow(site="a", seed=seed, stage=stage, since_epoch=3, life=life, blueprint="mlp:24", kernel=None, embargo_until=None)


def rolled_back(*rows: SeedRow) -> RunRolledBack:
    """A rollback to epoch 3 with this seed table."""
    return RunRolledBack(
        from_epoch=6, to_epoch=3, checkpoint="epoch-000003", reason="the loss is NaN", blamed=BlamedSeed(site="a", seed=0), seeds=rows
    )


def decision(adaptation: Adaptation = Adaptation.GRAFT) -> DecisionMade:
    """A decision about seed 0 of site `a`."""
    return DecisionMade(adaptation=adaptation, site="a", seed=0, confidence=0.9, urgency=0.9, reason="it helps", evidence=())


def spans(told: Told) -> list[tuple[int, int, list[tuple[Stage, int, int | None]]]]:
    """Every life as (seed, life, stages with their epochs)."""
    return [(life.seed, life.life, [(span.stage, span.from_epoch, span.to_epoch) for span in life.spans]) for life in told.timeline.lives]


def test_a_slot_that_is_used_again_holds_another_life() -> None:
    told = Told()
    told.move(0, Stage.DORMANT, Stage.GERMINATED, 1, 1)
    told.move(0, Stage.GERMINATED, Stage.CANCELLED, 2, 1)
    told.move(0, Stage.CANCELLED, Stage.DORMANT, 3, 1)
    told.move(0, Stage.DORMANT, Stage.GERMINATED, 5, 5)
    assert spans(told) == [
        (0, 1, [(Stage.GERMINATED, 1, 2), (Stage.CANCELLED, 2, 3)]),
        (0, 5, [(Stage.GERMINATED, 5, None)]),
    ]


def test_a_rollback_puts_a_life_back_into_the_stage_it_had() -> None:
    told = Told()
    told.move(0, Stage.DORMANT, Stage.GERMINATED, 1, 1)
    told.move(0, Stage.GERMINATED, Stage.TRAINING, 2, 1)
    told.move(0, Stage.TRAINING, Stage.GRAFTING, 5, 1)
    told.tell(rolled_back(row(0, Stage.TRAINING, 1)), 6)
    assert spans(told) == [
        (0, 1, [(Stage.GERMINATED, 1, 2), (Stage.TRAINING, 2, 5), (Stage.GRAFTING, 5, 6), (Stage.TRAINING, 6, None)]),
    ]


def test_a_rollback_takes_back_a_life_that_began_after_the_checkpoint() -> None:
    told = Told()
    told.move(0, Stage.DORMANT, Stage.GERMINATED, 5, 5)
    told.tell(rolled_back(row(0, Stage.DORMANT, None)), 6)
    assert [life.undone for life in told.timeline.lives] == [True]
    told.move(0, Stage.DORMANT, Stage.GERMINATED, 8, 8)
    assert [life.undone for life in told.timeline.lives] == [True, False]


def test_a_stage_that_a_rollback_keeps_goes_on() -> None:
    told = Told()
    told.move(0, Stage.DORMANT, Stage.GERMINATED, 1, 1)
    told.tell(rolled_back(row(0, Stage.GERMINATED, 1)), 6)
    assert spans(told) == [(0, 1, [(Stage.GERMINATED, 1, None)])]


def test_a_decision_waits_until_its_command_came_out() -> None:
    told = Told()
    made = told.tell(decision(), 4)
    issued = CommandIssued(command=Command.GRAFT, site="a", seed=0, blueprint=None, kernel=None, expires_epoch=4)
    command = told.tell(issued, 4, made)
    assert told.timeline.decisions[0].fate == "pending"
    assert told.timeline.settled is None
    told.tell(CommandRefused(command=Command.GRAFT, site="a", seed=0, reason="it is gone"), 4, command)
    assert (told.timeline.decisions[0].fate, told.timeline.decisions[0].detail) == ("command refused", "it is gone")
    assert told.timeline.settled == told.timeline.decisions[0]


def test_doing_nothing_is_recorded_at_once() -> None:
    told = Told()
    told.tell(decision(Adaptation.NONE), 4)
    assert told.timeline.decisions[0].fate == "recorded"


def test_an_outcome_of_nothing_known_changes_nothing() -> None:
    told = Told()
    told.tell(CommandRefused(command=Command.GRAFT, site="a", seed=0, reason="it is gone"), 4, record_id(RUN, Moment(99)))
    assert told.timeline.decisions == ()


def test_what_happens_to_the_run_is_noted_in_words() -> None:
    told = Told()
    told.tell(RunResumed(checkpoint=None, caught_up_to=40, incarnation=2, environment_changes=("torch 2.14 -> 2.15",)), 3)
    assert [note.text for note in told.timeline.notes] == [
        "resumed from the first epoch, caught up to moment 40, incarnation 2; changed since: torch 2.14 -> 2.15",
    ]
