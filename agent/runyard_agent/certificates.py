"""Keys of this node, and the requests for their certificates."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """A new private key and the request for its certificate, both as PEM."""

    key: bytes
    request: bytes

    def __repr__(self) -> str:
        return "KeyRequest(…)"


def new_key() -> KeyRequest:
    """Makes a key, which never leaves this machine."""
    key = ec.generate_private_key(ec.SECP256R1())
    # The daemon decides what the node is called.
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return KeyRequest(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
    )
