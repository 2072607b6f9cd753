"""What the daemon tells an agent over its session."""

from __future__ import annotations

from typing import Protocol

from runyard_contract.record import record
from runyard_daemon.core.types import AttemptRef, NodeId
from runyard_daemon.store.environments import LockRecord


@record
class RunRef:
    """An attempt with the run's full name, which agents show and send back."""

    name: str
    """`workspaces/{workspace}/experiments/{experiment}/runs/{run}`."""
    ref: AttemptRef


@record
class Lease:
    """Execute this; the grant is durable."""

    target: RunRef
    spec: bytes
    """The run's specification as it was stored."""
    environment: bytes
    """The serialized environment after names and defaults were resolved; empty: none."""
    manifests: tuple[tuple[str, bytes], ...]
    """(digest, bytes) of the snapshot's manifests; empty where they are too large together."""
    locks: tuple[LockRecord, ...]
    is_ahead: bool = False
    """Sent before the node has room: to be begun when it has, or given back."""


@record
class Cancel:
    """End this."""

    target: RunRef
    grace_s: float
    is_superseded: bool = False
    """Fenced for good: nothing of it is wanted any more."""


@record
class Forget:
    """Everything of it is here: its folder may go, its working folder after `keep_s`."""

    target: RunRef
    keep_s: float


@record
class Collect:
    """Send the working folder."""

    target: RunRef
    request_id: str


@record
class Prune:
    """Remove built environments that no run has or waits for."""

    request_id: str
    older_than_s: float | None
    max_size_bytes: int | None
    is_dry_run: bool


@record
class Goodbye:
    """The daemon ends; with `is_stop` the agent ends too."""

    is_stop: bool


Order = Lease | Cancel | Forget | Collect | Prune | Goodbye


class Session(Protocol):
    """An agent's open session."""

    @property
    def node(self) -> NodeId:
        """Whose it is."""
        ...

    @property
    def is_open(self) -> bool:
        """Whether the agent is still there."""
        ...

    def send(self, order: Order) -> None:
        """Queues an order; never blocks. What is lost comes again after the next Hello."""
        ...

    def supersede(self) -> None:
        """Ends the session: a newer one of the same agent is open."""
        ...

    def turn_out(self) -> None:
        """Ends the session: its node has left."""
        ...
