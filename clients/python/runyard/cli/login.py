"""`runyard login` and `runyard logout`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from runyard.address import ADDRESS_VARIABLE, EMBEDDED
from runyard.cli.command_line import Command, json_option, output_of
from runyard.cli.failure import UsageInvalid
from runyard.cli.options import option
from runyard.credentials import Credentials, Login
from runyard.network import SCHEME, NetworkAddress
from runyard_contract.addresses import PORT, HostPort
from runyard_contract.home import data_home
from runyard_contract.tokens import read_token
from runyard_contract.trust import Trust, ask_for_trust, check_fingerprint, pin

if TYPE_CHECKING:
    from runyard.cli.output import Output
    from runyardpb.v1 import access_pb2


@click.command(
    cls=Command,
    examples=[
        "runyard login lab.example:7443",
        "runyard login lab.example:7443 --fingerprint 3f9a... --token-stdin < token",
    ],
)
@click.argument("address")
@option("--fingerprint", metavar="SHA256", help="The daemon to trust, as `token create` printed.")
@option("--token-stdin", is_flag=True, help="Read the token from standard input.")
@json_option
@click.pass_context
def login(ctx: click.Context, address: str, fingerprint: str | None, token_stdin: bool) -> None:
    """Use the daemon at ADDRESS (HOST:PORT) from now on, as the bearer of a token.

    Without --fingerprint the daemon's is shown, to be compared with the one that its
    administrator has. Address, fingerprint and token are remembered in a file that only you can
    read; RUNYARD_ADDRESS=local or `runyard logout` leads back to the daemon on this machine.
    """
    output = output_of(ctx)
    place = HostPort.parse(address.removeprefix(SCHEME), port=PORT)
    if fingerprint is None:
        trust = _confirmed(place, output)
    else:
        trust = pin(place, check_fingerprint(fingerprint))
    token = read_token(_ask_token(is_piped=token_stdin))
    entered = Login(trust.certificate, token.text)
    caller = _caller(NetworkAddress(place, entered, data_home(os.environ)))
    Credentials(os.environ).keep(str(place), entered)
    if output.is_json:
        output.print_json({"address": str(place), "name": caller.name, "role": caller.role})
    else:
        output.say(f"runyard: logged in to {place} as {caller.name} ({caller.role})")


@click.command(cls=Command, examples=["runyard logout"])
@click.argument("address", required=False)
@json_option
@click.pass_context
def logout(ctx: click.Context, address: str | None) -> None:
    """Forget the login at ADDRESS, or at the daemon in use. The token itself stays valid."""
    output = output_of(ctx)
    credentials = Credentials(os.environ)
    named = (
        str(HostPort.parse(address.removeprefix(SCHEME), port=PORT))
        if address
        else credentials.current()
    )
    was_there = bool(named) and credentials.forget(named)
    if output.is_json:
        output.print_json({"address": named, "was_logged_in": was_there})
    elif was_there:
        output.say(f"runyard: logged out of {named}; commands use {_in_use(credentials)}")
    else:
        output.say(f"runyard: not logged in{f' to {named}' if named else ''}; nothing to do")


def _in_use(credentials: Credentials) -> str:
    """The daemon that commands use now, in words."""
    address = os.environ.get(ADDRESS_VARIABLE) or credentials.current()
    return f"the daemon at {address}" if address not in {"", EMBEDDED} else "this machine's daemon"


def _confirmed(place: HostPort, output: Output) -> Trust:
    """The authority that the daemon shows, if the person says that it is the right one."""
    trust = ask_for_trust(place)
    if not sys.stdin.isatty():
        raise UsageInvalid(
            f"nobody can compare the fingerprint of {place} here",
            hint=f"add --fingerprint {trust.fingerprint} if that is the daemon's own",
        )
    output.say(f"The daemon at {place} shows the fingerprint")
    output.say(f"  {trust.fingerprint}")
    click.confirm("Is it the one that its administrator named?", abort=True, err=True)
    return trust


def _ask_token(*, is_piped: bool) -> str:
    """The token, from standard input or typed unseen."""
    if is_piped or not sys.stdin.isatty():
        return sys.stdin.readline().strip()
    return str(click.prompt("Token", hide_input=True, err=True)).strip()


def _caller(address: NetworkAddress) -> access_pb2.GetCallerResponse:
    """Who the token says one is. Raises Unauthenticated."""
    from runyard.channel import Connection
    from runyardpb.v1 import access_pb2, access_pb2_grpc

    with Connection(address) as connection:
        return connection.unary(
            access_pb2_grpc.AccessServiceStub,
            lambda stub: stub.GetCaller,
            access_pb2.GetCallerRequest(),
        )
