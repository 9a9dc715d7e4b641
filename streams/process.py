"""What a worker asks of Faust: its options and credentials, and an end in time."""

import os
import signal
import time
from functools import partial
from typing import Any, NoReturn

import faust

from esper.kafka.cluster import KafkaSettings
from esper.kafka.ledgers.owned_ledgers import end_process
from esper.stderr import warn

warn_worker = partial(warn, program="esper worker")
_SESSION_S = 8.0
_STOP_S = 16.0  # Longer than ledgers take to close, shorter than `esper worker` waits before it kills.


def new_app(settings: KafkaSettings, *, port: int | None) -> faust.App:
    """An application without agents, with a page at `port` on loopback where one is given."""
    return faust.App(
        settings.topic("worker"),
        broker=[f"kafka://{one}" for one in settings.bootstrap.split(",")],
        broker_credentials=_credentials(settings),
        broker_session_timeout=_SESSION_S,
        broker_heartbeat_interval=_SESSION_S / 4,
        store="memory://",
        topic_allow_declare=False,  # `esper topics create` makes topics.
        topic_disable_leader=True,
        stream_wait_empty=False,  # The lead topic never has a record to wait for.
        web_enabled=port is not None,
        web_bind="127.0.0.1",
        web_port=port or 6066,
    )


def _credentials(settings: KafkaSettings) -> Any:  # Any: one of Faust's classes.
    arguments = settings.client()
    context, password = arguments.get("ssl_context"), arguments.get("sasl_plain_password")
    if password is not None:
        return faust.SASLCredentials(username=settings.username, password=password, mechanism=settings.mechanism, ssl_context=context)
    return None if context is None else faust.SSLCredentials(context)


def end_late(worker: faust.Worker, parent: int | None) -> NoReturn:
    """Ends the process `_STOP_S` after Faust began to stop: while a broker is away it may wait for ever. For a thread of its own.

    Where `parent`, which started this process, has ended, Faust is told to stop.
    """
    while not worker.should_stop and parent in (None, os.getppid()):
        time.sleep(0.2)
    if not worker.should_stop:
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_STOP_S)
    warn_worker(f"it did not stop within {_STOP_S:g} s of being asked to; the partitions' next owner aborts what is open")
    end_process()
