"""The variables of the caller that a job on the local target gets."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

_NAMES = frozenset(
    b"PATH HOME USER LOGNAME SHELL LANG TZ TMPDIR VIRTUAL_ENV CONDA_PREFIX PYTHONPATH "
    b"LD_LIBRARY_PATH".split()
)
_PROXIES = frozenset(b"http_proxy https_proxy ftp_proxy all_proxy no_proxy".split())
_PREFIXES = (b"LC_", b"CUDA_")


def current_environment() -> dict[bytes, bytes]:
    """The environment of this process, as bytes."""
    if os.supports_bytes_environ:
        return dict(os.environb.items())
    return {os.fsencode(name): os.fsencode(value) for name, value in os.environ.items()}


def caller_environment(
    environ: Mapping[bytes, bytes], more: Iterable[bytes] = ()
) -> dict[bytes, bytes]:
    """What of `environ` goes to a job on the local target, in order of names.

    PATH, HOME, USER, LOGNAME, SHELL, LANG, LC_*, TZ, TMPDIR, VIRTUAL_ENV, CONDA_PREFIX, PYTHONPATH,
    LD_LIBRARY_PATH, CUDA_*, the proxies in both cases, and the names in `more` that are set.
    """
    wanted = frozenset(more)
    return {
        name: environ[name]
        for name in sorted(environ)
        if name in _NAMES
        or name in wanted
        or name.startswith(_PREFIXES)
        or name.lower() in _PROXIES
    }
