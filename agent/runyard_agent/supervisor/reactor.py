"""One epoll loop: descriptors, signals and a deadline."""

from __future__ import annotations

import os
import select
import signal

from runyard_agent.supervisor.clock import boot_ns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
LONGEST_WAIT_NS = 30_000_000_000
"""epoll's timeout stands still while the machine sleeps and ours must not: look again by then."""


def _ignore(signum: int, frame: object) -> None:
    """Exists so that the signal reaches the wake-up pipe instead of its default action."""


class Reactor:
    """Calls handlers for readable descriptors and for signals, on the caller's thread."""

    __slots__ = ("_epoll", "_handlers", "_signal_handlers", "_wake_reader", "_wake_writer")

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._signal_handlers: dict[int, Callable[[], None]] = {}
        self._wake_reader, self._wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._wake_writer, warn_on_full_buffer=False)
        self.watch(self._wake_reader, READ, self._on_wake)

    def watch(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        """Calls `handler(events)` whenever the descriptor has one of the events."""
        self._handlers[fd] = handler
        self._epoll.register(fd, events)

    def rewatch(self, fd: int, events: int) -> None:
        """Changes the events of a watched descriptor."""
        self._epoll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """Ends watching; call it before the descriptor is closed."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def forget_closed(self, fd: int) -> None:
        """Ends watching a descriptor that was just closed (which took it out of epoll's set)."""
        self._handlers.pop(fd, None)

    def on_signal(self, signum: int, handler: Callable[[], None]) -> None:
        """Calls `handler()` from the loop after the signal, once for several pending ones."""
        self._signal_handlers[signum] = handler
        signal.signal(signum, _ignore)

    def poll(self, deadline_ns: int | None) -> None:
        """Waits for events, at most until the deadline (boot clock), and handles them."""
        timeout_s = None
        if deadline_ns is not None:
            timeout_s = min(max(deadline_ns - boot_ns(), 0), LONGEST_WAIT_NS) / 1e9
        for fd, events in self._epoll.poll(timeout_s):
            handler = self._handlers.get(fd)  # an earlier handler may have closed it
            if handler is not None:
                handler(events)

    def close(self) -> None:
        """Closes its own descriptors only: in a forked child the epoll set is still shared."""
        signal.set_wakeup_fd(-1)
        self._epoll.close()
        os.close(self._wake_reader)
        os.close(self._wake_writer)

    def _on_wake(self, events: int) -> None:
        for signum in set(os.read(self._wake_reader, 4096)):
            handler = self._signal_handlers.get(signum)
            if handler is not None:
                handler()
