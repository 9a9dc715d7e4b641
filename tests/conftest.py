"""What holds for all tests: properties are asked the same examples every time, and none of them by the clock.

The half million objects that torch and the tests themselves are made of stay for good, so the garbage collector is told to leave them be.
"""

import gc

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=60, database=None)
settings.load_profile("repeatable")
gc.disable()


def pytest_collection_finish() -> None:
    """Everything is imported: from here on only what the tests make is collected."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Lets go of everything, as a process that ends expects."""
    gc.unfreeze()
