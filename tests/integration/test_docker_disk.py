"""An engine whose disk is full: told as such, nothing left, and it goes on when there is room."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.docker_cases import Site
from contract.environment_builder_suite import Log, execute_shell, provide, run
from runyard_agent.environments.protocol import EnvironmentFailed
from runyardpb.v1.environments_pb2 import DockerImage, EnvironmentSpec
from support.docker_engine import SHELL_IMAGE, DockerEngine, lacking_engine, make_shell_root
from support.registry import fresh_file, registry
from support.small_disk import fill, lacking, small_disk

DISK_BYTES = 128 << 20
FULL = "the disk of the Docker engine is full"
