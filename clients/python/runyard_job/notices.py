"""What the library has to say to the person who reads the job's log: one line a subject."""

from __future__ import annotations

import sys

_SUBJECTS_MAX = 100

_said: set[str] = set()


def say_once(subject: str, text: str) -> None:
    """Writes one line on stderr, the first time only that `subject` comes up.

    After 100 subjects nothing more is said: a script that makes up a bad name in every step must
    not drown its own log.
    """
    if subject in _said or len(_said) >= _SUBJECTS_MAX:
        return
    _said.add(subject)
    try:
        sys.stderr.write("runyard: " + text + "\n")
    except (OSError, ValueError, AttributeError):
        pass  # stderr is closed, full or None: training goes on all the same
