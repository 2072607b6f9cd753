"""The program that has a Docker engine fetch and build images, through the SDK.

A thread in a call of the SDK can't be cancelled; a process can be killed, and the engine ends what
it does for a connection that is gone. The request is JSON on standard input, the answer JSON on
standard output, and what people may read goes to standard error.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TextIO

import docker
import requests
from docker.errors import APIError, DockerException
from docker.utils import parse_repository_tag
from urllib3.exceptions import HTTPError

from runyard_agent.environments import docker_layer
from runyard_agent.environments.docker_context import DOCKERFILE, write_context

SILENCE_LIMIT_S = 24 * 3600
"""A step of a build may say nothing for long; an engine that dies closes the connection."""
TAIL_LINES = 5
_STEP = re.compile(r"Step (\d+)/\d+ : ")
_COUNTDOWN = re.compile(r"Retrying in \d+ second")
Answer = Mapping[str, Any]
Request = Mapping[str, Any]
Event = Mapping[str, Any]


class Failed(Exception):
    """The engine could not do it; `fault` tells the agent why."""

    def __init__(self, kind: str, said: str, **more: Any) -> None:
        self.fault = {"kind": kind, "said": said, **more}


def pull(client: docker.APIClient, request: Request) -> Answer:
    """Fetches the image "reference", with the credentials of the user's `docker login`."""
    reference = request["reference"]
    repository, tag = parse_repository_tag(reference)
    try:
        events = client.pull(repository, tag=tag or "latest", stream=True, decode=True)
        counting = set[str]()
        for event in _checked(events):
            status, layer = event.get("status", ""), event.get("id", "")
            if not _COUNTDOWN.match(status):
                counting.discard(layer)
            elif layer in counting:
                continue  # it says each second
            else:
                counting.add(layer)
            if status and not event.get("progressDetail") and status != "Waiting":
                say(f"{layer}: {status}" if layer else status)
    except Failed as failed:
        raise Failed(failed.fault["kind"], failed.fault["said"], image=reference) from None
    except APIError as error:
        raise Failed("engine", str(error.explanation or error), image=reference) from None
    except DockerException as error:
        # The engine was reached before: what is left is what keeps the user's logins.
        raise Failed("login", str(error), image=reference) from None
    return {}


def build(client: docker.APIClient, request: Request) -> Answer:
    """Builds "dockerfile" over the files of "folder", if any; the tag is given last.

    Gives "image", the id. A failure tells "step", the number of the instruction, and the "tail" of
    its output.
    """
    step, image, tail = 0, "", list[str]()
    with tempfile.TemporaryFile() as context:
        write_context(request["folder"], request["dockerfile"], context)
        context.seek(0)
        try:
            events = client.build(
                fileobj=context,
                custom_context=True,
                dockerfile=DOCKERFILE,
                decode=True,
                rm=True,
                forcerm=True,
                labels=request["labels"],
                network_mode=request["network"] or None,
            )
            for event in _checked(events):
                text = event.get("stream", "")
                started = _STEP.match(text)
                if started:
                    step, tail = int(started[1]), []
                else:
                    tail = [*tail, *text.splitlines()][-TAIL_LINES:]
                print(text, end="", file=sys.stderr, flush=True)
                image = (event.get("aux") or {}).get("ID", image)
        except Failed as failed:
            raise Failed("build", failed.fault["said"], step=step, tail=tail) from None
        except APIError as error:
            raise Failed("build", str(error.explanation or error), step=0, tail=[]) from None
    if not image:  # the connection ended as if all was said
        raise Failed("gone", "the engine ended before the build did")
    repository, _, tag = request["tag"].partition(":")
    client.tag(image, repository, tag)
    return {"image": image}


def _checked(events: Iterable[Event]) -> Iterator[Event]:
    """The events of the engine's answer; Failed for one that tells of a failure."""
    for event in events:
        if "error" in event:
            raise Failed("engine", str(event["error"]))
        yield event


def say(text: str) -> None:
    """A line for people."""
    print(text, file=sys.stderr, flush=True)


ACTIONS: Mapping[str, Callable[[docker.APIClient, Request], Answer]] = {
    "pull": pull,
    "build": build,
    "resolve": docker_layer.resolve,
    "install": docker_layer.install,
    "copy": docker_layer.copy,
}


def serve(given: TextIO, to: TextIO) -> None:
    """Answers the one request."""
    request = json.load(given)
    try:
        client = docker.APIClient(
            f"unix://{request['socket']}", version="auto", timeout=SILENCE_LIMIT_S
        )
        answer = ACTIONS[request["action"]](client, request)
    except Failed as failed:
        answer = {"fault": failed.fault}
    except APIError as error:
        answer = {"fault": {"kind": "engine", "said": str(error.explanation or error)}}
    except (DockerException, requests.RequestException, HTTPError, OSError) as error:
        answer = {"fault": {"kind": "gone", "said": str(error)}}
    if "fault" in answer:
        say(answer["fault"]["said"].rstrip())
    json.dump(answer, to)
    to.flush()


if __name__ == "__main__":
    serve(sys.stdin, sys.stdout)
