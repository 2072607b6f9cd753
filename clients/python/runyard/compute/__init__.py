"""Compute targets: named places where runs execute."""

from __future__ import annotations

from runyard.compute.target import ComputeNode, ComputeStatus, ComputeTarget
from runyard_contract.errors import ComputeNotFound

# The name that Azure ML has for it.
ComputeTargetException = ComputeNotFound

__all__ = [
    "ComputeNode",
    "ComputeNotFound",
    "ComputeStatus",
    "ComputeTarget",
    "ComputeTargetException",
]
