"""The node's own cache of blobs, beside what integration tests show of it."""

from __future__ import annotations

import asyncio
import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runyard_agent.link import Link
from runyard_agent.sources import FetchingSource
from runyard_contract.content.store import ContentStore
from runyard_contract.digest import digest_bytes
from runyard_contract.manifest import FileEntry, encode_directory


def test_a_run_goes_on_where_the_packs_of_the_cache_cannot_be_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = b"print(1)"
    encoded = encode_directory([FileEntry("train.py", digest_bytes(data), len(data), False)])
    dropped = [b"%d" % number for number in range(40)]
    digests = [digest_bytes(blob) for blob in dropped]

    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with ContentStore(tmp_path / "cache") as store, ThreadPoolExecutor(1) as disk:
        store.put_many(zip(digests, dropped, strict=True))
        store.condemn(digests[:30])
        store.sweep()  # there is something to merge
        store.put_many([*encoded.blobs.items(), (digest_bytes(data), data)])
        with monkeypatch.context() as patched:
            patched.setattr(os, "pread", fail)
            blobs = asyncio.run(FetchingSource(store, Link(), disk).get(encoded.digest, {}))
            disk.shutdown()

        assert blobs.read(digest_bytes(data)) == data
