"""Fixtures of the end-to-end tests: a machine with real daemon, agent and supervisor processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.house import House


@pytest.fixture
def house() -> Iterator[House]:
    """A machine of its own, for tests that kill or stop things."""
    house = House()
    yield house
    house.close()


@pytest.fixture(scope="module")
def shared_house() -> Iterator[House]:
    """A machine for the tests of one module, which leave daemon and agent alone."""
    house = House()
    yield house
    house.close()
