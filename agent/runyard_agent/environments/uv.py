"""Starting uv: where it is, and what it may see of the agent's variables."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence

from uv import find_uv_bin

from runyard_agent.environments.programs import Outcome, run_program
from runyard_agent.environments.protocol import EnvironmentFailed

# What would point uv at another environment than the one it is told of, or colour its output.
_DROPPED = (
    "CLICOLOR_FORCE",
    "CONDA_PREFIX",
    "FORCE_COLOR",
    "PYTHONHOME",
    "PYTHONPATH",
    "UV_PROJECT",
    "UV_PYTHON",
    "UV_SYSTEM_PYTHON",
    "UV_WORKING_DIR",
    "VIRTUAL_ENV",
)
# Settings of pip that uv does not read: (pip's name, uv's names, of which one set already counts).
_OF_PIP = (
    ("PIP_INDEX_URL", ("UV_DEFAULT_INDEX", "UV_INDEX_URL")),
    ("PIP_EXTRA_INDEX_URL", ("UV_EXTRA_INDEX_URL", "UV_INDEX")),
    ("PIP_FIND_LINKS", ("UV_FIND_LINKS",)),
    ("PIP_TRUSTED_HOST", ("UV_INSECURE_HOST",)),
    ("PIP_CERT", ("SSL_CERT_FILE",)),
    ("PIP_DEFAULT_TIMEOUT", ("UV_HTTP_TIMEOUT",)),
)

OFFLINE = {"UV_OFFLINE": "1", "UV_PYTHON_DOWNLOADS": "never"}
"""Variables of the agent that keep uv from the network."""


class Uv:
    """Calls of uv with the agent's settings.

    Args:
        environ: the agent's variables; settings of pip among them count where uv's are not set.
        program: path of uv. Default: that of the agent's own Python, else on the PATH.
    """

    def __init__(self, environ: Mapping[str, str], program: str | None = None) -> None:
        self.environ = variables(environ)
        self.may_download_python = environ.get("UV_PYTHON_DOWNLOADS", "automatic") != "never"
        self._program = program

    def program(self) -> str:
        """Path of uv; EnvironmentFailed where there is none."""
        if self._program is None:
            self._program = _find(self.environ.get("PATH"))
        return self._program

    async def run(
        self,
        *arguments: str,
        given: str = "",
        hear: Callable[[bytes], None] | None = None,
        env: Mapping[str, str] | None = None,
        kept_fds: Sequence[int] = (),
    ) -> Outcome:
        """Runs uv to its end. When cancelled, uv and all that it started are killed first.

        Args:
            given: its standard input.
            hear: gets what it says on standard error, as it comes.
            env: variables over the usual ones.
            kept_fds: descriptors that it inherits.
        """
        program = self.program()
        try:
            return await run_program(
                (program, "--no-progress", *arguments),
                given=given,
                hear=hear,
                env={**self.environ, **(env or {})},
                kept_fds=kept_fds,
            )
        except OSError as error:
            raise EnvironmentFailed(
                f"uv ({program}) can't be started: {error.strerror}", "install uv again"
            ) from None


def variables(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that uv gets: the agent's, with what only pip would read in uv's terms."""
    found = {name: value for name, value in environ.items() if name not in _DROPPED}
    for pip_name, uv_names in _OF_PIP:
        value = found.get(pip_name, "").strip()
        if value and not any(found.get(name) for name in uv_names):
            # pip separates by spaces, as uv does except here.
            found[uv_names[0]] = ",".join(value.split()) if pip_name == "PIP_FIND_LINKS" else value
    found["UV_PYTHON_DOWNLOADS"] = "never"
    found["NO_COLOR"] = "1"
    return found


def without_shims(search_path: str) -> str:
    """A PATH without pyenv's and asdf's shims: those of other versions than the chosen one fail."""
    folders = search_path.split(":")
    return ":".join(folder for folder in folders if "/shims" not in folder)


def _find(search_path: str | None) -> str:
    """Path of uv, of the agent's own Python first."""
    try:
        return str(find_uv_bin())
    except FileNotFoundError:
        found = shutil.which("uv", path=search_path)
    if found is None:
        raise EnvironmentFailed(
            "uv, which installs packages, is neither in the agent's environment nor on its PATH",
            "install it with `pip install uv` into the environment that runyard is installed in",
        )
    return found
