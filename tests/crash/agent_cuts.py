"""The connection between agent and daemon is cut, at any byte, while jobs print without end."""

from __future__ import annotations

import time
from collections import Counter

from crash.cases import Campaign, Case
from runyard_contract.home import socket_path
from support.crash_node import CrashNode, Traffic
from support.cutting_proxy import CuttingProxy
from support.witness import Plan, demand

CUTS = 30
"""Of one home; while it prints some 10 MB."""
LINES = 480_000
SMALLEST, LARGEST = 9.0, 22.0
"""Of a connection, powers of two in bytes: some are cut in their first message."""


def run_cuts(case: Case, cuts: int = CUTS, lines: int = LINES) -> Counter[str]:
    """A new home; two jobs print, and go on until there were enough cuts."""
    chance = case.chance
    node = CrashNode(case.folder)
    node.make_home()
    proxy = CuttingProxy(
        case.folder / "proxy.sock",
        socket_path(node.home),
        lambda: int(2 ** chance.uniform(SMALLEST, LARGEST)),
    )
    node.start_agent(socket=case.folder / "proxy.sock")
    with node, proxy:
        traffic = Traffic(node, chance, _paced, at_once=0)
        for seed in range(2):
            traffic.flights.append(node.submit(Plan(seed, lines, block=400, metric_every=50)))
        deadline = time.monotonic() + 240
        while proxy.cuts < cuts:
            traffic.step(is_last=True)
            if not traffic.flights:
                traffic.flights.append(node.submit(_paced(chance)))
            demand(time.monotonic() < deadline, f"only {proxy.cuts} cuts")
            time.sleep(0.1)
        traffic.settle(limit_s=240)
    bytes_ = node.witness.bytes_checked
    return Counter(cuts=proxy.cuts, runs=node.witness.checked, MB=bytes_ // 1_000_000)


def _paced(chance: object) -> Plan:
    """A job whose output is sent in many small pieces."""
    return Plan(1, lines=60_000, block=100, pause_s=0.003, metric_every=9, output_bytes=300_000)


CAMPAIGNS = (
    Campaign(
        "connection-cut",
        "what is stored equals what was written, whatever was lost or said twice",
        run_cuts,
        full=10,
    ),
)
