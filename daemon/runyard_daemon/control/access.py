"""Tokens and members as the daemon takes them: looked up in memory, kept in the store.

A change writes its own column, never a record that was read before: changes may come together.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from runyard_contract.errors import (
    SpecInvalid,
    StateNotAllowed,
    TokenNotFound,
    Unauthenticated,
)
from runyard_contract.tokens import ID_CHARACTERS, SECRET_BYTES, Token, make_token, read_token
from runyard_daemon.control.hello import LOCAL, WORKSPACE
from runyard_daemon.control.live import Live
from runyard_daemon.core import admission
from runyard_daemon.core.access import Caller, Role
from runyard_daemon.core.types import NodeId
from runyard_daemon.store import Connection, computes, tokens
from runyard_daemon.store.computes import ComputeRecord
from runyard_daemon.store.tokens import MemberRecord, TokenRecord

KINDS: Final = {"ADMIN": "adm", "CONTRIBUTOR": "usr", "READER": "ro", "AGENT": "join"}
"""Kinds of tokens by the role that they give."""
_ROLES: Final = {
    "ADMIN": Role.ADMIN,
    "CONTRIBUTOR": Role.CONTRIBUTOR,
    "READER": Role.READER,
    "AGENT": Role.JOINER,
}
AGENT_KIND: Final = "AGENT"
"""The kind of a compute target whose machines join by a token."""

Ended = Callable[[str], None]
"""Hears the id of a token that counts no more."""


@dataclass(frozen=True, slots=True)
class Wish:
    """The token that somebody asks for."""

    role: str
    bearer: str
    compute: str
    uses: int
    lifetime_us: int


class Access:
    """Who is known, and as what. Call `load` before the first port is open."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._tokens: dict[str, TokenRecord] = {}
        self._members: dict[tuple[str, str, str], MemberRecord] = {}
        self.on_end: Ended = lambda token_id: None

    async def load(self) -> None:
        """Reads what the store has."""
        read = self._live.store.read
        for token in await read(tokens.every):
            self._tokens[token.id] = token
        for member in await read(tokens.members):
            self._members[_key(member)] = member

    def bearer_of(self, text: str) -> Caller:
        """Who bears a token. Raises Unauthenticated, always with the same words."""
        try:
            token = read_token(text)
        except SpecInvalid:
            raise unauthenticated() from None
        record = self._tokens.get(token.id)
        # Compared also where there is none, so that ids can't be found out by the time it takes.
        is_right = hmac.compare_digest(record.hash if record else bytes(32), token.hash)
        now_us = self._live.now_us()
        if (
            record is None
            or not is_right
            or not admission.is_taken(now_us, record.expire_time_us, record.revoke_time_us)
        ):
            raise unauthenticated()
        if admission.is_use_noted(now_us, record.last_use_us):
            self._note_use(record.id, now_us)
        return Caller(
            _ROLES[record.role],
            record.bearer or f"token-{record.id}",
            compute=record.compute,
            token=record.id,
        )

    def member_of(self, workspace: str, compute: str, node_id: str) -> Caller:
        """The node that a certificate names. Raises Unauthenticated for one that is gone."""
        member = self._members.get((workspace.casefold(), compute.casefold(), node_id))
        if member is None:
            raise unauthenticated()
        return Caller(
            Role.NODE,
            f"{member.compute}/{member.hostname}",
            member.workspace,
            compute=member.compute,
            node=member.node_id,
        )

    async def create(self, wish: Wish, by: Caller) -> tuple[Token, TokenRecord]:
        """Makes a token. Raises SpecInvalid."""
        now_us = self._live.now_us()
        is_machine = wish.role == "AGENT"
        try:
            expires_us = admission.expiry_us(now_us, wish.lifetime_us, is_machine=is_machine)
        except ValueError as error:
            raise SpecInvalid(violations=[("lifetime", str(error))]) from None
        token = make_token(KINDS[wish.role], os.urandom(ID_CHARACTERS + SECRET_BYTES))
        record = TokenRecord(
            id=token.id,
            hash=token.hash,
            role=wish.role,
            bearer=wish.bearer,
            compute=wish.compute,
            uses_left=wish.uses if is_machine else 0,
            created_by=by.name,
            create_time_us=now_us,
            expire_time_us=expires_us,
        )

        def write(conn: Connection) -> None:
            if is_machine:
                _ensure_compute(conn, WORKSPACE, wish.compute, now_us)
            tokens.put(conn, record)

        await self._live.store.write(write)
        self._tokens[record.id] = record
        return token, record

    async def revoke(self, token_id: str) -> TokenRecord:
        """Ends a token at once. Raises TokenNotFound."""
        record = self._tokens.get(token_id)
        if record is None:
            raise TokenNotFound.named(token_id)
        if record.revoke_time_us is not None:
            return record
        now_us = self._live.now_us()
        # Refused from now on, also where the disk is full and the revocation won't last.
        revoked = self._change(token_id, revoke_time_us=now_us)
        self.on_end(token_id)
        await self._live.store.write(lambda conn: tokens.revoke(conn, token_id, now_us))
        return revoked

    async def page(self, after: tuple[int, str] | None, limit: int) -> list[TokenRecord]:
        """Up to `limit` tokens, the newest first."""
        return await self._live.store.read(lambda conn: tokens.page(conn, after, limit))

    async def join(self, by: Caller, node_id: str, hostname: str, key_hash: bytes) -> MemberRecord:
        """Makes a machine a member by the token that it bears; the same machine again stays it.

        Raises Unauthenticated where the token is used up.
        """
        record = self._tokens[by.token]
        member = MemberRecord(
            WORKSPACE,
            record.compute,
            node_id,
            hostname,
            record.id,
            key_hash,
            self._live.now_us(),
        )
        before = self._members.get(_key(member))
        if before is not None and (before.token_id, before.key_hash) == (record.id, key_hash):
            return before
        if before is not None or record.uses_left < 1:
            # Another machine's name, or nothing left: to the bearer both are one.
            raise unauthenticated()
        # Taken in memory first: of two that come at once for the last use, one is too late.
        self._change(record.id, uses_left=record.uses_left - 1)

        def write(conn: Connection) -> None:
            tokens.take_use(conn, record.id)
            tokens.put_member(conn, member)

        try:
            await self._live.store.write(write)
        except BaseException:
            self._change(record.id, uses_left=self._tokens[record.id].uses_left + 1)
            raise
        self._members[_key(member)] = member
        return member

    async def leave(self, who: Caller) -> None:
        """Ends that a node is a member. Raises StateNotAllowed while runs are on it."""
        node_id = NodeId(f"{who.compute}/{who.node}")
        held = self._live.held_by(node_id)
        if held:
            raise StateNotAllowed(
                f"{who.name} has {len(held)} runs, such as {held[0].ref.run_id}",
                hint="wait for their end, or end them with `runyard runs cancel`",
                node=who.name,
            )
        key = (who.workspace.casefold(), who.compute.casefold(), who.node)
        # Out of memory first: from now on its certificate opens nothing, and it gets no run.
        member = self._members.pop(key, None)
        if member is None:
            raise unauthenticated()
        self._live.forget_node(node_id)
        try:
            await self._live.store.write(lambda conn: tokens.remove_member(conn, member))
        except BaseException:
            self._members[key] = member
            raise

    def _note_use(self, token_id: str, now_us: int) -> None:
        self._change(token_id, last_use_us=now_us)
        work = self._live.store.write(lambda conn: tokens.note_use(conn, token_id, now_us))
        self._live.background.start(work, "token used")

    def _change(self, token_id: str, **changes: Any) -> TokenRecord:
        """Changes what is known in memory of a token, as it is now."""
        changed = self._tokens[token_id] = replace(self._tokens[token_id], **changes)
        return changed


def unauthenticated() -> Unauthenticated:
    """The one answer to whoever has no valid credentials."""
    return Unauthenticated(
        "the daemon does not know who calls",
        hint="log in with `runyard login ADDRESS`; an administrator makes tokens with "
        "`runyard daemon token create`",
    )


def _ensure_compute(conn: Connection, workspace: str, name: str, now_us: int) -> None:
    """Has a target for machines to join. Raises SpecInvalid for one of another kind."""
    found = computes.get(conn, workspace, name)
    if found is None:
        computes.put(conn, ComputeRecord(workspace, name, AGENT_KIND, "SUCCEEDED", now_us, now_us))
    elif found.kind != AGENT_KIND:
        what = "the daemon's own machine" if found.name == LOCAL else f"of kind {found.kind}"
        raise SpecInvalid(violations=[("compute", f'"{found.name}" is {what}; none can join it')])


def _key(member: MemberRecord) -> tuple[str, str, str]:
    return (member.workspace.casefold(), member.compute.casefold(), member.node_id)
