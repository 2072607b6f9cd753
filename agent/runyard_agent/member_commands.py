"""`python -m runyard_agent join|start|status|stop|leave`: this machine as a node of a daemon.

The token comes by standard input, so that no list of processes has it. The answer is one line of
JSON on standard output; of a failure {"reason", "message", "hint"}.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc

from runyard_agent.certificates import new_key
from runyard_agent.home import LOCK_NAME, Home, open_home
from runyard_agent.link import error_of
from runyard_agent.membership import (
    MEMBERSHIP_NAME,
    STATUS_NAME,
    Membership,
    read_membership,
    read_status,
)
from runyard_contract.addresses import DAEMON_NAME, PORT, HostPort
from runyard_contract.errors import (
    DaemonStartFailed,
    DaemonUnavailable,
    NodeUnreachable,
    RunyardError,
    StateNotAllowed,
    Unauthenticated,
)
from runyard_contract.lockfile import lock_holder
from runyard_contract.logfile import open_log
from runyard_contract.tokens import read_token
from runyard_contract.trust import Trust, check_fingerprint, pin
from runyard_contract.version import build_id
from runyardpb.agent.v1 import agent_pb2 as pb
from runyardpb.agent.v1 import agent_pb2_grpc

CALL_LIMIT_S = 30.0
START_LIMIT_S = 30.0
END_LIMIT_S = 15.0
POLL_S = 0.02
LOG_NAME = "agent.log"
_OPTIONS = (("grpc.ssl_target_name_override", DAEMON_NAME),)


def main(arguments: Sequence[str]) -> int:
    """Does what a person asks of this machine's agent; gives the exit code."""
    given = _parser().parse_args(arguments)
    home = given.home.absolute()
    os.umask(0o077)
    try:
        answer = _COMMANDS[given.command](home, given)
    except RunyardError as error:
        _answer({"reason": error.reason, "message": error.message, "hint": error.hint})
        return error.exit_code
    _answer(answer)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="runyard-agent")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in COMMANDS:
        command = commands.add_parser(name)
        command.add_argument("--home", type=Path, required=True, help="the agent's folder")
        if name == "join":
            command.add_argument("address", help="the daemon, HOST:PORT")
            command.add_argument("--fingerprint", required=True, help="of the daemon's authority")
        if name in {"join", "start"}:
            command.add_argument("--slots", type=int, default=0, help="runs at one time")
    return parser


def _join_and_start(path: Path, given: argparse.Namespace) -> Answer:
    """Joins, then starts the agent and waits until it is connected."""
    address = HostPort.parse(given.address, port=PORT)
    fingerprint = check_fingerprint(given.fingerprint)
    token = read_token(sys.stdin.readline().strip())
    if token.kind != "join":
        raise Unauthenticated(
            "this token is one of a person; machines join by their own kind",
            hint="ask for one of `runyard daemon token create --role agent --compute NAME`",
        )
    home = open_home(path)
    try:
        _join(home, address, fingerprint, token.text)
    finally:
        home.close()
    return _start(path, given)


def _start(path: Path, given: argparse.Namespace) -> Answer:
    """Starts the agent in the background, unless it runs."""
    _membership(path)
    if lock_holder(path / LOCK_NAME) is None:
        arguments = ["--joined", "--home", str(path)]
        if given.slots:
            arguments += ["--slots", str(given.slots)]
        _spawn(path, arguments)
    return _status(path, given)


def _spawn(path: Path, arguments: Sequence[str]) -> None:
    """Starts the agent and waits until it has said how it is."""
    log_path = path / LOG_NAME
    log = open_log(log_path)
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "runyard_agent", *arguments],
            cwd=path,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    finally:
        os.close(log)
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        if read_status(path).get("pid") == process.pid:
            return
        if process.poll() is not None:
            break
        time.sleep(POLL_S)
    raise DaemonStartFailed(
        "the agent did not start",
        hint=f"see the end of {log_path}",
        log=str(log_path),
    )


def _status(path: Path, given: argparse.Namespace) -> Answer:
    """How the agent is."""
    membership = _membership(path)
    pid = lock_holder(path / LOCK_NAME)
    told = read_status(path)
    if told.get("pid") != pid:  # what an earlier one told
        told = {}
    return {
        "daemon": membership.daemon,
        "compute": membership.compute,
        "home": str(path),
        "pid": pid,
        "state": told.get("state", "disconnected" if pid is not None else "stopped"),
        "why": told.get("why", ""),
        "since_s": told.get("since_s"),
        "certificate_issued_s": membership.issued_s,
    }


def _stop(path: Path, given: argparse.Namespace) -> Answer:
    """Ends the agent; its runs go on."""
    _membership(path)
    pid = lock_holder(path / LOCK_NAME)
    if pid:
        _end(pid)
    return _status(path, given)


def _leave(path: Path, given: argparse.Namespace) -> Answer:
    """Ends the membership, the agent, and what was kept of both."""
    membership = _membership(path)
    with contextlib.suppress(Unauthenticated):  # the daemon has forgotten the node already
        _say_leave(membership)
    pid = lock_holder(path / LOCK_NAME)
    if pid:
        _end(pid)
    (path / MEMBERSHIP_NAME).unlink()
    with contextlib.suppress(FileNotFoundError):
        (path / STATUS_NAME).unlink()
    return {"daemon": membership.daemon, "compute": membership.compute, "home": str(path)}


Answer = dict[str, Any]
_COMMANDS: Mapping[str, Callable[[Path, argparse.Namespace], Answer]] = {
    "join": _join_and_start,
    "start": _start,
    "status": _status,
    "stop": _stop,
    "leave": _leave,
}
COMMANDS = tuple(_COMMANDS)


def _membership(path: Path) -> Membership:
    """What the machine has joined. Raises StateNotAllowed where that is nothing."""
    found = read_membership(path)
    if found is None:
        raise StateNotAllowed(
            "this machine has joined no daemon",
            hint="an administrator gets the line to paste here from `runyard daemon token create "
            "--role agent --compute NAME`",
            home=str(path),
        )
    return found


def _end(pid: int) -> None:
    """Ends a process and waits until it is gone. Raises NodeUnreachable where it stays."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        os.kill(pid, signal.SIGTERM)
        gone, _, _ = select.select([process], [], [], END_LIMIT_S)
    finally:
        os.close(process)
    if not gone:
        raise NodeUnreachable(
            f"the agent (process {pid}) does not end",
            hint=f"see what it does, or end it with `kill -9 {pid}`; its runs go on",
            pid=str(pid),
        )


def _say_leave(membership: Membership) -> None:
    """Tells the daemon. Raises the error that it answers."""
    credentials = grpc.ssl_channel_credentials(
        membership.authority.encode(), membership.key.encode(), membership.certificate.encode()
    )
    with grpc.secure_channel(str(membership.address), credentials, options=_OPTIONS) as channel:
        stub = agent_pb2_grpc.AgentServiceStub(channel)
        try:
            stub.Leave(pb.LeaveRequest(), timeout=CALL_LIMIT_S)
        except grpc.RpcError as refused:
            raise _refusal(refused, membership.address) from None


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
    with grpc.secure_channel(str(address), credentials, options=_OPTIONS) as channel:
        stub = agent_pb2_grpc.AgentServiceStub(channel)
        try:
            return stub.Enroll(request, timeout=CALL_LIMIT_S)
        except grpc.RpcError as refused:
            raise _refusal(refused, address) from None


def _refusal(refused: Any, address: HostPort) -> RunyardError:
    """The error that a call ended with."""
    if refused.code() is grpc.StatusCode.UNAVAILABLE:
        return DaemonUnavailable(
            f"no daemon that this machine trusts answers at {address}",
            hint="see whether it runs, and try again then",
            address=str(address),
        )
    return error_of(refused)


def _answer(values: dict[str, Any]) -> None:
    print(json.dumps(values), flush=True)
