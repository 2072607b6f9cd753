"""A job's output on its way to the spool: whole, in order, bounded, live."""

from __future__ import annotations

import hashlib
import resource
import time
from collections.abc import Iterator

import pytest

from support.supervised import DEADLINE_S, Bundle, Node, Peer, python, supervised_node

MIB = 1 << 20


@pytest.fixture
def node() -> Iterator[Node]:
    with supervised_node() as node:
        yield node


@pytest.fixture
def slot(node: Node) -> Peer:
    return node.slot()


def test_supervisor_keeps_what_a_job_prints_just_before_it_ends(node: Node, slot: Peer) -> None:
    for number in range(20):
        bundle, record = node.run(slot, ["sh", "-c", f"echo {number}; echo e{number} >&2"])

        assert bundle.read("stdout") == f"{number}\n".encode()
        assert bundle.read("stderr") == f"e{number}\n".encode()
        assert record["stdout_bytes"] + record["stderr_bytes"] == len(bundle.merged())
        assert record["order_bytes"] == len(bundle.read("order"))
        assert record["first_output_at_unix_ns"] >= record["started_at_unix_ns"]


def test_supervisor_loses_nothing_when_the_streams_are_opened_by_name(
    node: Node, slot: Peer
) -> None:
    script = "echo one; echo two > /dev/stdout; echo three; echo a >&2; echo b > /dev/stderr"

    bundle, _ = node.run(slot, ["sh", "-c", script])

    assert bundle.read("stdout") == b"one\ntwo\nthree\n"
    assert bundle.read("stderr") == b"a\nb\n"


def test_supervisor_keeps_ten_megabytes_without_a_newline(node: Node, slot: Peer) -> None:
    write = "import sys,random; r = random.Random(1); d = r.randbytes(10_000_000)"
    write += "; sys.stdout.buffer.write(d); sys.stdout.flush()"
    write += "; import hashlib; sys.stderr.write(hashlib.sha256(d).hexdigest())"

    bundle, record = node.run(slot, python(write))

    assert record["stdout_bytes"] == 10_000_000
    assert hashlib.sha256(bundle.read("stdout")).hexdigest().encode() == bundle.read("stderr")


def test_supervisor_indexes_every_byte_of_both_streams_once(node: Node, slot: Peer) -> None:
    script = """
import os
for i in range(3000):
    os.write(1 + i % 2, b'%d ' % i * (i % 50 + 1))
"""
    bundle, _ = node.run(slot, python(script))

    ends = {1: 0, 2: 0}
    for stream, length, offset in bundle.pieces():
        assert offset == ends[stream]
        assert length > 0
        ends[stream] += length
    assert ends == {1: len(bundle.read("stdout")), 2: len(bundle.read("stderr"))}
    assert len(bundle.merged()) == sum(ends.values()) > 300_000


def test_supervisor_keeps_the_order_between_streams_as_it_was_seen(node: Node, slot: Peer) -> None:
    """The job goes on only when its last line has been spooled: the order is then certain."""
    script = """
import os
spool = {1: '../stdout', 2: '../stderr'}
for i in range(30):
    fd = 1 + i % 2
    os.write(fd, b'%d\\n' % i)
    while b'%d\\n' % i not in open(spool[fd], 'rb').read(): pass
"""
    bundle, _ = node.run(slot, python(script))

    assert bundle.merged() == b"".join(b"%d\n" % i for i in range(30))


def test_supervisor_keeps_the_exact_order_of_merged_streams(node: Node, slot: Peer) -> None:
    script = "import os\nfor i in range(2000): os.write(1 + i % 2, b'%d\\n' % i)"

    bundle, record = node.run(slot, python(script), merge_stderr=True)

    assert bundle.read("stdout") == bundle.merged() == b"".join(b"%d\n" % i for i in range(2000))
    assert (bundle.read("stderr"), record["stderr_bytes"]) == (b"", 0)


def test_supervisor_goes_on_when_a_job_closes_its_output(node: Node, slot: Peer) -> None:
    script = "import os,time; os.write(1, b'x'); os.close(1); os.close(2); open('alive', 'w')"

    bundle, record = node.run(slot, python(script))

    assert (record["exit_code"], bundle.read("stdout")) == (0, b"x")
    assert bundle.read("work/alive") == b""


def test_supervisor_does_not_spin_while_a_job_has_its_output_closed(node: Node, slot: Peer) -> None:
    bundle = node.bundle(["sh", "-c", "exec >&- 2>&-; touch closed; exec sleep 1000"])
    slot.send(op="spawn", bundle=str(bundle.path))
    slot.wait_for("started")
    before = _cpu_s(node.slot_pid())

    slot.socket.settimeout(0.5)
    with pytest.raises(TimeoutError):
        slot.receive()

    assert _cpu_s(node.slot_pid()) - before < 0.2


def _cpu_s(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_supervisor_tells_of_the_first_output_at_once(node: Node, slot: Peer) -> None:
    stamp = "import os,time; os.write(1, b'%d' % time.monotonic_ns()); time.sleep(1000)"
    bundle = node.bundle(python(stamp))
    slot.send(op="spawn", bundle=str(bundle.path))

    event = slot.wait_for("output", bundle=str(bundle.path))
    seen = time.monotonic_ns()

    latency_ms = (seen - int(bundle.read("stdout"))) / 1e6
    print(f"first output event after {latency_ms:.2f} ms")
    assert event["stdout"] == len(bundle.read("stdout"))
    assert latency_ms < 300


def test_supervisor_coalesces_output_events(node: Node, slot: Peer) -> None:
    script = "import os,time; end = time.monotonic() + 0.4\n"
    script += "while time.monotonic() < end: os.write(1, b'x')"
    bundle = node.bundle(python(script))
    slot.send(op="spawn", bundle=str(bundle.path))
    slot.wait_for("started")

    lengths = []
    while (message := slot.receive()) and message["event"] == "output":
        lengths.append(message["stdout"])

    assert message is not None
    assert message["exit"]["stdout_bytes"] == len(bundle.read("stdout")) > 1000
    assert lengths == sorted(set(lengths))
    assert 2 <= len(lengths) <= 150


def test_supervisor_stops_reading_at_the_spools_bound(node: Node, slot: Peer) -> None:
    bundle = node.bundle(["yes"], spool_bound_bytes=MIB)
    slot.send(op="spawn", bundle=str(bundle.path))

    _wait_for_length(slot, bundle, MIB)
    slot.send(op="acked", bundle=str(bundle.path), stdout=MIB // 2, stderr=0)
    _wait_for_length(slot, bundle, MIB + MIB // 2)
    slot.send(op="acked", bundle=str(bundle.path), stdout=1 << 60, stderr=1 << 60)
    _wait_for_length(slot, bundle, 2 * MIB + MIB // 2)
    slot.send(op="stop", bundle=str(bundle.path), by="cancel", grace_s=30)
    record = slot.finish(bundle)

    assert record["stopped_by"] == "cancel"
    assert set(bundle.read("stdout")) == set(b"y\n")
    assert 2.5 * MIB <= record["stdout_bytes"] == len(bundle.read("stdout")) <= 4 * MIB
    assert len(bundle.merged()) == record["stdout_bytes"]


def _wait_for_length(slot: Peer, bundle: Bundle, length: int) -> None:
    """Until the spool has exactly this length (a bound), as the events say."""
    event = {"stdout": 0}
    while event["stdout"] < length:
        event = slot.wait_for("output", bundle=str(bundle.path))
    assert event["stdout"] == length == len(bundle.read("stdout"))


def test_supervisor_waits_for_a_full_disk_and_loses_nothing(node: Node, slot: Peer) -> None:
    """A file size limit on the supervisor stands for the full disk: writes fail the same way."""
    script = "import os\nfor i in range(2000): os.write(1, b'%06d\\n' % i * 20)"
    bundle = node.bundle(["sh", "-c", 'read _ < go; exec "$@"', "sh", *python(script)])
    (bundle.path / "work" / "go").symlink_to("../go.fifo")
    _make_fifo(bundle)
    slot.send(op="spawn", bundle=str(bundle.path))
    slot.wait_for("started")
    pid = node.slot_pid()
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)

    resource.prlimit(pid, resource.RLIMIT_FSIZE, (100_000, hard))
    (bundle.path / "go.fifo").write_text("\n")
    while slot.wait_for("output")["stdout"] < 100_000:
        pass
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
    record = slot.finish(bundle)

    assert record["exit_code"] == 0
    assert bundle.read("stdout") == b"".join(b"%06d\n" % i * 20 for i in range(2000))
    assert bundle.merged() == bundle.read("stdout")


def test_supervisor_keeps_an_ended_run_until_the_disk_takes_its_record(
    node: Node, slot: Peer
) -> None:
    bundle = node.bundle(["sh", "-c", "read _ < ../go.fifo; echo done; exit 9"])
    _make_fifo(bundle)
    slot.send(op="spawn", bundle=str(bundle.path))
    slot.wait_for("started")
    pid = node.slot_pid()
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)

    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
    (bundle.path / "go.fifo").write_text("\n")
    slot.socket.settimeout(0.3)
    with pytest.raises(TimeoutError):
        slot.finish(bundle)
    assert bundle.read("exit.json") == b""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
    slot.socket.settimeout(DEADLINE_S)

    assert slot.finish(bundle)["exit_code"] == 9
    assert bundle.read("stdout") == bundle.merged() == b"done\n"


def _make_fifo(bundle: Bundle) -> None:
    import os

    os.mkfifo(bundle.path / "go.fifo")
