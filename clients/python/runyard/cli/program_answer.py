"""What a program of ours answers on its standard output: one JSON object, an error if it failed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from runyard_contract.errors import RemoteError, RunyardError, class_for_reason

if TYPE_CHECKING:
    from subprocess import CompletedProcess


def answer_of(done: CompletedProcess[bytes], no_answer: RunyardError) -> dict[str, Any]:
    """The answer. Raises the error that it tells, and `no_answer` where there is none."""
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise no_answer from None
    if done.returncode == 0:
        return answer
    reason, message, hint = answer["reason"], answer["message"], answer["hint"]
    known = class_for_reason(reason)
    if known is None:
        raise RemoteError.of("UNKNOWN", reason, message, hint, {})
    raise known.restore(message, hint, {})
