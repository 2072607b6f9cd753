"""Rules that hold for every test: a clean environment, no skip in CI, one shared package cache."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from support.conda_channel import CondaChannel, make_channel
from support.docker_engine import DockerEngine, start_engine

# What a shell may carry that would change what is tested. PYTHONUNBUFFERED hides missing flushes.
LEAKY_VARIABLES = (
    "CONDA_PREFIX",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONPATH",
    "PYTHONUNBUFFERED",
    "VIRTUAL_ENV",
    "XDG_DATA_HOME",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
)
LEAKY_PREFIXES = ("RUNYARD_", "AZUREML_")

# No test is timed: a busy machine makes one slow, and benchmarks/ measure.
settings.register_profile("untimed", settings(), deadline=None)
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def clean_environ(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Gives each test an empty HOME and none of the shell's settings."""
    for name in list(os.environ):
        if name in LEAKY_VARIABLES or name.startswith(LEAKY_PREFIXES):
            monkeypatch.delenv(name)
    cache = Path(os.environ.get("UV_CACHE_DIR") or Path.home() / ".cache" / "uv")
    monkeypatch.setenv("UV_CACHE_DIR", str(cache))
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="session")
def conda_channel(tmp_path_factory: pytest.TempPathFactory) -> CondaChannel:
    """A channel on disk, made once: packing CPython takes a second."""
    folder = tmp_path_factory.mktemp("channel")
    return make_channel(folder, tmp_path_factory.mktemp("python"))


@pytest.fixture(scope="session")
def docker_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerEngine]:
    """A Docker engine with the images of the tests, started once."""
    yield from start_engine(tmp_path_factory.mktemp("docker"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turns a skip into a failure in CI, where every component must be there."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where nothing may be lacking: {report.longrepr}"
    return report
