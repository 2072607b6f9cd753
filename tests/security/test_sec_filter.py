"""Attack list, row 32: filters, orders and page tokens that try to say more than they may."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from runyardpb.v1 import runs_pb2
from support.records import add_run
from support.served import WORKSPACE, Served, refused, with_daemon

PARENT = f"{WORKSPACE}/experiments/-"


async def listed(daemon: Served, **fields: Any) -> Any:
    return await daemon.runs.ListRuns(runs_pb2.ListRunsRequest(parent=PARENT, **fields))


async def names(daemon: Served, **fields: Any) -> list[str]:
    return [run.display_name for run in (await listed(daemon, **fields)).runs]


@pytest.mark.parametrize(
    "order",
    [
        "name;DROP TABLE runs",
        "seq",
        "create_time desc, seq",
        "create_time desc; --",
        "1",
        "x" * 9999,
    ],
)
def test_sec_32_an_order_is_one_of_two(order: str) -> None:
    async def test(daemon: Served) -> None:
        await daemon.store.write(lambda conn: add_run(conn, 1, spec=b""))

        error = await refused(listed(daemon, order_by=order))

        assert (error.reason, error.code) == ("SPEC_INVALID", "INVALID_ARGUMENT")
        assert len((await listed(daemon)).runs) == 1

    with_daemon(test)


def test_sec_32_filters_are_refused_by_their_size_and_form() -> None:
    async def test(daemon: Served) -> None:
        await daemon.store.write(lambda conn: add_run(conn, 1, spec=b""))
        for text in (
            "name = " + "a" * 4096,
            "tag.a = b AND " * 300 + "tag.a = b",
            "(" * 1000 + "name = a" + ")" * 1000,
            "status IN (" + "(" * 1000,
            "name = a; DROP TABLE runs",
            "name = 'a' OR 1=1 --",
            "1=1",
            "seq > 0",
            "tag.a = b UNION SELECT 1",
        ):
            error = await refused(listed(daemon, filter=text))
            assert (error.reason, error.code) == ("SPEC_INVALID", "INVALID_ARGUMENT"), text
        huge = await refused(listed(daemon, filter="a" * (10 << 20)))
        assert huge.code in {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"}
        assert len((await listed(daemon)).runs) == 1

    with_daemon(test)


def test_sec_32_values_are_values_whatever_they_hold() -> None:
    async def test(daemon: Served) -> None:
        odd = ["50%", "5000", "a_c", "abc", "x' OR '1'='1", 'q"\\', "*"]
        for number, name in enumerate(odd, start=1):
            await daemon.store.write(
                lambda conn, number=number, name=name: add_run(
                    conn, number, spec=b"", display_name=name, tags={"t": name}
                )
            )
        for name in odd:
            quoted = name.replace("\\", "\\\\").replace('"', '\\"')
            assert await names(daemon, filter=f'tag.t = "{quoted}"') == [name]
            if not name.endswith("*"):
                assert await names(daemon, filter=f'name = "{quoted}"') == [name]
        assert await names(daemon, filter='name = "5%*"') == []
        assert await names(daemon, filter='name = "a_*"') == ["a_c"]
        assert await names(daemon, filter='name = "%"') == []

    with_daemon(test)


def test_sec_32_a_page_token_serves_its_own_listing_only() -> None:
    async def test(daemon: Served) -> None:
        for number in range(1, 7):
            await daemon.store.write(
                lambda conn, number=number: add_run(conn, number, spec=b"", tags={"t": "x"})
            )
        mine = {"filter": "tag.t = x", "order_by": "create_time asc", "page_size": 2}
        first = await listed(daemon, **mine)
        second = await listed(daemon, **mine, page_token=first.next_page_token)
        raw = bytearray(base64.urlsafe_b64decode(first.next_page_token + "=="))
        edited = []
        for place in (0, 1, len(raw) // 2, len(raw) - 1):
            changed = bytearray(raw)
            changed[place] ^= 1
            edited.append(base64.urlsafe_b64encode(changed).decode().rstrip("="))
        others = [
            {**mine, "filter": "tag.t = y"},
            {**mine, "order_by": ""},
            {**mine, "filter": ""},
        ]

        errors = [
            await refused(listed(daemon, **fields, page_token=first.next_page_token))
            for fields in others
        ]
        errors += [await refused(listed(daemon, **mine, page_token=token)) for token in edited]

        ids = [run.name[-8:] for run in (*first.runs, *second.runs)]
        assert ids == [f"{number:08x}" for number in range(1, 5)]
        assert {error.reason for error in errors} == {"PAGE_TOKEN_MISMATCH"}

    with_daemon(test)


def test_sec_32_a_filter_that_no_run_can_fit_is_an_empty_page() -> None:
    async def test(daemon: Served) -> None:
        await daemon.store.write(lambda conn: add_run(conn, 1, spec=b"", tags={"t": "x"}))

        for fields in (
            {"filter": "status = Failed", "states": [runs_pb2.Run.STATE_QUEUED]},
            {"filter": "tag.t = y", "tags": {"t": "x"}},
            {"filter": "target = other", "compute_target": "local"},
        ):
            assert list((await listed(daemon, **fields)).runs) == []
        for fields in (
            {"filter": 'tag.t = ""', "tags": {"t": "x"}},
            {"filter": "tag.t = x", "tags": {"t": ""}},
        ):  # an empty value matches any
            assert len((await listed(daemon, **fields)).runs) == 1

    with_daemon(test)
