"""Built environments that nodes fetch instead of building: checked, then kept by their lock."""

from __future__ import annotations

from collections.abc import Iterable

from runyard_contract import manifest
from runyard_contract.content.store import ContentStore
from runyard_contract.errors import SealedInvalid, SnapshotTooLarge
from runyard_contract.limits import SEALED_MAX_BYTES, SEALED_MAX_FILES
from runyard_contract.sealed import CONTENTS, DESCRIPTION, Sealed, decode_sealed, digests_of
from runyard_daemon.content import Content
from runyard_daemon.control.live import Live
from runyard_daemon.control.snapshots import Checked, TreeLimits, check_tree
from runyard_daemon.store import Connection, environments
from runyard_daemon.store.environments import SealedRecord

_LIMITS = TreeLimits(SEALED_MAX_FILES, SEALED_MAX_BYTES, SEALED_MAX_FILES)


class SealedKeeper:
    """Keeps what agents have built and sealed."""

    def __init__(self, live: Live, content: Content) -> None:
        self._live = live
        self._content = content

    async def keep(self, lock_hash: str, root: str, node: str) -> SealedRecord:
        """Keeps the tree as what is built of a lock, in the place of what was sealed before.

        Raises SealedInvalid, BlobMissing, ManifestInvalid, BlobCorrupt.
        """
        self._content.pin([root])
        # To its end also for a caller that is gone: a garbage collection waits for this.
        return await self._live.background.whole(self._keep(lock_hash, root, node), "keep sealed")

    async def _keep(self, lock_hash: str, root: str, node: str) -> SealedRecord:
        with self._content.underway.one():
            sealed, checked = await self._content.run(lambda store: check_sealed(root, store))
            if sealed.lock_hash != lock_hash:
                raise SealedInvalid.because("it is of another lock than it is kept for")
            record = sealed_record(sealed, root, checked, self._live.now_us(), node)

            def write(conn: Connection) -> SealedRecord:
                return environments.keep_sealed(conn, record)

            return await self._live.store.write(write)


def sealed_record(
    sealed: Sealed, root: str, checked: Checked, now_us: int, node: str
) -> SealedRecord:
    """What is kept of a sealed environment that was checked."""
    return SealedRecord(sealed.lock_hash, root, checked.files - 1, checked.size_bytes, now_us, node)


def check_sealed(root: str, content: ContentStore) -> tuple[Sealed, Checked]:
    """Makes sure that a tree is a sealed environment, whole and safe. Blocks.

    Raises SealedInvalid, BlobMissing, ManifestInvalid, BlobCorrupt.
    """
    try:
        checked = check_tree(root, content, lambda _: (), _LIMITS)
    except SnapshotTooLarge as error:
        raise SealedInvalid.because(error.message) from None
    entries = {entry.name: entry for entry in manifest.read_directory(root, content.read)}
    description, contents = entries.get(DESCRIPTION), entries.get(CONTENTS)
    if (
        len(entries) != 2
        or not isinstance(description, manifest.FileEntry)
        or not isinstance(contents, manifest.DirectoryEntry)
    ):
        raise SealedInvalid.because(f"it does not consist of {DESCRIPTION} and {CONTENTS}/")
    sealed = decode_sealed(_read_file(description, content))
    held = _sizes(manifest.read_directory(contents.digest, content.read))
    for digest, size_bytes in digests_of(sealed.files).items():
        if held.get(digest) != size_bytes:
            raise SealedInvalid.because(f"it lacks the content {digest} of {size_bytes} bytes")
    return sealed, checked


def _sizes(entries: Iterable[manifest.Entry]) -> dict[str, int]:
    """Size by digest of the contents, each of which is named by its digest."""
    return {
        entry.digest: entry.size_bytes
        for entry in entries
        if isinstance(entry, manifest.FileEntry) and entry.name == entry.digest
    }


def _read_file(file: manifest.FileEntry, content: ContentStore) -> bytes:
    data = content.read(file.digest)
    if not file.is_chunked:
        return data
    return b"".join(content.read(digest) for digest, _ in manifest.decode_chunks(data))
