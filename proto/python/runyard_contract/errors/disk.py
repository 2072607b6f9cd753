"""What an error of the disk means to a user."""

from __future__ import annotations

import errno
from typing import Final

from runyard_contract.errors.base import RunyardError
from runyard_contract.errors.system import DiskFailed, DiskFull, ReadOnly

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FREE_SPACE: Final = "free space there, then try again"


def of_disk(error: OSError, place: str, *, full_hint: str = _FREE_SPACE) -> RunyardError | None:
    """Gives the error that a user should see; None where it says nothing of the disk.

    Args:
        error: of the system.
        place: what can't be written, as a user calls it, such as "the data directory".
        full_hint: what to do where the disk is full.
    """
    code = errno.errorcode.get(error.errno or 0, "")
    if error.errno in _FULL:
        return DiskFull(
            f"the disk of {place} is full ({error.strerror})", hint=full_hint, errno=code
        )
    if error.errno == errno.EROFS:
        return ReadOnly(
            f"the disk of {place} is read-only",
            hint="mount it for writing, then try again; the kernel's log (`dmesg`) may say why "
            "it became so",
            errno=code,
        )
    if error.errno == errno.EIO:
        return DiskFailed(
            f"the disk of {place} failed ({error.strerror}): nothing was acknowledged",
            hint="try again; if it happens again, look into the kernel's log (`dmesg`) and check "
            "the disk",
            errno=code,
        )
    return None
