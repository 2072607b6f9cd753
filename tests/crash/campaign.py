"""Runs crash campaigns and prints a table: `make crash`, or `python -m crash.campaign --help`.

Each case has a seed and a folder of its own. A case that fails is named with what repeats it, and
its folder is kept.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import multiprocessing
import os
import platform
import queue
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crash.cases import Campaign, Case, Over

PROGRESS_CASES = 20
NOT_CAMPAIGNS = frozenset({"campaign", "cases"})


@dataclass(slots=True)
class Tally:
    """What came of a campaign."""

    cases: int = 0
    did: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    elapsed_s: float = 0.0
    is_cut_off: bool = False
    """By a person, before all cases were run."""


def campaigns() -> dict[str, Campaign]:
    """All campaigns of this folder, by name, in order of their modules."""
    found: dict[str, Campaign] = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem in NOT_CAMPAIGNS or path.stem.startswith("test_"):
            continue
        module = importlib.import_module(f"crash.{path.stem}")
        found.update((campaign.name, campaign) for campaign in getattr(module, "CAMPAIGNS", ()))
    return found


def run_case(campaign: Campaign, number: int, seed: int) -> Counter[str]:
    """Runs one case in a new folder, which is removed unless the case fails."""
    folder = Path(tempfile.mkdtemp(dir="/tmp", prefix="ry-"))
    case = Case(campaign.name, number, seed, folder)
    try:
        did = campaign.run(case)
    except Over:
        shutil.rmtree(folder)
        raise
    except BaseException as error:
        error.add_note(
            f"{campaign.name}, seed {seed}, case {number}; folder kept: {folder}\n"
            f"again: make crash ONLY={campaign.name}:{number} SEED={seed}"
        )
        raise
    shutil.rmtree(folder)
    return did


def _work(name: str, seed: int, numbers: Any, results: Any) -> None:
    """Takes cases until there are none; one process of several."""
    campaign = campaigns()[name]
    while (number := numbers.get()) is not None:
        try:
            results.put((number, run_case(campaign, number, seed), ""))
        except Over:
            results.put((number, None, ""))
        except Exception:  # the edge: whatever a case raises is its result
            results.put((number, Counter[str](), traceback.format_exc()))


def run_campaign(campaign: Campaign, numbers: range, seed: int, jobs: int) -> Tally:
    """Runs cases on several processes; an enumeration ends at its first case that is over."""
    tally = Tally()
    started = time.monotonic()
    context = multiprocessing.get_context("spawn")
    waiting, results = context.Queue(), context.Queue()
    left: Iterator[int] = iter(numbers)
    workers = [
        context.Process(target=_work, args=(campaign.name, seed, waiting, results))
        for _ in range(min(jobs, len(numbers)))
    ]
    for worker in workers:
        worker.start()
        waiting.put(next(left))
    try:
        _take_results(campaign, tally, left, waiting, results, workers)
    except KeyboardInterrupt:
        tally.is_cut_off = True
    for worker in workers:
        worker.join()
    tally.elapsed_s = time.monotonic() - started
    return tally


def _take_results(
    campaign: Campaign,
    tally: Tally,
    left: Iterator[int],
    waiting: Any,
    results: Any,
    workers: list[Any],
) -> None:
    """Adds up what the processes bring, and gives each its next case, until all have ended."""
    running = len(workers)
    while running:
        number, did, failure = _result(results, workers)
        if did is None:
            left = iter(())
        else:
            tally.cases += 1
            tally.did.update(did)
            if tally.cases % PROGRESS_CASES == 0:
                print(f"{campaign.name}: {tally.cases} cases, at {number}", file=sys.stderr)
        if failure:
            tally.failures.append(failure)
            print(f"\n{campaign.name} case {number} FAILED\n{failure}", flush=True)
        following = next(left, None)
        waiting.put(following)
        running -= following is None


def _result(results: Any, workers: list[Any]) -> tuple[int, Counter[str] | None, str]:
    """The next result. Raises RuntimeError where the processes died instead."""
    while True:
        try:
            return results.get(timeout=1.0)  # type: ignore[no-any-return]
        except queue.Empty:
            if not any(worker.is_alive() for worker in workers):
                raise RuntimeError("all processes of the campaign died") from None


def row(campaign: Campaign, tally: Tally) -> str:
    """A campaign's line of the table."""
    did = ", ".join(f"{count:,} {what}" for what, count in sorted(tally.did.items()))
    return (
        f"| {campaign.name} | {campaign.promise} | {tally.cases:,} | {did} "
        f"| {len(tally.failures)} | {tally.elapsed_s:.0f} s{', cut off' * tally.is_cut_off} |"
    )


def head(seed: int) -> str:
    """What stands above the table."""
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} "
    machine += f"{platform.release()}, Python {platform.python_version()}"
    return (
        f"{day}, {machine}, seed {seed}\n\n"
        "| campaign | what holds | cases | of which | broken | took |\n"
        "| --- | --- | --- | --- | --- | --- |"
    )


def _parser(known: dict[str, Campaign]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="crash.campaign", description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of all chance")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME[:CASE]",
        help="a campaign, or one case of it; may be repeated; known: " + ", ".join(known),
    )
    parser.add_argument("--count", type=int, help="cases of each campaign instead of its own")
    parser.add_argument("--first", type=int, default=1, help="number of the first case")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="cases at a time")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Runs what is asked for; gives 1 where a promise was broken."""
    known = campaigns()
    parser = _parser(known)
    asked = parser.parse_args(arguments)
    chosen: list[tuple[Campaign, range]] = []
    for text in asked.only or known:
        name, _, number = text.partition(":")
        if name not in known:
            parser.error(f"no campaign {name!r}; known: {', '.join(known)}")
        count = asked.count or known[name].full
        numbers = (
            range(int(number), int(number) + 1)
            if number
            else range(asked.first, asked.first + count)
        )
        chosen.append((known[name], numbers))
    rows = []
    is_broken = False
    for campaign, numbers in chosen:
        tally = run_campaign(campaign, numbers, asked.seed, asked.jobs)
        rows.append(row(campaign, tally))
        print(rows[-1], flush=True)
        is_broken |= bool(tally.failures)
        if tally.is_cut_off:
            break
    print(f"\n{head(asked.seed)}", *rows, sep="\n")
    return int(is_broken)


if __name__ == "__main__":
    sys.exit(main())
