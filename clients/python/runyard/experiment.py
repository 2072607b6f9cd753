"""Experiment: a named group of runs."""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from runyard.script_run_config import ScriptRunConfig
from runyard_contract.errors import SpecInvalid
from runyard_contract.ids import ExperimentName, check_experiment_name
from runyard_contract.limits import PAGE_SIZE_MAX

if TYPE_CHECKING:
    from runyard.run import Run
    from runyard.runconfig import RunConfiguration
    from runyard.workspace import Workspace


class Experiment:
    """A named group of runs in a workspace. It comes into being with its first run.

        run = Experiment(ws, "iris").submit(ScriptRunConfig(script="train.py"))

    Args:
        workspace: where it belongs.
        name: 1 to 36 letters, digits, - and _; upper and lower case name the same experiment.
    """

    def __init__(self, workspace: Workspace, name: str) -> None:
        self._workspace = workspace
        self._name = check_experiment_name(name)

    @property
    def workspace(self) -> Workspace:
        """The workspace."""
        return self._workspace

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self._name

    @property
    def resource_name(self) -> ExperimentName:
        """The name in the contract."""
        return ExperimentName(self._workspace.name, self._name)

    def __repr__(self) -> str:
        return f"Experiment(name={self._name!r}, workspace={self._workspace.name!r})"

    def submit(
        self,
        config: ScriptRunConfig | RunConfiguration,
        tags: Mapping[str, str] | None = None,
        *,
        properties: Mapping[str, str] | None = None,
        display_name: str = "",
    ) -> Run:
        """Submits a run and returns when it is durable.

        Args:
            config: what to run, or a run configuration that names a script.
            tags, properties: to set from the start; the git state is added to the properties.
            display_name: free text. Default: the run's id.

        Raises RunyardError: SpecInvalid, Unsupported, SourceInvalid, SnapshotTooLarge, NotFound …
        """
        from runyard.run import Run
        from runyard.submission import Submission

        submitted = Submission(_as_script_run_config(config)).send(
            self._workspace.connection,
            self.resource_name,
            tags=tags,
            properties=properties,
            display_name=display_name,
        )
        return Run.from_record(self, submitted.record, notices=submitted.notices)

    def submit_all(
        self,
        configs: Iterable[ScriptRunConfig | RunConfiguration],
        tags: Mapping[str, str] | None = None,
        *,
        properties: Mapping[str, str] | None = None,
    ) -> builtins.list[Run]:
        """Submits many runs, in this order, and returns when all are durable.

        Each source directory is looked at once, and 1,000 runs go in one message, so it takes a
        small part of the time of as many `submit`. Wait for them with `runyard.wait_all`.

        Args:
            configs: what to run.
            tags, properties: of each run, from the start.

        Raises RunyardError, as `submit`; then none was submitted, or, of more than 1,000, whole
        batches from the beginning.
        """
        from runyard.batch import submit_all
        from runyard.run import Run

        submitted = submit_all(
            self._workspace.connection,
            self.resource_name,
            [_as_script_run_config(config) for config in configs],
            tags=tags or {},
            properties=properties or {},
        )
        return [Run.from_record(self, one.record, notices=one.notices) for one in submitted]

    def get_runs(
        self,
        type: str | None = None,
        tags: str | Mapping[str, str | None] | None = None,
        properties: str | Mapping[str, str | None] | None = None,
    ) -> Iterator[Run]:
        """The experiment's runs, newest first, read page by page as they are asked for.

        Args:
            type: accepted for older code; runs have one type.
            tags: only runs with this tag, or with all of these; the value None matches any.
            properties: likewise.
        """
        from runyard.run import Run

        return Run.list(self, tags=tags, properties=properties)

    @classmethod
    def list(cls, workspace: Workspace) -> Iterator[Experiment]:
        """The experiments of a workspace, the last used first."""
        from runyardpb.v1 import experiments_pb2, experiments_pb2_grpc

        request = experiments_pb2.ListExperimentsRequest(
            parent=f"workspaces/{workspace.name}", page_size=PAGE_SIZE_MAX
        )
        while True:
            answer = workspace.connection.unary(
                experiments_pb2_grpc.ExperimentServiceStub,
                lambda stub: stub.ListExperiments,
                request,
            )
            for experiment in answer.experiments:
                yield cls(workspace, ExperimentName.parse(experiment.name).experiment)
            if not answer.next_page_token:
                return
            request.page_token = answer.next_page_token


def _as_script_run_config(config: ScriptRunConfig | RunConfiguration) -> ScriptRunConfig:
    """What to run, from either kind of configuration."""
    if isinstance(config, ScriptRunConfig):
        return config
    from runyard.runconfig import RunConfiguration

    if isinstance(config, RunConfiguration):
        return ScriptRunConfig(run_config=config)
    raise SpecInvalid(
        f"submit takes a ScriptRunConfig or a RunConfiguration, not {type(config).__name__}",
        hint='write ScriptRunConfig(source_directory=".", script="train.py")',
    )
