import asyncio
import os
import sys
from pathlib import Path

import pytest

from runyard_agent.environments.protocol import EnvironmentFailed, ProvidedEnvironment
from runyard_agent.environments.user_managed import UserManagedBuilder
from runyardpb.v1.environments_pb2 import EnvironmentSpec


class Log:
    """An environment log in memory."""

    def __init__(self) -> None:
        self.text = b""

    def write(self, data: bytes) -> None:
        self.text += data


def provide(
    builder: UserManagedBuilder, path: str | bytes, log: Log | None = None, times: int = 1
) -> ProvidedEnvironment:
    spec = EnvironmentSpec()
    spec.user_managed.interpreter_path = os.fsencode(path)

    async def body() -> ProvidedEnvironment:
        calls = [
            builder.provide(spec, [], log=log or Log(), progress=lambda _text: None)
            for _ in range(times)
        ]
        return (await asyncio.gather(*calls))[0]

    return asyncio.run(body())


def fake_python(path: Path, calls: Path, prints: str = "", code: int = 0) -> Path:
    """A program that stands for an interpreter and counts how often it is started."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"#!/bin/sh\necho x >> {calls}\nprintf '{prints or path}\\0003.11'\nexit {code}\n"
    )
    path.chmod(0o755)
    return path


def test_interpreter_of_the_user_is_used_as_it_was_named() -> None:
    provided = provide(UserManagedBuilder(), sys.executable)

    assert provided.python == os.fsencode(sys.executable)
    assert provided.lock is None


def test_interpreter_is_asked_once_however_many_runs_need_it(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    python = fake_python(tmp_path / "bin/python", calls)
    builder = UserManagedBuilder()

    provide(builder, str(python), times=5)
    provide(builder, str(python))

    assert calls.read_text() == "x\n"


def test_interpreter_is_asked_again_when_it_was_replaced(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    python = fake_python(tmp_path / "bin/python", calls)
    builder = UserManagedBuilder()
    provide(builder, str(python))

    os.utime(python, ns=(1, 1))
    provide(builder, str(python))

    assert calls.read_text() == "x\nx\n"


def test_interpreter_by_name_is_looked_up_along_the_path(tmp_path: Path) -> None:
    python = fake_python(tmp_path / "b/python3", tmp_path / "calls")
    search = os.fsencode(tmp_path / "a") + b":" + os.fsencode(tmp_path / "b")

    assert provide(UserManagedBuilder(search), b"python3").python == os.fsencode(python)
    assert provide(UserManagedBuilder(search), b"").python == os.fsencode(python)


def test_interpreter_behind_a_shim_is_the_real_one(tmp_path: Path) -> None:
    real = tmp_path / ".pyenv/versions/3.11/bin/python3.11"
    shim = fake_python(tmp_path / ".pyenv/shims/python", tmp_path / "calls", prints=str(real))

    assert provide(UserManagedBuilder(), str(shim)).python == os.fsencode(real)


def test_interpreter_of_a_virtual_environment_activates_it(tmp_path: Path) -> None:
    python = fake_python(tmp_path / "venv/bin/python", tmp_path / "calls")
    (tmp_path / "venv/pyvenv.cfg").touch()

    provided = provide(UserManagedBuilder(), str(python))

    assert provided.env == {b"VIRTUAL_ENV": os.fsencode(tmp_path / "venv")}


def test_interpreter_that_does_not_exist_is_named_with_what_does(tmp_path: Path) -> None:
    near = fake_python(tmp_path / "venv/bin/python3", tmp_path / "calls")
    wanted = tmp_path / "venv/bin/python3.9"

    with pytest.raises(EnvironmentFailed) as caught:
        provide(UserManagedBuilder(b""), str(wanted))

    assert caught.value.message == f"the interpreter {wanted} does not exist"
    assert str(near) in caught.value.advice
    assert caught.value.metadata["interpreter"] == str(wanted)


def test_interpreter_name_that_is_not_on_the_path_is_refused() -> None:
    with pytest.raises(EnvironmentFailed, match="python9 is not on the PATH"):
        provide(UserManagedBuilder(b"/usr/bin"), b"python9")


def test_interpreter_that_does_not_work_shows_what_it_said(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'libpython3.so: not found' >&2\nexit 127\n")
    python.chmod(0o755)
    log = Log()

    with pytest.raises(EnvironmentFailed, match=r"no working Python: libpython3\.so: not found"):
        provide(UserManagedBuilder(b""), str(python), log)

    assert b"libpython3.so" in log.text


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_text("") and None, "can't be executed"),
        (lambda path: (path.write_text("x"), path.chmod(0o755)), "can't be started"),
    ],
)
def test_interpreter_that_is_none_is_refused(tmp_path: Path, make: object, why: str) -> None:
    path = tmp_path / "python"
    make(path)  # type: ignore[operator]

    with pytest.raises(EnvironmentFailed, match=why):
        provide(UserManagedBuilder(b""), str(path))


def test_interpreter_of_the_user_has_nothing_to_be_resolved_anew() -> None:
    builder = UserManagedBuilder()

    with pytest.raises(EnvironmentFailed) as caught:
        asyncio.run(
            builder.provide(
                EnvironmentSpec(), [], log=Log(), progress=lambda _text: None, is_refresh=True
            )
        )

    assert "without --refresh" in caught.value.advice
