"""What all attempts of this agent share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor as ThreadExecutor
from dataclasses import dataclass

from runyard_agent.attempt import Attempt
from runyard_agent.builtahead import BuiltAhead
from runyard_agent.config import Config
from runyard_agent.deadlines import Deadlines
from runyard_agent.environments.cache import EnvironmentCache
from runyard_agent.environments.protocol import EnvironmentBuilder
from runyard_agent.executors.protocol import Executor
from runyard_agent.folders import Folders
from runyard_agent.gpus import Gpus
from runyard_agent.home import Home
from runyard_agent.launch import Specs
from runyard_agent.link import Link
from runyard_agent.sealer import Sealer
from runyard_agent.shipping.append import Appender
from runyard_agent.shipping.content import ContentSender
from runyard_agent.sources import BlobSource


@dataclass(frozen=True, slots=True)
class Node:
    """This machine's half of runyard, as an attempt sees it."""

    config: Config
    home: Home
    link: Link
    appender: Appender
    sender: ContentSender
    executor: Executor
    builders: Mapping[str, EnvironmentBuilder]
    environments: EnvironmentCache
    source: BlobSource
    sealer: Sealer
    gpus: Gpus
    disk: ThreadExecutor
    """Where larger file work is done."""
    specs: Specs
    changed: Callable[[Attempt], None]
    """Told of an attempt of which there is something to report."""
    folders: Folders
    """Folders that runs have left as they were."""
    built_ahead: BuiltAhead
    trash: Callable[[str], None]
    """Takes a path that is to be deleted some time."""
    unheard_ends: Deadlines
    """Ends that the daemon has not taken over yet."""
    unbegun: Deadlines
    """Runs that came ahead and wait behind another."""
    first_looks: Deadlines
    """Runs of which nobody has looked for what gives no signal."""
