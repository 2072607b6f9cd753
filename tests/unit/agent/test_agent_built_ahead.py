"""Working folders built ahead: which snapshots have one, and what comes of several at once."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runyard_agent.builtahead import BuiltAhead, LayOut
from runyard_agent.folders import Folders
from runyard_agent.workdir import LayoutFailed, NoBlobs, WorkIndex, lay_out

ONE, TWO, THREE = "1" * 64, "2" * 64, "3" * 64


class Builder:
    """Lays out an empty folder, once it may; counts how often for each snapshot."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.begun = threading.Event()
        self.built: list[str] = []

    def of(self, root_digest: str) -> LayOut:
        def build(work: str, is_wanted: object) -> WorkIndex:
            self.begun.set()
            self.may_end.wait()
            self.built.append(root_digest)
            return lay_out((), NoBlobs(), work)

        return build


async def until_free(folders: Folders, root_digest: str) -> None:
    async with asyncio.timeout(10):
        while not folders.has(root_digest):  # noqa: ASYNC110  nothing tells of it
            await asyncio.sleep(0)


@pytest.fixture
def builder() -> Builder:
    return Builder()


@pytest.fixture
def trashed() -> list[str]:
    return []


@pytest.fixture
def folders(tmp_path: Path, trashed: list[str]) -> Folders:
    return Folders(tmp_path, trashed.append, "boot")


def test_a_snapshot_has_a_folder_built_when_it_comes_again(
    folders: Folders, builder: Builder
) -> None:
    async def test() -> None:
        with ThreadPoolExecutor(1) as disk:
            ahead = BuiltAhead(folders, disk)
            builder.may_end.set()
            ahead.started(ONE, builder.of(ONE))
            ahead.started(TWO, builder.of(TWO))
            ahead.started(TWO, builder.of(TWO))
            await until_free(folders, TWO)
            ahead.started(TWO, builder.of(TWO))  # has one

        assert builder.built == [TWO]

    asyncio.run(test())


def test_a_snapshot_that_comes_while_another_is_built_has_its_turn(
    folders: Folders, builder: Builder
) -> None:
    async def test() -> None:
        with ThreadPoolExecutor(1) as disk:
            ahead = BuiltAhead(folders, disk)
            for root in (ONE, TWO, THREE):
                ahead.started(root, builder.of(root))
            ahead.started(ONE, builder.of(ONE))
            builder.begun.wait()
            ahead.started(TWO, builder.of(TWO))
            ahead.started(THREE, builder.of(THREE))
            builder.may_end.set()
            await until_free(folders, THREE)

        assert builder.built == [ONE, THREE]

    asyncio.run(test())


def test_what_cannot_be_laid_out_is_thrown_away_and_hinders_nothing(
    folders: Folders, builder: Builder, trashed: list[str]
) -> None:
    def broken(work: str, is_wanted: object) -> WorkIndex:
        raise LayoutFailed("a blob is gone", "submit again", {})

    async def test() -> None:
        with ThreadPoolExecutor(1) as disk:
            ahead = BuiltAhead(folders, disk)
            builder.may_end.set()
            ahead.started(ONE, broken)
            ahead.started(ONE, broken)
            ahead.started(TWO, builder.of(TWO))
            ahead.started(TWO, builder.of(TWO))
            await until_free(folders, TWO)

        assert len(trashed) == 1
        assert not folders.has(ONE)

    asyncio.run(test())
