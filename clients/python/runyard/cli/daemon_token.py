"""`runyard daemon token`: who may use the daemon, and which machines may join it."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from runyard.cli.command_line import Group, json_option, output_of
from runyard.cli.options import option
from runyard.cli.parameters import DURATION
from runyard.cli.render.amounts import local_time, message_time, utc_time
from runyard.cli.render.table import print_table
from runyard.cli.session import connect
from runyard_contract.limits import PAGE_SIZE_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runyardpb.v1 import access_pb2

_ROLES = ("reader", "contributor", "admin", "agent")


@click.group(cls=Group, examples=["runyard daemon token create --role contributor --for ana"])
def token() -> None:
    """Make, list and end tokens: who may use the daemon, and which machines may join it."""


@token.command(
    examples=[
        "runyard daemon token create --role contributor --for ana",
        "runyard daemon token create --role agent --compute lab --uses 5 --expires 1h",
    ]
)
@option("--role", type=click.Choice(_ROLES), required=True, help="What it allows.")
@option("--for", "bearer", metavar="NAME", help="Whose it is, as history and audit log say.")
@option("--compute", help="Of agents: the target that their machines join; it is made if new.")
@option("--uses", type=click.IntRange(1, 1000), help="Of agents: how many may join. Default: 1.")
@option("--expires", type=DURATION, help="How long it is taken. Default: 90d; of agents 1h.")
@json_option
@click.pass_context
def create(
    ctx: click.Context,
    role: str,
    bearer: str | None,
    compute: str | None,
    uses: int | None,
    expires: float | None,
) -> None:
    """Make a token and print it, once, with the line that uses it.

    Roles: a reader sees everything; a contributor also submits, changes and deletes runs; an admin
    may all; an agent's token lets machines join a target.
    """
    from runyardpb.v1 import access_pb2, access_pb2_grpc

    output = output_of(ctx)
    request = access_pb2.CreateTokenRequest(
        role=access_pb2.TokenRole.Value(f"TOKEN_ROLE_{role.upper()}"),
        bearer=bearer or "",
        compute=compute or "",
        uses=uses or 0,
    )
    if expires is not None:
        request.lifetime.FromNanoseconds(round(expires * 1e9))
    with connect(can_start=True) as connection:
        answer = connection.unary(
            access_pb2_grpc.AccessServiceStub, lambda stub: stub.CreateToken, request
        )
    if output.is_json:
        output.print_json(
            {
                **_json(answer.token),
                "token": answer.text,
                "address": answer.address or None,
                "fingerprint": answer.authority_fingerprint or None,
            }
        )
        return
    output.print(_line(answer, is_machine=role == "agent") if answer.address else answer.text)
    until = local_time(message_time(answer.token, "expire_time"))
    output.say(f"runyard: token {answer.token.id}, taken until {until}; it is not shown again")
    if not answer.address:
        output.say("  fix: this daemon has no port for others; see `runyard daemon serve --help`")


def _line(answer: access_pb2.CreateTokenResponse, *, is_machine: bool) -> str:
    """What is to be pasted elsewhere: echo is the shell's own, so no process list has the token."""
    to = f"{shlex.quote(answer.address)} --fingerprint {answer.authority_fingerprint}"
    command = f"agent join {to}" if is_machine else f"login {to} --token-stdin"
    return f"echo {answer.text} | runyard {command}"


@token.command("list", examples=["runyard daemon token list"])
@json_option
@click.pass_context
def list_command(ctx: click.Context) -> None:
    """List tokens, the newest first. Their secrets are nowhere but with their bearers."""
    output = output_of(ctx)
    found = list(_all())
    if output.is_json:
        output.print_json([_json(one) for one in found])
        return
    columns = ("TOKEN", "ROLE", "FOR", "STATE", "MADE", "LAST USED")
    rows = [
        (
            one.id,
            _role(one),
            one.bearer or f"{one.compute}, {one.uses_left} more",
            _state(one),
            local_time(message_time(one, "create_time")),
            local_time(message_time(one, "last_use_time")),
        )
        for one in found
    ]
    print_table(output, columns, rows, empty="runyard: no tokens")


@token.command(examples=["runyard daemon token revoke k3v9x2ab"])
@click.argument("token_id", metavar="TOKEN")
@json_option
@click.pass_context
def revoke(ctx: click.Context, token_id: str) -> None:
    """End a token at once. Machines that joined by it stay."""
    from runyardpb.v1 import access_pb2, access_pb2_grpc

    output = output_of(ctx)
    with connect(can_start=True) as connection:
        answer = connection.unary(
            access_pb2_grpc.AccessServiceStub,
            lambda stub: stub.RevokeToken,
            access_pb2.RevokeTokenRequest(id=token_id),
        )
    if output.is_json:
        output.print_json(_json(answer.token))
    else:
        output.say(f"runyard: token {token_id} is revoked")


def _all() -> Iterator[access_pb2.Token]:
    from runyardpb.v1 import access_pb2, access_pb2_grpc

    with connect(can_start=True) as connection:
        page_token = ""
        while True:
            answer = connection.unary(
                access_pb2_grpc.AccessServiceStub,
                lambda stub: stub.ListTokens,
                access_pb2.ListTokensRequest(page_size=PAGE_SIZE_MAX, page_token=page_token),
            )
            yield from answer.tokens
            page_token = answer.next_page_token
            if not page_token:
                return


def _role(one: access_pb2.Token) -> str:
    from runyardpb.v1 import access_pb2

    return access_pb2.TokenRole.Name(one.role).removeprefix("TOKEN_ROLE_").lower()


def _state(one: access_pb2.Token) -> str:
    """Whether a token is taken, in a word."""
    if one.HasField("revoke_time"):
        return "revoked"
    expires = message_time(one, "expire_time")
    return "expired" if expires is not None and expires <= datetime.now(UTC) else "valid"


def _json(one: access_pb2.Token) -> dict[str, Any]:
    def time(field: str) -> str | None:
        return utc_time(message_time(one, field))

    return {
        "id": one.id,
        "role": _role(one),
        "for": one.bearer or None,
        "compute": one.compute or None,
        "uses_left": one.uses_left if one.compute else None,
        "state": _state(one),
        "created_by": one.created_by,
        "create_time": time("create_time"),
        "expire_time": time("expire_time"),
        "revoke_time": time("revoke_time"),
        "last_use_time": time("last_use_time"),
    }
