"""The daemon's own certificate authority: for its ports, and for the nodes that join it."""

from __future__ import annotations

import datetime
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from runyard_contract.addresses import DAEMON_NAME
from runyard_contract.errors import HomeUnusable, SpecInvalid
from runyard_contract.paths import atomic_write
from runyard_daemon.identity.names import NodeCertificate, NodeName

AUTHORITY_DAYS: Final = 3650
SERVER_DAYS: Final = 90
NODE_DAYS: Final = 30
CSR_BYTES: Final = 16 << 10
AUTHORITY_NAME: Final = "authority.pem"
"""The file with its key and its certificate."""
_CLOCKS_DIFFER: Final = datetime.timedelta(minutes=10)
"""Certificates hold from that long before they are made: clocks of machines are not the same."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A private key and the certificates that go with it, as PEM."""

    key: bytes
    chain: bytes

    def __repr__(self) -> str:
        return "Credentials(…)"


class Authority:
    """Signs with the key in a folder that only the daemon's user can read.

    `open` makes one.
    """

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self._certificate = certificate

    @classmethod
    def open(cls, folder: Path, now: datetime.datetime) -> Authority:
        """The authority in a folder; a new one where there is none.

        Raises HomeUnusable where others can read the key, or key and certificate don't fit.
        """
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / AUTHORITY_NAME
        if not path.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            atomic_write(path, _key_pem(key) + _pem(_self_signed(key, now)))
        for private in (folder, path):
            status = os.lstat(private)
            if status.st_mode & 0o077 or status.st_uid != os.geteuid():
                raise _unusable(private, "can be read by others", f"chmod go-rwx {private}")
        try:
            content = path.read_bytes()
            loaded = serialization.load_pem_private_key(content, None)
            certificate = x509.load_pem_x509_certificate(content)
        except (OSError, ValueError) as error:
            raise _unusable(path, f"can't be read: {error}", _RESTORE) from None
        fits = (
            isinstance(loaded, ec.EllipticCurvePrivateKey)
            and loaded.public_key() == certificate.public_key()
        )
        if not fits or not isinstance(loaded, ec.EllipticCurvePrivateKey):
            raise _unusable(path, "has a key that is not its certificate's", _RESTORE)
        return cls(loaded, certificate)

    @property
    def certificate(self) -> bytes:
        """Its own certificate as PEM."""
        return _pem(self._certificate)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of its certificate, in hexadecimal digits: what clients and agents pin."""
        return self._certificate.fingerprint(hashes.SHA256()).hex()

    def issue_server(self, now: datetime.datetime) -> Credentials:
        """A new key and certificate for a port of the daemon, by the name that all daemons have."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(
            key.public_key(),
            "runyard daemon",
            [x509.DNSName(DAEMON_NAME)],
            ExtendedKeyUsageOID.SERVER_AUTH,
            datetime.timedelta(days=SERVER_DAYS),
            now,
        )
        return Credentials(_key_pem(key), _pem(certificate) + self.certificate)

    def issue_node(self, csr: bytes, node: NodeName, now: datetime.datetime) -> NodeCertificate:
        """The certificate of a node for the key of a signing request.

        What the request says of names counts for nothing. Raises SpecInvalid for one that can't be
        read, is signed by another key, or has a weak one.
        """
        try:
            request = x509.load_pem_x509_csr(csr[: CSR_BYTES + 1])
            is_signed = request.is_signature_valid
            key = request.public_key()
        except (ValueError, InvalidSignature, TypeError):
            is_signed, key = False, None
        if not is_signed or not isinstance(key, ec.EllipticCurvePublicKey) or key.key_size < 256:
            raise SpecInvalid(violations=[("csr", "is no request for an elliptic-curve key")])
        certificate = self._sign(
            key,
            "runyard node",
            [x509.UniformResourceIdentifier(node.uri)],
            ExtendedKeyUsageOID.CLIENT_AUTH,
            datetime.timedelta(days=NODE_DAYS),
            now,
        )
        spoken = key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return NodeCertificate(_pem(certificate), hashlib.sha256(spoken).digest())

    def _sign(
        self,
        key: ec.EllipticCurvePublicKey,
        common_name: str,
        names: list[x509.GeneralName],
        usage: x509.ObjectIdentifier,
        lasts: datetime.timedelta,
        now: datetime.datetime,
    ) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(_name(common_name))
            .issuer_name(self._certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _CLOCKS_DIFFER)
            .not_valid_after(min(now + lasts, self._certificate.not_valid_after_utc))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=True)
            .sign(self._key, hashes.SHA256())
        )


_RESTORE: Final = (
    "put your copy of it back (no backup has it); with a new one all machines and people join again"
)


def _self_signed(key: ec.EllipticCurvePrivateKey, now: datetime.datetime) -> x509.Certificate:
    name = _name("runyard certificate authority")
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(now + datetime.timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=True,
                crl_sign=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .sign(key, hashes.SHA256())
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _unusable(path: Path, what: str, hint: str) -> HomeUnusable:
    return HomeUnusable(f"the daemon's identity, {path}, {what}", hint=hint, path=str(path))
