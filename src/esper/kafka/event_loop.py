"""The event loop of a process on Kafka: how it runs, pauses, and stops when a thread's event is set."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from threading import Event
from typing import Any, TypeVar

from aiokafka.errors import KafkaError

_Result = TypeVar("_Result")


def run_kafka_loop(main: Coroutine[Any, Any, _Result]) -> _Result:
    """The result of `main`, run in an event loop of its own."""

    async def run() -> _Result:
        asyncio.get_running_loop().set_exception_handler(without_repeats)
        return await main

    return asyncio.run(run())


def without_repeats(_: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:  # Any: asyncio's.
    """A loop's exception handler that leaves out what aiokafka never asks its own futures for: the same error has been raised already."""
    if not (context.get("message") == "Future exception was never retrieved" and isinstance(context.get("exception"), KafkaError)):
        asyncio.get_running_loop().default_exception_handler(dict(context))


async def until_stopped(task: "asyncio.Task[Any]", stop: Event, *, every_s: float = 1.0, each: Callable[[], None] = lambda: None) -> None:
    """Returns when `task` is done or `stop` is set, a moment later; `each` is called every `every_s`, on a thread."""
    while not (stop.is_set() or task.done()):
        await asyncio.to_thread(each)
        await asyncio.wait([task], timeout=every_s)


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Returns after `seconds`, or as soon as `stop` is set."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
