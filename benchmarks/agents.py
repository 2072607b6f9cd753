"""1,000 agents, connected over real gRPC, with nothing to do: the daemon's CPU and memory.

The agents are streams of this process, each on a connection of its own; they say Hello and send the
heartbeats that the daemon's Welcome asks for.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import grpc
from machine import memory_mib, own_cpu_seconds, processes_of, row, temporary_home

from runyard_contract.version import PROTOCOL_VERSION, build_id
from runyardpb.agent.v1 import agent_pb2 as pb
from runyardpb.agent.v1.agent_pb2_grpc import AgentServiceStub
from runyardpb.v1 import common_pb2

AGENTS = 1000
WELCOME_LIMIT_S = 120.0
PACE_S = 0.003
OVER_S = 30.0
CPU_BUDGET = 0.03
MEMORY_BUDGET_MIB = 120


async def one_agent(address: str, number: int, welcomed: asyncio.Semaphore) -> None:
    """Opens a session and keeps it alive until it is cancelled."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        call = AgentServiceStub(channel).Session()
        hello = pb.Hello(
            node_id=f"bench-{number}",
            hostname=f"bench-{number}",
            agent_version=build_id(),
            protocol_version=PROTOCOL_VERSION,
            boot_id="boot",
            machine_id=f"machine-{number}",
            compute_target="local",
            slots=2,
            capacity=common_pb2.Resources(cpu_millicores=2000, memory_bytes=4 << 30),
            platform="linux-x86_64",
            job_account="bench",
        )
        await call.write(pb.SessionRequest(sequence=1, hello=hello))
        welcome = (await call.read()).welcome
        welcomed.release()
        interval_s = welcome.heartbeat_interval.ToNanoseconds() / 1e9
        sequence = 1
        try:
            while True:
                await asyncio.sleep(interval_s)
                sequence += 1
                await call.write(pb.SessionRequest(sequence=sequence))
        finally:
            call.cancel()


async def measure(address: str, daemon: int) -> tuple[float, float]:
    """Share of one core and MiB of the daemon while the agents are idle."""
    welcomed = asyncio.Semaphore(0)
    agents = []
    for number in range(AGENTS):
        agents.append(asyncio.create_task(one_agent(address, number, welcomed)))
        await asyncio.sleep(PACE_S)
    async with asyncio.timeout(WELCOME_LIMIT_S):
        for _ in range(AGENTS):
            await welcomed.acquire()
    before, begin = own_cpu_seconds(daemon), time.perf_counter()
    await asyncio.sleep(OVER_S)
    share = (own_cpu_seconds(daemon) - before) / (time.perf_counter() - begin)
    memory = memory_mib(daemon)
    for agent in agents:
        agent.cancel()
    await asyncio.gather(*agents, return_exceptions=True)
    return share, memory


def main() -> None:
    from runyard import Experiment, ScriptRunConfig, Workspace

    with temporary_home() as root:
        folder = root / "project"
        folder.mkdir()
        (folder / "x.py").write_text("")
        config = ScriptRunConfig(source_directory=str(folder), script="x.py")
        Experiment(Workspace(), "agents").submit(config).wait_for_completion()
        (daemon,) = processes_of(root / "home")["daemon"]
        idle_mib = memory_mib(daemon)
        socket = next(Path(root / "home").rglob("*.sock"))
        share, memory = asyncio.run(measure(f"unix:{socket}", daemon))
        row(
            f"{AGENTS:,} connected idle agents: daemon's CPU",
            f"{share * 100:.1f} % of a core over {OVER_S:.0f} s",
            "",
            None,
            f"under {CPU_BUDGET * 100:.0f} %",
            share < CPU_BUDGET,
        )
        row(
            f"{AGENTS:,} connected idle agents: daemon's memory",
            f"{memory:.0f} MiB",
            f"without them {idle_mib:.0f} MiB",
            memory / idle_mib,
            f"under {MEMORY_BUDGET_MIB} MiB",
            memory < MEMORY_BUDGET_MIB,
        )


if __name__ == "__main__":
    main()
