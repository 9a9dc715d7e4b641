import json
import math
from datetime import UTC, datetime
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.errors import DataError
from esper.events.codec import MAX_PAYLOAD_BYTES, UnknownKindError, as_stored, decode, decode_as, decode_payload, encode
from esper.events.envelope import EventId, Moment, Record, RunId
from esper.events.fields import Event
from esper.events.kinds import KINDS, KINDS_BY_NAME, kinds_of
from esper.events.kinds.control import Adaptation, DecisionMade
from esper.events.kinds.epoch import (
    EpochCompleted,
    GateSettings,
    Measured,
    StateDigests,
    SystemState,
)
from esper.events.kinds.lifecycle import Evaluation, SeedEvaluated, SeedRow, Stage
from esper.events.kinds.run import CheckpointPruned, StreamEnded
from esper.events.kinds.telemetry import StepColumns, StepsMeasured
from esper.events.topics import TOPICS
from tests.events import sample_files


@pytest.mark.parametrize("kind", [kind.KIND for kind in KINDS])
def test_kind_has_samples(kind: str) -> None:
    assert sample_files.payloads(kind)


def test_samples_are_of_kinds_that_exist() -> None:
    assert {path.stem for path in sample_files.DIRECTORY.iterdir()} == set(KINDS_BY_NAME)


@pytest.mark.parametrize(("kind", "payload"), sample_files.ALL, ids=sample_files.NAMES)
def test_sample_decodes_and_encodes_to_the_same_bytes(kind: str, payload: bytes) -> None:
    event = decode_payload(kind, payload)
    assert kind == event.KIND
    assert encode(event) == payload


def test_samples_hold_every_word_and_null() -> None:
    text = b"".join(payload for _, payload in sample_files.ALL)
    assert all(word in text for word in (b'"NaN"', b'"Infinity"', b'"-Infinity"', b":null"))


T = TypeVar("T")

ANY = st.floats()
POSITIVE = st.floats(min_value=0.0) | st.just(math.nan)
SHARE = st.floats(0.0, 1.0) | st.sampled_from([math.nan, math.inf, -math.inf])
COUNT = st.integers(0, 2**62)
METRICS = st.dictionaries(st.text(max_size=8), ANY, max_size=3)

DECISIONS = st.builds(
    DecisionMade,
    adaptation=st.sampled_from(Adaptation),
    site=st.none() | st.text(),
    seed=st.none() | COUNT,
    blueprint=st.none() | st.text(),
    confidence=ANY,
    urgency=ANY,
    reason=st.text(min_size=1),
    evidence=st.lists(st.text().map(EventId), max_size=3).map(tuple),
)
EVALUATIONS = st.builds(
    SeedEvaluated,
    site=st.text(),
    seed=COUNT,
    life=COUNT,
    purpose=st.sampled_from(["shadow", "evaluation"]),
    evaluation=st.builds(
        Evaluation,
        epoch=COUNT,
        alpha=SHARE,
        n=COUNT,
        k=COUNT,
        look=COUNT,
        mean=ANY,
        standard_error=POSITIVE,
        skewness=ANY,
        loss_without=ANY,
        loss_with=ANY,
    ),
    metrics_without=METRICS,
    metrics_with=METRICS,
)


def columns(length: int) -> st.SearchStrategy[StepsMeasured]:
    def column(values: st.SearchStrategy[T]) -> st.SearchStrategy[tuple[T, ...]]:
        return st.lists(values, min_size=length, max_size=length).map(tuple)

    return st.builds(
        StepsMeasured,
        steps=st.builds(
            StepColumns,
            step=column(COUNT),
            loss=column(st.none() | ANY),
            gradient_norm=column(st.none() | POSITIVE),
            step_latency_ms=column(st.none() | POSITIVE),
            data_wait_ms=column(st.none() | POSITIVE),
        ),
        metrics=st.dictionaries(st.text(max_size=8), column(st.none() | ANY), max_size=2),
        learning_rates=st.lists(ANY, max_size=2).map(tuple),
        live_seeds=COUNT,
        last_adaptation_step=st.none() | COUNT,
        samples_per_s=st.none() | POSITIVE,
        memory_bytes=st.none() | COUNT,
    )


@given(DECISIONS | EVALUATIONS | st.integers(0, 4).flatmap(columns))
def test_event_survives_the_codec(event: Event) -> None:
    data = encode(event)
    again = decode_payload(event.KIND, data)
    assert repr(again) == repr(event)  # NaN is not equal to itself, its text is
    assert encode(again) == data


@given(DECISIONS | EVALUATIONS | st.integers(0, 4).flatmap(columns))
def test_payload_is_plain_json(event: Event) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    assert json.loads(encode(event), parse_constant=refuse).keys() == type(event).model_fields.keys()


def record(kind: str, data: bytes) -> Record:
    return Record(
        id=EventId("run/7"),
        run=RunId("run"),
        topic="system.events.run",
        writer="trainer",
        sequence=3,
        fact=5,
        moment=Moment(7),
        generation=0,
        incarnation=1,
        type=kind,
        time=datetime(2026, 3, 1, tzinfo=UTC),
        epoch=2,
        step=40,
        cause=None,
        trace=None,
        chain=None,
        data=data,
    )


def test_record_decodes_to_its_event() -> None:
    assert decode(record("esper.stream.ended.v1", b'{"last_step":40}')) == StreamEnded(last_step=40)


def test_unknown_kind_is_refused_with_its_place() -> None:
    with pytest.raises(UnknownKindError, match=r"run run, topic system\.events\.run, moment 7: .* got 'esper\.stream\.ended\.v9'"):
        decode(record("esper.stream.ended.v9", b"{}"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"last_step":-1}', "breaks its schema at last_step: .*, got -1"),
        (b'{"last_step":"4"}', "breaks its schema at last_step: .*, got '4'"),
        (b'{"last_step":4.0}', "breaks its schema at last_step"),
        (b"{}", "breaks its schema at last_step: Field required"),
        (b'{"last_step":4,"more":1}', "breaks its schema at more"),
        (b'{"last_step":4', "breaks its schema at its root: Invalid JSON"),
        (b'{"last_step":\xff}', "breaks its schema at its root: Invalid JSON"),
        (b"", "breaks its schema at its root: Invalid JSON"),
        (b"[]", "breaks its schema at its root"),
    ],
)
def test_broken_payload_is_refused_with_its_place(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=f"run run, topic system.events.run, moment 7: a payload of esper.stream.ended.v1 {message}"):
        decode(record("esper.stream.ended.v1", data))


def test_payload_above_the_limit_is_refused() -> None:
    with pytest.raises(DataError, match=f"expected a payload of at most {MAX_PAYLOAD_BYTES} bytes"):
        encode(CheckpointPruned(checkpoint="a", reason="x" * MAX_PAYLOAD_BYTES))


def test_an_event_is_decoded_as_the_kind_that_is_expected() -> None:
    ended = record(StreamEnded.KIND, b'{"last_step":40}')
    assert decode_as(ended, StreamEnded) == StreamEnded(last_step=40)
    with pytest.raises(
        DataError, match=r"run run, topic system\.events\.run, moment 7: expected an event of kind esper\.checkpoint\.pruned"
    ):
        decode_as(ended, CheckpointPruned)


@given(EVALUATIONS)
def test_an_event_as_stored_is_the_one_of_its_bytes(event: SeedEvaluated) -> None:
    assert repr(as_stored(event)) == repr(decode_payload(event.KIND, encode(event)))


def test_text_without_utf8_is_refused() -> None:
    with pytest.raises(DataError, match="expected an event that JSON can hold"):
        encode(CheckpointPruned(checkpoint="a", reason="\ud800"))


def test_state_of_ten_thousand_seeds_fits_a_record() -> None:
    n = 10_000
    floats = [float(value) for value in np.random.default_rng(7).normal(size=n)]
    shares = [float(str(np.float32(value))) for value in np.random.default_rng(7).random(size=n)]
    rows = []
    for index, (loss, share) in enumerate(zip(floats, shares, strict=True)):
        evaluation = Evaluation(
            epoch=index, alpha=share, n=index, k=index, look=index, mean=loss, standard_error=share, loss_without=loss, loss_with=loss
        )
        health = dict.fromkeys(
            ("alpha", "activation_variance", "gradient_variance", "dead_neuron_ratio", "avg_correlation", "health_score"), share
        )
        row = SeedRow(
            site=f"layers.{index // 4}.attention.projection",
            seed=index,
            stage=Stage.STABILIZATION,
            since_epoch=index,
            life=index,
            blueprint="lowrank:128",
            kernel="0123456789abcdef" * 4,
            embargo_until=index,
            ready=False,
            errors=index,
            loss_at_germination=loss,
            loss_before_graft=loss,
            evaluation=evaluation,
            evaluated=EventId("01958f3a-7c41-7e02-9a53-5d0c8e4b61f7/1234567890"),
        )
        rows.append(row.model_copy(update=health))
    size = len(encode(epoch_with(tuple(rows))))
    assert size < MAX_PAYLOAD_BYTES


def epoch_with(seeds: tuple[SeedRow, ...]) -> EpochCompleted:
    return EpochCompleted(
        train=Measured(loss=0.4, metrics={}, samples=1),
        validation=None,
        learning_rates=(),
        optimizer_steps=1,
        digests=StateDigests(parameters=None, optimizer=None, random=None),
        system=SystemState(
            epoch=1,
            epochs_planned=None,
            train_loss=0.4,
            train_metrics={},
            validation_loss=None,
            validation_metrics={},
            validation_losses=(),
            earlier_loss=None,
            best_loss=None,
            best_epoch=None,
            epochs_since_improvement=0,
            parameters=1,
            parameters_limit=1,
            germinations=0,
            stages={},
            sites=(),
            seeds=seeds,
            field_reports=(),
            gate=GateSettings(),
        ),
        duration_s=1.0,
        samples_per_s=1.0,
    )


def test_every_kind_has_a_name_of_its_own_and_a_topic() -> None:
    assert len(KINDS_BY_NAME) == len(KINDS)
    assert {kind for topic in TOPICS for kind in kinds_of(topic)} == set(KINDS)
