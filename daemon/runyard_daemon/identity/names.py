"""What a node is called in its certificate, and the certificate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

NODE_URI: Final = "runyard:node:"
"""How it begins: `runyard:node:<workspace>/<compute>/<id>`."""


@dataclass(frozen=True, slots=True)
class NodeName:
    """What a node's certificate is for."""

    workspace: str
    compute: str
    node_id: str

    @property
    def uri(self) -> str:
        """As it stands in the certificate."""
        return f"{NODE_URI}{self.workspace}/{self.compute}/{self.node_id}"

    @classmethod
    def of_uri(cls, uri: str) -> NodeName | None:
        """The name that a URI is; None for any other."""
        parts = uri.removeprefix(NODE_URI).split("/")
        return cls(*parts) if uri.startswith(NODE_URI) and len(parts) == 3 and all(parts) else None


@dataclass(frozen=True, slots=True)
class NodeCertificate:
    """A certificate as PEM, and the SHA-256 of the public key that it is for."""

    pem: bytes
    key_hash: bytes
