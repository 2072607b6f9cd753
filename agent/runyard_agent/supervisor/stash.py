"""What must outlive a slot's supervisor, kept by the kernel in the queue of a socket pair.

Before a job starts, its supervisor sends the run's bundle and the read ends of its FIFOs into
the pair and takes them out again after the end. The warm parent holds the pair as well and
reads it only when the supervisor has died: bytes in a pipe and the name of the run survive,
and the parent is never woken for a run that goes well.
"""

from __future__ import annotations

import os
import socket

MESSAGE_BYTES = 4 << 10


class Stash:
    """Entries of (bundle, descriptors), first in, first out."""

    __slots__ = ("_inlet", "outlet")

    def __init__(self, inlet: socket.socket | None, outlet: socket.socket) -> None:
        self._inlet = inlet
        self.outlet = outlet
        outlet.setblocking(False)

    @classmethod
    def create(cls) -> Stash:
        """An empty stash with both its ends."""
        inlet, outlet = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        inlet.setblocking(False)
        return cls(inlet, outlet)

    def put(self, bundle: str, fds: list[int]) -> None:
        """Keeps the descriptors alive until `remove`, whatever becomes of this process."""
        if self._inlet is None:
            raise RuntimeError("this side of the stash only takes out")
        socket.send_fds(self._inlet, [os.fsencode(bundle)], fds)

    def remove(self, bundle: str) -> None:
        """Takes out the entry of a bundle; older ones found on the way go back in."""
        passed = []
        while (entry := self._take()) is not None:
            if entry[0] == bundle:
                _close(entry[1])
                break
            passed.append(entry)
        for name, fds in passed:
            self.put(name, fds)
            _close(fds)

    def take_all(self) -> list[tuple[str, list[int]]]:
        """All entries, oldest first; the caller owns the descriptors."""
        entries: list[tuple[str, list[int]]] = []
        while (entry := self._take()) is not None:
            entries.append(entry)
        return entries

    def _take(self) -> tuple[str, list[int]] | None:
        try:
            data, fds, _, _ = socket.recv_fds(
                self.outlet, MESSAGE_BYTES, 8, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return None
        return (os.fsdecode(data), fds) if data else None  # no data: the sending end is gone

    def close_inlet(self) -> None:
        """Gives up the sending end (the parent's side after the fork)."""
        if self._inlet is not None:
            self._inlet.close()
            self._inlet = None

    def close(self) -> None:
        """Closes this process's ends."""
        self.close_inlet()
        self.outlet.close()


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
