"""How each port of the daemon finds out who calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from runyard_daemon.control.access import Access, unauthenticated
from runyard_daemon.core.access import Caller, Role
from runyard_daemon.identity.names import NodeName

TOKEN_KEY = "authorization"  # noqa: S105 - the name of a header
_BEARER = "Bearer "
_NAMES_KEY = "x509_subject_alternative_name"
"""Under which gRPC gives the names in a peer's certificate."""

Metadata = Sequence[tuple[str, str | bytes]]


class Door(Protocol):
    """Finds out who calls at one port."""

    def caller(self, metadata: Metadata, context: Any) -> Caller:
        """Who calls. Raises Unauthenticated."""
        ...


class OwnersDoor:
    """The Unix socket: its folder lets only the daemon's own user in."""

    def __init__(self, name: str) -> None:
        self._caller = Caller(Role.OWNER, name)

    def caller(self, metadata: Metadata, context: Any) -> Caller:
        """See Door."""
        return self._caller


class PeoplesDoor:
    """The port of people, who bear tokens."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def caller(self, metadata: Metadata, context: Any) -> Caller:
        """See Door."""
        shown = [value for key, value in metadata if key == TOKEN_KEY]
        if len(shown) != 1 or not isinstance(shown[0], str) or not shown[0].startswith(_BEARER):
            raise unauthenticated()
        return self._access.bearer_of(shown[0].removeprefix(_BEARER))


class NodesDoor:
    """The port of nodes: TLS lets in only who has a certificate of the daemon's authority."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def caller(self, metadata: Metadata, context: Any) -> Caller:
        """See Door."""
        for name in context.auth_context().get(_NAMES_KEY, ()):
            node = NodeName.of_uri(name.decode("utf-8", "replace"))
            if node is not None:
                return self._access.member_of(node.workspace, node.compute, node.node_id)
        raise unauthenticated()
