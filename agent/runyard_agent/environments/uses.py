"""Which built environments runs have or wait for: these are not removed."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class _Use:
    """What one run keeps. One that waits keeps whatever is built, as it may be for it."""

    lock_hashes: set[str] = field(default_factory=set)
    is_waiting: bool = False


class Uses:
    """The environments in use on this node, by run.

    Belongs to the event loop. A run begins to wait before it asks for an environment and has it
    before anything else happens, so that no moment is left in which it could be removed.
    """

    def __init__(self) -> None:
        self._uses: dict[str, _Use] = {}

    def wait(self, user: str) -> None:
        """A run asks for an environment; harmless when repeated."""
        self._uses.setdefault(user, _Use()).is_waiting = True

    def built(self, lock_hash: str) -> None:
        """An environment is there, and those who wait may get it."""
        for use in self._uses.values():
            if use.is_waiting:
                use.lock_hashes.add(lock_hash)

    def has(self, user: str, lock_hash: str | None) -> None:
        """A run has this environment, and no other; None: one that is not built."""
        if lock_hash is None:
            self.release(user)
        else:
            self._uses[user] = _Use({lock_hash})

    def release(self, user: str) -> frozenset[str]:
        """A run has no environment any more: its processes are gone, or never were.

        Gives those that it had until now.
        """
        use = self._uses.pop(user, None)
        return frozenset(use.lock_hashes) if use is not None else frozenset()

    def lock_hashes(self) -> frozenset[str]:
        """All that are in use."""
        return frozenset().union(*(use.lock_hashes for use in self._uses.values()))
