"""What every environment builder must do. A builder's test class derives from one of these suites.

`EnvironmentBuilderSuite` holds for all kinds, `BuildingSuite` for those that build something. The
class gives the fixture `case`; the suite asserts what a run or its user can see.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest

from contract.environment_case import (
    BuildingCase,
    Case,
    Log,
    cancelled,
    execute,
    is_built,
    provide,
    provide_to,
    run,
)
from runyard_agent.environments.cache import EnvironmentCache
from runyard_agent.environments.protocol import EnvironmentFailed, ProvidedEnvironment
from runyard_agent.environments.records import READY_NAME


class EnvironmentBuilderSuite:
    """What holds for every kind."""

    def test_kind_is_the_backend_it_serves(self, case: Case) -> None:
        assert case.make().kind == case.good.WhichOneof("backend")

    def test_provides_an_interpreter_that_works(self, case: Case) -> None:
        provided = run(provide(case.make(), case.good))

        ended = execute(provided, case.proof)

        assert os.path.isabs(provided.python)
        assert (ended.returncode, ended.stderr) == (0, "")

    def test_gives_the_same_again_and_after_a_restart(self, case: Case) -> None:
        builder = case.make()
        first = run(provide(builder, case.good))
        locks = [first.lock] if first.lock else []

        again = run(provide(builder, case.good, locks=locks))
        restarted = run(provide(case.make(), case.good, locks=locks))

        assert first == again == restarted

    def test_names_what_does_not_exist_and_advises(self, case: Case) -> None:
        with pytest.raises(EnvironmentFailed) as caught:
            run(provide(case.make(), case.missing))

        assert case.missing_name in caught.value.message
        assert caught.value.advice
        assert case.missing_name in caught.value.metadata.values()

    def test_serves_others_after_a_failure(self, case: Case) -> None:
        builder = case.make()
        with pytest.raises(EnvironmentFailed):
            run(provide(builder, case.missing))

        provided = run(provide(builder, case.good))

        assert execute(provided, case.proof).returncode == 0

    def test_serves_others_after_a_cancel(self, case: Case) -> None:
        builder = case.make()

        async def cancel_then_provide() -> ProvidedEnvironment:
            task = asyncio.create_task(provide(builder, case.good))
            await asyncio.sleep(0)  # it has begun
            await cancelled(task)
            return await provide(builder, case.good)

        assert execute(run(cancel_then_provide()), case.proof).returncode == 0

    def test_two_at_once_get_the_same(self, case: Case) -> None:
        builder = case.make()

        async def both() -> list[ProvidedEnvironment]:
            return await asyncio.gather(provide(builder, case.good), provide(builder, case.good))

        first, second = run(both())

        assert first == second


class BuildingSuite(EnvironmentBuilderSuite):
    """What holds for kinds that build."""

    def test_log_tells_what_was_done_and_that_it_was_done_before(self, case: BuildingCase) -> None:
        builder, first_log, second_log = case.make(), Log(), Log()

        first = run(provide(builder, case.good, first_log))
        run(provide(builder, case.good, second_log, [first.lock] if first.lock else ()))

        assert first_log.text.endswith("\n")
        assert "Building" in first_log.text
        assert first_log.doing
        assert "already built" in second_log.text
        assert "Building" not in second_log.text
        assert "Resolv" not in second_log.text

    def test_same_lock_is_the_same_environment(self, case: BuildingCase) -> None:
        builder = case.make()

        first = run(provide(builder, case.good))
        second = run(provide(builder, case.same))

        assert case.good != case.same
        assert first.lock is not None
        assert second.lock is not None
        assert first.lock.hash == second.lock.hash
        assert (first.key, first.python) == (second.key, second.python)
        assert len(case.built()) == 1

    def test_refresh_resolves_anew_whatever_lock_is_kept(self, case: BuildingCase) -> None:
        first = run(provide(case.make(), case.good))
        assert first.lock is not None
        log = Log()

        refreshed = run(provide(case.make(), case.good, log, locks=[first.lock], is_refresh=True))
        with pytest.raises(EnvironmentFailed):  # the lock of another specification is no help
            run(provide(case.make(), case.missing, locks=[first.lock], is_refresh=True))

        assert refreshed.lock is not None
        assert refreshed.lock.hash == first.lock.hash
        assert "Resolv" in log.text
        assert execute(refreshed, case.proof).returncode == 0
        assert len(case.built()) == 1

    def test_what_is_built_needs_nothing_from_outside(self, case: BuildingCase) -> None:
        first = run(provide(case.make(), case.good))
        assert first.lock is not None

        again = run(provide(case.make_cut_off(), case.good, locks=[first.lock]))

        assert execute(again, case.proof).returncode == 0

    @pytest.mark.parametrize("is_one_builder", [True, False], ids=["one agent", "two agents"])
    def test_two_at_once_build_once(self, case: BuildingCase, is_one_builder: bool) -> None:
        first_log, second_log = Log(), Log()
        builder = case.make()
        other = builder if is_one_builder else case.make()

        async def both() -> list[ProvidedEnvironment]:
            first = asyncio.create_task(provide(builder, case.slow, first_log))
            await asyncio.to_thread(case.gate.wait_entered)
            second = asyncio.create_task(provide(other, case.slow, second_log))
            await second_log.says("waiting for it")
            case.gate.open()
            return await asyncio.gather(first, second)

        first, second = run(both())
        case.gate.wait_left()

        assert first.key == second.key
        assert (first.python, first.container) == (second.python, second.container)
        assert case.gate.entered == 1
        assert len(case.built()) == 1

    def test_failed_build_leaves_nothing_usable(self, case: BuildingCase) -> None:
        builder, log = case.make(), Log()

        with pytest.raises(EnvironmentFailed) as caught:
            run(provide(builder, case.broken, log))

        assert case.broken_name in caught.value.message
        assert case.broken_name in caught.value.metadata.values()
        assert case.broken_name in log.text
        assert case.built() == []
        with pytest.raises(EnvironmentFailed):
            run(provide(builder, case.broken))

    def test_cancelled_build_ends_its_processes_and_leaves_nothing(
        self, case: BuildingCase
    ) -> None:
        builder = case.make()

        async def cancel() -> None:
            task = asyncio.create_task(provide(builder, case.slow))
            await asyncio.to_thread(case.gate.wait_entered)
            await cancelled(task)
            await asyncio.to_thread(case.gate.wait_left)

        run(cancel())

        assert case.gate.entered == 1
        assert case.built() == []
        case.gate.open()
        assert execute(run(provide(builder, case.slow)), "pass").returncode == 0

    def test_damaged_entry_is_built_again(self, case: BuildingCase) -> None:
        first = run(provide(case.make(), case.good))
        assert first.lock is not None
        record = EnvironmentCache(case.root).folder(first.lock.hash) / READY_NAME
        for damage in (b"", b"{}", b"\x00\xff", b'{"format": 1}'):
            record.write_bytes(damage)
            log = Log()

            again = run(provide(case.make(), case.good, log, [first.lock]))

            assert "Building" in log.text
            assert execute(again, case.proof).returncode == 0
            assert is_built(EnvironmentCache(case.root), again)

    def test_build_goes_on_while_somebody_waits(self, case: BuildingCase) -> None:
        builder, log = case.make(), Log()

        async def cancel_the_first() -> ProvidedEnvironment:
            first = asyncio.create_task(provide(builder, case.slow))
            await asyncio.to_thread(case.gate.wait_entered)
            second = asyncio.create_task(provide(builder, case.slow, log))
            await log.says("waiting for it")
            await cancelled(first)
            case.gate.open()
            return await second

        provided = run(cancel_the_first())
        case.gate.wait_left()

        assert execute(provided, "pass").returncode == 0
        assert case.gate.entered == 1

    def test_build_of_a_killed_agent_is_not_used(self, case: BuildingCase) -> None:
        agent = subprocess.Popen([sys.executable, "-c", case.kill_source])
        case.gate.wait_entered()
        agent.kill()
        agent.wait()
        log = Log()

        async def restart() -> ProvidedEnvironment:
            task = asyncio.create_task(provide(case.make(), case.slow, log))
            await log.says("waiting for it")
            case.gate.open()  # what the killed agent had started goes on, and ends
            return await task

        provided = run(restart())

        assert "Building" in log.text
        assert execute(provided, "pass").returncode == 0

    def test_least_recently_used_makes_room_for_a_build(self, case: BuildingCase) -> None:
        case.gate.open()
        builder = case.make()
        specs = (case.good, case.other, case.slow)
        used, _, newest = (run(provide(builder, spec)).lock for spec in specs)
        assert used is not None
        assert newest is not None
        run(provide(builder, case.good, locks=[used]))
        sizes = [found.record.size_bytes for found in EnvironmentCache(case.root).found()]
        run(EnvironmentCache(case.root).discard(newest.hash))
        cache = EnvironmentCache(case.root, sum(sizes) - min(sizes) // 2)

        built = run(provide_to("run", cache, case.make_in(cache), case.slow))

        assert execute(built, "pass").returncode == 0
        hashes = {found.record.lock_hash for found in cache.found()}
        assert hashes == {used.hash, newest.hash}

    def test_environment_in_use_is_never_evicted(self, case: BuildingCase) -> None:
        case.gate.open()
        cache = EnvironmentCache(case.root, 1)
        builder = case.make_in(cache)

        first = run(provide_to("run 1", cache, builder, case.good))
        second = run(provide_to("run 2", cache, builder, case.other))
        assert execute(first, case.proof).returncode == 0
        cache.release("run 1")
        third = run(provide_to("run 3", cache, builder, case.slow))

        assert execute(second, "pass").returncode == 0
        assert execute(third, "pass").returncode == 0
        assert not is_built(cache, first)
        assert is_built(cache, second)
        assert is_built(cache, third)

    def test_evicted_environment_is_built_again(self, case: BuildingCase) -> None:
        cache, log = EnvironmentCache(case.root, 1), Log()
        builder = case.make_in(cache)
        first = run(provide_to("run 1", cache, builder, case.good))
        cache.release("run 1")
        run(provide_to("run 2", cache, builder, case.other))
        cache.release("run 2")
        assert not is_built(cache, first)

        again = run(provide_to("run 3", cache, builder, case.good, log))

        assert "Building" in log.text
        assert (again.key, again.python) == (first.key, first.python)
        assert execute(again, case.proof).returncode == 0
