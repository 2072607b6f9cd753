"""Deadlines: what is not taken back in time is called, in order, whatever the others do."""

from __future__ import annotations

import asyncio

from runyard_agent.deadlines import Deadlines

LIMIT_S = 30.0


def test_deadlines_call_what_is_not_taken_back_in_order() -> None:
    async def scenario() -> list[str]:
        deadlines, called, over = Deadlines(0.02), [], asyncio.Event()
        for name in ("a", "b", "c"):
            deadlines.set(name, lambda name=name: called.append(name))  # type: ignore[misc]
        deadlines.drop("b")
        deadlines.drop("unknown")
        deadlines.set("end", over.set)
        async with asyncio.timeout(LIMIT_S):
            await over.wait()
        return called

    assert asyncio.run(scenario()) == ["a", "c"]


def test_deadlines_wait_anew_for_an_owner_that_is_set_again() -> None:
    async def scenario() -> list[str]:
        deadlines, called, over = Deadlines(0.02), [], asyncio.Event()
        deadlines.set("a", lambda: called.append("old"))
        deadlines.set("b", lambda: called.append("b"))
        deadlines.set("a", lambda: (called.append("new"), over.set()))  # type: ignore[func-returns-value]
        async with asyncio.timeout(LIMIT_S):
            await over.wait()
        return called

    assert asyncio.run(scenario()) == ["b", "new"]


def test_deadlines_go_on_after_a_call_that_fails_or_sets_another() -> None:
    async def scenario() -> tuple[list[str], int]:
        loop, failures = asyncio.get_running_loop(), []
        loop.set_exception_handler(lambda _, context: failures.append(context))
        deadlines, called, over = Deadlines(0.01), [], asyncio.Event()

        def again() -> None:
            called.append("first")
            deadlines.set("again", over.set)

        def fail() -> None:
            raise ValueError("on purpose")

        deadlines.set("fails", fail)
        deadlines.set("again", again)
        async with asyncio.timeout(LIMIT_S):
            await over.wait()
        return called, len(failures)

    assert asyncio.run(scenario()) == (["first"], 1)
