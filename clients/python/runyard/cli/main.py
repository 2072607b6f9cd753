"""What `runyard` does with a command line, and the one place where errors end."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import NoReturn

from runyard.cli.failure import (
    EXIT_BROKEN_PIPE,
    EXIT_INTERRUPTED,
    Left,
    defect,
    exit_code_of,
    show_error,
)
from runyard.cli.output import Output
from runyard_contract.errors import RunyardError

_COMPLETION = "_RUNYARD_COMPLETE"
"""Variable with which a shell asks for completions instead of running the command line."""


def run_command_line(arguments: list[str], output: Output) -> int:
    """Runs one command and returns its exit code. Errors are shown, none is raised."""
    try:
        return _dispatch(arguments, output)
    except Left as left:
        return left.exit_code
    except RunyardError as error:
        return _fail(output, error)
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            output.say("runyard: interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return EXIT_BROKEN_PIPE
    except Exception as error:
        return _fail(output, defect(error))


def _dispatch(arguments: list[str], output: Output) -> int:
    """The command's exit code.

    `run SCRIPT …`, the usual one, has nothing to parse: what follows SCRIPT belongs to it. The
    parser, click with the definitions of all options, would be a sixth of what that costs.
    """
    if _is_plain_run(arguments) and _COMPLETION not in os.environ:
        from runyard.cli.request import RunOptions
        from runyard.cli.submit import submit_and_follow

        return submit_and_follow(output, RunOptions(words=tuple(arguments[1:])))
    from runyard.cli.root import run_root

    return run_root(arguments, output)


def _is_plain_run(arguments: list[str]) -> bool:
    """Whether this is a run without any option of ours."""
    return arguments[:1] == ["run"] and len(arguments) > 1 and not arguments[1].startswith("-")


def _fail(output: Output, error: RunyardError) -> int:
    with contextlib.suppress(OSError):
        show_error(output, error)
    return exit_code_of(error)


def entry() -> NoReturn:
    """Runs the command line of this process and ends it.

    The process ends at once after its streams are flushed: taking grpc and its threads down in
    order costs 30 ms and gives nothing.
    """
    exit_code = run_command_line(sys.argv[1:], Output(os.environ))
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(exit_code)
