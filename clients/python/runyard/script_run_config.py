"""ScriptRunConfig: what to run, where, and with what."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from runyard_contract.errors import SpecInvalid, Unsupported

if TYPE_CHECKING:
    from runyard.compute import ComputeTarget
    from runyard.environment import Environment
    from runyard.runconfig import RunConfiguration

_NOT_SERVED = {
    "distributed_job_config": "runs have one process so far",
    "docker_runtime_config": "runs in containers come later",
    "resume_from": "runs start from nothing so far",
}


class ScriptRunConfig:
    """A script (or a command), its arguments, and what it needs.

        ScriptRunConfig(source_directory=".", script="train.py", arguments=["--alpha", 0.1])

    Args:
        source_directory: what is sent to the target. Default: the current folder where the script
            lies in it, else the script's own folder.
        script: a Python script in it.
        arguments: words for the script; numbers become text, bytes pass unchanged.
        run_config: target, environment and limits; the other arguments come before it.
        compute_target: a target or its name. Default "local".
        environment: an Environment, or a stored one by name: "iris", or "iris:2" for version 2.
        max_run_duration_seconds: the run is stopped after so many seconds.
        command: a program and its arguments instead of a script, started without a shell.
        cpus, memory, gpus: what the run needs of a node: cores, bytes (or "2GiB"), whole GPUs.
        cpu_limit, memory_limit: what all its processes together may use at most: cores, bytes.
        priority: -1,000 to 1,000; higher goes first.
        environment_variables: for the job, over those of the environment.
        merge_stderr: stderr goes where stdout goes, in exact order.
        cancel_grace_seconds: between SIGTERM and SIGKILL when the run is ended. Default 30.

    `distributed_job_config`, `docker_runtime_config` and `resume_from` are known and not served
    yet: Unsupported names them.
    """

    def __init__(
        self,
        source_directory: str | os.PathLike[str] | None = None,
        script: str | os.PathLike[str] | None = None,
        arguments: Iterable[Any] | None = None,
        run_config: RunConfiguration | None = None,
        compute_target: ComputeTarget | str | None = None,
        environment: Environment | str | None = None,
        distributed_job_config: object = None,
        resume_from: object = None,
        max_run_duration_seconds: float | None = None,
        command: Iterable[Any] | None = None,
        docker_runtime_config: object = None,
        *,
        cpus: float | None = None,
        memory: int | str | None = None,
        gpus: int | None = None,
        cpu_limit: float | None = None,
        memory_limit: int | str | None = None,
        priority: int = 0,
        environment_variables: Mapping[str | bytes, str | bytes] | None = None,
        merge_stderr: bool = False,
        cancel_grace_seconds: float | None = None,
    ) -> None:
        given = {
            "distributed_job_config": distributed_job_config,
            "docker_runtime_config": docker_runtime_config,
            "resume_from": resume_from,
        }
        for name, value in given.items():
            if value is not None:
                raise Unsupported(
                    f"{name} is not served yet: {_NOT_SERVED[name]}",
                    hint=f"leave {name} out",
                    option=name,
                )
        if script is not None and command is not None:
            raise SpecInvalid("give a script or a command, not both")
        self.source_directory = source_directory
        self.script = script
        self.arguments = _words("arguments", arguments)
        self.run_config = run_config
        self.compute_target = compute_target
        self.environment = environment
        self.max_run_duration_seconds = max_run_duration_seconds
        self.command = None if command is None else _words("command", command)
        self.cpus = cpus
        self.memory = memory
        self.gpus = gpus
        self.cpu_limit = cpu_limit
        self.memory_limit = memory_limit
        self.priority = priority
        self.environment_variables = dict(environment_variables or {})
        self.merge_stderr = merge_stderr
        self.cancel_grace_seconds = cancel_grace_seconds


def _words(what: str, words: Iterable[Any] | None) -> list[Any]:
    """A list of words; one text would be taken apart letter by letter."""
    if isinstance(words, str | bytes):
        raise SpecInvalid(
            f"{what} must be a list of words, not one text",
            hint=f'write {what}=["--alpha", "0.1"]',
        )
    return list(words or ())


def as_bytes(what: str, word: Any) -> bytes:
    """A word as it reaches the program. Raises SpecInvalid for what has no text of its own."""
    if isinstance(word, bytes):
        found = word
    elif isinstance(word, str | os.PathLike):
        found = os.fsencode(word)
    elif isinstance(word, bool | int | float):
        found = str(word).encode()
    elif word is None or isinstance(word, list | tuple | dict | set):
        raise SpecInvalid(
            f"{what} must be text, a number or bytes, not {type(word).__name__}",
            hint="give each word by itself",
        )
    else:  # numbers of other libraries
        found = str(word).encode()
    if b"\0" in found:
        raise SpecInvalid(f"{what} holds a NUL, which no program can be given")
    return found
