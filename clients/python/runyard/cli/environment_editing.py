"""`runyard environment create` and `download`: stored environments from files, and as files."""

from __future__ import annotations

import os

import click

from runyard.cli import parameters
from runyard.cli.command_line import Command, json_option, output_of
from runyard.cli.failure import UsageInvalid
from runyard.cli.options import option
from runyard.cli.render.text import clean, clean_line
from runyard.cli.session import open_workspace


@click.command(
    cls=Command,
    examples=[
        "runyard environment create --file env.yml --name iris",
        "runyard environment create --file iris/  # as `environment download` made it",
    ],
)
@option("--file", metavar="PATH", required=True, type=parameters.FILE, help="What to store.")
@option("--name", type=parameters.ENVIRONMENT, help="Under which name. [of a folder: its own]")
@json_option
@click.pass_context
def create(ctx: click.Context, file: str, name: str | None) -> None:
    """Store an environment without building it; the same content is the same version.

    PATH is a requirements.txt, a conda YAML file, a Dockerfile, or a folder that
    `runyard environment download` made.
    """
    from runyard._environments import environment
    from runyard.cli.environment_build import caller_interpreter
    from runyard.cli.request import read_environment
    from runyard.environment import Environment
    from runyard.environment_store import store_environment

    output = output_of(ctx)
    found = read_environment(file)
    own_name = found.name if os.path.isdir(file) else None
    if not (name or own_name):
        raise UsageInvalid(f"{file} does not say what it is called", hint="add --name NAME")
    message = store_environment(
        open_workspace(), name or own_name or "", found, caller_interpreter()
    )
    stored = environment(message, Environment)
    if output.is_json:
        output.print_json(
            {"name": stored.name, "version": message.version, "spec_hash": message.spec_hash}
        )
        return
    output.print(f"{stored.name}:{stored.version}")
    output.say(
        f"runyard: stored {stored.name} version {stored.version}; build it with"
        f" `runyard environment build {stored.name} -t TARGET`"
    )


@click.command(
    cls=Command,
    examples=[
        "runyard environment download iris",
        "runyard environment download iris:2 -o old-iris --overwrite",
    ],
)
@click.argument("stored", metavar="NAME[:VERSION]", type=parameters.ENVIRONMENT_VERSION)
@option("-o", "--output", "folder", metavar="FOLDER", type=parameters.FOLDER, help="Into. [NAME]")
@option("--overwrite", is_flag=True, help="Replace its files in a folder that is not empty.")
@json_option
@click.pass_context
def download(
    ctx: click.Context, stored: tuple[str, int | None], folder: str | None, overwrite: bool
) -> None:
    """Write a stored environment to a folder, to edit it and store it again.

    Its packages are in conda_dependencies.yml, its Dockerfile in BaseDockerfile, the rest in
    azureml_environment.json. `runyard environment create --file FOLDER` makes a new version of it.
    """
    from runyard._environments import environment
    from runyard.environment import Environment
    from runyard.environment_folder import save_environment
    from runyard.environment_store import get_environment

    output = output_of(ctx)
    message = get_environment(open_workspace(), *stored)
    found = environment(message, Environment)
    folder = folder or found.name or ""
    files = save_environment(found, folder, is_overwriting=overwrite)
    if output.is_json:
        output.print_json(
            {
                "name": found.name,
                "version": message.version,
                "folder": os.path.abspath(folder),
                "files": files,
            }
        )
        return
    for path in files:
        output.print(clean(path))
    output.say(
        f"runyard: {found.name} version {found.version}; edit it, then"
        f" `runyard environment create --file {clean_line(os.path.join(folder, ''))}`"
    )
