"""What agents and the daemon say to each other.

Everything from an agent is bounded here: a node may be hostile, and must harm no run but its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from runyard_contract.digest import is_digest
from runyard_contract.errors import NameInvalid, SpecInvalid
from runyard_contract.ids import RunName
from runyard_contract.limits import BUILT_ENVIRONMENTS_MAX
from runyard_contract.paths import shown
from runyard_daemon.control import orders
from runyard_daemon.control.orders import RunRef
from runyard_daemon.control.pruning import BuiltPruned
from runyard_daemon.control.reported import (
    AttemptReport,
    EnvironmentBuild,
    Hello,
    ReportedPiece,
)
from runyard_daemon.core.attempts import AttemptPhase
from runyard_daemon.core.end import EndReason
from runyard_daemon.core.phases import Phase
from runyard_daemon.core.types import AttemptRef, Resources
from runyard_daemon.logs.layout import LogFile
from runyard_daemon.rpc.convert.nouns import to_lock
from runyard_daemon.rpc.convert.specs import to_resources
from runyard_daemon.rpc.convert.times import (
    from_duration,
    from_timestamp,
    to_duration,
)
from runyard_daemon.store.details import (
    AttemptEndRecord,
    PhaseRecord,
    WorkdirFile,
    WorkdirRecord,
)
from runyardpb.agent.v1 import agent_pb2 as pb
from runyardpb.v1 import environments_pb2, runs_pb2

TEXT_CHARS = 2000
EXECUTION = ("limits", "output", "container", "lock", "lock_before")
"""What agents tell of how a run is executed."""
LISTED_MAX = 50
ATTEMPTS_MAX = 10_000
AHEAD_MAX = 256
PIECES_BYTES = 64 << 10
SLOTS_MAX = 4096
_AMOUNT_MAX = 1 << 50

_PHASES = {
    pb.AttemptReport.PHASE_ACCEPTED: AttemptPhase.ACCEPTED,
    pb.AttemptReport.PHASE_PREPARING: AttemptPhase.PREPARING,
    pb.AttemptReport.PHASE_RUNNING: AttemptPhase.RUNNING,
    pb.AttemptReport.PHASE_EXITED: AttemptPhase.EXITED,
    pb.AttemptReport.PHASE_ENDED: AttemptPhase.ENDED,
}
_FILES = {
    pb.AppendFilesRequest.FILE_STDOUT: LogFile.STDOUT,
    pb.AppendFilesRequest.FILE_STDERR: LogFile.STDERR,
    pb.AppendFilesRequest.FILE_ORDER: LogFile.ORDER,
    pb.AppendFilesRequest.FILE_ENVIRONMENT: LogFile.ENVIRONMENT,
    pb.AppendFilesRequest.FILE_METRICS: LogFile.METRICS,
    pb.AppendFilesRequest.FILE_TAGS: LogFile.TAGS,
}
_PHASE_NAMES = frozenset(str(phase) for phase in Phase)

ResolveEnvironment = Callable[[runs_pb2.RunSpec, bytes], environments_pb2.EnvironmentSpec | None]


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_CHARS else text[: TEXT_CHARS - 1] + "…"


def _amount(value: int) -> int:
    """An amount that a node may have or use."""
    return min(max(0, value), _AMOUNT_MAX)


def _texts(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(_cut(text) for text, _ in zip(texts, range(LISTED_MAX), strict=False))


def to_target(ref: pb.AttemptRef) -> RunRef:
    """The attempt that an agent names. Raises SpecInvalid for what can't be one."""
    try:
        name = RunName.parse(ref.run)
    except NameInvalid as error:
        raise SpecInvalid(violations=[("ref.run", error.message)]) from None
    if ref.attempt < 1 or ref.epoch < 1:
        raise SpecInvalid(violations=[("ref.attempt", "attempt and epoch begin with 1")])
    return RunRef(ref.run, AttemptRef(name.run, ref.attempt, ref.epoch))


def from_target(target: RunRef) -> pb.AttemptRef:
    """The key that fences every write of an attempt."""
    return pb.AttemptRef(run=target.name, attempt=target.ref.attempt, epoch=target.ref.epoch)


def to_log_file(file: int) -> LogFile:
    """Which growing file. Raises SpecInvalid for an unknown one."""
    found = _FILES.get(file)  # type: ignore[call-overload]  # any number may come
    if found is None:
        raise SpecInvalid(violations=[("file", f"{file} is no file that grows")])
    return found  # type: ignore[no-any-return]  # as above


def to_report(report: pb.AttemptReport) -> AttemptReport:
    """What an agent knows of an attempt. Raises SpecInvalid for what can't be."""
    phase = _PHASES.get(report.phase)
    if phase is None:
        raise SpecInvalid(violations=[("phase", f"{report.phase} is no phase of an attempt")])
    return AttemptReport(
        target=to_target(report.ref),
        phase=phase,
        status_message=_cut(report.status_message),
        end=_to_end(report.end) if report.HasField("end") else None,
        phases=_to_phases(report.phases),
        start_time_us=(
            from_timestamp(report.start_time) if report.HasField("start_time") else None
        ),
        warnings=_texts(report.warnings),
        execution=_to_execution(report.execution),
        workdir=_to_workdir(report.workdir) if report.HasField("workdir") else None,
        lengths={
            _FILES[length.file].value: max(0, length.length_bytes)
            for length in report.lengths
            if length.file in _FILES
        },
        pieces=_to_pieces(report.pieces),
    )


def _to_execution(execution: Mapping[str, str]) -> dict[str, str]:
    """How an attempt is executed, as far as the contract names it."""
    return {name: _cut(execution[name]) for name in EXECUTION if name in execution}


def _to_pieces(pieces: Sequence[pb.FilePiece]) -> tuple[ReportedPiece, ...]:
    """The bytes that came with a report. Raises SpecInvalid where they are too many."""
    size_bytes = sum(len(piece.data) for piece in pieces)
    if len(pieces) > LISTED_MAX or size_bytes > PIECES_BYTES:
        raise SpecInvalid(
            violations=[
                ("pieces", f"{len(pieces)} with {size_bytes} bytes are over {PIECES_BYTES} bytes")
            ]
        )
    return tuple(
        ReportedPiece(to_log_file(piece.file), piece.offset_bytes, piece.data) for piece in pieces
    )


def _to_phases(spans: Iterable[runs_pb2.PhaseSpan]) -> tuple[PhaseRecord, ...]:
    known = {span.phase: span for span in spans if span.phase in _PHASE_NAMES}
    return tuple(
        PhaseRecord(
            span.phase,
            from_timestamp(span.start_time),
            max(0, round(from_duration(span.duration) * 1e6)),
        )
        for span in known.values()
    )


def _to_end(end: pb.AttemptEnd) -> AttemptEndRecord:
    word = pb.AttemptEnd.Reason.Name(end.reason) if end.reason in _REASONS else ""
    reason = word.removeprefix("REASON_")
    is_known = reason in EndReason.__members__
    stopped_by = _STOPPED_BY.get(end.stopped_by, "")
    return AttemptEndRecord(
        reason=reason if is_known else EndReason.AGENT_FAILED.name,
        exit_code=end.exit_code if reason == EndReason.EXITED.name else None,
        signal=end.signal if reason == EndReason.SIGNALED.name else None,
        stopped_by=stopped_by,
        message=_cut(end.message),
        advice=_cut(end.advice),
        metadata={
            _cut(name): _cut(value)
            for (name, value), _ in zip(end.metadata.items(), range(LISTED_MAX), strict=False)
        },
        end_time_us=from_timestamp(end.end_time) if end.HasField("end_time") else None,
        duration_us=round(from_duration(end.duration) * 1e6),
        cpu_time_us=round(from_duration(end.cpu_time) * 1e6),
        peak_memory_bytes=_amount(end.peak_memory_bytes),
        working_directory=end.working_directory[:4096],
        out_of_memory=_OUT_OF_MEMORY.get(end.out_of_memory, ""),
        is_disk_full=end.is_disk_full,
    )


_REASONS = frozenset(pb.AttemptEnd.Reason.values())
_STOPPED_BY = {
    pb.AttemptEnd.STOPPED_BY_CANCEL: "CANCEL",
    pb.AttemptEnd.STOPPED_BY_TIMEOUT: "TIMEOUT",
    pb.AttemptEnd.STOPPED_BY_SUPERVISOR_LOST: "SUPERVISOR_LOST",
}


_OUT_OF_MEMORY = {
    pb.AttemptEnd.OUT_OF_MEMORY_LIMIT: "limit",
    pb.AttemptEnd.OUT_OF_MEMORY_HOST: "host",
}


def _to_workdir(workdir: runs_pb2.WorkdirSummary) -> WorkdirRecord:
    return WorkdirRecord(
        files=tuple(
            WorkdirFile(_cut(file.path), max(0, file.size_bytes), file.is_executable)
            for file in workdir.files[:20]
        ),
        file_count=max(0, workdir.file_count),
        expire_time_us=from_timestamp(workdir.expire_time),
        size_bytes=_amount(workdir.size_bytes),
    )


def to_hello(hello: pb.Hello) -> Hello:
    """Who an agent is. Raises SpecInvalid for what no agent says."""
    node_id = hello.node_id
    if not 0 < len(node_id) <= 255 or not node_id.isprintable() or "/" in node_id:
        raise SpecInvalid(violations=[("hello.node_id", f"{shown(node_id[:80])!r} is no node id")])
    if len(hello.attempts) > ATTEMPTS_MAX:
        raise SpecInvalid(
            violations=[("hello.attempts", f"{len(hello.attempts)} are over {ATTEMPTS_MAX}")]
        )
    capacity = to_resources(hello.capacity)
    return Hello(
        node_id=node_id,
        hostname=shown(hello.hostname[:255]) or node_id,
        agent_version=_cut(hello.agent_version),
        boot_id=_cut(hello.boot_id),
        machine_id=_cut(hello.machine_id),
        compute=hello.compute_target or "local",
        slots=_within(hello.slots, SLOTS_MAX),
        capacity=Resources(
            _within(capacity.cpu_millis, _AMOUNT_MAX),
            _within(capacity.memory_bytes, _AMOUNT_MAX),
            _within(capacity.gpus, _AMOUNT_MAX),
        ),
        platform=_cut(hello.platform),
        job_account=_cut(hello.job_account),
        gpu_names=_texts(hello.gpu_names),
        attempts=tuple(to_report(report) for report in hello.attempts),
        pid=hello.pid,
        max_ahead=_within(hello.max_leases_ahead, AHEAD_MAX),
    )


def to_builds(message: pb.BuiltEnvironments) -> dict[str, list[EnvironmentBuild]]:
    """What is built on a node, by the hash of its lock. Raises SpecInvalid for too many."""
    count = len(message.builds)
    if count > BUILT_ENVIRONMENTS_MAX:
        raise SpecInvalid(
            violations=[("environments", f"{count} builds are over {BUILT_ENVIRONMENTS_MAX}")]
        )
    of_lock: dict[str, dict[str, EnvironmentBuild]] = {}
    for message_of_one in message.builds:
        build = _to_build(message_of_one)
        if is_digest(build.lock_hash) and is_digest(build.key):
            of_lock.setdefault(build.lock_hash, {})[build.key] = build
    return {lock_hash: [*builds.values()] for lock_hash, builds in of_lock.items()}


def to_pruned(message: pb.BuiltPruned) -> BuiltPruned:
    """What was removed on a node, as far as it makes sense."""
    builds = zip(message.builds, range(BUILT_ENVIRONMENTS_MAX), strict=False)
    return BuiltPruned(
        builds=tuple(_to_build(build) for build, _ in builds if is_digest(build.lock_hash)),
        left_bytes=_amount(message.left_bytes),
        left_count=_amount(message.left_count),
        in_use_count=_amount(message.in_use_count),
        error=_cut(message.error),
    )


def _to_build(build: environments_pb2.EnvironmentBuild) -> EnvironmentBuild:
    return EnvironmentBuild(
        lock_hash=build.lock_hash,
        key=build.key or build.lock_hash,
        size_bytes=_amount(build.size_bytes),
        create_time_us=from_timestamp(build.create_time),
        last_use_time_us=from_timestamp(build.last_use_time),
        hits=_amount(build.hits),
    )


def _within(amount: int, limit: int) -> int:
    return min(max(0, amount), limit)


def to_message(
    order: orders.Cancel | orders.Collect | orders.Prune | orders.Goodbye,
) -> pb.SessionResponse:
    """An order that has a message of its own."""
    match order:
        case orders.Cancel(target, grace_s, is_superseded):
            return pb.SessionResponse(
                cancel=pb.CancelAttempt(
                    ref=from_target(target),
                    grace=to_duration(grace_s),
                    is_superseded=is_superseded,
                )
            )
        case orders.Collect(target, request_id):
            return pb.SessionResponse(
                collect_workdir=pb.CollectAttemptWorkdir(
                    ref=from_target(target), request_id=request_id
                )
            )
        case orders.Prune(request_id, older_than_s, max_size_bytes, is_dry_run):
            prune = pb.PruneBuilt(
                request_id=request_id,
                older_than=to_duration(older_than_s) if older_than_s is not None else None,
                max_size_bytes=max_size_bytes,
                is_dry_run=is_dry_run,
            )
            return pb.SessionResponse(prune_built=prune)
        case orders.Goodbye(is_stop):
            return pb.SessionResponse(goodbye=pb.Goodbye(is_stop=is_stop))


def gather(
    message: pb.SessionResponse, order: orders.Lease | orders.Forget, resolve: ResolveEnvironment
) -> int:
    """Adds an order to a message that has several; gives its size in bytes."""
    if isinstance(order, orders.Lease):
        lease = _to_lease(order, resolve)
        message.leases.append(lease)
        return lease.ByteSize()
    forget = message.forgets.add(
        ref=from_target(order.target), keep_workdir=to_duration(order.keep_s)
    )
    return forget.ByteSize()


def _to_lease(lease: orders.Lease, resolve: ResolveEnvironment) -> pb.Lease:
    spec = runs_pb2.RunSpec.FromString(lease.spec)
    return pb.Lease(
        ref=from_target(lease.target),
        spec=spec,
        manifests=[
            pb.InlineBlob(digest=bytes.fromhex(digest), data=data)
            for digest, data in lease.manifests
        ],
        locks=[to_lock(lock) for lock in lease.locks],
        environment=resolve(spec, lease.environment),
        is_ahead=lease.is_ahead,
    )
