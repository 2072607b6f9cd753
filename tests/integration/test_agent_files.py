"""A real agent against a fake daemon: snapshots laid out, outputs and working folders sent."""

from __future__ import annotations

import hashlib
import os

from runyard_contract.digest import digest_bytes
from runyardpb.agent.v1 import agent_pb2 as pb
from support.agent_process import becomes, in_loop, node
from support.fake_daemon import script

END = pb.AttemptEnd


@in_loop
async def test_agent_says_that_the_snapshot_is_not_whole() -> None:
    async with node() as (daemon, _agent):
        spec = script(daemon, "print('x')")
        digest = digest_bytes(b"print('x')")
        (daemon.blobs_path / digest[:2] / digest[2:]).unlink()

        report = await daemon.ended(await daemon.lease(spec))

        assert report.end.reason == END.REASON_SNAPSHOT_FAILED
        assert "not in the store" in report.end.message
        after = await daemon.lease(script(daemon, "print(2)"))
        assert (await daemon.ended(after)).end.exit_code == 0


@in_loop
async def test_agent_lays_out_a_large_snapshot_from_the_store_and_over_the_wire() -> None:
    large = os.urandom(9 << 20)
    files = {f"data/{n % 7}/{n:03}.bin": b"%d" % n for n in range(600)}
    source = (
        "import hashlib, pathlib\n"
        "print(len(list(pathlib.Path('data').rglob('*.bin'))),"
        " hashlib.md5(open('large.bin', 'rb').read()).hexdigest())\n"
    )
    expected = f"600 {hashlib.md5(large, usedforsecurity=False).hexdigest()}\n".encode()
    for in_place in (True, False):
        async with node(blobs=in_place) as (daemon, _agent):
            held = await daemon.lease(script(daemon, source, files={"large.bin": large, **files}))

            await daemon.ended(held)

            assert held.stdout == expected, (in_place, held.report)


@in_loop
async def test_agent_takes_outputs_as_they_may_be_taken() -> None:
    async with node() as (daemon, _agent):
        held = await daemon.lease(
            script(
                daemon,
                "import os\n"
                "open('data.csv', 'w').write('inside')\n"
                "os.symlink('../data.csv', 'outputs/in.csv')\n"
                "os.symlink('/etc/passwd', 'outputs/out.txt')\n"
                "os.symlink('/', 'outputs/root')\n"
                "os.mkfifo('outputs/pipe')\n"
                "os.makedirs('outputs/a/b')\n"
                "open('outputs/a/b/tool', 'w').write('#!')\n"
                "os.chmod('outputs/a/b/tool', 0o755)\n"
                "open('logs/stdout.txt', 'w').write('mine')\n"
                "open(b'outputs/bad\\xff', 'w').write('')\n"
                "large = open('outputs/large.bin', 'wb')\n"
                "large.write(b'0123456789abcdef' * 600_000)\n"
                "files = os.environ['RUNYARD_JOB_DIR'] + '/files'\n"
                "os.makedirs(files + '/plots')\n"
                "open(files + '/plots/loss.png', 'w').write('png')\n",
            )
        )

        report = await daemon.ended(held)

        assert sorted(held.registered) == [
            "logs/stdout.job.txt",
            "outputs/a/b/tool",
            "outputs/in.csv",
            "outputs/large.bin",
            "plots/loss.png",
        ]
        assert daemon.content(held.registered["outputs/in.csv"]) == b"inside"
        assert held.registered["outputs/a/b/tool"].is_executable
        large = held.registered["outputs/large.bin"]
        assert large.content.is_chunked
        assert daemon.content(large) == b"0123456789abcdef" * 600_000
        warnings = "\n".join(report.warnings)
        for what in ("out.txt", "outputs/root", "pipe", "bad\\xff", "logs/stdout.txt"):
            assert what in warnings


@in_loop
async def test_agent_sends_no_content_that_the_daemon_has() -> None:
    async with node() as (daemon, _agent):
        source = "open('outputs/same.txt', 'w').write('same')"
        first = await daemon.lease(script(daemon, source))
        await daemon.ended(first)
        sent = len(daemon.uploaded)

        second = await daemon.lease(script(daemon, source))
        await daemon.ended(second)

        assert "outputs/same.txt" in second.registered
        assert len(daemon.uploaded) == sent == 1


@in_loop
async def test_agent_sends_the_working_folder_when_it_is_asked_for() -> None:
    async with node() as (daemon, _agent):
        held = await daemon.lease(
            script(daemon, "open('a.txt', 'w').write('a')\nopen('train.py', 'a').write('#')\n")
        )
        await daemon.ended(held)

        await daemon.say(
            collect_workdir=pb.CollectAttemptWorkdir(ref=held.lease.ref, request_id="r-1")
        )
        done = await daemon.until(lambda: daemon.collected.get("r-1"))

        assert (done.file_count, done.error, done.is_gone) == (2, "", False)
        assert daemon.content(held.registered["workdir/a.txt"]) == b"a"
        assert "workdir/train.py" in held.registered


@in_loop
async def test_agent_says_that_a_working_folder_is_gone() -> None:
    async with node() as (daemon, agent):
        daemon.keep_workdir_s = 0
        held = await daemon.lease(script(daemon, "open('a.txt', 'w').close()"))
        await daemon.ended(held)
        bundle = agent.bundle(held)
        after = await daemon.lease(script(daemon, ""))
        await daemon.ended(after)

        await daemon.say(
            collect_workdir=pb.CollectAttemptWorkdir(ref=held.lease.ref, request_id="r-2")
        )
        done = await daemon.until(lambda: daemon.collected.get("r-2"))

        assert done.is_gone
        assert not bundle.exists()


@in_loop
async def test_folder_of_a_large_snapshot_is_built_ahead_and_whole() -> None:
    files = {f"data/{n:03d}.txt": b"%d" % n for n in range(300)}
    source = (
        "import os\nprint(sum(int(open('data/' + n).read()) for n in os.listdir('data')))\n"
        "print(os.stat('.').st_ino)\nopen('data/000.txt', 'w').write('1000')\n"
    )
    async with node(slots=1) as (daemon, agent):
        built, used = set(), set()
        for number in range(5):
            if number > 1:
                [folder] = await becomes(lambda: list(agent.home.glob("runs/.free.*/work.index")))
                built.add(folder.with_name("work").stat().st_ino)
            held = await daemon.lease(script(daemon, source, files=files))
            report = await daemon.ended(held)
            total, inode = map(int, held.stdout.split())
            used.add(inode)
            assert total == sum(range(300))
            assert [file.path for file in report.workdir.files] == ["data/000.txt"]
        assert built & used
