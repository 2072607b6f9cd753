"""SnapshotService.UploadTree: a folder as a stream of files, the daemon does the rest."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from pathlib import Path

from runyard.snapshot.take import LocalSnapshot
from runyard_contract.limits import CHUNK_BYTES
from runyardpb.v1 import snapshots_pb2 as pb
from support.served import WORKSPACE, Served, reason_of, refused, with_daemon

KIND = pb.TreeEntry.Kind


def file(path: str, data: bytes = b"x", mode: int = 0o644, *, more: bool = False) -> pb.TreeEntry:
    return pb.TreeEntry(path=path, mode=mode, data=data, has_more=more)


def link(path: str, target: str) -> pb.TreeEntry:
    return pb.TreeEntry(path=path, kind=KIND.KIND_LINK, data=target.encode())


def upload(daemon: Served, entries: Iterable[pb.TreeEntry], *, takes_ignored: bool = False):
    """One call; each entry is a message of its own."""
    header = pb.TreeHeader(parent=WORKSPACE, takes_ignored=takes_ignored)
    messages = [pb.UploadTreeRequest(header=header)]
    messages += [pb.UploadTreeRequest(entries=[entry]) for entry in entries]
    return daemon.snapshots.UploadTree(iter(messages))


def digest_of(answer: pb.UploadTreeResponse) -> str:
    return answer.snapshot.name.rsplit("/", 1)[1]


def entries_of(folder: Path) -> list[pb.TreeEntry]:
    """All of a folder, as a thin client sends it: no rule is applied, nothing is sorted."""
    entries = []
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            entries.append(link(name, os.readlink(path)))
        elif path.is_dir():
            entries.append(pb.TreeEntry(path=name, kind=KIND.KIND_DIRECTORY))
        else:
            data, mode = path.read_bytes(), path.stat().st_mode & 0o777
            parts = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)] or [
                b""
            ]
            for number, part in enumerate(parts):
                entries.append(file(name, part, mode, more=number < len(parts) - 1))
    return entries


def write_tree(folder: Path, files: dict[str, bytes | str]) -> None:
    for path, content in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            place.symlink_to(content)
        else:
            place.write_bytes(content)


def test_a_folder_gives_the_snapshot_that_the_sdk_makes_of_it(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        {
            ".gitignore": b"*.log\n!keep.log\nbuild/\n",
            "train.py": b"print(1)",
            "a.log": b"out",
            "keep.log": b"in",
            "lib/.gitignore": b"/secret\n",
            "lib/secret": b"out",
            "lib/code.py": b"in",
            "lib/link": "../train.py",
            "build/x": b"out",
            "venv/pyvenv.cfg": b"out",
            "venv/bin/python": b"out",
            "outputs/model": b"out",
            ".git/HEAD": b"out",
            "large": random.Random(1).randbytes(9 << 20),
            "empty/.gitignore": b"*\n",
        },
    )
    (tmp_path / "train.py").chmod(0o755)
    (tmp_path / "nothing").mkdir()

    async def test(daemon: Served) -> None:
        answer = await upload(daemon, entries_of(tmp_path))

        assert digest_of(answer) == LocalSnapshot(str(tmp_path), None).root_digest
        assert {(left.path, left.rule) for left in answer.left_out} == {
            (".git/", "built-in rule: .git"),
            ("a.log", ".gitignore:1: *.log"),
            ("build/", ".gitignore:3: build/"),
            ("lib/secret", "lib/.gitignore:1: /secret"),
            ("outputs/", "built-in rule: /outputs/"),
            ("venv/", "built-in rule: folders with a pyvenv.cfg"),
        }
        assert answer.left_out_count == 6
        assert os.listdir(daemon.home / "blobs" / "tmp") == []

    with_daemon(test)


def random_tree(chance: random.Random) -> dict[str, bytes | str]:
    """A few files and ignore files, of which many keep something out."""
    names = ["a", "b.log", "out", "keep.log"]
    lines = ["*.log", "!keep.log", "/a", "out/", "a/*", "!a/b.log"]
    kind = chance.choice([".gitignore", ".amlignore"])
    files: dict[str, bytes | str] = {}
    for place in chance.sample(["", "a/", "out/"], 2):
        files[place + kind] = "\n".join(chance.sample(lines, 3)).encode()
    for _ in range(8):
        path = "/".join(chance.choices(names, k=chance.randint(1, 3)))
        taken = [known for known in files if f"{known}/".startswith(f"{path}/")]
        above = [parent.as_posix() for parent in Path(path).parents]
        if not taken and files.keys().isdisjoint(above):
            files[path] = chance.randbytes(chance.randint(0, 5))
    return files


def test_the_order_of_the_stream_changes_nothing(tmp_path: Path) -> None:
    async def test(daemon: Served) -> None:
        for seed in range(40):
            chance = random.Random(seed)
            folder = tmp_path / str(seed)
            write_tree(folder, random_tree(chance))
            entries = entries_of(folder)
            chance.shuffle(entries)

            answer = await upload(daemon, entries)

            assert digest_of(answer) == LocalSnapshot(str(folder), None).root_digest, seed

    with_daemon(test)


def test_a_client_with_rules_of_its_own_sends_what_it_likes() -> None:
    async def test(daemon: Served) -> None:
        entries = [file(".gitignore", b"*"), file("outputs/x"), file(".git/config")]

        answer = await upload(daemon, entries, takes_ignored=True)

        assert answer.snapshot.file_count == 2
        assert [left.path for left in answer.left_out] == [".git/"]

    with_daemon(test)


def test_what_no_snapshot_may_hold_is_refused_and_leaves_nothing() -> None:
    async def test(daemon: Served) -> None:
        async def reason(*entries: pb.TreeEntry) -> str:
            return reason_of(await refused(upload(daemon, entries)))

        assert await reason(file("../x")) == "PATH_UNSAFE"
        assert await reason(file("/x")) == "PATH_UNSAFE"
        assert await reason(file("a//b")) == "PATH_UNSAFE"
        assert await reason(file("/".join(["d"] * 300))) == "PATH_UNSAFE"
        assert await reason(file("a:b")) == "PATH_UNSAFE"
        assert await reason(link("l", "../out")) == "PATH_UNSAFE"
        assert await reason(link("l", "/etc/passwd")) == "PATH_UNSAFE"
        assert await reason(file("a"), file("a")) == "PATH_COLLISION"
        assert await reason(file("a"), file("a/b")) == "PATH_COLLISION"
        assert await reason(file("a/b"), file("a")) == "PATH_COLLISION"
        assert await reason(file("A"), file("a")) == "PATH_COLLISION"
        assert await reason(file("a", more=True)) == "SPEC_INVALID"
        assert await reason(file("a", more=True), file("b")) == "SPEC_INVALID"
        assert await reason(file(".gitignore", b"\xff")) == "SPEC_INVALID"
        assert await reason(file(".gitignore", bytes(2 << 20))) == "SPEC_INVALID"
        assert await reason(pb.TreeEntry(path="a", kind=9)) == "SPEC_INVALID"  # type: ignore[arg-type]
        assert list(daemon.app.content.store.walk()) == []
        assert os.listdir(daemon.home / "blobs" / "tmp") == []

    with_daemon(test)


def test_a_stream_without_its_header_or_its_workspace_is_refused() -> None:
    async def test(daemon: Served) -> None:
        def call(*messages: pb.UploadTreeRequest):
            return refused(daemon.snapshots.UploadTree(iter(messages)))

        header = pb.TreeHeader(parent=WORKSPACE)
        elsewhere = pb.TreeHeader(parent="workspaces/other")

        assert reason_of(await call()) == "SPEC_INVALID"
        assert reason_of(await call(pb.UploadTreeRequest(entries=[file("a")]))) == "SPEC_INVALID"
        twice = pb.UploadTreeRequest(header=header)
        assert reason_of(await call(twice, twice)) == "SPEC_INVALID"
        lost = pb.UploadTreeRequest(header=elsewhere, entries=[file("a")])
        assert reason_of(await call(lost)) == "WORKSPACE_NOT_FOUND"

    with_daemon(test)


def test_a_stream_that_is_cut_off_leaves_nothing() -> None:
    async def test(daemon: Served) -> None:
        call = daemon.snapshots.UploadTree()
        header = pb.TreeHeader(parent=WORKSPACE)
        await call.write(pb.UploadTreeRequest(header=header, entries=[file("a", bytes(1 << 20))]))
        call.cancel()
        answer = await upload(daemon, [file("b")])

        assert answer.snapshot.file_count == 1
        assert os.listdir(daemon.home / "blobs" / "tmp") == []
        assert len(list(daemon.app.content.store.walk())) == 2

    with_daemon(test)
