"""Attacks on what an agent lays out: rows 15 and 16 of the attack list."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import threading
import time
from pathlib import Path

import pytest

from runyard_agent.workdir import LayoutFailed, lay_out, plan
from runyard_contract.content.store import ContentStore
from runyard_contract.digest import digest_bytes
from runyard_contract.errors import RunyardError
from runyard_contract.manifest import (
    DirectoryEntry,
    Entry,
    FileEntry,
    LinkEntry,
    encode_directory,
)

RACE_LIMIT_S = 4.0
DATA = b"overwritten by the snapshot"


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    store = ContentStore(tmp_path / "blobs")
    store.put_many([(digest_bytes(DATA), DATA)])
    return store


def outside(tmp_path: Path) -> Path:
    """A folder that must never change."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_bytes(b"untouched")
    return folder


def file(name: str) -> FileEntry:
    return FileEntry(name, digest_bytes(DATA), len(DATA))


def raw_manifest(store: ContentStore, entries: list[Entry]) -> str:
    """The digest of a manifest whose entries an honest encoder would refuse.

    Names are planted by replacing bytes of an honest manifest by others of the same length.
    """
    encoded = encode_directory(entries)
    store.put_many(list(encoded.blobs.items()))
    return encoded.digest


def planted(store: ContentStore, honest: str, hostile: str) -> str:
    """A manifest with one file whose name, or link target, is `hostile`."""
    assert len(honest) == len(hostile.encode())
    encoded = encode_directory([file(honest)])
    (data,) = encoded.blobs.values()
    forged = data.replace(honest.encode(), hostile.encode())
    store.put_many([(digest_bytes(forged), forged)])
    return digest_bytes(forged)


def planted_link(store: ContentStore, target: str) -> str:
    """A manifest with one link to `target`, whatever an encoder thinks of it."""
    honest = "x" * len(target.encode())
    encoded = encode_directory([LinkEntry("link", honest)])
    (data,) = encoded.blobs.values()
    forged = data.replace(honest.encode(), target.encode())
    store.put_many([(digest_bytes(forged), forged)])
    return digest_bytes(forged)


@pytest.mark.parametrize(
    "target",
    ["/etc/passwd", "../outside", "a/../../outside", "..", "/proc/self/root", "sub/../../x"],
)
def test_sec_15_agent_refuses_links_that_lead_out(
    store: ContentStore, tmp_path: Path, target: str
) -> None:
    root = planted_link(store, target)

    with pytest.raises((RunyardError, LayoutFailed)):
        lay_out(plan(root, store.read), store, str(tmp_path / "work"))

    assert not (tmp_path / "work/link").is_symlink()


@pytest.mark.parametrize("name", ["..", "../x", "/etc", "a/b", ".", "a\0b", "\\x"])
def test_sec_15_agent_refuses_names_that_lead_out(
    store: ContentStore, tmp_path: Path, name: str
) -> None:
    root = planted(store, "q" * len(name.encode()), name)

    with pytest.raises((RunyardError, LayoutFailed)):
        lay_out(plan(root, store.read), store, str(tmp_path / "work"))


def test_sec_15_agent_writes_through_no_link_of_the_snapshot(
    store: ContentStore, tmp_path: Path
) -> None:
    """A plan that names a file below a link: no manifest gives one, and the layout refuses it."""
    secret = outside(tmp_path)
    below = encode_directory([file("secret")])
    entries: list[tuple[tuple[str, ...], Entry]] = [
        (("way",), LinkEntry("way", str(secret))),
        (("way",), DirectoryEntry("way", below.digest, 1, len(DATA))),
        (("way", "secret"), file("secret")),
    ]

    with pytest.raises(LayoutFailed):
        lay_out(entries, store, str(tmp_path / "work"))

    assert (secret / "secret").read_bytes() == b"untouched"


def test_sec_15_agent_gives_files_no_special_modes(store: ContentStore, tmp_path: Path) -> None:
    entry = FileEntry("tool", digest_bytes(DATA), len(DATA), is_executable=True)
    root = raw_manifest(store, [entry, file("plain")])

    lay_out(plan(root, store.read), store, str(tmp_path / "work"))

    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "work").iterdir()}
    assert modes["tool"] == 0o755
    assert modes["plain"] == 0o644


def test_sec_15_agent_serves_no_blob_that_was_swapped_for_a_link(
    store: ContentStore, tmp_path: Path
) -> None:
    secret = outside(tmp_path) / "secret"
    root = raw_manifest(store, [file("data")])
    digest = digest_bytes(DATA)
    blob = tmp_path / "blobs" / digest[:2] / digest[2:]
    blob.unlink()
    blob.symlink_to(secret)

    with pytest.raises(LayoutFailed):
        lay_out(plan(root, store.read), store, str(tmp_path / "work"))

    assert not (tmp_path / "work/data").exists()


def test_sec_16_agent_escapes_in_no_race_with_a_swapped_folder(
    store: ContentStore, tmp_path: Path
) -> None:
    """Another process swaps the folder that is being filled for a link, as fast as it can."""
    secret = outside(tmp_path)
    inner = encode_directory([file(f"f{n}") for n in range(6)] + [file("secret")])
    middle = encode_directory([DirectoryEntry("b", inner.digest, 7, 7 * len(DATA)), file("secret")])
    outer = encode_directory([DirectoryEntry("a", middle.digest, 8, 8 * len(DATA))])
    for encoded in (inner, middle, outer):
        store.put_many(list(encoded.blobs.items()))
    entries = plan(outer.digest, store.read)
    work = tmp_path / "work"
    is_over = threading.Event()
    swaps = 0

    def swap() -> None:
        nonlocal swaps
        number = 0
        while not is_over.is_set():
            for victim in (work / "a", work / "a/b", work):
                number += 1
                with contextlib.suppress(OSError):
                    os.rename(victim, tmp_path / f"aside-{number}")
                    os.symlink(secret, victim)
                    swaps += 1

    attacker = threading.Thread(target=swap)
    attacker.start()
    races = 0
    try:
        deadline = time.monotonic() + RACE_LIMIT_S
        while races < 3000 and time.monotonic() < deadline:
            races += 1
            with contextlib.suppress(LayoutFailed):
                lay_out(entries, store, str(work))
            with contextlib.suppress(OSError):
                os.unlink(work) if work.is_symlink() else shutil.rmtree(work)
    finally:
        is_over.set()
        attacker.join()

    assert swaps > 50, "the attacker never came to anything"
    assert races > 100
    assert os.listdir(secret) == ["secret"]
    assert (secret / "secret").read_bytes() == b"untouched"
