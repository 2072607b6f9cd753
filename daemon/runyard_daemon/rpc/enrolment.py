"""Certificates of nodes: the first by a token, the next by the one before."""

from __future__ import annotations

import re
from collections.abc import Callable

from runyard_contract.errors import SpecInvalid
from runyard_daemon.control.access import Access
from runyard_daemon.control.callers import caller
from runyard_daemon.control.hello import WORKSPACE
from runyard_daemon.control.live import Live
from runyard_daemon.identity.names import NodeCertificate, NodeName
from runyard_daemon.rpc.access import Reach, not_listening
from runyardpb.agent.v1 import agent_pb2 as pb

_NODE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_HOSTNAME_CHARACTERS = 255

Issue = Callable[[bytes, NodeName], NodeCertificate]
"""Signs a request for a node."""


class Enrolment:
    """Lets machines join, and stay."""

    def __init__(
        self, live: Live, access: Access, reach: Reach, issue: Issue | None, authority: bytes
    ) -> None:
        self._live = live
        self._access = access
        self._reach = reach
        self._issue = issue
        self._authority = authority

    async def enroll(self, request: pb.EnrollRequest) -> pb.EnrollResponse:
        """See AgentService.Enroll."""
        if not _NODE_ID.fullmatch(request.node_id):
            raise SpecInvalid(violations=[("node_id", "has other characters, or too many")])
        who = caller()
        name = NodeName(WORKSPACE, who.compute, request.node_id)
        issued = self._signed(request.certificate_request, name)
        hostname = request.hostname[:_HOSTNAME_CHARACTERS]
        work = self._access.join(who, request.node_id, hostname, issued.key_hash)
        member = await self._live.background.whole(work, "join")
        self._live.journal.info("node_joined", node=f"{member.compute}/{hostname}", by=who.token)
        return pb.EnrollResponse(
            certificate=issued.pem,
            authority=self._authority,
            agent_port=self._reach.nodes.port if self._reach.nodes else 0,
            compute=member.compute,
        )

    async def renew(self, request: pb.RenewCertificateRequest) -> pb.RenewCertificateResponse:
        """See AgentService.RenewCertificate."""
        who = caller()
        name = NodeName(who.workspace, who.compute, who.node)
        issued = self._signed(request.certificate_request, name)
        return pb.RenewCertificateResponse(certificate=issued.pem)

    async def leave(self) -> pb.LeaveResponse:
        """See AgentService.Leave."""
        who = caller()
        await self._live.background.whole(self._access.leave(who), "leave")
        self._live.journal.info("node_left", node=who.name)
        return pb.LeaveResponse()

    def _signed(self, csr: bytes, name: NodeName) -> NodeCertificate:
        if self._issue is None or self._reach.nodes is None:
            raise not_listening()
        return self._issue(csr, name)
