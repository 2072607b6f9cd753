"""The main process of a run in a container: creates, starts and awaits it, and ends as it ended.

How the container ended is in the bundle's `container.json`. `container.held` is there from before
the engine is asked for anything until the container is gone: a killed client leaves it to
`ending`, which the supervisor starts.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from runyard_agent.container import report, used
from runyard_agent.container.engine import Connection, EngineGone, EngineRefused
from runyard_agent.container.report import FAILED, LOST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

RECONNECT_S = 0.05
RECONNECT_MOST_S = 1.0
KILLED = 137
NOT_FOUND = 127
SHELL_WORDS = 5
"""Words of the entrypoint before the program, where a shell starts it."""
ENGINE_DIED = 255
"""What a new engine says of a container that ended while there was none."""
_FATAL = frozenset({signal.SIGILL, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE})
SIGNALS = _FATAL | {signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM}
"""A program that ends with 128 and one of these was ended by it: shells and engines say it so."""
_FRAME = 8


class Client:
    """One container of one run."""

    def __init__(self, bundle: str, spec: dict[str, Any]) -> None:
        self._bundle = bundle
        container = spec["container"]
        self._engine: str = container["engine"]
        self._name: str = container["name"]
        self._request: dict[str, Any] = container["request"]
        self._has_shell: bool = container["has_shell"]
        self._connection: Connection | None = None
        self._is_started = False
        self._is_stopped = False
        self._is_of_another = False
        """A container of this name was there: it is not ours to remove."""
        self._was_cut_off = False
        self._is_oom = False
        self._signals_fd = -1
        self._written = [0, 0, 0]

    def run(self) -> int:
        """The exit code of the container; FAILED where it never ran."""
        signal.signal(signal.SIGTERM, self._on_stop)
        try:
            self._connection = Connection(self._engine)
        except EngineGone as error:
            return self._fail("the container engine does not answer", str(error), is_gone=True)
        if self._has_shell:
            self._signals_fd = report.open_signals(self._bundle)
            used.make(self._bundle)
        report.hold(self._bundle)
        try:
            self._start(self._connection)
        except EngineRefused as error:
            return self._fail("", error.message, is_gone=self._is_of_another)
        except EngineGone as error:
            return self._fail("the container engine went away before the start", str(error))
        try:
            code = self._wait()
            state = self._connect().ask("GET", f"/containers/{self._name}/json")["State"]
        except EngineRefused as error:
            if error.status != 404:
                return self._fail("the container can't be watched", error.message)
            return self._lose("its container was removed by somebody", is_gone=True)
        except EngineGone:
            state = {}
        return self._end(code, state)

    def _start(self, connection: Connection) -> None:
        if self._request["HostConfig"].get("Memory"):
            from runyard_agent.container.oom import listen  # only here: each run pays its imports

            listen(self._engine, self._name, self._on_oom)
        self._create(connection)
        if self._is_stopped and not self._has_shell:
            return
        try:
            connection.ask("POST", f"/containers/{self._name}/start")
        except EngineRefused as error:
            if "docker-init" not in error.message or not self._request["HostConfig"].get("Init"):
                raise
            # An engine without an init of its own: the program is the first process itself.
            report.remove(connection, self._name)
            self._request["HostConfig"]["Init"] = False
            self._create(connection)
            connection.ask("POST", f"/containers/{self._name}/start")
        self._is_started = True
        if self._is_stopped:
            self._pass_on()

    def _create(self, connection: Connection) -> None:
        try:
            connection.ask("POST", f"/containers/create?name={self._name}", self._request)
        except EngineRefused as error:
            self._is_of_another = error.status == 409
            raise

    def _wait(self) -> int:
        """Waits for the end, through all restarts of the engine."""
        pause_s = RECONNECT_S
        while True:
            try:
                connection = self._connect()
                if self._was_cut_off:
                    report.engine_is_back(self._bundle)
                connection.wait_for_ever()
                if not self._has_shell:
                    self._copy_log(connection)
                answer = connection.ask("POST", f"/containers/{self._name}/wait")
                return int(answer["StatusCode"])
            except EngineGone:
                self._was_cut_off = True
                self._connection = None
                report.engine_is_away(self._bundle)
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, RECONNECT_MOST_S)

    def _connect(self) -> Connection:
        if self._connection is None:
            self._connection = Connection(self._engine)
        return self._connection

    def _copy_log(self, connection: Connection) -> None:
        """Writes the engine's log to our own outputs; of what was written before, nothing again."""
        path = f"/containers/{self._name}/logs?follow=1&stdout=1&stderr=1"
        skip = list(self._written)
        inbox = bytearray()
        for data in connection.stream(path):
            inbox += data
            while len(inbox) >= _FRAME:
                end = _FRAME + int.from_bytes(inbox[4:_FRAME], "big")
                if len(inbox) < end:
                    break
                number = 2 if inbox[0] == 2 else 1
                text = bytes(inbox[_FRAME:end])
                del inbox[:end]
                fresh = text[skip[number] :]
                skip[number] -= len(text) - len(fresh)
                self._write(number, fresh)

    def _write(self, number: int, data: bytes) -> None:
        while data:
            count = os.write(number, data)
            self._written[number] += count
            data = data[count:]

    def _on_stop(self, signum: int, frame: object) -> None:
        """SIGTERM is for all processes in the container."""
        self._is_stopped = True
        self._pass_on()

    def _on_oom(self) -> None:
        """One of its processes was killed, so all are. In another thread."""
        self._is_oom = True
        self._signal("KILL")

    def _pass_on(self) -> None:
        if self._is_started or self._signals_fd >= 0:
            self._signal("TERM")

    def _signal(self, name: str) -> None:
        """By its first process to all others; where that is the program itself, by the engine."""
        try:
            if self._signals_fd >= 0:
                os.write(self._signals_fd, f"{name}\n".encode())
                return
            connection = Connection(self._engine)
            connection.ask("POST", f"/containers/{self._name}/kill?signal={name}")
            connection.close()
        except BlockingIOError:
            pass  # it has not read those before
        except (EngineGone, EngineRefused):
            pass  # it is over, or killed after the grace period by whoever ends what is left

    def _end(self, code: int, state: dict[str, Any]) -> int:
        errno = self._start_errno() if code == NOT_FOUND else 0
        if errno:
            program = self._request["Entrypoint"][SHELL_WORDS]
            message = f"{program}: {os.strerror(errno)}, in the image"
            error = {"errno": errno, "message": message, "reason": "spawn_failed"}
            report.put(self._bundle, {"oom": None, "error": error})
            self._remove()
            return code
        is_oom = self._is_oom or bool(state.get("OOMKilled"))
        is_lost = code in (KILLED, ENGINE_DIED) and self._was_cut_off and not is_oom
        if is_lost and not self._is_stopped:
            return self._lose("the container engine went away and took the container with it")
        if state.get("Status") in ("removing", "dead") and not self._is_stopped:
            return self._lose("its container was removed by somebody")
        oom = "limit" if is_oom else None
        report.put(self._bundle, {"oom": oom, "error": None, "used": used.read(self._bundle)})
        self._remove()
        return code

    def _start_errno(self) -> int:
        """What kept the shell from executing the program; 0: nothing."""
        try:
            words = os.read(self._signals_fd, 4096).split() if self._signals_fd >= 0 else []
        except BlockingIOError:
            return 0
        return next((int(word) for word in words if word.isdigit()), 0)

    def _remove(self) -> None:
        try:
            report.remove(self._connect(), self._name)
        except (EngineGone, EngineRefused):
            return  # it is still held, so that the supervisor has it ended
        report.let_go(self._bundle)

    def _lose(self, message: str, *, is_gone: bool = False) -> int:
        """The end of a container that gave no result of its own."""
        return self._fail(message, "", is_gone=is_gone, reason=LOST)

    def _fail(
        self, what: str, why: str, *, is_gone: bool = False, reason: str = "spawn_failed"
    ) -> int:
        message, advice = report.explained(what, why)
        error = {"errno": 0, "message": message, "advice": advice, "reason": reason}
        report.put(self._bundle, {"oom": None, "error": error})
        if is_gone:
            report.let_go(self._bundle)
        else:
            self._remove()
        return FAILED


def main(bundle: str) -> None:
    """The whole life of the process: ends with the container's exit code, or by its signal."""
    code = Client(bundle, report.read(bundle, report.SPEC)).run()
    if code - 128 in SIGNALS:
        import resource  # only here: it costs each run its import

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signum = signal.Signals(code - 128)
        if signum != signal.SIGKILL:
            signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)
    sys.stdout.flush()
    os._exit(code)
