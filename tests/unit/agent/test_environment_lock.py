from __future__ import annotations

import pytest

from runyard_agent.environments.lock import is_hashed, lock_for, make_lock, packages
from runyard_agent.environments.protocol import EnvironmentFailed

LINUX = "linux-x86_64-cp311"
TEXT = r"""six==1.17.0 \
    --hash=sha256:01 \
    --hash=sha256:02
top==1.0 \
    --hash=sha256:03
"""
GIT = "pkg @ git+https://e.example/x@0123\n"


def test_lock_for_takes_the_one_of_this_platform() -> None:
    mine, other = make_lock(LINUX, TEXT, 5), make_lock("linux-aarch64-cp311", TEXT, 5)

    assert lock_for(LINUX, [other, mine]) == mine
    assert lock_for(LINUX, [other]) is None
    assert mine.create_time.ToNanoseconds() == 5


def test_lock_that_is_not_what_its_hash_says_is_refused() -> None:
    lock = make_lock(LINUX, TEXT, 5)
    lock.text += "evil==1.0\n"

    with pytest.raises(EnvironmentFailed, match="damaged"):
        lock_for(LINUX, [lock])


@pytest.mark.parametrize(
    ("text", "count", "hashed"),
    [
        (TEXT, 2, True),
        (GIT, 1, False),
        (TEXT + GIT, 3, False),
        (GIT + TEXT, 3, False),
        ("", 0, True),
    ],
)
def test_packages_and_whether_all_have_hashes(text: str, count: int, hashed: bool) -> None:
    assert packages(text) == count
    assert is_hashed(text) is hashed
