"""A disk that fails once, at each step in turn, and one that stays full or read-only."""

from __future__ import annotations

import errno
import functools
import threading
import time
from collections import Counter

from crash.cases import Campaign, Case, Over
from crash.yard import Yard
from support.faults import Action, Faults, Kind
from support.house import eventually
from support.small_disk import fill, small_disk

REFUSALS = ("DISK_FULL", "DISK_FAILED", "READ_ONLY", "WRITER_BUSY", "DRAINING")
EXIT_DISK = 75
GROWING = Kind.WRITE | Kind.NAME | Kind.SIZE
RUNS_BEFORE = 3
SMALL_DISK_BYTES = 8 << 20


def fails_once(case: Case, error: int) -> Counter[str]:
    """A new home; the n-th durable step of its first daemon fails, n being the case."""
    injected = Faults(case.folder, case.folder / "h")
    with Yard(case.folder, REFUSALS) as yard:
        injected.arm(Action.FAIL_ONCE, case.number, error=error)
        yard.daemon.spawn(injected.environment)
        yard.keep_serving_until([yard.run_one], lambda: come_back(yard))
        yard.stop()
        yard.settle()
        yard.check_journal()
        yard.close()
        yard.check_files()
        if injected.steps < case.number:
            raise Over
        return Counter(faults=1, runs=len(yard.acknowledged), refusals=len(yard.client.refused))


def come_back(yard: Yard) -> None:
    """Starts the daemon again, as a client would, after it gave a reason for its end."""
    code = yard.daemon.wait()
    events = yard.events()
    is_explained = code == EXIT_DISK and any(e["event"] == "store_failed" for e in events)
    if not is_explained:
        text = yard.daemon.log.read_text()
        assert "Traceback" not in text, text
        assert code > 0, f"ended with {code}: {text}"
        assert "fix:" in text, f"ended with {code} and says nothing: {text!r}"
    yard.daemon.start()


def stays(case: Case, error: int, kinds: Kind) -> Counter[str]:
    """From a random step on every write fails, until the disk is mended; the daemon lives on."""
    injected = Faults(case.folder, case.folder / "h")
    chance = case.chance
    with Yard(case.folder, REFUSALS) as yard:
        yard.daemon.spawn(injected.environment)
        for _ in range(RUNS_BEFORE):
            yard.run_one()
        known = list(yard.acknowledged)
        injected.arm(Action.FAIL_FROM, chance.randrange(1, 60), error=error, kinds=kinds)
        is_mended = threading.Event()

        def look_and_mend() -> None:
            eventually(lambda: yard.client.refused, what="a refusal")
            for name in known:  # what is there can be read all the while
                yard.client.check_whole(name, yard.acknowledged[name])
            time.sleep(chance.uniform(0, 0.5))  # how long the disk stays so is what is tried
            injected.calm()
            is_mended.set()

        def submit_on() -> None:
            while not is_mended.is_set():
                yard.submit()

        yard.keep_serving_until([look_and_mend, submit_on, submit_on], lambda: died(yard))
        yard.settle()
        yard.check_journal()
        pid = yard.daemon.pid
        yard.run_one()
        assert yard.daemon.pid == pid, "the daemon was started again"
        yard.close()
        yard.check_files()
        return Counter(runs=len(yard.acknowledged), refusals=len(yard.client.refused))


def small_disk_full(case: Case) -> Counter[str]:
    """Daemon, agent and supervisor on a disk that really is full for a while."""
    chance = case.chance
    with small_disk(case.folder, SMALL_DISK_BYTES) as disk, Yard(disk, REFUSALS) as yard:
        yard.daemon.start()
        for _ in range(RUNS_BEFORE):
            yard.run_one()
        known = list(yard.acknowledged)
        for _ in range(chance.randrange(4)):
            yard.submit()  # some are under way when the disk fills
        ballast = fill(disk)
        is_mended = threading.Event()

        def look_and_mend() -> None:
            eventually(lambda: yard.client.refused, what="a refusal")
            for name in known:
                yard.client.check_whole(name, yard.acknowledged[name])
            ballast.unlink()
            is_mended.set()

        def submit_on() -> None:
            while not is_mended.is_set():
                yard.submit()

        pid = yard.daemon.pid
        yard.keep_serving_until([look_and_mend, submit_on], lambda: died(yard))
        exposed = yard.acknowledged.keys() - set(known)
        yard.run_one()
        yard.settle(exposed)
        yard.check_journal()
        assert yard.daemon.pid == pid, "the daemon was started again"
        yard.close()
        yard.check_files()
        return Counter(runs=len(yard.acknowledged), refusals=len(yard.client.refused))


def died(yard: Yard) -> None:
    """Says how the daemon ended, which it should not have."""
    code = yard.daemon.wait()
    raise AssertionError(f"the daemon ended with {code}: {yard.daemon.log.read_text()}")


CAMPAIGNS = (
    Campaign(
        "daemon-enospc-step",
        "the caller is told, nothing acknowledged is lost, service goes on by itself",
        functools.partial(fails_once, error=errno.ENOSPC),
        full=1000,
    ),
    Campaign(
        "daemon-eio-step",
        "the caller is told, nothing acknowledged is lost; after a failed sync the daemon ends",
        functools.partial(fails_once, error=errno.EIO),
        full=1000,
    ),
    Campaign(
        "daemon-disk-full",
        "submits are refused, reads answered; all goes on by itself when there is space",
        functools.partial(stays, error=errno.ENOSPC, kinds=GROWING),
        full=40,
    ),
    Campaign(
        "daemon-read-only",
        "submits are refused, reads answered; all goes on by itself when it can be written",
        functools.partial(stays, error=errno.EROFS, kinds=GROWING),
        full=20,
    ),
    Campaign(
        "small-disk-full",
        "the same for daemon and agent on a tmpfs of 8 MiB that is really full",
        small_disk_full,
        full=20,
    ),
)
