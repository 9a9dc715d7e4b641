"""A place with a file behind the door and secrets around it, one for the tests of a module."""

from collections.abc import Iterator

import pytest

from tests.audit.door.arena import VARIABLE, VARIABLE_NAME, Arena, arena


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    with pytest.MonkeyPatch.context() as patch, arena(tmp_path_factory.mktemp("arena")) as made:
        patch.setenv(VARIABLE_NAME, VARIABLE)
        yield made
