"""Environments of pip packages: what of a specification counts, beyond the contract suite."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from runyard_agent.environments.cache import EnvironmentCache
from runyard_agent.environments.pip import PipBuilder
from runyard_agent.environments.protocol import EnvironmentFailed, ProvidedEnvironment
from runyard_agent.environments.uv import variables
from runyard_agent.environments.uv_pip import index_options
from runyardpb.v1.environments_pb2 import EnvironmentLock, EnvironmentSpec, PipPackages
from support.packages import make_sdist, make_wheel

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
PLAIN = "def before_wheel():\n    pass\n"


class Log:
    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data


class Bench:
    """A node with a folder of packages, and a builder on it."""

    def __init__(self, folder: Path) -> None:
        self.links = folder / "links"
        self.root = folder / "environments"
        self.environ = {"PATH": os.environ["PATH"], "UV_CACHE_DIR": str(folder / "cache")}
        self.log = Log()
        self.links.mkdir()
        self.root.mkdir()

    def spec(self, *requirements: str, **more: object) -> EnvironmentSpec:
        """A specification of packages of the folder, on the Python of the tests."""
        given = {
            "requirements": requirements,
            "index_options": ["--no-index", f"--find-links={self.links}"],
            "base_interpreter_path": os.fsencode(sys.executable),
            **more,
        }
        return EnvironmentSpec(pip=PipPackages(**given))  # type: ignore[arg-type]

    def provide(
        self, spec: EnvironmentSpec, locks: Sequence[EnvironmentLock] = ()
    ) -> ProvidedEnvironment:
        """What a new builder on this node gives."""
        builder = PipBuilder(EnvironmentCache(self.root), self.environ)
        work = builder.provide(spec, locks, log=self.log, progress=lambda doing: None)
        return asyncio.run(asyncio.wait_for(work, 100))

    def failure(self, spec: EnvironmentSpec) -> EnvironmentFailed:
        """The error that it gives instead."""
        with pytest.raises(EnvironmentFailed) as caught:
            self.provide(spec)
        return caught.value


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    for version in ("1.0", "2.0", "3.0b1"):
        make_wheel(bench.links, "ryleaf", version)
    make_wheel(bench.links, "rytop", "1.0", requires=["ryleaf"])
    return bench


def test_environment_without_packages_has_a_python_of_its_own(bench: Bench) -> None:
    provided = bench.provide(bench.spec(python_version=VERSION))

    python = os.fsdecode(provided.python)
    assert python.startswith(str(bench.root))
    subprocess.run(
        [python, "-c", "import sys; sys.exit(sys.prefix == sys.base_prefix)"], check=True
    )


def _version_of(provided: ProvidedEnvironment, module: str) -> str:
    code = f"import {module}; print({module}.VERSION)"
    return subprocess.check_output([provided.python, "-c", code], text=True).strip()


def test_lock_pins_versions_with_hashes_for_this_platform(bench: Bench) -> None:
    provided = bench.provide(bench.spec("rytop"))

    assert provided.lock is not None
    assert re.findall(r"^\S+", provided.lock.text, re.MULTILINE) == ["ryleaf==2.0", "rytop==1.0"]
    assert provided.lock.text.count("--hash=sha256:") == 2
    assert re.fullmatch(
        rf"{sys.platform}-\w+-cp{VERSION.replace('.', '')}t?", provided.lock.platform
    )
    assert provided.lock.create_time.seconds <= time.time()


def test_given_lock_counts_over_what_would_be_resolved_now(bench: Bench) -> None:
    older = bench.provide(bench.spec("rytop", "ryleaf<2")).lock
    assert older is not None

    provided = bench.provide(bench.spec("rytop"), [older])

    assert _version_of(provided, "ryleaf") == "1.0"
    assert provided.lock == older


def test_lock_of_another_platform_does_not_count(bench: Bench) -> None:
    other = EnvironmentLock(platform="linux-aarch64-cp38", text="ryleaf==1.0\n", hash="00")

    provided = bench.provide(bench.spec("ryleaf"), [other])

    assert _version_of(provided, "ryleaf") == "2.0"


def test_constraints_count_for_packages_that_come_with_others(bench: Bench) -> None:
    provided = bench.provide(bench.spec("rytop", constraints=["ryleaf<2"]))

    assert _version_of(provided, "ryleaf") == "1.0"


def test_previews_count_only_with_pre(bench: Bench) -> None:
    options = ["--no-index", f"--find-links={bench.links}", "--pre"]

    provided = bench.provide(bench.spec("ryleaf", index_options=options))

    assert _version_of(provided, "ryleaf") == "3.0b1"


def test_no_index_keeps_uv_from_the_index(bench: Bench) -> None:
    bench.environ["UV_DEFAULT_INDEX"] = "http://127.0.0.1:1/simple"

    error = bench.failure(bench.spec("rynowhere"))

    assert "not found in the folders and pages given by --find-links" in error.message


def test_index_that_cannot_be_reached_is_named(bench: Bench) -> None:
    bench.environ["UV_HTTP_RETRIES"] = "0"

    error = bench.failure(
        bench.spec("ryx", index_options=["--index-url=http://127.0.0.1:1/simple"])
    )

    assert "127.0.0.1:1 can't be reached" in error.message
    assert error.metadata["host"] == "127.0.0.1:1"


def test_settings_of_pip_in_the_agents_environment_count(bench: Bench) -> None:
    bench.environ |= {"PIP_FIND_LINKS": f"{bench.root} {bench.links}", "PIP_NO_INDEX": "1"}

    provided = bench.provide(bench.spec("ryleaf", index_options=[]))

    assert _version_of(provided, "ryleaf") == "2.0"


def test_settings_of_uv_count_over_those_of_pip() -> None:
    both = {"PIP_INDEX_URL": "https://pip.example/", "UV_INDEX_URL": "https://uv.example/"}

    found = variables({**both, "PIP_EXTRA_INDEX_URL": "https://a/ https://b/", "VIRTUAL_ENV": "/x"})

    assert "UV_DEFAULT_INDEX" not in found
    assert found["UV_INDEX_URL"] == "https://uv.example/"
    assert found["UV_EXTRA_INDEX_URL"] == "https://a/ https://b/"
    assert "VIRTUAL_ENV" not in found


def test_extra_index_is_asked_as_pip_does_unless_the_node_says_otherwise() -> None:
    pip = PipPackages(index_options=["--extra-index-url=https://x.example/"])

    plain = index_options(pip, {})
    strict = index_options(pip, {"UV_INDEX_STRATEGY": "first-index"})

    assert plain == (
        *("--extra-index-url", "https://x.example/"),
        *("--index-strategy", "unsafe-best-match"),
    )
    assert strict == ("--extra-index-url", "https://x.example/")


def test_last_index_counts_and_repeats_do_no_harm() -> None:
    options = ["--index-url=https://a/", "--pre", "--no-index", "--index-url=https://b/"]

    found = index_options(PipPackages(index_options=[*options, *options]), {"PIP_NO_INDEX": "1"})

    assert found == ("--no-index", "--index-url", "https://b/", "--prerelease", "allow")


@pytest.mark.parametrize("option", ["--trusted-host=x", "--index-url", "--find-links=", "-v"])
def test_options_that_are_not_served_are_named(option: str, bench: Bench) -> None:
    error = bench.failure(bench.spec("ryleaf", index_options=[option]))

    assert f"the pip option {option} is not served" in error.message


@pytest.mark.parametrize("line", ["-r /etc/passwd", " --index-url=https://x/", "-e ."])
def test_requirement_is_never_taken_for_an_option(line: str, bench: Bench) -> None:
    assert line in bench.failure(bench.spec("ryleaf", line)).message
    assert line in bench.failure(bench.spec("ryleaf", constraints=[line])).message


def test_version_that_does_not_exist_is_told_with_the_newest(bench: Bench) -> None:
    error = bench.failure(bench.spec("rytop", "ryleaf==9"))

    assert "there is no version ryleaf==9 for Python" in error.message
    assert error.metadata == {"package": "ryleaf", "newest": "2.0"}
    assert "ryleaf==2.0" in error.advice
    assert b"Failed: there is no version ryleaf==9" in bench.log.data


def test_package_replaced_after_it_was_locked_is_refused(bench: Bench) -> None:
    lock = bench.provide(bench.spec("ryleaf==1.0")).lock
    assert lock is not None
    (wheel,) = bench.links.glob("ryleaf-1.0-*")
    wheel.write_bytes(make_wheel(bench.root, "ryleaf", "1.0", python=">=3").read_bytes())
    elsewhere = Bench(bench.root)  # another node, without a cache
    elsewhere.links = bench.links

    with pytest.raises(EnvironmentFailed, match=r"ryleaf==1\.0 are not those that were locked"):
        elsewhere.provide(elsewhere.spec("ryleaf==1.0"), [lock])


def test_package_of_a_git_repository_is_pinned_by_its_commit(bench: Bench, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    sdist = make_sdist(tmp_path, "rygit", "1.0", PLAIN)
    subprocess.run(["tar", "-xzf", sdist, "-C", tmp_path], check=True)
    (tmp_path / "rygit-1.0").rename(repository)
    git = ["git", "-C", str(repository), "-c", "user.email=a@b", "-c", "user.name=n"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *arguments], check=True)
    commit = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True).strip()

    provided = bench.provide(bench.spec(f"rygit @ git+file://{repository}", "ryleaf"))

    assert provided.lock is not None
    assert f"@{commit}" in provided.lock.text
    assert _version_of(provided, "rygit") == "1.0"


def test_version_asked_for_is_taken_from_the_given_interpreter_where_it_fits(bench: Bench) -> None:
    provided = bench.provide(bench.spec("ryleaf", python_version=VERSION))

    code = "import sys; print(sys.base_prefix)"
    base = subprocess.check_output([provided.python, "-c", code], text=True).strip()
    assert os.path.samefile(base, sys.base_prefix)


@pytest.mark.parametrize("base", [b"", b"/nonexistent/venv/bin/python"])
def test_version_asked_for_is_found_without_the_given_interpreter(
    base: bytes, bench: Bench
) -> None:
    bench.environ["PATH"] = f"{sysconfig.get_config_var('BINDIR')}:/usr/bin:/bin"
    spec = bench.spec("ryleaf", python_version=VERSION, base_interpreter_path=base)

    provided = bench.provide(spec)

    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    assert subprocess.check_output([provided.python, "-c", code], text=True).strip() == VERSION


def test_shims_that_do_not_start_are_passed_over(bench: Bench, tmp_path: Path) -> None:
    shims = tmp_path / "shims"
    shims.mkdir()
    shim = shims / f"python{VERSION}"
    shim.write_text("#!/bin/sh\necho pyenv: command not found >&2\nexit 127\n")
    shim.chmod(0o755)
    bench.environ["PATH"] = f"{shims}:{sysconfig.get_config_var('BINDIR')}:/usr/bin:/bin"

    provided = bench.provide(
        bench.spec("ryleaf", python_version=VERSION, base_interpreter_path=b"")
    )

    assert _version_of(provided, "ryleaf") == "2.0"


def test_given_interpreter_that_is_gone_is_named_where_no_version_is_asked_for(
    bench: Bench,
) -> None:
    error = bench.failure(bench.spec("ryleaf", base_interpreter_path=b"/nonexistent/bin/python"))

    assert error.metadata["interpreter"] == "/nonexistent/bin/python"


def test_status_line_names_the_step(bench: Bench) -> None:
    make_sdist(bench.links, "rysource", "1.0", PLAIN)
    doing: list[str] = []
    builder = PipBuilder(EnvironmentCache(bench.root), bench.environ)

    work = builder.provide(bench.spec("rysource"), (), log=bench.log, progress=doing.append)
    asyncio.run(work)

    assert doing == [
        "resolving packages",
        "installing 1 package",
        "installing 1 package: Building rysource==1.0",
        "installing 1 package",
    ]


def test_python_that_is_not_here_is_told_with_those_that_are(bench: Bench) -> None:
    bench.environ |= {"UV_PYTHON_DOWNLOADS": "never"}

    error = bench.failure(bench.spec("ryleaf", python_version="3.99"))

    assert "Python 3.99 is not on this machine" in error.message
    assert VERSION in error.metadata["candidates"].split(", ")


def test_python_that_cannot_be_downloaded_is_told(bench: Bench) -> None:
    bench.environ |= {
        "PATH": str(bench.root),
        "UV_HTTP_RETRIES": "0",
        "UV_PYTHON_INSTALL_DIR": str(bench.root),
        "UV_PYTHON_INSTALL_MIRROR": "http://127.0.0.1:1",
    }

    error = bench.failure(bench.spec("ryleaf", python_version="3.14"))

    assert "Python 3.14 is not on this machine and could not be downloaded: 127.0.0.1:1" in (
        error.message
    )


@pytest.mark.parametrize("wanted", ["2.7", ">=3.9,<3.12", "3.11; rm", "--help"])
def test_python_version_that_is_none_is_refused(wanted: str, bench: Bench) -> None:
    error = bench.failure(bench.spec("ryleaf", python_version=wanted))

    assert "is no version of Python" in error.message


def test_settings_of_a_project_above_the_folder_do_not_count(bench: Bench) -> None:
    (bench.root.parent / "uv.toml").write_text('required-version = "==0.0.1"\n')

    provided = bench.provide(bench.spec("ryleaf"))

    assert _version_of(provided, "ryleaf") == "2.0"


def test_built_environment_is_given_within_a_millisecond(bench: Bench) -> None:
    spec = bench.spec("ryleaf")
    lock = bench.provide(spec).lock
    assert lock is not None
    builder = PipBuilder(EnvironmentCache(bench.root), bench.environ)

    async def fastest_s() -> float:
        taken = []
        for _ in range(20):
            began = time.perf_counter()
            await builder.provide(spec, [lock], log=bench.log, progress=lambda doing: None)
            taken.append(time.perf_counter() - began)
        return min(taken)

    assert asyncio.run(fastest_s()) < 0.001


@pytest.mark.slow
def test_package_of_the_real_index_is_installed(bench: Bench) -> None:
    bench.environ = {**os.environ, "UV_CACHE_DIR": bench.environ["UV_CACHE_DIR"]}

    provided = bench.provide(bench.spec("six>=1.16", index_options=[]))

    code = "import six; print(six.__version__)"
    assert subprocess.check_output([provided.python, "-c", code], text=True) >= "1.16"


def test_damaged_environment_is_built_again_without_the_damaged_files_of_the_cache(
    bench: Bench,
) -> None:
    first = bench.provide(bench.spec("ryleaf"))
    (module,) = bench.root.glob("*/lib/python*/site-packages/ryleaf.py")
    os.truncate(module, 3)  # a link to the same file in uv's cache, where there are hard links
    assert first.lock is not None

    again = bench.provide(bench.spec("ryleaf"), [first.lock])

    code = "import ryleaf; print(ryleaf.VERSION)"
    said = subprocess.run([again.python, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "2.0\n"
