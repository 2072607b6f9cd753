"""The images of an engine: found by name, fetched where they are missing, exactly as locked."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from runyard_agent.environments.builds import seconds_since
from runyard_agent.environments.diagnosis import Fault
from runyard_agent.environments.docker_api import DockerApi
from runyard_agent.environments.docker_calls import ask_engine
from runyard_agent.environments.docker_diagnosis import gone_image, wrong_architecture
from runyard_agent.environments.docker_lock import Pin, comes_again, pin_of
from runyard_agent.environments.protocol import EnvironmentFailed
from runyard_agent.environments.shared_work import Audience, failures_told
from runyard_contract.paths import shown


class Images:
    """The images of the engine behind `api`, which fetches with the login of `environ`'s user."""

    def __init__(self, api: DockerApi, environ: Mapping[str, str]) -> None:
        self._api = api
        self._environ = environ

    async def resolve(self, reference: str, audience: Audience, *, is_refresh: bool = False) -> Pin:
        """The image that a reference stands for now, fetched where it is not here.

        With `is_refresh` its registry is asked what the reference stands for by now. An image that
        is of no registry is what the engine has of it.
        """
        found = await self._api.image(reference)
        if found is None or (is_refresh and comes_again(reference, found)):
            await self._pull(reference, audience, is_here=found is not None)
            found = await self._api.image(reference)
        if found is None:
            raise telling(audience, gone_image(reference, reference))
        await self._check_architecture(reference, found, audience)
        pin = pin_of(reference, found)
        audience.say(f"Image {shown(reference)} is {pin.exact}.")
        return pin

    async def exact(self, pin: Pin, audience: Audience) -> Mapping[str, Any]:
        """The image of a pin, fetched where it is not here."""
        found = await self._api.image(pin.exact)
        if found is None and pin.digest:
            await self._pull(pin.digest, audience)
            found = await self._api.image(pin.exact)
        if found is None:
            raise telling(audience, gone_image(pin.reference, pin.image))
        await self._check_architecture(pin.reference, found, audience)
        return found

    async def _pull(self, reference: str, audience: Audience, *, is_here: bool = False) -> None:
        """Fetches an image; EnvironmentFailed where that is not possible."""
        began_s = time.monotonic()
        audience.progress(f"fetching image {shown(reference)}")
        audience.say(
            f"Asking the registry for the newest image {shown(reference)}."
            if is_here
            else f"Image {shown(reference)} is not on this node; fetching it."
        )
        request = {"action": "pull", "reference": reference}
        with failures_told(audience):
            await ask_engine(self._api.socket, request, self._environ, audience.write)
        audience.say(f"Fetched in {seconds_since(began_s)}.")

    async def _check_architecture(
        self, reference: str, found: Mapping[str, Any], audience: Audience
    ) -> None:
        """Raises EnvironmentFailed for an image that the engine can't run."""
        engine = (await self._api.call("GET", "/version")).json() or {}
        of_image = f"{found.get('Os') or 'linux'}/{found.get('Architecture') or engine.get('Arch')}"
        of_engine = f"{engine.get('Os')}/{engine.get('Arch')}"
        if of_image != of_engine:
            raise telling(audience, wrong_architecture(reference, of_image, of_engine))


def telling(audience: Audience, fault: Fault) -> EnvironmentFailed:
    """The error for a fault, which the log gets too."""
    audience.say(f"Failed: {fault.message}")
    return EnvironmentFailed(fault.message, fault.advice, fault.metadata)
