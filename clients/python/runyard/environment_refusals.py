"""Methods of Azure ML's Environment that are known and refused, each with what to do instead."""

from __future__ import annotations

import os
from typing import NoReturn

from runyard_contract.errors import Unsupported


class RefusedMethods:
    """What Azure ML's environments have and these do not."""

    __slots__ = ()

    @classmethod
    def from_docker_build_context(cls, name: str, docker_build_context: object) -> NoReturn:
        """Raises `Unsupported`: the snapshot of the run is the context of a Dockerfile."""
        _refuse(
            "from_docker_build_context",
            "put what the Dockerfile copies into the source directory, and use"
            " Environment.from_dockerfile(name, path)",
        )

    @staticmethod
    def add_private_pip_wheel(
        workspace: object, file_path: str | os.PathLike[str], exist_ok: bool = False
    ) -> NoReturn:
        """Raises `Unsupported`: wheels come from an index, or a folder that nodes can read."""
        _refuse(
            "add_private_pip_wheel",
            "put it into a folder that the node can read, or serve that over HTTPS, and name it"
            ' with set_pip_option("--find-links /srv/wheels")',
        )

    def get_image_details(self, workspace: object) -> NoReturn:
        """Raises `Unsupported`: what was built is told for each node."""
        _refuse(
            "get_image_details", "see where it is built with `runyard environment show NAME --json`"
        )


def _refuse(method: str, hint: str) -> NoReturn:
    raise Unsupported(f"Environment.{method} is not served", hint=hint, option=method)
