"""Drives a daemon in this process through what imports code only when needed."""

from __future__ import annotations

from runyardpb.v1 import runs_pb2
from support.fake_agent import FakeAgent
from support.served import Served, create_request, refused, with_daemon


def run() -> None:
    """Submits, fails, explains, and provokes errors with suggestions."""
    with_daemon(_drive)


async def _drive(daemon: Served) -> None:
    snapshot = await daemon.snapshot({"a.py": b"1", ".gitignore": b"data/\n"})
    await refused(daemon.run("workspaces/default/experiments/-/runs/demo_1_00000000"))
    async with FakeAgent(daemon.channel).connected() as agent:
        spec = runs_pb2.RunSpec(script=runs_pb2.Script(path="a.py"), snapshot=snapshot)
        run = (await daemon.runs.CreateRun(create_request(spec=spec))).run
        ref = (await agent.expect("lease")).ref
        error = b"FileNotFoundError: [Errno 2] No such file or directory: 'data/x.csv'\n"
        traceback = b'Traceback (most recent call last):\n  File "a.py", line 1\n' + error
        await agent.end(ref, 1, await agent.print(ref, b"", traceback))
    ended = await daemon.run(run.name)
    assert ended.end.end_class == runs_pb2.End.CLASS_IGNORED_FILE, ended
