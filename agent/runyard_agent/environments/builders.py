"""The builders that this agent has, by the kind of environment that they serve."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from runyard_agent.environments.protocol import EnvironmentBuilder
from runyard_agent.environments.user_managed import UserManagedBuilder


def builders(folder: Path) -> Mapping[str, EnvironmentBuilder]:
    """One builder for each kind; what they build lies below `folder`."""
    found: tuple[EnvironmentBuilder, ...] = (UserManagedBuilder(),)
    return {builder.kind: builder for builder in found}
