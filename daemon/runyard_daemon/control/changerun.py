"""Changes of a run that people make: tags, properties, display name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from runyard_contract.errors import EtagMismatch, SpecInvalid
from runyard_contract.limits import TAGS_MAX
from runyard_daemon.control import catalog
from runyard_daemon.control.live import Live
from runyard_daemon.control.spec import display_name_violations, label_violations
from runyard_daemon.store import Connection, labels, runs
from runyard_daemon.store.runs import RunRecord


@dataclass(frozen=True, slots=True)
class Change:
    """What to change of a run."""

    etag: str = ""
    """Empty: whatever it is now."""
    set_tags: Mapping[str, str] = field(default_factory=dict)
    remove_tags: frozenset[str] = frozenset()
    replaces_tags: bool = False
    """Tags that are not named go."""
    properties: Mapping[str, str] = field(default_factory=dict)
    display_name: str | None = None


async def change_run(
    live: Live, workspace: str, experiment: str, run_id: str, change: Change
) -> RunRecord:
    """Changes a run and gives it as it is then.

    Raises RunNotFound, EtagMismatch, SpecInvalid (a property that has another value, too many
    labels, a value out of its limits); then nothing is changed.
    """
    faults = [
        *label_violations("tags", change.set_tags),
        *label_violations("properties", change.properties),
        *display_name_violations(change.display_name or ""),
    ]
    if faults:
        raise SpecInvalid(violations=faults)

    def write(conn: Connection) -> RunRecord:
        run = catalog.run(conn, workspace, experiment, run_id)
        if change.etag and change.etag != str(run.revision):
            raise EtagMismatch(
                f"the run {run_id} changed meanwhile: its etag is {run.revision}",
                hint="read it again, then repeat the change",
                etag=str(run.revision),
                given=change.etag,
            )
        _write(conn, run, change)
        return runs.get(conn, run_id) or run

    run = await live.background.whole(live.store.write(write), "change-run")
    live.changed(run_id)
    return run


def _write(conn: Connection, run: RunRecord, change: Change) -> None:
    gone = set(change.remove_tags)
    if change.replaces_tags:
        gone |= run.tags.keys() - change.set_tags.keys()
    if change.set_tags or gone:
        _within("tags", len(labels.set_tags(conn, run.run_id, change.set_tags, gone)))
    if change.properties:
        taken = labels.add_properties(conn, run.run_id, change.properties)
        if taken:
            raise SpecInvalid(
                violations=[
                    (f"properties[{key}]", "has a value, which is set once") for key in taken
                ]
            )
        _within("properties", len(run.properties.keys() | change.properties.keys()))
    if change.display_name is not None:
        runs.update(conn, run.run_id, display_name=change.display_name or run.run_id)


def _within(field_name: str, count: int) -> None:
    if count > TAGS_MAX:
        raise SpecInvalid(violations=[(field_name, f"would be {count}; at most {TAGS_MAX}")])
