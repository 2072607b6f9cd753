"""All packs of a store: `packs/NAME.pack` with `packs/NAME.idx`.

The writing process knows its packs; another process looks again when it misses a blob and the
folder has changed. Nothing keeps a pack open, so a removed one frees its space at once: a reader
that comes too late finds the blob where it lies now.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator

from runyard_contract.content.durable import sync_names
from runyard_contract.content.pack import (
    READ_FLAGS,
    PackDamaged,
    PackFile,
    PackIndex,
    Place,
    encode_index,
    scan,
)
from runyard_contract.paths import write_file_at

FOLDER = "packs"
MERGED_BYTES = 1 << 30
"""A pack of this size is not merged any more."""
_SMALL_PACKS = 8  # that many may be small before some are merged
_NO_PACK = frozenset({errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.ESPIPE})
"""What reading gives where a link, a socket, a folder or a FIFO lies in a pack's place."""
_TICK_NS = 50_000_000  # a folder that changed so lately may change again within one time stamp


class Packs:
    """The packs below a store's folder.

    Args:
        root_fd: the store's folder.
        temporary: gives a fresh path for a file that is being written, below the store's folder.
        is_writer: whether this process is the one that changes packs; the folder exists then.
    """

    def __init__(self, root_fd: int, temporary: Callable[[], str], *, is_writer: bool) -> None:
        self._is_writer = is_writer
        self._temporary = temporary
        self._root_fd = root_fd
        self._dir_fd = -1
        self._packs: tuple[PackIndex, ...] = ()
        self._recent: PackIndex | None = None
        self._seen_ns = -1
        self._lock = threading.Lock()  # for replacing the tuple
        self._changing = threading.Lock()  # one thread at a time takes blobs out or merges
        self._look()

    def close(self) -> None:
        """Closes the folder. Idempotent."""
        if self._dir_fd >= 0:
            os.close(self._dir_fd)
            self._dir_fd = -1

    # ---- reading

    def find(self, digest: str) -> tuple[PackIndex, Place] | None:
        """The pack that holds a blob, and where in it; None: none that is known here."""
        wanted = bytes.fromhex(digest)
        recent = self._recent
        if recent is not None and (place := recent.find(wanted)) is not None:
            return recent, place
        for pack in self._packs:
            if pack is not recent and (place := pack.find(wanted)) is not None:
                with self._lock:
                    if pack in self._packs:  # else it was just removed
                        self._recent = pack
                return pack, place
        return None

    def read(self, pack: PackIndex, place: Place) -> bytes | None:
        """The bytes at a place, not verified; None: the pack is gone, look again.

        Fewer bytes than the blob has, or none, where the file is not what it was. Raises OSError
        where it can't be read now, which says nothing of the blob.
        """
        try:
            fd = os.open(f"{pack.name}.pack", READ_FLAGS, dir_fd=self._dir_fd)
            try:
                data = os.pread(fd, place.size_bytes, place.offset)
                while 0 < len(data) < place.size_bytes:
                    more = os.pread(fd, place.size_bytes - len(data), place.offset + len(data))
                    if not more:
                        break
                    data += more
                return data
            finally:
                os.close(fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno not in _NO_PACK:
                raise
            return b""

    def refresh(self) -> None:
        """Looks what another process changed.

        The writer knows its packs, and what it has not adopted yet does not count.
        """
        if not self._is_writer:
            self._look()

    def _look(self) -> None:
        """Reads the folder where it has changed."""
        if self._dir_fd < 0:
            with contextlib.suppress(FileNotFoundError):
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                self._dir_fd = os.open(FOLDER, flags, dir_fd=self._root_fd)
            if self._dir_fd < 0:
                return
        changed_ns = os.fstat(self._dir_fd).st_mtime_ns
        with self._lock:
            if changed_ns == self._seen_ns:
                return
            known = {pack.name: pack for pack in self._packs}
            self._packs = tuple(self._load_all(known))
            self._recent = None
            is_settled = time.time_ns() - changed_ns > _TICK_NS
            self._seen_ns = changed_ns if is_settled else -1

    def _load_all(self, known: dict[str, PackIndex]) -> Iterator[PackIndex]:
        """The packs in the folder. An index is replaced as a whole: an old one stays right."""
        for file in os.listdir(self._dir_fd):
            name, dot, kind = file.rpartition(".")
            if not dot or kind != "idx":
                continue
            if name in known:
                if self._is_current(known[name]):
                    yield known[name]
                    continue
            try:
                yield PackIndex.open_whole(self._dir_fd, name)
            except (FileNotFoundError, PackDamaged):
                continue  # taken away meanwhile; what is damaged the writer mends at its start

    def _is_current(self, pack: PackIndex) -> bool:
        """Whether the index on disk is the known one: taking blobs out makes it smaller."""
        try:
            status = os.stat(f"{pack.name}.idx", dir_fd=self._dir_fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return status.st_size == pack.index_bytes

    def forget(self, pack: PackIndex) -> None:
        """Drops a pack whose file is gone, and looks which ones are there now."""
        with self._lock:
            self._packs = tuple(other for other in self._packs if other is not pack)
            self._recent = None
            self._seen_ns = -1
        self.refresh()

    def __iter__(self) -> Iterator[tuple[bytes, Place]]:
        """All blobs with their places; one that is in two packs comes twice."""
        for pack in self._packs:
            yield from pack

    def __len__(self) -> int:
        """The number of packs."""
        return len(self._packs)

    # ---- writing

    def new_file(self) -> PackFile:
        """A pack to fill, without a name."""
        return PackFile(self._root_fd, self._temporary())

    def write_index(self, places: Iterable[tuple[bytes, Place]], pack_bytes: int) -> str:
        """Writes an index under a temporary path, not durable, and gives the path."""
        path = self._temporary()
        folder, _, name = path.rpartition("/")
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._root_fd)
        try:
            write_file_at(fd, name, encode_index(places, pack_bytes), 0o600)
        finally:
            os.close(fd)
        return path

    def publish(self, pack_path: str, index_path: str) -> str:
        """Gives a pack, which is durable with its index, its name.

        `adopt` makes it count in this process, once the folder is durable.
        """
        name = secrets.token_hex(8)
        self._rename(pack_path, f"{name}.pack")
        self._rename(index_path, f"{name}.idx")
        return name

    def adopt(self, name: str, instead_of: Collection[PackIndex] = ()) -> None:
        """Makes a published pack count, and others not any more."""
        index = PackIndex.open(self._dir_fd, name)
        with self._lock:
            self._packs = (index, *(pack for pack in self._packs if pack not in instead_of))
            self._recent = index

    def sync(self) -> None:
        """Makes the names in the folder durable."""
        os.fsync(self._dir_fd)

    def _rename(self, path: str, name: str) -> None:
        os.rename(path, name, src_dir_fd=self._root_fd, dst_dir_fd=self._dir_fd)

    # ---- taking out

    def take_out(self, choose: Callable[[PackIndex], Collection[bytes]]) -> int:
        """Takes blobs out of the indexes of their packs; returns how many.

        `choose` gives those of a pack that go. Their bytes stay until the pack is merged, or goes
        because nothing in it is left. Raises OSError.
        """
        taken = 0
        with self._changing:
            for pack in self._packs:
                chosen = choose(pack)
                if not chosen:
                    continue
                taken += len(chosen)
                kept = [(digest, place) for digest, place in pack if digest not in chosen]
                if kept:
                    self._replace_index(pack, kept)
                else:
                    self._remove(pack)
        return taken

    def _replace_index(self, pack: PackIndex, kept: list[tuple[bytes, Place]]) -> None:
        path = self.write_index(kept, pack.pack_bytes)
        try:
            sync_names(self._root_fd, [path])
            self._rename(path, f"{pack.name}.idx")
        except OSError:
            os.unlink(path, dir_fd=self._root_fd)
            raise
        self.adopt(pack.name, [pack])

    def _remove(self, pack: PackIndex) -> None:
        """Removes a pack: its index first, without which it counts for nothing."""
        with self._lock:
            self._packs = tuple(other for other in self._packs if other is not pack)
            self._recent = None
        os.unlink(f"{pack.name}.idx", dir_fd=self._dir_fd)
        os.unlink(f"{pack.name}.pack", dir_fd=self._dir_fd)

    def merge(self) -> int:
        """Joins small packs, and writes those again of which most is nobody's.

        Returns how many packs were replaced. What it writes is durable before it removes anything.
        """
        with self._changing:
            replaced = 0
            for group in _to_merge(self._packs):
                self._join(group)
                replaced += len(group)
            return replaced

    def _join(self, group: list[PackIndex]) -> None:
        """Copies what is live in some packs into one, and removes them."""
        joined = self.new_file()
        paths = [joined.path]
        try:
            for pack in group:
                for digest, place in pack:
                    data = self.read(pack, place)
                    if digest not in joined.places and data is not None:
                        joined.add(digest, data, place.stored_s)
            joined.finish()
            paths.append(self.write_index(joined.places.items(), joined.size_bytes))
            sync_names(self._root_fd, paths)
        except BaseException:
            joined.close()
            for path in paths:
                os.unlink(path, dir_fd=self._root_fd)
            raise
        name = self.publish(*paths)
        self.sync()
        self.adopt(name, group)
        for pack in group:
            self._remove(pack)

    # ---- after a crash

    def mend(self) -> None:
        """Removes what a writer that died left half, makes damaged indexes again.

        Only for the writer, before it writes.
        """
        names = set(os.listdir(self._dir_fd))
        for file in sorted(names):
            name, _, kind = file.rpartition(".")
            if kind == "idx":
                self._mend_index(name)
            elif kind == "pack" and f"{name}.idx" not in names:
                os.unlink(file, dir_fd=self._dir_fd)  # it never counted, or does not any more
        self.sync()
        self._seen_ns = -1
        self._look()

    def _mend_index(self, name: str) -> None:
        try:
            PackIndex.open_whole(self._dir_fd, name)
            return
        except FileNotFoundError:  # an index without its pack
            places: dict[bytes, Place] = {}
        except PackDamaged:
            places, pack_bytes = self._scan(name)
        if not places:
            os.unlink(f"{name}.idx", dir_fd=self._dir_fd)
            return
        path = self.write_index(places.items(), pack_bytes)
        sync_names(self._root_fd, [path])
        self._rename(path, f"{name}.idx")

    def _scan(self, name: str) -> tuple[dict[bytes, Place], int]:
        """What a pack holds, nothing where it is none."""
        try:
            fd = os.open(f"{name}.pack", READ_FLAGS, dir_fd=self._dir_fd)
        except OSError as error:
            if error.errno not in _NO_PACK and error.errno != errno.ENOENT:
                raise
            return {}, 0
        try:
            return scan(fd) if stat.S_ISREG(os.fstat(fd).st_mode) else ({}, 0)
        except PackDamaged:
            return {}, 0
        finally:
            os.close(fd)


def _to_merge(packs: Iterable[PackIndex]) -> Iterator[list[PackIndex]]:
    """Groups of packs that are to become one each.

    Of many small packs the smallest go together, a larger one only with as much beside it: so a
    byte is copied a few times in its life, not with every merge.
    """
    small: list[PackIndex] = []
    for pack in sorted(packs, key=lambda pack: pack.live_bytes):
        if pack.live_bytes * 2 < pack.pack_bytes:
            yield [pack]
        elif pack.live_bytes < MERGED_BYTES:
            small.append(pack)
    if len(small) <= _SMALL_PACKS:
        return
    group, size_bytes = small[:2], small[0].live_bytes + small[1].live_bytes
    for pack in small[2:]:
        if pack.live_bytes > size_bytes or size_bytes + pack.live_bytes > MERGED_BYTES:
            break
        group.append(pack)
        size_bytes += pack.live_bytes
    yield group
