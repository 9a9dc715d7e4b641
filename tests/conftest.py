"""What holds for all tests: properties are asked the same examples every time, and none of them by the clock."""

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=60, database=None)
settings.load_profile("repeatable")
