"""Memory and CPU of daemon and agent with nothing to do, beside an idle server of each peer."""

from __future__ import annotations

import time

from machine import beside, memory_mib, own_cpu_seconds, peer, processes_of, row, temporary_home

SETTLE_S = 3.0
OVER_S = 30.0
CPU_BUDGET = 0.001
DAEMON_BUDGET_MIB = 60
AGENT_BUDGET_MIB = 50


def main() -> None:
    from runyard import Experiment, ScriptRunConfig, Workspace

    with temporary_home() as root:
        folder = root / "project"
        folder.mkdir()
        (folder / "x.py").write_text("")
        config = ScriptRunConfig(source_directory=str(folder), script="x.py")
        Experiment(Workspace(), "idle").submit(config).wait_for_completion()
        time.sleep(SETTLE_S)
        roles = processes_of(root / "home")
        daemon, agent = roles["daemon"], roles["agent"] + roles["supervisor"]
        shares = {}
        for name, pids in (("daemon", daemon), ("agent", agent)):
            shares[name] = -sum(map(own_cpu_seconds, pids))
        time.sleep(OVER_S)
        for name, pids in (("daemon", daemon), ("agent", agent)):
            shares[name] = (shares[name] + sum(map(own_cpu_seconds, pids))) / OVER_S
        daemon_mib = sum(map(memory_mib, daemon))
        # Supervisors share the interpreter's pages: their proportional size is what they cost.
        agent_mib = sum(memory_mib(pid, "Pss") for pid in agent)
        others = beside(
            Ray_head=(peer("ray", "idle_mib"), "MiB"),
            MLflow_server=(peer("mlflow", "idle_mib"), "MiB"),
            Slurm=(peer("slurm", "idle_mib"), "MiB"),
        )
        for name, memory, budget, measure in (
            ("daemon", daemon_mib, DAEMON_BUDGET_MIB, "resident"),
            ("agent with supervisors", agent_mib, AGENT_BUDGET_MIB, "proportional"),
        ):
            row(
                f"idle {name}: memory",
                f"{memory:.0f} MiB {measure}",
                others,
                None,
                f"under {budget} MiB",
                memory < budget,
            )
        for name, share in shares.items():
            row(
                f"idle {name}: CPU",
                f"{share * 100:.3f} % of a core over {OVER_S:.0f} s",
                "",
                None,
                "under 0.1 %",
                share < CPU_BUDGET,
            )


if __name__ == "__main__":
    main()
