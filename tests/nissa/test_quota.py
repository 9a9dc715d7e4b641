"""Custom metrics take no more of a log than their share."""

from pathlib import Path

import pytest

from esper.nissa.problems import ProblemError
from esper.nissa.quota import Quota
from esper.nissa.service_settings import NissaSettings
from tests.nissa.server import serving

SAMPLES = {"samples": [{"name": "length", "type": "gauge", "value": 1.0}] * 4}


def test_samples_are_taken_up_to_the_rate_and_again_as_time_passes() -> None:
    now = [0.0]
    quota = Quota(2.0, 10**6, lambda: now[0])
    quota.take(15, 0)
    quota.take(5, 0)
    with pytest.raises(ProblemError) as refused:
        quota.take(3, 0)
    assert (refused.value.status, refused.value.headers) == (429, {"Retry-After": "2"})
    now[0] = 1.5
    quota.take(3, 0)


def test_a_batch_larger_than_the_rate_is_taken_at_times() -> None:
    now = [0.0]
    quota = Quota(1.0, 10**6, lambda: now[0])
    quota.take(30, 0)
    for now[0] in (10.0, 29.0):
        with pytest.raises(ProblemError):
            quota.take(30, 0)
    now[0] = 30.0
    quota.take(30, 0)


def test_a_day_has_an_end() -> None:
    quota = Quota(1000.0, 10, lambda: 0.0)
    quota.take(4, 6)
    with pytest.raises(ProblemError, match="at most 10 samples a day"):
        quota.take(4, 7)


def test_more_than_a_days_samples_are_refused_and_not_recorded(tmp_path: Path) -> None:
    with serving(tmp_path, NissaSettings(custom_per_day=10)) as client:
        answers = [client.post("/api/v1/metrics/custom", SAMPLES) for _ in range(4)]
        assert [answer.status for answer in answers] == [200, 200, 429, 429]
        assert (answers[2].json["type"], answers[2].headers["retry-after"]) == ("urn:esper:problem:too-many-samples", "3600")
        assert client.service._custom_run.records == 8
