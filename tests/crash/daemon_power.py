"""Power loss: all that the daemon did to its disk is recorded, cut at a point, and opened again."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from crash.cases import Campaign, Case
from crash.workload import FINAL, Client, Work, check_blobs
from crash.yard import Yard, check_database
from runyard_contract.home import socket_path
from support.diskrecord import Disk, Step, read_record
from support.faults import Faults
from support.served import served

CUTS = 20
RUNS = 8
SYNC_DELAY_US = 3000
"""Long beside the way of an answer to its client, so that an answer before its sync is seen."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """Something that a client was told, and how long the record was by then."""

    name: str
    work: Work
    is_end: bool
    """That the run was over; else that it was submitted."""
    record_bytes: int


def record_life(folder: Path, disk: Path, record: Path) -> list[Acknowledged]:
    """Runs a daemon on a new home below `disk`, with one restart; gives what clients were told."""
    disk.mkdir()
    injected = Faults(folder, disk, record)
    injected.delay_syncs(SYNC_DELAY_US)
    told: list[Acknowledged] = []
    with Yard(disk) as yard:

        def note(name: str, is_end: bool) -> None:
            work = yard.acknowledged[name]
            told.append(Acknowledged(name, work, is_end, record.stat().st_size))

        def run_some() -> None:
            for _ in range(RUNS // 2):
                name = yard.submit()
                note(name, False)
                yard.client.wait_final([name])
                note(name, True)

        for _ in range(2):
            yard.daemon.spawn(injected.environment)
            yard.keep_serving_until([run_some, run_some], lambda: None)
            yard.daemon.kill()
    return told


def cut_points(steps: list[Step], chance: random.Random, count: int) -> list[int]:
    """Numbers of steps after which the power goes, in order; the last one among them."""
    return sorted({*chance.sample(range(1, len(steps)), min(count, len(steps)) - 1), len(steps)})


def check_left(disk: Path, told: Iterable[Acknowledged]) -> None:
    """Opens what is left with the real daemon and looks for all that clients were told."""
    home = disk / "h"
    submitted = {entry.name: entry.work for entry in told if not entry.is_end}
    ended = {entry.name for entry in told if entry.is_end}

    def look() -> None:
        client = Client(socket_path(home))
        try:
            known = set(client.names())
            assert submitted.keys() <= known, f"lost: {submitted.keys() - known}"
            for name, work in submitted.items():
                is_over = client.run(name).state in FINAL
                assert is_over or name not in ended, f"{name} was over"
                if is_over:
                    client.check_whole(name, work)
        finally:
            client.close()

    async def open_and_look() -> BaseException | None:
        async with served(home):
            return await asyncio.to_thread(_caught, look)

    found = asyncio.run(open_and_look())
    if found is not None:
        raise found
    check_database(home / "runyard.db")
    check_blobs(home, submitted.values())


def _caught(check: Callable[[], None]) -> BaseException | None:
    """What a check raises, so that it comes through task groups as it is."""
    try:
        check()
    except AssertionError as error:
        return error
    return None


def after_cut(case: Case, *, cuts: int = CUTS, drops_syncs: bool = False) -> Counter[str]:
    """Records one life, then loses power at some points of it."""
    chance = case.chance
    disk, record = case.folder / "d", case.folder / "record"
    told = record_life(case.folder, disk, record)
    steps = list(read_record(record))
    model = Disk(disk)
    done = 0
    for point in cut_points(steps, chance, cuts):
        for step in steps[done:point]:
            model.apply(step, drops_syncs=drops_syncs)
        done = point
        left = case.folder / f"cut-{point}"
        left.mkdir()
        model.lose_power(left, chance if chance.random() < 0.5 else None)
        by_then = [e for e in told if e.record_bytes <= steps[point - 1].end_bytes]
        try:
            check_left(left, by_then)
        except AssertionError as error:
            error.add_note(f"power lost after step {point} of {len(steps)}: {left}")
            raise
    return Counter(cuts=cuts, steps=len(steps), told=len(told))


CAMPAIGNS = (
    Campaign(
        "daemon-power-loss",
        "acknowledged runs exist, those told to be over have whole log, metrics and output",
        after_cut,
        full=10,
    ),
)
