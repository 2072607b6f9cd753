from __future__ import annotations

import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard_contract import errors
from runyard_contract.errors import (
    BlobMissing,
    DaemonUnavailable,
    NotFound,
    RemoteError,
    RunNotFound,
    RunyardError,
    SpecInvalid,
    WriterBusy,
    class_for_reason,
    reasons,
)
from runyard_contract.limits import ERROR_STATUS_BYTES
from runyard_contract.nearest import nearest
from runyard_contract.status import from_status_bytes, status_details, to_status
from runyardpb.v1.errors_pb2 import ErrorReason

REPOSITORY = Path(__file__).parents[3]

GRPC_CODES = {
    "INVALID_ARGUMENT", "NOT_FOUND", "OUT_OF_RANGE", "ABORTED", "UNIMPLEMENTED", "INTERNAL",
    "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "DATA_LOSS", "DEADLINE_EXCEEDED",
    "UNAUTHENTICATED", "PERMISSION_DENIED",
}  # fmt: skip


def classes_of_the_contract() -> dict[str, type[RunyardError]]:
    """Class by reason, without what agent, SDK and command line derive for themselves."""
    found = {reason: class_for_reason(reason) for reason in reasons()}
    return {
        reason: cls
        for reason, cls in found.items()
        if cls is not None and cls.__module__.startswith("runyard_contract.")
    }


@pytest.mark.parametrize("reason", classes_of_the_contract())
def test_error_comes_back_as_the_same_class_when_sent_over_the_wire(reason: str) -> None:
    cls = classes_of_the_contract()[reason]
    assert cls.code in GRPC_CODES
    sent = cls("run iris is gone", hint="list the runs", run="iris")

    got = from_status_bytes(to_status(sent), sent.code, status_details(sent))

    assert type(got) is cls
    assert (str(got), got.hint, got.metadata) == (str(sent), sent.hint, sent.metadata)
    assert got.retry_after_s == sent.retry_after_s


def test_every_reason_is_in_the_tree_of_the_docstring_and_the_other_way_round() -> None:
    drawn = set(re.findall(r"\b[A-Z_]{6,}\b", errors.__doc__ or ""))

    mine = set(classes_of_the_contract())
    assert mine <= drawn
    assert drawn - mine <= GRPC_CODES


def test_reasons_that_cross_the_wire_are_those_of_the_proto() -> None:
    sent = {reason for reason, cls in classes_of_the_contract().items() if not cls.is_local}
    declared = {name.removeprefix("ERROR_REASON_") for name in ErrorReason.keys()}

    assert sent == declared - {"UNSPECIFIED"}


def test_codes_that_the_proto_names_are_those_of_the_classes() -> None:
    proto = (REPOSITORY / "proto/runyardpb/v1/errors.proto").read_text()
    declared = dict(
        (reason, code)
        for code, reason in re.findall(r"// ([A-Z_]+): .*\n  ERROR_REASON_([A-Z_]+) =", proto)
    )
    sent = {r: cls.code for r, cls in classes_of_the_contract().items() if not cls.is_local}

    assert declared == sent


def test_local_errors_are_marked_as_such_in_the_tree_of_the_docstring() -> None:
    marked = set(re.findall(r"\b([A-Z_]{6,}), local", errors.__doc__ or ""))

    assert marked == {r for r, cls in classes_of_the_contract().items() if cls.is_local}


def test_fields_at_fault_come_back_when_a_specification_is_refused() -> None:
    sent = SpecInvalid(violations=[("resources.gpus", "-1 is negative"), ("tags[a]", "is empty")])

    got = from_status_bytes(to_status(sent), "INVALID_ARGUMENT", "")

    assert isinstance(got, SpecInvalid)
    assert got.violations == sent.violations
    assert str(got) == "resources.gpus: -1 is negative; tags[a]: is empty"


def test_unknown_reason_gives_a_remote_error_with_code_and_exit_code() -> None:
    class FromTheFuture(errors.RunyardError):
        code = "NOT_FOUND"

    sent = FromTheFuture("no such pipeline", hint="upgrade", name="p")
    FromTheFuture.reason = "PIPELINE_NOT_FOUND"

    got = from_status_bytes(to_status(sent), "NOT_FOUND", "no such pipeline")

    assert isinstance(got, RemoteError)
    assert (got.remote_reason, got.code, got.exit_code) == ("PIPELINE_NOT_FOUND", "NOT_FOUND", 3)
    assert got.hint == "upgrade"


@pytest.mark.parametrize(("data", "code"), [(None, "INTERNAL"), (b"\xff\xff\xff", "DATA_LOSS")])
def test_status_that_says_nothing_gives_a_remote_error(data: bytes | None, code: str) -> None:
    got = from_status_bytes(data, code, "the transport's words")

    assert isinstance(got, RemoteError)
    assert got.code == code
    assert "the transport's words" in str(got)


@pytest.mark.parametrize("code", ["UNAVAILABLE", "CANCELLED"])
def test_lost_connection_gives_daemon_unavailable_with_the_next_command(code: str) -> None:
    got = from_status_bytes(None, code, "connection refused")

    assert isinstance(got, DaemonUnavailable)
    assert got.retryable
    assert got.exit_code == 5
    assert "connection refused" in str(got)
    assert "runyard daemon status" in got.hint


@given(
    message=st.text(max_size=5000),
    value=st.text(max_size=5000),
    violations=st.lists(st.tuples(st.text(max_size=600), st.text(max_size=600)), max_size=60),
)
def test_status_stays_under_the_trailer_limit_and_keeps_its_class(
    message: str, value: str, violations: list[tuple[str, str]]
) -> None:
    sent = SpecInvalid(
        message, violations=violations, hint=value, **{f"key_{i}": value for i in range(40)}
    )

    data = to_status(sent)

    assert len(data) <= ERROR_STATUS_BYTES
    assert len(status_details(sent)) <= 200
    assert type(from_status_bytes(data, "INVALID_ARGUMENT", "")) is SpecInvalid


def test_retry_pause_of_the_sender_is_kept() -> None:
    sent = WriterBusy("the writer is busy")
    sent.retry_after_s = 7.5

    assert from_status_bytes(to_status(sent), "UNAVAILABLE", "").retry_after_s == 7.5


def test_not_found_names_the_nearest_and_the_list_command() -> None:
    error = RunNotFound.named("iris_1", nearest="iris_2")

    assert str(error) == 'no run named "iris_1"; did you mean "iris_2"?'
    assert "runyard runs list" in error.hint
    assert error.metadata == {"name": "iris_1", "nearest": "iris_2"}
    assert error.exit_code == 3
    assert isinstance(error, NotFound)


def test_missing_blobs_are_counted_and_the_first_is_named() -> None:
    error = BlobMissing.of(["aa", "bb"])

    assert error.metadata == {"missing": "2", "first": "aa"}


def test_error_survives_pickling_with_its_fields() -> None:
    error = pickle.loads(pickle.dumps(SpecInvalid(violations=[("a", "b")], hint="h")))  # noqa: S301

    assert type(error) is SpecInvalid
    assert (str(error), error.hint, error.violations[0].field) == ("a: b", "h", "a")


def test_nearest_name_ignores_case_and_gives_up_on_strangers() -> None:
    assert nearest("Locl", ["gpu1", "local"]) == "local"
    assert nearest("IRIS", ["Iris"]) == "Iris"
    assert nearest("zzz", ["gpu1", "local"]) is None


def test_errors_load_neither_protobuf_nor_asyncio() -> None:
    heavy = "('google.protobuf', 'asyncio', 'grpc', 'blake3', 'pathspec', 'importlib.metadata')"
    program = (
        "import sys\n"
        "from runyard_contract import errors, ids, limits, nearest, paths\n"
        "from runyard_contract import states, status, version\n"
        f"print([m for m in {heavy} if m in sys.modules])"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"
