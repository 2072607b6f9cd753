"""From a lease to a bundle that can be executed: working folder, environment, spec."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from typing import Any

from runyard_agent import journal
from runyard_agent.attempt import Attempt, Stopwatch
from runyard_agent.environments.protocol import (
    BuildContext,
    EnvironmentFailed,
    NotHere,
    ProvidedEnvironment,
    TakesContext,
)
from runyard_agent.laid import LaidOut
from runyard_agent.launch_container import execution_facts
from runyard_agent.link import Stubs
from runyard_agent.node import Node
from runyard_agent.shipping.growing import GrowingFiles
from runyard_agent.sources import LocalSource
from runyard_agent.workdir import (
    Blobs,
    InlineBlobs,
    LayoutFailed,
    NoBlobs,
    Plan,
    contents,
    lay_out,
    plan,
    size_bytes,
)
from runyard_agent.workfiles import SMALL_FILES
from runyard_contract.digest import is_digest
from runyard_contract.environment_spec import packages_hash
from runyard_contract.errors import RunyardError
from runyardpb.agent.v1 import agent_pb2 as pb
from runyardpb.v1.environments_pb2 import EnvironmentLock, EnvironmentSpec

SMALL_MANIFEST_BYTES = 16 << 10
SMALL_BYTES = 1 << 20
"""A snapshot below this and SMALL_FILES is laid out at once: a thread would cost more."""
KEEP_LOCK_LIMIT_S = 30.0


class EnvironmentLog:
    """`logs/environment.txt` of one attempt; the file is made with its first byte."""

    def __init__(self, node: Node, attempt: Attempt, files: GrowingFiles) -> None:
        self._node = node
        self._attempt = attempt
        self._files = files

    def write(self, data: bytes) -> None:
        """Appends bytes, and has them shipped."""
        if not data:
            return
        self._attempt.has_environment_log = True
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self._attempt.bundle.environment_log, flags, 0o600)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)
        self._node.appender.wake(self._files)


async def lay_out_snapshot(node: Node, attempt: Attempt) -> None:
    """Makes the working folder and the job library's. Raises LayoutFailed."""
    watch = Stopwatch("snapshot")
    bundle = attempt.bundle
    if attempt.has_folder:
        attempt.spans.append(watch.stop())
        return
    if attempt.is_resumed:  # an agent was killed somewhere here
        node.trash(bundle.work)
        node.trash(bundle.job)
    os.mkdir(bundle.job, 0o755)
    root = attempt.lease.spec.snapshot.rpartition("/")[2]
    if not root:
        attempt.work_index = lay_out((), NoBlobs(), bundle.work)
        attempt.work_index.save(bundle.work_index)
        attempt.laid = LaidOut("", bundle.path, {})
    else:
        await _lay_out(node, attempt, root)
    attempt.spans.append(watch.stop())


async def _lay_out(node: Node, attempt: Attempt, root: str) -> None:
    """Lays out a snapshot: here where it is small, else in a thread."""
    if not is_digest(root):
        raise LayoutFailed(
            f"the run names no snapshot that can be: {attempt.lease.spec.snapshot}",
            "submit again",
            {},
        )
    inline = {blob.digest.hex(): blob.data for blob in attempt.lease.manifests}
    inline_bytes = sum(len(data) for data in inline.values())
    work, work_index = attempt.bundle.work, attempt.bundle.work_index
    try:
        if not node.source.is_near:
            attempt.say("fetching the snapshot")
        blobs = InlineBlobs(inline, await node.source.get(root, inline))
        if node.source.is_near and root in inline and inline_bytes <= SMALL_MANIFEST_BYTES:
            entries = plan(root, blobs.read)
            if len(entries) <= SMALL_FILES and size_bytes(entries) <= SMALL_BYTES:
                attempt.work_index = lay_out(entries, blobs, work)
                attempt.work_index.save(work_index)
                attempt.laid = LaidOut(root, attempt.bundle.path, contents(entries))
                return
    except RunyardError as error:
        raise _unreadable(error) from error
    attempt.say("laying out the snapshot")
    is_wanted = True

    def in_thread() -> None:
        lay_out(_plan(root, blobs), blobs, work, lambda: is_wanted).save(work_index)

    try:
        await asyncio.get_running_loop().run_in_executor(node.disk, in_thread)
    finally:
        is_wanted = False


def build_for_the_next(node: Node, attempt: Attempt) -> None:
    """A run was handed over: the folder of the next one of its snapshot is made meanwhile.

    Not for small snapshots, whose folders go from run to run, nor where blobs are far.
    """
    root = attempt.lease.spec.snapshot.rpartition("/")[2]
    is_small = attempt.laid is not None
    if is_small or not is_digest(root) or not isinstance(node.source, LocalSource):
        return
    blobs = node.source.store
    node.built_ahead.started(
        root, lambda work, is_wanted: lay_out(_plan(root, blobs), blobs, work, is_wanted)
    )


def _plan(root: str, blobs: Blobs) -> Plan:
    """The plan, with an error that says whose it is."""
    try:
        return plan(root, blobs.read)
    except RunyardError as error:
        raise _unreadable(error) from error


def _unreadable(error: RunyardError) -> LayoutFailed:
    """The error for a snapshot that can't be read, or must not be laid out."""
    return LayoutFailed(
        f"the snapshot can't be laid out: {error.message}",
        error.hint or "submit again",
        error.metadata,
    )


async def provide_environment(
    node: Node, attempt: Attempt, log: EnvironmentLog
) -> ProvidedEnvironment:
    """Provides the run's environment. Raises EnvironmentFailed; the time counts then too."""
    watch = Stopwatch("environment")
    try:
        return await _provide(node, attempt, log)
    finally:
        attempt.spans.append(watch.stop())


async def _provide(node: Node, attempt: Attempt, log: EnvironmentLog) -> ProvidedEnvironment:
    """Has the builder of its kind provide it, and the daemon keep a lock that is new."""
    spec = _resolved(node, attempt.lease)
    kind = spec.WhichOneof("backend") or ""
    builder = node.builders.get(kind)
    if builder is None:
        raise EnvironmentFailed(
            f'this node provides no environments of kind "{kind}"',
            f"use one of: {', '.join(sorted(node.builders))}",
            {"kind": kind},
        )
    lease = attempt.lease
    is_refresh = lease.spec.refresh_environment
    root = lease.spec.snapshot.rpartition("/")[2]
    if root and isinstance(builder, TakesContext):
        builder = builder.within(BuildContext(attempt.bundle.work, root))
    locks = [lease.lock] if lease.HasField("lock") else list(lease.locks)
    uses, user = node.environments.uses, attempt.bundle.path
    uses.wait(user)
    try:
        provided = await builder.provide(
            spec, locks, log=log, progress=attempt.say, is_refresh=is_refresh
        )
    except NotHere as refused:
        raise refused.named(lease.spec.environment_name) from None
    uses.has(user, provided.key)
    if provided.lock is not None and all(lock.hash != provided.lock.hash for lock in locks):
        kept = await _keep_lock(node, spec, provided.lock, is_refresh=is_refresh)
        if kept.hash != provided.lock.hash:  # another node was first
            uses.wait(user)
            provided = await builder.provide(spec, [kept], log=log, progress=attempt.say)
            uses.has(user, provided.key)
    await _seal(node, attempt, provided, log)
    attempt.say("")
    if provided.lock is not None:
        attempt.execution["lock"] = provided.lock.hash
        before = [lock.hash for lock in locks if lock.platform == provided.lock.platform]
        if is_refresh and before:
            attempt.execution["lock_before"] = before[0]
    if spec.variables:
        variables = {one.name: one.value for one in spec.variables}
        provided = replace(provided, env={**provided.env, **variables})
    return provided


async def _seal(
    node: Node, attempt: Attempt, provided: ProvidedEnvironment, log: EnvironmentLog
) -> None:
    """Seals the environment where the run asks for it, else in the background where it is worth it.

    Raises EnvironmentFailed.
    """

    def say(line: str) -> None:
        log.write(line.encode("utf-8", "backslashreplace") + b"\n")

    if attempt.lease.spec.seals_environment:
        attempt.say("sealing the environment")
        await node.sealer.seal(provided.key or "", say)
    elif provided.lock is not None:
        node.sealer.consider(provided.lock, say)


def _resolved(node: Node, lease: pb.Lease) -> EnvironmentSpec:
    """The environment to provide: the lease's, or where it names none the default."""
    for spec in (lease.environment, lease.spec.environment):
        if spec.WhichOneof("backend"):
            return spec
    default = EnvironmentSpec()
    default.user_managed.interpreter_path = (
        lease.spec.caller_interpreter if node.config.is_local else b""
    )
    return default


async def _keep_lock(
    node: Node, spec: EnvironmentSpec, lock: EnvironmentLock, *, is_refresh: bool
) -> EnvironmentLock:
    """Has the daemon keep a lock; gives the one that counts, or ours while it can't be asked.

    Raises EnvironmentFailed where one that was resolved anew could not be kept: that was the point.
    """
    request = pb.KeepLockRequest(spec_hash=packages_hash(spec), lock=lock, is_refresh=is_refresh)

    async def keep(stubs: Stubs) -> pb.KeepLockResponse:
        response: pb.KeepLockResponse = await stubs.agent.KeepLock(request, metadata=stubs.metadata)
        return response

    try:
        async with asyncio.timeout(KEEP_LOCK_LIMIT_S):
            response = await node.link.call(keep)
    except (TimeoutError, RunyardError) as error:
        journal.warning("lock_not_kept", spec_hash=request.spec_hash, why=str(error))
        if is_refresh:
            raise EnvironmentFailed(
                f"the daemon could not keep the new lock, and the old one still counts: {error}",
                "build it with --refresh again",
                {"lock": lock.hash},
            ) from error
        return lock
    return response.lock if response.HasField("lock") else lock


def needs_snapshot(node: Node, attempt: Attempt) -> bool:
    """Whether the run's environment is built with the files of its snapshot."""
    spec = _resolved(node, attempt.lease)
    builder: object = node.builders.get(spec.WhichOneof("backend") or "")
    if not isinstance(builder, TakesContext) or not attempt.lease.spec.snapshot:
        return False
    return builder.needs_context(spec)


def write_spec(
    node: Node, attempt: Attempt, environment: ProvidedEnvironment, gpus: tuple[int, ...]
) -> None:
    """Writes what the supervisor executes, and what this agent wants to know after a restart.

    Raises EnvironmentFailed for what a container can't have.
    """
    kept: dict[str, Any] = {
        "spans": attempt.spans,
        "warnings": attempt.warnings,
        "gpus": gpus,
        "environment": environment.key,
        "execution": attempt.execution,
    }
    bundle = attempt.bundle
    if environment.container is not None:
        attempt.laid = None  # what mounts were made of is not used for another run
        facts = execution_facts(attempt.lease, bundle, environment.container)
        attempt.execution.update(facts)
    bundle.write_spec(node.specs.content(attempt.lease, bundle, environment, gpus, kept))
