from __future__ import annotations

import errno
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard_contract.states import EndClass, RunState
from runyard_daemon.core.end import (
    EndFacts,
    EndReason,
    KeptOut,
    Outcome,
    StoppedBy,
    classify,
    final_state,
    outcome,
)
from runyard_daemon.core.shortage import Memory

RUN = "iris_1764000000_0a1b2c3d"


def exited(code: int, stderr: bytes = b"", **more: object) -> EndFacts:
    return EndFacts(
        EndReason.EXITED,
        RUN,
        program="train.py",
        exit_code=code,
        stderr_tail=stderr,
        **more,  # type: ignore[arg-type]
    )


def raised(line: bytes) -> bytes:
    return (
        b'Traceback (most recent call last):\n  File "train.py", line 3, in <module>\n'
        b"    main()\n" + line + b"\n"
    )


def test_script_that_returns_0_completes_without_advice() -> None:
    cause = classify(exited(0, b"a warning\n"))

    assert (cause.end_class, cause.advice, cause.last_lines) == (EndClass.NONE, "", ())
    assert final_state(cause) is RunState.COMPLETED
    assert outcome(cause) == Outcome(0, "script")


def test_script_that_returns_7_fails_with_its_code_and_last_lines() -> None:
    cause = classify(exited(7, b"loading\nno such column\n"))

    assert cause.end_class is EndClass.SCRIPT_ERROR
    assert cause.message == "train.py exited with code 7"
    assert f"runyard runs logs {RUN}" in cause.advice
    assert cause.last_lines == ("loading", "no such column")
    assert final_state(cause) is RunState.FAILED
    assert outcome(cause) == Outcome(7, "script")


def test_uncaught_exception_is_named_with_its_message() -> None:
    cause = classify(exited(1, raised(b"ValueError: alpha must be positive")))

    assert cause.end_class is EndClass.SCRIPT_ERROR
    assert cause.message == "train.py raised ValueError: alpha must be positive"
    assert cause.exception == "ValueError"


def test_logged_traceback_is_not_blamed_when_the_script_chose_another_code() -> None:
    cause = classify(exited(3, raised(b"ValueError: handled and logged")))

    assert cause.message == "train.py exited with code 3"
    assert cause.exception == ""


def test_missing_module_is_named_with_the_package_that_has_it() -> None:
    stderr = raised(b"ModuleNotFoundError: No module named 'sklearn'")

    own = classify(exited(1, stderr, interpreter="/opt/py/bin/python"))
    packaged = classify(exited(1, stderr))

    assert own.end_class is EndClass.MISSING_IMPORT
    assert own.module == "sklearn"
    assert "`/opt/py/bin/python -m pip install scikit-learn`" in own.advice
    assert "`scikit-learn`" in packaged.advice
    assert "--env" in packaged.advice
    assert outcome(own) == Outcome(1, "script")


def test_import_of_a_missing_name_points_to_the_version_and_to_shadowing_files() -> None:
    stderr = raised(b"ImportError: cannot import name 'relu' from 'torch' (/x/torch/__init__.py)")

    cause = classify(exited(1, stderr))

    assert (cause.end_class, cause.module) == (EndClass.MISSING_IMPORT, "torch")
    assert "version of torch" in cause.advice


def test_import_that_lacks_a_system_library_names_it() -> None:
    stderr = raised(
        b"ImportError: libGL.so.1: cannot open shared object file: No such file or directory"
    )

    cause = classify(exited(1, stderr))

    assert cause.end_class is EndClass.MISSING_IMPORT
    assert "libGL.so.1" in cause.advice


def test_file_that_a_rule_kept_out_is_named_with_the_rule_and_how_to_bring_it_back() -> None:
    kept = KeptOut("data/iris.csv", ".gitignore", 3, "data/")
    stderr = raised(b"FileNotFoundError: [Errno 2] No such file or directory: 'data/iris.csv'")

    cause = classify(exited(1, stderr, kept_out=kept))

    assert cause.end_class is EndClass.IGNORED_FILE
    assert "data/iris.csv" in cause.message
    assert "line 3 of .gitignore (`data/`)" in cause.message
    assert "`!data/` below it in .gitignore" in cause.advice
    assert (cause.path, cause.rule) == ("data/iris.csv", ".gitignore:3: data/")
    assert outcome(cause) == Outcome(1, "script")


def test_file_that_a_built_in_rule_kept_out_is_brought_back_in_an_ignore_file() -> None:
    kept = KeptOut("outputs/model.pkl", "", 0, "/outputs/")

    cause = classify(exited(1, kept_out=kept))

    assert "built-in rule" in cause.message
    assert "`!/outputs/` in .runyardignore" in cause.advice


@pytest.mark.parametrize(
    ("line", "memory"),
    [
        (b"MemoryError", "host"),
        (b"numpy._core._exceptions._ArrayMemoryError: Unable to allocate 8.00 TiB", "host"),
        (b"OSError: [Errno 12] Cannot allocate memory", "host"),
        (b"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", "gpu"),
        (b"torch.cuda.OutOfMemoryError: HIP out of memory.", "gpu"),
        (b"RuntimeError: CUDA error: out of memory", "gpu"),
        (b"jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while", "gpu"),
    ],
)
def test_exception_for_want_of_memory_says_whose_memory(line: bytes, memory: str) -> None:
    cause = classify(exited(1, raised(line)))

    assert (cause.end_class, cause.memory) == (EndClass.OUT_OF_MEMORY, memory)
    assert line.decode() in cause.message
    assert "memory" in cause.advice
    assert outcome(cause) == Outcome(1, "script")


def test_script_that_got_over_a_gpu_shortage_fails_for_what_ended_it() -> None:
    tail = b"CUDA out of memory, trying a smaller batch\n" + raised(b"ValueError: no column x")

    assert classify(exited(1, tail)).end_class is EndClass.SCRIPT_ERROR


def test_native_program_without_a_traceback_is_judged_by_its_last_lines() -> None:
    cause = classify(exited(134, b"terminate called after throwing 'std::bad_alloc'\n"))

    assert (cause.end_class, cause.memory) == (EndClass.OUT_OF_MEMORY, "host")
    assert outcome(cause) == Outcome(134, "script")


@pytest.mark.parametrize(
    ("memory", "words"), [(Memory.LIMIT, "memory limit"), (Memory.HOST, "the node ran out")]
)
def test_kill_for_want_of_memory_is_told_with_the_status_of_its_signal(
    memory: Memory, words: str
) -> None:
    facts = EndFacts(
        EndReason.SIGNALED, RUN, program="train.py", signal=signal.SIGKILL, out_of_memory=memory
    )

    cause = classify(facts)

    assert (cause.end_class, cause.memory) == (EndClass.OUT_OF_MEMORY, memory.value)
    assert cause.message.startswith("train.py was ended by SIGKILL: ")
    assert words in cause.message
    assert outcome(cause) == Outcome(137, "signal")


def test_canceled_run_stays_canceled_when_memory_ran_out_at_its_end() -> None:
    facts = EndFacts(
        EndReason.SIGNALED,
        RUN,
        signal=signal.SIGKILL,
        stopped_by=StoppedBy.CANCEL,
        out_of_memory=Memory.HOST,
    )

    assert classify(facts).end_class is EndClass.CANCELED


@pytest.mark.parametrize(
    "line",
    [
        b"OSError: [Errno 28] No space left on device: 'outputs/model.pt'",
        b"OSError: [Errno 122] Disk quota exceeded",
    ],
)
def test_exception_for_want_of_disk_is_told_as_such(line: bytes) -> None:
    cause = classify(exited(1, raised(line)))

    assert cause.end_class is EndClass.DISK_FULL
    assert "df -h" in cause.advice
    assert outcome(cause) == Outcome(1, "script")


def test_failure_on_a_full_disk_is_told_by_the_nodes_word() -> None:
    line = b"RuntimeError: PytorchStreamWriter failed writing file data/0"

    assert classify(exited(1, raised(line), is_disk_full=True)).end_class is EndClass.DISK_FULL
    assert classify(exited(1, raised(line))).end_class is EndClass.SCRIPT_ERROR
    assert classify(exited(0, is_disk_full=True)).end_class is EndClass.NONE


def test_missing_import_stays_one_on_a_full_disk() -> None:
    tail = raised(b"ModuleNotFoundError: No module named 'sklearn'")

    assert classify(exited(1, tail, is_disk_full=True)).end_class is EndClass.MISSING_IMPORT


@pytest.mark.parametrize(
    ("code", "word"),
    [(127, "not found"), (126, "may not be executed"), (137, "SIGKILL"), (143, "SIGTERM")],
)
def test_code_with_a_meaning_among_shells_is_explained(code: int, word: str) -> None:
    cause = classify(exited(code))

    assert word in cause.message
    assert cause.advice
    assert outcome(cause) == Outcome(code, "script")


def test_stray_sigkill_advises_on_memory_and_gives_137() -> None:
    cause = classify(EndFacts(EndReason.SIGNALED, RUN, program="train.py", signal=signal.SIGKILL))

    assert cause.end_class is EndClass.SIGNAL
    assert cause.message == "train.py was ended by SIGKILL, which runyard did not send"
    assert "--memory" in cause.advice
    assert outcome(cause) == Outcome(137, "signal")


def test_signal_without_a_name_is_given_by_number() -> None:
    assert "signal 40" in classify(EndFacts(EndReason.SIGNALED, RUN, signal=40)).message


def test_cancel_says_who_asked_and_keeps_the_code_that_the_script_gave() -> None:
    cause = classify(exited(0, stopped_by=StoppedBy.CANCEL, by="ada"))

    assert (cause.end_class, cause.message) == (EndClass.CANCELED, "canceled by ada")
    assert cause.exit_code == 0
    assert final_state(cause) is RunState.CANCELED
    assert outcome(cause) == Outcome(125, "runyard")


def test_signal_of_a_cancel_or_timeout_is_not_the_script_s_own() -> None:
    for stopped_by in (StoppedBy.CANCEL, StoppedBy.TIMEOUT, StoppedBy.SUPERVISOR_LOST):
        cause = classify(EndFacts(EndReason.SIGNALED, RUN, signal=15, stopped_by=stopped_by))

        assert cause.end_class is not EndClass.SIGNAL
        assert outcome(cause) == Outcome(125, "runyard")


def test_timeout_says_the_limit_and_the_option_that_sets_it() -> None:
    cause = classify(exited(1, stopped_by=StoppedBy.TIMEOUT, max_duration_s=90.0))

    assert cause.end_class is EndClass.TIMEOUT
    assert "90 s" in cause.message
    assert "--max-duration" in cause.advice


@pytest.mark.parametrize(
    ("number", "end_class", "word"),
    [
        (errno.ENOENT, EndClass.ENVIRONMENT, "does not exist"),
        (errno.EACCES, EndClass.ENVIRONMENT, "may not execute"),
        (errno.ENOEXEC, EndClass.ENVIRONMENT, "no program"),
        (errno.E2BIG, EndClass.SCRIPT_ERROR, "too large"),
        (errno.EAGAIN, EndClass.INFRASTRUCTURE, "too many processes"),
        (errno.EIO, EndClass.INFRASTRUCTURE, "could not be started"),
    ],
)
def test_program_that_could_not_be_started_says_why(
    number: int, end_class: EndClass, word: str
) -> None:
    cause = classify(EndFacts(EndReason.SPAWN_FAILED, RUN, program="./job", errno=number))

    assert cause.end_class is end_class
    assert word in cause.message
    assert cause.advice
    assert outcome(cause) == Outcome(125, "runyard")


@pytest.mark.parametrize(
    ("reason", "end_class"),
    [
        (EndReason.ENVIRONMENT_FAILED, EndClass.ENVIRONMENT),
        (EndReason.SNAPSHOT_FAILED, EndClass.INFRASTRUCTURE),
        (EndReason.SUPERVISOR_LOST, EndClass.SUPERVISOR_LOST),
        (EndReason.NODE_RESTARTED, EndClass.NODE_RESTARTED),
        (EndReason.AGENT_FAILED, EndClass.INFRASTRUCTURE),
        (EndReason.ATTEMPT_LOST, EndClass.INFRASTRUCTURE),
        (EndReason.NEVER_STARTED, EndClass.INFRASTRUCTURE),
    ],
)
def test_failure_that_is_not_the_script_s_has_its_class_and_advice(
    reason: EndReason, end_class: EndClass
) -> None:
    cause = classify(EndFacts(reason, RUN))

    assert cause.end_class is end_class
    assert cause.advice
    assert outcome(cause) == Outcome(125, "runyard")


def test_agent_s_own_words_about_a_failed_environment_are_kept() -> None:
    facts = EndFacts(
        EndReason.ENVIRONMENT_FAILED, RUN, message="no version of nosuchpkg", advice="correct it"
    )

    cause = classify(facts)

    assert (cause.message, cause.advice) == ("no version of nosuchpkg", "correct it")


def test_built_environment_is_a_success() -> None:
    cause = classify(EndFacts(EndReason.BUILT, RUN))

    assert final_state(cause) is RunState.COMPLETED
    assert outcome(cause).exit_status == 0


def test_abandoned_run_says_who_gave_it_up() -> None:
    cause = classify(EndFacts(EndReason.ABANDONED, RUN, by="ada"))

    assert "abandoned by ada" in cause.message
    assert final_state(cause) is RunState.CANCELED


@given(
    reason=st.sampled_from(EndReason),
    stopped_by=st.sampled_from(StoppedBy),
    exit_code=st.none() | st.integers(0, 255),
    number=st.none() | st.integers(1, 64),
    tail=st.binary(max_size=200),
)
def test_any_facts_give_one_cause_with_a_sentence_and_an_exit_status(
    reason: EndReason,
    stopped_by: StoppedBy,
    exit_code: int | None,
    number: int | None,
    tail: bytes,
) -> None:
    facts = EndFacts(
        reason,
        RUN,
        exit_code=exit_code,
        signal=number,
        stopped_by=stopped_by,
        stderr_tail=tail,
    )

    cause = classify(facts)

    assert cause.message
    assert "\n" not in cause.message
    assert final_state(cause).is_final
    assert 0 <= outcome(cause).exit_status <= 255
    if reason is EndReason.EXITED and not stopped_by:
        assert outcome(cause) == Outcome(
            exit_code or 0, "script" if exit_code is not None else "runyard"
        )
