"""All attempts that this node holds, and what the daemon's words do to them."""

from __future__ import annotations

import asyncio
import os
import time

from runyard_agent import attempt as facts
from runyard_agent import journal, launch, workfiles
from runyard_agent.ahead import Ahead, Offer, need_of
from runyard_agent.attempt import Attempt
from runyard_agent.bundles import Bundle, Key, abandoned, scan
from runyard_agent.core.ahead import Need
from runyard_agent.core.reconcile import Answer, Recovery, Stage, Word, answer, recover
from runyard_agent.execution import Execution
from runyard_agent.executors.protocol import ExecutorUnavailable
from runyard_agent.node import Node
from runyard_agent.outbox import Outbox
from runyard_agent.outputs import OutputFiles
from runyard_agent.probe import Machine
from runyard_agent.sweeper import Sweeper
from runyard_contract.errors import NameInvalid, RunyardError
from runyard_contract.ids import RunName
from runyardpb.agent.v1 import agent_pb2 as pb
from runyardpb.v1 import runs_pb2

COLLECT_PREFIX = "workdir/"


class Attempts:
    """The attempts of this agent. Their tasks live in `group`."""

    def __init__(
        self,
        node: Node,
        outbox: Outbox,
        sweeper: Sweeper,
        group: asyncio.TaskGroup,
        machine: Machine,
    ) -> None:
        self._node = node
        self._runs = str(node.home.runs)
        self._outbox = outbox
        self._sweeper = sweeper
        self._group = group
        self._boot_id = machine.boot_id
        self._capacity = Need(machine.cpu_millicores, machine.memory_bytes, len(machine.gpu_names))
        self._ahead = Ahead(outbox, self._begin)
        self._held: dict[Key, Execution] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}

    def for_hello(self) -> list[pb.AttemptReport]:
        """All of them as they are now. Leases that only wait here are forgotten with this."""
        self._ahead.clear()
        told = [held.attempt for held in self._held.values() if not held.is_dropped]
        for attempt in told:
            if attempt.pieces:
                self._outbox.changed(attempt)
        return [attempt.report_for_hello() for attempt in told]

    # At the start

    async def restore(self) -> None:
        """Takes up what earlier agents have left on disk."""
        runs = self._node.home.runs
        for path in abandoned(runs):
            self._node.trash(path)
        for bundle in list(scan(runs)):
            try:
                await self._restore(bundle)
            except (OSError, ExecutorUnavailable, RunyardError) as error:
                journal.failure("restore_failed", error, bundle=bundle.path)

    async def _restore(self, bundle: Bundle) -> None:
        """Does with one bundle what its files ask for."""
        found = bundle.found(is_supervised=False)
        lease = bundle.read_lease()
        execution = None
        if lease is not None and found.stage not in (
            Stage.EXITED,
            Stage.FORGOTTEN,
            Stage.RETURNED,
        ):
            execution = self._hold(lease, bundle, is_new=False)
            execution.claim_environment()
            if await self._node.executor.adopt(bundle.path, execution):
                found = bundle.found(is_supervised=True)
        how = recover(found, self._boot_id)
        journal.info("restored", bundle=str(bundle.key), found=found.stage.value, how=how.value)
        if how is Recovery.KEEP:
            self._sweeper.keep(bundle, bundle.expire_unix_s() or 0.0)
        elif how is Recovery.REMOVE or lease is None:
            if how is not Recovery.REMOVE:
                await self._node.executor.recover(bundle.path)
            if execution is not None:
                self._drop_from_memory(bundle.key, execution)
            self._node.trash(bundle.path)
        else:
            self._launch(execution or self._hold(lease, bundle, is_new=False), how)

    # What the daemon says

    def on_lease(self, lease: pb.Lease) -> None:
        """Starts an attempt, or says again how far it is."""
        key = _key(lease.ref)
        if key is None:
            journal.warning("lease_refused", run=lease.ref.run, attempt=lease.ref.attempt)
            return
        held = self._held.get(key)
        match self._answer(Word.LEASE, lease.ref, held):
            case Answer.START if lease.is_ahead:
                self._ahead.offer(key, lease)
            case Answer.START:
                self._ahead.drop(lease.ref)
                self._start_in_turn(key, lease)
            case Answer.REPLACE if held is not None:
                held.drop()
                self._group.create_task(self._replace(key, held, lease), name=f"replace {key}")
            case Answer.REPORT if held is not None:
                self._outbox.changed(held.attempt)

    def go_on(self) -> None:
        """Begins what came ahead, as far as there is room: after all leases of a message."""
        self._ahead.go_on()

    def on_cancel(self, cancel: pb.CancelAttempt) -> None:
        """Ends an attempt."""
        key = _key(cancel.ref)
        held = self._held.get(key) if key else None
        self._ahead.drop(cancel.ref)
        word = Word.SUPERSEDED if cancel.is_superseded else Word.CANCEL
        match self._answer(word, cancel.ref, held):
            case Answer.STOP if held is not None:
                grace_s = launch.seconds(cancel.grace) if cancel.HasField("grace") else None
                default_s = launch.grace_s(held.attempt.lease.spec)
                held.cancel(default_s if grace_s is None else grace_s)
            case Answer.DROP if held is not None:
                held.drop()
                if held.is_over and key is not None:
                    self._remove(key, held)
            case Answer.DENY:
                self._outbox.deny(cancel.ref)

    def on_forget(self, forget: pb.ForgetAttempt) -> None:
        """Lets go of an attempt that the daemon has whole."""
        key = _key(forget.ref)
        held = self._held.get(key) if key else None
        self._outbox.withdraw(forget.ref)
        self._ahead.drop(forget.ref)
        if key is None or held is None:
            return
        if self._answer(Word.FORGET, forget.ref, held) is not Answer.FORGET:
            return
        bundle = held.attempt.bundle
        if not held.is_over and bundle.read_exit() is None:
            journal.warning("forget_refused", bundle=bundle.path, why="it has not ended")
            return
        summary = held.attempt.workdir
        keep_s = launch.seconds(forget.keep_workdir)
        has_left_some = summary.file_count > 0 if summary is not None else not held.is_over
        self._drop_from_memory(key, held)
        held.drop()  # it may still be sending what the daemon has already
        if held.attempt.laid is not None and held.attempt.is_untouched:
            self._node.folders.take_back(bundle, held.attempt.laid)
            return
        if not keep_s or not has_left_some:
            self._node.trash(bundle.path)
            return
        expire_unix_s = time.time() + keep_s
        bundle.write_forgotten(expire_unix_s)
        self._sweeper.keep(bundle, expire_unix_s)

    def on_collect(self, collect: pb.CollectAttemptWorkdir) -> None:
        """Sends a working folder."""
        self._group.create_task(self._collect(collect), name=f"collect {collect.ref.run}")

    async def _collect(self, collect: pb.CollectAttemptWorkdir) -> None:
        """Sends a working folder and answers."""
        done = pb.WorkdirCollected(request_id=collect.request_id)
        key = _key(collect.ref)
        bundle = self._bundle(key) if key else None
        if bundle is None or not _is_kept(bundle):
            done.is_gone = True
            done.error = "the working folder is no longer kept"
        else:
            problems: list[str] = []
            outputs = OutputFiles(
                collect.ref, bundle, self._node.link, self._node.sender, problems.append
            )
            loop = asyncio.get_running_loop()
            try:
                files = await loop.run_in_executor(
                    self._node.disk, workfiles.to_collect, bundle, COLLECT_PREFIX
                )
                done.file_count = await outputs.send(files)
            except (RunyardError, OSError) as error:
                problems.append(str(error))
            if problems and not done.file_count:
                done.error = "; ".join(problems[:3])
        self._outbox.answer(done)

    # Holding

    def _answer(self, word: Word, ref: pb.AttemptRef, held: Execution | None) -> Answer:
        """What a word asks for."""
        return answer(word, ref.epoch, held.attempt.epoch if held else None)

    def _bundle(self, key: Key) -> Bundle:
        """Where the attempt's folder lies, or would lie."""
        return Bundle(f"{self._runs}/{key}", key)

    def _begin(self, offer: Offer) -> bool:
        """Begins a lease that came ahead; False while there is no room for it."""
        key, need, lease = offer
        if key in self._held:
            return True  # a later word has overtaken it
        if not need.is_plain and not self._used(need).fits(self._capacity):
            return False
        bundle = self._bundle(key).path
        if not self._node.executor.reserve(bundle, may_follow=need.is_plain):
            return False
        self._start(key, lease)
        return True

    def _start_in_turn(self, key: Key, lease: pb.Lease) -> None:
        """Begins a lease that has room by the daemon's books: before any that comes after it."""
        if lease.spec.kind != runs_pb2.RunSpec.KIND_ENVIRONMENT_BUILD:
            self._node.executor.line_up(self._bundle(key).path)
        self._start(key, lease)

    def _used(self, more: Need) -> Need:
        """What the runs that are active here want, and something more."""
        for held in self._held.values():
            if held.is_active:
                more = more + need_of(held.attempt.lease)
        return more

    def _start(self, key: Key, lease: pb.Lease) -> None:
        """Takes a lease that has its place: on disk first, then to work."""
        bundle = self._bundle(key)
        if os.path.lexists(bundle.path):  # forgotten, or of an earlier grant
            self._node.trash(bundle.path)
        try:
            claimed = self._node.folders.claim(bundle, lease)
            if claimed is None:
                bundle.create(lease)
        except OSError as error:
            self._node.executor.release(bundle.path)
            journal.failure("lease_not_kept", error, bundle=bundle.path)
            self._outbox.deny(
                lease.ref,
                facts.failed(
                    pb.AttemptEnd.REASON_AGENT_FAILED,
                    f"the node can't keep the run: {error.strerror} ({bundle.path})",
                    "free some space on the node, then submit again",
                ),
            )
            return
        execution = self._hold(lease, bundle, is_new=True)
        execution.attempt.has_folder = claimed is not None
        execution.attempt.laid = claimed.laid if claimed is not None else None
        self._launch(execution, Recovery.PREPARE)
        execution.attempt.tell()

    async def _replace(self, key: Key, old: Execution, lease: pb.Lease) -> None:
        """Takes a lease once what is held of an older grant has ended, which it may have before."""
        task = self._tasks.get(key)
        if task is not None:
            await asyncio.wait([task])
        if self._held.get(key) is old:
            self._remove(key, old)
        if key not in self._held:
            self._start_in_turn(key, lease)

    def _hold(self, lease: pb.Lease, bundle: Bundle, *, is_new: bool) -> Execution:
        """Notes an attempt."""
        attempt = Attempt(lease, bundle, self._outbox.changed)
        execution = self._held[bundle.key] = Execution(
            self._node, attempt, is_new=is_new, left=self._ahead.go_on
        )
        return execution

    def _launch(self, execution: Execution, how: Recovery) -> None:
        """Sets an attempt going."""
        key = execution.attempt.bundle.key
        task = self._group.create_task(self._run(key, execution, how), name=f"attempt {key}")
        self._tasks[key] = task

    async def _run(self, key: Key, execution: Execution, how: Recovery) -> None:
        """One attempt's task."""
        try:
            await execution.run(how)
        finally:
            if self._tasks.get(key) is asyncio.current_task():
                del self._tasks[key]
        if execution.is_dropped and self._held.get(key) is execution:
            self._remove(key, execution)
        elif execution.is_returned:
            self._remove(key, execution)  # first: what is given back must not be found again
            self._outbox.give_back(execution.attempt.lease.ref)

    def _remove(self, key: Key, execution: Execution) -> None:
        """Lets an attempt go with its folder."""
        self._drop_from_memory(key, execution)
        self._node.trash(execution.attempt.bundle.path)

    def _drop_from_memory(self, key: Key, execution: Execution) -> None:
        """Lets an attempt go; its folder stays."""
        if self._held.get(key) is execution:
            del self._held[key]
            self._outbox.forget(execution.attempt)
            self._node.environments.release(execution.attempt.bundle.path)
            execution.close()


def _is_kept(bundle: Bundle) -> bool:
    """Whether the attempt's working folder is still there, and to stay for now."""
    expire_unix_s = bundle.expire_unix_s()
    is_expired = expire_unix_s is not None and expire_unix_s < time.time()
    return os.path.isdir(bundle.work) and not is_expired


def _key(ref: pb.AttemptRef) -> Key | None:
    """The attempt that the daemon names; None for what can be none (it names a folder here)."""
    try:
        name = RunName.parse(ref.run)
    except NameInvalid:
        return None
    return Key(name.run, ref.attempt) if ref.attempt >= 1 else None
