"""Environments and their locks on the way to an agent."""

from __future__ import annotations

from typing import Any

import grpc

from runyard_contract.environment_spec import lock_hash
from runyardpb.agent.v1 import agent_pb2
from runyardpb.v1 import environments_pb2, runs_pb2
from support.fake_agent import FakeAgent
from support.served import WORKSPACE, Served, create_request, refused, with_daemon

LINUX = "linux-x86_64-cp311"


def numpy_on(base: bytes) -> environments_pb2.EnvironmentSpec:
    return environments_pb2.EnvironmentSpec(
        pip=environments_pb2.PipPackages(requirements=["numpy"], base_interpreter_path=base)
    )


async def stored(
    daemon: Served, spec: environments_pb2.EnvironmentSpec
) -> environments_pb2.Environment:
    request = environments_pb2.CreateEnvironmentRequest(
        parent=WORKSPACE, environment_id="env", spec=spec
    )
    return (await daemon.environments.CreateEnvironment(request)).environment


async def keep(daemon: Served, spec_hash: str, text: str, *, is_refresh: bool = False) -> str:
    """Text of the lock that counts."""
    lock = environments_pb2.EnvironmentLock(platform=LINUX, text=text, hash=lock_hash(LINUX, text))
    request = agent_pb2.KeepLockRequest(spec_hash=spec_hash, lock=lock, is_refresh=is_refresh)
    return (await daemon.agents.KeepLock(request)).lock.text


def test_a_lease_carries_snapshot_environment_and_the_first_lock() -> None:
    async def test(daemon: Served) -> None:
        snapshot = await daemon.snapshot({"a.py": b"1", "lib/b.py": b"2"})
        environment = await stored(daemon, numpy_on(b""))
        spec = runs_pb2.RunSpec(
            script=runs_pb2.Script(path="a.py"), snapshot=snapshot, environment_name="env"
        )

        async with FakeAgent(daemon.channel).connected() as agent:
            await daemon.runs.CreateRun(create_request(spec=spec))
            first = await agent.expect("lease")
            kept = await keep(daemon, environment.spec_hash, "numpy==1\n")
            again = await keep(daemon, environment.spec_hash, "numpy==2\n")
            await daemon.runs.CreateRun(create_request(spec=spec))
            second = await agent.expect("lease")

        assert first.environment == numpy_on(b"")
        assert len(first.manifests) == 2
        assert not first.locks
        assert kept == again == "numpy==1\n"
        assert [known.text for known in second.locks] == ["numpy==1\n"]

    with_daemon(test)


def test_callers_with_pythons_in_other_places_share_version_and_lock() -> None:
    async def test(daemon: Served) -> None:
        first = await stored(daemon, numpy_on(b"/home/a/.venv/bin/python"))
        await keep(daemon, first.spec_hash, "numpy==1\n")

        second = await stored(daemon, numpy_on(b"/home/b/.venv/bin/python"))
        command = runs_pb2.Command(argv=[b"x"])
        async with FakeAgent(daemon.channel).connected() as agent:
            await daemon.runs.CreateRun(
                create_request(spec=runs_pb2.RunSpec(command=command, environment_name="env"))
            )
            by_name = await agent.expect("lease")
            await daemon.runs.CreateRun(
                create_request(
                    spec=runs_pb2.RunSpec(command=command, environment=numpy_on(b"/opt/python"))
                )
            )
            by_content = await agent.expect("lease")

        assert (first.version, second.version) == (1, 1)
        assert by_name.environment == second.spec == numpy_on(b"/home/b/.venv/bin/python")
        for lease in (by_name, by_content):
            assert [lock.text for lock in lease.locks] == ["numpy==1\n"]

    with_daemon(test)


def test_a_lock_that_was_resolved_anew_goes_into_later_leases_and_the_other_is_still_told() -> None:
    async def test(daemon: Served) -> None:
        environment = await stored(daemon, numpy_on(b""))
        await keep(daemon, environment.spec_hash, "numpy==1\n")
        build = runs_pb2.RunSpec(
            kind=runs_pb2.RunSpec.KIND_ENVIRONMENT_BUILD,
            environment_name="env",
            refresh_environment=True,
        )
        usual = runs_pb2.RunSpec(command=runs_pb2.Command(argv=[b"x"]), environment_name="env")

        async with FakeAgent(daemon.channel).connected() as agent:
            await daemon.runs.CreateRun(create_request(spec=build))
            refresh = await agent.expect("lease")
            kept = await keep(daemon, environment.spec_hash, "numpy==2\n", is_refresh=True)
            late = await keep(daemon, environment.spec_hash, "numpy==1\n")
            await daemon.runs.CreateRun(create_request(spec=usual))
            later = await agent.expect("lease")

        assert refresh.spec.refresh_environment
        assert [lock.text for lock in refresh.locks] == ["numpy==1\n"]
        assert kept == late == "numpy==2\n"
        assert [lock.text for lock in later.locks] == ["numpy==2\n"]
        for text in ("numpy==1\n", "numpy==2\n"):
            asked = environments_pb2.GetEnvironmentLockRequest(hash=lock_hash(LINUX, text))
            answer = await daemon.environments.GetEnvironmentLock(asked)
            assert (answer.lock.text, answer.lock.platform) == (text, LINUX)

    with_daemon(test)


def test_a_run_has_specification_and_lock_of_its_environment_among_its_files() -> None:
    async def test(daemon: Served) -> None:
        environment = await stored(daemon, numpy_on(b""))
        await keep(daemon, environment.spec_hash, "numpy==1\n")
        spec = runs_pb2.RunSpec(command=runs_pb2.Command(argv=[b"x"]), environment_name="env")

        async with FakeAgent(daemon.channel).connected() as agent:
            run = (await daemon.runs.CreateRun(create_request(spec=spec))).run
            ref = (await agent.expect("lease")).ref
            before = await daemon.runs.ListRunFiles(runs_pb2.ListRunFilesRequest(parent=run.name))
            facts = {"lock": lock_hash(LINUX, "numpy==1\n")}
            phase = agent_pb2.AttemptReport.PHASE_PREPARING
            await agent.report(ref, phase, execution=facts)
            await keep(daemon, environment.spec_hash, "numpy==2\n", is_refresh=True)

        listed = await daemon.runs.ListRunFiles(
            runs_pb2.ListRunFilesRequest(parent=run.name, prefix="environment/")
        )
        read = {file.path: await content(daemon, run.name, file.path) for file in listed.files}
        rest = await content(daemon, run.name, "environment/lock.txt", 6)

        assert [file.path for file in before.files] == ["environment/conda_specification.yml"]
        assert [file.size_bytes for file in listed.files] == [*map(len, read.values())]
        assert read["environment/conda_specification.yml"].decode() == (
            "name: env\nchannels:\n  - conda-forge\ndependencies:\n"
            "  - python=3.11\n  - pip\n  - pip:\n    - numpy\n"
        )
        assert read["environment/lock.txt"] == b"numpy==1\n"
        assert rest == b"=1\n"

    with_daemon(test)


async def content(daemon: Served, run: str, path: str, offset_bytes: int = 0) -> bytes:
    request = runs_pb2.ReadRunFileRequest(name=run, path=path, offset_bytes=offset_bytes)
    return b"".join([answer.data async for answer in daemon.runs.ReadRunFile(request)])


def test_a_lock_that_never_was_is_not_found() -> None:
    async def test(daemon: Served) -> None:
        asked = environments_pb2.GetEnvironmentLockRequest(hash="../" + "f" * 100)

        error = await refused(daemon.environments.GetEnvironmentLock(asked))

        assert error.reason == "ENVIRONMENT_NOT_FOUND"

    with_daemon(test)


def test_a_run_that_does_more_than_build_resolves_nothing_anew() -> None:
    async def test(daemon: Served) -> None:
        spec = runs_pb2.RunSpec(
            command=runs_pb2.Command(argv=[b"x"]),
            environment=numpy_on(b""),
            refresh_environment=True,
        )

        error = await refused(daemon.runs.CreateRun(create_request(spec=spec)))

        assert error.reason == "SPEC_INVALID"
        assert "refresh_environment" in str(error.violations)

    with_daemon(test)


def test_a_lock_that_does_not_have_its_hash_is_refused() -> None:
    async def test(daemon: Served) -> None:
        environment = await stored(daemon, numpy_on(b""))
        lock = environments_pb2.EnvironmentLock(
            platform=LINUX, text="evil==1\n", hash=lock_hash(LINUX, "numpy==1\n")
        )

        error = await refused(
            daemon.agents.KeepLock(
                agent_pb2.KeepLockRequest(spec_hash=environment.spec_hash, lock=lock)
            )
        )

        assert error.reason == "DIGEST_MISMATCH"
        again = await stored(daemon, numpy_on(b""))
        assert not again.locks

    with_daemon(test)


def test_locks_of_conda_packages_are_kept_and_shown() -> None:
    async def test(daemon: Served) -> None:
        conda = environments_pb2.CondaPackages(packages=["numpy"], channels=["conda-forge"])
        environment = await stored(daemon, environments_pb2.EnvironmentSpec(conda=conda))

        await keep(daemon, environment.spec_hash, "@EXPLICIT\n")
        again = await stored(daemon, environment.spec)
        spec = runs_pb2.RunSpec(command=runs_pb2.Command(argv=[b"true"]), environment_name="env")
        async with FakeAgent(daemon.channel).connected() as agent:
            await daemon.runs.CreateRun(create_request(spec=spec))
            lease = await agent.expect("lease")

        assert again.version == environment.version == 1
        assert lease.environment.conda == conda
        assert [lock.text for lock in lease.locks] == ["@EXPLICIT\n"]
        assert [lock.text for lock in again.locks] == ["@EXPLICIT\n"]

    with_daemon(test)


def built(text: str, **more: Any) -> environments_pb2.EnvironmentBuild:
    """What a node says of the environment of a lock."""
    message = environments_pb2.EnvironmentBuild(lock_hash=lock_hash(LINUX, text), **more)
    message.create_time.FromSeconds(1_764_000_000)
    message.last_use_time.FromSeconds(1_764_000_100)
    return message


def said(*builds: environments_pb2.EnvironmentBuild) -> agent_pb2.BuiltEnvironments:
    return agent_pb2.BuiltEnvironments(builds=builds)


def test_environment_shows_where_its_locks_are_built_while_the_node_is_there() -> None:
    async def test(daemon: Served) -> None:
        environment = await stored(daemon, numpy_on(b""))
        await keep(daemon, environment.spec_hash, "numpy==1\n")
        get = environments_pb2.GetEnvironmentRequest(name=environment.name)

        async def shown() -> list[environments_pb2.EnvironmentBuild]:
            return list((await daemon.environments.GetEnvironment(get)).environment.builds)

        ours, others = built("numpy==1\n", size_bytes=42, hits=3), built("six==1\n")
        async with FakeAgent(daemon.channel).connected() as agent:
            assert await shown() == []
            await agent.told(environments=said(ours, others))
            (build,) = await shown()
            listed = await daemon.environments.ListEnvironments(
                environments_pb2.ListEnvironmentsRequest(parent=WORKSPACE)
            )
            await agent.told(environments=said(others))
            assert await shown() == []
            await agent.told(environments=said(ours))
            assert await shown() == [build]
        await daemon.app.live.all_parted()
        parted = await shown()

        ours.node, ours.key = "local/host1", ours.lock_hash
        assert build == ours
        assert list(listed.environments[0].builds) == [build]
        assert parted == []

    with_daemon(test)


def test_several_images_of_one_lock_are_all_shown() -> None:
    """As those of a Dockerfile that copies files are, one for each snapshot."""

    async def test(daemon: Served) -> None:
        environment = await stored(daemon, numpy_on(b""))
        await keep(daemon, environment.spec_hash, "numpy==1\n")
        get = environments_pb2.GetEnvironmentRequest(name=environment.name)
        images = [built("numpy==1\n", size_bytes=1, key=digit * 64) for digit in "ab"]

        async with FakeAgent(daemon.channel).connected() as agent:
            await agent.told(environments=said(*images, built("numpy==1\n", key="../..")))
            shown = (await daemon.environments.GetEnvironment(get)).environment.builds

        assert [build.key for build in shown] == ["a" * 64, "b" * 64]
        assert {build.lock_hash for build in shown} == {images[0].lock_hash}

    with_daemon(test)


def test_builds_that_make_no_sense_are_left_out_or_count_as_a_fault() -> None:
    async def test(daemon: Served) -> None:
        environment = await stored(daemon, numpy_on(b""))
        await keep(daemon, environment.spec_hash, "numpy==1\n")
        get = environments_pb2.GetEnvironmentRequest(name=environment.name)
        nonsense = environments_pb2.EnvironmentBuild(lock_hash="../..", size_bytes=-1, hits=-1)
        negative = built("numpy==1\n", size_bytes=-1, hits=-5)

        async with FakeAgent(daemon.channel).connected() as agent:
            await agent.told(environments=said(nonsense, negative))
            (build,) = (await daemon.environments.GetEnvironment(get)).environment.builds
            await agent.told(environments=said(*[nonsense] * 10_001))
            await agent.told(environments=said(*[nonsense] * 10_001))
            await agent.say(environments=said(*[nonsense] * 10_001))
            code = await agent.over()

        assert (build.size_bytes, build.hits) == (0, 0)
        assert code is grpc.StatusCode.INVALID_ARGUMENT

    with_daemon(test)
