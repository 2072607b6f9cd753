"""Settings of a daemon, read once at its start."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from runyard_contract.addresses import HostPort
from runyard_contract.errors import SpecInvalid
from runyard_contract.home import data_home
from runyard_daemon.core.retention import RetentionPolicy
from runyard_daemon.settings import ENVIRONMENTS_MAX_BYTES, SEAL_MODES, DiskLimits, read_settings

IDLE_END_VARIABLE = "RUNYARD_IDLE_END_S"
IDLE_END_S = 3 * 3600.0


@dataclass(frozen=True, slots=True)
class Config:
    """What a daemon is started with. Durations are seconds."""

    home: Path
    """The data directory, absolute."""
    is_embedded: bool = False
    """Started by a client for one user, rather than by `daemon serve`."""
    idle_end_s: float = IDLE_END_S
    """An embedded daemon ends after that long without runs, clients or attached targets."""
    has_local_target: bool = True
    """Whether runs may name the daemon's own machine, `local`."""
    has_local_agent: bool = True
    """Whether the daemon keeps an agent for the target `local` on its own machine."""
    stream_heartbeat_s: float = 15.0
    """Longest silence of a stream to a client."""
    agent_heartbeat_s: float = 30.0
    """How often an agent with nothing to say is asked to say so."""
    out_of_touch_s: float = 75.0
    """A node without a session for that long is out of touch (lease of 60 s and margin of 15 s)."""
    upload_idle_s: float = 60.0
    """An upload that brings nothing for that long is ended."""
    collect_s: float = 120.0
    """How long a node may take to send a working folder."""
    drain_s: float = 5.0
    """How long calls under way may take when the daemon stops."""
    cancel_runs_s: float = 45.0
    """How long a stop with cancel waits for the runs' ends."""
    workdir_keep_s: float = 24 * 3600.0
    """How long a node keeps what a script wrote outside outputs/ and logs/."""
    janitor_s: float = 600.0
    """Pause between two rounds of clean-up."""
    retention: RetentionPolicy | None = None
    """What each round removes of ended runs; None: nothing."""
    disk: DiskLimits = field(default_factory=DiskLimits)
    """When the disk counts as full."""
    environments_max_bytes: int = ENVIRONMENTS_MAX_BYTES
    """Built environments that the local agent keeps."""
    channel_mirrors: tuple[tuple[str, str], ...] = ()
    """Conda channels, and where the local agent reads them instead."""
    conda: str = "auto"
    """The local agent's own conda program: "auto" looks for one, "builtin" uses none; a path."""
    is_offline: bool = False
    """The local agent builds no environments: what is not there is taken sealed."""
    seal: str = SEAL_MODES[0]
    """Which built environments the local agent seals."""
    queued_runs_max: int = 250_000
    """Runs that may wait; more are refused until some have started."""
    metrics_file: Path | None = None
    """Where the daemon keeps its figures for monitoring; None: nowhere."""
    garbage_s: float = 6 * 3600.0
    """Pause before each collection of content that nothing needs."""
    listen: HostPort | None = None
    """The port of people; None: the Unix socket alone."""
    agent_listen: HostPort | None = None
    """The port of nodes that joined; None: none can."""


def load(
    environ: Mapping[str, str],
    *,
    home: Path | None,
    is_embedded: bool,
    metrics_file: Path | None = None,
    listen: HostPort | None = None,
    agent_listen: HostPort | None = None,
) -> Config:
    """Puts the settings together. Raises SpecInvalid for a variable or `daemon.toml` at fault."""
    chosen = home.absolute() if home is not None else data_home(environ)
    idle_text = environ.get(IDLE_END_VARIABLE)
    settings = read_settings(chosen)
    return Config(
        home=chosen,
        is_embedded=is_embedded,
        idle_end_s=_seconds(idle_text) if idle_text else IDLE_END_S,
        retention=settings.retention,
        disk=settings.disk,
        environments_max_bytes=settings.environments_max_bytes,
        channel_mirrors=settings.channel_mirrors,
        conda=settings.conda,
        is_offline=settings.is_offline,
        seal=settings.seal,
        metrics_file=metrics_file.absolute() if metrics_file is not None else None,
        # Jobs of others would run as the daemon's own account, which holds its keys.
        has_local_target=listen is None,
        has_local_agent=listen is None,
        listen=listen,
        agent_listen=agent_listen,
    )


def _seconds(text: str) -> float:
    """A number of seconds over 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise SpecInvalid(
            f"{IDLE_END_VARIABLE} is {text!r}, which is no number of seconds over 0",
            hint=f"unset {IDLE_END_VARIABLE}, or set it to seconds, such as 10800",
            value=text,
        )
    return value
