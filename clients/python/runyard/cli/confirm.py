"""Asking before something is removed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from runyard.cli.failure import UsageInvalid

if TYPE_CHECKING:
    from runyard.cli.output import Output


def confirm(output: Output, what: str, is_agreed: bool) -> None:
    """Asks a person; a program must have said yes before. Raises UsageInvalid, click.Abort."""
    if is_agreed:
        return
    if not sys.stdin.isatty() or output.is_json:
        raise UsageInvalid(f"this would {what}", hint="add --yes to do so")
    click.confirm(f"runyard: {what}?", abort=True, err=True)
