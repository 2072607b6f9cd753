"""The daemon's figures for monitoring, gathered when somebody asks."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from runyard_daemon.calls import CallFigures
from runyard_daemon.content import Content
from runyard_daemon.control.live import Live
from runyard_daemon.core.exposition import (
    Family,
    Kind,
    counter,
    gauge,
    histograms,
    labelled,
    render,
)
from runyard_daemon.core.types import NO_RESOURCES
from runyard_daemon.logs.appender import Appender
from runyard_daemon.store import figures
from runyard_daemon.store.figures import RecordFigures

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Figures:
    """Where the figures come from."""

    home: Path
    version: str
    start_time_us: int
    live: Live
    content: Content
    appender: Appender
    calls: CallFigures

    async def exposition(self) -> str:
        """All figures in Prometheus's text format."""
        records = await self.live.store.read(figures.records)
        sources: tuple[Callable[[], Iterator[Family]], ...] = (
            lambda: self._runs(records),
            self._nodes,
            self._store,
            self._calls,
            self._process,
        )
        return render(family for source in sources for family in source())

    def _runs(self, records: RecordFigures) -> Iterator[Family]:
        live = self.live
        by_state = [({"state": state.lower()}, n) for state, n in records.runs_by_state.items()]
        since_us = records.oldest_wait_since_us
        waited_s = max(0.0, (live.now_us() - since_us) / 1e6) if since_us is not None else 0.0
        yield labelled("runyard_runs", Kind.GAUGE, "Runs on record by state.", by_state)
        yield gauge("runyard_queue_runs", "Runs that wait for a node.", len(live.waiting))
        yield gauge(
            "runyard_queue_oldest_wait_seconds",
            "Time since the submit of the run that waits longest; 0: none waits.",
            waited_s,
        )
        yield histograms(
            "runyard_scheduling_decision_seconds",
            "Time that the scheduler took for a decision.",
            [({}, live.decisions)],
        )

    def _nodes(self) -> Iterator[Family]:
        live = self.live
        nodes = sorted(live.nodes.values(), key=lambda node: node.id)
        labels = [{"compute": node.compute, "node": node.name} for node in nodes]
        held = [live.board.held_on(node.id) for node in nodes]
        used = [sum(on_node.values(), NO_RESOURCES) for on_node in held]
        up = [node.id in live.sessions for node in nodes]
        yield gauge("runyard_agents_connected", "Agents with a session now.", len(live.sessions))
        for name, help_text, values in (
            ("up", "Whether the agent of a node has a session.", up),
            ("slots", "Runs that a node executes at one time.", [n.slots for n in nodes]),
            ("slots_used", "Slots of a node that runs hold.", [len(h) for h in held]),
            ("cpus", "CPUs of a node.", [n.capacity.cpu_millis / 1000 for n in nodes]),
            ("cpus_used", "CPUs of a node that runs hold.", [u.cpu_millis / 1000 for u in used]),
            ("memory_bytes", "Memory of a node.", [n.capacity.memory_bytes for n in nodes]),
            ("memory_used_bytes", "Memory that runs asked for.", [u.memory_bytes for u in used]),
            ("gpus", "GPUs of a node.", [n.capacity.gpus for n in nodes]),
            ("gpus_used", "GPUs of a node that runs hold.", [u.gpus for u in used]),
        ):
            samples = [(label, float(value)) for label, value in zip(labels, values, strict=True)]
            yield labelled(f"runyard_node_{name}", Kind.GAUGE, help_text, samples)

    def _store(self) -> Iterator[Family]:
        disk = os.statvfs(self.home)
        yield histograms(
            "runyard_commit_seconds",
            "Time of a durable commit of a group of writes.",
            [({}, self.live.store.commits)],
        )
        yield gauge(
            "runyard_database_bytes",
            "Size of the database and its log.",
            figures.size_bytes(self.live.store.path),
        )
        yield counter(
            "runyard_log_received_bytes_total",
            "Bytes of logs and metrics that agents sent.",
            self.appender.received_bytes,
        )
        yield counter(
            "runyard_blob_stored_bytes_total",
            "Bytes of new blobs that uploads stored, unpacked.",
            self.content.stored_bytes,
        )
        yield gauge(
            "runyard_disk_free_bytes",
            "Free space of the data directory's file system.",
            disk.f_bavail * disk.f_frsize,
        )
        yield gauge(
            "runyard_disk_bytes",
            "Size of the data directory's file system.",
            disk.f_blocks * disk.f_frsize,
        )

    def _calls(self) -> Iterator[Family]:
        calls = self.calls
        yield labelled(
            "runyard_rpc_total",
            Kind.COUNTER,
            "Calls that ended, by method and code.",
            [({"method": m, "code": c}, count) for (m, c), count in sorted(calls.counts.items())],
        )
        yield histograms(
            "runyard_rpc_seconds",
            "Time that calls without streams took, by method.",
            [({"method": name}, taken) for name, taken in sorted(calls.durations.items())],
        )
        yield gauge("runyard_rpc_under_way", "Calls and streams under way.", calls.under_way)

    def _process(self) -> Iterator[Family]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        threads = len(os.listdir("/proc/self/task"))
        yield labelled(
            "runyard_build_info",
            Kind.GAUGE,
            "The daemon's version; always 1.",
            [({"version": self.version}, 1)],
        )
        yield counter(
            "process_cpu_seconds_total",
            "User and system CPU time of the daemon.",
            usage.ru_utime + usage.ru_stime,
        )
        yield gauge(
            "process_resident_memory_bytes", "Resident memory of the daemon.", pages * PAGE_BYTES
        )
        yield gauge("process_open_fds", "Descriptors.", len(os.listdir("/proc/self/fd")) - 1)
        yield gauge("process_threads", "Threads.", threads)
        yield gauge(
            "process_start_time_seconds",
            "Start of the daemon, in seconds since the Unix epoch.",
            self.start_time_us / 1e6,
        )
        yield gauge("runyard_scrape_time_seconds", "When these figures were gathered.", time.time())
