"""Attacks on the wire: messages that are none, HTTP/2 against its rules, peers that never read.

The daemon is a process of its own here, so that its memory is its own.
"""

from __future__ import annotations

import contextlib
import resource
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from runyardpb.v1 import admin_pb2, runs_pb2, runs_pb2_grpc
from support.daemon_process import LIMIT_S, DaemonProcess
from support.house import eventually
from support.http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_BYTES,
    GOAWAY,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    call_headers,
    connection,
    frame,
    frames,
    send_until_refused,
)
from support.served import WORKSPACE, create_request

GROWTH_BYTES = 50 << 20
FOLLOWERS = 30
INFO = "/runyardpb.v1.AdminService/GetServerInfo"
CREATE = "/runyardpb.v1.RunService/CreateRun"
FOLLOW = "/runyardpb.v1.RunService/FollowRun"


@pytest.fixture(scope="module")
def daemon() -> Iterator[DaemonProcess]:
    root = Path(tempfile.mkdtemp(dir="/tmp", prefix="ry-"))
    with DaemonProcess(root / "h", "--embedded") as daemon:
        serves_others(daemon)
        yield daemon
    shutil.rmtree(root)


def memory_bytes(daemon: DaemonProcess) -> int:
    fields = Path(f"/proc/{daemon.pid}/status").read_text().split()
    return int(fields[fields.index("VmRSS:") + 1]) << 10


def open_files(daemon: DaemonProcess) -> int:
    return len(list(Path(f"/proc/{daemon.pid}/fd").iterdir()))


def serves_others(daemon: DaemonProcess, calls: int = 20) -> None:
    """Another client submits and reads: every one of its calls is answered."""
    with daemon.channel() as channel:
        stub = runs_pb2_grpc.RunServiceStub(channel)
        for _ in range(calls):
            run = stub.CreateRun(create_request(b"true"), timeout=LIMIT_S).run
            assert stub.GetRun(runs_pb2.GetRunRequest(name=run.name), timeout=LIMIT_S).run.name


def field(number: int, wire_type: int, payload: bytes = b"") -> bytes:
    return varint(number << 3 | wire_type) + payload


def text(number: int, data: bytes) -> bytes:
    return field(number, 2, varint(len(data)) + data)


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


PARENT = text(1, f"{WORKSPACE}/experiments/demo".encode())
PROGRAM = text(4, text(1, b"true"))
"""RunSpec.command: a run that can be taken."""


def spec(*fields: bytes) -> bytes:
    return PARENT + text(2, PROGRAM + b"".join(fields))


def span(seconds: int, nanos: int = 0) -> bytes:
    return field(1, 0, varint(seconds)) + field(2, 0, varint(nanos))


MESSAGES = {
    "unknown fields of 1 MB": (spec(text(1000, bytes(1 << 20))), {"OK"}),
    "unknown groups nested 10,000 deep": (
        spec(field(1000, 3) * 10_000 + field(1000, 4) * 10_000),
        {"INVALID_ARGUMENT"},
    ),
    "known messages where text is": (text(1, b"\x0a" * 10_000), {"INVALID_ARGUMENT"}),
    "oneof twice": (spec(text(3, text(1, b"a.py")), PROGRAM), {"OK"}),
    "enum 9999": (spec(field(1, 0, varint(9999))), {"INVALID_ARGUMENT"}),
    "text that is no UTF-8": (text(1, b"\xff\xfe"), {"INVALID_ARGUMENT"}),
    "map with 10^6 keys": (
        spec() + b"".join(text(4, text(1, b"%06d" % n)) for n in range(1_000_000)),
        {"RESOURCE_EXHAUSTED"},
    ),
    "map with 250,000 keys": (
        spec() + b"".join(text(4, text(1, b"%06d" % n)) for n in range(250_000)),
        {"INVALID_ARGUMENT"},
    ),
    "duration of 2^63 - 1 s": (spec(text(12, span((1 << 63) - 1))), {"INVALID_ARGUMENT"}),
    "negative duration": (spec(text(12, span(-5))), {"INVALID_ARGUMENT"}),
    "duration with 2^31 - 1 ns": (spec(text(13, span(1, (1 << 31) - 1))), {"OK"}),
    "snapshot duration of -2^63 s": (
        spec() + text(7, span(-(1 << 63))),
        {"INVALID_ARGUMENT"},
    ),
    "length beyond the end": (PARENT + field(2, 2, varint(1 << 40)), {"INVALID_ARGUMENT"}),
    "length of 2^64 - 1": (PARENT + field(2, 2, varint(-1)), {"INVALID_ARGUMENT"}),
    "varint that never ends": (b"\x80" * 1000, {"INVALID_ARGUMENT"}),
    "field number 0": (b"\x02\x01a", {"INVALID_ARGUMENT"}),
    "noise": (bytes(range(256)) * 100, {"INVALID_ARGUMENT"}),
}


def raw_call(daemon: DaemonProcess, method: str, data: bytes) -> tuple[str, str]:
    """Code and details of a call with any bytes."""
    with daemon.channel() as channel:
        try:
            channel.unary_unary(method)(data, timeout=LIMIT_S)
        except grpc.RpcError as failed:
            return failed.code().name, failed.details()
    return "OK", ""


@pytest.mark.parametrize("name", MESSAGES)
def test_sec_33_a_message_that_is_none_is_refused_or_ignored(
    daemon: DaemonProcess, name: str
) -> None:
    data, codes = MESSAGES[name]
    raw_call(daemon, CREATE, data)
    before = memory_bytes(daemon)

    for _ in range(3):
        code, details = raw_call(daemon, CREATE, data)

        assert code in codes, details
        assert "Traceback" not in details
        assert "object" not in details
        assert "DecodeError" not in details
    assert memory_bytes(daemon) - before < GROWTH_BYTES
    serves_others(daemon, 2)


def test_sec_33_unknown_fields_are_not_kept(daemon: DaemonProcess) -> None:
    with daemon.channel() as channel:
        call = channel.unary_unary(
            CREATE, response_deserializer=runs_pb2.CreateRunResponse.FromString
        )
        run = call(spec(text(1000, b"x" * (1 << 20))), timeout=LIMIT_S).run

    assert run.spec.command.argv == [b"true"]
    assert run.spec.ByteSize() < 1000


@pytest.mark.parametrize(
    "method",
    [
        "/runyardpb.agent.v1.AgentService/Session",
        "/runyardpb.v1.SnapshotService/UploadBlobs",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ],
)
def test_sec_33_a_stream_of_noise_is_refused(daemon: DaemonProcess, method: str) -> None:
    with daemon.channel() as channel:
        call: Any = channel.stream_stream(method)(iter([b"\xff" * 1000]), timeout=LIMIT_S)
        with pytest.raises(grpc.RpcError) as failed:
            list(call)

    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "DecodeError" not in failed.value.details()


def test_sec_34_thousands_of_connections_that_say_nothing_hinder_nobody(
    daemon: DaemonProcess,
) -> None:
    soft_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    before, files = memory_bytes(daemon), open_files(daemon)
    with contextlib.ExitStack() as stack:
        for number in range(min(2_000, soft_limit // 2 - 100)):
            stack.enter_context(connection(daemon.socket, with_preface=number % 2 == 0))
        serves_others(daemon)
        assert memory_bytes(daemon) - before < GROWTH_BYTES

    eventually(lambda: open_files(daemon) < files + 20, what="connections closed")


@pytest.mark.slow
def test_sec_34_a_peer_that_never_says_it_speaks_http2_is_let_go(daemon: DaemonProcess) -> None:
    with connection(daemon.socket, with_preface=False) as silent:
        silent.sendall(b"PRI * HT")

        last = list(frames(silent))[-1]

    assert (last[0], b"timeout" in last[3]) == (GOAWAY, True)


@pytest.mark.parametrize(
    ("attack", "times"),
    [
        (frame(PING, payload=bytes(8)), 100_000),
        (frame(SETTINGS, payload=b"\x00\x04\x00\x00\xff\xff") * 10, 20_000),
    ],
    ids=["pings", "settings"],
)
def test_sec_34_a_flood_of_frames_that_want_answers_is_bounded(
    daemon: DaemonProcess, attack: bytes, times: int
) -> None:
    before = memory_bytes(daemon)
    with connection(daemon.socket) as peer:
        peer.settimeout(1.0)
        sent = send_until_refused(peer, attack, times)
        serves_others(daemon)

    assert sent < times
    assert memory_bytes(daemon) - before < GROWTH_BYTES


def test_sec_34_pings_without_work_end_with_calm_asked_for(daemon: DaemonProcess) -> None:
    with connection(daemon.socket) as peer:
        peer.sendall(frame(PING, payload=bytes(8)) * 10)

        goodbye = next(payload for kind, _, _, payload in frames(peer) if kind == GOAWAY)

    assert int.from_bytes(goodbye[4:8], "big") == 0xB  # ENHANCE_YOUR_CALM
    serves_others(daemon, 2)


def test_sec_34_streams_that_are_opened_and_reset_at_once_hinder_nobody(
    daemon: DaemonProcess,
) -> None:
    before, calls = memory_bytes(daemon), calls_under_way(daemon)
    begin = call_headers(INFO)
    with connection(daemon.socket) as peer:
        peer.settimeout(5.0)
        for stream in range(1, 20_000, 2):
            both = frame(HEADERS, END_HEADERS, stream, begin)
            both += frame(RST_STREAM, 0, stream, b"\0\0\0\x08")
            if not send_until_refused(peer, both, 1):
                break
        serves_others(daemon)

    assert memory_bytes(daemon) - before < GROWTH_BYTES
    eventually(lambda: calls_under_way(daemon) < calls + 10, what="no call of the attack under way")


def calls_under_way(daemon: DaemonProcess) -> float:
    """How many calls are under way, the question itself among them."""
    with daemon.channel() as channel:
        call = channel.unary_unary(
            "/runyardpb.v1.AdminService/GetMetrics",
            response_deserializer=admin_pb2.GetMetricsResponse.FromString,
        )
        lines = call(b"", timeout=LIMIT_S).exposition.splitlines()
    return float(
        next(line for line in lines if line.startswith("runyard_rpc_under_way ")).split()[1]
    )


def test_sec_34_streams_beyond_the_limit_are_refused_and_others_served(
    daemon: DaemonProcess,
) -> None:
    before, calls = memory_bytes(daemon), calls_under_way(daemon)
    begin = call_headers("/runyardpb.v1.SnapshotService/UploadBlobs")
    with connection(daemon.socket) as peer:
        peer.settimeout(5.0)
        for stream in range(1, 200_000, 2):
            if not send_until_refused(peer, frame(HEADERS, END_HEADERS, stream, begin), 1):
                break
        serves_others(daemon)
        assert memory_bytes(daemon) - before < 2 * GROWTH_BYTES

    eventually(lambda: calls_under_way(daemon) < calls + 10, what="no call of the attack under way")


def test_sec_34_followers_that_never_read_hold_up_neither_memory_nor_others(
    daemon: DaemonProcess,
) -> None:
    size = 20_000_000
    with daemon.channel() as channel:
        stub = runs_pb2_grpc.RunServiceStub(channel)
        script = f"head -c {size} /dev/zero".encode()
        name = stub.CreateRun(create_request(b"sh", b"-c", script), timeout=LIMIT_S).run.name
        request = runs_pb2.FollowRunRequest(name=name)
        assert followed_bytes(stub, request) == size

        before, calls = memory_bytes(daemon), calls_under_way(daemon)
        body = request.SerializeToString()
        message = b"\0" + len(body).to_bytes(4, "big") + body
        begin = frame(HEADERS, END_HEADERS, 1, call_headers(FOLLOW))
        with contextlib.ExitStack() as stack:
            for _ in range(FOLLOWERS):
                peer = stack.enter_context(connection(daemon.socket))
                peer.sendall(begin + frame(DATA, END_STREAM, 1, message))
            assert followed_bytes(stub, request) == size
            serves_others(daemon)
            # A few messages each, whatever the log's length: 600 MB were asked for.
            assert memory_bytes(daemon) - before < FOLLOWERS * (4 << 20) + GROWTH_BYTES
    eventually(lambda: calls_under_way(daemon) < calls + 10, what="no follower under way")


def followed_bytes(stub: Any, request: runs_pb2.FollowRunRequest) -> int:
    """How much log a follower that reads gets."""
    events = stub.FollowRun(request, timeout=LIMIT_S)
    return sum(len(event.log.data) for event in events if event.HasField("log"))


def until_ended(peer: socket.socket, headers: bytes) -> None:
    """Calls with these headers until the call or its connection is ended; TimeoutError: neither."""
    pieces = [headers[at : at + FRAME_BYTES] for at in range(0, len(headers), FRAME_BYTES)]
    data = frame(HEADERS, END_HEADERS * (len(pieces) == 1), 1, pieces[0])
    for piece in pieces[1:]:
        data += frame(9, END_HEADERS * (piece is pieces[-1]), 1, piece)
    data += frame(DATA, END_STREAM, 1, bytes(5))  # an empty message
    if not send_until_refused(peer, data, 1):
        return
    for kind, _, stream, _ in frames(peer):
        if kind == GOAWAY or (stream == 1 and kind in (HEADERS, RST_STREAM)):
            return


@pytest.mark.parametrize(
    "extra",
    [
        tuple((b"x-%d" % number, b"v" * 65_536) for number in range(100)),
        ((b"x-bin", b"!!not base64!!"),),
        ((b"grpc-timeout", b"99999999999H"),),
        ((b"runyard-version", b"\xff\xfe"),),
    ],
    ids=["64 KiB x 100", "bad base64", "bad timeout", "bad bytes"],
)
def test_sec_34_headers_that_no_client_sends_end_the_call_only(
    daemon: DaemonProcess, extra: tuple[tuple[bytes, bytes], ...]
) -> None:
    before = memory_bytes(daemon)
    with connection(daemon.socket) as peer:
        until_ended(peer, call_headers(INFO, *extra))

    assert memory_bytes(daemon) - before < GROWTH_BYTES
    serves_others(daemon)
