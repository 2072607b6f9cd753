"""What the words of a Docker engine mean: the image at fault, why, and what to try."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from runyard_agent.environments.diagnosis import MESSAGE_CHARACTERS, Fault
from runyard_agent.environments.docker_lock import repository_of
from runyard_contract.paths import shown

_HOST = re.compile(r"https?://([^/\s\"]+)")


def explain(fault: Mapping[str, Any]) -> Fault:
    """The fault in words for people.

    Args:
        fault: what the program of the SDK tells: "kind", "said", and "image" where one is meant.
    """
    said = " ".join(str(fault["said"]).split())
    image = shown(str(fault.get("image") or ""))
    if fault["kind"] == "gone":
        return Fault(
            "the Docker engine went away in the middle of the work",
            "see why it ended (journalctl -u docker), start it and submit again",
        )
    for pattern, meaning in _RULES:
        if pattern.search(said):
            return meaning(image, said)
    what = f"image {image} can't be fetched" if image else "the Docker engine failed"
    return Fault(
        f"{what}: {said[:MESSAGE_CHARACTERS] or 'it said nothing'}",
        "see logs/environment.txt and the engine's log (journalctl -u docker)",
        _of(image),
    )


def wrong_architecture(reference: str, image: str, engine: str) -> Fault:
    """The fault of an image that this node can't run; both as "linux/amd64"."""
    name = shown(reference)
    return Fault(
        f"image {name} is for {shown(image)}, and this node runs {shown(engine)}",
        f"name an image that there is for {shown(engine)}",
        {"image": name, "architecture": shown(image), "node": shown(engine)},
    )


def gone_image(reference: str, image: str) -> Fault:
    """The fault of a lock whose image was only ever on another node, or was removed."""
    name = shown(reference)
    return Fault(
        f"image {name} was resolved to {image[:19]}, which is not on this node and comes from no"
        " registry",
        f"copy it here (`docker save {name} | ssh NODE docker load`), push it to a registry, or"
        " give the image another name, so that it is resolved again",
        {"image": name, "id": image},
    )


def _of(image: str) -> dict[str, str]:
    return {"image": image} if image else {}


def _disk_full(image: str, said: str) -> Fault:
    return Fault(
        "the disk of the Docker engine is full",
        "`docker system df` shows what takes the space, `docker system prune` frees some",
        _of(image),
    )


def _unauthorized(image: str, said: str) -> Fault:
    registry = repository_of(image).partition("/")[0]
    where = f" {registry}" if "." in registry or ":" in registry else ""
    return Fault(
        f"the registry refuses to give image {image}: it is not there, or needs a login",
        f"check the name; for a private one run `docker login{where}` on the node as the user that"
        " runs runyard",
        _of(image),
    )


def _not_found(image: str, said: str) -> Fault:
    return Fault(
        f"there is no image {image} on this node or in its registry",
        "check name and tag (`docker pull` shows the same); an image of your own is built here"
        " with `docker build -t NAME`, or by naming its Dockerfile",
        _of(image),
    )


def _other_platform(image: str, said: str) -> Fault:
    return Fault(
        f"there is no image {image} for this node's platform: {said[:MESSAGE_CHARACTERS]}",
        "name an image that there is for it",
        _of(image),
    )


def _bad_reference(image: str, said: str) -> Fault:
    return Fault(
        f'"{image}" is no name of an image',
        "write it as name:tag, such as python:3.12-slim, in lower case",
        _of(image),
    )


def _too_many(image: str, said: str) -> Fault:
    return Fault(
        f"the registry gives this node no more images for now (image {image})",
        "wait, or run `docker login` on the node: those who are known may fetch more",
        _of(image),
    )


def _unreachable(image: str, said: str) -> Fault:
    host = _HOST.search(said)
    metadata = {**_of(image), **({"host": host[1]} if host else {})}
    return Fault(
        f"image {image} is not on this node, and its registry can't be reached"
        f" ({host[1] if host else said[:200]})",
        "check the name, the node's network and the engine's proxy, or bring the image here with"
        " `docker load`",
        metadata,
    )


_Meaning = Callable[[str, str], Fault]
_RULES: tuple[tuple[re.Pattern[str], _Meaning], ...] = (
    (re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE), _disk_full),
    (re.compile(r"invalid reference format|repository name must be lowercase"), _bad_reference),
    (re.compile(r"toomanyrequests|rate limit", re.IGNORECASE), _too_many),
    (re.compile(r"no matching manifest|does not match the specified platform"), _other_platform),
    (
        re.compile(r"unauthorized|access (?:to the resource is )?denied|no basic auth|forbidden"),
        _unauthorized,
    ),
    (re.compile(r"manifest unknown|not found|no such image", re.IGNORECASE), _not_found),
    (
        re.compile(
            r"no such host|dial tcp|dial unix|lookup |TLS handshake|connection re(?:fused|set)"
            r"|network is unreachable|i/o timeout|Client\.Timeout|certificate|EOF\b|proxyconnect"
        ),
        _unreachable,
    ),
)
