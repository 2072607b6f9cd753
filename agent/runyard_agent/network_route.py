"""The way to the daemon over a network. Loaded only by agents that joined one."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import grpc

from runyard_agent import journal
from runyard_agent.certificates import new_key
from runyard_agent.core.backoff import Backoff
from runyard_agent.link import Link, Stubs
from runyard_agent.membership import Membership
from runyard_agent.route import OPTIONS
from runyard_contract.addresses import DAEMON_NAME
from runyard_contract.errors import RunyardError
from runyardpb.agent.v1 import agent_pb2 as pb

NETWORK_BACKOFF = Backoff(first_s=0.2, cap_s=15.0)
RENEW_AFTER_S = 10 * 86400.0
"""Age of a certificate from which the next is asked for; it is taken for three times as long."""
RENEW_LOOK_S = 3600.0
_NETWORK_OPTIONS = (
    *OPTIONS,
    ("grpc.ssl_target_name_override", DAEMON_NAME),
    # A connection of which the other end is gone without a word is given up after half a minute.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


class NetworkRoute:
    """The daemon's port of nodes, by this node's certificate.

    Args:
        home: the agent's folder, where the next certificate is kept.
    """

    backoff = NETWORK_BACKOFF
    follows_daemon = False

    def __init__(self, membership: Membership, home: Path) -> None:
        self.membership = membership
        self._home = home

    def open(self) -> grpc.aio.Channel:
        """See Route."""
        member = self.membership
        credentials = grpc.ssl_channel_credentials(
            member.authority.encode(), member.key.encode(), member.certificate.encode()
        )
        return grpc.aio.secure_channel(str(member.address), credentials, options=_NETWORK_OPTIONS)

    async def keep_certificate(self, link: Link) -> None:
        """Asks for the next certificate in time. Never returns."""
        while True:
            if time.time() - self.membership.issued_s >= RENEW_AFTER_S:
                await self._renew(link)
            await asyncio.sleep(RENEW_LOOK_S)

    async def _renew(self, link: Link) -> None:
        """One try; what fails is tried again at the next look."""
        made = await asyncio.to_thread(new_key)
        request = pb.RenewCertificateRequest(certificate_request=made.request)

        async def ask(stubs: Stubs) -> pb.RenewCertificateResponse:
            return await stubs.agent.RenewCertificate(request, metadata=stubs.metadata)

        try:
            answer = await link.call(ask)
            renewed = self.membership.renewed(
                made.key.decode(), answer.certificate.decode(), time.time()
            )
            await asyncio.to_thread(renewed.save, self._home)
        except (RunyardError, OSError) as error:
            journal.warning("certificate_not_renewed", why=str(error))
            return
        self.membership = renewed
        journal.info("certificate_renewed")
