"""The images of an engine: found by name, fetched where they are missing, exactly as locked."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from runyard_agent.environments.builds import seconds_since
from runyard_agent.environments.diagnosis import Fault
from runyard_agent.environments.docker_api import DockerApi
from runyard_agent.environments.docker_calls import ask_engine
from runyard_agent.environments.docker_diagnosis import gone_image, wrong_architecture
from runyard_agent.environments.docker_lock import Pin, comes_again, pin_of
from runyard_agent.environments.protocol import EnvironmentFailed, NotHere
from runyard_agent.environments.shared_work import Audience, failures_told
from runyard_contract.paths import shown


class Images:
    """The images of the engine behind `api`, which fetches with the login of `environ`'s user.

    With `is_offline` nothing is fetched.
    """

    def __init__(
        self, api: DockerApi, environ: Mapping[str, str], *, is_offline: bool = False
    ) -> None:
        self._is_offline = is_offline
        self._api = api
        self._environ = environ

    async def resolve(self, reference: str, audience: Audience, *, is_refresh: bool = False) -> Pin:
        """The image that a reference stands for now, fetched where it is not here.

        With `is_refresh` its registry is asked what the reference stands for by now. An image that
        is of no registry is what the engine has of it.
        """
        if is_refresh and not self._is_offline:
            here = await self._api.image(reference)
            if here is not None and comes_again(reference, here):
                await self._pull(reference, audience, is_here=True)
        found = await self._here_or_fetched(reference, reference, audience)
        if found is None:
            raise telling(audience, gone_image(reference, reference))
        pin = pin_of(reference, found)
        audience.say(f"Image {shown(reference)} is {pin.exact}.")
        return pin

    async def exact(self, pin: Pin, audience: Audience) -> Mapping[str, Any]:
        """The image of a pin, fetched where it is not here."""
        found = await self._here_or_fetched(pin.reference, pin.digest, audience, pin.exact)
        if found is None:
            raise telling(audience, gone_image(pin.reference, pin.image))
        return found

    async def _here_or_fetched(
        self, reference: str, fetchable: str, audience: Audience, exact: str = ""
    ) -> Mapping[str, Any] | None:
        """The image of a name that this node can run; None: it is nowhere.

        Args:
            reference: as people name it.
            fetchable: what a registry is asked for. Empty: none is.
            exact: what the engine is asked for. Default: the reference.
        """
        name = exact or reference
        found = await self._api.image(name)
        is_fetched = found is None and bool(fetchable)
        if is_fetched:
            await self._pull(fetchable, audience)
            found = await self._api.image(name)
        if found is None:
            return None
        fault = await self._wrong_architecture(reference, found)
        if fault is None:
            return found
        if is_fetched:  # nobody else has a use for it here
            await self._api.call("DELETE", f"/images/{quote(fetchable, safe='/:@')}")
        raise telling(audience, fault)

    async def _pull(self, reference: str, audience: Audience, *, is_here: bool = False) -> None:
        """Fetches an image; EnvironmentFailed where that is not possible."""
        if self._is_offline:
            raise NotHere(
                f"image {shown(reference)} is not in the engine of the node",
                f"carry it there: `docker save {shown(reference)}`, then `docker load`",
            )
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

    async def _wrong_architecture(self, reference: str, found: Mapping[str, Any]) -> Fault | None:
        """What is wrong with an image that the engine can't run."""
        engine = (await self._api.call("GET", "/version")).json() or {}
        of_image = f"{found.get('Os') or 'linux'}/{found.get('Architecture') or engine.get('Arch')}"
        of_engine = f"{engine.get('Os')}/{engine.get('Arch')}"
        if of_image == of_engine:
            return None
        return wrong_architecture(reference, of_image, of_engine)


def telling(audience: Audience, fault: Fault) -> EnvironmentFailed:
    """The error for a fault, which the log gets too."""
    audience.say(f"Failed: {fault.message}")
    return EnvironmentFailed(fault.message, fault.advice, fault.metadata)
