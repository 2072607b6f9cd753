from __future__ import annotations

from pathlib import Path

import pytest

from runyard_contract.errors import SpecInvalid
from runyard_daemon.config import load


def test_settings_come_from_arguments_before_variables() -> None:
    environ = {"RUNYARD_HOME": "/from/env", "RUNYARD_IDLE_END_S": "1.5"}

    assert load(environ, home=None, is_embedded=True).home == Path("/from/env")
    given = load(environ, home=Path("/given"), is_embedded=True)
    assert (given.home, given.idle_end_s, given.is_embedded) == (Path("/given"), 1.5, True)
    assert load({"HOME": "/h"}, home=None, is_embedded=False).idle_end_s == 3 * 3600


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf"])
def test_an_idle_time_that_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(SpecInvalid, match="RUNYARD_IDLE_END_S"):
        load({"RUNYARD_IDLE_END_S": text}, home=Path("/h"), is_embedded=True)
