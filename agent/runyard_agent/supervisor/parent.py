"""The warm parent: what the agent may ask of it over parent.sock."""

from __future__ import annotations

import gc
import os
import signal

from runyard_agent.supervisor import record, sweep, wire
from runyard_agent.supervisor.children import Children
from runyard_agent.supervisor.clock import boot_ns
from runyard_agent.supervisor.reactor import READ, WRITE, Reactor
from runyard_agent.supervisor.wire import Connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from runyard_agent.supervisor.lost import LostRun
    from runyard_agent.supervisor.wire import Message

PROTOCOL = 1
SOCKET = "parent.sock"
MARK = "runyard-supervisor"
"""Stands in the command line of the parent and, as they are forked, of all slot supervisors."""
MAX_SLOTS = 4096
LOOK_NS = 5_000_000_000
"""How often it is looked whether the folder is still there."""


class Client:
    """A connection, with the answers that wait for lost runs to be recorded."""

    __slots__ = ("connection", "events", "fd", "waits")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.fd = connection.fileno()
        self.events = READ
        self.waits: list[tuple[list[LostRun], Callable[[], Message]]] = []


class Parent:
    """All state of the warm parent; `run` is its whole life."""

    def __init__(self, sockets: str, lock_fd: int, prctl: Callable[..., int]) -> None:
        """`sockets` is the folder of all sockets, `lock_fd` holds the lock on it."""
        self._lock_fd = lock_fd
        self._reactor = Reactor()
        self._listener = wire.listen(os.path.join(sockets, SOCKET))
        self._clients: dict[int, Client] = {}
        self._children = Children(sockets, self._reactor, prctl, self._close)
        self._is_leaving = False
        self._look_at_ns = boot_ns() + LOOK_NS
        self._children.adopt()

    def run(self) -> None:
        """Serves until it is told to leave, or its folder is deleted.

        Supervisors with a run stay and finish it.
        """
        self._reactor.on_signal(signal.SIGTERM, self._leave)
        self._reactor.watch(self._listener.fileno(), READ, self._on_client)
        gc.collect()
        gc.freeze()
        while not (self._is_leaving and not self._children.lost):
            lost_at_ns = self._children.next_deadline_ns()
            self._reactor.poll(min(self._look_at_ns, lost_at_ns or self._look_at_ns))
            self._look(boot_ns())
            self._children.step_lost(boot_ns())
            for client in list(self._clients.values()):
                self._answer(client)
        try:
            os.unlink(self._listener.getsockname())
        except FileNotFoundError:
            pass  # the folder is gone, which may be why we leave

    def _look(self, now_ns: int) -> None:
        """Leaves when the folder was deleted: nobody can find the sockets in it any more."""
        if now_ns < self._look_at_ns:
            return
        self._look_at_ns = now_ns + LOOK_NS
        if os.fstat(self._lock_fd).st_nlink == 0 and not self._is_leaving:
            self._leave()

    def _close(self) -> None:
        """Closes what a slot supervisor must not keep; the lock ends with the parent alone."""
        os.close(self._lock_fd)
        self._listener.close()
        for client in self._clients.values():
            client.connection.close()

    def _leave(self) -> None:
        """Ends idle slot supervisors now and busy ones after their runs, then itself."""
        self._is_leaving = True
        table = sweep.scan()
        for pid in self._children.pids().values():
            if pid in table:
                sweep.send(table[pid], signal.SIGTERM)

    def _on_client(self, events: int) -> None:
        try:
            peer, _ = self._listener.accept()
        except OSError:
            return
        client = Client(Connection(peer))
        self._clients[client.fd] = client
        self._reactor.watch(client.fd, READ, lambda events: self._on_message(client, events))

    def _on_message(self, client: Client, events: int) -> None:
        if events & WRITE:
            client.connection.flush()
        for message in client.connection.receive() if events & ~WRITE else []:
            self._obey(client, message)
        self._answer(client)

    def _answer(self, client: Client) -> None:
        """Sends the answers that are ready, in the order of the questions."""
        while client.waits:
            runs, answer = client.waits[0]
            stuck = [pid for run in runs if run.is_stuck for pid in run.survivors]
            if stuck:
                client.connection.send({"ok": False, "why": "processes don't die", "pids": stuck})
            elif any(run.is_stuck for run in runs):
                why = "the container engine does not answer"
                client.connection.send({"ok": False, "why": why, "pids": []})
            elif any(run.exit is None for run in runs):
                break
            else:
                client.connection.send(answer())
            del client.waits[0]
        if not client.connection.is_open:
            self._reactor.forget_closed(client.fd)
            self._clients.pop(client.fd, None)
            return
        events = READ | WRITE if client.connection.has_backlog else READ
        if events != client.events:
            client.events = events
            self._reactor.rewatch(client.fd, events)

    def _obey(self, client: Client, message: Message) -> None:
        op = message.get("op")
        runs: list[LostRun] = []
        if op == "ping":
            pids = {str(number): pid for number, pid in self._children.pids().items()}
            reply: Message = {"ok": True, "pid": os.getpid(), "protocol": PROTOCOL, "slots": pids}
        elif op == "shutdown":
            self._leave()
            reply = {"ok": True}
        elif op == "slot":
            self._ask_slot(client, message.get("slot"))
            return
        elif op == "recover":
            self._ask_recovery(client, message.get("bundle"))
            return
        else:
            reply = {"ok": False, "why": "unknown command"}
        client.waits.append((runs, lambda: reply))

    def _ask_slot(self, client: Client, number: object) -> None:
        if not isinstance(number, int) or not 0 <= number < MAX_SLOTS:
            reply: Message = {"ok": False, "why": f"slot is not a number from 0 to {MAX_SLOTS - 1}"}
            client.waits.append(([], lambda: reply))
            return
        is_living = self._children.is_living(number)
        runs = [] if is_living else self._children.losses(number)
        client.waits.append((runs, lambda: self._slot(number)))

    def _slot(self, number: int) -> Message:
        if not self._children.is_living(number):
            try:
                self._children.fork(number)
            except OSError as error:
                return {"ok": False, "why": f"no supervisor for the slot: {error}"}
        path = self._children.path(number, "sock")
        return {"ok": True, "socket": path, "pid": self._children.pids()[number]}

    def _ask_recovery(self, client: Client, bundle: object) -> None:
        why = None
        runs = []
        if not isinstance(bundle, str) or not os.path.isabs(bundle) or "\0" in bundle:
            why = "not the absolute path of a bundle"
        elif not record.is_taken(bundle):
            why = "never started"
        elif record.read(bundle, record.EXIT) is None:
            if bundle not in self._children.lost and is_supervised(bundle):
                why = "its supervisor lives"
            else:
                runs = [self._children.lose(bundle, None)]

        def reply() -> Message:
            if why is not None:
                return {"ok": False, "why": why}
            return {"ok": True, "exit": record.read(str(bundle), record.EXIT)}

        client.waits.append((runs, reply))


def is_supervised(bundle: str) -> bool:
    """Whether the supervisor that has claimed a bundle is alive."""
    state = record.read(bundle, record.STATE) or {}
    pid = state.get("supervisor_pid")
    if state.get("boot_id") != record.BOOT_ID or not isinstance(pid, int):
        return False
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return MARK.encode() in file.read().split(b"\0")
    except OSError:
        return False
