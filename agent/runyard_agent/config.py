"""What the agent is started with."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runyard_agent.core.sealing import SealMode
from runyard_agent.environments.conda_programs import AUTO, BUILT_IN
from runyard_contract.environment_spec import channel_fault

ENVIRONMENTS_MAX_BYTES = 50 << 30


@dataclass(frozen=True, slots=True)
class Config:
    """The agent's settings. Times in seconds, sizes in bytes."""

    home: Path
    """Its own folder, mode 0700: lock, identity, bundles, environments, cache."""
    daemon_socket: Path | None
    """Where the daemon listened when the agent was started; None: the machine joined one."""
    blobs: Path | None = None
    """The daemon's content store, where it lies on this machine; None: blobs are fetched."""
    slots: int = 0
    """Runs at one time; 0: the number of CPUs."""
    compute_target: str = "local"
    """The target that this node belongs to."""
    spool_bound_bytes: int = 256 << 20
    """Unacknowledged log bytes of one run on disk before its job is made to wait."""
    environments_max_bytes: int = ENVIRONMENTS_MAX_BYTES
    """Built environments on disk; beyond that, those go that no run has used for longest."""
    channel_mirrors: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Where conda channels are read instead, by channel, in the order in which they are tried."""
    conda: str = AUTO
    """The node's own conda program: "auto" looks for one, "builtin" uses none; else its path."""
    is_offline: bool = False
    """Environments are neither resolved nor built: what is not here is fetched sealed."""
    seal: SealMode = "auto"
    """Which built environments are sealed for other nodes, beside those that are asked for."""
    poll_s: float = 0.25
    """How often the files of an active run that give no signal are looked at."""
    settle_s: float = 2.0
    """A file of a running job is taken when it has not changed for so long."""

    @property
    def is_local(self) -> bool:
        """Whether this agent is beside the daemon: jobs get their caller's variables."""
        return self.compute_target == "local"


def parse(arguments: Sequence[str]) -> Config:
    """Reads the command line; exits with a usage message where it is wrong."""
    parser = argparse.ArgumentParser(
        prog="runyard-agent",
        description="Runs what the daemon leases to this machine. Started by the daemon.",
    )
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--local", action="store_true", help="the daemon's own node")
    kind.add_argument("--joined", action="store_true", help="a machine that joined a daemon")
    parser.add_argument("--home", type=Path, required=True, help="the agent's folder")
    parser.add_argument("--daemon-socket", type=Path, help="of a local agent: the daemon's socket")
    parser.add_argument("--blobs", type=Path, help="the daemon's content store, read in place")
    parser.add_argument("--slots", type=_slots, default=0, help="runs at one time (default: CPUs)")
    parser.add_argument(
        "--environments-max-bytes",
        type=_bytes,
        default=ENVIRONMENTS_MAX_BYTES,
        help="built environments on disk (default: 50 GiB)",
    )
    parser.add_argument(
        "--channel-mirror",
        action="append",
        default=[],
        type=_mirror,
        metavar="CHANNEL=URL",
        help="read a conda channel there instead; repeatable",
    )
    parser.add_argument(
        "--conda",
        type=_conda,
        default=AUTO,
        metavar="auto|builtin|PATH",
        help="the node's own micromamba, mamba or conda (default: one that is found)",
    )
    parser.add_argument(
        "--offline",
        action="store_true",
        help="build no environments: what is not here is fetched sealed from the daemon",
    )
    parser.add_argument(
        "--seal",
        choices=("auto", "always", "never"),
        default="auto",
        help="which built environments are sealed for other nodes (default: auto)",
    )
    given = parser.parse_args(arguments)
    if given.local != (given.daemon_socket is not None):
        parser.error("--daemon-socket goes with --local, and only with it")
    mirrors: dict[str, list[str]] = {}
    for channel, url in given.channel_mirror:
        mirrors.setdefault(channel, []).append(url)
    return Config(
        home=given.home.absolute(),
        daemon_socket=given.daemon_socket.absolute() if given.daemon_socket else None,
        blobs=given.blobs.absolute() if given.blobs else None,
        slots=given.slots,
        environments_max_bytes=given.environments_max_bytes,
        channel_mirrors=mirrors,
        conda=given.conda,
        is_offline=given.offline,
        seal=given.seal,
    )


def _slots(text: str) -> int:
    """A number of slots from 1 to 4,096."""
    if not text.isdecimal() or not 1 <= int(text) <= 4096:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 4096")
    return int(text)


def _bytes(text: str) -> int:
    """A number of bytes over 0."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of bytes over 0")
    return int(text)


def _conda(text: str) -> str:
    """A setting for the node's own conda program."""
    if text not in (AUTO, BUILT_IN) and not text.startswith("/"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither auto, builtin nor an absolute path")
    return text


def _mirror(text: str) -> tuple[str, str]:
    """A channel and where it is read instead."""
    channel, _, url = text.partition("=")
    fault = channel_fault(channel) or channel_fault(url)
    if fault or "://" not in url:
        raise argparse.ArgumentTypeError(f"{text!r}: {fault or 'the mirror is no URL'}")
    return channel, url
