"""Files of a bundle that tell of a container, which the supervisor and the job's client share."""

CONTAINER = "container.json"
"""How the container ended: `oom`, `error`, and `used`, fields of an exit record."""
AWAY = "container.away"
"""Is there while the client waits for an engine that went away."""
HELD = "container.held"
"""Is there from before the engine is asked for a container until that is proven gone."""
