"""Run: one execution of a script."""

from __future__ import annotations

import builtins
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

from runyard import run_details, run_files
from runyard._convert import explanation, run_record
from runyard.experiment import Experiment
from runyard.follow import MERGED, Event, follow, read_log, wait_until_final
from runyard.records import Explanation, RunFile, RunRecord
from runyard.run_listing import Labels, list_runs, state_of_word
from runyard.submission import check_labels
from runyard.waiting import check_completed, show_until_final
from runyard_contract.errors import NameInvalid
from runyard_contract.ids import RunName, check_run_id, experiment_of
from runyard_contract.states import v1_word
from runyardpb.v1 import runs_pb2, runs_pb2_grpc

if TYPE_CHECKING:
    from runyard.channel import Connection
    from runyard.metrics import MetricShape
    from runyard.run_files import PathOrStream
    from runyard.workspace import Workspace
    from runyard_job import Run as JobRun


class Run:
    """A run of an experiment. `Experiment.submit` gives one; `Run.get` finds one by its id.

    Inside a job, `Run.get_context()` gives the run that the script belongs to.

    Args:
        experiment: what the run belongs to.
        run_id: its id. Raises RunNotFound, with the nearest, for an unknown one.
    """

    def __init__(self, experiment: Experiment, run_id: str) -> None:
        self._experiment = experiment
        workspace = experiment.workspace.name
        self._name = RunName(workspace, experiment.name, check_run_id(run_id))
        self._notices: tuple[str, ...] = ()
        self._record = self._read()

    @classmethod
    def from_record(
        cls, experiment: Experiment, record: RunRecord, notices: tuple[str, ...] = ()
    ) -> Self:
        """A run that the daemon has told of, without asking again."""
        run = cls.__new__(cls)
        run._experiment = experiment
        run._name = record.name
        run._notices = notices
        run._record = record
        return run

    @classmethod
    def get(cls, workspace: Workspace, run_id: str) -> Self:
        """The run of this id. Raises RunNotFound, with the nearest, for an unknown one."""
        return cls(Experiment(workspace, experiment_of(run_id)), run_id)

    @classmethod
    def list(
        cls,
        experiment: Experiment,
        type: str | None = None,
        tags: Labels | None = None,
        properties: Labels | None = None,
        status: str | None = None,
        include_children: bool = False,
    ) -> Iterator[Self]:
        """The runs of an experiment, newest first, read page by page as they are asked for.

        Args:
            type, include_children: accepted for older code; runs have one type and no children.
            tags, properties: one key, or keys with values; the value None matches any.
            status: only runs in this status, such as "Running".
        """
        states = [state_of_word(status)] if status is not None else []
        for record in list_runs(
            experiment.workspace.connection,
            experiment.workspace.name,
            experiment.name,
            states=states,
            tags=tags,
            properties=properties,
        ):
            yield cls.from_record(experiment, record)

    @staticmethod
    def get_context(allow_offline: bool = True) -> JobRun:
        """The run that this process belongs to, for scripts: it logs metrics, tags and files.

        Outside a job it prints what would be kept, or, with `allow_offline=False`, raises
        `runyard_job.NotInRun`.
        """
        from runyard_job import Run as JobRun

        return JobRun.get_context(allow_offline)

    # ---- what it is

    @property
    def id(self) -> str:
        """The run's id, such as `iris_1764000000_0a1b2c3d`."""
        return self._name.run

    @property
    def number(self) -> int:
        """The run's number in its experiment, from 1."""
        return self._record.number

    @property
    def experiment(self) -> Experiment:
        """The experiment that the run belongs to."""
        return self._experiment

    @property
    def display_name(self) -> str:
        """Free text that a person chose, else the run's id."""
        return self._record.display_name or self.id

    @property
    def status(self) -> str:
        """The status as last read; `get_status` reads it now."""
        return v1_word(self._record.state)

    @property
    def tags(self) -> dict[str, str]:
        """The tags as last read; `get_tags` reads them now."""
        return dict(self._record.tags)

    @property
    def properties(self) -> dict[str, str]:
        """The properties as last read; `get_properties` reads them now."""
        return dict(self._record.properties)

    @property
    def record(self) -> RunRecord:
        """All that the daemon said of the run when it was last read."""
        return self._record

    @property
    def notices(self) -> tuple[str, ...]:
        """What a person should know of the run's snapshot; empty unless it was submitted here."""
        return self._notices

    def __repr__(self) -> str:
        return f"Run(experiment={self._experiment.name!r}, id={self.id!r}, status={self.status!r})"

    def note(self, record: RunRecord) -> None:
        """Takes over what the daemon said of the run elsewhere."""
        self._record = record

    def refresh(self) -> RunRecord:
        """Reads the run again and returns its record."""
        self._record = self._read()
        return self._record

    def get_status(self) -> str:
        """The status now: NotStarted, Queued, Starting, Preparing, Running, Completed, Failed, …"""
        if not self._record.is_final:
            self.refresh()
        return self.status

    def get_details(self) -> dict[str, Any]:
        """Id, target, status, times, properties, run definition, log files, warnings and error."""
        return run_details.run_details(self.refresh(), self._files(run_details.LOGS))

    def get_details_with_logs(self) -> dict[str, Any]:
        """`get_details` with the text of each log in place of its name."""
        details = self.get_details()
        details["logFiles"] = {
            name: self.get_logs(stream) if (stream := _STREAMS_BY_FILE.get(name)) else address
            for name, address in details["logFiles"].items()
        }
        return details

    def explain(self) -> Explanation:
        """Why the run waits, what it does, or why it ended. `print` shows it line by line."""
        return explanation(
            self._connection.unary(
                runs_pb2_grpc.RunServiceStub,
                lambda stub: stub.ExplainRun,
                runs_pb2.ExplainRunRequest(name=str(self._name)),
            )
        )

    # ---- waiting and steering

    def wait_for_completion(
        self,
        show_output: bool = False,
        wait_post_processing: bool = False,
        raise_on_error: bool = True,
    ) -> dict[str, Any]:
        """Waits until the run has ended and returns its details.

        Args:
            show_output: print the log live. Ctrl-C leaves the run alone.
            wait_post_processing: accepted for older code; the end is only told when it is done.
            raise_on_error: raise RunFailed, with cause and advice, when the run failed.
        """
        if show_output:
            self._record = show_until_final(self.id, self.follow())
        else:
            self._record = wait_until_final(self._connection, self._name)
        if raise_on_error:
            check_completed(self._record)
        return run_details.run_details(self._record, self._files(run_details.LOGS))

    def follow(
        self, log_offset: int = 0, *, include_environment_log: bool = False
    ) -> Iterator[Event]:
        """What happens to the run: a RunRecord after each change, LogBytes for what it prints.

        Starts at byte `log_offset` of the merged log. The last event is the record with the final
        state. A broken connection, or a daemon that was killed, is taken up again.
        """
        return follow(
            self._connection,
            self._name,
            log_offset,
            include_environment_log=include_environment_log,
        )

    def cancel(self, reason: str = "") -> None:
        """Asks the run to end: SIGTERM, a grace period, SIGKILL. A run that has ended stays so."""
        answer = self._connection.unary(
            runs_pb2_grpc.RunServiceStub,
            lambda stub: stub.CancelRun,
            runs_pb2.CancelRunRequest(name=str(self._name), reason=reason),
        )
        self._record = run_record(answer.run)

    # ---- tags and properties

    def tag(self, key: str, value: str | None = None) -> None:
        """Sets a tag; without a value it is empty."""
        self.set_tags({key: value})

    def set_tags(self, tags: Mapping[str, str | None]) -> None:
        """Sets each of these tags; others stay."""
        checked = check_labels("tags", tags)
        self._update(runs_pb2.Run(tags=checked), [f"tags.{key}" for key in checked])

    def get_tags(self) -> dict[str, str]:
        """The tags now."""
        return dict(self.refresh().tags)

    def remove_tags(self, tags: str | Iterable[str]) -> None:
        """Removes these tags; one that is not there is no error."""
        keys = [tags] if isinstance(tags, str) else builtins.list(tags)
        self._update(runs_pb2.Run(), [f"tags.{key}" for key in keys])

    def add_properties(self, properties: Mapping[str, str | None]) -> None:
        """Adds these properties. A property that is set can't be changed."""
        checked = check_labels("properties", properties)
        self._update(runs_pb2.Run(properties=checked), [f"properties.{key}" for key in checked])

    def get_properties(self) -> dict[str, str]:
        """The properties now."""
        return dict(self.refresh().properties)

    def _update(self, run: runs_pb2.Run, paths: builtins.list[str]) -> None:
        """Changes the fields at these paths."""
        request = runs_pb2.UpdateRunRequest(run=run)
        request.run.name = str(self._name)
        request.update_mask.paths.extend(paths)
        answer = self._connection.unary(
            runs_pb2_grpc.RunServiceStub, lambda stub: stub.UpdateRun, request
        )
        self._record = run_record(answer.run)

    # ---- logs, metrics and files

    def get_logs(self, stream: str = MERGED) -> str:
        """What the run has printed so far: "merged", "stdout", "stderr" or "environment"."""
        if stream not in (MERGED, *_STREAMS_BY_FILE.values()):
            raise NameInvalid(
                f"{stream!r} is no log of a run", hint="merged, stdout, stderr or environment"
            )
        pieces = read_log(self._connection, self._name, stream)
        return b"".join(piece.data for piece in pieces).decode("utf-8", "replace")

    def get_all_logs(self, destination: str | os.PathLike[str] | None = None) -> builtins.list[str]:
        """Fetches all files under `logs/` to a folder (default: the current) and returns paths."""
        return self.download_files(run_details.LOGS, destination)

    def get_metrics(self, name: str | None = None) -> dict[str, MetricShape]:
        """The metrics by name, or the one of this name.

        Logged once is a scalar, more often a list; log_list a list; log_row a dict of lists.
        """
        from runyard.metrics import read_metrics

        return read_metrics(self._connection, str(self._name), name)

    def get_file_names(self) -> builtins.list[str]:
        """The paths of the run's files: `outputs/model.pkl`, `logs/stdout.txt`, …"""
        return [file.path for file in self._files()]

    def download_file(
        self, name: str, output_file_path: str | os.PathLike[str] | None = None
    ) -> str:
        """Fetches one file and returns where it was written.

        `output_file_path` is a file or a folder; default: the file's own name in the current
        folder. Raises RunFileNotFound with the nearest name.
        """
        file = run_files.find_file(self._connection, str(self._name), name)
        target = os.fspath(output_file_path) if output_file_path is not None else "."
        if target.endswith(os.sep) or os.path.isdir(target):
            return run_files.download_into(self._connection, str(self._name), file, target)
        run_files.download(self._connection, str(self._name), file, target)
        return target

    def download_files(
        self,
        prefix: str | None = None,
        output_directory: str | os.PathLike[str] | None = None,
    ) -> builtins.list[str]:
        """Fetches all files whose paths begin with `prefix`, and returns where they were written.

        They are laid out below `output_directory` (default: the current folder) as they are in the
        run. Raises UnsafePath for a path that would lead out of it.
        """
        root = os.fspath(output_directory) if output_directory is not None else "."
        return [
            run_files.download_below(self._connection, str(self._name), file, root)
            for file in builtins.list(self._files(prefix or ""))
        ]

    def upload_file(self, name: str, path_or_stream: PathOrStream) -> None:
        """Adds a file, or what an open stream still holds, to the run as `name`."""
        run_files.upload(self._connection, str(self._name), name, path_or_stream)

    def _files(self, prefix: str = "") -> Iterator[RunFile]:
        """The run's files."""
        return run_files.list_files(self._connection, str(self._name), prefix)

    # ---- the way to the daemon

    @property
    def _connection(self) -> Connection:
        return self._experiment.workspace.connection

    def _read(self) -> RunRecord:
        """The run as it is now."""
        answer = self._connection.unary(
            runs_pb2_grpc.RunServiceStub,
            lambda stub: stub.GetRun,
            runs_pb2.GetRunRequest(name=str(self._name)),
        )
        return run_record(answer.run)


_STREAMS_BY_FILE = {
    "logs/stdout.txt": "stdout",
    "logs/stderr.txt": "stderr",
    "logs/environment.txt": "environment",
}
