"""What the daemon is busy with while it is killed: uploads, submits, logs, metrics, outputs, ends.

Each run's log, metrics, output and exit code follow from its number, so that all of it can be
checked afterwards.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from runyard_contract.content.store import ContentStore
from runyard_contract.digest import digest_bytes
from runyard_contract.errors import RunyardError
from runyardpb.v1 import (
    logs_pb2,
    logs_pb2_grpc,
    metrics_pb2,
    metrics_pb2_grpc,
    runs_pb2,
    runs_pb2_grpc,
    snapshots_pb2,
    snapshots_pb2_grpc,
)
from support.served import WORKSPACE, create_request, error_of, packed, reason_of, tree

LIMIT_S = 90.0
RETRY_S = 0.02
GONE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})
"""No daemon, or one that ends and cancels what it did not begin."""
BLOCKS = 4
LINES = 10
EXPERIMENT = f"{WORKSPACE}/experiments/demo"
FINAL = frozenset(
    {runs_pb2.Run.STATE_COMPLETED, runs_pb2.Run.STATE_FAILED, runs_pb2.Run.STATE_CANCELED}
)
# Prints blocks of lines to both streams, a point of a metric after each, and makes one output.
SCRIPT = rb"""
block=0
while [ $block -lt $2 ]; do
  line=0
  while [ $line -lt $3 ]; do
    echo "out $1 $block $line"
    echo "err $1 $block $line" >&2
    line=$((line + 1))
  done
  printf '{"t":1.5,"k":"s","n":"loss","v":%d,"i":%d}\n' "$1" $block \
    >> "$RUNYARD_JOB_DIR/metrics.jsonl"
  sleep $4
  block=$((block + 1))
done
cat data.bin > "$RUNYARD_OUTPUT_DIR/model.bin"
exit $5
"""


@dataclass(frozen=True, slots=True)
class Work:
    """One run, before it is submitted."""

    number: int

    @property
    def exit_code(self) -> int:
        return self.number % 5

    @property
    def data(self) -> bytes:
        """A file of its source folder, which it gives back as its output."""
        return f"data {self.number}\n".encode() * 500

    @property
    def argv(self) -> list[bytes]:
        pause_s = 0.1 if self.number % 3 == 0 else 0
        values = (self.number, BLOCKS, LINES, pause_s, self.exit_code)
        return [b"/bin/sh", b"train.sh", *(str(value).encode() for value in values)]

    def printed(self, stream: str) -> bytes:
        """All of its log."""
        return b"".join(
            f"{stream} {self.number} {block} {line}\n".encode()
            for block in range(BLOCKS)
            for line in range(LINES)
        )

    @property
    def points(self) -> list[tuple[int, float]]:
        """Step and value of its metric."""
        return [(block, float(self.number)) for block in range(BLOCKS)]


class Client:
    """Asks the daemon on a home, through its kills and restarts, until it is answered.

    Args:
        socket: where the daemon listens, or will.
        refusals: reasons that may come because of what is done to the daemon; asked again.
    """

    def __init__(self, socket: Path, refusals: Collection[str] = ()) -> None:
        self.refusals = frozenset(refusals)
        self.refused: list[RunyardError] = []
        """What came of them, for a look at the words."""
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 20),
            ("grpc.min_reconnect_backoff_ms", 20),
            ("grpc.max_reconnect_backoff_ms", 60),
        ]
        self.channel = grpc.insecure_channel(f"unix:{socket}", options=options)
        self.runs: Any = runs_pb2_grpc.RunServiceStub(self.channel)
        self.snapshots: Any = snapshots_pb2_grpc.SnapshotServiceStub(self.channel)
        self.logs: Any = logs_pb2_grpc.LogServiceStub(self.channel)
        self.metrics: Any = metrics_pb2_grpc.MetricServiceStub(self.channel)

    def close(self) -> None:
        self.channel.close()

    def ask(self, call: Any, request: Any) -> Any:
        """One answer, however often the daemon dies meanwhile."""
        return self._until_answered(lambda: call(request, timeout=LIMIT_S))

    def read(self, call: Any, request: Any) -> list[Any]:
        """All messages of a stream, from its start again where it is cut off."""
        return self._until_answered(lambda: list(call(request, timeout=LIMIT_S)))  # type: ignore[no-any-return]

    def _until_answered(self, attempt: Any) -> Any:
        deadline = time.monotonic() + LIMIT_S
        while True:
            try:
                return attempt()
            except grpc.RpcError as failed:
                self._forgive(failed, deadline)
            time.sleep(RETRY_S)

    def _forgive(self, failed: Any, deadline: float) -> None:
        """Raises AssertionError unless a daemon that is dead, or was broken on purpose, explains
        this error."""
        error = error_of(failed)
        reason = reason_of(error)
        is_expected = reason in self.refusals
        if is_expected:
            self.refused.append(error)
        is_dead = failed.code() in GONE
        assert is_expected or is_dead, f"{failed.code()} {reason}: {failed.details()}"
        assert time.monotonic() < deadline, f"no answer in {LIMIT_S} s: {failed.details()}"

    def submit(self, work: Work) -> str:
        """Uploads a source folder and submits a run of it; returns its name once acknowledged."""
        root, blobs = tree({"train.sh": SCRIPT, "data.bin": work.data})
        messages = [snapshots_pb2.UploadBlobsRequest(blobs=[packed(blob)]) for blob in blobs]
        declare = snapshots_pb2.CreateSnapshotRequest(
            parent=WORKSPACE, root_digest=bytes.fromhex(root)
        )
        self._until_answered(lambda: self.snapshots.UploadBlobs(iter(messages), timeout=LIMIT_S))
        snapshot = self.ask(self.snapshots.CreateSnapshot, declare).snapshot.name
        spec = runs_pb2.RunSpec(command=runs_pb2.Command(argv=work.argv), snapshot=snapshot)
        request = create_request(spec=spec, request_id=str(uuid.uuid4()))
        return str(self.ask(self.runs.CreateRun, request).run.name)

    def run(self, name: str) -> runs_pb2.Run:
        return self.ask(self.runs.GetRun, runs_pb2.GetRunRequest(name=name)).run

    def names(self) -> list[str]:
        """Every run that the daemon knows."""
        request = runs_pb2.ListRunsRequest(parent=f"{WORKSPACE}/experiments/-", page_size=1000)
        return [run.name for run in self.ask(self.runs.ListRuns, request).runs]

    def wait_final(self, names: Iterable[str], limit_s: float = LIMIT_S) -> None:
        """Returns when all of these runs are over."""
        deadline = time.monotonic() + limit_s
        for name in names:
            while (run := self.run(name)).state not in FINAL:
                assert time.monotonic() < deadline, f"{name} does not end: {run}"
                time.sleep(RETRY_S)

    def check_whole(self, name: str, work: Work) -> None:
        """A finished run has its exit code, one attempt, and its whole log, metrics and output."""
        run = self.run(name)
        state = runs_pb2.Run.STATE_FAILED if work.exit_code else runs_pb2.Run.STATE_COMPLETED
        assert (run.state, run.end.exit_code, run.attempt) == (state, work.exit_code, 1), run
        for source, stream in (
            (logs_pb2.LOG_SOURCE_STDOUT, "out"),
            (logs_pb2.LOG_SOURCE_STDERR, "err"),
        ):
            assert self.printed(name, source) == work.printed(stream), (name, stream)
        request = metrics_pb2.ReadMetricPointsRequest(parent=name, metrics=["loss"])
        points = [
            (point.step, point.scalar.number or float(point.scalar.integer))
            for message in self.read(self.metrics.ReadMetricPoints, request)
            for point in message.points
        ]
        assert points == work.points, (name, points)
        output = runs_pb2.ReadRunFileRequest(name=name, path="outputs/model.bin")
        messages = self.read(self.runs.ReadRunFile, output)
        assert b"".join(message.data for message in messages) == work.data, name

    def printed(self, name: str, source: Any) -> bytes:
        """A run's log as it is stored."""
        request = logs_pb2.ReadLogRequest(name=name, source=source)
        answers = self.read(self.logs.ReadLog, request)
        return b"".join(answer.chunk.data for answer in answers)


def check_blobs(home: Path, works: Iterable[Work]) -> int:
    """Every blob on the disk has its digest, and what runs were made of is there; gives how many.

    The daemon of the home must not run.
    """
    root = home / "blobs"
    digests = {
        folder.name + blob.name
        for folder in root.iterdir()
        if len(folder.name) == 2
        for blob in folder.iterdir()
    }
    with ContentStore(root, read_only=True) as store:
        digests |= {blob.digest for blob in store.walk()}  # those in packs, too
        for digest in digests:
            store.read(digest)
        for work in works:
            assert store.read(digest_bytes(work.data)) == work.data
    return len(digests)
