from __future__ import annotations

import pytest

from runyard_daemon.core.access import RULES, Caller, Role, may
from runyard_daemon.rpc.server import SERVICES

METHODS = sorted(
    f"{service.name}/{method.name}" for service in SERVICES for method in service.methods
)
LADDER = (Role.READER, Role.CONTRIBUTOR, Role.ADMIN)


def roles_of(method: str) -> set[Role]:
    return {role for role in Role if may(Caller(role, "someone"), method)}


def test_table_has_every_method_and_no_other() -> None:
    assert sorted(RULES) == METHODS


@pytest.mark.parametrize("method", METHODS)
def test_nobody_may_call_anything_without_credentials(method: str) -> None:
    assert Role.NOBODY not in roles_of(method)
    assert Role.OWNER in roles_of(method)


@pytest.mark.parametrize("method", METHODS)
def test_who_may_more_may_also_what_others_may(method: str) -> None:
    allowed = [role in roles_of(method) for role in LADDER]

    assert allowed == sorted(allowed)


@pytest.mark.parametrize("method", [name for name in METHODS if name.startswith("AgentService/")])
def test_methods_of_agents_are_closed_to_people(method: str) -> None:
    assert roles_of(method) <= {Role.OWNER, Role.NODE, Role.JOINER}


@pytest.mark.parametrize(
    "method",
    [name for name in METHODS if name.split("/")[1].startswith(("Create", "Cancel", "Delete"))],
)
def test_readers_change_nothing(method: str) -> None:
    assert Role.READER not in roles_of(method)


def test_method_without_a_rule_is_the_owners_alone() -> None:
    assert roles_of("RunService/SomethingNew") == {Role.OWNER}
