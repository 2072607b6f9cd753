"""Calls to the daemon: one connection, its errors as RunyardError, a dead daemon started again."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from runyard_contract.errors import DaemonUnavailable, Draining, RunyardError, VersionMismatch
from runyard_contract.limits import MESSAGE_BYTES
from runyard_contract.status import DETAILS_KEY, from_status_bytes
from runyard_contract.version import build_id

if TYPE_CHECKING:
    import grpc

    from runyard.address import Address

StubT = TypeVar("StubT")
RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")
ResultT = TypeVar("ResultT")

VERSION_KEY = "runyard-version"
CALL_TIMEOUT_S = 60.0
_OPTIONS = (
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.enable_retries", 0),  # a repeat is decided here, with the same request id
    ("grpc.use_local_subchannel_pool", 1),  # a daemon that was started again is tried at once
)


class Connection:
    """A connection to one daemon, made at the first call. Safe to use from several threads.

    Args:
        address: where the daemon is, and how to bring it back.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._stubs: dict[type[Any], Any] = {}
        self._metadata = ((VERSION_KEY, build_id()),)

    @property
    def address(self) -> Address:
        """Where the daemon is."""
        return self._address

    def close(self) -> None:
        """Closes the connection; a later call opens it again."""
        with self._lock:
            channel, self._channel = self._channel, None
            self._stubs = {}
        if channel is not None:
            channel.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def unary(
        self,
        stub: type[StubT],
        pick: Callable[[StubT], grpc.UnaryUnaryMultiCallable[RequestT, ResponseT]],
        request: RequestT,
        *,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> ResponseT:
        """One call with one answer.

        Where no daemon answers, it is started again and the call repeated once: every call is
        idempotent, by its nature or by its request id. Raises RunyardError.
        """
        return self.repeated(lambda: self._unary_once(stub, pick, request, timeout_s), tries=2)

    def repeated(self, once: Callable[[], ResultT], tries: int) -> ResultT:
        """What `once`, which must be idempotent, gives in the first of so many tries that ends.

        Where no daemon answers, or it is stopping, one is started before the next try. Raises
        RunyardError.
        """
        for _ in range(tries - 1):
            try:
                return once()
            except (DaemonUnavailable, Draining) as error:
                self.recover(error)
        return once()

    def _unary_once(
        self,
        stub: type[StubT],
        pick: Callable[[StubT], grpc.UnaryUnaryMultiCallable[RequestT, ResponseT]],
        request: RequestT,
        timeout_s: float,
    ) -> ResponseT:
        """One call, not repeated."""
        call = pick(self._stub(stub))
        with _translated(self._address, timeout_s):
            return call(request, timeout=timeout_s, metadata=self._metadata)

    def upload(
        self,
        stub: type[StubT],
        pick: Callable[[StubT], grpc.StreamUnaryMultiCallable[RequestT, ResponseT]],
        requests: Iterable[RequestT],
        *,
        timeout_s: float,
    ) -> ResponseT:
        """Streams requests to one answer. What the requests raise is raised here.

        No repeat, as the requests are used up; `repeated` makes them again.
        """
        call = pick(self._stub(stub))
        source = _Requests(requests)
        try:
            with _translated(self._address, timeout_s):
                return call(iter(source), timeout=timeout_s, metadata=self._metadata)
        except RunyardError:
            if source.error is not None:
                raise source.error from None
            raise

    @contextlib.contextmanager
    def stream(
        self,
        stub: type[StubT],
        pick: Callable[[StubT], grpc.UnaryStreamMultiCallable[RequestT, ResponseT]],
        request: RequestT,
    ) -> Generator[Iterator[ResponseT], None, None]:
        """One call with many answers. The call is cancelled when the block is left; no repeat."""
        call = pick(self._stub(stub))(request, metadata=self._metadata)
        try:
            yield self._answers(call)
        finally:
            call.cancel()  # type: ignore[no-untyped-call]  # grpc-stubs leave it so

    def _answers(self, call: Iterable[ResponseT]) -> Iterator[ResponseT]:
        """The answers of a stream, its errors translated."""
        with _translated(self._address, None):
            yield from call

    def recover(self, error: RunyardError) -> None:
        """Makes sure that a daemon answers again after `error`; raises it where that can't be."""
        self.close()
        self._address.revive(error)

    def _stub(self, stub: type[StubT]) -> StubT:
        """The stub on the connection of now."""
        with self._lock:
            found = self._stubs.get(stub)
            if found is None:
                if self._channel is None:
                    self._channel = self._open()
                # mypy-protobuf writes the constructor; every stub takes a channel.
                found = self._stubs[stub] = stub(self._channel)  # type: ignore[call-arg]
            typed: StubT = found
            return typed

    def _open(self) -> grpc.Channel:
        """A new channel; nothing is sent yet."""
        return self._address.open(_OPTIONS)


class _Requests:
    """Requests of a stream; keeps what making them raised, which grpc would only log."""

    def __init__(self, requests: Iterable[Any]) -> None:
        self._requests = requests
        self.error: RunyardError | OSError | None = None

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self._requests
        except (RunyardError, OSError) as error:
            self.error = error
            raise


@contextlib.contextmanager
def _translated(address: Address, timeout_s: float | None) -> Generator[None, None, None]:
    """Raises the RunyardError that a failed call stands for."""
    import grpc

    try:
        yield
    except grpc.RpcError as error:
        raise _translate(error, address, timeout_s) from None


def _translate(error: Any, address: Address, timeout_s: float | None) -> RunyardError:
    """The error that the daemon, or the way to it, meant."""
    code = error.code().name
    data = next((v for k, v in error.trailing_metadata() or () if k == DETAILS_KEY), None)
    if data is None and code == "DEADLINE_EXCEEDED":
        waited = f" within {timeout_s:.0f} s" if timeout_s else ""
        return DaemonUnavailable(
            f"the daemon at {address} did not answer{waited}",
            hint="see `runyard daemon status` and daemon.log",
            address=str(address),
        )
    translated = from_status_bytes(data, code, error.details() or "")
    if isinstance(translated, VersionMismatch):
        translated.hint = translated.hint or "stop it with `runyard daemon stop`, then try again"
    return translated
