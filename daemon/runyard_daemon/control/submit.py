"""Submitting a run: checked, durable and, where a node has room, granted in one commit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from runyard_contract.errors import BlobMissing, QueueFull, SpecInvalid, StateNotAllowed
from runyard_contract.ids import RUN_ID_RANDOM_BYTES, make_run_id
from runyard_contract.limits import MAX_DURATION_S
from runyard_contract.paths import split_rel
from runyard_contract.record import record, replace
from runyard_contract.states import RunState
from runyard_daemon.content import Content
from runyard_daemon.control import catalog, spec
from runyard_daemon.control.callers import caller
from runyard_daemon.control.environment_rules import Violation
from runyard_daemon.control.grants import Booked, Granted, Grants, NewRun
from runyard_daemon.control.hello import LOCAL
from runyard_daemon.control.live import Live
from runyard_daemon.control.snapshots import find_file, nearest_file
from runyard_daemon.control.spec import RunWish
from runyard_daemon.core.oversized import oversized
from runyard_daemon.core.types import NO_RESOURCES, QueuedRun
from runyard_daemon.store import Connection, experiments, requests, snapshots
from runyard_daemon.store.environments import EnvironmentRecord
from runyard_daemon.store.requests import RequestKey
from runyard_daemon.store.runs import RunRecord, SpecRecord

_CHECKED_SCRIPTS = 256

RandomBytes = Callable[[int], bytes]
Complete = Callable[[EnvironmentRecord | None], SpecRecord]
"""From the stored environment that a specification names to the specification as it is kept."""
Encode = Callable[[Sequence[tuple[RunRecord, SpecRecord]]], bytes]
"""From new runs to the answer of their submit, which a repeat gets again."""


@record
class Request:
    """What makes a repeated call known."""

    rpc: str
    request_id: str
    """Empty: the caller does without the promise of a repeat."""
    body_hash: str


@record
class Submission:
    """A run to submit, as it came."""

    workspace: str
    experiment: str
    wish: RunWish
    complete: Complete
    tags: Mapping[str, str]
    properties: Mapping[str, str]
    display_name: str
    client_snapshot_s: float
    field: str = ""
    """What violations are prefixed with: its place in a batch."""


@record
class Resolved:
    """Names in a submission, looked up."""

    workspace: str
    experiment: str
    """As first spelled."""
    compute: str
    environment: EnvironmentRecord | None


class Submitter:
    """Takes submissions.

    Args:
        queued_runs_max: how many runs may wait.
        has_local: whether the daemon's own machine is a target.
    """

    def __init__(
        self,
        live: Live,
        content: Content,
        grants: Grants,
        random_bytes: RandomBytes,
        queued_runs_max: int,
        has_local: bool,
    ) -> None:
        self._live = live
        self._content = content
        self._grants = grants
        self._random_bytes = random_bytes
        self._queued_runs_max = queued_runs_max
        self._has_local = has_local
        self._spelled: dict[tuple[str, str], str] = {}
        self._scripts_seen: dict[tuple[str, str], None] = {}

    async def submit(self, asked: Sequence[Submission], request: Request, encode: Encode) -> bytes:
        """Submits runs and gives the serialized answer, after all of it is durable in one commit.

        They are of one experiment. All or none. Raises SpecInvalid, QueueFull, DiskFull, NotFound
        for target or environment, BlobMissing for a snapshot that was not declared,
        RequestIdReused, RequestIdInvalid.
        """
        _refuse_invalid(asked)
        key = None
        if request.request_id:
            key = requests.request_key(caller().name, request.rpc, request.request_id)

        def look(conn: Connection) -> bytes | list[Resolved]:
            known = requests.find(conn, key, request.body_hash) if key is not None else None
            return self._resolve_all(conn, asked) if known is None else known

        resolved = self._live.store.peek(look)
        if isinstance(resolved, bytes):
            return resolved
        self._refuse_oversized(asked, resolved)
        self._live.disk.check()
        for submission in asked:
            await self._check_script(submission)
        for snapshot in {submission.wish.snapshot for submission in asked}:
            await self._grants.manifests(snapshot)
        new = [
            self._new_run(submission, found)
            for submission, found in zip(asked, resolved, strict=True)
        ]
        commit = self._commit(new, request, key, encode)
        return await self._live.background.whole(commit, "submit")

    def _resolve_all(self, conn: Connection, asked: Sequence[Submission]) -> list[Resolved]:
        """Looks up all that submissions name; those of a batch mostly name the same."""
        known: dict[tuple[object, ...], Resolved] = {}
        found = []
        for submission in asked:
            wish = submission.wish
            names = (
                submission.workspace,
                submission.experiment,
                wish.compute,
                wish.environment_name,
                wish.environment_version,
                wish.snapshot,
            )
            if names not in known:
                known[names] = self._resolve(conn, submission)
            found.append(known[names])
        return found

    def _resolve(self, conn: Connection, asked: Submission) -> Resolved:
        """Looks up all that the submission names."""
        workspace = catalog.workspace(conn, asked.workspace).name
        wish = asked.wish
        compute = catalog.compute(conn, workspace, wish.compute).name
        self._refuse_own_machine(compute)
        environment = None
        if wish.environment_name:
            environment = catalog.environment(
                conn, workspace, wish.environment_name, wish.environment_version
            )
        _refuse_undeclared(conn, workspace, wish.snapshot)
        spelling = (workspace, asked.experiment.casefold())
        if spelling not in self._spelled:
            known = experiments.get(conn, workspace, asked.experiment)
            # Decided here, before the first submit is durable: two at once agree on one spelling.
            self._spelled[spelling] = known.name if known else asked.experiment
        return Resolved(workspace, self._spelled[spelling], compute, environment)

    def _refuse_own_machine(self, compute: str) -> None:
        """Raises StateNotAllowed for `local` where the daemon runs nothing on its machine."""
        if compute == LOCAL and not self._has_local:
            raise StateNotAllowed(
                "this daemon serves others, so it runs nothing on its own machine (target local)",
                hint="name a target with -t; `runyard compute list` has them, and `runyard daemon "
                "token create --role agent --compute NAME` lets machines join one",
                target=compute,
            )

    def _refuse_oversized(self, asked: Sequence[Submission], resolved: Sequence[Resolved]) -> None:
        """Raises SpecInvalid for limits that no node of their target could keep."""
        found = [
            (f"{submission.field}spec.limits.{name}", what)
            for submission, names in zip(asked, resolved, strict=True)
            if submission.wish.limits != NO_RESOURCES
            for name, what in oversized(
                submission.wish.limits, self._live.board.nodes_of(names.compute)
            )
        ]
        if found:
            raise SpecInvalid(
                violations=found,
                hint="give smaller limits or none (`--memory-limit`, `--cpu-limit`), or submit to "
                "a target with a larger node",
            )

    def _refuse_when_full(self, count: int) -> None:
        """Raises QueueFull where so many more runs may not wait."""
        limit = self._queued_runs_max
        if len(self._live.waiting) + count > limit:
            raise QueueFull(
                f"{len(self._live.waiting):,} runs wait; the daemon keeps no more than {limit:,}",
                hint="wait until some have started, or cancel some with `runyard runs cancel`, "
                "then submit again",
                limit=str(limit),
            )

    async def _check_script(self, asked: Submission) -> None:
        """Raises SpecInvalid where the snapshot does not hold the script."""
        wish = asked.wish
        if wish.script is None or (wish.snapshot, wish.script) in self._scripts_seen:
            return
        script = wish.script
        parts = split_rel(script)
        if not await self._content.run(lambda store: find_file(wish.snapshot, parts, store)):
            meant = await self._content.run(
                lambda store: nearest_file(wish.snapshot, script, store)
            )
            described = f'the snapshot holds no file "{script}"'
            if meant:
                described += f'; did you mean "{meant}"?'
            raise SpecInvalid(
                violations=[(f"{asked.field}spec.script.path", described)],
                hint="name a file of the source directory that no ignore rule keeps out",
                path=script,
                **({"nearest": meant} if meant else {}),
            )
        while len(self._scripts_seen) >= _CHECKED_SCRIPTS:
            self._scripts_seen.pop(next(iter(self._scripts_seen)))
        self._scripts_seen[(wish.snapshot, script)] = None

    async def _commit(
        self, new: Sequence[NewRun], request: Request, key: RequestKey | None, encode: Encode
    ) -> bytes:
        """Books what can start, writes everything in one transaction, sends the leases."""
        live = self._live
        self._refuse_when_full(len(new))
        for run, _ in new:
            live.board.add_run(
                QueuedRun(run.run_id, run.compute, run.priority, run.sequence, run.resources)
            )
            live.waiting.add(run.run_id)
        decided = self._grants.decide()

        def write(conn: Connection) -> tuple[bytes, list[Granted | None] | None]:
            if key is not None:
                known = requests.find(conn, key, request.body_hash)
                if known is not None:
                    return known, None
            # Once more: a collection of garbage forgets snapshots that no run uses.
            for workspace, snapshot in {(run.workspace, run.snapshot) for run, _ in new}:
                _refuse_undeclared(conn, workspace, snapshot)
            stored, granted = self._grants.insert(conn, _admitted(conn, new), decided)
            specs = [spec for _, spec in new]
            answer = encode(list(zip(stored, specs, strict=True)))
            if key is not None:
                requests.keep(conn, key, request.body_hash, answer, live.now_us())
            return answer, granted

        try:
            answer, granted = await live.store.write(write)
        except BaseException:
            self._forget(new, decided)
            raise
        if granted is None:
            self._forget(new, decided)
            return answer
        live.note_activity()
        for run, _ in new:
            live.changed(run.run_id)
        await self._grants.settle(decided, granted)
        return answer

    def _forget(self, new: Sequence[NewRun], decided: tuple[Booked, ...]) -> None:
        self._grants.undo(decided)
        for run, _ in new:
            self._live.board.remove_run(run.run_id)
            self._live.waiting.discard(run.run_id)

    def _new_run(self, asked: Submission, resolved: Resolved) -> NewRun:
        now_us = self._live.now_us()
        run_id = make_run_id(
            resolved.experiment, now_us // 1_000_000, self._random_bytes(RUN_ID_RANDOM_BYTES)
        )
        run = RunRecord(
            run_id=run_id,
            workspace=resolved.workspace,
            experiment=resolved.experiment,
            number=0,
            sequence=self._live.take_sequence(),
            state=RunState.QUEUED,
            compute=resolved.compute,
            create_time_us=now_us,
            priority=asked.wish.priority,
            resources=asked.wish.resources,
            client_snapshot_us=round(asked.client_snapshot_s * 1e6),
            submitted_by=caller().name,
            snapshot=asked.wish.snapshot,
            display_name=asked.display_name or run_id,
            tags=dict(asked.tags),
            properties=dict(asked.properties),
        )
        return run, asked.complete(resolved.environment)


def _admitted(conn: Connection, new: Sequence[NewRun]) -> list[NewRun]:
    """New runs, all of one experiment, with their numbers."""
    newest, _ = new[-1]
    admitted = experiments.admit(
        conn,
        newest.workspace,
        newest.experiment,
        newest.sequence,
        newest.create_time_us,
        len(new),
    )
    first = admitted.last_number - len(new) + 1
    return [
        (replace(run, experiment=admitted.name, number=first + n), kept)
        for n, (run, kept) in enumerate(new)
    ]


def _refuse_invalid(submissions: Sequence[Submission]) -> None:
    found = [
        (asked.field + name, what) for asked in submissions for name, what in _violations(asked)
    ]
    if found:
        raise SpecInvalid(violations=found, hint="correct the fields named, then submit again")


def _violations(asked: Submission) -> list[Violation]:
    found = list(spec.violations(asked.wish))
    found += spec.label_violations("tags", asked.tags)
    found += spec.label_violations("properties", asked.properties)
    found += spec.display_name_violations(asked.display_name)
    if not 0 <= asked.client_snapshot_s <= MAX_DURATION_S:
        found.append(("snapshot_duration", f"{asked.client_snapshot_s:g} s is out of range"))
    return found


def _refuse_undeclared(conn: Connection, workspace: str, snapshot: str) -> None:
    """Raises BlobMissing for a snapshot that is not on record."""
    if snapshot and snapshots.get(conn, workspace, snapshot) is None:
        raise BlobMissing(
            f"the snapshot {snapshot} is not declared",
            hint="upload what FindMissingBlobs names, call CreateSnapshot, then submit again",
            missing="1",
            first=snapshot,
        )
