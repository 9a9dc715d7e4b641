"""What is posted to Alertmanager's API: labels that it takes, ends ahead while it fires, and an end when it is over."""

import json
from datetime import datetime, timedelta

import pytest

from esper.observer.delivery.exchange import Answer
from esper.observer.delivery.handlers.alertmanager import AT_ONCE, PATH, alertmanager, alerts_body
from esper.observer.delivery.notices import LinkTo, Notice, linker, notice_of
from tests.observer.delivery.handlers.servers import Inbox, endpoint, http_server
from tests.observer.delivery.made import BEGIN, LINK, RUN, alert, now


def posted(*notices: Notice, at: datetime = BEGIN) -> dict[str, object]:
    """The one alert that is posted for a notice."""
    [made] = json.loads(alerts_body(notices, at, 60.0))
    assert isinstance(made, dict)
    return made


@pytest.mark.parametrize(
    ("link_to", "generator"), [(LINK, None), (linker(base_url="http://n"), f"http://n/api/v1/runs/{RUN}/state?at=1234")]
)
def test_what_fires_ends_four_times_ahead(link_to: LinkTo, generator: str | None) -> None:
    made = posted(notice_of(alert(7), link_to), at=now(30).time)
    assert made["startsAt"] == "2026-03-01T12:00:00.000250Z"
    assert made["endsAt"] == "2026-03-01T12:04:30.000250Z"
    assert made.get("generatorURL") == generator
    assert made["labels"] == notice_of(alert(7), LINK).labels


@pytest.mark.parametrize(
    ("over_s", "now_s", "ends"),
    [(90, 100, "12:01:30"), (90, 60, "12:01:00"), (90, -60, "12:00:00")],
    ids=["it was over", "the run's clock is ahead", "the run's clock is far ahead"],
)
def test_what_is_over_ends_now_at_the_latest_and_never_before_it_began(over_s: float, now_s: float, ends: str) -> None:
    made = posted(notice_of(alert(7, firing=False, at_s=over_s), LINK), at=now(now_s).time)
    assert made["endsAt"] == f"2026-03-01T{ends}.000250Z"


def test_names_are_made_such_that_every_version_takes_them() -> None:
    made = posted(notice_of(alert(7, labels={"2nd-place": "a", "größe": "b", "": "c", "empty": ""}), LINK))
    labels = made["labels"]
    assert isinstance(labels, dict)
    assert labels.keys() - notice_of(alert(7, labels={}), LINK).labels.keys() == {"_2nd_place", "gr__e", "_"}


def test_the_key_is_in_the_message() -> None:
    annotations = posted(notice_of(alert(7), LINK))["annotations"]
    assert isinstance(annotations, dict)
    assert annotations["key"] == notice_of(alert(7), LINK).key


def test_many_are_posted_in_several_requests() -> None:
    notices = [notice_of(alert(number), LINK) for number in range(2 * AT_ONCE + 1)]
    with http_server() as inbox:
        assert alertmanager(endpoint(inbox.port, path=f"/prefix{PATH}"), 60.0)(notices, BEGIN) == Answer(delivered=True)
    assert [len(json.loads(got.body)) for got in inbox.got] == [AT_ONCE, AT_ONCE, 1]
    assert {got.path for got in inbox.got} == {"/prefix/api/v2/alerts"}


def test_the_first_refusal_is_the_answer() -> None:
    notices = [notice_of(alert(number), LINK) for number in range(2 * AT_ONCE)]
    with http_server(inbox=Inbox(status=500)) as inbox:
        assert not alertmanager(endpoint(inbox.port), 60.0)(notices, BEGIN + timedelta(seconds=1)).delivered
    assert len(inbox.got) == 1
