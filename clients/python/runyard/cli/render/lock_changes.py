"""What a refresh has changed of an environment's lock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runyard.cli.render.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from runyard.lock_difference import Change

_KINDS = {"added": "+", "removed": "-", "changed": "~"}


def change_lines(changes: Sequence[Change]) -> Iterator[str]:
    """A line for each package that differs."""
    for change in changes:
        sign, name = _KINDS[_kind(change)], clean(change.name)
        if change.before is None or change.after is None:
            yield f"  {sign} {name} {clean(change.before or change.after or '')}"
        elif change.before == change.after:
            yield f"  {sign} {name} {clean(change.after)}: other files of the same version"
        else:
            yield f"  {sign} {name} {clean(change.before)} -> {clean(change.after)}"


def refresh_json(before: str | None, after: str | None, changes: Sequence[Change]) -> Any:
    """The same as scripts read it; `before` and `after` are hashes of locks."""
    return {
        "lock_before": before,
        "lock": after,
        **{
            kind: [
                {"name": change.name, "before": change.before, "after": change.after}
                for change in changes
                if _kind(change) == kind
            ]
            for kind in _KINDS
        },
    }


def _kind(change: Change) -> str:
    if change.before is None:
        return "added"
    return "removed" if change.after is None else "changed"
