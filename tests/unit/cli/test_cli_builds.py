from __future__ import annotations

from runyard.cli.render.builds import BUILD_COLUMNS, build_cells, build_json, build_text
from runyardpb.v1.environments_pb2 import EnvironmentBuild


def build(node: str, size_bytes: int, last_used_s: int, hits: int) -> EnvironmentBuild:
    message = EnvironmentBuild(lock_hash="ab" * 32, node=node, size_bytes=size_bytes, hits=hits)
    message.create_time.FromSeconds(1_764_000_000)
    message.last_use_time.FromSeconds(last_used_s)
    return message


ONE = build("local/host1", 3 << 20, 1_764_000_100, 1)
TWO = build("lab/host2", 5 << 20, 1_764_000_300, 4)


def test_environment_that_is_built_nowhere_has_empty_cells() -> None:
    assert build_cells([]) == ("",) * len(BUILD_COLUMNS)


def test_row_sums_up_all_nodes() -> None:
    nodes, size, made, last_use, hits = build_cells([ONE, TWO])

    assert nodes == "local/host1, lab/host2"
    assert (size, hits) == ("8.0 MiB", "5")
    assert made == build_cells([ONE])[2] == build_cells([TWO])[2] != ""
    assert last_use == build_cells([TWO])[3] != build_cells([ONE])[3]


def test_line_and_json_tell_all_of_one_build() -> None:
    line = build_text(ONE)

    assert line.startswith("local/host1 (abababababababab): 3.0 MiB, built 20")
    assert line.endswith(", 1 hit")
    assert build_json(ONE) == {
        "node": "local/host1",
        "lock_hash": "ab" * 32,
        "key": "ab" * 32,
        "size_bytes": 3 << 20,
        "create_time": "2025-11-24T16:00:00Z",
        "last_use_time": "2025-11-24T16:01:40Z",
        "hits": 1,
    }
