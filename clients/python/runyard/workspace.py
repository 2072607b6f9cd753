"""Workspace: where computes, experiments and environments belong to, and the way to its daemon."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from runyard.address import resolve
from runyard.channel import Connection
from runyard_contract.ids import check_workspace_name

if TYPE_CHECKING:
    from runyard.compute import ComputeTarget
    from runyard.environment import Environment
    from runyard.environment_prune import PrunedNode
    from runyard.experiment import Experiment

DEFAULT_WORKSPACE = "default"


class Workspace:
    """A workspace of a daemon. Nothing is sent until something is asked for.

        ws = Workspace()

    Args:
        name: the workspace. `default` is always there.
        address: where the daemon is, such as "unix:/path/daemon.sock". Default: RUNYARD_ADDRESS,
            else the embedded daemon of this user, which the first call starts.
        connection: a connection to share, instead of an address.
    """

    def __init__(
        self,
        name: str = DEFAULT_WORKSPACE,
        address: str | None = None,
        *,
        connection: Connection | None = None,
    ) -> None:
        self._name = check_workspace_name(name)
        self._connection = connection or Connection(resolve(address, os.environ))

    @property
    def name(self) -> str:
        """The workspace's name."""
        return self._name

    @property
    def connection(self) -> Connection:
        """The connection that everything in this workspace uses."""
        return self._connection

    def close(self) -> None:
        """Closes the connection; a later call opens it again."""
        self._connection.close()

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Workspace(name={self._name!r}, address={str(self._connection.address)!r})"

    @property
    def compute_targets(self) -> dict[str, ComputeTarget]:
        """The compute targets by name, read now."""
        from runyard.compute import ComputeTarget

        return {target.name: target for target in ComputeTarget.list(self)}

    @property
    def experiments(self) -> Mapping[str, Experiment]:
        """The experiments by name, the last used first, read now."""
        from runyard.experiment import Experiment

        return {experiment.name: experiment for experiment in Experiment.list(self)}

    @property
    def environments(self) -> dict[str, Environment]:
        """The stored environments by name, in their newest versions, read now."""
        from runyard.environment import Environment

        return Environment.list(self)

    def prune_environments(
        self,
        compute_target: str | None = None,
        older_than: float | None = None,
        max_size: int | None = None,
        dry_run: bool = False,
    ) -> list[PrunedNode]:
        """Removes built environments that no run has or waits for from nodes; gives their answers.

        What is removed is built again when a run asks for it. Of each node first those go that were
        last used longer ago than `older_than`, then the least recently used until the rest has at
        most `max_size`. With neither all go.

        Args:
            compute_target: whose nodes. Default: all that are connected; others are named.
            older_than: seconds.
            max_size: bytes.
            dry_run: only says what would go.

        Raises `ComputeNotFound`, and `SpecInvalid` for a negative number.
        """
        from runyard.environment_prune import prune_environments

        return list(
            prune_environments(self, compute_target, older_than, max_size, is_dry_run=dry_run)
        )
