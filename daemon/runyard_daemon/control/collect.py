"""Fetching what a script wrote outside outputs/ and logs/ from the node that keeps it."""

from __future__ import annotations

from dataclasses import dataclass

from runyard_contract.errors import NodeUnreachable, RunFileNotFound, StateNotAllowed
from runyard_contract.states import FINAL
from runyard_daemon.control.live import Live, run_name
from runyard_daemon.control.orders import Collect, RunRef
from runyard_daemon.control.questions import Questions
from runyard_daemon.core.types import NodeId
from runyard_daemon.store import attempts
from runyard_daemon.store.runs import RunRecord


@dataclass(frozen=True, slots=True)
class Collected:
    """An agent's answer."""

    file_count: int
    error: str = ""
    """Why not; empty: it worked."""
    is_gone: bool = False
    """The folder is no longer kept."""


class Collector:
    """Asks agents for working folders."""

    def __init__(self, live: Live, questions: Questions, timeout_s: float) -> None:
        self._live = live
        self._questions = questions
        self._timeout_s = timeout_s

    async def collect(self, run: RunRecord) -> int:
        """Brings the working folder of an ended run into its record; gives the number of files.

        Raises StateNotAllowed, NodeUnreachable, RunFileNotFound (no longer kept).
        """
        if not run.state.is_final:
            raise StateNotAllowed(
                f"the run {run.run_id} has not ended: it is {run.state.value}",
                hint=f"wait for it with `runyard runs wait {run.run_id}`",
                state=run.state.value,
                allowed=",".join(sorted(FINAL)),
            )
        record = self._live.store.peek(lambda conn: attempts.current(conn, run.run_id))
        if record is None:
            raise RunFileNotFound.named("workdir/")
        node = NodeId(record.node_id)
        target = RunRef(run_name(run.workspace, run.experiment, run.run_id), record.ref)
        answer = await self._questions.ask(
            node, lambda request_id: Collect(target, request_id), Collected, self._timeout_s
        )
        if answer.is_gone:
            raise RunFileNotFound(
                f"the working folder of {run.run_id} is no longer kept on {run.node}",
                hint="write what you want to keep to outputs/",
                run_id=run.run_id,
            )
        if answer.error:
            raise NodeUnreachable(
                f"{run.node} could not send the working folder: {answer.error[:500]}",
                hint="look at agent.log on that node",
                node=run.node,
            )
        return answer.file_count
