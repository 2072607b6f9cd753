from __future__ import annotations

from runyard_agent.environments.uses import Uses


def test_environment_is_in_use_until_its_last_run_is_gone() -> None:
    uses = Uses()
    uses.has("run 1", "a")
    uses.has("run 2", "a")

    uses.release("run 1")
    assert uses.lock_hashes() == {"a"}
    uses.release("run 2")
    uses.release("run 2")

    assert uses.lock_hashes() == frozenset()


def test_run_that_waits_keeps_all_that_is_built_and_then_only_its_own() -> None:
    uses = Uses()
    uses.built("before")
    uses.wait("run 1")
    uses.built("a")
    uses.built("b")
    assert uses.lock_hashes() == {"a", "b"}

    uses.has("run 1", "b")
    uses.built("after")

    assert uses.lock_hashes() == {"b"}


def test_run_that_asks_again_keeps_what_it_has_meanwhile() -> None:
    uses = Uses()
    uses.has("run 1", "a")

    uses.wait("run 1")
    uses.built("b")

    assert uses.lock_hashes() == {"a", "b"}


def test_run_in_what_is_not_built_uses_nothing() -> None:
    uses = Uses()
    uses.wait("run 1")

    uses.has("run 1", None)

    assert uses.lock_hashes() == frozenset()
