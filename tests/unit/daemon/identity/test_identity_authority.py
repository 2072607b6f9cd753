from __future__ import annotations

import datetime
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from runyard_contract.addresses import DAEMON_NAME
from runyard_contract.errors import HomeUnusable, SpecInvalid
from runyard_daemon.identity.authority import AUTHORITY_NAME, Authority
from runyard_daemon.identity.names import NodeName

NOW = datetime.datetime(2026, 11, 29, tzinfo=datetime.UTC)
NODE = NodeName("default", "lab", "n-1")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.open(tmp_path / "identity", NOW)


def request(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None, name: str = "me"
) -> bytes:
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def connect(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> str | None:
    """A handshake in memory; gives the version of TLS."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return ends[0].version()


def test_authority_is_the_same_after_a_restart(tmp_path: Path, authority: Authority) -> None:
    again = Authority.open(tmp_path / "identity", NOW + datetime.timedelta(days=900))

    assert again.fingerprint == authority.fingerprint
    assert (tmp_path / "identity" / AUTHORITY_NAME).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("other", ["evil.example", "127.0.0.1", "::1"])
def test_client_that_has_the_authority_reaches_the_daemon_by_its_one_name(
    tmp_path: Path, authority: Authority, other: str
) -> None:
    now = datetime.datetime.now(datetime.UTC)
    made = authority.issue_server(now)
    path = tmp_path / "server.pem"
    path.write_bytes(made.key + made.chain)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    client = ssl.create_default_context(cadata=authority.certificate.decode())

    assert connect(server, client, DAEMON_NAME) in {"TLSv1.2", "TLSv1.3"}
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(server, client, other)


def test_certificate_of_a_node_names_it_and_nothing_that_the_request_says(
    authority: Authority,
) -> None:
    pem = authority.issue_node(request(name="runyard daemon"), NODE, NOW).pem
    certificate = x509.load_pem_x509_certificate(pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)

    assert NodeName.of_uri(uri) == NODE
    assert "daemon" not in certificate.subject.rfc4514_string()
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.certificate))
    usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [usage.dotted_string for usage in usages] == ["1.3.6.1.5.5.7.3.2"]  # clients only


def forged() -> bytes:
    """A request that another key has signed."""
    good = x509.load_pem_x509_csr(request()).public_bytes(serialization.Encoding.DER)
    return ssl.DER_cert_to_PEM_cert(good[:-1] + bytes([good[-1] ^ 1])).replace(
        "CERTIFICATE", "CERTIFICATE REQUEST"
    ).encode()  # fmt: skip


@pytest.mark.parametrize(
    "csr",
    [
        b"",
        b"garbage",
        forged(),
        request(rsa.generate_private_key(65537, 2048)),
        request(ec.generate_private_key(ec.SECP192R1())),
        b"x" * 100_000,
    ],
    ids=["empty", "garbage", "forged", "rsa", "weak", "large"],
)
def test_request_that_is_none_is_refused(authority: Authority, csr: bytes) -> None:
    with pytest.raises(SpecInvalid):
        authority.issue_node(csr, NODE, NOW)


@pytest.mark.parametrize("uri", ["", "runyard:node:", "runyard:node:a/b", "runyard:node:a//c", "x"])
def test_other_names_are_no_nodes(uri: str) -> None:
    assert NodeName.of_uri(uri) is None


def test_key_that_others_can_read_is_refused(tmp_path: Path, authority: Authority) -> None:
    (tmp_path / "identity" / AUTHORITY_NAME).chmod(0o640)

    with pytest.raises(HomeUnusable, match="can be read by others") as caught:
        Authority.open(tmp_path / "identity", NOW)
    assert "chmod" in caught.value.hint


def test_key_of_another_certificate_is_refused(tmp_path: Path, authority: Authority) -> None:
    other = Authority.open(tmp_path / "other", NOW)
    path = tmp_path / "identity" / AUTHORITY_NAME
    key, begin, _ = path.read_bytes().partition(b"-----BEGIN CERTIFICATE-----")
    assert begin
    path.write_bytes(key + other.certificate)

    with pytest.raises(HomeUnusable, match="not its certificate's"):
        Authority.open(tmp_path / "identity", NOW)
