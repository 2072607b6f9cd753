"""Outputs as uv 0.13.9 and 0.5.0 printed them."""

# ruff: noqa: E501, RUF001 - the outputs are kept as they were

from __future__ import annotations

import pytest

from runyard_agent.environments.diagnosis import diagnose

NEW_NOT_FOUND = """\
error: No solution found when resolving dependencies
  cause: Because gonepkg was not found in the provided package locations and all versions of \
needsgone depend on gonepkg>=1, we can conclude that all versions of needsgone cannot be used.
         And because you require needsgone, we can conclude that your requirements are unsatisfiable.
"""
OLD_NOT_FOUND = """\
  × No solution found when resolving dependencies:
  ╰─▶ Because gonepkg was not found in the package registry and
      needsgone==1.0 depends on gonepkg>=1, we can conclude that
      needsgone==1.0 cannot be used.
"""
NO_VERSION = """\
error: No solution found when resolving dependencies
  cause: Because there is no version of six==99 and you require six==99, we can conclude that your \
requirements are unsatisfiable.
"""
ONLY_ONE = """\
  × No solution found when resolving dependencies:
  ╰─▶ Because only leaf<=2.0 is available and mid==1.0 depends on leaf>5, we
      can conclude that mid==1.0 cannot be used.
"""
ONLY_RANGES = """\
error: No solution found when resolving dependencies
  cause: Because only the following versions of leaf are available:
             leaf<=1
             leaf>=2
         and you require leaf>1,<2, we can conclude that your requirements are unsatisfiable.
"""
NEW_CONFLICT = """\
error: No solution found when resolving dependencies
  cause: Because all versions of top depend on leaf<2 and you require top, we can conclude that you \
require leaf<2.
         And because you require leaf==2.0, we can conclude that your requirements are unsatisfiable.
"""
OLD_CONFLICT = """\
  × No solution found when resolving dependencies:
  ╰─▶ Because only top==1.0 is available and top==1.0 depends on leaf<2, we
      can conclude that all versions of top depend on leaf<2.
      And because you require top and leaf==2.0, we can conclude that your
      requirements are unsatisfiable.
"""
CONFLICT_BESIDE_PYTHON = """\
error: No solution found when resolving dependencies
  cause: Because scipy>=1.15.0rc1,<=1.15.3 depends on numpy>=1.23.5,<2.5 and scipy>=1.16.0rc1,<=1.17.1 \
depends on numpy>=1.25.2, we can conclude that scipy>=1.15.0rc1,<=1.17.1 depends on numpy>=1.23.5. (1)

         Because the current Python version (3.11.7) does not satisfy Python>=3.12 and scipy>=1.18.0rc1 \
depends on Python>=3.12, we can conclude that scipy>=1.18.0rc1 cannot be used.
         And because we know from (1) that scipy>=1.15.0rc1,<=1.17.1 depends on numpy>=1.23.5, we can \
conclude that scipy>=1.15.0rc1 depends on numpy>=1.23.5.
         And because scipy>=1.14.0,<=1.14.1 depends on numpy>=1.23.5,<2.3, we can conclude that \
scipy>=1.14.0 depends on numpy>=1.23.5.
         And because you require numpy<1.20 and scipy>=1.14, we can conclude that your requirements are \
unsatisfiable.
"""
OTHER_PYTHON = """\
error: No solution found when resolving dependencies
  cause: Because newpy==1.0 requires Python >=3.14 and only newpy==1.0 is available, we can conclude \
that all versions of newpy cannot be used.
"""
NO_WHEEL = """\
error: No solution found when resolving dependencies
  cause: Because tensorflow==1.15.0 has no wheels with a matching Python ABI tag (e.g., `cp311`) and \
you require tensorflow==1.15, we can conclude that your requirements are unsatisfiable.

hint: You require CPython 3.11 (`cp311`), but we only found wheels for `tensorflow` (v1.15.0)
"""
NEW_BUILD = """\
   Building boom==1.0
error: Failed to build `boom==1.0`
  cause: The build backend returned an error
  cause: Call to `backend.build_wheel` failed (exit status: 1)

         [stderr]
         cc1: all warnings being treated as errors
         gcc: command not found

hint: Build failures usually indicate a problem with the package or the build environment
"""
OLD_BUILD = """\
  × Failed to download and build `boom==1.0`
  ╰─▶ Build backend failed to build wheel through `build_wheel` (exit status:
      1)

      [stderr]
      gcc: command not found

"""
UNREACHABLE = """\
error: Request failed after 3 retries in 8.5s
  cause: Failed to fetch: https://nohost.invalid/simple/six/
  cause: error sending request for url (https://nohost.invalid/simple/six/)
  cause: client error (Connect)
  cause: dns error
  cause: failed to lookup address information: Name or service not known
"""
OLD_UNREACHABLE = """\
error: Failed to fetch: `http://127.0.0.1:1/simple/six/`
  Caused by: Request failed after 3 retries
  Caused by: Connection refused (os error 111)
"""
UNAUTHORIZED = """\
  × No solution found when resolving dependencies:
  ╰─▶ Because six was not found in the package registry and you require six,
      we can conclude that your requirements are unsatisfiable.

      hint: An index URL (http://127.0.0.1:38181/simple) could not be queried
      due to a lack of valid authentication credentials (401 Unauthorized).
"""
FORBIDDEN = """\
error: No solution found when resolving dependencies
  cause: Because six was not found in the package registry and you require six, we can conclude

hint: An index (http://127.0.0.1:34077/simple) returned a 403 Forbidden error. Check that the index \
URL is correct and the credentials are valid.
"""
PROXY = """\
error: Failed to fetch: http://127.0.0.1:42421/simple/six/
  cause: HTTP status client error (407 Proxy Authentication Required) for url (http://127.0.0.1:42421/x)
"""
NO_SPACE = """\
error: Failed to install: numpy-2.4.6-cp311-cp311-manylinux_2_28_x86_64.whl (numpy==2.4.6)
  cause: Failed to copy to `/small/e/lib/python3.11/site-packages/numpy.libs/libscipy.so`
  cause: failed to copy file: No space left on device (os error 28)
"""
MISMATCH = """\
error: Failed to download `leaf==1.0`
  cause: Hash mismatch for `leaf==1.0`

         Expected:
           sha256:381a
"""
UNPARSED = """\
error: Couldn't parse requirement in `-` at position 0
  cause: Expected one of `@`, `(`, `<`, `=`, `>`, `~`, `!`, `;`, found `s`
         no such
            ^
"""
GIT = """\
error: Failed to download and build `x @ git+https://127.0.0.1:1/x`
  cause: Git operation failed
  cause: process didn't exit successfully: `/usr/bin/git fetch` (exit status: 128)
         --- stderr
         fatal: unable to access 'https://127.0.0.1:1/x/': Couldn't connect to server
"""
OFFLINE = """\
error: No solution found when resolving dependencies
  cause: Because six was not found in the cache and you require six, we can conclude that

hint: Packages were unavailable because the network was disabled.
"""


@pytest.mark.parametrize(
    ("output", "package", "message"),
    [
        (NEW_NOT_FOUND, "gonepkg", "not found in the folders and pages given by --find-links"),
        (OLD_NOT_FOUND, "gonepkg", '"gonepkg" was not found in the package index (needed by needs'),
        (NO_VERSION, "six", "there is no version six==99 for Python 3.11.7"),
        (ONLY_ONE, "leaf", "leaf>5 for Python 3.11.7 (needed by mid); available: leaf<=2.0"),
        (
            ONLY_RANGES,
            "leaf",
            "no version leaf>1,<2 for Python 3.11.7; available: leaf<=1 and leaf",
        ),
        (
            NEW_CONFLICT,
            "leaf",
            "contradict each other: Because all versions of top depend on leaf<2",
        ),
        (
            OLD_CONFLICT,
            "leaf",
            "contradict each other: top and leaf==2.0 (all versions of top depend on leaf<2)",
        ),
        (
            CONFLICT_BESIDE_PYTHON,
            "numpy",
            "contradict each other: numpy<1.20 and scipy>=1.14 (scipy>=1.14.0 depends on numpy>=",
        ),
        (OTHER_PYTHON, "newpy", "newpy==1.0 needs Python >=3.14; this environment has 3.11.7"),
        (
            NO_WHEEL,
            "tensorflow",
            "tensorflow==1.15.0 has no wheel for this platform and Python 3.11",
        ),
        (NEW_BUILD, "boom", "boom==1.0 could not be built from source: gcc: command not found"),
        (OLD_BUILD, "boom", "boom==1.0 could not be built from source: gcc: command not found"),
        (MISMATCH, "leaf", "the files of leaf==1.0 are not those that were locked"),
        (OFFLINE, "six", "six is not in uv's cache, and UV_OFFLINE forbids"),
    ],
)
def test_package_at_fault_is_named(output: str, package: str, message: str) -> None:
    fault = diagnose(output, "3.11.7")

    assert message in fault.message
    assert fault.metadata["package"] == package
    assert fault.advice


@pytest.mark.parametrize(
    ("output", "message", "metadata"),
    [
        (
            UNREACHABLE,
            "nohost.invalid can't be reached: failed to lookup",
            {"host": "nohost.invalid"},
        ),
        (
            OLD_UNREACHABLE,
            "127.0.0.1:1 can't be reached: Connection refused",
            {"host": "127.0.0.1:1"},
        ),
        (
            UNAUTHORIZED,
            "refuses access: 401 Unauthorized",
            {"url": "http://127.0.0.1:38181/simple"},
        ),
        (FORBIDDEN, "refuses access: 403 Forbidden", {"url": "http://127.0.0.1:34077/simple"}),
        (PROXY, "refuses access: 407 Proxy", {"url": "http://127.0.0.1:42421/x"}),
        (NO_SPACE, "the disk is full (while writing /small/e/lib", {}),
        (UNPARSED, "a requirement can't be read: no such", {"requirement": "no such"}),
        (GIT, "can't be fetched: fatal: unable to access 'https://127.0.0.1:1/x/'", {}),
    ],
)
def test_cause_beside_the_packages_is_named(
    output: str, message: str, metadata: dict[str, str]
) -> None:
    fault = diagnose(output, "3.11.7")

    assert message in fault.message
    assert metadata.items() <= fault.metadata.items()
    assert fault.advice


def test_what_is_not_known_is_shown_as_it_stands() -> None:
    fault = diagnose(
        "warning: x\n\x1b[31merror\x1b[39m: the moon is full\n  cause: tides\n", "3.11"
    )

    assert fault.message == "uv failed: the moon is full cause: tides"
    assert "logs/environment.txt" in fault.advice


def test_silence_is_told_too() -> None:
    assert diagnose("", "3.11").message == "uv failed: it said nothing"
