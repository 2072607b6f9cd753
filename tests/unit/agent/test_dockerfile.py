"""Reading a Dockerfile, and what a failed build of one says: no engine is asked."""

from __future__ import annotations

import pytest

from runyard_agent.environments.docker_diagnosis import explain_build
from runyard_agent.environments.dockerfile import bases, copying, instructions, with_bases

TEXT = """\
# syntax is no directive here
ARG VERSION=3.12
ARG TAG=${VERSION}-slim
FROM python:$TAG AS base

RUN apt-get update \\
    # a comment within
    && apt-get install \\

    gcc
copy --from=base /x /y
FROM --platform=linux/amd64 base
FROM scratch
FROM other:${UNKNOWN}
ADD https://example.test/a /a
"""


def test_instructions_have_their_lines() -> None:
    found = [(one.line, one.keyword) for one in instructions(TEXT)]

    assert found == [
        *((2, "ARG"), (3, "ARG"), (4, "FROM"), (6, "RUN"), (11, "COPY"), (12, "FROM")),
        *((13, "FROM"), (14, "FROM"), (15, "ADD")),
    ]
    assert instructions(TEXT)[3].rest == "apt-get update && apt-get install gcc"


def test_escape_of_a_directive() -> None:
    text = "# escape=`\nFROM a\nRUN x `\n  y\nRUN z\\\n"

    assert [one.text for one in instructions(text)] == ["FROM a", "RUN x y", "RUN z\\"]


def test_bases_are_the_images_of_others() -> None:
    assert bases(TEXT) == ["python:3.12-slim"]
    assert bases("FROM ${X:-a:1}\nFROM b@sha256:0\nFROM b@sha256:0\n") == ["a:1", "b@sha256:0"]


def test_bases_are_replaced_and_lines_stay() -> None:
    changed = with_bases(TEXT, {"python:3.12-slim": "python@sha256:1"})

    assert "FROM python@sha256:1 AS base\n" in changed
    assert changed.count("\n") == TEXT.count("\n")
    assert with_bases(TEXT, {}) == TEXT


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("FROM a\nCOPY . /app", 2),
        ("FROM a\nADD x.tar /", 2),
        ("FROM a\nADD https://e.test/x y /", 2),
        ("FROM a\nCOPY --chown=1:1 a b /", 2),
        ("FROM a\nCOPY --from=b x /", None),
        ("FROM a\nADD https://e.test/x /", None),
        ("FROM a\nRUN cp COPY x", None),
        ("", None),
    ],
)
def test_knows_whether_files_are_copied(text: str, line: int | None) -> None:
    found = copying(text)

    assert (found.line if found else None) == line


@pytest.mark.parametrize("garbage", ["\\", "FROM", "ARG =", "\0", "FROM \\\n a", "$", "# escape="])
def test_garbage_is_read(garbage: str) -> None:
    assert with_bases(garbage, {}) == garbage
    bases(garbage)
    copying(garbage)


def fault(said: str, step: int = 0, tail: tuple[str, ...] = ()) -> dict[str, object]:
    return {"kind": "build", "said": said, "step": step, "tail": tail}


def test_failed_line_is_named_with_its_last_words() -> None:
    said = "The command '/bin/sh -c apt-get' returned a non-zero code: 100"

    found = explain_build(
        fault(said, 4, ("---> Running in 1", "\x1b[91mE: no such package", "\x1b[0m")), TEXT
    )

    assert found.message == (
        "Dockerfile line 6 failed (RUN apt-get update && apt-get install gcc): it ended with 100;"
        " it said: E: no such package"
    )
    assert found.metadata["line"] == "6"


def test_line_that_cannot_be_read_is_named() -> None:
    said = "dockerfile parse error line 2: unknown instruction: RUNN"

    found = explain_build(fault(said), "FROM a\nRUNN x\n")

    assert found.message == "Dockerfile line 2 can't be read: unknown instruction: RUNN"
    assert found.advice == "correct it: RUNN x"


def test_what_only_buildkit_can_is_said() -> None:
    said = "the --mount option requires BuildKit. Refer to the documentation"

    found = explain_build(fault(said), "FROM a\nRUN --mount=type=cache,target=/c x\n")

    assert "Dockerfile line 2 needs BuildKit" in found.message
    assert "--mount" in found.advice


def test_full_disk_is_said_with_the_line_that_found_it() -> None:
    found = explain_build(fault("write /x: no space left on device", 2), TEXT)

    assert found.message.startswith(
        "the disk of the Docker engine is full: Dockerfile line 3 (ARG "
    )
