"""Scanning a source directory: what goes in, what is read again, what is refused."""

from __future__ import annotations

import os
import random
import shutil
import socket
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runyard.snapshot import index as stat_index
from runyard.snapshot.index import Index
from runyard.snapshot.limits import Allowance
from runyard.snapshot.scan import Scan, scan
from runyard.snapshot.stat_columns import read_columns, signature_of
from runyard_contract.errors import (
    FileUnreadable,
    PathCollision,
    RunyardError,
    SnapshotTooLarge,
    UnsafePath,
)
from support.unprivileged import open_folder, without_root


def paths(found: Scan) -> set[str]:
    return {path.decode() for path in found.index.tree.paths}


def scanned_later(source: Path) -> Index:
    """The index of a tree that was left alone for a while: every signature is trusted."""
    return trusted(scan(str(source), None).index, source)


def trusted(index: Index, source: Path) -> Index:
    """The index as a later scan would have left it, once the clock of the files has moved on."""
    fd = os.open(source, os.O_RDONLY)
    try:
        index.tree.signatures = read_columns(fd, index.tree.paths)
        index.tree.root_signature = signature_of(os.fstat(fd))
    finally:
        os.close(fd)
    with tempfile.NamedTemporaryFile(dir=source.parent) as clock:
        started_ns = os.fstat(clock.fileno()).st_ctime_ns
        while os.fstat(clock.fileno()).st_ctime_ns == started_ns:
            os.fchmod(clock.fileno(), 0o600)
    return index


def write(source: Path, files: dict[str, str]) -> None:
    for path, text in files.items():
        target = source / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)


def test_unchanged_tree_is_not_read_again(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": "1", "sub/b.py": "2", "sub/deep/c.py": "3"})
    before = scanned_later(tmp_path)

    again = scan(str(tmp_path), before)

    assert not again.is_changed
    assert again.files_hashed == 0
    assert again.index is before


def test_changed_file_is_the_only_one_that_is_read(tmp_path: Path) -> None:
    write(tmp_path, {f"d{n}/f{m}": f"{n} {m}" for n in range(5) for m in range(5)})
    before = scanned_later(tmp_path)
    (tmp_path / "d3/f2").write_text("other")

    again = scan(str(tmp_path), before)

    assert again.files_hashed == 1
    assert again.bytes_hashed == 5
    assert again.index.tree.root_digest == scan(str(tmp_path), None).index.tree.root_digest


def test_change_within_one_tick_of_the_clock_is_noticed(tmp_path: Path) -> None:
    """As git's racy entries: same size, same times, other content."""
    file = tmp_path / "a.py"
    write(tmp_path, {"a.py": "old"})
    first = scan(str(tmp_path), None)
    status = file.stat()
    file.write_text("new")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))

    again = scan(str(tmp_path), first.index)

    assert again.index.tree.root_digest == scan(str(tmp_path), None).index.tree.root_digest


def test_mode_of_a_file_is_part_of_it(tmp_path: Path) -> None:
    write(tmp_path, {"tool.sh": "#!/bin/sh"})
    before = scanned_later(tmp_path)
    (tmp_path / "tool.sh").chmod(0o755)

    again = scan(str(tmp_path), before)

    assert again.index.tree.root_digest != before.tree.root_digest


def test_ignore_rules_that_change_are_applied_everywhere(tmp_path: Path) -> None:
    write(tmp_path, {".gitignore": "*.log\n", "a/b/x.log": "", "a/b/x.dat": "", "y.log": ""})
    before = scanned_later(tmp_path)
    assert paths(Scan(before, True, 0, 0)) == {".gitignore", "a", "a/b", "a/b/x.dat"}
    (tmp_path / ".gitignore").write_text("*.dat\n")

    again = scan(str(tmp_path), before)

    assert paths(again) == {".gitignore", "a", "a/b", "a/b/x.log", "y.log"}
    assert again.files_hashed == 3


def test_nested_ignore_file_that_appears_is_applied_below_it(tmp_path: Path) -> None:
    write(tmp_path, {".gitignore": "", "a/b/x.log": "", "a/y.log": "", "z.log": ""})
    before = scanned_later(tmp_path)
    (tmp_path / "a/.gitignore").write_text("*.log\n")

    again = scan(str(tmp_path), before)

    assert paths(again) == {".gitignore", "a", "a/.gitignore", "a/b", "z.log"}


def test_rules_behind_a_link_are_read_again(tmp_path: Path) -> None:
    write(tmp_path, {"rules": "*.a\n", "x.a": "", "x.b": ""})
    (tmp_path / ".gitignore").symlink_to("rules")
    before = scanned_later(tmp_path)
    (tmp_path / "rules").write_text("*.b\n")

    again = scan(str(tmp_path), before)

    assert "x.a" in paths(again)
    assert "x.b" not in paths(again)


def test_folder_becomes_a_virtual_environment_and_back(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": "", "env/lib/x.py": ""})
    before = scanned_later(tmp_path)
    (tmp_path / "env/pyvenv.cfg").write_text("")

    inside = scan(str(tmp_path), before)
    assert "env/lib/x.py" not in paths(inside)
    (tmp_path / "env/pyvenv.cfg").unlink()
    outside = scan(str(tmp_path), inside.index)

    assert "env/lib/x.py" in paths(outside)
    assert outside.index.tree.root_digest == before.tree.root_digest


def test_built_in_rules_keep_caches_and_outputs_out(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "train.py": "",
            ".git/HEAD": "",
            "__pycache__/a.pyc": "",
            "outputs/model": "",
            "logs/x": "",
            "sub/outputs/kept": "",
        },
    )

    assert paths(scan(str(tmp_path), None)) == {
        "train.py",
        "sub",
        "sub/outputs",
        "sub/outputs/kept",
    }


def test_links_inside_are_kept_and_links_out_are_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path, {"data/x": "1"})
    (tmp_path / "inside").symlink_to("data/x")
    assert scan(str(tmp_path), None).index.tree.files == 2
    (tmp_path / "data/out").symlink_to("../../elsewhere")

    with pytest.raises(UnsafePath, match=r"data/out leads out.*elsewhere"):
        scan(str(tmp_path), None)


def test_link_whose_target_changes_is_noticed(tmp_path: Path) -> None:
    write(tmp_path, {"a": "1", "b": "2"})
    (tmp_path / "link").symlink_to("a")
    before = scanned_later(tmp_path)
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("b")

    again = scan(str(tmp_path), before)

    assert again.index.tree.root_digest == scan(str(tmp_path), None).index.tree.root_digest
    assert again.index.tree.root_digest != before.tree.root_digest


def test_sockets_and_pipes_are_left_out_by_name(tmp_path: Path) -> None:
    write(tmp_path, {"a": ""})
    os.mkfifo(tmp_path / "pipe")
    monkey = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(tmp_path)  # a socket's path is short
    try:
        monkey.bind("sock")
    finally:
        os.chdir(here)
        monkey.close()

    found = scan(str(tmp_path), None)

    assert found.index.skipped == {"pipe": "a named pipe", "sock": "a socket"}
    assert paths(found) == {"a"}


def test_name_that_is_not_utf8_is_refused_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    with open(os.fsencode(tmp_path / "sub") + b"/caf\xe9", "wb"):
        pass

    with pytest.raises(UnsafePath, match=r"caf\\\\xe9.*not UTF-8.*in sub"):
        scan(str(tmp_path), None)


def test_names_that_differ_by_case_only_are_refused_with_their_folder(tmp_path: Path) -> None:
    write(tmp_path, {"sub/Readme": "", "sub/README": ""})

    with pytest.raises(PathCollision, match="in sub"):
        scan(str(tmp_path), None)


def test_unreadable_file_and_folder_are_named() -> None:
    with open_folder() as source:
        write(source, {"sub/secret": "x", "closed/x": "", ".gitignore": "closed\n"})
        scan(str(source), None)
        (source / "sub/secret").chmod(0)
        with without_root(), pytest.raises(FileUnreadable, match="sub/secret"):
            scan(str(source), None)

        write(source, {".gitignore": "sub\n"})
        (source / "closed").chmod(0)
        with without_root(), pytest.raises(FileUnreadable, match="closed"):
            scan(str(source), None)


def test_limits_name_the_largest_parts(tmp_path: Path) -> None:
    write(tmp_path, {"small/a": "1", "big/a": "x" * 5000, "big/b": "x" * 5000})

    with pytest.raises(SnapshotTooLarge, match=r"big \(.*KiB\)"):
        scan(str(tmp_path), None, Allowance(max_bytes=8000))
    with pytest.raises(SnapshotTooLarge, match="files"):
        scan(str(tmp_path), None, Allowance(max_files=2))


def test_limits_also_count_what_is_unchanged(tmp_path: Path) -> None:
    write(tmp_path, {"big/a": "x" * 5000})
    before = scanned_later(tmp_path)
    write(tmp_path, {"more": "x" * 5000})

    with pytest.raises(SnapshotTooLarge):
        scan(str(tmp_path), before, Allowance(max_bytes=8000))


def test_empty_folders_are_kept(tmp_path: Path) -> None:
    (tmp_path / "empty/inner").mkdir(parents=True)

    assert paths(scan(str(tmp_path), None)) == {"empty", "empty/inner"}


def test_notes_of_what_is_gone_go_with_it(tmp_path: Path) -> None:
    write(tmp_path, {".gitignore": "*.bin\n", "a": ""})
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/x.bin").write_bytes(bytes(11 << 20))
    before = scanned_later(tmp_path)
    assert before.large_left_out == {"sub/x.bin": "11.0 MiB"}
    shutil.rmtree(tmp_path / "sub")

    again = scan(str(tmp_path), before)

    assert again.index.large_left_out == {}


def test_credentials_are_named_and_examples_are_not(tmp_path: Path) -> None:
    write(tmp_path, dict.fromkeys([".env", "sub/.netrc", "id_rsa", ".env.example", "key.py"], ""))

    assert scan(str(tmp_path), None).index.secrets == [".env", "id_rsa", "sub/.netrc"]


def test_index_survives_its_file_and_a_damaged_one_counts_as_none(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write(source, {"a": "1", "sub/b": "2"})
    (source / "link").symlink_to("a")
    before = scanned_later(source)
    file = stat_index.index_file(tmp_path, str(source))
    stat_index.save(file, str(source), before)

    loaded = stat_index.load(file, str(source))
    assert loaded is not None
    assert not scan(str(source), loaded).is_changed
    assert stat_index.load(file, "/another/source") is None
    whole = file.read_bytes()
    for damaged in (b"", whole[:50], whole[:-1], whole[:200] + b"x" + whole[201:]):
        file.write_bytes(damaged)
        assert stat_index.load(file, str(source)) is None


NAMES = ["a", "b", "c", ".gitignore", "env"]
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(
            ["write", "delete", "folder", "rename", "chmod", "rules", "link", "venv", "unvenv"]
        ),
        st.lists(st.sampled_from(NAMES), min_size=1, max_size=3),
        st.integers(0, 9),
    ),
    min_size=1,
    max_size=8,
)


def apply(source: Path, action: str, where: list[str], number: int) -> None:
    """One change of a tree, as far as it is possible there."""
    target = source.joinpath(*where)
    if action == "delete" and target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    elif action == "delete":
        target.unlink(missing_ok=True)
    elif action == "folder":
        target.mkdir(parents=True, exist_ok=True)
    elif action == "rename":
        target.rename(target.with_name(NAMES[number % 3]))
    elif action == "chmod":
        target.chmod(0o755 if number % 2 else 0o644)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        if action == "link":
            target.symlink_to("a")
        elif action == "venv":
            (target / "pyvenv.cfg").write_text("")
        elif action == "unvenv":
            (target / "pyvenv.cfg").unlink()
        elif action == "rules":
            rule = ["a\n", "b/\n", "*\n!c\n", "", "!env/\n"][number % 5]
            (target.parent / ".gitignore").write_text(rule)
        else:
            target.write_text("x" * number)


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rounds=st.lists(ACTIONS, min_size=1, max_size=4))
def test_scan_with_an_index_equals_a_scan_without(
    rounds: list[list[tuple[str, list[str], int]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    source = tmp_path_factory.mktemp("tree")
    write(source, {"a/a": "1", "a/b/c": "2", "b/a": "3", "b/pyvenv.cfg": "", "b/env/c": "4"})
    index: Index | None = scanned_later(source)
    for actions in rounds:
        for action, where, number in actions:
            try:
                apply(source, action, where, number)
            except OSError:
                continue
        results = []
        for before in (index, None):
            try:
                results.append(scan(str(source), before).index)
            except RunyardError as error:
                results.append(error.message)
        with_index, without = results
        if isinstance(without, str):
            assert with_index == without
            continue
        assert isinstance(with_index, Index)
        assert with_index.tree.root_digest == without.tree.root_digest
        assert set(with_index.tree.paths) == set(without.tree.paths)
        assert with_index.tree.files == without.tree.files
        assert with_index.tree.size_bytes == without.tree.size_bytes
        index = trusted(with_index, source)
    shutil.rmtree(source)


def test_large_tree_with_an_index_has_the_columns_of_one_without(tmp_path: Path) -> None:
    source = tmp_path / "tree"
    for folder in (source / f"d{n}" / f"s{m}" for n in range(6) for m in range(6)):
        folder.mkdir(parents=True)
        for n in range(30):
            (folder / f"f{n}").write_text(f"{folder.name} {n}")
        (folder / "link").symlink_to("f1")
    index = scanned_later(source)

    (source / "d2/s3/f7").write_text("changed")
    (source / "d2/s3/new").write_text("new")
    (source / "d4/s0/f1").unlink()
    (source / "d4/extra").mkdir()
    shutil.rmtree(source / "d5/s5")
    again, anew = scan(str(source), index), scan(str(source), None)

    assert (again.files_hashed, anew.files_hashed > 1000) == (2, True)
    mine, fresh = again.index.tree, anew.index.tree
    assert mine.root_digest == fresh.root_digest
    rows = [
        {
            path: (t.kinds[n], t.digest(n), t.sizes[n], t.targets.get(n))
            for n, path in enumerate(t.paths)
        }
        for t in (mine, fresh)
    ]
    assert rows[0] == rows[1]
    folders = [
        {
            path: (t.entry_counts[n], t.child_counts[n], t.file_counts[n], t.rules_of(n))
            for n, path in enumerate(t.directory_paths)
        }
        for t in (mine, fresh)
    ]
    assert folders[0] == folders[1]
    for number, entry in enumerate(mine.directory_entries(), 1):
        assert mine.paths[entry] == mine.directory_paths[number]


def test_columns_are_the_same_with_and_without_statx(tmp_path: Path) -> None:
    from runyard.snapshot import stat_columns

    noise = random.Random(1)
    write(tmp_path, {f"f{n}": "x" * noise.randrange(9) for n in range(50)})
    os.utime(tmp_path / "f3", ns=(1, -5_000_000_001))
    names = [b"gone", *(f"f{n}".encode() for n in range(50))] * 40  # statx is for many
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        fast = stat_columns.read_columns(fd, names)
        plain = stat_columns._read_portably(fd, names)
    finally:
        os.close(fd)

    assert fast.differences(plain) == []
    assert fast.signature(0) == stat_columns.NO_SIGNATURE
