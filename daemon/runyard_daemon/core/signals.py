"""Names of signals, and what to try when one ended a script."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from types import MappingProxyType

MEMORY_ADVICE = (
    "the usual sender is the kernel when memory runs out: use less memory (smaller batches, fewer "
    "workers), or ask for a node with more with `--memory`"
)
_NATIVE_ADVICE = (
    "native code crashed: run with `--env-var PYTHONFAULTHANDLER=1` to see where, and check that "
    "compiled packages fit this machine and each other"
)

_ADVICE: Mapping[int, str] = MappingProxyType(
    {
        signal.SIGKILL: MEMORY_ADVICE,
        signal.SIGSEGV: _NATIVE_ADVICE,
        signal.SIGABRT: _NATIVE_ADVICE,
        signal.SIGFPE: _NATIVE_ADVICE,
        signal.SIGILL: "a compiled package was built for another processor: install one for this "
        "node's processor",
        signal.SIGBUS: "shared memory or a mapped file ran out of space: use fewer data loader "
        "workers, or free space in /dev/shm and on the disk",
        signal.SIGXCPU: "the account's limit of CPU time was reached: raise it (`ulimit -t`)",
        signal.SIGXFSZ: "the account's limit of file sizes was reached: raise it (`ulimit -f`)",
        signal.SIGPIPE: "the script wrote to a process that had ended: look at its last lines",
    }
)
_OTHER_ADVICE = "somebody or something on the node sent it: look there, then submit again"


def signal_name(number: int) -> str:
    """Gives the name, such as "SIGKILL"; "signal 40" for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def signal_advice(number: int) -> str:
    """Gives what to try when this signal, not sent by runyard, ended a script."""
    return _ADVICE.get(number, _OTHER_ADVICE)
