"""`python -m runyard_agent join`: makes this machine a node of a daemon on a network.

The token comes by standard input, so that no list of processes has it. The answer is one line of
JSON on standard output: {"compute", "node_id"} or {"reason", "message", "hint"}.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc

from runyard_agent.certificates import new_key
from runyard_agent.home import Home, open_home
from runyard_agent.link import error_of_call
from runyard_agent.membership import Membership, read_membership
from runyard_contract.addresses import DAEMON_NAME, PORT, HostPort
from runyard_contract.errors import RunyardError, StateNotAllowed, Unauthenticated
from runyard_contract.tokens import read_token
from runyard_contract.trust import Trust, check_fingerprint, pin
from runyard_contract.version import build_id
from runyardpb.agent.v1 import agent_pb2 as pb
from runyardpb.agent.v1 import agent_pb2_grpc

ENROLL_LIMIT_S = 30.0


def main(arguments: Sequence[str]) -> int:
    """Joins; gives the exit code."""
    parser = argparse.ArgumentParser(prog="runyard-agent join")
    parser.add_argument("address", help="the daemon, HOST:PORT")
    parser.add_argument("--fingerprint", required=True, help="of the daemon's authority")
    parser.add_argument("--home", type=Path, required=True, help="the agent's folder")
    given = parser.parse_args(arguments)
    os.umask(0o077)
    try:
        address = HostPort.parse(given.address, port=PORT)
        fingerprint = check_fingerprint(given.fingerprint)
        token = read_token(sys.stdin.readline().strip())
        if token.kind != "join":
            raise Unauthenticated(
                "this token is one of a person; machines join by their own kind",
                hint="ask for one of `runyard daemon token create --role agent --compute NAME`",
            )
        home = open_home(given.home.absolute())
        try:
            joined = _join(home, address, fingerprint, token.text)
        finally:
            home.close()
    except RunyardError as error:
        _answer({"reason": error.reason, "message": error.message, "hint": error.hint})
        return error.exit_code
    _answer({"compute": joined.compute, "node_id": home.node_id})
    return 0


def _join(home: Home, address: HostPort, fingerprint: str, token: str) -> Membership:
    """Gets a certificate and keeps it with all that is needed to come back."""
    before = read_membership(home.path)
    if before is not None:
        raise StateNotAllowed(
            f"this machine has joined {before.compute} at {before.daemon}",
            hint="leave it first with `runyard agent leave`, or name another folder with --home",
            daemon=before.daemon,
            compute=before.compute,
        )
    trust = pin(address, fingerprint)
    made = new_key()
    request = pb.EnrollRequest(
        node_id=home.node_id,
        certificate_request=made.request,
        hostname=socket.gethostname(),
        agent_version=build_id(),
    )
    answer = _enroll(address, trust, token, request)
    membership = Membership(
        daemon=str(address),
        agent_port=answer.agent_port,
        compute=answer.compute,
        authority=answer.authority.decode(),
        certificate=answer.certificate.decode(),
        key=made.key.decode(),
        issued_s=time.time(),
    )
    membership.save(home.path)
    return membership


def _enroll(
    address: HostPort, trust: Trust, token: str, request: pb.EnrollRequest
) -> pb.EnrollResponse:
    """Asks the daemon. Raises the error that it answers."""
    credentials = grpc.composite_channel_credentials(
        grpc.ssl_channel_credentials(trust.certificate.encode()),
        grpc.access_token_call_credentials(token),
    )
    options = (("grpc.ssl_target_name_override", DAEMON_NAME),)
    with grpc.secure_channel(str(address), credentials, options=options) as channel:
        stub = agent_pb2_grpc.AgentServiceStub(channel)
        try:
            return stub.Enroll(request, timeout=ENROLL_LIMIT_S)
        except grpc.RpcError as refused:
            raise error_of_call(refused) from None


def _answer(values: dict[str, Any]) -> None:
    print(json.dumps(values), flush=True)
