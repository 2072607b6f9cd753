"""What the words of a Docker engine mean: the image at fault, why, and what to try."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from runyard_agent.environments.diagnosis import MESSAGE_CHARACTERS, Fault
from runyard_agent.environments.docker_lock import repository_of
from runyard_agent.environments.dockerfile import Instruction, instructions
from runyard_contract.paths import shown

TEXT_CHARACTERS = 200
_DISK_FULL = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)
_PARSE_ERROR = re.compile(
    r"(?:parse error (?:on |at )?line|Syntax error on line|on line) (?P<line>\d+):? (?P<why>.*)",
    re.IGNORECASE,
)
_NEEDS_BUILDKIT = re.compile(r"^(?:RUN|COPY|ADD) .*?(?:--(?:mount|network|security|link)\b|<<-?\w)")
_NOISE = ("--->", "Removing intermediate container")
_ENDED = re.compile(r"returned a non-zero code: (\d+)")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
"""The engine has what a build says on stderr in red."""
_HOST = re.compile(r"https?://([^/\s\"]+)")
_CREDENTIALS = re.compile(r"docker-credential-[\w.-]+")


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
    if fault["kind"] == "login":
        return _no_login(image, said)
    for pattern, meaning in _RULES:
        if pattern.search(said):
            return meaning(image, said)
    what = f"image {image} can't be fetched" if image else "the Docker engine failed"
    return Fault(
        f"{what}: {said[:MESSAGE_CHARACTERS] or 'it said nothing'}",
        "see logs/environment.txt and the engine's log (journalctl -u docker)",
        _of(image),
    )


def explain_build(fault: Mapping[str, Any], dockerfile: str) -> Fault:
    """The fault of a Dockerfile's build, with the line at fault.

    Args:
        fault: as for `explain`; of the kind "build" with "step", the number of the instruction,
            and "tail", the last lines of its output.
        dockerfile: its text.
    """
    said = " ".join(str(fault["said"]).split())
    if fault["kind"] != "build":
        return explain(fault)
    found = instructions(dockerfile)
    step, tail = int(fault.get("step") or 0), [str(line) for line in fault.get("tail") or ()]
    if any(_DISK_FULL.search(words) for words in (said, *tail)):
        return _disk_full_at(found[step - 1] if 0 < step <= len(found) else None)
    needs = next((one for one in found if _NEEDS_BUILDKIT.search(one.text)), None)
    if needs is not None and ("BuildKit" in said or "heredoc" in said or "<<" in needs.text):
        return Fault(
            f"Dockerfile line {needs.line} needs BuildKit, which this engine's builder is not:"
            f" {shown(needs.text)[:TEXT_CHARACTERS]}",
            "write it without --mount and heredocs, or build the image elsewhere and name it",
            {"line": str(needs.line), "instruction": shown(needs.text)},
        )
    syntax = _PARSE_ERROR.search(said)
    if syntax is not None:
        line = int(syntax["line"])
        text = shown((dockerfile.splitlines() or [""])[min(line, dockerfile.count("\n") + 1) - 1])
        return Fault(
            f"Dockerfile line {line} can't be read: {syntax['why'][:MESSAGE_CHARACTERS]}",
            f"correct it: {text[:TEXT_CHARACTERS]}",
            {"line": str(line), "instruction": text},
        )
    if not 0 < step <= len(found):
        return Fault(
            f"the Dockerfile can't be built: {said[:MESSAGE_CHARACTERS]}",
            "see logs/environment.txt",
        )
    return _failed_step(found[step - 1], said, tail)


def _failed_step(one: Instruction, said: str, tail: list[str]) -> Fault:
    """The fault of an instruction that was read and then failed."""
    text = shown(one.text)[:TEXT_CHARACTERS]
    lines = [shown(_COLOUR.sub("", line).strip()) for line in tail]
    last = " | ".join(line for line in lines if line and not line.startswith(_NOISE))
    ended = _ENDED.search(said)
    why = f"it ended with {ended[1]}" if ended else said[:MESSAGE_CHARACTERS]
    return Fault(
        f"Dockerfile line {one.line} failed ({text}): {why}"
        + (f"; it said: {last[-MESSAGE_CHARACTERS:]}" if last and ended else ""),
        "correct it; the whole build is in logs/environment.txt"
        if one.keyword not in ("COPY", "ADD")
        else "check that the file is in the snapshot: .runyardignore, .gitignore and .dockerignore"
        " leave files out",
        {"line": str(one.line), "instruction": text},
    )


def no_context(one: Instruction) -> Fault:
    """The fault of a build without a snapshot that needs one."""
    return Fault(
        f"Dockerfile line {one.line} takes files ({shown(one.text)[:TEXT_CHARACTERS]}), and this"
        " build has no snapshot to take them from",
        "let a run build it, or name the folder with --source",
        {"line": str(one.line), "instruction": shown(one.text)},
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


def _disk_full_at(one: Instruction | None) -> Fault:
    """The same for a build that had come to an instruction."""
    fault = _disk_full("", "")
    if one is None:
        return fault
    text = shown(one.text)[:TEXT_CHARACTERS]
    where = f"{fault.message}: Dockerfile line {one.line} ({text})"
    return Fault(where, fault.advice, {"line": str(one.line), "instruction": text})


def _unauthorized(image: str, said: str) -> Fault:
    registry = repository_of(image).partition("/")[0]
    where = f" {registry}" if "." in registry or ":" in registry else ""
    return Fault(
        f"the registry refuses to give image {image}: it is not there, or needs a login",
        f"check the name; for a private one run `docker login{where}` on the node as the user that"
        " runs runyard",
        _of(image),
    )


def _no_login(image: str, said: str) -> Fault:
    program = _CREDENTIALS.search(said)
    what = program[0] if program else "the store of logins"
    return Fault(
        f"image {image} can't be fetched: {what}, which keeps this user's logins, does not answer"
        f" ({said[:TEXT_CHARACTERS]})",
        "install it, or remove credsStore and credHelpers from ~/.docker/config.json on the node"
        " and run `docker login` again",
        _of(image),
    )


def _broken_off(image: str, said: str) -> Fault:
    return Fault(
        f"image {image} did not come whole: its registry broke off again and again"
        f" ({said[:TEXT_CHARACTERS]})",
        "submit again; if it stays so, see the node's network and what is between it and the"
        " registry",
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
    (_DISK_FULL, _disk_full),
    (re.compile(r"invalid reference format|repository name must be lowercase"), _bad_reference),
    (re.compile(r"toomanyrequests|rate limit", re.IGNORECASE), _too_many),
    (re.compile(r"unexpected EOF"), _broken_off),
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
