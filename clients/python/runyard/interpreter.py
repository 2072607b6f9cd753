"""Which Python runs a script on the local target when its environment names none."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from runyard_contract.errors import RunyardError, SpecInvalid
from runyard_contract.paths import atomic_write
from runyard_contract.value import value_class

_CACHE_FILE = "interpreters.json"
_CACHED = 64
_PROBE_LIMIT_S = 20.0
_PROBE = "import sys; sys.stdout.write(sys.executable)"


@value_class
class Interpreter:
    """A Python that starts: its path, and why it was chosen, for people."""

    path: str
    why: str

    def __str__(self) -> str:
        return f"{self.path} ({self.why})"


def submitting_interpreter() -> Interpreter:
    """The interpreter of this process: what runs a script that a program submits."""
    if not sys.executable:
        raise SpecInvalid(
            "this program does not know its Python interpreter",
            hint="set environment.python.interpreter_path",
        )
    return Interpreter(sys.executable, "the interpreter that submits")


class InterpreterChoice:
    """Chooses for the command line, as a shell in the source directory would.

    Args:
        environ: the caller's variables.
        source: the source directory.
        cache_folder: where answers of candidates are remembered; None remembers nothing.
    """

    def __init__(self, environ: Mapping[str, str], source: str, cache_folder: Path | None) -> None:
        self._environ = environ
        self._source = source
        self._cache = _Cache(cache_folder / _CACHE_FILE if cache_folder else None)

    def choose(self) -> Interpreter:
        """The first candidate that starts.

        VIRTUAL_ENV, CONDA_PREFIX, `.venv` in the source directory, python3 on PATH, and the
        interpreter of this command at last.
        """
        for path, why in self._candidates():
            real = self._started(path)
            if real:
                return Interpreter(real, why)
        return Interpreter(sys.executable, "runyard's own")

    def _candidates(self) -> Iterator[tuple[str, str]]:
        """(path, why) in the order in which they are tried."""
        for variable, why in (
            ("VIRTUAL_ENV", "the active virtual environment"),
            ("CONDA_PREFIX", "the active conda environment"),
        ):
            if prefix := self._environ.get(variable, ""):
                yield os.path.join(prefix, "bin", "python"), why
        yield os.path.join(self._source, ".venv", "bin", "python"), ".venv in the source directory"
        for folder in self._environ.get("PATH", "").split(os.pathsep):
            if os.path.isabs(folder):
                yield os.path.join(folder, "python3"), "python3 on PATH"

    def _started(self, path: str) -> str:
        """The interpreter behind a candidate, empty where it does not start.

        A shim (a script, as pyenv has them) names the interpreter that it would start in the
        source directory. A candidate is asked once; the answer is kept while its file is the same.
        """
        try:
            status = os.stat(path)
        except OSError:
            return ""
        if not os.access(path, os.X_OK):
            return ""
        key = f"{path}\0{status.st_ino}\0{status.st_mtime_ns}\0{status.st_size}"
        if _is_script(path):
            key += "".join(f"\0{part}" for part in self._shim_inputs())
        answer = self._cache.get(key)
        if answer is None:
            answer = self._ask(path)
            if answer:  # one that does not start may be mended
                self._cache.put(key, answer)
        return answer

    def _shim_inputs(self) -> Iterator[str]:
        """What a shim's answer depends on beside its own file."""
        root = self._environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
        yield self._source
        yield self._environ.get("PYENV_VERSION", "")
        for file in (
            os.path.join(self._source, ".python-version"),
            os.path.join(root, "version"),
        ):
            with contextlib.suppress(OSError, UnicodeDecodeError):
                yield Path(file).read_text()

    def _ask(self, path: str) -> str:
        """Starts a candidate and asks for its own path."""
        import subprocess  # 2 ms of start-up, for the first time only

        try:
            answer = subprocess.run(
                [path, "-I", "-c", _PROBE],
                cwd=self._source,
                env=dict(self._environ),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_PROBE_LIMIT_S,
                check=True,
            ).stdout
        except (OSError, subprocess.SubprocessError):
            return ""
        found = os.fsdecode(answer)
        return found if os.path.isabs(found) else ""


def _is_script(path: str) -> bool:
    """Whether the file is a script rather than a program."""
    try:
        with open(path, "rb") as file:
            return file.read(2) == b"#!"
    except OSError:
        return False


class _Cache:
    """Answers by key, in a small JSON file; a file that can't be used counts as empty."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._answers: dict[str, str] | None = None

    def _load(self) -> dict[str, str]:
        if self._answers is None:
            self._answers = {}
            if self._path is not None:
                with contextlib.suppress(OSError, ValueError, AttributeError):
                    loaded = json.loads(self._path.read_bytes())
                    self._answers = {str(key): str(value) for key, value in loaded.items()}
        return self._answers

    def get(self, key: str) -> str | None:
        """The answer, None where there is none yet."""
        return self._load().get(key)

    def put(self, key: str, answer: str) -> None:
        """Remembers an answer; the oldest ones go."""
        answers = self._load()
        answers[key] = answer
        while len(answers) > _CACHED:
            del answers[next(iter(answers))]
        if self._path is not None:
            with contextlib.suppress(OSError, RunyardError):
                atomic_write(self._path, json.dumps(answers).encode(), sync=False)
