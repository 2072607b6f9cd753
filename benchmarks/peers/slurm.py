"""Slurm: controller and one node of two cores on loopback, tuned as far as its options go."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

sys.path.append(os.path.dirname(__file__))
from probe import latencies, pss_mib, report, scratch

PORT = 26817
ARRAY = 60
ARRAY_LIMIT_S = 25.0
CONFIGURATION = """ClusterName=mini
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=sched_min_interval=1000,sched_interval=1,batch_sched_delay=0,bf_interval=1
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={node_port} CPUs=2 RealMemory=1000
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def main() -> None:
    with scratch() as folder:
        for name in ("state", "spool"):
            (folder / name).mkdir()
        configuration = folder / "slurm.conf"
        configuration.write_text(
            CONFIGURATION.format(
                host=socket.gethostname().partition(".")[0],
                port=PORT,
                node_port=PORT + 11,
                folder=folder,
            )
        )
        os.environ["SLURM_CONF"] = str(configuration)
        servers = [
            subprocess.Popen([*command, "-D", "-f", str(configuration)], stdout=sys.stderr)
            for command in (["/usr/sbin/slurmctld", "-c"], ["/usr/sbin/slurmd", "-N", "n1"])
        ]
        try:
            wait_until_idle(30)
            figures = latencies(
                folder, lambda m: subprocess.run(["srun", "-n1", "touch", m], check=True), 20
            )
            figures["idle_mib"] = pss_mib(server.pid for server in servers)
            figures["true_per_s"] = array_rate(folder)
        finally:
            subprocess.run(["scancel", "--user=root"], check=False)
            for server in reversed(servers):
                server.terminate()
            for server in servers:
                server.wait()
    report(figures)


def wait_until_idle(limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while True:
        state = subprocess.run(["sinfo", "-hN", "-o%T"], capture_output=True, text=True).stdout
        if state.strip() == "idle":
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"the node is {state!r}")
        time.sleep(0.1)


def array_rate(folder: Path) -> float:
    """Tasks a second of an array that appends to a file, cut off at a limit."""
    done = folder / "done"
    done.touch()
    command = ["sbatch", f"--array=1-{ARRAY}", "-o/dev/null", f"--wrap=echo >> {done}"]
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=sys.stderr)
    while done.stat().st_size < ARRAY and time.perf_counter() - begin < ARRAY_LIMIT_S:
        time.sleep(0.01)
    return done.stat().st_size / (time.perf_counter() - begin)


if __name__ == "__main__":
    main()
