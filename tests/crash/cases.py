"""What a crash campaign is: numbered cases, each with its own chance, so that one can be repeated.

A module in this folder with a tuple `CAMPAIGNS` takes part in `make crash`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


class Over(Exception):
    """The case lies behind the last step of what is enumerated: nothing was left to break."""


@dataclass(frozen=True, slots=True)
class Case:
    """One case of a campaign."""

    campaign: str
    number: int
    seed: int
    folder: Path
    """Its own, empty, with a short path; kept when the case fails."""

    @property
    def chance(self) -> random.Random:
        """The same numbers at each call, whatever other cases run."""
        return random.Random(f"{self.seed}/{self.campaign}/{self.number}")


@dataclass(frozen=True, slots=True)
class Campaign:
    """A kind of fault, and the promise that it tries to break."""

    name: str
    promise: str
    """What holds, in one line for the table."""
    run: Callable[[Case], Counter[str]]
    """Runs a case; gives what it did, to be added up. Raises AssertionError where the promise is
    broken, Over where there is nothing left to enumerate."""
    full: int
    """Cases of `make crash`; an enumeration ends before, when its steps are all tried."""
