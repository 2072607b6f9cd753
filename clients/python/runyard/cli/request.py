"""From the options of `runyard run` to a run that can be submitted."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runyard.cli.failure import ScriptNotFound, UsageInvalid
from runyard.environment_names import name_and_version
from runyard_contract.errors import (
    EnvironmentNotFound,
    RunyardError,
    SourceInvalid,
    SpecInvalid,
    Unsupported,
)
from runyard_contract.ids import experiment_from_folder
from runyard_contract.nearest import nearest
from runyard_contract.paths import shown
from runyard_contract.value import value_class

if TYPE_CHECKING:
    from runyard.environment import Environment
    from runyard.interpreter import Interpreter
    from runyard.runconfig import RunConfiguration
    from runyard.script_run_config import ScriptRunConfig
    from runyard.snapshot.source import Source

_REQUIREMENTS_ENDINGS = (".txt", ".in")
_YAML_ENDINGS = (".yml", ".yaml")
_NAMED_FILES = 200


@value_class
class RunOptions:
    """What was typed. None: not given, so a run configuration or a default decides.

    `words` are the script and its arguments, or with `is_command` a program and its own.
    Durations are seconds, memory is bytes; names and values of variables are bytes, a value of
    None takes the caller's.
    """

    words: Sequence[str]
    is_command: bool = False
    target: str | None = None
    experiment: str | None = None
    source: str | None = None
    config: str | None = None
    env: str | None = None
    docker_image: str | None = None
    docker_arguments: Sequence[str] = ()
    env_vars: Sequence[tuple[bytes, bytes | None]] = ()
    tags: Sequence[tuple[str, str]] = ()
    priority: int = 0
    max_duration_s: float | None = None
    cancel_grace_s: float | None = None
    cpus: float | None = None
    memory_bytes: int | None = None
    gpus: int | None = None
    cpu_limit: float | None = None
    memory_limit: int | None = None
    merge_stderr: bool = False


@value_class
class RunRequest:
    """A run that can be submitted, and what its header says.

    `interpreter` is the caller's Python; `environment` says in words which environment the run has
    instead of it, empty for none. `missing_variables` were asked for and are not set here.
    """

    config: ScriptRunConfig
    source: Source
    experiment: str
    interpreter: Interpreter
    environment: str
    passed_on: tuple[bytes, ...]
    missing_variables: tuple[str, ...]


def prepare(
    options: RunOptions, environ: Mapping[bytes, bytes], client_folder: Path | None
) -> RunRequest:
    """Finds script, source directory, environment and interpreter.

    Args:
        options: what was typed.
        environ: the caller's variables.
        client_folder: where the client remembers things, if anywhere.

    Raises RunyardError: usage, a script, configuration or environment that is not there.
    """
    from runyard.script_run_config import ScriptRunConfig

    base = _load_config(options)
    source = _find_source(options, base)
    environment = _environment(options, source.directory)
    config = ScriptRunConfig(
        source_directory=source.directory,
        script=source.script or None,
        arguments=_arguments(options),
        run_config=base,
        compute_target=options.target,
        environment=environment,
        max_run_duration_seconds=options.max_duration_s,
        command=_command(options, base),
        cpus=options.cpus,
        memory=options.memory_bytes,
        gpus=options.gpus,
        cpu_limit=options.cpu_limit,
        memory_limit=options.memory_limit,
        priority=options.priority,
        environment_variables={
            name: value for name, value in options.env_vars if value is not None
        },
        merge_stderr=options.merge_stderr,
        cancel_grace_seconds=options.cancel_grace_s,
    )
    asked = tuple(name for name, value in options.env_vars if value is None)
    return RunRequest(
        config=config,
        source=source,
        experiment=options.experiment or experiment_from_folder(os.path.basename(source.directory)),
        interpreter=_interpreter(environ, source, client_folder),
        environment=_environment_words(options, base),
        passed_on=asked,
        missing_variables=tuple(shown(os.fsdecode(name)) for name in asked if name not in environ),
    )


def _load_config(options: RunOptions) -> RunConfiguration | None:
    """The run configuration that --config names: a file, or a name in the project folder."""
    if options.config is None:
        return None
    from runyard.runconfig import RunConfiguration

    is_file = os.path.sep in options.config or os.path.exists(options.config)
    try:
        if is_file:
            loaded = RunConfiguration.load(options.config)
        else:
            loaded = RunConfiguration.load(options.source or os.curdir, options.config)
        loaded.check_supported()
    except (SpecInvalid, Unsupported) as error:
        if options.config not in error.message:
            error.message = f"{options.config}: {error.message}"
        raise
    return loaded


def _find_source(options: RunOptions, base: RunConfiguration | None) -> Source:
    """The source directory and the script in it."""
    from runyard.snapshot.source import find_source

    if options.is_command:
        return find_source(options.source, None)
    script = _script(options, base)
    if script is None:
        return find_source(options.source, None)
    try:
        return find_source(options.source, script, script_from_cwd=True)
    except SourceInvalid as error:
        if "script" not in error.metadata or _exists(script, options.source):
            raise
        metadata = {name: value for name, value in error.metadata.items()}
        raise ScriptNotFound(error.message, hint=error.hint, **metadata) from None


def _exists(script: str, source: str | None) -> bool:
    """Whether there is such a file, in the source directory or not."""
    return any(os.path.isfile(os.path.join(base, script)) for base in ("", source or ""))


def _script(options: RunOptions, base: RunConfiguration | None) -> str | None:
    """The script; None where a run configuration has a command instead."""
    if options.words:
        return options.words[0]
    if base is None:
        raise UsageInvalid(
            "no script was named",
            hint="write `runyard run train.py`, or `runyard run -- PROGRAM` for another program; "
            "see `runyard run --help`",
        )
    return None if base.command else base.script


def _arguments(options: RunOptions) -> list[bytes]:
    """The script's arguments, byte for byte; none leave those of a run configuration."""
    return [] if options.is_command else [os.fsencode(word) for word in options.words[1:]]


def _command(options: RunOptions, base: RunConfiguration | None) -> list[bytes | str] | None:
    """The command, None for a script."""
    if options.is_command:
        if not options.words:
            raise UsageInvalid(
                "no program was named after --",
                hint="write `runyard run -- PROGRAM ARGS`; see `runyard run --help`",
            )
        return [os.fsencode(word) for word in options.words]
    return list(base.command) if base is not None and base.command and not options.words else None


def _environment(options: RunOptions, source: str) -> Environment | str | None:
    """The environment that options ask for; None: a run configuration or the default decides."""
    named = named_environment(options.env, source) if options.env else None
    if options.docker_image is None and not options.docker_arguments:
        return named
    from runyard.environment import Environment

    if named is None:
        named = Environment()
    if not isinstance(named, Environment):
        raise UsageInvalid(
            "--docker-image and --docker-arg go with no stored environment",
            hint="give a file with --env, or only --docker-image",
        )
    if options.docker_image is not None:
        if named.docker.base_dockerfile:
            raise UsageInvalid(
                "--docker-image and a Dockerfile are two images",
                hint="name the image in the Dockerfile's FROM, or leave --env out",
            )
        named.docker.enabled = True
        named.docker.base_image = options.docker_image
    if not named.docker.enabled:
        raise UsageInvalid(
            "--docker-arg needs a container",
            hint="add --docker-image IMAGE, or --env Dockerfile",
        )
    named.docker.arguments = [*named.docker.arguments, *options.docker_arguments]
    return named


def named_environment(named: str, source: str) -> Environment | str:
    """The environment that a text names: read from a file or folder, or the name of a stored one.

    Files are looked up from the current folder, then from the source directory. Raises
    EnvironmentNotFound for a file that is not there, NameInvalid for what is no name either.
    """
    path = next((p for p in (named, os.path.join(source, named)) if os.path.isfile(p)), None)
    if path is not None:
        return read_environment(path)
    if os.path.sep in named and os.path.isdir(named):
        return read_environment(named)
    endings = (*_REQUIREMENTS_ENDINGS, *_YAML_ENDINGS)
    if os.path.sep in named or named.endswith(endings) or _is_dockerfile(named):
        raise _no_environment_file(named)
    name_and_version(named)
    return named


def read_environment(path: str) -> Environment:
    """The environment of a requirements.txt, a conda YAML file, a Dockerfile, or a folder as
    `runyard environment download` makes it."""
    from runyard.environment import Environment

    if os.path.isdir(path):
        return Environment.load_from_directory(path)
    name = os.path.basename(path)
    if not os.path.exists(path):
        raise _no_environment_file(path)
    if _is_dockerfile(name):
        return Environment.from_dockerfile(name, path)
    if name.endswith(_YAML_ENDINGS):
        return Environment.from_conda_specification(name, path)
    if name.endswith(_REQUIREMENTS_ENDINGS):
        return Environment.from_pip_requirements(name, path)
    raise SpecInvalid(
        f"{shown(path)} is of no kind that an environment is read from",
        hint="give a requirements file (.txt, .in), a conda file (.yml, .yaml) or a Dockerfile",
        path=shown(path),
    )


def _is_dockerfile(name: str) -> bool:
    """Whether a file of this name is one, such as "Dockerfile.gpu" or "train.dockerfile"."""
    plain = os.path.basename(name).lower()
    return plain.partition(".")[0] == "dockerfile" or plain.endswith(".dockerfile")


def _no_environment_file(named: str) -> RunyardError:
    """The error for a file that is not there, with the nearest name."""
    folder = os.path.dirname(named) or "."
    try:
        names = os.listdir(folder)[:_NAMED_FILES]
    except OSError:
        names = []
    close = nearest(os.path.basename(named), names)
    suggestion = (
        f'; did you mean "{shown(os.path.join(os.path.dirname(named), close))}"?' if close else ""
    )
    return EnvironmentNotFound(
        f"there is no environment file {shown(named)}{suggestion}",
        hint="give the path of a requirements.txt, conda YAML file or Dockerfile, of a folder of "
        "`runyard environment download`, or a name that `runyard environment list` shows",
        name=shown(named),
    )


def _environment_words(options: RunOptions, base: RunConfiguration | None) -> str:
    """Which environment the run has, in words; empty: the caller's Python."""
    if options.env is not None or options.docker_image is not None:
        return " on ".join(filter(None, (options.env, options.docker_image)))
    if base is None or base.environment.is_unset:
        return ""
    from runyard.environment_sections import DEFAULT_INTERPRETER

    python = base.environment.python
    if base.environment.docker.enabled:
        return f"of {options.config}"
    if not python.user_managed_dependencies:
        return f"of {options.config}"
    path = python.interpreter_path
    return "" if path == DEFAULT_INTERPRETER else path


def _interpreter(
    environ: Mapping[bytes, bytes], source: Source, client_folder: Path | None
) -> Interpreter:
    """The caller's Python, as a shell in the source directory would find it."""
    from runyard.interpreter import InterpreterChoice

    variables = {os.fsdecode(name): os.fsdecode(value) for name, value in environ.items()}
    return InterpreterChoice(variables, source.directory, client_folder).choose()
