"""Locks of containers, engines' words and where an engine is looked for: no engine is asked."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from runyard_agent.environments.docker_api import find_socket
from runyard_agent.environments.docker_diagnosis import explain
from runyard_agent.environments.docker_lock import (
    ContainerLock,
    Pin,
    comes_again,
    pin_of,
    read_lock,
    repository_of,
    write_lock,
)
from runyard_agent.environments.protocol import EnvironmentFailed

ID = f"sha256:{'a' * 64}"


def test_lock_reads_as_it_was_written() -> None:
    lock = ContainerLock(
        (Pin("python:3", ID, f"python@sha256:{'b' * 64}"), Pin("host:5000/mine:1", ID, "")),
        "c" * 64,
    )

    assert read_lock(write_lock(lock)) == lock


@pytest.mark.parametrize(
    "packages",
    [
        {"pip": "six==1 \\\n    --hash=sha256:0\n"},
        {"pip": ""},
        {"conda": ("linux-64", "@EXPLICIT\nhttps://c.test/a.conda#1\n# pip packages on top\n")},
    ],
)
def test_lock_keeps_the_packages_on_top(packages: dict[str, Any]) -> None:
    lock = ContainerLock((Pin("python:3", ID, ""),), "", **packages)

    known = read_lock(write_lock(lock))

    assert known == lock
    assert known.is_layered
    assert known.below == ContainerLock(lock.bases)


@pytest.mark.parametrize(
    "text",
    ["", "numpy==1", "# runyard container 1\nid: x\n", "# runyard container 1\nbase: x\n", "\0"],
)
def test_text_that_is_no_lock_is_refused(text: str) -> None:
    with pytest.raises(EnvironmentFailed, match="not one of a container"):
        read_lock(text)


def test_pin_is_the_digest_of_the_repository_that_was_asked_for() -> None:
    found = {"Id": ID, "RepoDigests": ["other/python@sha256:1", "python@sha256:2"]}

    assert pin_of("python:3", found).exact == "python@sha256:2"
    assert pin_of("mine:3", {"Id": ID, "RepoDigests": None}).exact == ID


@pytest.mark.parametrize(
    ("reference", "repository"),
    [
        ("python", "python"),
        ("python:3.12", "python"),
        ("host:5000/team/train", "host:5000/team/train"),
        ("host:5000/team/train:1@sha256:0", "host:5000/team/train"),
    ],
)
def test_repository_of_a_reference(reference: str, repository: str) -> None:
    assert repository_of(reference) == repository


@pytest.mark.parametrize(
    ("said", "message", "advice"),
    [
        (
            "manifest for x/y:1 not found: manifest unknown",
            "there is no image x/y:1",
            "docker pull",
        ),
        (
            "pull access denied for x/y, repository does not exist or may require 'docker login'",
            "the registry refuses to give image x/y:1",
            "docker login",
        ),
        (
            'Get "https://registry.test/v2/": dial tcp: lookup registry.test: no such host',
            "its registry can't be reached (registry.test)",
            "docker load",
        ),
        ("toomanyrequests: You have reached your limit", "no more images for now", "docker login"),
        (
            "no matching manifest for linux/amd64 in the manifest list entries",
            "for this node's platform",
            "there is for it",
        ),
        (
            "failed to register layer: write /x: no space left on device",
            "the disk of the Docker engine is full",
            "docker system prune",
        ),
        ("unexpected EOF", "did not come whole", "submit again"),
        ("something new", "image x/y:1 can't be fetched: something new", "environment.txt"),
        ("", "it said nothing", "environment.txt"),
    ],
)
def test_engine_says_why_an_image_is_not_there(said: str, message: str, advice: str) -> None:
    fault = explain({"kind": "engine", "said": said, "image": "x/y:1"})

    assert message in fault.message
    assert advice in fault.advice
    assert fault.metadata["image"] == "x/y:1"


def test_login_names_the_registry() -> None:
    fault = explain({"kind": "engine", "said": "unauthorized", "image": "ghcr.test/x/y:1"})

    assert "`docker login ghcr.test`" in fault.advice


def test_socket_of_the_variable_the_context_and_the_default(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    assert find_socket(home) == "/var/run/docker.sock"

    folder = tmp_path / ".docker"
    meta = folder / "contexts" / "meta" / hashlib.sha256(b"mine").hexdigest()
    meta.mkdir(parents=True)
    (meta / "meta.json").write_text(
        json.dumps({"Endpoints": {"docker": {"Host": "unix:///run/user/1/docker.sock"}}})
    )
    assert find_socket({**home, "DOCKER_CONTEXT": "mine"}) == "/run/user/1/docker.sock"
    (folder / "config.json").write_text('{"currentContext": "mine"}')
    assert find_socket(home) == "/run/user/1/docker.sock"
    assert find_socket({**home, "DOCKER_HOST": "unix:///x.sock"}) == "/x.sock"
    (folder / "config.json").write_text("garbage")
    assert find_socket(home) == "/var/run/docker.sock"


def test_only_a_registrys_image_of_a_tag_can_become_another() -> None:
    found = {"Id": "sha256:1", "RepoDigests": ["ghcr.io/team/train@sha256:2"]}

    assert comes_again("ghcr.io/team/train:1", found)
    assert comes_again("ghcr.io/team/train", found)
    assert not comes_again("ghcr.io/team/train@sha256:2", found)
    assert not comes_again("train:local", found)
    assert not comes_again("ghcr.io/team/train:1", {"Id": "sha256:1", "RepoDigests": None})
