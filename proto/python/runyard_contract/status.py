"""Errors on the wire: RunyardError to `google.rpc.Status` bytes and back to the same class.

The bytes travel as `grpc-status-details-bin`. They are kept under 4 KiB: gRPC drops trailers over
8 KiB, and the error with them, so long values are cut, and whole details are left out at last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runyard_contract.errors import (
    DaemonUnavailable,
    FieldViolation,
    RemoteError,
    RunyardError,
    SpecInvalid,
    class_for_reason,
)
from runyard_contract.limits import ERROR_STATUS_BYTES

if TYPE_CHECKING:
    # googleapis-common-protos has no stubs: its messages are untyped here.
    from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

DOMAIN = "runyard.dev"
DETAILS_KEY = "grpc-status-details-bin"

_HINT = "hint"
_CODES = {
    "OK": 0,
    "CANCELLED": 1,
    "UNKNOWN": 2,
    "INVALID_ARGUMENT": 3,
    "DEADLINE_EXCEEDED": 4,
    "NOT_FOUND": 5,
    "ALREADY_EXISTS": 6,
    "PERMISSION_DENIED": 7,
    "RESOURCE_EXHAUSTED": 8,
    "FAILED_PRECONDITION": 9,
    "ABORTED": 10,
    "OUT_OF_RANGE": 11,
    "UNIMPLEMENTED": 12,
    "INTERNAL": 13,
    "UNAVAILABLE": 14,
    "DATA_LOSS": 15,
    "UNAUTHENTICATED": 16,
}
_MESSAGE_CHARS = 1000
_VALUE_CHARS = 300
_DETAILS_CHARS = 200
_VIOLATIONS = 20


def status_details(error: RunyardError) -> str:
    """The short text for `grpc-message`, which is all that a plain gRPC client shows."""
    return _cut(error.message, _DETAILS_CHARS)


def to_status(error: RunyardError) -> bytes:
    """The serialised `google.rpc.Status` of an error: message, ErrorInfo and what else helps.

    ErrorInfo carries the reason, the domain and all metadata, the hint as `metadata["hint"]`;
    BadRequest the fields at fault; RetryInfo the pause before a retry.
    """
    for value_chars in (_VALUE_CHARS, _VALUE_CHARS // 4):
        data = _status(error, value_chars, with_metadata=True)
        if len(data) <= ERROR_STATUS_BYTES:
            return data
    return _status(error, _VALUE_CHARS // 4, with_metadata=False)


def _status(error: RunyardError, value_chars: int, *, with_metadata: bool) -> bytes:
    """The status with each value cut to so many characters."""
    from google.rpc import error_details_pb2  # type: ignore[import-untyped]
    from google.rpc.status_pb2 import Status

    reason = error.remote_reason if isinstance(error, RemoteError) else error.reason
    info = error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN)
    if with_metadata:
        for name, value in error.metadata.items():
            info.metadata[name] = _cut(value, value_chars)
    if error.hint:
        info.metadata[_HINT] = _cut(error.hint, value_chars)
    message_chars = _MESSAGE_CHARS if value_chars == _VALUE_CHARS else _MESSAGE_CHARS // 4
    status = Status(code=_CODES[error.code], message=_cut(error.message, message_chars))
    status.details.add().Pack(info)
    if isinstance(error, SpecInvalid) and error.violations and with_metadata:
        bad = error_details_pb2.BadRequest()
        for violation in error.violations[:_VIOLATIONS]:
            bad.field_violations.add(
                field=_cut(violation.field, value_chars),
                description=_cut(violation.description, value_chars),
            )
        status.details.add().Pack(bad)
    if error.retryable:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(round(error.retry_after_s * 1e9))
        status.details.add().Pack(retry)
    data: bytes = status.SerializeToString()
    return data


def _cut(text: str, chars: int) -> str:
    """The text, cut where it is too long, without what UTF-8 can't hold."""
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= chars else text[: chars - 1] + "…"


def from_status_bytes(data: bytes | None, code_name: str, details: str) -> RunyardError:
    """The error that the other side meant.

    Args:
        data: the value of `grpc-status-details-bin`, None where the trailers have none.
        code_name: name of the gRPC status code.
        details: the text of `grpc-message`.

    A known reason gives its own class; anything else a RemoteError with code and reason. An
    UNAVAILABLE without a status comes from the transport and gives DaemonUnavailable; so does
    CANCELLED, which a daemon that ends says to calls that it did not begin.
    """
    status = _parse(data) if data else None
    if status is None:
        if code_name in {"UNAVAILABLE", "CANCELLED"}:
            return DaemonUnavailable(
                f"the daemon does not answer: {details}",
                hint="see `runyard daemon status`",
                details=details,
            )
        return RemoteError.of(code_name, "", details, "", {})
    return _from_status(status, code_name, details)


def _parse(data: bytes) -> Status | None:
    """The status in these bytes, None where they are none."""
    from google.protobuf.message import DecodeError
    from google.rpc.status_pb2 import Status

    try:
        return Status.FromString(data)
    except DecodeError:
        return None


def _from_status(status: Status, code_name: str, details: str) -> RunyardError:
    """Rebuilds the error from a parsed status; details that can't be read are left out."""
    from google.protobuf.message import DecodeError
    from google.rpc import error_details_pb2

    info = error_details_pb2.ErrorInfo()
    bad = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    for detail in status.details:
        for message in (info, bad, retry):
            if detail.Is(message.DESCRIPTOR):
                try:
                    detail.Unpack(message)
                except DecodeError:
                    message.Clear()
    metadata = dict(info.metadata)
    hint = metadata.pop(_HINT, "")
    message_text = status.message or details
    cls = class_for_reason(info.reason) if info.domain == DOMAIN else None
    if cls is None:
        return RemoteError.of(code_name, info.reason, message_text, hint, metadata)
    error = cls.restore(message_text, hint, metadata)
    if isinstance(error, SpecInvalid):
        error.violations = tuple(
            FieldViolation(v.field, v.description) for v in bad.field_violations
        )
    if retry.HasField("retry_delay"):
        error.retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
    return error
