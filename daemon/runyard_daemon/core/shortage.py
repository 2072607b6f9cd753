"""Whether a script failed because memory or disk ran out: whose, and what to try next."""

from __future__ import annotations

import re
from enum import StrEnum

from runyard_contract.record import record
from runyard_contract.states import EndClass
from runyard_daemon.core.lastwords import PythonException, last_lines


class Memory(StrEnum):
    """Whose memory ran out."""

    NOBODYS = ""
    """Nobody's, as far as anyone knows."""
    LIMIT = "limit"
    """The run's own limit."""
    HOST = "host"
    """The machine's."""
    GPU = "gpu"
    """A GPU's."""


@record
class Shortage:
    """What ran out."""

    end_class: EndClass
    what: str
    """The end of a sentence that begins with what the script did."""
    advice: str
    memory: Memory = Memory.NOBODYS


_GPU = re.compile(
    r"CUDA out of memory|HIP out of memory|cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY"
    r"|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED"
    r"|RESOURCE_EXHAUSTED: Out of memory|RESOURCE_EXHAUSTED: Failed to allocate"
    r"|(?:torch|cuda)\.OutOfMemoryError"
)
_HOST = re.compile(r"\[Errno 12\]|std::bad_alloc|DefaultCPUAllocator: (?:can't|not enough)")
_DISK = re.compile(r"\[Errno 28\]|No space left on device|\[Errno 122\]|Disk quota exceeded")
_MEMORY_ERRORS = ("MemoryError", "_ArrayMemoryError")

_OF_MEMORY = {
    Memory.LIMIT: (
        "its memory limit was reached",
        "give it a larger limit with `--memory-limit`, or use less memory (smaller batches, fewer "
        "data loader workers)",
    ),
    Memory.HOST: (
        "the node ran out of memory",
        "use less memory (smaller batches, fewer data loader workers), run fewer at a time by "
        "asking for what it needs with `--memory`, or use a node with more",
    ),
    Memory.GPU: (
        "a GPU ran out of memory",
        "use less of its memory (smaller batches, lower precision, accumulated gradients), look "
        "with `nvidia-smi` on the node for others that use it, or use a larger GPU",
    ),
}
_DISK_IS_FULL = Shortage(
    EndClass.DISK_FULL,
    "the disk it wrote to was full",
    "see with `df -h` and `df -i` on the node which disk is full and free space there; write less "
    "to outputs/ (fewer checkpoints); a full /dev/shm needs fewer data loader workers",
)


def find_shortage(
    tail: bytes, exception: PythonException | None, memory: Memory, *, is_disk_full: bool
) -> Shortage | None:
    """What ran out, None where nothing did; for a script that failed by itself or by a signal.

    `tail` is the end of its stderr. Where a traceback ends it, only its exception counts: other
    lines may tell of what the script got over. `memory` and `is_disk_full` are the node's word.
    """
    if memory is not Memory.NOBODYS:
        return _of_memory(memory)
    text = exception.text if exception is not None else "\n".join(last_lines(tail))
    if _GPU.search(text):
        return _of_memory(Memory.GPU)
    if _DISK.search(text):
        return _DISK_IS_FULL
    name = exception.type.rpartition(".")[2] if exception is not None else ""
    if name in _MEMORY_ERRORS or _HOST.search(text):
        return _of_memory(Memory.HOST)
    return _DISK_IS_FULL if is_disk_full else None


def _of_memory(memory: Memory) -> Shortage:
    what, advice = _OF_MEMORY[memory]
    return Shortage(EndClass.OUT_OF_MEMORY, what, advice, memory)
