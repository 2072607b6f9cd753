"""Where logins are remembered."""

from __future__ import annotations

import pytest

from runyard.address import credentials_path


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({"HOME": "/h"}, "/h/.config/runyard/credentials.json"),
        ({"HOME": "/h", "XDG_CONFIG_HOME": "/c"}, "/c/runyard/credentials.json"),
        ({"HOME": "/h", "XDG_CONFIG_HOME": "here"}, "/h/.config/runyard/credentials.json"),
    ],
)
def test_logins_lie_where_programs_have_their_configuration(
    environ: dict[str, str], path: str
) -> None:
    assert credentials_path(environ) == path
