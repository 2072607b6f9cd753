"""What UpdateRun asks for."""

from __future__ import annotations

from runyard_contract.errors import SpecInvalid
from runyard_daemon.control.changerun import Change
from runyardpb.v1 import runs_pb2 as pb


def to_change(request: pb.UpdateRunRequest) -> Change:
    """Reads mask and values. Raises SpecInvalid for a path that can't be changed.

    An empty mask names every field that has a value.
    """
    run = request.run
    paths = list(request.update_mask.paths) or [
        name for name in ("tags", "properties", "display_name") if getattr(run, name)
    ]
    set_tags: dict[str, str] = {}
    remove: set[str] = set()
    properties: dict[str, str] = {}
    for path in paths:
        noun, _, key = path.partition(".")
        if path == "tags":
            set_tags.update(run.tags)
        elif noun == "tags" and key and key in run.tags:
            set_tags[key] = run.tags[key]
        elif noun == "tags" and key:
            remove.add(key)
        elif path == "properties":
            properties.update(run.properties)
        elif noun == "properties" and key in run.properties:
            properties[key] = run.properties[key]
        elif path != "display_name":
            raise SpecInvalid(
                violations=[("update_mask", f"{path[:100]!r} is no field that can be changed")],
                hint="name tags, tags.KEY, properties, properties.KEY or display_name",
            )
    return Change(
        etag=run.etag,
        set_tags=set_tags,
        remove_tags=frozenset(remove),
        replaces_tags="tags" in paths and bool(request.update_mask.paths),
        properties=properties,
        display_name=run.display_name if "display_name" in paths else None,
    )
