from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard_contract import paths
from runyard_contract.errors import UnsafePath


@given(st.text())
def test_split_keeps_the_path_or_refuses_it(path: str) -> None:
    try:
        parts = paths.split_rel(path)
    except UnsafePath:
        return

    assert "/".join(parts) == path
    assert not {"", ".", ".."} & set(parts)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/etc/passwd", "absolute"),
        ("a/../b", "points to a directory"),
        ("a:b", "drive"),
        ("x" * 256, "longer than 255 bytes"),
        ("é" * 128, "longer than 255 bytes"),
        ("a/" * 300 + "a", "deeper"),
        ("a\udcff", "not UTF-8"),
        ("tab\there", "control character"),
        ("nul.txt", "device"),
        ("end.", "dot or a space"),
    ],
)
def test_refusal_says_what_is_wrong(path: str, why: str) -> None:
    with pytest.raises(UnsafePath, match=why) as caught:
        paths.split_rel(path)
    assert caught.value.metadata["path"]


def test_undecodable_name_is_shown_with_its_bytes() -> None:
    assert paths.shown(os.fsdecode(b"caf\xe9\n")) == r"caf\xe9\n"
    assert paths.shown("\ud800") == r"\xed\xa0\x80"


@pytest.mark.parametrize(
    ("link", "target", "stays"),
    [
        ("l", "a/b", True),
        ("l", ".", True),
        ("d/l", "../x", True),
        ("d/l", "..", True),
        ("d/e/l", "../../x", True),
        ("l", "..", False),
        ("d/l", "../..", False),
        ("l", "a/../b", False),
        ("l", "/etc", False),
        ("l", "", False),
        ("l", "a\0b", False),
        ("l", "x/" * 3000, False),
    ],
)
def test_link_leads_in_or_out(link: str, target: str, stays: bool) -> None:
    assert paths.link_stays_inside(link.split("/"), target) is stays


@given(
    st.dictionaries(
        st.sampled_from(["l1", "l2", "d/l3", "d/e/l4", "d/e/l5"]),
        st.lists(st.sampled_from(["..", ".", "d", "e", "l1", "l2", "l3", "l4"]), max_size=6).map(
            "/".join
        ),
    )
)
def test_links_that_are_let_in_never_lead_out_together(
    tmp_path_factory: pytest.TempPathFactory, links: dict[str, str]
) -> None:
    root = tmp_path_factory.mktemp("links") / "root"
    (root / "d/e").mkdir(parents=True)
    taken = [p for p, t in links.items() if paths.link_stays_inside(p.split("/"), t)]
    for path in taken:
        (root / path).symlink_to(links[path])

    for path in taken:
        try:
            resolved = (root / path).resolve(strict=True)
        except (OSError, RuntimeError):  # dangling, or a loop
            continue
        assert resolved.is_relative_to(root.resolve())


def test_open_dir_makes_folders_below_the_root(tmp_path: Path) -> None:
    root_fd = os.open(tmp_path, os.O_RDONLY)
    try:
        fd = paths.open_dir(root_fd, ("a", "b"), create=True)
        paths.write_file_at(fd, "x", b"data", 0o755)
        os.close(fd)
        with pytest.raises(FileNotFoundError):
            paths.open_dir(root_fd, ("missing",))
    finally:
        os.close(root_fd)

    assert (tmp_path / "a/b/x").read_bytes() == b"data"
    assert os.access(tmp_path / "a/b/x", os.X_OK)


def test_atomic_write_replaces_the_content_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "daemon.json"

    paths.atomic_write(path, b"one")
    paths.atomic_write(path, b"two", sync=False)

    assert path.read_bytes() == b"two"
    assert [p.name for p in tmp_path.iterdir()] == ["daemon.json"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_atomic_write_leaves_the_old_content_when_it_fails(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "kept").touch()

    with pytest.raises(OSError, match=r"."):
        paths.atomic_write(target, b"x")

    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
