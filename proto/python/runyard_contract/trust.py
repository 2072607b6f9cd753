"""The authority behind a daemon's port: asked for before it is trusted, then pinned."""

from __future__ import annotations

import hashlib
import socket
import ssl
from dataclasses import dataclass
from typing import Any, Final

from runyard_contract.addresses import HostPort
from runyard_contract.errors import DaemonUnavailable, SpecInvalid, UntrustedDaemon

CONNECT_LIMIT_S: Final = 20.0
_FINGERPRINT_DIGITS: Final = 64


@dataclass(frozen=True, slots=True)
class Trust:
    """The certificate of a daemon's authority, as PEM, and its SHA-256 in hexadecimal digits."""

    certificate: str
    fingerprint: str


def check_fingerprint(text: str) -> str:
    """A fingerprint as people write it, with or without colons. Raises SpecInvalid."""
    digits = text.strip().lower().removeprefix("sha256:").replace(":", "")
    if len(digits) != _FINGERPRINT_DIGITS or set(digits) - set("0123456789abcdef"):
        raise SpecInvalid(
            f"{text!r} is no fingerprint",
            hint="copy the 64 hexadecimal digits that `runyard daemon token create` printed",
            fingerprint=text,
        )
    return digits


def ask_for_trust(address: HostPort) -> Trust:
    """The authority that a daemon shows at an address; proves nothing: compare the fingerprint.

    Raises DaemonUnavailable where nothing answers, UntrustedDaemon where it is no runyard.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((address.host, address.port), CONNECT_LIMIT_S) as plain,
            context.wrap_socket(plain) as shown,
        ):
            chain = _chain(shown)
    except ssl.SSLError as error:
        raise _no_daemon(address, f"it does not speak TLS ({error.reason or error})") from None
    except (OSError, UnicodeError) as error:  # the latter for what can't be a host's name
        why = getattr(error, "strerror", None) or error
        raise DaemonUnavailable(
            f"nothing answers at {address}: {why}",
            hint="check the address, and that `runyard daemon serve --listen` runs there",
            address=str(address),
        ) from None
    if len(chain) < 2:
        raise _no_daemon(address, "it shows no authority of its own")
    return Trust(ssl.DER_cert_to_PEM_cert(chain[-1]), hashlib.sha256(chain[-1]).hexdigest())


def pin(address: HostPort, fingerprint: str) -> Trust:
    """The authority of this fingerprint. Raises UntrustedDaemon for any other, and as above."""
    found = ask_for_trust(address)
    if found.fingerprint != fingerprint:
        raise UntrustedDaemon(
            f"the daemon at {address} is not the one that was named: its fingerprint is "
            f"{found.fingerprint}, not {fingerprint}",
            hint="do not go on before you know why: somebody may stand between, or the daemon has "
            "lost its identity folder",
            address=str(address),
            found=found.fingerprint,
            expected=fingerprint,
        )
    return found


def _chain(shown: ssl.SSLSocket) -> list[bytes]:
    """The certificates that the other side showed, as DER; its own is the first."""
    # Public only from Python 3.13 on, where it gives bytes; before, objects of OpenSSL's.
    found: Any = getattr(shown, "get_unverified_chain", None)
    if found is not None:
        return list(found())
    inner: Any = shown._sslobj  # type: ignore[attr-defined]
    encoding_der = 2
    return [bytes(one.public_bytes(encoding_der)) for one in inner.get_unverified_chain()]


def _no_daemon(address: HostPort, why: str) -> UntrustedDaemon:
    return UntrustedDaemon(
        f"what answers at {address} is no daemon of runyard: {why}",
        hint="check the address: it is that of `runyard daemon serve --listen`",
        address=str(address),
    )
