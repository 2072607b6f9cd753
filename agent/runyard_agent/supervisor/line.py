"""A listening socket of which only the newest connection counts: the line to the agent."""

from __future__ import annotations

from runyard_agent.supervisor.reactor import READ, WRITE, Reactor
from runyard_agent.supervisor.wire import Connection, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from runyard_agent.supervisor.wire import Message


class Line:
    """Tells and hears one peer; while there is none, what is told is dropped: the disk has it."""

    __slots__ = ("_events", "_greet", "_hear", "_held", "_listener", "_peer", "_reactor")

    def __init__(
        self,
        reactor: Reactor,
        listener: socket.socket,
        greet: Callable[[], None],
        hear: Callable[[Message], None],
    ) -> None:
        """`greet()` is called when a new peer has taken the line, `hear` for each message."""
        self._reactor = reactor
        self._listener = listener
        self._greet = greet
        self._hear = hear
        self._peer: Connection | None = None
        self._held: bytearray | None = None
        self._events = READ
        reactor.watch(listener.fileno(), READ, self._on_peer)

    @property
    def is_open(self) -> bool:
        """Whether someone is on the line."""
        return self._peer is not None

    def tell(self, message: Message) -> None:
        """Sends or queues a message; a peer that has stopped reading loses the line."""
        self.tell_line(encode(message))

    def tell_line(self, line: bytes) -> None:
        """The same with a message that is encoded already."""
        if self._held is not None:
            self._held += line
            return
        peer = self._peer
        if peer is not None:
            fd = peer.fileno()
            peer.send_line(line)
            self._follow(peer, fd)

    def hold(self) -> None:
        """What is told from now on is kept until `release`, so that it wakes the peer once."""
        if self._held is None:
            self._held = bytearray()

    def release(self) -> None:
        """Sends what was kept; harmless where nothing was."""
        held, self._held = self._held, None
        if held:
            self.tell_line(bytes(held))

    def _on_peer(self, events: int) -> None:
        try:
            peer, _ = self._listener.accept()
        except OSError:
            return
        self._on_message(READ)  # what the one before has said still counts, before the greeting
        self.tell({"event": "superseded"})
        if self._peer is not None:
            self._reactor.forget(self._peer.fileno())
            self._peer.close()
        self._peer = Connection(peer)
        self._events = READ
        self._reactor.watch(peer.fileno(), READ, self._on_message)
        self._greet()

    def _on_message(self, events: int) -> None:
        peer = self._peer
        if peer is None:
            return
        fd = peer.fileno()
        if events & WRITE:
            peer.flush()
        messages = peer.receive() if events & ~WRITE and peer.is_open else []
        self._follow(peer, fd)
        for message in messages:
            self._hear(message)

    def _follow(self, peer: Connection, fd: int) -> None:
        """Keeps the loop's view in step with a connection that may have closed itself."""
        if not peer.is_open:
            self._reactor.forget_closed(fd)
            self._peer = None
            return
        events = READ | WRITE if peer.has_backlog else READ
        if events != self._events:
            self._events = events
            self._reactor.rewatch(fd, events)
