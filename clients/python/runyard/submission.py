"""Submits a run: snapshot, git facts and specification, with as few messages as that takes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from runyard._convert import run_record
from runyard.caller_environment import caller_environment, current_environment
from runyard.git import GitLook
from runyard.home import client_folder
from runyard.interpreter import submitting_interpreter
from runyard.records import RunRecord
from runyard.request_id import new_request_id
from runyard.run_spec import Caller, run_spec, script_of
from runyard.script_run_config import ScriptRunConfig
from runyard.snapshot.source import Source, check_in_snapshot, find_source
from runyard.snapshot.take import LocalSnapshot, SnapshotStatistics
from runyard_contract.errors import BlobMissing, SnapshotNotFound, SpecInvalid
from runyard_contract.ids import ExperimentName, check_tag_key
from runyard_contract.limits import TAG_VALUE_BYTES, TAGS_MAX
from runyard_contract.value import value_class
from runyardpb.v1 import runs_pb2, runs_pb2_grpc

if TYPE_CHECKING:
    from runyard.channel import Connection


@value_class
class Submitted:
    """A run that was submitted.

    `statistics` says what its snapshot cost, `notices` what a person should know of it.
    """

    record: RunRecord
    source: str
    statistics: SnapshotStatistics
    notices: tuple[str, ...]


class Submission:
    """One run to submit. Everything that can be wrong on this side is found before a message goes.

    Args:
        config: what to run.
        source: where the script lies. Default: found as ScriptRunConfig says.
        caller: interpreter and variables. Default: this process's.
        git: a look at the source directory that was begun already. Default: begun with the scan.
    """

    def __init__(
        self,
        config: ScriptRunConfig,
        *,
        source: Source | None = None,
        caller: Caller | None = None,
        git: GitLook | None = None,
    ) -> None:
        self._config = config
        self._source = source or find_source(config.source_directory, script_of(config))
        self._caller = caller
        self._git = git

    @property
    def source(self) -> Source:
        """The source directory and the script in it."""
        return self._source

    def send(
        self,
        connection: Connection,
        experiment: ExperimentName,
        *,
        tags: Mapping[str, str] | None = None,
        properties: Mapping[str, str] | None = None,
        display_name: str = "",
    ) -> Submitted:
        """Submits the run and returns when it is durable. Raises RunyardError."""
        request = self.request(experiment, tags or {}, properties or {})
        request.display_name = display_name
        taken = TakenSource(self._source.directory, connection, experiment.workspace, self._git)
        self.complete(request, taken)
        taken.offer()
        request.request_id = new_request_id()
        try:
            run = _create(connection, request)
        except (BlobMissing, SnapshotNotFound):
            taken.upload()
            run = _create(connection, request)
        return Submitted(
            run_record(run), self._source.directory, taken.snapshot.statistics, taken.notices()
        )

    def request(
        self,
        experiment: ExperimentName,
        tags: Mapping[str, str],
        properties: Mapping[str, str],
    ) -> runs_pb2.CreateRunRequest:
        """The message for this run, but for its snapshot.

        Made before anything is read: a wrong number should not wait for a scan.
        """
        return runs_pb2.CreateRunRequest(
            parent=str(experiment),
            spec=self._spec(experiment.workspace, "0" * 64),
            tags=check_labels("tags", tags),
            properties=check_labels("properties", properties),
        )

    def complete(self, request: runs_pb2.CreateRunRequest, taken: TakenSource) -> None:
        """Names the snapshot and git's facts in a message. Raises SourceInvalid."""
        check_in_snapshot(
            self._source, taken.snapshot.files, taken.snapshot.holds(self._source.script)
        )
        request.spec.snapshot = taken.name
        for key, value in taken.git.properties().items():
            if key not in request.properties:
                request.properties[key] = value
        request.snapshot_duration.FromNanoseconds(round(taken.snapshot.statistics.duration_s * 1e9))

    def _spec(self, workspace: str, root_digest: str) -> runs_pb2.RunSpec:
        """The specification of the run, with this snapshot."""
        if self._caller is None:
            interpreter = os.fsencode(submitting_interpreter().path)
            self._caller = Caller(interpreter, caller_environment(current_environment()))
        name = _snapshot_name(workspace, root_digest)
        return run_spec(self._config, self._source.script, name, self._caller)


class TakenSource:
    """The snapshot of a source directory and what git says of the directory.

    Args:
        directory: to take.
        connection, workspace: where it is offered.
        look: at git, where one was begun already.

    Raises RunyardError: SourceInvalid, SnapshotTooLarge …
    """

    def __init__(
        self, directory: str, connection: Connection, workspace: str, look: GitLook | None = None
    ) -> None:
        self._connection = connection
        self._workspace = workspace
        with look or GitLook(directory) as git:
            home = connection.address.home
            folder = client_folder(home) if home is not None else None
            self.snapshot = LocalSnapshot(directory, folder)
        self.git = git.state

    @property
    def name(self) -> str:
        """The resource name of the snapshot."""
        return _snapshot_name(self._workspace, self.snapshot.root_digest)

    def offer(self) -> None:
        """Sends what the daemon lacks, unless it is known to have all."""
        if not self.snapshot.is_known_to(self._connection):
            self.upload()

    def upload(self) -> None:
        """Sends what the daemon lacks: another than last time, or one that lost it."""
        self.snapshot.upload(self._connection, self._workspace)

    def notices(self) -> tuple[str, ...]:
        """What a person should know of it."""
        return (*self.snapshot.notices(), *([self.git.note] if self.git.note else []))


def _snapshot_name(workspace: str, root_digest: str) -> str:
    """The resource name of a snapshot."""
    return f"workspaces/{workspace}/snapshots/{root_digest}"


def _create(connection: Connection, request: runs_pb2.CreateRunRequest) -> runs_pb2.Run:
    """Creates the run; a repeat has the same request id."""
    stub = runs_pb2_grpc.RunServiceStub
    return connection.unary(stub, lambda runs: runs.CreateRun, request).run


def check_labels(what: str, labels: Mapping[str, object]) -> dict[str, str]:
    """Tags or properties within their limits, as text; None is the empty text."""
    checked: dict[str, str] = {}
    for key, value in labels.items():
        text = "" if value is None else str(value)
        if len(text.encode("utf-8", "surrogatepass")) > TAG_VALUE_BYTES:
            raise SpecInvalid(
                f"{what}[{key!r}] is longer than {TAG_VALUE_BYTES} bytes",
                hint="keep long values in a file: run.upload_file",
                key=key,
            )
        checked[check_tag_key(key)] = text
    if len(checked) > TAGS_MAX:
        raise SpecInvalid(f"{len(checked)} {what} are too many: a run has at most {TAGS_MAX}")
    return checked
