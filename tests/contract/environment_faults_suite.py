"""What every builder that resolves packages must say of faults, and leave behind: nothing.

A builder's test class derives from these beside `BuildingSuite`, and gives the fixture `faults`.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from contract.environment_case import (
    BuildingCase,
    FaultCase,
    Log,
    execute,
    provide,
    provide_to,
    run,
)
from runyard_agent.environments.cache import EnvironmentCache
from runyard_agent.environments.protocol import EnvironmentFailed, ProvidedEnvironment
from runyardpb.v1.environments_pb2 import EnvironmentSpec
from support.small_disk import fill, lacking, small_disk

DISK_BYTES = 160 << 20
"""Room for one environment of any kind."""


class SpecificationFaultsSuite:
    """What holds for kinds that resolve and install packages."""

    def test_contradicting_versions_are_named(self, case: BuildingCase, faults: FaultCase) -> None:
        failed, _ = _fail(case, faults.conflict)

        for name in faults.conflict_names:
            assert name in failed.message

    def test_metacharacters_reach_no_shell(self, case: BuildingCase, faults: FaultCase) -> None:
        failed, _ = _fail(case, faults.metacharacters)

        assert faults.metacharacters_name in failed.message
        assert not faults.executed.exists()

    def test_source_that_is_not_reachable_is_named(
        self, case: BuildingCase, faults: FaultCase
    ) -> None:
        failed, _ = _fail(case, faults.unreachable)

        assert faults.unreachable_name in failed.message

    def test_failed_compilation_shows_its_last_line(
        self, case: BuildingCase, faults: FaultCase
    ) -> None:
        failed, log = _fail(case, faults.uncompilable)

        assert faults.uncompilable_name in failed.message
        assert faults.last_line in failed.message
        assert faults.last_line in log.text


class FaultsSuite(SpecificationFaultsSuite):
    """What holds, too, where the packages lie in a folder of the node."""

    @pytest.mark.parametrize("harm", ["gone", "cut off", "interpreter gone"])
    def test_damaged_environment_is_noticed_when_it_is_used_and_built_again(
        self, case: BuildingCase, harm: str
    ) -> None:
        first, log = run(provide(case.make(), case.good)), Log()
        assert first.lock is not None
        (module,) = case.root.glob("*/lib/python*/site-packages/rytop.py")
        if harm == "cut off":
            os.truncate(module, 3)
        else:
            os.unlink(module if harm == "gone" else first.python)
        assert not _works(first, case)

        again = run(provide(case.make(), case.good, log, [first.lock]))

        assert _works(again, case)
        assert again == first
        assert "Building environment" in log.text
        if harm != "interpreter gone":
            assert f"{first.lock.hash[:16]} is damaged: lib/" in log.text
            assert "rytop.py" in log.text

    def test_damaged_environment_stays_while_another_run_has_it(self, case: BuildingCase) -> None:
        cache, log = EnvironmentCache(case.root), Log()
        first = run(provide_to("run 1", cache, case.make_in(cache), case.good))
        (module,) = case.root.glob("*/lib/python*/site-packages/rytop.py")
        module.unlink()
        assert first.lock is not None
        restarted = EnvironmentCache(case.root)
        restarted.uses.has("run 1", first.lock.hash)
        builder = case.make_in(restarted)

        run(provide(builder, case.good, log, [first.lock]))
        assert "another run has it" in log.text
        assert not module.exists()
        restarted.release("run 1")
        again = run(provide(builder, case.good, log, [first.lock]))

        assert _works(again, case)

    def test_full_disk_is_said_and_building_goes_on_when_there_is_room(
        self, case: BuildingCase, tmp_path: Path
    ) -> None:
        if why := lacking():
            pytest.skip(why)
        with small_disk(tmp_path, DISK_BYTES) as disk:
            builder = case.make_in(EnvironmentCache(disk))
            ballast = fill(disk)

            with pytest.raises(EnvironmentFailed) as caught:
                run(provide(builder, case.good))

            assert "disk is full" in caught.value.message
            assert caught.value.advice
            assert [path for path in disk.iterdir() if path.is_dir()] == []
            ballast.unlink()
            assert execute(run(provide(builder, case.good)), case.proof).returncode == 0


def _works(provided: ProvidedEnvironment, case: BuildingCase) -> bool:
    try:
        return execute(provided, case.proof).returncode == 0
    except OSError:  # there is no interpreter
        return False


def _fail(case: BuildingCase, spec: EnvironmentSpec) -> tuple[EnvironmentFailed, Log]:
    """How a builder fails, which leaves nothing behind and serves others then."""
    builder, log = case.make(), Log()
    with pytest.raises(EnvironmentFailed) as caught:
        run(provide(builder, spec, log))
    assert caught.value.message in log.text
    assert caught.value.advice
    assert case.built() == []
    assert execute(run(provide(builder, case.good)), case.proof).returncode == 0
    return caught.value, log
