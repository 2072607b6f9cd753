from __future__ import annotations

import json
import logging
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from runyard_agent.environments.cache import EnvironmentCache
from runyard_agent.environments.protocol import EnvironmentBuilder
from runyard_agent.environments.registry import GROUP, BuilderContext, load_builders


class Apptainer:
    """A builder of another distribution."""

    kind = "apptainer"

    def __init__(self, context: BuilderContext) -> None:
        self.context = context


class Taken(Apptainer):
    kind = "pip"


def broken(context: BuilderContext) -> EnvironmentBuilder:
    raise RuntimeError("no licence")


def _entry(kind: str, value: str) -> EntryPoint:
    return EntryPoint(kind, value, GROUP)


@pytest.fixture
def context(tmp_path: Path) -> BuilderContext:
    return BuilderContext(EnvironmentCache(tmp_path), {"PATH": "/usr/bin"})


def test_built_in_kinds_are_there_and_know_their_names(context: BuilderContext) -> None:
    builders = load_builders(context)

    assert {"conda", "docker", "pip", "user_managed"} <= set(builders)
    assert all(builder.kind == kind for kind, builder in builders.items())


def test_plug_in_is_made_with_the_context(context: BuilderContext) -> None:
    builder = load_builders(context, [_entry("apptainer", f"{__name__}:Apptainer")])["apptainer"]

    assert isinstance(builder, Apptainer)
    assert builder.context is context


def test_plug_ins_that_cannot_be_used_are_left_out_and_named(
    context: BuilderContext, caplog: pytest.LogCaptureFixture
) -> None:
    entries = [
        _entry("pip", f"{__name__}:Taken"),
        _entry("gone", "no_such_module:Builder"),
        _entry("broken", f"{__name__}:broken"),
    ]

    with caplog.at_level(logging.WARNING, "runyard_agent"):
        builders = load_builders(context, entries)

    assert set(builders) == {"conda", "docker", "pip", "user_managed"}
    assert not isinstance(builders["pip"], Apptainer)
    said = json.dumps([record.__dict__["values"] for record in caplog.records])
    assert all(name in said for name in ("pip", "gone", "broken"))
