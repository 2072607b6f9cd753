"""pip packages on top of an image: what uv is asked for there, and what its answers mean."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from runyard_agent.environments.builds import count_of
from runyard_agent.environments.diagnosis import Fault, diagnose
from runyard_agent.environments.docker_api import DockerApi
from runyard_agent.environments.docker_calls import ask_in_container
from runyard_agent.environments.docker_images import telling
from runyard_agent.environments.docker_probe import Inside
from runyard_agent.environments.lock import is_hashed, packages
from runyard_agent.environments.protocol import EnvironmentFailed
from runyard_agent.environments.shared_work import Audience
from runyard_agent.environments.uv import Uv
from runyard_agent.environments.uv_pip import Steps, index_options, refuse_options
from runyard_contract.paths import shown
from runyardpb.v1.environments_pb2 import DockerImage, PipPackages

PREFIX = "/opt/runyard/environment"
PYTHON = f"{PREFIX}/bin/python"
_UV, _FILES, _CACHE = "/runyard-uv/uv", "/runyard-files", "/runyard-uv/cache"
_STARTS_NOT = 126
_NO_LIBRARY = re.compile(r"error while loading shared libraries: ([^\s:]+)")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
_OF_THE_NODE = ("UV_CACHE_DIR", "UV_CONFIG_FILE", "UV_PYTHON_INSTALL_DIR", "UV_TOOL_DIR")


class DockerPip:
    """Resolves and installs pip packages with uv in containers of one engine.

    `work` are labels of these containers.
    """

    def __init__(self, api: DockerApi, environ: Mapping[str, str], work: Mapping[str, str]) -> None:
        self._api = api
        self._work = dict(work)
        self._environ = environ
        self._uv = Uv(environ)

    async def resolve(
        self,
        options: DockerImage,
        image: str,
        inside: Inside,
        audience: Audience,
        *,
        is_refresh: bool = False,
    ) -> str:
        """The lock of the packages for the image's Python: exact versions with hashes."""
        pip = options.pip
        refuse_options(pip)
        wanted = count_of(len(pip.requirements), "requirement")
        audience.progress("resolving packages")
        audience.say(f"Resolving {wanted} for Python {inside.version} of the image.")
        files = {"requirements": "\n".join(pip.requirements) + "\n"}
        constraints = []
        if pip.constraints:
            files["constraints"] = "\n".join(pip.constraints) + "\n"
            constraints = ["-c", f"{_FILES}/constraints"]
        command = [
            *(_UV, "--no-progress", "pip", "compile", "--generate-hashes", "--no-header"),
            *("--no-annotate", "--python", inside.python, *index_options(pip, self._uv.environ)),
            *("--refresh",) * is_refresh,
            *(*constraints, f"{_FILES}/requirements"),
        ]
        name = f"runyard-resolve-{secrets.token_hex(8)}"
        request = self._request("resolve", options, image, inside, name, [command], files)
        answer = await self._ask(request, inside, audience, ())
        return str(answer["out"])

    async def install(
        self,
        options: DockerImage,
        base: Mapping[str, Any],
        inside: Inside,
        text: str,
        tag: str,
        labels: Mapping[str, str],
        audience: Audience,
        lock_fd: int,
    ) -> str:
        """Makes an image of the base with the packages of a lock; gives its id."""
        pip, count = options.pip, count_of(packages(text))
        audience.progress(f"installing {count}")
        hashes = ["--require-hashes"] if is_hashed(text) else []
        commands = [
            [_UV, "venv", "--quiet", "--no-project", "--python", inside.python, PREFIX],
            [
                *(_UV, "--no-progress", "pip", "install", "--no-deps", "--compile-bytecode"),
                *(*hashes, *index_options(pip, self._uv.environ), "--python", PYTHON),
                *("-r", f"{_FILES}/lock"),
            ],
        ]
        if not packages(text):
            commands.pop()
        name = f"runyard-build-{tag.rpartition(':')[2]}"
        request = self._request(
            "install", options, str(base["Id"]), inside, name, commands, {"lock": text}
        )
        config = base.get("Config") or {}
        request |= {"prefix": PREFIX, "tag": tag, "labels": dict(labels)}
        request["image_env"] = {}
        request["has_command"] = bool(config.get("Cmd") or config.get("Entrypoint"))
        answer = await self._ask(request, inside, audience, (lock_fd,), Steps(count, audience))
        return str(answer["image"])

    def _request(
        self,
        action: str,
        options: DockerImage,
        image: str,
        inside: Inside,
        name: str,
        commands: Sequence[Sequence[str]],
        files: Mapping[str, str],
    ) -> dict[str, Any]:
        return {
            "action": action,
            "image": image,
            "python": inside.python,
            "name": name,
            "commands": commands,
            "files": files,
            "uv": self._uv.program(),
            "binds": _binds(options.pip, self._uv.environ),
            "env": _variables(self._uv.environ),
            "network": options.network,
            "work": self._work,
        }

    async def _ask(
        self,
        request: Mapping[str, Any],
        inside: Inside,
        audience: Audience,
        kept_fds: Sequence[int],
        steps: Steps | None = None,
    ) -> Mapping[str, Any]:
        """What uv answered; EnvironmentFailed where it failed. Leaves no container."""
        hear = steps.hear if steps is not None else audience.write
        answer = await ask_in_container(self._api, request, self._environ, hear, kept_fds)
        library = _NO_LIBRARY.search(str(answer["said"]))
        if answer["code"] == _STARTS_NOT or library is not None:
            lacking = library[1] if library is not None else "glibc, as Alpine's"
            raise telling(audience, _starts_not(lacking))
        if answer["code"] != 0:
            fault = diagnose(str(answer["said"]), inside.version)
            raise telling(audience, fault)
        return answer


def needs_python(options: DockerImage) -> EnvironmentFailed:
    """The error for an image without the Python that packages are to be installed for."""
    name = shown(options.image) if options.image else "of the Dockerfile"
    return EnvironmentFailed(
        f"image {name} has no Python to install pip packages for",
        "use conda packages, which bring one, or an image with Python, such as python:3.12-slim",
        {"image": name},
    )


def _starts_not(lacking: str) -> Fault:
    return Fault(
        f"uv, which installs packages, does not start in this image: it has no {lacking}",
        "use an image with glibc, such as python:3.12-slim, or install the packages by a RUN line"
        " of a Dockerfile",
    )


def _variables(environ: Mapping[str, str]) -> dict[str, str]:
    """The node's settings of uv and proxies, as far as they mean something in a container."""
    kept = {
        name: value
        for name, value in environ.items()
        if (name.startswith("UV_") and name not in _OF_THE_NODE)
        or name.lower() in _PROXIES
        or name == "SSL_CERT_FILE"
    }
    return {**kept, "UV_CACHE_DIR": _CACHE, "UV_LINK_MODE": "copy", "NO_COLOR": "1"}


def _binds(pip: PipPackages, environ: Mapping[str, str]) -> list[str]:
    """What uv has to see of the node: folders of packages, and certificates of its own."""
    named = [one.partition("=")[2] for one in pip.index_options if "find-links" in one]
    links = [*named, *environ.get("UV_FIND_LINKS", "").split(",")]
    found = [*links, environ.get("SSL_CERT_FILE", "")]
    # One that is not there would be made by the engine.
    return [one for one in dict.fromkeys(found) if one.startswith("/") and os.path.exists(one)]
