"""AccessService: tokens, and who the caller is."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass

from runyard_contract.addresses import HostPort
from runyard_contract.errors import NotListening, SpecInvalid
from runyard_contract.ids import check_compute_name
from runyard_daemon.control.access import Access, Wish
from runyard_daemon.control.callers import caller
from runyard_daemon.control.live import Live
from runyard_daemon.core.admission import USES_MOST
from runyard_daemon.rpc.convert.times import from_duration, to_timestamp
from runyard_daemon.rpc.edge import Context
from runyard_daemon.rpc.paging import Pager
from runyard_daemon.store.tokens import TokenRecord
from runyardpb.v1 import access_pb2 as pb
from runyardpb.v1.access_pb2_grpc import AccessServiceServicer

_BEARER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_PREFIX = "TOKEN_ROLE_"


@dataclass(frozen=True, slots=True)
class Reach:
    """How others reach the daemon."""

    people: HostPort | None = None
    nodes: HostPort | None = None
    fingerprint: str = ""
    """Of the authority's certificate."""

    @property
    def address(self) -> str:
        """Where people reach it, as another machine may know it."""
        if self.people is None:
            return ""
        host = socket.gethostname() if self.people.is_wildcard else self.people.host
        return str(HostPort(host, self.people.port))


class AccessService(AccessServiceServicer):
    """Makes, lists and ends tokens."""

    def __init__(self, live: Live, access: Access, pager: Pager, reach: Reach) -> None:
        self._live = live
        self._access = access
        self._pager = pager
        self._reach = reach

    async def GetCaller(
        self, request: pb.GetCallerRequest, context: Context
    ) -> pb.GetCallerResponse:
        """Who the caller is."""
        who = caller()
        return pb.GetCallerResponse(name=who.name, role=who.role.value)

    async def CreateToken(
        self, request: pb.CreateTokenRequest, context: Context
    ) -> pb.CreateTokenResponse:
        """A new token; its secret is in this answer only."""
        wish = _wish(request)
        if wish.role == "AGENT" and self._reach.nodes is None:
            raise not_listening()
        work = self._access.create(wish, caller())
        token, record = await self._live.background.whole(work, "create token")
        return pb.CreateTokenResponse(
            text=token.text,
            token=_to_token(record),
            authority_fingerprint=self._reach.fingerprint,
            address=self._reach.address,
        )

    async def ListTokens(
        self, request: pb.ListTokensRequest, context: Context
    ) -> pb.ListTokensResponse:
        """A page of tokens, the newest first."""
        page = self._pager.read(request)
        after = (int(page.after[0]), str(page.after[1])) if page.after else None
        rows = await self._access.page(after, page.size + 1)
        keys = [(row.create_time_us, row.id) for row in rows]
        shown, next_token = self._pager.cut(page, rows, keys)
        return pb.ListTokensResponse(tokens=map(_to_token, shown), next_page_token=next_token)

    async def RevokeToken(
        self, request: pb.RevokeTokenRequest, context: Context
    ) -> pb.RevokeTokenResponse:
        """Ends a token at once."""
        work = self._access.revoke(request.id)
        record = await self._live.background.whole(work, "revoke token")
        return pb.RevokeTokenResponse(token=_to_token(record))


def not_listening() -> NotListening:
    """The error where machines are to join, and can't."""
    return NotListening(
        "this daemon has no port for machines that join",
        hint="start it with `runyard daemon serve --listen HOST:PORT --agent-listen HOST:PORT`",
    )


def _wish(request: pb.CreateTokenRequest) -> Wish:
    """What is asked for, checked. Raises SpecInvalid, NameInvalid."""
    role = pb.TokenRole.Name(request.role) if request.role in pb.TokenRole.values() else ""
    name = role.removeprefix(_PREFIX)
    is_machine = name == "AGENT"
    faults = []
    if not role or name == "UNSPECIFIED":
        faults.append(("role", "is not set; use reader, contributor, admin or agent"))
    if is_machine:
        if not 0 <= request.uses <= USES_MOST:
            faults.append(("uses", f"{request.uses} is not from 1 to {USES_MOST}"))
        if request.bearer:
            faults.append(("bearer", "is for people; machines have their host's name"))
    else:
        if not _BEARER.fullmatch(request.bearer):
            faults.append(
                ("bearer", "needs a name of 1 to 64 letters, digits, `.`, `_`, `-` and `@`")
            )
        for field in ("uses", "compute"):
            if getattr(request, field):
                faults.append((field, "is for tokens of machines only"))
    if faults:
        raise SpecInvalid(violations=faults)
    return Wish(
        role=name,
        bearer=request.bearer,
        compute=check_compute_name(request.compute) if is_machine else "",
        uses=request.uses or 1,
        lifetime_us=round(from_duration(request.lifetime) * 1e6),
    )


def _to_token(record: TokenRecord) -> pb.Token:
    return pb.Token(
        id=record.id,
        role=pb.TokenRole.Value(f"{_PREFIX}{record.role}"),
        bearer=record.bearer,
        compute=record.compute,
        uses_left=record.uses_left,
        create_time=to_timestamp(record.create_time_us),
        expire_time=to_timestamp(record.expire_time_us),
        revoke_time=to_timestamp(record.revoke_time_us),
        last_use_time=to_timestamp(record.last_use_us),
        created_by=record.created_by,
    )
