"""Whole GPUs, given to one run at a time."""

from __future__ import annotations

from collections.abc import Iterable


class GpusTaken(Exception):
    """A run wants more GPUs than are free."""


class Gpus:
    """The node's GPUs by index."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._free = set(range(count))

    def take(self, wanted: int) -> tuple[int, ...]:
        """So many free ones, lowest index first. Raises GpusTaken."""
        if wanted > len(self._free):
            raise GpusTaken(
                f"{wanted} GPUs are wanted, {len(self._free)} of {self._count} are free"
            )
        chosen = tuple(sorted(self._free)[:wanted])
        self._free.difference_update(chosen)
        return chosen

    def claim(self, indices: Iterable[int]) -> None:
        """Notes GPUs that a run already has."""
        self._free.difference_update(indices)

    def give(self, indices: Iterable[int]) -> None:
        """These are free again."""
        self._free.update(index for index in indices if 0 <= index < self._count)
