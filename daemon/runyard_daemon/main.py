"""`python -P -m runyard_daemon serve` and `restore`: arguments, signals, exit codes."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from runyard_contract.addresses import AGENT_PORT, PORT, HostPort
from runyard_contract.errors import HomeUnusable, RunyardError
from runyard_contract.memory import collect_seldom
from runyard_contract.version import build_id
from runyard_daemon import config as configuration
from runyard_daemon import instance
from runyard_daemon.app import App, running, wall_us
from runyard_daemon.config import Config
from runyard_daemon.control import restore as restoring
from runyard_daemon.journal import Journal, take_over_logging
from runyard_daemon.preload import preload
from runyard_daemon.rpc.edge import first_known

STDERR_FD = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the daemon; gives its exit code."""
    given = _parser().parse_args(arguments)
    journal = Journal(STDERR_FD)
    os.umask(0o077)
    try:
        config = configuration.load(
            os.environ,
            home=given.home,
            is_embedded=given.embedded,
            metrics_file=given.metrics_file,
            listen=HostPort.parse(given.listen, port=PORT) if given.listen else None,
            agent_listen=(
                HostPort.parse(given.agent_listen, port=AGENT_PORT) if given.agent_listen else None
            ),
        )
        instance.prepare_home(config.home)
        lock_fd = instance.take_lock(config.home)
        try:
            if given.command == "restore":
                _restore(config, given)
            else:
                _serve(config, journal)
        finally:
            os.close(lock_fd)
    except Exception as error:  # the edge of the process
        known = first_known(error)
        if known is None:
            raise
        if given.command == "restore":
            _answer({"reason": known.reason, "message": known.message, "hint": known.hint})
        else:
            _say(journal, known, is_embedded=given.embedded)
        return known.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="runyard-daemon", description="Keeps runs, their files and their history."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="serve this user's data directory")
    serve.add_argument("--home", type=Path, help="the data directory (default: $RUNYARD_HOME)")
    serve.add_argument(
        "--embedded",
        action="store_true",
        help="started by a client: log to stderr as JSON only, end when idle",
    )
    serve.add_argument(
        "--metrics-file",
        type=Path,
        help="keep figures for monitoring there, in Prometheus's text format",
    )
    serve.add_argument("--listen", metavar="HOST:PORT", help="serve people there, by TLS")
    serve.add_argument("--agent-listen", metavar="HOST:PORT", help="serve nodes there, by TLS")
    restore = commands.add_parser("restore", help="restore the data directory from a backup")
    restore.add_argument("--home", type=Path, help="the data directory (default: $RUNYARD_HOME)")
    restore.add_argument("--force", action="store_true", help="move data that is there aside")
    restore.add_argument("--keep-queue", action="store_true", help="runs that waited go on waiting")
    restore.add_argument("file", type=Path, help="the backup")
    restore.set_defaults(embedded=False, metrics_file=None, listen=None, agent_listen=None)
    return parser


def _restore(config: Config, given: argparse.Namespace) -> None:
    """Restores and answers the command that asked for it with one line of JSON on stdout."""
    try:
        facts = restoring.restore(
            config.home,
            given.file,
            now_us=wall_us(),
            version=build_id(),
            is_forced=given.force,
            keeps_queue=given.keep_queue,
        )
    except OSError as error:
        hint = "nothing was changed; free space or mend what the message names, then try again"
        if restoring.is_decided(config.home):
            hint = (
                "the backup is unpacked and takes its place at the next start; mend what the "
                "message names, then use any `runyard` command"
            )
        raise HomeUnusable(
            f"the restore failed: {error}",
            hint=hint,
            home=str(config.home),
        ) from error
    _answer(asdict(facts))


def _answer(values: dict[str, Any]) -> None:
    print(json.dumps(values), flush=True)


def _serve(config: Config, journal: Journal) -> None:
    preload(has_ports=config.listen is not None)
    take_over_logging(journal)
    os.chdir(config.home)
    asyncio.run(_run(config, journal))


async def _run(config: Config, journal: Journal) -> None:
    async with running(config, journal) as app:
        collect_seldom()
        _handle_signals(app)
        await app.run()
    journal.info("stopped")


def _handle_signals(app: App) -> None:
    """The first SIGTERM or SIGINT ends in order and leaves runs and agent alone; the second at
    once, which is safe at any moment."""
    loop = asyncio.get_running_loop()

    def asked(number: signal.Signals) -> None:
        if app.stop.asked.is_set():
            os._exit(128 + number)
        app.stop.ask(is_stop=False)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked, number)


def _say(journal: Journal, error: RunyardError, *, is_embedded: bool) -> None:
    """Says why there is no daemon: to the log that a starter reads, or to a person."""
    if is_embedded:
        journal.error("start_failed", reason=error.reason, message=error.message, hint=error.hint)
        return
    lines = [f"runyard-daemon: {error.message}"]
    if error.hint:
        lines.append(f"  fix: {error.hint}")
    lines.append(f"  [{error.reason}]")
    print("\n".join(lines), file=sys.stderr)
