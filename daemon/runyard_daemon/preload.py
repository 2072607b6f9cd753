"""Imports all code at the start.

An update of the installed package must not mix two versions in one process, so nothing of it, and
nothing that it needs, may be imported later.
"""

from __future__ import annotations

import importlib
import pkgutil

_OURS = ("runyard_contract", "runyardpb", "runyard_daemon")
_OTHERS = (
    "ctypes",
    "difflib",
    "google.rpc.error_details_pb2",
    "google.rpc.status_pb2",
    "grpc._utilities",
    "importlib.metadata",
    "pathspec",
    "traceback",
)


_OF_PORTS = ("runyard_daemon.identity.authority", "runyard_daemon.rpc.ports")


def preload(*, has_ports: bool) -> None:
    """Imports every module of the daemon and what those import only when needed.

    Args:
        has_ports: also what only a daemon with ports on a network needs.
    """
    for name in _OTHERS:
        importlib.import_module(name)
    for package in _OURS:
        folder = importlib.import_module(package).__path__
        for found in pkgutil.walk_packages(folder, f"{package}."):
            is_needed = has_ports or found.name not in _OF_PORTS
            if is_needed and not found.name.endswith("__main__"):
                importlib.import_module(found.name)
