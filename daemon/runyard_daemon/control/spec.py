"""What a run is asked to be, and the rules that every such wish keeps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from runyard_contract import limits
from runyard_contract.errors import NameInvalid, UnsafePath
from runyard_contract.ids import check_tag_key
from runyard_contract.paths import split_rel
from runyard_contract.record import record
from runyard_daemon.control.environment_rules import (
    ARGUMENT_BYTES,
    BACKENDS,
    Environment,
    Variables,
    Violation,
    environment_violations,
    variable_violations,
)
from runyard_daemon.core.types import Resources

DEFINITION_BYTES = 256 << 10
SPEC_BYTES = 3 << 20
"""It travels in the lease, beside others of the same message."""
DISPLAY_NAME_BYTES = 255
GRACE_MAX_S = 3600.0
DEFAULT_GRACE_S = 30.0


@record
class RunWish:
    """The specification of a run, as its rules see it."""

    is_build: bool
    """Only builds the environment."""
    compute: str
    script: str | None
    argv: tuple[bytes, ...]
    """Arguments of the script, or program and arguments."""
    snapshot: str
    """Digest; empty: none."""
    environment: Environment | None
    has_empty_environment: bool
    """An environment was given that names no backend."""
    environment_name: str
    """Of a stored environment, instead of `environment`; empty: none."""
    environment_version: int | None
    """None: the newest."""
    variables: Variables
    variables_of_environment: Variables
    caller_variables: Variables
    resources: Resources
    limits: Resources
    """What it may use at most; 0: no limit."""
    priority: int
    max_duration_s: float | None
    grace_s: float | None
    size_bytes: int
    """Of the whole specification."""
    definition_bytes: int
    caller_interpreter: bytes
    is_refresh: bool = False
    """Resolves the environment anew."""


def violations(wish: RunWish) -> list[Violation]:
    """All that is wrong with a wish, in the order of its fields; empty: it can be taken."""
    if wish.size_bytes > SPEC_BYTES:
        return [("spec", f"has {wish.size_bytes} bytes; at most {SPEC_BYTES}")]
    found = list(_program(wish))
    found += _environment_choice(wish)
    found += variable_violations("spec.environment_variables", wish.variables)
    found += variable_violations("spec.environment.variables", wish.variables_of_environment)
    found += variable_violations("spec.caller_environment", wish.caller_variables)
    every = wish.variables + wish.variables_of_environment + wish.caller_variables
    total = sum(len(name) + len(value) for name, value in every)
    if total > limits.ENV_BYTES:
        found.append(
            (
                "spec.environment_variables",
                f"all variables together have {total} bytes; at most {limits.ENV_BYTES}",
            )
        )
    found += _resources("spec.resources", wish.resources)
    found += _resources("spec.limits", wish.limits)
    found += _range("spec.priority", wish.priority, limits.PRIORITY_MIN, limits.PRIORITY_MAX)
    if wish.max_duration_s is not None and not 0 < wish.max_duration_s <= limits.MAX_DURATION_S:
        found.append(
            (
                "spec.max_duration",
                f"{wish.max_duration_s:g} s is out of range; over 0, at most "
                f"{limits.MAX_DURATION_S:g} s",
            )
        )
    if wish.grace_s is not None:
        found += _range("spec.cancel_grace", wish.grace_s, 0.0, GRACE_MAX_S)
    if wish.definition_bytes > DEFINITION_BYTES:
        found.append(
            (
                "spec.run_definition_json",
                f"has {wish.definition_bytes} bytes; at most {DEFINITION_BYTES}",
            )
        )
    if b"\0" in wish.caller_interpreter:
        found.append(("spec.caller_interpreter", "holds a NUL byte"))
    return found


def _program(wish: RunWish) -> Iterator[Violation]:
    """What is wrong with script or command."""
    if wish.is_build:
        if wish.script is not None or wish.argv:
            yield "spec.script", "a run that only builds an environment has no program"
        if wish.environment is None and not wish.environment_name:
            yield "spec.environment", "is empty, so that there is nothing to build"
    elif wish.script is not None:
        try:
            split_rel(wish.script)
        except UnsafePath as error:
            yield "spec.script.path", error.message
        if not wish.snapshot:
            yield "spec.snapshot", "is empty, so that there is no script to run"
        yield from _arguments("spec.script.arguments", wish.argv)
    else:
        if not wish.argv or not wish.argv[0]:
            yield "spec.command.argv", "is empty; a run needs a script or a command"
        yield from _arguments("spec.command.argv", wish.argv)


def _arguments(field: str, arguments: Sequence[bytes]) -> Iterator[Violation]:
    if len(arguments) > limits.ARGUMENTS_MAX:
        yield field, f"has {len(arguments)} arguments; at most {limits.ARGUMENTS_MAX}"
        return
    size = sum(map(len, arguments))
    if size > limits.ARGUMENTS_BYTES:
        yield field, f"has {size} bytes; at most {limits.ARGUMENTS_BYTES} together"
    for index, argument in enumerate(arguments):
        if b"\0" in argument:
            yield f"{field}[{index}]", "holds a NUL byte"
        elif len(argument) > ARGUMENT_BYTES:
            yield f"{field}[{index}]", f"has {len(argument)} bytes; at most {ARGUMENT_BYTES}"


def _environment_choice(wish: RunWish) -> Iterator[Violation]:
    if wish.is_refresh and not wish.is_build:
        yield "spec.refresh_environment", "is for runs that only build an environment"
    if wish.has_empty_environment:
        yield "spec.environment", f"names no backend; set {BACKENDS}"
    if wish.environment is not None:
        if wish.environment_name:
            yield "spec.environment_name", "set it or environment, not both"
        yield from environment_violations("spec.environment", wish.environment)


def _resources(prefix: str, wanted: Resources) -> Iterator[Violation]:
    yield from _range(f"{prefix}.cpu_millicores", wanted.cpu_millis, 0, limits.CPUS_MAX * 1000)
    yield from _range(f"{prefix}.memory_bytes", wanted.memory_bytes, 0, limits.MEMORY_MAX_BYTES)
    yield from _range(f"{prefix}.gpu_count", wanted.gpus, 0, limits.GPUS_MAX)


def _range(field: str, value: float, low: float, high: float) -> Iterator[Violation]:
    if not low <= value <= high:
        yield field, f"{value:g} is out of range; {low:g} to {high:g}"


def label_violations(field: str, labels: Mapping[str, str]) -> Iterator[Violation]:
    """What is wrong with tags or properties."""
    if len(labels) > limits.TAGS_MAX:
        # A peer may send hundreds of thousands: looking at each would hold up everybody.
        yield field, f"has {len(labels)} entries; at most {limits.TAGS_MAX}"
        return
    for key, value in labels.items():
        try:
            check_tag_key(key)
        except NameInvalid as error:
            yield f"{field}[{error.metadata['name']}]", f"is no valid key; {error.hint}"
            continue
        if len(value.encode("utf-8", "replace")) > limits.TAG_VALUE_BYTES:
            yield f"{field}[{key}]", f"is over {limits.TAG_VALUE_BYTES} bytes"


def display_name_violations(text: str) -> Iterator[Violation]:
    """What is wrong with a display name; empty is fine."""
    if not text:
        return
    if len(text.encode("utf-8", "replace")) > DISPLAY_NAME_BYTES or not text.isprintable():
        yield "display_name", f"must be printable and have at most {DISPLAY_NAME_BYTES} bytes"
