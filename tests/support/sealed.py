"""Sealed environments without a build: their trees, made from a dictionary of files."""

from __future__ import annotations

from collections.abc import Mapping

from runyard_contract.digest import digest_bytes
from runyard_contract.sealed import CONTENTS, DESCRIPTION, Sealed, SealedFile, encode_sealed
from support.trees import Tree, encode_tree


def describe(files: Mapping[str, bytes], *, lock_hash: str, platform: str) -> Sealed:
    """The description of an environment of these small files."""
    return Sealed(
        kind="pip",
        lock_hash=lock_hash,
        platform=platform,
        python="3.11.7",
        packages=len(files),
        libc="",
        runyard="test",
        files=tuple(
            SealedFile(path, digest_bytes(data), len(data)) for path, data in sorted(files.items())
        ),
    )


def sealed_tree(
    files: Mapping[str, bytes], *, lock_hash: str, platform: str, description: bytes | None = None
) -> tuple[str, dict[str, bytes]]:
    """The root's digest and all blobs of a sealed environment.

    `description` takes the place of the one that these files have.
    """
    described = encode_sealed(describe(files, lock_hash=lock_hash, platform=platform))
    tree: dict[str, bytes | tuple[bytes, bool] | str] = {
        f"{CONTENTS}/{digest_bytes(data)}": data for data in files.values()
    }
    tree[DESCRIPTION] = described if description is None else description
    found: Tree = tree
    return encode_tree(found)
