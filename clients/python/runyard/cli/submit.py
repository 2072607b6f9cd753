"""Submits a run and follows it to its end."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from runyard.cli.failure import Left, show_error
from runyard.cli.output import Output
from runyard.cli.render.text import clean, clean_line
from runyard.cli.request import RunOptions, RunRequest, prepare
from runyard_contract.errors import RunyardError
from runyard_contract.ids import ExperimentName
from runyard_contract.states import EndClass

if TYPE_CHECKING:
    from runyard.channel import Connection
    from runyard.cli.following import Follower
    from runyard.records import RunRecord
    from runyard.submission import Submitted


def submit_and_follow(
    output: Output,
    options: RunOptions,
    *,
    waits: bool = True,
    is_verbose: bool = False,
    is_raw: bool = False,
) -> int:
    """Submits a run and, with `waits`, follows it; returns the command's exit code."""
    from runyard.caller_environment import current_environment
    from runyard.cli.session import open_workspace
    from runyard.home import client_folder

    workspace = open_workspace()
    home = workspace.connection.address.home
    environ = current_environment()
    request = prepare(options, environ, client_folder(home) if home is not None else None)
    for name in request.missing_variables:
        output.say(f"runyard: warning: --env-var {name}: there is no such variable here")
    submitted = _submit(output, workspace.connection, request, options, environ)
    for notice in submitted.notices:
        output.say(f"runyard: {clean(notice)}")
    _say_header(output, request, submitted, is_verbose=is_verbose)
    if not waits:
        _say_submitted(output, submitted.record)
        return 0
    return _follow(output, workspace.connection, submitted, is_verbose=is_verbose, is_raw=is_raw)


def _submit(
    output: Output,
    connection: Connection,
    request: RunRequest,
    options: RunOptions,
    environ: dict[bytes, bytes],
) -> Submitted:
    from runyard.git import GitLook

    # Before what follows is imported, which takes as long as git does.
    git = GitLook(request.source.directory)
    from runyard.caller_environment import caller_environment
    from runyard.cli.render.status_line import StatusLine
    from runyard.run_spec import Caller
    from runyard.submission import Submission
    from runyard.workspace import DEFAULT_WORKSPACE

    interpreter = os.fsencode(request.interpreter.path)
    caller = Caller(interpreter, caller_environment(environ, request.passed_on))
    submission = Submission(request.config, source=request.source, caller=caller, git=git)
    with StatusLine(output) as status:
        status.show(f"sending {request.source.directory}")
        return submission.send(
            connection,
            ExperimentName(DEFAULT_WORKSPACE, request.experiment),
            tags=dict(options.tags),
        )


def _say_header(
    output: Output,
    request: RunRequest,
    submitted: Submitted,
    *,
    is_verbose: bool,
) -> None:
    """One line: which run, where, with what. More with --verbose."""
    from runyard.run_spec import LOCAL

    run = submitted.record
    parts = [f"runyard: {output.paint(run.run_id, 'bold')} on {run.compute_target or LOCAL}"]
    if request.environment:
        parts.append(f"in the environment {clean_line(request.environment)}")
    elif request.source.script:
        is_here = run.compute_target in {"", LOCAL}
        python = str(request.interpreter) if is_here else "its own Python (python3 on PATH)"
        parts.append(f"with {clean_line(python)}")
    output.say(" ".join(parts))
    if is_verbose:
        from runyard.cli.render.ending import say_snapshot

        output.say(f"runyard: source directory: {clean_line(submitted.source)}")
        say_snapshot(output, submitted.statistics)


def _say_submitted(output: Output, run: RunRecord) -> None:
    if output.is_json:
        output.print_json({"run_id": run.run_id})
    else:
        output.say(f"runyard: submitted; follow it with `runyard runs logs -f {run.run_id}`")


def _follow(
    output: Output,
    connection: Connection,
    submitted: Submitted,
    *,
    is_verbose: bool,
    is_raw: bool,
) -> int:
    # Also what only the end of the run needs: now it is loaded while the run goes on.
    from runyard.cli.following import Follower, say_how_to_follow
    from runyard.cli.render.ending import OTHER_EXIT
    from runyard.follow import STDERR

    name = submitted.record.name
    stream = STDERR if is_verbose else ""
    follower = Follower(connection, name, output, is_raw=is_raw, environment_stream=stream)
    try:
        final = follower.follow(cancels=True)
        exit_code = _finish(output, connection, final, follower, is_verbose=is_verbose)
    except Left as left:
        return left.exit_code
    except RunyardError as error:
        show_error(output, error)
        say_how_to_follow(output, name.run)
        return OTHER_EXIT
    if output.is_json:
        from runyard.cli.render.run import run_json

        output.print_json({**run_json(final, submitted.statistics), "outcome": exit_code})
    return exit_code


def _finish(
    output: Output,
    connection: Connection,
    final: RunRecord,
    follower: Follower,
    *,
    is_verbose: bool,
) -> int:
    """Says what came of a run; returns the command's exit code."""
    from runyard.cli import results
    from runyard.cli.render import ending

    if final.end is not None and final.end.end_class is EndClass.ENVIRONMENT:
        for line in follower.environment_tail.splitlines():
            output.say(f"    {clean(line)}")
    ending.say_warnings(output, final)
    ending.say_workdir(output, final)
    if not output.is_json:
        results.say_results(output, connection, final.name)
    if is_verbose:
        for line in ending.waterfall(final):
            output.say(f"  {line}")
    return ending.say_end(output, final, was_interrupted=follower.was_interrupted)
