"""`runyard environment`: what scripts need, stored by name and built ahead."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from runyard.cli import parameters
from runyard.cli.command_line import Entry, Group, json_option, output_of
from runyard.cli.options import option
from runyard.cli.output import STDOUT_FD
from runyard.cli.render.amounts import local_time, message_time, utc_time
from runyard.cli.render.builds import (
    BUILD_COLUMNS,
    build_cells,
    build_json,
    build_text,
    sealed_json,
    sealed_text,
)
from runyard.cli.render.table import print_table
from runyard.cli.render.text import clean
from runyard.cli.session import open_workspace
from runyard_contract.errors import SpecInvalid, StateNotAllowed
from runyard_contract.ids import EnvironmentName

if TYPE_CHECKING:
    from runyard.workspace import Workspace
    from runyardpb.v1 import environments_pb2

_COLUMNS = ("NAME", "VERSION", "KIND", "LOCKED FOR", "MADE", *BUILD_COLUMNS, "WHAT")
_SHOWN_REQUIREMENTS = 4


_EDITING = "runyard.cli.environment_editing"


@click.group(
    cls=Group,
    entries={
        "export": Entry(
            "runyard.cli.environment_files",
            "export_command",
            "Write a stored environment to FILE, as it was built.",
        ),
        "import": Entry(
            "runyard.cli.environment_files",
            "import_command",
            "Store an environment from a FILE of `export`, ready to be used.",
        ),
        "prune": Entry(
            "runyard.cli.environment_prune",
            "prune",
            "Remove built environments from nodes, the least recently used first.",
        ),
        "create": Entry(_EDITING, "create", "Store an environment without building it."),
        "download": Entry(_EDITING, "download", "Write a stored environment to a folder to edit."),
    },
    examples=["runyard environment build --name iris requirements.txt", "runyard environment list"],
)
def environment() -> None:
    """List, show, lock, build, prune, export and import environments: what a script needs."""


@environment.command("list", examples=["runyard environment list"])
@json_option
@click.pass_context
def list_command(ctx: click.Context) -> None:
    """List stored environments, the newest version of each, and where they are built.

    SIZE and HITS (runs that were given it without building it) are those of all nodes together.
    """
    output = output_of(ctx)
    found = stored_environments(open_workspace())
    if output.is_json:
        output.print_json([_environment_json(one) for one in found])
        return
    print_table(
        output,
        _COLUMNS,
        [_row(one) for one in found],
        empty="runyard: no stored environments; store one with `runyard environment build --name`",
    )


@environment.command(
    examples=["runyard environment show iris", "runyard environment show iris --json"]
)
@click.argument("stored", metavar="NAME[:VERSION]", type=parameters.ENVIRONMENT_VERSION)
@json_option
@click.pass_context
def show(ctx: click.Context, stored: tuple[str, int | None]) -> None:
    """Show a stored environment: what it asks for, where it is built, its exact versions."""
    output = output_of(ctx)
    found = _get(open_workspace(), *stored)
    if output.is_json:
        output.print_json(_environment_json(found))
        return
    output.print(output.paint(environment_name(found), "bold", STDOUT_FD))
    for fact, value in (
        ("version", str(found.version)),
        ("kind", _kind(found)),
        ("made", local_time(message_time(found, "create_time"))),
    ):
        output.fact(fact, value)
    for fact, value in _image_facts(found.spec.docker):
        output.fact(fact, clean(value))
    pip, conda = _packages(found.spec)
    for channel in conda.channels:
        output.fact("channel", channel)
    for package in conda.packages:
        output.fact("package", package)
    for requirement in (*pip.requirements, *conda.pip_requirements):
        output.fact("requirement", requirement)
    for one in found.spec.variables:
        output.fact("variable", clean(f"{os.fsdecode(one.name)}={os.fsdecode(one.value)}"))
    for fact, value in _where(found):
        output.fact(fact, value)
    for lock in found.locks:
        output.fact("locked for", f"{lock.platform} ({lock.hash[:16]})")
        for line in _lock_lines(lock.text):
            output.print(f"    {clean(line)}")


@environment.command(
    examples=[
        "runyard environment lock iris > iris.lock",
        "runyard environment lock iris --platform linux-x86_64-cp311 --json",
    ]
)
@click.argument("stored", metavar="NAME[:VERSION]", type=parameters.ENVIRONMENT_VERSION)
@option("--platform", metavar="PLATFORM", help="Of which lock, where there are several.")
@json_option
@click.pass_context
def lock(ctx: click.Context, stored: tuple[str, int | None], platform: str | None) -> None:
    """Print the lock of a stored environment: exact versions with hashes, as nodes install them.

    It is made when the environment is first built, once for each platform and Python.
    """
    output = output_of(ctx)
    found = _get(open_workspace(), *stored)
    chosen = choose_lock(found, platform)
    if output.is_json:
        output.print_json(
            {"name": environment_name(found), "version": found.version, **_lock_json(chosen)}
        )
        return
    for line in chosen.text.splitlines():
        output.print(clean(line))


def choose_lock(
    found: environments_pb2.Environment, platform: str | None
) -> environments_pb2.EnvironmentLock:
    """The lock of a platform; None means the only one.

    Raises `StateNotAllowed` where there is none yet, and `SpecInvalid` where several fit.
    """
    name = f"environment {environment_name(found)} version {found.version}"
    locked = ", ".join(one.platform for one in found.locks)
    chosen = [one for one in found.locks if platform in (None, one.platform)]
    if not chosen:
        of_platform = f" for {platform}" if platform else ""
        raise StateNotAllowed(
            f"{name} has no lock{of_platform}"
            + (f"; it is locked for {locked}" if locked else " yet: it was never built"),
            hint=f"make one with `runyard environment build {environment_name(found)} -t TARGET`",
            environment=environment_name(found),
        )
    if len(chosen) > 1:
        raise SpecInvalid(
            f"{name} has {len(chosen)} locks: {locked}",
            hint=f"choose one: `runyard environment lock {environment_name(found)}"
            f" --platform {chosen[0].platform}`",
            environment=environment_name(found),
        )
    return chosen[0]


@environment.command(
    examples=[
        "runyard environment build requirements.txt",
        "runyard environment build --name iris env.yml",
        "runyard environment build iris -t local",
        "runyard environment build iris -t local --seal",
        "runyard environment build iris --refresh",
    ]
)
@click.argument("source", metavar="FILE|NAME[:VERSION]")
@option("--name", type=parameters.ENVIRONMENT, help="Store it under this name first.")
@option("-t", "--target", type=parameters.COMPUTE, help="Where to build it. [local]")
@option("--seal", is_flag=True, help="Keep what is built in the daemon, for other nodes.")
@option(
    "--refresh",
    is_flag=True,
    help="Resolve anew; the lock that results counts from then on. Says what has changed.",
)
@json_option
@click.pass_context
def build(
    ctx: click.Context,
    source: str,
    name: str | None,
    target: str | None,
    seal: bool,
    refresh: bool,
) -> int:
    """Build an environment ahead, from a file or a stored one, and show the build live.

    Other nodes of the platform fetch a sealed environment instead of building it. Without --seal
    that is done where building took longer than fetching would.

    The exit code is 0 when it is ready, 125 when it could not be built.
    """
    from runyard.cli.environment_build import follow_build, store_environment, submit_build

    output = output_of(ctx)
    workspace = open_workspace()
    if name is not None:
        stored = store_environment(workspace, source, name)
        output.say(f"runyard: stored {name} version {stored.version}")
        source = name
    run = submit_build(workspace, source, target, seals=seal, is_refresh=refresh)
    return follow_build(output, workspace, run, is_refresh=refresh)


def _get(workspace: Workspace, name: str, version: int | None) -> environments_pb2.Environment:
    """A stored environment. Raises EnvironmentNotFound with the nearest."""
    from runyard.environment_store import get_environment

    return get_environment(workspace, name, version)


def stored_environments(workspace: Workspace) -> list[environments_pb2.Environment]:
    """All stored environments in their newest versions."""
    from runyard.environment_store import list_environments

    return list(list_environments(workspace))


def environment_name(found: environments_pb2.Environment) -> str:
    """The name in `workspaces/W/environments/E/versions/V`."""
    return EnvironmentName.parse(found.name).environment


def _kind(found: environments_pb2.Environment) -> str:
    backend = found.spec.WhichOneof("backend")
    return backend if backend in ("pip", "conda", "docker") else "user-managed"


def _packages(
    spec: environments_pb2.EnvironmentSpec,
) -> tuple[environments_pb2.PipPackages, environments_pb2.CondaPackages]:
    """The packages of pip and of conda; of an image those that are put on top of it."""
    owner = spec.docker if spec.WhichOneof("backend") == "docker" else spec
    return owner.pip, owner.conda


def _image_facts(docker: environments_pb2.DockerImage) -> Iterator[tuple[str, str]]:
    """What an image is, and how it runs."""
    if docker.image:
        yield "image", docker.image
    for line in docker.dockerfile.splitlines():
        yield "Dockerfile", line
    for argument in docker.arguments:
        yield "option", argument


def _where(found: environments_pb2.Environment) -> Iterator[tuple[str, str]]:
    """Where it is built, and what is sealed of it."""
    for built in found.builds:
        yield "built on", build_text(built)
    for lock in found.locks:
        if lock.HasField("sealed"):
            yield "sealed for", sealed_text(lock)


def _lock_lines(text: str) -> Iterator[str]:
    """The packages of a lock, without their hashes."""
    is_conda = "\n@EXPLICIT\n" in text  # conda's explicit list, pip packages in its comments
    for line in text.splitlines():
        if not is_conda and not line.lstrip().startswith("--hash"):
            yield line.removesuffix("\\").rstrip()
        elif is_conda and line.startswith("# pip "):
            yield line.removeprefix("# pip ").partition(" --hash=")[0]
        elif is_conda and not line.startswith(("#", "@")):
            yield line.partition("#")[0]


def _row(found: environments_pb2.Environment) -> tuple[str, ...]:
    spec = found.spec
    pip, conda = _packages(spec)
    image = spec.docker.image or ("a Dockerfile" if spec.docker.dockerfile else "")
    packages = (*pip.requirements, *conda.packages, *conda.pip_requirements)
    wanted = [*([image] if image else []), *packages]
    more = ", …" if len(wanted) > _SHOWN_REQUIREMENTS else ""
    asked = ", ".join(wanted[:_SHOWN_REQUIREMENTS]) + more
    if _kind(found) == "user-managed":
        asked = os.fsdecode(spec.user_managed.interpreter_path) or "python3"
    return (
        environment_name(found),
        str(found.version),
        _kind(found),
        ", ".join(lock.platform for lock in found.locks),
        local_time(message_time(found, "create_time")),
        *build_cells(found.builds),
        asked,
    )


def _environment_json(found: environments_pb2.Environment) -> dict[str, Any]:
    pip, conda = _packages(found.spec)
    docker = found.spec.docker
    interpreter = found.spec.user_managed.interpreter_path
    return {
        "name": environment_name(found),
        "version": found.version,
        "kind": _kind(found),
        "create_time": utc_time(message_time(found, "create_time")),
        "spec_hash": found.spec_hash,
        "python_version": pip.python_version or conda.python_version or None,
        "packages": list(conda.packages),
        "channels": list(conda.channels),
        "requirements": [*pip.requirements, *conda.pip_requirements],
        "constraints": [*pip.constraints, *conda.pip_constraints],
        "index_options": [*pip.index_options, *conda.pip_index_options],
        "interpreter_path": interpreter.decode("utf-8", "backslashreplace")
        or docker.interpreter_path
        or None,
        "image": docker.image or None,
        "dockerfile": docker.dockerfile or None,
        "docker_arguments": list(docker.arguments),
        "variables": {
            os.fsdecode(one.name): os.fsdecode(one.value) for one in found.spec.variables
        },
        "locks": [_lock_json(lock) for lock in found.locks],
        "builds": [build_json(build) for build in found.builds],
    }


def _lock_json(lock: environments_pb2.EnvironmentLock) -> dict[str, Any]:
    return {
        "platform": lock.platform,
        "text": lock.text,
        "hash": lock.hash,
        "create_time": utc_time(message_time(lock, "create_time")),
        "sealed": sealed_json(lock),
    }
