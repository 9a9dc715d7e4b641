"""Prometheus's own programs."""

from pathlib import Path

import pytest

from tests.programs import program


@pytest.fixture(scope="session")
def promtool(pytestconfig: pytest.Config) -> Path:
    return program(pytestconfig, "promtool")


@pytest.fixture(scope="session")
def prometheus(pytestconfig: pytest.Config) -> Path:
    return program(pytestconfig, "prometheus")
