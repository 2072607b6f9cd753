"""Help, wrong usage, errors: what people see who do not know the command by heart."""

from __future__ import annotations

import os
from collections.abc import Iterator

import click
import pytest

from runyard.cli.command_line import Command, Group
from runyard.cli.main import run_command_line
from runyard.cli.output import Output
from runyard.cli.root import root
from support.command_line import CommandLine
from support.fake_control import FakeControl


def all_commands() -> Iterator[tuple[str, click.Command]]:
    """Every command with its path, groups included."""

    def walk(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
        yield path, command
        if isinstance(command, Group):
            context = click.Context(command, info_name=path)
            for name in command.list_commands(context):
                found = command.get_command(context, name)
                assert found is not None
                yield from walk(f"{path} {name}", found)

    yield from walk("runyard", root)


COMMANDS = dict(all_commands())


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_has_help_with_an_example(command: CommandLine, path: str) -> None:
    done = command(*path.split()[1:], "--help")

    assert done.code == 0
    said = done.stdout.decode()
    assert said.startswith(f"Usage: {path} ")
    assert f"  {path}" in said.partition("Examples:\n")[2]
    assert done.stderr == ""


@pytest.mark.parametrize("path", [p for p, c in COMMANDS.items() if isinstance(c, Command)])
def test_every_option_says_what_it_is_for(path: str) -> None:
    options = [param for param in COMMANDS[path].params if isinstance(param, click.Option)]

    assert [option.name for option in options if not option.help] == []


def test_names_in_the_root_help_are_those_of_the_commands() -> None:
    for name, entry in root.entries.items():
        assert entry.load().name == name


def test_without_a_command_the_help_is_shown_and_usage_is_wrong(command: CommandLine) -> None:
    done = command()

    assert done.code == 2
    assert "Commands:" in done.stderr
    assert done.stdout == b""
    assert command("runs").code == 2


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("rnu", "runyard has no command rnu\n  fix: did you mean `runyard run`?"),
        ("train.py", "fix: run a script with `runyard run train.py`"),
        ("runs lits", "runyard runs has no command lits\n  fix: did you mean `runyard runs list`?"),
        ("zzz", "fix: one of run, runs, compute,"),
        ("run --targt x.py", "no such option --targt\n  fix: did you mean --target?"),
        ("run", "fix: write `runyard run train.py`"),
        ("run --", "no program was named after --"),
        ("runs show", "RUN is lacking\n  fix: see `runyard runs show --help`"),
        ("runs list -n 0", "-n / --limit: '0' is not over 0"),
        ("runs list --status Runing", "--status: 'Runing' is no status of a run; did you mean"),
        ("run --priority", "--priority"),
        ("compute show xx y", "unexpected extra argument (y)"),
        ("environment show a/b", "NAME[:VERSION]:"),
    ],
)
def test_wrong_usage_is_named_with_the_next_step(
    command: CommandLine, typed: str, says: str
) -> None:
    done = command(*typed.split())

    assert done.code == 2
    assert says.lower() in done.stderr.lower()
    assert "\n  fix: " in done.stderr
    assert done.stderr.endswith("[USAGE_INVALID]\n")
    assert done.stdout == b""


def test_wrong_usage_as_json(command: CommandLine) -> None:
    done = command("runs", "list", "--json", "-n", "many")

    assert done.json["error"]["reason"] == "USAGE_INVALID"
    assert done.json["error"]["metadata"]["option"] == "-n / --limit"
    assert done.json["error"]["hint"] == "see `runyard runs list --help`"
    assert "[USAGE_INVALID]" in done.stderr


def test_unforeseen_error_becomes_an_incident_with_a_log(
    command: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("RUNYARD_HOME", str(home))
    monkeypatch.setitem(root.entries, "broken", _Broken())

    done = command("broken")

    assert done.code == 1
    assert "Traceback" not in done.stderr
    assert "ZeroDivisionError" in done.stderr
    assert "[CLIENT_DEFECT]" in done.stderr
    (log,) = (home / "client").glob("incident-*.txt")
    assert str(log) in done.stderr
    assert "Traceback" in log.read_text()


class _Broken:
    summary = "breaks"

    def load(self) -> click.Command:
        raise ZeroDivisionError("1/0")


def test_version_names_the_build(command: CommandLine) -> None:
    assert command("--version").stdout.startswith(b"runyard 0.")


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("runyard ru", {"plain,run", "plain,runs"}),
        ("runyard runs li", {"plain,list"}),
        ("runyard run --tar", {"plain,--target"}),
        ("runyard runs show la", {"plain,last"}),
    ],
)
def test_shell_completes_commands_options_and_runs(
    control: FakeControl,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: str,
    completed: set[str],
) -> None:
    monkeypatch.setenv("_RUNYARD_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))

    with pytest.raises(SystemExit):
        run_command_line([], Output(os.environ))

    assert set(capfd.readouterr().out.split()) == completed
